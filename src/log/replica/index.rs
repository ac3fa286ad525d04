//! Finds rooms by size and age, so that no append examines all rooms.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::room::Room;
use crate::domain::{RoomName, Seq, Timestamp};

/// The rooms in several orders.
#[derive(Default)]
pub(super) struct RoomIndex {
    bytes: u64,
    /// The rooms with messages, largest first.
    by_bytes: BTreeSet<(Reverse<u64>, RoomName)>,
    /// The rooms with messages, by the earliest time of a message.
    by_age: BTreeSet<(Timestamp, RoomName)>,
    /// The rooms without messages, by their last entry.
    idle: BTreeSet<(Seq, RoomName)>,
}

/// The keys under which the index has a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    /// The size of all messages. `None` without messages.
    pub(super) bytes: Option<u64>,
    /// The earliest time of a message.
    pub(super) earliest: Option<Timestamp>,
    /// The last entry of a room without messages.
    pub(super) idle: Option<Seq>,
}

impl RoomIndex {
    /// Returns the size of all messages in all rooms.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the room whose messages have the most bytes.
    pub(super) fn largest_room(&self) -> Option<&RoomName> {
        self.by_bytes.first().map(|(_, name)| name)
    }

    /// Returns a room that has a message from before `cutoff`.
    pub(super) fn room_with_message_before(&self, cutoff: Timestamp) -> Option<&RoomName> {
        self.by_age.first().filter(|(earliest, _)| *earliest < cutoff).map(|(_, name)| name)
    }

    /// Returns the oldest of the rooms without messages if there are more than `most`.
    pub(super) fn idle_room_beyond(&self, most: usize) -> Option<&RoomName> {
        self.idle.first().filter(|_| self.idle.len() > most).map(|(_, name)| name)
    }

    /// Updates the keys of a room that has changed.
    pub(super) fn update(&mut self, name: &RoomName, room: &mut Room) {
        let (old, new) = (room.indexed, room.keys());
        self.replace(name, old, new);
        room.indexed = new;
    }

    /// Removes a room.
    pub(super) fn remove(&mut self, name: &RoomName, room: &Room) {
        self.replace(name, room.indexed, Keys::default());
    }

    fn replace(&mut self, name: &RoomName, old: Keys, new: Keys) {
        self.bytes = self.bytes - old.bytes.unwrap_or(0) + new.bytes.unwrap_or(0);
        move_room(&mut self.by_bytes, name, old.bytes.map(Reverse), new.bytes.map(Reverse));
        move_room(&mut self.by_age, name, old.earliest, new.earliest);
        move_room(&mut self.idle, name, old.idle, new.idle);
    }
}

fn move_room<K: Ord>(
    rooms: &mut BTreeSet<(K, RoomName)>,
    name: &RoomName,
    old: Option<K>,
    new: Option<K>,
) {
    if old == new {
        return;
    }
    if let Some(old) = old {
        rooms.remove(&(old, name.clone()));
    }
    if let Some(new) = new {
        rooms.insert((new, name.clone()));
    }
}
