//! Deletion of pruned messages: the writer deletes from the file what is not kept any more, in
//! small slices between appends. The decisions of the log do not depend on when this happens. A
//! pruned message with an id leaves a tombstone, a row without name and text, for a day, so that
//! duplicates of it are recognized. Expired read marks are also deleted.

use std::time::{Duration, Instant};

use actix::prelude::*;
use log::warn;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::clock::Clock;
use super::rows::{count, millis};
use super::{Writer, marks, schema};
use crate::domain::Timestamp;
use crate::log::LogError;
use crate::log::rules::DEDUPLICATION_WINDOW;

/// The maximum number of rooms that one slice examines.
const ROOMS_MAX: i64 = 100;

/// The maximum number of messages, changes, ids or read marks that one slice deletes.
const ROWS_MAX: i64 = 500;

/// The maximum number of reactions that one slice deletes.
const REACTIONS_MAX: i64 = 5000;

/// The pause between two slices, in which the writer handles appends.
const SLICE_PAUSE: Duration = Duration::from_millis(20);

impl Writer {
    /// Prunes one slice and schedules the next.
    pub(super) fn prune(&mut self, ctx: &mut Context<Self>) {
        let pruned = self.prune_slice(Timestamp::now());
        let has_more = pruned.unwrap_or_else(|error| {
            warn!("cannot delete old messages: {error}; trying again later");
            false
        });
        self.schedule_checkpoint(ctx);
        let pause = if has_more { SLICE_PAUSE } else { self.options.prune_interval };
        self.schedule_prune(pause, ctx);
    }

    /// Schedules the next slice after a pause, unless one is scheduled for an earlier time.
    pub(super) fn schedule_prune(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        let at = Instant::now() + pause;
        match self.next_prune {
            Some((_, scheduled)) if scheduled > Instant::now() && scheduled <= at => return,
            Some((timer, _)) => {
                ctx.cancel_future(timer);
            }
            None => {}
        }
        self.next_prune = Some((ctx.run_later(pause, Self::prune), at));
    }

    /// Schedules the next slice soon, so that a file of limited size does not fill up with pruned
    /// messages.
    pub(super) fn prune_soon(&mut self, ctx: &mut Context<Self>) {
        self.schedule_prune(SLICE_PAUSE, ctx);
    }

    /// Prunes messages that have expired at the time `now`. If there are none, deletes some of the
    /// pruned messages from the file. Returns whether the pass has more to do.
    pub(super) fn prune_slice(&mut self, now: Timestamp) -> Result<bool, LogError> {
        self.ensure_usable()?;
        let has_expired = self.has_expired(now).map_err(|error| self.record_error(&error))?;
        // In a shared log, all nodes prune at the same place.
        if has_expired && !self.options.is_replica {
            // Only an append raises floors, so this commits one without drafts.
            self.expire(now, usize::try_from(ROOMS_MAX).unwrap_or(usize::MAX))?;
            return Ok(true);
        }
        self.delete_slice(now).map_err(|error| self.record_error(&error))
    }

    /// Returns whether some room may have a message that is older than `keep_for`.
    fn has_expired(&self, now: Timestamp) -> rusqlite::Result<bool> {
        let Some(keep_for) = self.settings.keep_for else { return Ok(false) };
        self.connection
            .prepare_cached("SELECT 1 FROM rooms WHERE oldest < ?1")?
            .exists([millis(now.minus(keep_for))])
    }

    /// Deletes a limited number of rows. Returns whether the pass has more to do.
    fn delete_slice(&mut self, now: Timestamp) -> rusqlite::Result<bool> {
        let cutoff = cutoff(self.clock);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let rows = delete_pruned(&transaction, cutoff, ROWS_MAX)?;
        let ids = delete_change_ids(&transaction, cutoff)?;
        let marks = marks::delete_expired(&transaction, now, ROWS_MAX)?;
        let has_change_ids = schema::has_change_ids(&transaction)?;
        let resume_buffer = count(self.options.resume_buffer);
        let remains = delete_remains(&transaction, self.prune_cursor, cutoff, resume_buffer)?;
        transaction.commit()?;
        self.has_change_ids = has_change_ids;
        self.checkpoint.removed_text |= rows > 0;
        self.prune_cursor = remains.cursor;
        Ok(rows >= ROWS_MAX || ids == ROWS_MAX || marks == ROWS_MAX || remains.has_more)
    }
}

