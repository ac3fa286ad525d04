//! What need not be kept any more goes, in small slices between the appends.

use std::time::Duration;

use actix::prelude::*;
use log::warn;
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior};

use super::Writer;
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
        let change = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut looked_at = 0;
        while looked_at < ROOMS_MAX {
            let select = "SELECT id, messages, floor FROM rooms WHERE id > ?1 ORDER BY id LIMIT 1";
            let next = change.prepare_cached(select)?.query_row([self.pruned], |row| {
                Ok(Room { id: row.get(0)?, messages: row.get(1)?, floor: row.get(2)? })
            });
            let Some(room) = next.optional()? else {
                self.pruned = 0;
                change.commit()?;
                return Ok(false);
            };
            let gone = room.prune(&change, keep_messages, horizon, forgotten, millis(now))?;
            if gone > 0 {
                break;
            }
            self.pruned = room.id;
            looked_at += 1;
        }
        change.commit()?;
        Ok(true)
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
    ) -> rusqlite::Result<i64> {
        let surplus = (self.messages - keep_messages).clamp(0, MESSAGES_MAX);
        // One that seems young before one that is old is from a moment when the clock was ahead.
        let last_old = self.last_old(change, horizon, now)?;
        let mut floor = self.floor;
        let mut pruned = 0;
        let mut oldest = change.prepare_cached(
            "SELECT seq, at FROM messages WHERE room = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
        )?;
        let mut rows = oldest.query((self.id, self.floor, MESSAGES_MAX))?;
        while let Some(row) = rows.next()? {
            let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
            let is_old = horizon.is_some_and(|horizon| at < horizon);
            if pruned >= surplus && !is_old && last_old.is_none_or(|last| seq > last) {
                break;
            }
            (floor, pruned) = (seq, pruned + 1);
        }
        if pruned > 0 {
            change
                .prepare_cached(
                    "UPDATE rooms SET messages = messages - ?2, floor = ?3 WHERE id = ?1",
                )?
                .execute((self.id, pruned, floor))?;
            change
                .prepare_cached(
                    "DELETE FROM messages WHERE room = ?1 AND seq > ?2 AND seq <= ?3
                     AND (id IS NULL OR at < ?4)",
                )?
                .execute((self.id, self.floor, floor, forgotten))?;
            // What is left of the others is enough to know them again.
            change
                .prepare_cached(
                    "UPDATE messages SET nick = '', text = ''
                     WHERE room = ?1 AND seq > ?2 AND seq <= ?3",
                )?
                .execute((self.id, self.floor, floor))?;
            return Ok(pruned);
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
        Ok(i64::try_from(forgotten).unwrap_or(i64::MAX))
    }
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
