//! The one that writes: what the hub appends is committed as a whole before it is answered. It
//! blocks its thread, which is nobody else's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::warn;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior};

use super::lock::Lock;
use super::schema::Opened;
use super::watch::FileWatch;
use super::{Options, retention, schema};
use crate::domain::{Draft, Epoch, RoomName, Seq, Timestamp};
use crate::log::{Append, LogError, Placed, Probe};
use crate::metrics::Limit;

/// About the most that one append adds to the file, in bytes.
const APPEND_BYTES: u64 = 1024 * 1024;

/// How many rooms' numbers are remembered.
const ROOMS_MAX: usize = 65_536;

/// How long it is believed that what worked works.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The actor that writes the journal.
pub struct Writer {
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    head: Seq,
    rooms: HashMap<RoomName, i64>,
    /// What all messages count for that are not pruned, in bytes.
    pub(super) kept_bytes: i64,
    /// When something was last committed.
    committed: Option<Instant>,
    /// Whether the connection is to be made anew before it is used again.
    broken: bool,
    pub(super) options: Options,
    /// The last room that was looked at for something to prune.
    pub(super) pruned: i64,
    lock: Option<Arc<Lock>>,
    file: FileWatch,
}

impl Actor for Writer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_later(self.options.prune_interval, Self::prune);
    }
}

/// Ends in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Close;

impl Handler<Append> for Writer {
    type Result = ();

    fn handle(&mut self, Append { drafts, answer }: Append, _: &mut Self::Context) {
        let outcome = self.append(&drafts);
        answer.give(drafts, outcome);
    }
}

impl Handler<Probe> for Writer {
    type Result = Result<(), LogError>;

    fn handle(&mut self, _: Probe, _: &mut Self::Context) -> Self::Result {
        self.file.check()?;
        match self.committed {
            Some(at) if at.elapsed() < PROBE_INTERVAL => Ok(()),
            // No message; but what the file says of itself is written anew all the same.
            Some(_) | None => self.append(&[]).map(|_| ()),
        }
    }
}

impl Handler<Close> for Writer {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        if let Err(error) = self.close() {
            warn!("the journal's end is not in order: {error}");
        }
        // Nothing is written any more, and whoever waits for this may open the file again.
        self.lock = None;
        ctx.stop();
    }
}

impl Writer {
    pub(super) fn new(opened: Opened, options: Options, lock: Option<Arc<Lock>>) -> Self {
        let Opened { connection, epoch, head, kept_bytes } = opened;
        Self {
            connection,
            epoch,
            head,
            rooms: HashMap::new(),
            kept_bytes,
            committed: None,
            broken: false,
            file: FileWatch::start(&options.path),
            options,
            pruned: 0,
            lock,
        }
    }