/// Returns the time up to which ids are not recognized any more. It depends on the times of
/// appends, not on the system clock.
pub(super) fn cutoff(clock: Clock) -> i64 {
    millis(clock.latest().minus(DEDUPLICATION_WINDOW))
}

/// Deletes about `rows_max` pruned messages from the file. Returns about the number of rows.
pub(super) fn delete_pruned(
    connection: &Connection,
    cutoff: i64,
    rows_max: i64,
) -> rusqlite::Result<i64> {
    let mut rows = 0;
    while rows < rows_max
        && let Some(pruned) = Pruned::find(connection)?
    {
        rows += pruned.delete_slice(connection, cutoff, rows_max - rows)?;
    }
    Ok(rows)
}

/// Pruned messages of a room that are still in the file.
struct Pruned {
    room: i64,
    /// Rows after this sequence number and up to the floor.
    after: i64,
    floor: i64,
}

impl Pruned {
    fn find(connection: &Connection) -> rusqlite::Result<Option<Self>> {
        let select = "SELECT id, unpruned, floor FROM rooms WHERE unpruned IS NOT NULL LIMIT 1";
        let mut select = connection.prepare_cached(select)?;
        let pruned = select.query_row([], |row| {
            Ok(Self { room: row.get(0)?, after: row.get(1)?, floor: row.get(2)? })
        });
        pruned.optional()
    }

    /// Deletes some of the messages and what belongs to them. Returns about the number of rows.
    fn delete_slice(
        &self,
        connection: &Connection,
        cutoff: i64,
        rows_max: i64,
    ) -> rusqlite::Result<i64> {
        let Self { room, after, floor } = *self;
        let select = "SELECT seq FROM messages WHERE room = ?1 AND seq > ?2 AND seq <= ?3
                      ORDER BY seq LIMIT 1 OFFSET ?4";
        let last = connection
            .prepare_cached(select)?
            .query_row((room, after, floor, rows_max - 1), |row| row.get(0))
            .optional()?
            .unwrap_or(floor);
        let reactions = connection
            .prepare_cached(
                "DELETE FROM reactions WHERE (room, target, emoji, author) IN (
                     SELECT room, target, emoji, author FROM reactions
                     WHERE room = ?1 AND target <= ?2 LIMIT ?3)",
            )?
            .execute((room, last, REACTIONS_MAX))?;
        let changes = connection
            .prepare_cached(
                "DELETE FROM changes WHERE room = ?1 AND seq IN (
                     SELECT seq FROM changes WHERE room = ?1 AND seq <= ?2 LIMIT ?3)",
            )?
            .execute((room, last, ROWS_MAX))?;
        let edits = connection
            .prepare_cached(
                "DELETE FROM changes WHERE room = ?1 AND seq IN (
                     SELECT edit FROM messages WHERE room = ?1 AND seq > ?2 AND seq <= ?3)",
            )?
            .execute((room, after, last))?;
        connection
            .prepare_cached("UPDATE rooms SET changes = changes - ?2 WHERE id = ?1")?
            .execute((room, count(changes + edits)))?;
        if count(reactions) == REACTIONS_MAX || count(changes) == ROWS_MAX {
            return Ok(rows_max);
        }
        let range = (room, after, last);
        connection
            .prepare_cached("DELETE FROM reaction_counts WHERE room = ?1 AND target <= ?2")?
            .execute((room, last))?;
        connection
            .prepare_cached(
                "DELETE FROM message_rooms WHERE seq IN (
                     SELECT seq FROM messages WHERE room = ?1 AND seq > ?2 AND seq <= ?3)",
            )?
            .execute(range)?;
        let deleted = connection
            .prepare_cached(
                "DELETE FROM messages WHERE room = ?1 AND seq > ?2 AND seq <= ?3
                 AND (id IS NULL OR author IS NULL OR at <= ?4)",
            )?
            .execute((room, after, last, cutoff))?;
        let tombstones = connection
            .prepare_cached(
                "UPDATE messages SET nick = '', text = '', reply_to = NULL, edited_at = NULL,
                     edit = NULL
                 WHERE room = ?1 AND seq > ?2 AND seq <= ?3",
            )?
            .execute(range)?;
        connection
            .prepare_cached("UPDATE rooms SET unpruned = nullif(?2, floor) WHERE id = ?1")?
            .execute((room, last))?;
        Ok(count(deleted + tombstones).max(1))
    }
}

