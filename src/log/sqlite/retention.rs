//! Retention: the writer deletes messages that exceed a limit, in small slices between appends. The
//! limits are the number of messages in a room, their age, and the bytes of all messages. A deleted
//! message with an id leaves a tombstone for a day, so that a repeated message is recognized.

use std::time::Duration;

use actix::prelude::*;
use log::warn;
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior};

use super::Writer;
use super::schema::MESSAGE_BYTES;
use crate::domain::Timestamp;

/// The minimum time for which a message with an id is recognized when it is sent again.
const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// The maximum number of rooms that one slice examines.
const ROOMS_MAX: usize = 100;

/// The maximum number of messages that one slice deletes.
const MESSAGES_MAX: i64 = 500;

/// The pause between two slices, in which the writer handles appends.
const SLICE_PAUSE: Duration = Duration::from_millis(20);

impl Writer {
    /// Prunes one slice and schedules the next.
    pub(super) fn prune(&mut self, ctx: &mut Context<Self>) {
        let pruned = self.ensure_usable().and_then(|()| {
            let pruned = self.prune_slice(Timestamp::now());
            pruned.map_err(|error| self.record_error(&error))
        });
        let has_more = pruned.unwrap_or_else(|error| {
            warn!("cannot delete old messages: {error}; trying again later");
            false
        });
        let pause = if has_more { SLICE_PAUSE } else { self.options.prune_interval };
        ctx.run_later(pause, Self::prune);
    }

    /// Examines the next rooms, up to the first from which it deletes messages. Returns whether the
    /// pass has more to do.
    pub(super) fn prune_slice(&mut self, now: Timestamp) -> rusqlite::Result<bool> {
        let keep_messages = i64::try_from(self.options.keep_messages).unwrap_or(i64::MAX);
        let age_cutoff = self.options.keep_for.map(|keep_for| millis(now.minus(keep_for)));
        let tombstone_cutoff = millis(now.minus(DEDUPLICATION_WINDOW));
        let excess = self.excess();
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut bytes =
            excess.map_or(Ok(0), |excess| prune_largest_rooms(&transaction, excess, now))?;
        let mut examined = 0;
        while examined < ROOMS_MAX {
            let select = "SELECT id, messages, floor FROM rooms WHERE id > ?1 ORDER BY id LIMIT 1";
            let next = transaction.prepare_cached(select)?.query_row([self.prune_cursor], |row| {
                Ok(Room { id: row.get(0)?, messages: row.get(1)?, floor: row.get(2)? })
            });
            let Some(room) = next.optional()? else {
                self.prune_cursor = 0;
                transaction.commit()?;
                self.kept_bytes -= bytes;
                return Ok(self.excess().is_some() && bytes > 0);
            };
            let pruned =
                room.prune(&transaction, keep_messages, age_cutoff, tombstone_cutoff, millis(now))?;
            bytes += pruned.bytes;
            if pruned.messages > 0 {
                break;
            }
            self.prune_cursor = room.id;
            examined += 1;
        }
        transaction.commit()?;
        self.kept_bytes -= bytes;
        Ok(true)
    }

    /// Returns by how many bytes the messages exceed `keep_bytes`, if they do.
    pub(super) fn excess(&self) -> Option<i64> {
        let most = i64::try_from(self.options.keep_bytes?).unwrap_or(i64::MAX);
        Some(self.kept_bytes - most).filter(|excess| *excess > 0)
    }
}

struct Room {
    id: i64,
    messages: i64,
    floor: i64,
}

