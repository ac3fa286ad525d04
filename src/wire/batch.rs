//! A batch: messages that go out together, as data and as frames.

use std::sync::{Arc, OnceLock};

use bytestring::ByteString;

use super::{Protocol, coalesce, text};
use crate::domain::ChatMessage;

/// Messages of one room that were flushed together. Every member's session shares the same one,
/// and it is encoded at most once for each protocol, by whoever asks first.
#[derive(Debug)]
pub struct Batch {
    messages: Vec<Arc<ChatMessage>>,
    bytes: usize,
    text: OnceLock<Vec<ByteString>>,
}

impl Batch {
    /// A batch of these messages, oldest first.
    #[must_use]
    pub fn new(messages: Vec<Arc<ChatMessage>>) -> Self {
        let bytes = messages.iter().map(|message| message.text.as_str().len()).sum();
        Self { messages, bytes, text: OnceLock::new() }
    }

    /// The length of all its texts, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The messages as data, oldest first.
    #[must_use]
    pub fn messages(&self) -> &[Arc<ChatMessage>] {
        &self.messages
    }

    /// The messages as the texts of WebSocket messages, each of several lines.
    #[must_use]
    pub fn frames(&self, protocol: Protocol) -> &[ByteString] {
        let messages = self.messages.iter();
        match protocol {
            Protocol::Text => {
                self.text.get_or_init(|| coalesce(messages.map(|message| text::line(message))))
            }
        }
    }
}