    pub(super) fn append(&mut self, drafts: &[Draft]) -> Result<Vec<Placed>, LogError> {
        self.mend()?;
        let mut batch = Batch {
            head: self.head,
            at: Timestamp::now(),
            known: &self.rooms,
            found: HashMap::new(),
            bytes: 0,
            over: self
                .options
                .keep_bytes
                .map(|most| self.kept_bytes - i64::try_from(most).unwrap_or(i64::MAX)),
        };
        let written = batch.write(&mut self.connection, drafts);
        let Batch { head, found, bytes, .. } = batch;
        match written {
            Ok(placed) => {
                self.kept_bytes += bytes;
                self.head = head;
                self.committed = Some(Instant::now());
                if self.rooms.len() + found.len() > ROOMS_MAX {
                    self.rooms.clear();
                }
                self.rooms.extend(found);
                Ok(placed)
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Counts what all messages count for, in a file that was just opened.
    pub(super) fn count_bytes(&mut self) -> Result<(), LogError> {
        let counted = schema::kept_bytes(&self.connection);
        self.kept_bytes = counted.map_err(|error| self.failed(&error))?;
        Ok(())
    }

    /// Marks the end as one in order, unless a fault has left that in doubt.
    pub(super) fn close(&mut self) -> Result<(), LogError> {
        self.mend()?;
        schema::close(&self.connection).map_err(|error| self.failed(&error))
    }

    /// Makes the connection anew, if there was a fault that it may not have survived.
    pub(super) fn mend(&mut self) -> Result<(), LogError> {
        if !self.broken {
            return self.file.check_now_and_then();
        }
        match schema::reopen(&self.options.path, self.options.sync, self.options.max_bytes) {
            Ok((connection, Some(epoch), head)) if epoch == self.epoch && head >= self.head => {
                // What failed may have been committed all the same: its places are taken.
                (self.connection, self.head, self.broken) = (connection, head, false);
                self.file.begin();
                self.count_bytes()
            }
            Ok(_) => Err(LogError::Failed("the database was replaced; restart the server".into())),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Notes a fault, and says what it is to the hub.
    pub(super) fn failed(&mut self, error: &rusqlite::Error) -> LogError {
        let code = error.sqlite_error_code();
        let passes = [ErrorCode::DiskFull, ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked];
        let is_busy = code.is_some_and(|code| passes.contains(&code));
        self.broken |= !is_busy;
        if code == Some(ErrorCode::DiskFull) && self.is_at_limit() {
            self.options.metrics.count_limit(Limit::MaxDbBytes);
        }
        if is_busy || code == Some(ErrorCode::SystemIoFailure) {
            LogError::Busy(error.to_string())
        } else {
            LogError::Failed(error.to_string())
        }
    }
}

impl Writer {
    /// Whether the file is about as large as it may be, and not only the disk full.
    fn is_at_limit(&self) -> bool {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get(0));
        let (pages, page): (i64, i64) =
            (pragma("page_count").unwrap_or_default(), pragma("page_size").unwrap_or_default());
        let bytes = u64::try_from(pages * page).unwrap_or_default();
        self.options.max_bytes.is_some_and(|most| bytes + APPEND_BYTES > most)
    }
}

/// One append under way. What it finds out counts only once it is committed.
struct Batch<'a> {
    head: Seq,
    at: Timestamp,
    known: &'a HashMap<RoomName, i64>,
    found: HashMap<RoomName, i64>,
    /// By how much all messages count for more, in bytes.
    bytes: i64,
    /// By how much they count for more than they may before it, or for less.
    over: Option<i64>,
}

impl Batch<'_> {
    fn write(
        &mut self,
        connection: &mut Connection,
        drafts: &[Draft],
    ) -> rusqlite::Result<Vec<Placed>> {
        let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut placed = Vec::with_capacity(drafts.len());
        for in_room in drafts.chunk_by(|a, b| a.room == b.room) {
            let room = self.room(&change, &in_room[0].room)?;
            let before = self.head;
            let mut bytes = 0;
            for draft in in_room {
                let placed_at = self.place(&change, room, draft)?;
                if let Placed::New(..) = placed_at {
                    let text = i64::try_from(draft.text.as_str().len()).unwrap_or(i64::MAX);
                    bytes += text + schema::MESSAGE_BYTES;
                }
                placed.push(placed_at);
            }
            let added = integer(self.head) - integer(before);
            change
                .prepare_cached(
                    "UPDATE rooms SET messages = messages + ?2, bytes = bytes + ?3 WHERE id = ?1",
                )?
                .execute((room, added, bytes))?;
            self.bytes += bytes;
        }
        if let Some(excess) = self.over.map(|over| over + self.bytes).filter(|over| *over > 0) {
            self.bytes -= retention::shed(&change, excess, self.at)?;
        }
        schema::set_meta(&change, "head", integer(self.head))?;
        change.commit()?;
        Ok(placed)
    }

    fn room(&mut self, change: &Transaction<'_>, name: &RoomName) -> rusqlite::Result<i64> {
        if let Some(&id) = self.known.get(name).or_else(|| self.found.get(name)) {
            return Ok(id);
        }
        let select = "SELECT id FROM rooms WHERE name = ?1";
        let known = change.prepare_cached(select)?;
        let id = { known }.query_row([name.as_str()], |row| row.get(0)).optional()?;
        let id = match id {
            Some(id) => id,
            None => {
                change
                    .prepare_cached("INSERT INTO rooms (name) VALUES (?1)")?
                    .execute([name.as_str()])?;
                change.last_insert_rowid()
            }
        };
        self.found.insert(name.clone(), id);
        Ok(id)
    }

    fn place(
        &mut self,
        change: &Transaction<'_>,
        room: i64,
        draft: &Draft,
    ) -> rusqlite::Result<Placed> {
        let origin = draft.origin.as_ref();
        let author = origin.map(|origin| origin.author.as_bytes().as_slice());
        let id = origin.map(|origin| origin.id.as_str());
        if id.is_some() {
            let select = "SELECT seq FROM messages WHERE room = ?1 AND author = ?2 AND id = ?3";
            let mut select = change.prepare_cached(select)?;
            let said = select.query_row((room, author, id), |row| row.get::<_, i64>(0));
            if let Some(seq) = said.optional()? {
                return Ok(Placed::Duplicate(Seq::new(seq.unsigned_abs())));
            }
        }
        self.head = self.head.next();
        let insert = "INSERT INTO messages (room, seq, at, nick, text, attributed, author, id)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        change.prepare_cached(insert)?.execute((
            room,
            integer(self.head),
            i64::try_from(self.at.millis()).unwrap_or(i64::MAX),
            draft.nick.as_str(),
            draft.text.as_str(),
            draft.attributed,
            author,
            id,
        ))?;
        Ok(Placed::New(self.head, self.at))
    }
}

/// SQLite's integers have a sign.
pub(super) fn integer(seq: Seq) -> i64 {
    i64::try_from(seq.get()).unwrap_or(i64::MAX)
}
