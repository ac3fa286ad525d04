//! Compares what clients received with the contents of the journal at the end. To save memory, a
//! client keeps only the number of messages that it received in a room, a checksum of them, and the
//! state of the last ones.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;

use super::good_client::PREFIX;
use super::room::{MessageState, Room};

/// A range of messages that a client has received in a room.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedRange {
    /// The sequence number before the range.
    after: u64,
    pub(crate) last: u64,
    count: u64,
    checksum: u64,
}

impl ReceivedRange {
    pub(crate) fn after(seq: u64) -> Self {
        Self { after: seq, last: seq, count: 0, checksum: 0 }
    }

    /// Adds the next message. Fails if it is not newer than the last one.
    pub(crate) fn add(&mut self, seq: u64, id: &str) -> Result<(), String> {
        if seq <= self.last {
            return Err(format!("{seq} ({id}) was received after {}", self.last));
        }
        self.last = seq;
        self.count += 1;
        self.checksum = next_checksum(self.checksum, seq, id);
        Ok(())
    }
}

fn next_checksum(checksum: u64, seq: u64, id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (checksum, seq, id).hash(&mut hasher);
    hasher.finish()
}

/// A line of an export: a message, or the topic of a room.
#[derive(Deserialize)]
struct Exported {
    room: String,
    topic: Option<String>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    id: String,
    #[serde(default)]
    text: String,
    edited_at: Option<u64>,
    #[serde(default)]
    deleted: bool,
    reply_to: Option<u64>,
    #[serde(default)]
    reactions: Vec<ExportedReactions>,
}

#[derive(Deserialize)]
struct ExportedReactions {
    emoji: String,
    identities: Vec<Option<String>>,
}

struct StoredMessage {
    seq: u64,
    /// Empty if it has none.
    id: String,
    state: MessageState,
}

#[derive(Default)]
struct StoredRoom {
    topic: String,
    messages: Vec<StoredMessage>,
}

impl StoredRoom {
    fn find(&self, seq: u64) -> Result<&MessageState, String> {
        let found = self.messages.binary_search_by_key(&seq, |message| message.seq);
        found.map(|n| &self.messages[n].state).map_err(|_| format!("message {seq} is not stored"))
    }
}

/// The messages of the journal, by room.
pub(crate) struct StoredHistory {
    rooms: HashMap<String, StoredRoom>,
}

impl StoredHistory {
    pub(crate) fn parse(export: &str) -> Self {
        let mut rooms: HashMap<String, StoredRoom> = HashMap::new();
        for line in export.lines() {
            let line: Exported = serde_json::from_str(line).unwrap();
            let room = rooms.entry(line.room).or_default();
            if let Some(topic) = line.topic {
                room.topic = topic;
                continue;
            }
            let reactions = line.reactions.into_iter();
            let state = MessageState {
                text: line.text,
                edited_at: line.edited_at,
                deleted: line.deleted,
                reply_to: line.reply_to,
                reactions: reactions.map(|one| (one.emoji, one.identities.len() as u64)).collect(),
            };
            room.messages.push(StoredMessage { seq: line.seq, id: line.id, state });
        }
        Self { rooms }
    }

    pub(crate) fn message_count(&self) -> usize {
        self.rooms.values().map(|room| room.messages.len()).sum()
    }

    /// Returns the number of messages of the largest room.
    pub(crate) fn largest_room(&self) -> usize {
        self.rooms.values().map(|room| room.messages.len()).max().unwrap_or(0)
    }

    /// Returns whether a room has a message with this sequence number and id.
    pub(crate) fn has(&self, name: &str, seq: u64, id: &str) -> bool {
        let all = self.rooms.get(name).map_or(&[][..], |room| &room.messages);
        let found = all.binary_search_by_key(&seq, |message| message.seq);
        found.is_ok_and(|n| all[n].id == id)
    }

    /// Checks that a client has received exactly the stored messages of a range, and returns how
    /// many.
    pub(crate) fn check_range(&self, name: &str, range: &ReceivedRange) -> Result<u64, String> {
        let all = self.rooms.get(name).map_or(&[][..], |room| &room.messages);
        let start = all.partition_point(|message| message.seq <= range.after);
        let end = all.partition_point(|message| message.seq <= range.last);
        let stored = (end - start) as u64;
        if stored != range.count {
            let ReceivedRange { after, last, count, .. } = range;
            return Err(format!(
                "received {count} of {stored} messages after {after} up to {last}"
            ));
        }
        let checksum = all[start..end]
            .iter()
            .fold(0, |sum, message| next_checksum(sum, message.seq, &message.id));
        if checksum == range.checksum {
            Ok(stored)
        } else {
            Err("the received messages differ from the stored ones".into())
        }
    }

    /// Checks that a client's state of the last messages of a room, and of its topic, equals the
    /// stored state, and that no acknowledged change is undone. Returns the number of these
    /// messages.
    pub(crate) fn check_state(&self, name: &str, known: &Room) -> Result<u64, String> {
        let stored = self.rooms.get(name).ok_or("the room is not stored")?;
        if known.topic != stored.topic {
            return Err(format!("the topic is {:?}, stored is {:?}", known.topic, stored.topic));
        }
        for (seq, state) in &known.messages {
            let stored = stored.find(*seq)?;
            if state != stored {
                return Err(format!("message {seq} is {state:?}, stored is {stored:?}"));
            }
        }
        for (seq, text) in &known.settled {
            let stored = stored.find(*seq)?;
            if (text.as_deref().unwrap_or_default(), text.is_none())
                != (stored.text.as_str(), stored.deleted)
            {
                return Err(format!("message {seq} must have {text:?}, stored is {stored:?}"));
            }
        }
        Ok(known.messages.len() as u64)
    }

    /// Returns how often each id of messages of good clients (`good_client.rs`), except farewells,
    /// is stored. Hostile clients use the same ids, but do not delete messages.
    pub(crate) fn good_ids(&self) -> HashMap<&str, u32> {
        let mut ids = HashMap::new();
        for message in self.rooms.values().flat_map(|room| &room.messages) {
            if message.state.text.starts_with(PREFIX) || message.state.deleted {
                *ids.entry(message.id.as_str()).or_default() += 1;
            }
        }
        ids
    }
}
