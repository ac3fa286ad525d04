//! A message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use thiserror::Error;

use super::{Identity, MessageText, Nick, RoomName, Seq, Timestamp, memory_bytes};

/// The id that an author gives to a message or change, so that the log recognizes a duplicate: 1 to
/// 64 characters.
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

/// A committed message in its current state.
#[derive(Clone, Debug)]
pub struct ChatMessage {
    /// The room.
    pub room: RoomName,
    /// The sequence number.
    pub seq: Seq,
    /// The time of the commit.
    pub at: Timestamp,
    /// The author. `None` if the server itself published it, or if an older version stored it
    /// without an author.
    pub author: Option<Identity>,
    /// The author's name.
    pub nick: Nick,
    /// The text. Empty if the message is deleted.
    pub text: MessageText,
    /// The author's id for the message.
    pub id: Option<MessageId>,
    /// Whether the text protocol shows the author's name before the text. Always true for a chosen
    /// name. True for a generated name only if the text could be mistaken for another member's
    /// message.
    pub attributed: bool,
    /// The message of the same room that it replies to.
    pub reply_to: Option<Seq>,
    /// The beginning of the message that it replies to. `None` if it is not a reply, or if that
    /// message is not kept any more or is deleted.
    pub quote: Option<Arc<Quote>>,
    /// When its text was last changed. `None` if the message is deleted.
    pub edited_at: Option<Timestamp>,
    /// Whether the message is deleted.
    pub deleted: bool,
    /// Counts the message as held in memory, if it was read from the log.
    pub(crate) counted: Option<CountedBytes>,
}

/// The beginning of a message, as a reply shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quote {
    /// The author's name.
    pub nick: Nick,
    /// The first [`Quote::MAX_CHARS`] characters of the text.
    pub text: Box<str>,
}

impl Quote {
    /// The greatest number of characters.
    pub const MAX_CHARS: usize = 100;

    /// Returns the beginning of a message.
    #[must_use]
    pub fn new(nick: Nick, text: &str) -> Self {
        let end = text.char_indices().nth(Self::MAX_CHARS).map_or(text.len(), |(end, _)| end);
        Self { nick, text: text[..end].into() }
    }
}

impl ChatMessage {
    /// Returns a message without an author.
    #[must_use]
    pub fn new(room: RoomName, seq: Seq, at: Timestamp, nick: Nick, text: MessageText) -> Self {
        Self {
            room,
            seq,
            at,
            author: None,
            attributed: !nick.is_anonymous(),
            nick,
            text,
            id: None,
            reply_to: None,
            quote: None,
            edited_at: None,
            deleted: false,
            counted: None,
        }
    }

    /// Returns the beginning of the message for a reply, unless it is deleted.
    #[must_use]
    pub fn as_quote(&self) -> Option<Arc<Quote>> {
        let quote = || Arc::new(Quote::new(self.nick.clone(), self.text.as_str()));
        (!self.deleted).then(quote)
    }

    /// Replaces the text.
    pub(crate) fn edit(&mut self, text: MessageText, at: Timestamp) {
        self.text = text;
        self.edited_at = Some(at);
    }

    /// Removes everything that depends on the text.
    pub(crate) fn delete(&mut self) {
        self.text = MessageText::deleted();
        self.quote = None;
        self.edited_at = None;
        self.deleted = true;
    }

    /// Changes the quote to the new text of the quoted message. Removes it if there is no text.
    pub(crate) fn change_quote(&mut self, text: Option<&MessageText>) {
        let quote = self.quote.take().zip(text);
        let new = |(old, text): (Arc<Quote>, &MessageText)| {
            Arc::new(Quote::new(old.nick.clone(), text.as_str()))
        };
        self.quote = quote.map(new);
    }

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
