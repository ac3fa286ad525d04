//! The writer of the journal. It commits each append of the hub in one transaction, and then
//! answers. It also prunes: see [`retention`]. It has a thread of its own, which it blocks.

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

/// The approximate maximum by which one append grows the file, in bytes.
const FILE_GROWTH_MAX: u64 = 1024 * 1024;

/// The maximum number of rooms whose ids are cached.
const ROOMS_MAX: usize = 65_536;

/// A probe succeeds without a test if the last commit is not older than this.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The actor that writes the journal.
pub struct Writer {
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    head: Seq,
    /// The ids of rooms, as far as they are cached.
    room_ids: HashMap<RoomName, i64>,
    /// The size of all messages that are not pruned, in bytes, as `keep_bytes` counts them.
    pub(super) kept_bytes: i64,
    /// The time of the last commit of an append.
    committed: Option<Instant>,
    /// Whether the connection must be reopened before it is used again.
    needs_reopen: bool,
    pub(super) options: Options,
    /// The id of the last room that the current pruning pass has finished.
    pub(super) prune_cursor: i64,
    lock: Option<Arc<Lock>>,
    file: FileWatch,
}

impl Actor for Writer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_later(self.options.prune_interval, Self::prune);
    }
}

/// Closes the journal and stops the writer.
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
            // An append without messages still writes `head`, which tests a commit.
            Some(_) | None => self.append(&[]).map(|_| ()),
        }
    }
}

impl Handler<Close> for Writer {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        if let Err(error) = self.close() {
            warn!("cannot close the journal cleanly: {error}");
        }
        // The caller may reopen the file as soon as it has the answer.
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
            room_ids: HashMap::new(),
            kept_bytes,
            committed: None,
            needs_reopen: false,
            file: FileWatch::new(&options.path),
            options,
            prune_cursor: 0,
            lock,
        }
    }

    /// Commits messages in one transaction. Returns the outcome for each, in the same order.
    pub(super) fn append(&mut self, drafts: &[Draft]) -> Result<Vec<Placed>, LogError> {
        self.ensure_usable()?;
        let mut append = AppendTransaction {
            head: self.head,
            at: Timestamp::now(),
            cached_ids: &self.room_ids,
            new_ids: HashMap::new(),
            bytes_change: 0,
            initial_excess: self
                .options
                .keep_bytes
                .map(|most| self.kept_bytes - i64::try_from(most).unwrap_or(i64::MAX)),
        };
        let committed = append.commit(&mut self.connection, drafts);
        let AppendTransaction { head, new_ids, bytes_change, .. } = append;
        match committed {
            Ok(placed) => {
                self.kept_bytes += bytes_change;
                self.head = head;
                self.committed = Some(Instant::now());
                if self.room_ids.len() + new_ids.len() > ROOMS_MAX {
                    self.room_ids.clear();
                }
                self.room_ids.extend(new_ids);
                Ok(placed)
            }
            Err(error) => Err(self.record_error(&error)),
        }
    }

    /// Reads `kept_bytes` from a file that was just reopened.
    pub(super) fn load_kept_bytes(&mut self) -> Result<(), LogError> {
        let kept_bytes = schema::kept_bytes(&self.connection);
        self.kept_bytes = kept_bytes.map_err(|error| self.record_error(&error))?;
        Ok(())
    }

    /// Marks the file as cleanly closed, unless the file cannot be reopened after an error.
    pub(super) fn close(&mut self) -> Result<(), LogError> {
        self.ensure_usable()?;
        schema::close(&self.connection).map_err(|error| self.record_error(&error))
    }

    /// Reopens the file after an error that may have left the connection unusable. Otherwise checks
    /// from time to time that the file is still the one that was opened.
    pub(super) fn ensure_usable(&mut self) -> Result<(), LogError> {
        if !self.needs_reopen {
            return self.file.check_if_due();
        }
        match schema::reopen(&self.options.path, self.options.sync, self.options.max_bytes) {
            Ok((connection, Some(epoch), head)) if epoch == self.epoch && head >= self.head => {
                // An append that returned an error may still have been committed. Taking the head
                // of the file makes sure that its sequence numbers are not assigned again.
                (self.connection, self.head, self.needs_reopen) = (connection, head, false);
                self.file.reset();
                self.load_kept_bytes()
            }
            Ok(_) => {
                Err(LogError::Failed("the history file was replaced; restart the server".into()))
            }
            Err(error) => Err(self.record_error(&error)),
        }
    }

    /// Records an error of SQLite, and converts it for the hub.
    pub(super) fn record_error(&mut self, error: &rusqlite::Error) -> LogError {
        let code = error.sqlite_error_code();
        let temporary = [ErrorCode::DiskFull, ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked];
        let keeps_connection = code.is_some_and(|code| temporary.contains(&code));
        self.needs_reopen |= !keeps_connection;
        if code == Some(ErrorCode::DiskFull) && self.is_at_limit() {
            self.options.metrics.count_limit(Limit::MaxDbBytes);
        }
        if keeps_connection || code == Some(ErrorCode::SystemIoFailure) {
            LogError::Busy(error.to_string())
        } else {
            LogError::Failed(error.to_string())
        }
    }
}

