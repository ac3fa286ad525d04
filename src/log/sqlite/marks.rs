//! Read marks: how far each user has read each room. They are not entries of the log. The writer
//! keeps new marks in memory, where the readers see them, and commits them together every few
//! seconds. A failed commit is repeated and does not affect appends. The number of marks is
//! limited, and a mark expires when it has not changed for a long time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::prelude::*;
use log::{info, warn};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::rows::{self, count, integer, millis};
use super::{Writer, schema};
use crate::domain::{Identity, Nick, RoomName, Seq, Timestamp, Unread, mentions};
use crate::log::{LogError, MarkRead};

/// The time from a new mark until the commit, which includes later marks.
const COMMIT_DELAY: Duration = Duration::from_secs(3);

/// The maximum number of marks in one commit. Appends wait for the commit.
const COMMIT_MAX: usize = 1000;

/// The pause between two commits if one is not enough. The writer handles appends meanwhile.
const COMMIT_PAUSE: Duration = Duration::from_millis(20);

/// How long a commit waits for a lock on the file. It is shorter than for an append, since appends
/// wait for the commit.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// The maximum number of marks that are not committed. New marks for other rooms and users are
/// ignored.
const PENDING_MAX: usize = if cfg!(test) { 3000 } else { 50_000 };

/// The maximum number of marks of one user. The oldest ones are deleted.
const USER_MARKS_MAX: i64 = 1000;

/// The maximum number of all marks. The oldest ones are deleted.
const MARKS_MAX: i64 = if cfg!(test) { 1500 } else { 1_000_000 };

/// How long a mark is kept after its last change.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The maximum number of messages that are read to count the unread ones, and again to find the
/// first. It includes the user's own messages and deleted ones.
const SCAN_MAX: usize = 3000;

/// The key in the table `meta` of the number of all marks.
const TOTAL: &str = "read_marks";

/// A mark that is not committed yet: the user, the room, and the sequence number.
type PendingMark = ((Identity, RoomName), Seq);

/// The marks that are not committed yet. The writer changes them, and the readers read them.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingMarks(Arc<Mutex<HashMap<(Identity, RoomName), Seq>>>);

impl PendingMarks {
    fn lock(&self) -> MutexGuard<'_, HashMap<(Identity, RoomName), Seq>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, MarkRead { identity, room, seq }: MarkRead) {
        let mut marks = self.lock();
        let is_full = marks.len() >= PENDING_MAX;
        match marks.entry((identity, room)) {
            Entry::Occupied(mut mark) => {
                let greatest = seq.max(*mark.get());
                mark.insert(greatest);
            }
            Entry::Vacant(_) if is_full => {}
            Entry::Vacant(place) => {
                place.insert(seq);
            }
        }
    }

    fn get(&self, identity: Identity, room: &RoomName) -> Option<Seq> {
        self.lock().get(&(identity, room.clone())).copied()
    }

    /// Returns some of the marks, at most as many as one commit may have.
    fn some(&self) -> Vec<PendingMark> {
        let marks = self.lock();
        marks.iter().take(COMMIT_MAX).map(|(key, seq)| (key.clone(), *seq)).collect()
    }

    /// Removes marks that were committed.
    fn remove(&self, committed: &[PendingMark]) {
        let mut marks = self.lock();
        for (key, _) in committed {
            marks.remove(key);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// The marks that the writer has to commit.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) pending: PendingMarks,
    is_scheduled: bool,
    /// Whether the last commit failed.
    is_failing: bool,
}

impl Handler<MarkRead> for Writer {
    type Result = ();

    fn handle(&mut self, mark: MarkRead, ctx: &mut Self::Context) {
        self.add_mark(mark);
        self.schedule_marks(COMMIT_DELAY, ctx);
    }
}

impl Writer {
    pub(super) fn add_mark(&mut self, mark: MarkRead) {
        self.marks.pending.add(mark);
    }

    /// Schedules a commit of marks after a pause, unless one is scheduled.
    fn schedule_marks(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.marks.is_scheduled, true) {
            ctx.run_later(pause, Self::run_marks);
        }
    }

    fn run_marks(&mut self, ctx: &mut Context<Self>) {
        self.marks.is_scheduled = false;
        let pause = match self.commit_marks(Timestamp::now()) {
            Ok(()) => COMMIT_PAUSE,
            Err(_) => COMMIT_DELAY,
        };
        if !self.marks.pending.is_empty() {
            self.schedule_marks(pause, ctx);
        }
    }

    /// Commits all pending marks, unless a commit fails.
    pub(super) fn commit_all_marks(&mut self, at: Timestamp) {
        while !self.marks.pending.is_empty() && self.commit_marks(at).is_ok() {}
    }

    /// Commits some of the pending marks at the time `at`. If that fails, they remain pending.
    pub(super) fn commit_marks(&mut self, at: Timestamp) -> Result<(), LogError> {
        let marks = self.marks.pending.some();
        let committed = self.ensure_usable().and_then(|()| {
            let stored = store(&mut self.connection, &marks, at);
            stored.map_err(|error| self.record_error(&error))
        });
        match (std::mem::replace(&mut self.marks.is_failing, committed.is_err()), &committed) {
            (false, Err(error)) => warn!("cannot store read marks: {error}; trying again"),
            (true, Ok(())) => info!("read marks are stored again"),
            (true, Err(_)) | (false, Ok(())) => {}
        }
        if committed.is_ok() {
            self.marks.pending.remove(&marks);
        }
        committed
    }
}

