//! A message, before and after the log has assigned its sequence number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use thiserror::Error;

use super::{Identity, MessageText, Nick, RoomName, Seq, Timestamp, memory_bytes};

/// The id that an author gives to a message, so that a repeated message is recognized: 1 to 64
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct MessageId(Box<str>);

/// The text is not a [`MessageId`]: its length is wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("an id must have 1 to 64 characters")]
pub struct BadMessageId;

impl MessageId {
    /// The greatest number of characters.
    pub const MAX_CHARS: usize = 64;

    /// Parses an id that a client sent.
    ///
    /// # Errors
    /// Returns an error if it is empty or too long.
    pub fn parse(text: &str) -> Result<Self, BadMessageId> {
        if (1..=Self::MAX_CHARS).contains(&text.chars().take(Self::MAX_CHARS + 1).count()) {
            Ok(Self(text.into()))
        } else {
            Err(BadMessageId)
        }
    }

    /// Returns the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Identifies a message before it has a sequence number. Two messages in one room with the same
/// origin are the same message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The author.
    pub author: Identity,
    /// The author's id for the message.
    pub id: MessageId,
}

/// A message that the hub has accepted and the log has not committed yet.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The room.
    pub room: RoomName,
    /// The author's name.
    pub nick: Nick,
    /// The text.
    pub text: MessageText,
    /// Whether the text protocol shows the author's name before the text. Always true for a chosen
    /// name. True for a generated name only if the text could be mistaken for another member's
    /// message.
    pub attributed: bool,
    /// The message's origin, if its author gave it an id.
    pub origin: Option<Origin>,
}

impl Draft {
    /// Returns the message with the sequence number and time that the log assigned.
    #[must_use]
    pub fn placed(self, seq: Seq, at: Timestamp) -> ChatMessage {
        let Self { room, nick, text, attributed, origin } = self;
        let id = origin.map(|origin| origin.id);
        ChatMessage { room, seq, at, nick, text, id, attributed, counted: None }
    }
}

/// A committed message.
#[derive(Clone, Debug)]
pub struct ChatMessage {
    /// The room.
    pub room: RoomName,
    /// The sequence number.
    pub seq: Seq,
    /// The time of the commit.
    pub at: Timestamp,
    /// The author's name.
    pub nick: Nick,
    /// The text.
    pub text: MessageText,
    /// The author's id for the message.
    pub id: Option<MessageId>,
    /// See [`Draft::attributed`].
    pub attributed: bool,
    /// Counts the message as held in memory, if it was read from the log.
    pub(crate) counted: Option<CountedBytes>,
}

impl ChatMessage {
    /// Returns about how much memory the message takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let id = self.id.as_ref().map_or(0, |id| id.as_str().len());
        // A name is usually held in two forms.
        memory_bytes(self.text.as_str().len()) + 2 * self.nick.as_str().len() + id
    }
}

/// Adds its bytes to a shared count while it exists.
#[derive(Debug)]
pub(crate) struct CountedBytes {
    bytes: usize,
    count: Arc<AtomicUsize>,
}

impl CountedBytes {
    pub(crate) fn new(bytes: usize, count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, count: Arc::clone(count) }
    }
}

impl Clone for CountedBytes {
    fn clone(&self) -> Self {
        Self::new(self.bytes, &self.count)
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.count.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
