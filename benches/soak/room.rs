//! The state of a room at a good client that follows `docs/PROTOCOL.md`: which messages it has
//! received, and the last of them in their current state.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::history::ReceivedRange;
use super::protocol::Line;

/// How many messages a client keeps with their state, in each room.
const KEPT: usize = 100;

const EMOJI: [&str; 3] = ["👍", "🎉", "❤️"];

/// The state of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MessageState {
    pub(crate) text: String,
    pub(crate) edited_at: Option<u64>,
    pub(crate) deleted: bool,
    pub(crate) reply_to: Option<u64>,
    /// The number of authors by emoji.
    pub(crate) reactions: BTreeMap<String, u64>,
}

#[derive(Default)]
pub(crate) struct Room {
    pub(crate) epoch: String,
    /// Where the client resumes: the sequence number of the last event.
    pub(crate) position: u64,
    /// The messages received without a gap since it first joined, or since it last joined a node
    /// that had applied less of the log than the client had received.
    pub(crate) received: Option<ReceivedRange>,
    /// The ranges before this one.
    pub(crate) earlier: Vec<ReceivedRange>,
    /// The sequence numbers and ids of messages that wait while the client reads missed messages
    /// page by page, newest page first, until a page reaches the range received before. New
    /// messages are appended.
    pub(crate) missed: Option<VecDeque<(u64, String)>>,
    pub(crate) joined: bool,
    /// Whether the farewell was received.
    pub(crate) done: bool,
    /// The last messages with an id.
    pub(crate) messages: BTreeMap<u64, MessageState>,
    pub(crate) topic: String,
    /// The client's own last message, unless the client has deleted it.
    own: Option<u64>,
    /// The client's last reaction, unless the client has removed it.
    reaction: Option<(u64, &'static str)>,
    /// Messages whose final state the server's answers determine: the text of the client's last
    /// edit, or `None` for a deleted message.
    pub(crate) settled: BTreeMap<u64, Option<String>>,
}

impl Room {
    /// Moves the position to an event. Fails if it is not newer than the last one.
    pub(crate) fn advance(&mut self, seq: u64) -> Result<(), String> {
        let last = std::mem::replace(&mut self.position, seq);
        if seq > last { Ok(()) } else { Err(format!("event {seq} was received after {last}")) }
    }

    /// Forgets what depends on the connection.
    pub(crate) fn disconnect(&mut self) {
        self.joined = false;
        if let (Some(_), Some(received)) = (self.missed.take(), &self.received) {
            // The client has not read all missed messages.
            self.position = received.last;
        }
    }

    /// Adds a message in its current state, or replaces it. Leaves out messages without an id,
    /// because they are of hostile clients and would displace the others.
    pub(crate) fn add(&mut self, message: &Line<'_>) {
        if message.id.is_empty() {
            return;
        }
        let state = MessageState {
            text: message.text.to_string(),
            edited_at: message.edited_at,
            deleted: message.deleted,
            reply_to: message.reply_to,
            reactions: message.reactions.clone(),
        };
        self.messages.insert(message.seq, state);
        if self.messages.len() > KEPT {
            self.messages.pop_first();
        }
    }

    /// Applies `edited`, `deleted`, `reacted` or `room`.
    pub(crate) fn apply(&mut self, change: &Line<'_>) {
        if change.r#type == "room" {
            self.topic = change.topic.to_string();
        }
        let Some(message) = self.messages.get_mut(&change.target) else { return };
        match change.r#type {
            "edited" => {
                message.text = change.text.to_string();
                message.edited_at = Some(change.at);
            }
            "deleted" => {
                message.deleted = true;
                message.text.clear();
                message.edited_at = None;
                message.reactions.clear();
            }
            "reacted" if change.count == 0 => {
                message.reactions.remove(&*change.emoji);
            }
            "reacted" => {
                message.reactions.insert(change.emoji.to_string(), change.count);
            }
            _ => {}
        }
    }

    /// Returns a random change, without `room` and `id`, with this text for an edit or a topic. One
    /// in five commands is a change or a reply. Returns `None` for a message.
    ///
    /// The server may process a command that is sent again after later ones, so the client must not
    /// have other commands without an answer.
    pub(crate) fn random_change(&mut self, text: &str) -> Option<Value> {
        let newest = self.messages.last_key_value().map(|(seq, _)| *seq);
        match fastrand::u32(0..100) {
            0..6 => Some(json!({"type": "edit", "seq": self.own?, "text": text})),
            6..10 => Some(json!({"type": "delete", "seq": self.own.take()?})),
            10..12 if self.reaction.is_some() => {
                let (seq, emoji) = self.reaction.take()?;
                Some(json!({"type": "react", "seq": seq, "emoji": emoji, "on": false}))
            }
            10..15 => {
                let (seq, emoji) = (newest?, *fastrand::choice(&EMOJI)?);
                self.reaction = Some((seq, emoji));
                Some(json!({"type": "react", "seq": seq, "emoji": emoji, "on": true}))
            }
            15 => Some(json!({"type": "set_room", "topic": text})),
            _ => None,
        }
    }

    /// Returns the message to which the next message replies, if it does: for one in twenty
    /// messages, the newest message of the room.
    pub(crate) fn random_target(&self) -> Option<u64> {
        let newest = self.messages.last_key_value().map(|(seq, _)| *seq);
        newest.filter(|_| fastrand::u32(0..20) == 0)
    }

    /// Processes the acknowledgement of a command, which is committed as entry `seq`.
    pub(crate) fn acknowledge(&mut self, command: &Value, seq: u64) {
        let target = command["seq"].as_u64().unwrap_or_default();
        match command["type"].as_str() {
            Some("say") => self.own = Some(seq),
            Some("edit") => {
                self.settled.insert(target, command["text"].as_str().map(str::to_owned));
            }
            Some("delete") => {
                self.settled.insert(target, None);
            }
            _ => {}
        }
    }
}
