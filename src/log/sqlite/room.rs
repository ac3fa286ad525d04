//! A row of the table of rooms, as far as the rules depend on it.

use rusqlite::{Connection, OptionalExtension};

use super::rows::{self, count, integer, millis};
use crate::domain::{RoomName, Seq, Timestamp};
use crate::log::rules::MESSAGE_BYTES;

/// A room. The writer keeps the rooms of recent appends in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) id: i64,
    /// The current values.
    pub(super) kept: Kept,
    /// The floor before the current append.
    initial_floor: i64,
    /// The values in the file.
    saved: Kept,
    /// The number of added changes minus the number of removed ones since the last save.
    pub(super) new_changes: i64,
}

/// The messages that a room keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// The number of messages after the floor.
    pub(super) messages: i64,
    /// Their size.
    pub(super) bytes: i64,
    /// The last message that was pruned.
    pub(super) floor: i64,
    /// No message after the floor is older. `None` if there are no messages.
    pub(super) oldest: Option<i64>,
}

impl Room {
    /// Reads a room.
    pub(super) fn load(connection: &Connection, name: &RoomName) -> rusqlite::Result<Option<Self>> {
        let select = "SELECT id, messages, bytes, floor, oldest FROM rooms WHERE name = ?1";
        let mut select = connection.prepare_cached(select)?;
        let room = select.query_row([name.as_str()], |row| {
            let (id, messages, bytes) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let kept = Kept { messages, bytes, floor: row.get(3)?, oldest: row.get(4)? };
            Ok(Self { id, kept, initial_floor: kept.floor, saved: kept, new_changes: 0 })
        });
        room.optional()
    }

    /// Inserts a new room.
    pub(super) fn create(connection: &Connection, name: &RoomName) -> rusqlite::Result<Self> {
        connection
            .prepare_cached("INSERT INTO rooms (name, oldest) VALUES (?1, NULL)")?
            .execute([name.as_str()])?;
        let kept = Kept { messages: 0, bytes: 0, floor: 0, oldest: None };
        let id = connection.last_insert_rowid();
        Ok(Self { id, kept, initial_floor: kept.floor, saved: kept, new_changes: 0 })
    }

    /// Returns the room as it is at the start of another append.
    pub(super) fn at_start_of_append(&self) -> Self {
        Self { initial_floor: self.kept.floor, ..*self }
    }

    /// Returns the floor, if the current append has raised it.
    pub(super) fn raised_floor(&self) -> Option<Seq> {
        (self.kept.floor > self.initial_floor).then(|| rows::seq(self.kept.floor))
    }

    /// Returns whether this sequence number is after the floor.
    pub(super) fn keeps(&self, seq: Seq) -> bool {
        integer(seq) > self.kept.floor
    }

    /// Counts a new message.
    pub(super) fn add_message(&mut self, at: Timestamp, text_bytes: usize) {
        let at = millis(at);
        self.kept.oldest = match self.kept.oldest {
            Some(oldest) if self.kept.messages > 0 => Some(oldest.min(at)),
            Some(_) | None => Some(at),
        };
        self.kept.messages += 1;
        self.kept.bytes += count(text_bytes) + count(MESSAGE_BYTES);
    }

    /// Raises the floor. `messages` and `bytes` are the number and size of the messages that are
    /// pruned thereby.
    pub(super) fn raise_floor(&mut self, floor: i64, messages: i64, bytes: i64) {
        self.kept.floor = floor;
        self.kept.messages -= messages;
        self.kept.bytes -= bytes;
        if self.kept.messages == 0 {
            self.kept.oldest = None;
        }
    }

    /// Writes the changed values to the file.
    pub(super) fn save(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let Kept { messages, bytes, floor, oldest } = self.kept;
        if (messages, bytes) != (self.saved.messages, self.saved.bytes) || self.new_changes != 0 {
            connection
                .prepare_cached(
                    "UPDATE rooms SET messages = ?2, bytes = ?3, changes = changes + ?4
                     WHERE id = ?1",
                )?
                .execute((self.id, messages, bytes, self.new_changes))?;
            self.new_changes = 0;
        }
        // These columns are in an index, and often stay the same.
        if oldest != self.saved.oldest {
            connection
                .prepare_cached("UPDATE rooms SET oldest = ?2 WHERE id = ?1")?
                .execute((self.id, oldest))?;
        }
        if floor != self.saved.floor {
            connection
                .prepare_cached(
                    "UPDATE rooms SET floor = ?2, unpruned = coalesce(unpruned, floor)
                     WHERE id = ?1",
                )?
                .execute((self.id, floor))?;
        }
        self.saved = self.kept;
        Ok(())
    }
}