/// Stores marks in one transaction.
fn store(
    connection: &mut Connection,
    marks: &[PendingMark],
    at: Timestamp,
) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCK_TIMEOUT)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let stored = transaction.and_then(|transaction| {
        let mut added = 0;
        for ((identity, room), seq) in marks {
            added += raise(&transaction, identity, room, *seq, at)?;
        }
        let total = schema::meta::<i64>(&transaction, TOTAL)?.unwrap_or_default() + added;
        let surplus = (total - MARKS_MAX).max(0);
        let deleted = delete_oldest(&transaction, i64::MAX, surplus)?;
        schema::set_meta(&transaction, TOTAL, total - deleted)?;
        transaction.commit()
    });
    connection.busy_timeout(schema::BUSY_TIMEOUT)?;
    stored
}

/// Raises a mark to a sequence number, unless it is higher. Returns by how many the number of marks
/// has grown.
fn raise(
    connection: &Connection,
    identity: &Identity,
    room: &RoomName,
    seq: Seq,
    at: Timestamp,
) -> rusqlite::Result<i64> {
    let select = "SELECT id FROM rooms WHERE name = ?1";
    let mut select = connection.prepare_cached(select)?;
    // A room without any entry is not in the file, and nothing in it is unread.
    let room = select.query_row([room.as_str()], |row| row.get::<_, i64>(0)).optional()?;
    let Some(room) = room else { return Ok(0) };
    let identity = identity.as_bytes().as_slice();
    let inserted = connection
        .prepare_cached("INSERT OR IGNORE INTO read_marks VALUES (?1, ?2, ?3, ?4)")?
        .execute((identity, room, integer(seq), millis(at)))?;
    if inserted == 0 {
        connection
            .prepare_cached(
                "UPDATE read_marks SET seq = ?3, at = ?4
                 WHERE identity = ?1 AND room = ?2 AND seq < ?3",
            )?
            .execute((identity, room, integer(seq), millis(at)))?;
        return Ok(0);
    }
    let deleted = connection
        .prepare_cached(
            "DELETE FROM read_marks WHERE identity = ?1 AND room IN (
                 SELECT room FROM read_marks WHERE identity = ?1
                 ORDER BY at DESC, room DESC LIMIT -1 OFFSET ?2)",
        )?
        .execute((identity, USER_MARKS_MAX))?;
    Ok(1 - count(deleted))
}

/// Deletes the oldest marks that were last changed before a time, at most `marks_max`. Returns
/// their number.
fn delete_oldest(connection: &Connection, before: i64, marks_max: i64) -> rusqlite::Result<i64> {
    let deleted = connection
        .prepare_cached(
            "DELETE FROM read_marks WHERE (identity, room) IN (
                 SELECT identity, room FROM read_marks WHERE at < ?1 ORDER BY at LIMIT ?2)",
        )?
        .execute((before, marks_max))?;
    Ok(count(deleted))
}