impl Room {
    /// Prunes the messages that exceed `keep_messages` or are older than `age_cutoff`, oldest
    /// first. If there are none, deletes tombstones older than `tombstone_cutoff`. Deletes at most
    /// [`MESSAGES_MAX`] rows.
    fn prune(
        &self,
        transaction: &Transaction<'_>,
        keep_messages: i64,
        age_cutoff: Option<i64>,
        tombstone_cutoff: i64,
        now: i64,
    ) -> rusqlite::Result<Pruned> {
        let surplus = (self.messages - keep_messages).clamp(0, MESSAGES_MAX);
        // While the system clock was ahead, messages got a time in the future. Everything before an
        // expired message is expired, too.
        let last_expired = self.last_expired(transaction, age_cutoff, now)?;
        let mut floor = self.floor;
        let (mut pruned, mut bytes) = (0, 0);
        let mut oldest = transaction.prepare_cached(
            "SELECT seq, at, octet_length(text) FROM messages WHERE room = ?1 AND seq > ?2
             ORDER BY seq LIMIT ?3",
        )?;
        let mut rows = oldest.query((self.id, self.floor, MESSAGES_MAX))?;
        while let Some(row) = rows.next()? {
            let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
            let is_expired = age_cutoff.is_some_and(|cutoff| at < cutoff);
            if pruned >= surplus && !is_expired && last_expired.is_none_or(|last| seq > last) {
                break;
            }
            let text: i64 = row.get(2)?;
            (floor, pruned, bytes) = (seq, pruned + 1, bytes + text + MESSAGE_BYTES);
        }
        if pruned > 0 {
            let pruned = Pruned { floor, messages: pruned, bytes };
            self.raise_floor(transaction, &pruned, tombstone_cutoff)?;
            return Ok(pruned);
        }
        let tombstones = transaction
            .prepare_cached(
                "DELETE FROM messages WHERE room = ?1 AND seq IN (
                     SELECT seq FROM (
                         SELECT seq, at FROM messages WHERE room = ?1 AND seq <= ?2
                         ORDER BY seq LIMIT ?4)
                     WHERE at < ?3)",
            )?
            .execute((self.id, self.floor, tombstone_cutoff, MESSAGES_MAX))?;
        let messages = i64::try_from(tombstones).unwrap_or(i64::MAX);
        Ok(Pruned { floor, messages, bytes: 0 })
    }

    /// Raises the floor of the room. Deletes the messages up to the new floor, or replaces them by
    /// tombstones if they have an id and are not older than `tombstone_cutoff`.
    fn raise_floor(
        &self,
        transaction: &Transaction<'_>,
        pruned: &Pruned,
        tombstone_cutoff: i64,
    ) -> rusqlite::Result<()> {
        transaction
            .prepare_cached(
                "UPDATE rooms SET messages = messages - ?2, bytes = bytes - ?3, floor = ?4
                 WHERE id = ?1",
            )?
            .execute((self.id, pruned.messages, pruned.bytes, pruned.floor))?;
        transaction
            .prepare_cached(
                "DELETE FROM messages WHERE room = ?1 AND seq > ?2 AND seq <= ?3
                 AND (id IS NULL OR at < ?4)",
            )?
            .execute((self.id, self.floor, pruned.floor, tombstone_cutoff))?;
        transaction
            .prepare_cached(
                "UPDATE messages SET nick = '', text = ''
                 WHERE room = ?1 AND seq > ?2 AND seq <= ?3",
            )?
            .execute((self.id, self.floor, pruned.floor))?;
        Ok(())
    }

    /// Prunes the oldest messages, in total at least `excess` bytes, but never the last message.
    fn prune_bytes(
        &self,
        transaction: &Transaction<'_>,
        excess: i64,
        tombstone_cutoff: i64,
    ) -> rusqlite::Result<Pruned> {
        let mut pruned = Pruned { floor: self.floor, messages: 0, bytes: 0 };
        let mut oldest = transaction.prepare_cached(
            "SELECT seq, octet_length(text) FROM messages WHERE room = ?1 AND seq > ?2
             ORDER BY seq LIMIT ?3",
        )?;
        let most = MESSAGES_MAX.min(self.messages - 1);
        let mut rows = oldest.query((self.id, self.floor, most))?;
        while pruned.bytes < excess
            && let Some(row) = rows.next()?
        {
            let text: i64 = row.get(1)?;
            pruned.floor = row.get(0)?;
            pruned.messages += 1;
            pruned.bytes += text + MESSAGE_BYTES;
        }
        if pruned.messages > 0 {
            self.raise_floor(transaction, &pruned, tombstone_cutoff)?;
        }
        Ok(pruned)
    }
}

/// What was pruned from a room.
struct Pruned {
    /// The new floor of the room.
    floor: i64,
    messages: i64,
    bytes: i64,
}

/// Prunes messages of the largest room until at least `excess` bytes are deleted, but at most
/// [`MESSAGES_MAX`] messages. Of equally large rooms it takes the first by name. Returns the number
/// of bytes.
pub(super) fn prune_largest_rooms(
    transaction: &Transaction<'_>,
    excess: i64,
    now: Timestamp,
) -> rusqlite::Result<i64> {
    let tombstone_cutoff = millis(now.minus(DEDUPLICATION_WINDOW));
    let (mut bytes, mut messages) = (0, 0);
    while bytes < excess && messages < MESSAGES_MAX {
        let select = "SELECT id, messages, floor FROM rooms ORDER BY bytes DESC, name LIMIT 1";
        let largest = transaction.prepare_cached(select)?;
        let room = { largest }.query_row([], |row| {
            Ok(Room { id: row.get(0)?, messages: row.get(1)?, floor: row.get(2)? })
        });
        let Some(room) = room.optional()? else { break };
        let pruned = room.prune_bytes(transaction, excess - bytes, tombstone_cutoff)?;
        if pruned.messages == 0 {
            break;
        }
        (bytes, messages) = (bytes + pruned.bytes, messages + pruned.messages);
    }
    Ok(bytes)
}

impl Room {
    /// Returns the sequence number of the last expired message, if the time of the room's oldest
    /// message is in the future.
    fn last_expired(
        &self,
        transaction: &Transaction<'_>,
        age_cutoff: Option<i64>,
        now: i64,
    ) -> rusqlite::Result<Option<i64>> {
        let Some(age_cutoff) = age_cutoff else { return Ok(None) };
        let select = "SELECT at FROM messages WHERE room = ?1 AND seq > ?2 ORDER BY seq LIMIT 1";
        let oldest = transaction.prepare_cached(select)?;
        let oldest =
            { oldest }.query_row((self.id, self.floor), |row| row.get::<_, i64>(0)).optional()?;
        if oldest.is_none_or(|at| at <= now) {
            return Ok(None);
        }
        let select = "SELECT max(seq) FROM messages WHERE room = ?1 AND seq > ?2 AND at < ?3";
        transaction
            .prepare_cached(select)?
            .query_row((self.id, self.floor, age_cutoff), |row| row.get(0))
    }
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.millis()).unwrap_or(i64::MAX)
}
