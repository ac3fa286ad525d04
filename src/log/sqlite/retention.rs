//! What need not be kept any more goes, in small slices between the appends.

use std::time::Duration;

use actix::prelude::*;
use log::warn;
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior};

use super::Writer;
use super::schema::MESSAGE_BYTES;
use crate::domain::Timestamp;

/// How long a message that has an id is known again at least, also when it need not be kept.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// What one slice looks at and takes away at most.
const ROOMS_MAX: usize = 100;
const MESSAGES_MAX: i64 = 500;

/// How long the appends have for themselves between two slices.
const PAUSE: Duration = Duration::from_millis(20);

impl Writer {
    /// Prunes a slice, and comes back for the next.
    pub(super) fn prune(&mut self, ctx: &mut Context<Self>) {
        let pruned = self.mend().and_then(|()| {
            let pruned = self.prune_slice(Timestamp::now());
            pruned.map_err(|error| self.failed(&error))
        });
        let more = pruned.unwrap_or_else(|error| {
            warn!("old messages stay for now: {error}");
            false
        });
        ctx.run_later(if more { PAUSE } else { self.options.prune_interval }, Self::prune);
    }

    /// Looks at the next few rooms, up to the first that has something to prune, and says whether
    /// there is more to do before all have been looked at.
    pub(super) fn prune_slice(&mut self, now: Timestamp) -> rusqlite::Result<bool> {
        let keep_messages = i64::try_from(self.options.keep_messages).unwrap_or(i64::MAX);
        let horizon = self.options.keep_for.map(|keep_for| millis(now.minus(keep_for)));
        let forgotten = millis(now.minus(KNOWN_FOR));
        let excess = self.excess();
        let change = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut bytes = excess.map_or(Ok(0), |excess| shed(&change, excess, now))?;
        let mut looked_at = 0;
        while looked_at < ROOMS_MAX {
            let select = "SELECT id, messages, floor FROM rooms WHERE id > ?1 ORDER BY id LIMIT 1";
            let next = change.prepare_cached(select)?.query_row([self.pruned], |row| {
                Ok(Room { id: row.get(0)?, messages: row.get(1)?, floor: row.get(2)? })
            });
            let Some(room) = next.optional()? else {
                self.pruned = 0;
                change.commit()?;
                self.kept_bytes -= bytes;
                return Ok(self.excess().is_some() && bytes > 0);
            };
            let gone = room.prune(&change, keep_messages, horizon, forgotten, millis(now))?;
            bytes += gone.bytes;
            if gone.messages > 0 {
                break;
            }
            self.pruned = room.id;
            looked_at += 1;
        }
        change.commit()?;
        self.kept_bytes -= bytes;
        Ok(true)
    }