/// Deletes some of the marks that have expired at the time `now`. Returns their number.
pub(super) fn delete_expired(
    connection: &Connection,
    now: Timestamp,
    marks_max: i64,
) -> rusqlite::Result<i64> {
    let deleted = delete_oldest(connection, millis(now.minus(LIFETIME)), marks_max)?;
    if deleted > 0 {
        let total = schema::meta::<i64>(connection, TOTAL)?.unwrap_or_default();
        schema::set_meta(connection, TOTAL, total - deleted)?;
    }
    Ok(deleted)
}

/// Whose unread messages to count. The fields are those of
/// [`CountUnread`](crate::log::CountUnread).
#[derive(Clone, Debug)]
pub(super) struct UnreadQuery {
    pub(super) identity: Identity,
    pub(super) nick: Nick,
    pub(super) room: RoomName,
    pub(super) known: Seq,
    pub(super) before: Seq,
}

/// Counts the unread messages of a user. Returns `None` if the user has no mark for the room.
pub(super) fn count_unread(
    connection: &Connection,
    pending: &PendingMarks,
    query: &UnreadQuery,
) -> rusqlite::Result<Option<Unread>> {
    let UnreadQuery { identity, nick, room, known, before } = query;
    // Read before the snapshot begins, since a mark remains pending until it is committed.
    let pending = pending.get(*identity, room);
    let snapshot = connection.unchecked_transaction()?;
    let select = "SELECT id, floor FROM rooms WHERE name = ?1";
    let found = snapshot
        .prepare_cached(select)?
        .query_row([room.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((room, floor)) = found else { return Ok(None) };
    let select = "SELECT seq FROM read_marks WHERE identity = ?1 AND room = ?2";
    let stored = snapshot
        .prepare_cached(select)?
        .query_row((identity.as_bytes().as_slice(), room), |row| row.get(0).map(rows::seq))
        .optional()?;
    let known = (*known > Seq::default()).then_some(*known);
    let Some(mark) = stored.max(pending).max(known) else { return Ok(None) };
    let after = integer(mark).max(floor);
    let range = UnreadRange { connection: &snapshot, identity, room, after, before: *before };
    range.count(mark, nick).map(Some)
}

/// The range of a room's messages that contains a user's unread ones.
struct UnreadRange<'a> {
    connection: &'a Connection,
    identity: &'a Identity,
    room: i64,
    after: i64,
    before: Seq,
}

impl UnreadRange<'_> {
    fn count(&self, mark: Seq, nick: &Nick) -> rusqlite::Result<Unread> {
        let select = "SELECT seq, deleted, author, text FROM messages
                      WHERE room = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4";
        let mut select = self.connection.prepare_cached(select)?;
        let mut rows = select.query(self.parameters())?;
        let mut unread = Unread { mark, ..Unread::default() };
        let mut scanned = 0;
        while unread.count < Unread::COUNT_MAX
            && let Some(row) = rows.next()?
        {
            scanned += 1;
            if self.is_unread(row)? {
                unread.count += 1;
                unread.first = Some(rows::seq(row.get(0)?));
                unread.mentions += usize::from(mentions(row.get_ref(3)?.as_str()?, nick));
            }
        }
        let may_have_older = unread.count == Unread::COUNT_MAX || scanned == SCAN_MAX;
        if may_have_older && let Some(first) = self.first()? {
            unread.first = unread.first.map(|known| known.min(first));
        }
        Ok(unread)
    }

    fn first(&self) -> rusqlite::Result<Option<Seq>> {
        let select = "SELECT seq, deleted, author FROM messages
                      WHERE room = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq LIMIT ?4";
        let mut select = self.connection.prepare_cached(select)?;
        let mut rows = select.query(self.parameters())?;
        while let Some(row) = rows.next()? {
            if self.is_unread(row)? {
                return Ok(Some(rows::seq(row.get(0)?)));
            }
        }
        Ok(None)
    }

    fn parameters(&self) -> (i64, i64, i64, i64) {
        (self.room, self.after, integer(self.before), count(SCAN_MAX))
    }

    /// Returns whether a message is by another user and not deleted.
    fn is_unread(&self, row: &rusqlite::Row<'_>) -> rusqlite::Result<bool> {
        let author = row.get_ref(2)?.as_blob_or_null()?;
        Ok(!row.get::<_, bool>(1)? && author != Some(self.identity.as_bytes().as_slice()))
    }
}
