//! The writer of the journal. It commits each append of the hub in one transaction, and then
//! answers. It also deletes pruned messages from the file (see [`prune`](super::prune)), and
//! commits read marks (see [`marks`](super::marks)). It runs on a thread of its own, because it
//! blocks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{info, warn};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::append::{AppendTransaction, Applied, Before};
#[cfg(feature = "cluster")]
use super::apply::Replica;
use super::checkpoint::Checkpoint;
use super::clock::Clock;
use super::lock::Lock;
use super::marks::Marks;
use super::room::Room;
use super::schema::Opened;
use super::search::Indexer;
use super::settings::{self, StoredSettings};
use super::unanswered::Unanswered;
use super::watch::FileWatch;
use super::{Options, schema};
use crate::domain::{Draft, Entry, Epoch, RoomName, Seq, Settings, Timestamp};
use crate::log::{Append, Follow, Follower, FromLog, LogError, Own, Probe, Verdict};
use crate::metrics::Limit;

/// The approximate maximum by which one append grows the file, in bytes.
const FILE_GROWTH_MAX: u64 = 1024 * 1024;

/// The maximum number of rooms that are kept in memory.
const ROOMS_MAX: usize = 65_536;

/// A probe succeeds without a test if the last commit is not older than this.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The actor that writes the journal.
pub struct Writer {
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    pub(super) head: Seq,
    pub(super) clock: Clock,
    pub(super) settings: Settings,
    /// Rooms of recent appends.
    rooms: HashMap<RoomName, Room>,
    /// The size of all messages that are not pruned, in bytes, as `keep_bytes` counts them.
    pub(super) kept_bytes: i64,
    /// Whether the file has ids of changes.
    pub(super) has_change_ids: bool,
    pub(super) follower: Option<Follower>,
    /// An append whose outcome is unknown, because its commit failed with an I/O error.
    pub(super) unanswered: Option<Unanswered>,
    pub(super) checkpoint: Checkpoint,
    pub(super) marks: Marks,
    #[cfg(feature = "cluster")]
    pub(super) replica: Replica,
    /// The time of the last commit of an append.
    committed: Option<Instant>,
    /// Whether the connection must be reopened before it is used again.
    pub(super) needs_reopen: bool,
    pub(super) options: Options,
    /// The timer of the next slice of pruning, and its time.
    pub(super) next_prune: Option<(SpawnHandle, Instant)>,
    /// The id of the last room that the current pruning pass has finished.
    pub(super) prune_cursor: i64,
    pub(super) indexer: Indexer,
    lock: Option<Arc<Lock>>,
    pub(super) file: FileWatch,
    #[cfg(test)]
    pub(super) failpoint: Option<Failpoint>,
}

/// Makes the next commit return an I/O error.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(super) enum Failpoint {
    /// The transaction is not committed.
    BeforeCommit,
    /// The transaction is committed.
    AfterCommit,
}

/// Why an append failed.
pub(super) enum AppendError {
    /// Nothing of it was committed.
    Failed(LogError),
    /// It is not known whether it was committed.
    Unknown(Box<Applied>, LogError),
}

impl Actor for Writer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.schedule_prune(self.options.prune_interval, ctx);
        // The previous process may have removed a text shortly before it ended.
        self.checkpoint.removed_text = true;
        self.schedule_checkpoint(ctx);
        self.schedule_index(Duration::ZERO, ctx);
    }
}

/// Closes the journal and stops the writer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Close;

impl Handler<Follow> for Writer {
    type Result = ();

    fn handle(&mut self, Follow(follower): Follow, _: &mut Self::Context) {
        self.follower = Some(follower);
    }
}

impl Handler<Append> for Writer {
    type Result = ();

    fn handle(&mut self, Append { ticket, drafts }: Append, ctx: &mut Self::Context) {
        match self.append_at(Timestamp::now(), drafts) {
            Ok(applied) => {
                if applied.has_pruned {
                    self.prune_soon(ctx);
                }
                let is_message = |entry: &&Entry| matches!(entry, Entry::Message(_));
                let messages = applied.entries.iter().filter(is_message).count();
                self.send(committed(*applied, ticket));
                self.messages_appended(messages, ctx);
            }
            Err(AppendError::Failed(error)) => self.send(FromLog::Rejected { ticket, error }),
            Err(AppendError::Unknown(applied, error)) => {
                warn!("an append may have failed; checking the history file: {error}");
                self.stall(Unanswered::new(ticket, *applied), ctx);
            }
        }
        self.schedule_checkpoint(ctx);
    }
}

/// Returns the answer to an append that was committed.
pub(super) fn committed(applied: Applied, ticket: u64) -> FromLog {
    let Applied { entries, verdicts, head, floors, .. } = applied;
    FromLog::Committed { entries, head, floors, own: Some(Own { ticket, placed: verdicts }) }
}