/// Deletes some ids of changes that are not recognized any more. Returns their number.
fn delete_change_ids(connection: &Connection, cutoff: i64) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "DELETE FROM change_ids WHERE seq IN (
                 SELECT seq FROM (SELECT seq, at FROM change_ids ORDER BY seq LIMIT ?2)
                 WHERE at <= ?1)",
        )?
        .execute((cutoff, ROWS_MAX))
        .map(count)
}

/// How far a pass over all rooms has come.
struct Remains {
    /// The last room that is finished, or 0 at the beginning of a pass.
    cursor: i64,
    /// Whether the pass has more to do.
    has_more: bool,
}

/// Deletes expired tombstones, and changes beyond the resume buffer, of the next rooms.
fn delete_remains(
    connection: &Connection,
    cursor: i64,
    cutoff: i64,
    resume_buffer: i64,
) -> rusqlite::Result<Remains> {
    let select = "SELECT id, coalesce(unpruned, floor), changes FROM rooms
                  WHERE id > ?1 ORDER BY id LIMIT ?2";
    let mut select = connection.prepare_cached(select)?;
    let rooms =
        select.query_map((cursor, ROOMS_MAX), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let rooms = rooms.collect::<rusqlite::Result<Vec<(i64, i64, i64)>>>()?;
    let mut rows = 0;
    let mut last = cursor;
    for (room, pruned, changes) in rooms {
        if rows >= ROWS_MAX {
            return Ok(Remains { cursor: last, has_more: true });
        }
        let tombstones =
            if pruned > 0 { delete_tombstones(connection, room, pruned, cutoff)? } else { 0 };
        let surplus = (changes - resume_buffer).clamp(0, ROWS_MAX);
        let forgotten = if surplus > 0 { forget_changes(connection, room, surplus)? } else { 0 };
        if tombstones == ROWS_MAX || forgotten == ROWS_MAX {
            // The room may have more.
            return Ok(Remains { cursor: last, has_more: true });
        }
        rows += tombstones + forgotten;
        last = room;
    }
    let select = "SELECT 1 FROM rooms WHERE id > ?1";
    let has_more = connection.prepare_cached(select)?.exists([last])?;
    Ok(Remains { cursor: if has_more { last } else { 0 }, has_more })
}

/// Deletes some expired tombstones of a room. All its rows up to `pruned` are tombstones. Returns
/// their number.
fn delete_tombstones(
    connection: &Connection,
    room: i64,
    pruned: i64,
    cutoff: i64,
) -> rusqlite::Result<i64> {
    let deleted = connection
        .prepare_cached(
            "DELETE FROM messages WHERE room = ?1 AND seq IN (
                 SELECT seq FROM (
                     SELECT seq, at FROM messages WHERE room = ?1 AND seq <= ?2
                     ORDER BY seq LIMIT ?4)
                 WHERE at <= ?3)",
        )?
        .execute((room, pruned, cutoff, ROWS_MAX))?;
    Ok(count(deleted))
}

/// Deletes the oldest changes of a room, `surplus` of them. Returns their number.
fn forget_changes(connection: &Connection, room: i64, surplus: i64) -> rusqlite::Result<i64> {
    let select = "SELECT seq FROM changes WHERE room = ?1 ORDER BY seq LIMIT 1 OFFSET ?2";
    let last = connection
        .prepare_cached(select)?
        .query_row((room, surplus - 1), |row| row.get::<_, i64>(0))
        .optional()?;
    let deleted = connection
        .prepare_cached("DELETE FROM changes WHERE room = ?1 AND seq <= ?2")?
        .execute((room, last))?;
    connection
        .prepare_cached(
            "UPDATE rooms SET changes = changes - ?2, changes_floor = max(changes_floor, ?3)
             WHERE id = ?1",
        )?
        .execute((room, count(deleted), last.unwrap_or_default()))?;
    Ok(count(deleted))
}