    /// How many bytes of messages there are too many, if there are.
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
    /// Takes away what is too much, too old, or was taken away before and need not be known any
    /// more, oldest first; says how many messages that is, at most [`MESSAGES_MAX`].
    fn prune(
        &self,
        change: &Transaction<'_>,
        keep_messages: i64,
        horizon: Option<i64>,
        forgotten: i64,
        now: i64,
    ) -> rusqlite::Result<Pruned> {
        let surplus = (self.messages - keep_messages).clamp(0, MESSAGES_MAX);
        // One that seems young before one that is old is from a moment when the clock was ahead.
        let last_old = self.last_old(change, horizon, now)?;
        let mut floor = self.floor;
        let (mut pruned, mut bytes) = (0, 0);
        let mut oldest = change.prepare_cached(
            "SELECT seq, at, octet_length(text) FROM messages WHERE room = ?1 AND seq > ?2
             ORDER BY seq LIMIT ?3",
        )?;
        let mut rows = oldest.query((self.id, self.floor, MESSAGES_MAX))?;
        while let Some(row) = rows.next()? {
            let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
            let is_old = horizon.is_some_and(|horizon| at < horizon);
            if pruned >= surplus && !is_old && last_old.is_none_or(|last| seq > last) {
                break;
            }
            let text: i64 = row.get(2)?;
            (floor, pruned, bytes) = (seq, pruned + 1, bytes + text + MESSAGE_BYTES);
        }
        if pruned > 0 {
            self.forget(change, &Pruned { floor, messages: pruned, bytes }, forgotten)?;
            return Ok(Pruned { floor, messages: pruned, bytes });
        }
        let forgotten = change
            .prepare_cached(
                "DELETE FROM messages WHERE room = ?1 AND seq IN (
                     SELECT seq FROM (
                         SELECT seq, at FROM messages WHERE room = ?1 AND seq <= ?2
                         ORDER BY seq LIMIT ?4)
                     WHERE at < ?3)",
            )?
            .execute((self.id, self.floor, forgotten, MESSAGES_MAX))?;
        let messages = i64::try_from(forgotten).unwrap_or(i64::MAX);
        Ok(Pruned { floor, messages, bytes: 0 })
    }

    /// Moves the floor up. What is below it goes, but for what is needed to know a repeated message
    /// again.
    fn forget(
        &self,
        change: &Transaction<'_>,
        pruned: &Pruned,
        forgotten: i64,
    ) -> rusqlite::Result<()> {
        change
            .prepare_cached(
                "UPDATE rooms SET messages = messages - ?2, bytes = bytes - ?3, floor = ?4
                 WHERE id = ?1",
            )?
            .execute((self.id, pruned.messages, pruned.bytes, pruned.floor))?;
        change
            .prepare_cached(
                "DELETE FROM messages WHERE room = ?1 AND seq > ?2 AND seq <= ?3
                 AND (id IS NULL OR at < ?4)",
            )?
            .execute((self.id, self.floor, pruned.floor, forgotten))?;
        change
            .prepare_cached(
                "UPDATE messages SET nick = '', text = ''
                 WHERE room = ?1 AND seq > ?2 AND seq <= ?3",
            )?
            .execute((self.id, self.floor, pruned.floor))?;
        Ok(())
    }

    /// Takes away the oldest messages until so many bytes are gone, but never the last one.
    fn shed(
        &self,
        change: &Transaction<'_>,
        excess: i64,
        forgotten: i64,
    ) -> rusqlite::Result<Pruned> {
        let mut pruned = Pruned { floor: self.floor, messages: 0, bytes: 0 };
        let mut oldest = change.prepare_cached(
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
            self.forget(change, &pruned, forgotten)?;
        }
        Ok(pruned)
    }
}

/// What has been taken away from a room.
struct Pruned {
    floor: i64,
    messages: i64,
    bytes: i64,
}

/// Takes away messages of the largest room, of equally large ones the first by name, until so many
/// bytes are gone, or as many as fit a slice. Says how many bytes that is.
pub(super) fn shed(change: &Transaction<'_>, excess: i64, now: Timestamp) -> rusqlite::Result<i64> {
    let forgotten = millis(now.minus(KNOWN_FOR));
    let (mut bytes, mut messages) = (0, 0);
    while bytes < excess && messages < MESSAGES_MAX {
        let select = "SELECT id, messages, floor FROM rooms ORDER BY bytes DESC, name LIMIT 1";
        let largest = change.prepare_cached(select)?;
        let room = { largest }.query_row([], |row| {
            Ok(Room { id: row.get(0)?, messages: row.get(1)?, floor: row.get(2)? })
        });
        let Some(room) = room.optional()? else { break };
        let pruned = room.shed(change, excess - bytes, forgotten)?;
        if pruned.messages == 0 {
            break;
        }
        (bytes, messages) = (bytes + pruned.bytes, messages + pruned.messages);
    }
    Ok(bytes)
}

impl Room {
    /// Of a room whose oldest message is from the future: the last one that is old all the same.
    fn last_old(
        &self,
        change: &Transaction<'_>,
        horizon: Option<i64>,
        now: i64,
    ) -> rusqlite::Result<Option<i64>> {
        let Some(horizon) = horizon else { return Ok(None) };
        let select = "SELECT at FROM messages WHERE room = ?1 AND seq > ?2 ORDER BY seq LIMIT 1";
        let oldest = change.prepare_cached(select)?;
        let oldest =
            { oldest }.query_row((self.id, self.floor), |row| row.get::<_, i64>(0)).optional()?;
        if oldest.is_none_or(|at| at <= now) {
            return Ok(None);
        }
        let select = "SELECT max(seq) FROM messages WHERE room = ?1 AND seq > ?2 AND at < ?3";
        change.prepare_cached(select)?.query_row((self.id, self.floor, horizon), |row| row.get(0))
    }
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.millis()).unwrap_or(i64::MAX)
}