impl Handler<Probe> for Writer {
    type Result = Result<(), LogError>;

    fn handle(&mut self, _: Probe, _: &mut Self::Context) -> Self::Result {
        self.file.check()?;
        match self.committed {
            Some(at) if at.elapsed() < PROBE_INTERVAL && self.unanswered.is_none() => Ok(()),
            // An append without drafts still writes its time, which tests a commit.
            Some(_) | None => self.expire(Timestamp::now(), usize::MAX),
        }
    }
}

impl Handler<Close> for Writer {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        if let Err(error) = self.close() {
            warn!("cannot close the journal cleanly: {error}");
        }
        // Closes the connection. The last one removes the write-ahead log, which SQLite would apply
        // to a file that an operator puts in place of this one.
        if let Ok(nothing) = Connection::open_in_memory() {
            self.connection = nothing;
        }
        // The caller may reopen the file as soon as it has the answer.
        self.lock = None;
        ctx.stop();
    }
}

impl Writer {
    /// Returns the writer of an opened file. Appends a settings entry if the configuration has
    /// different settings than the file.
    pub(super) fn new(
        opened: Opened,
        options: Options,
        lock: Option<Arc<Lock>>,
    ) -> rusqlite::Result<Self> {
        let Opened { connection, epoch, head, clock, settings, kept_bytes, has_change_ids } =
            opened;
        let before = settings.map(|stored| stored.settings);
        let mut writer = Self {
            epoch,
            head,
            clock,
            settings: before.clone().unwrap_or_else(|| options.settings.clone()),
            rooms: HashMap::new(),
            kept_bytes,
            has_change_ids,
            follower: None,
            unanswered: None,
            checkpoint: Checkpoint::default(),
            marks: Marks::default(),
            #[cfg(feature = "cluster")]
            replica: Replica::load(&connection)?,
            committed: None,
            needs_reopen: false,
            file: FileWatch::new(&options.path),
            options,
            next_prune: None,
            prune_cursor: 0,
            indexer: Indexer::default(),
            lock,
            #[cfg(test)]
            failpoint: None,
            connection,
        };
        let after = writer.options.settings.clone();
        if schema::is_in_shared_log(&writer.connection)? {
            settings::warn_if_other(&writer.settings, &after);
        } else if head == Seq::default() && before.as_ref() != Some(&after) {
            StoredSettings { seq: head, settings: after.clone() }.store(&writer.connection)?;
            writer.settings = after;
        } else if before.as_ref() != Some(&after) {
            info!(
                "the settings in the history file are replaced by those of the configuration: {}; \
                 previously: {}",
                settings::describe(&after),
                before.as_ref().map_or("not stored".into(), settings::describe)
            );
            writer.change_settings(Timestamp::now(), after)?;
        }
        Ok(writer)
    }

