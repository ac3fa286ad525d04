//! Finds the messages that an older version stored. The table `messages` is sorted by room, so they
//! are collected window by window, and then added to `message_rooms` in the order of their sequence
//! numbers.

use rusqlite::Connection;

/// The size of a [`Window`], in sequence numbers.
const WINDOW: i64 = if cfg!(test) { 100 } else { 1 << 20 };

/// The maximum number of rooms in which one step looks for messages of a window.
const WINDOW_ROOMS: i64 = if cfg!(test) { 3 } else { 500 };

/// The maximum number of messages that one step finds. SQLite reads their texts, too.
const FOUND_MAX: usize = if cfg!(test) { 20 } else { 50_000 };

/// The maximum number of messages that one step adds to `message_rooms`.
const WINDOW_ROWS: usize = if cfg!(test) { 10 } else { 5000 };

/// The messages of all rooms in a range of sequence numbers, as far as they were found.
#[derive(Debug)]
pub(super) struct Window {
    /// The range, which includes `bottom` but not `top`.
    pub(super) bottom: i64,
    pub(super) top: i64,
    /// The room that is examined next, from this sequence number on.
    room: i64,
    seq: i64,
    /// Whether all rooms were examined.
    is_whole: bool,
    /// Sequence numbers and rooms. When the window is whole, they are sorted, highest first.
    messages: Vec<(i64, i64)>,
}

impl Window {
    /// Returns the window that ends before a sequence number.
    pub(super) fn below(top: i64) -> Self {
        let bottom = (top - WINDOW).max(0);
        Self { bottom, top, room: 0, seq: bottom, is_whole: false, messages: Vec::new() }
    }

    /// Finds some messages, or adds some when all are found. Returns false if all are added.
    pub(super) fn step(&mut self, connection: &Connection) -> rusqlite::Result<bool> {
        if !self.is_whole {
            self.find_messages(connection)?;
        } else if self.messages.is_empty() {
            return Ok(false);
        } else {
            self.add_messages(connection)?;
        }
        Ok(true)
    }

    /// Finds some messages, room by room.
    fn find_messages(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut rooms = connection
            .prepare_cached("SELECT id, floor FROM rooms WHERE id >= ?1 ORDER BY id LIMIT ?2")?;
        let mut messages = connection.prepare_cached(
            "SELECT seq FROM messages WHERE room = ?1 AND seq >= ?2 AND seq < ?3 ORDER BY seq",
        )?;
        let mut rooms = rooms.query((self.room, WINDOW_ROOMS))?;
        let (mut examined, mut found) = (0, 0);
        while let Some(row) = rooms.next()? {
            let (room, floor): (i64, i64) = (row.get(0)?, row.get(1)?);
            if room > self.room {
                (self.room, self.seq) = (room, self.bottom);
            }
            let mut rows = messages.query((room, self.seq.max(floor + 1), self.top))?;
            while let Some(row) = rows.next()? {
                self.seq = row.get(0)?;
                if found == FOUND_MAX {
                    return Ok(());
                }
                self.messages.push((self.seq, room));
                found += 1;
            }
            (self.room, self.seq, examined) = (room + 1, self.bottom, examined + 1);
        }
        if examined < WINDOW_ROOMS {
            self.is_whole = true;
            self.messages.sort_unstable_by_key(|(seq, _)| std::cmp::Reverse(*seq));
        }
        Ok(())
    }

    /// Adds some messages to `message_rooms`, oldest first.
    fn add_messages(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        // The message may have been pruned since it was found.
        let mut insert = connection.prepare_cached(
            "INSERT OR IGNORE INTO message_rooms
             SELECT ?1, id FROM rooms WHERE id = ?2 AND floor < ?1",
        )?;
        for _ in 0..WINDOW_ROWS {
            let Some(message) = self.messages.pop() else { break };
            insert.execute(message)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::tests::{append_numbers, folder, options, writer};

    #[test]
    fn step_finds_a_limited_number_of_messages_of_a_large_room() {
        let folder = folder();
        let mut writer = writer(&options(&folder.path().join("log.db")));
        append_numbers(&mut writer, "a", 0..50);
        append_numbers(&mut writer, "b", 0..5);
        let mut window = Window::below(56);
        for found in [20, 40, 55] {
            assert!(!window.is_whole);
            window.find_messages(&writer.connection).expect("no error");
            assert_eq!(window.messages.len(), found);
        }
        assert!(window.is_whole);
        let seqs: Vec<_> = window.messages.iter().map(|(seq, _)| *seq).collect();
        assert!(seqs.iter().copied().eq((1..=55).rev()), "{seqs:?}");
        assert!(window.messages.iter().all(|(seq, room)| (*seq > 50) == (*room == 2)));
    }
}
