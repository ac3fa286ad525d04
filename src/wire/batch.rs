//! A batch: messages that go out together, as data and as frames.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::{Protocol, json, text};
use crate::domain::ChatMessage;
use crate::socket::TextFrame;

/// Messages of one room that were flushed together. Every member's session shares the same one,
/// and it is encoded and compressed at most once for each protocol: the first session that needs
/// the result computes it.
#[derive(Debug)]
pub struct Batch {
    messages: Vec<Arc<ChatMessage>>,
    bytes: usize,
    accepted: Instant,
    text: Encoded,
    json: Encoded,
}

/// The frames of one protocol.
#[derive(Debug, Default)]
struct Encoded {
    plain: OnceLock<Vec<TextFrame>>,
    compressed: OnceLock<Vec<TextFrame>>,
}

impl Batch {
    /// A batch of these messages, oldest first, of which the hub accepted the first one then.
    #[must_use]
    pub fn new(messages: Vec<Arc<ChatMessage>>, accepted: Instant) -> Self {
        let bytes = messages.iter().map(|message| message.text.as_str().len()).sum();
        let (text, json) = (Encoded::default(), Encoded::default());
        Self { messages, bytes, accepted, text, json }
    }

    /// The length of all its texts, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the hub accepted the first of them.
    #[must_use]
    pub fn accepted(&self) -> Instant {
        self.accepted
    }

    /// The messages as data, oldest first.
    #[must_use]
    pub fn messages(&self) -> &[Arc<ChatMessage>] {
        &self.messages
    }

    /// The messages as frames, each of several lines.
    #[must_use]
    pub fn frames(&self, protocol: Protocol) -> &[TextFrame] {
        match protocol {
            Protocol::Text => self.text.plain.get_or_init(|| self.encode(text::line)),
            Protocol::Json => self.json.plain.get_or_init(|| self.encode(json::line)),
        }
    }

    /// Returns the frames for clients that negotiated compression. Each frame of at least 200 bytes
    /// is compressed by itself.
    #[must_use]
    pub fn compressed_frames(&self, protocol: Protocol) -> &[TextFrame] {
        let encoded = match protocol {
            Protocol::Text => &self.text,
            Protocol::Json => &self.json,
        };
        encoded
            .compressed
            .get_or_init(|| self.frames(protocol).iter().map(TextFrame::compressed).collect())
    }

    fn encode(&self, line: impl Fn(&ChatMessage) -> String) -> Vec<TextFrame> {
        let lines = self.messages.iter().map(|message| TextFrame::new(&line(message)));
        let mut waiting = lines.collect();
        std::iter::from_fn(|| TextFrame::coalesce(&mut waiting)).collect()
    }
}