    /// Appends a settings entry at the time `at`.
    pub(super) fn change_settings(
        &mut self,
        at: Timestamp,
        settings: Settings,
    ) -> rusqlite::Result<()> {
        let new = settings.clone();
        let work = |append: &mut AppendTransaction<'_>| {
            append.apply_settings(new)?;
            Ok(Vec::new())
        };
        let applied = self.transact(at, work).map_err(|(error, _)| error)?;
        self.settings = settings;
        self.adopt(&applied);
        Ok(())
    }

    /// Sends something to the hub.
    pub(super) fn send(&self, from_log: FromLog) {
        if let Some(follower) = &self.follower {
            follower.send(from_log);
        }
    }

    /// Commits drafts in one transaction at the time `at`.
    pub(super) fn append_at(
        &mut self,
        at: Timestamp,
        drafts: Vec<Draft>,
    ) -> Result<Box<Applied>, AppendError> {
        self.run(at, |append| append.apply(drafts))
    }

    /// Prunes expired messages of some rooms.
    pub(super) fn expire(&mut self, at: Timestamp, rooms_max: usize) -> Result<(), LogError> {
        let expired = self.run(at, |append| {
            append.prune_by_age(rooms_max)?;
            Ok(Vec::new())
        });
        match expired {
            Ok(applied) => {
                let Applied { entries, head, floors, .. } = *applied;
                if !floors.is_empty() {
                    self.send(FromLog::Committed { entries, head, floors, own: None });
                }
                Ok(())
            }
            Err(AppendError::Failed(error) | AppendError::Unknown(_, error)) => Err(error),
        }
    }

    pub(super) fn run(
        &mut self,
        at: Timestamp,
        work: impl FnOnce(&mut AppendTransaction<'_>) -> rusqlite::Result<Vec<Verdict>>,
    ) -> Result<Box<Applied>, AppendError> {
        self.ensure_usable().map_err(AppendError::Failed)?;
        match self.transact(at, work) {
            Ok(applied) => {
                self.committed = Some(Instant::now());
                self.adopt(&applied);
                Ok(applied)
            }
            Err((error, applied)) => {
                let log_error = self.record_error(&error);
                let is_unknown = error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
                match applied.filter(|_| is_unknown) {
                    Some(applied) => Err(AppendError::Unknown(applied, log_error)),
                    None => Err(AppendError::Failed(log_error)),
                }
            }
        }
    }

    /// Runs a transaction. If its commit fails, the error comes with the state after the append.
    fn transact(
        &mut self,
        at: Timestamp,
        work: impl FnOnce(&mut AppendTransaction<'_>) -> rusqlite::Result<Vec<Verdict>>,
    ) -> Result<Box<Applied>, (rusqlite::Error, Option<Box<Applied>>)> {
        let before = Before {
            settings: &self.settings,
            head: self.head,
            clock: self.clock,
            kept_bytes: self.kept_bytes,
            has_change_ids: self.has_change_ids,
            rooms: &self.rooms,
        };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = transaction.map_err(|error| (error, None))?;
        let mut append = AppendTransaction::new(&transaction, before, at);
        let applied = work(&mut append).and_then(|verdicts| append.finish(verdicts));
        let applied = Box::new(applied.map_err(|error| (error, None))?);
        #[cfg(test)]
        let committed = match self.failpoint.take() {
            Some(Failpoint::BeforeCommit) => transaction.rollback().and(Err(io_error())),
            Some(Failpoint::AfterCommit) => transaction.commit().and(Err(io_error())),
            None => transaction.commit(),
        };
        #[cfg(not(test))]
        let committed = transaction.commit();
        match committed {
            Ok(()) => Ok(applied),
            Err(error) => Err((error, Some(applied))),
        }
    }

    /// Adopts the state after an append.
    pub(super) fn adopt(&mut self, applied: &Applied) {
        self.indexer.remember(self.head, applied);
        self.head = applied.head;
        self.clock = applied.clock;
        self.kept_bytes = applied.kept_bytes;
        self.has_change_ids = applied.has_change_ids;
        self.checkpoint.removed_text |= applied.removed_text;
        if self.rooms.len() + applied.rooms.len() > ROOMS_MAX {
            self.rooms.clear();
        }
        self.rooms.extend(applied.rooms.iter().map(|(name, room)| (name.clone(), *room)));
    }

    /// Commits the pending read marks, and records that the file was closed cleanly, unless the
    /// file cannot be reopened after an error.
    pub(super) fn close(&mut self) -> Result<(), LogError> {
        self.answer_open_append();
        self.commit_all_marks(Timestamp::now());
        self.ensure_usable()?;
        schema::close(&self.connection).map_err(|error| self.record_error(&error))
    }

    /// Reopens the file after an error that may have left the connection unusable. Otherwise checks
    /// from time to time that the file is still the one that was opened.
    pub(super) fn ensure_usable(&mut self) -> Result<(), LogError> {
        if self.unanswered.is_some() {
            let words = "checking whether an earlier append was committed";
            return Err(LogError::Busy(words.into()));
        }
        if !self.needs_reopen {
            return self.file.check_if_due();
        }
        // An append that returned an error may still have been committed. Taking the head of the
        // file makes sure that its sequence numbers are not assigned again.
        let head = self.reopen()?;
        if head < self.head {
            return Err(replaced());
        }
        self.head = head;
        self.needs_reopen = false;
        Ok(())
    }

    /// Opens the file again and reads its state. Returns its last sequence number.
    pub(super) fn reopen(&mut self) -> Result<Seq, LogError> {
        let Options { path, sync, max_bytes, .. } = &self.options;
        let reopened = schema::reopen(path, *sync, *max_bytes);
        let (connection, epoch) = reopened.map_err(|error| self.record_error(&error))?;
        if epoch.as_ref() != Some(&self.epoch) {
            return Err(replaced());
        }
        // This closes the old connection, which releases its locks.
        self.connection = connection;
        self.file.reset();
        self.rooms.clear();
        let state = schema::head(&self.connection).and_then(|head| {
            let kept_bytes = schema::kept_bytes(&self.connection)?;
            let has_change_ids = schema::has_change_ids(&self.connection)?;
            Ok((head, Clock::load(&self.connection)?, kept_bytes, has_change_ids))
        });
        let state = state.map_err(|error| self.record_error(&error))?;
        let head;
        (head, self.clock, self.kept_bytes, self.has_change_ids) = state;
        #[cfg(feature = "cluster")]
        self.reload_place()?;
        Ok(head)
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

/// Returns the error for a file that is not the one that was opened.
pub(super) fn replaced() -> LogError {
    LogError::Failed("the history file was replaced; restart the server".into())
}

#[cfg(test)]
fn io_error() -> rusqlite::Error {
    let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
    rusqlite::Error::SqliteFailure(error, None)
}