impl Writer {
    /// Returns whether the file has about its maximum size. After `DiskFull`, false means that the
    /// disk is full.
    fn is_at_limit(&self) -> bool {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get(0));
        let (pages, page): (i64, i64) =
            (pragma("page_count").unwrap_or_default(), pragma("page_size").unwrap_or_default());
        let bytes = u64::try_from(pages * page).unwrap_or_default();
        self.options.max_bytes.is_some_and(|most| bytes + FILE_GROWTH_MAX > most)
    }
}

/// The transaction of one append. After the commit, the writer takes over the new values.
struct AppendTransaction<'a> {
    head: Seq,
    at: Timestamp,
    cached_ids: &'a HashMap<RoomName, i64>,
    /// The ids of rooms that were not cached.
    new_ids: HashMap<RoomName, i64>,
    /// The change of the writer's `kept_bytes`.
    bytes_change: i64,
    /// `kept_bytes` minus `keep_bytes` before the append. Negative below the limit, `None` without
    /// one.
    initial_excess: Option<i64>,
}

impl AppendTransaction<'_> {
    fn commit(
        &mut self,
        connection: &mut Connection,
        drafts: &[Draft],
    ) -> rusqlite::Result<Vec<Placed>> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut placed = Vec::with_capacity(drafts.len());
        for in_room in drafts.chunk_by(|a, b| a.room == b.room) {
            let room = self.room_id(&transaction, &in_room[0].room)?;
            let before = self.head;
            let mut bytes = 0;
            for draft in in_room {
                let outcome = self.insert(&transaction, room, draft)?;
                if let Placed::New(..) = outcome {
                    let text = i64::try_from(draft.text.as_str().len()).unwrap_or(i64::MAX);
                    bytes += text + schema::MESSAGE_BYTES;
                }
                placed.push(outcome);
            }
            let added = integer(self.head) - integer(before);
            transaction
                .prepare_cached(
                    "UPDATE rooms SET messages = messages + ?2, bytes = bytes + ?3 WHERE id = ?1",
                )?
                .execute((room, added, bytes))?;
            self.bytes_change += bytes;
        }
        let excess = self.initial_excess.map(|excess| excess + self.bytes_change);
        if let Some(excess) = excess.filter(|excess| *excess > 0) {
            self.bytes_change -= retention::prune_largest_rooms(&transaction, excess, self.at)?;
        }
        schema::set_meta(&transaction, "head", integer(self.head))?;
        transaction.commit()?;
        Ok(placed)
    }

    /// Returns the id of a room. Inserts the room if it is new.
    fn room_id(&mut self, transaction: &Transaction<'_>, name: &RoomName) -> rusqlite::Result<i64> {
        if let Some(&id) = self.cached_ids.get(name).or_else(|| self.new_ids.get(name)) {
            return Ok(id);
        }
        let select = transaction.prepare_cached("SELECT id FROM rooms WHERE name = ?1")?;
        let id = { select }.query_row([name.as_str()], |row| row.get(0)).optional()?;
        let id = match id {
            Some(id) => id,
            None => {
                transaction
                    .prepare_cached("INSERT INTO rooms (name) VALUES (?1)")?
                    .execute([name.as_str()])?;
                transaction.last_insert_rowid()
            }
        };
        self.new_ids.insert(name.clone(), id);
        Ok(id)
    }

    /// Inserts a message, unless the room has a message of the same author with the same id.
    fn insert(
        &mut self,
        transaction: &Transaction<'_>,
        room: i64,
        draft: &Draft,
    ) -> rusqlite::Result<Placed> {
        let origin = draft.origin.as_ref();
        let author = origin.map(|origin| origin.author.as_bytes().as_slice());
        let id = origin.map(|origin| origin.id.as_str());
        if id.is_some() {
            let select = "SELECT seq FROM messages WHERE room = ?1 AND author = ?2 AND id = ?3";
            let mut select = transaction.prepare_cached(select)?;
            let duplicate = select.query_row((room, author, id), |row| row.get::<_, i64>(0));
            if let Some(seq) = duplicate.optional()? {
                return Ok(Placed::Duplicate(Seq::new(seq.unsigned_abs())));
            }
        }
        self.head = self.head.next();
        let insert = "INSERT INTO messages (room, seq, at, nick, text, attributed, author, id)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        transaction.prepare_cached(insert)?.execute((
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

/// Converts a sequence number to SQLite's signed integer.
pub(super) fn integer(seq: Seq) -> i64 {
    i64::try_from(seq.get()).unwrap_or(i64::MAX)
}
