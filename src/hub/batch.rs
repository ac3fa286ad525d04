//! Entries and notices that are delivered to many clients, encoded at most once.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::domain::{ChatMessage, Entry};
use crate::protocol::{Event, Protocol, json, text};
use crate::websocket::TextFrame;

/// Entries of one room that were committed together. The sessions of all members share it. It is
/// encoded and compressed at most once for each protocol, by the first session that needs it.
#[derive(Debug)]
pub struct Batch {
    entries: Vec<Entry>,
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
    /// Returns a batch of these entries, oldest first. `accepted` is the time at which the hub
    /// accepted the first one.
    #[must_use]
    pub fn new(entries: Vec<Entry>, accepted: Instant) -> Self {
        let bytes = entries.iter().map(Entry::text_bytes).sum();
        let (text, json) = (Encoded::default(), Encoded::default());
        Self { entries, bytes, accepted, text, json }
    }

    /// Returns the length of all texts in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the time at which the hub accepted the first entry.
    #[must_use]
    pub fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Returns the entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the messages among the entries, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = &Arc<ChatMessage>> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Message(message) => Some(message),
            Entry::Change(_) | Entry::Settings(_) => None,
        })
    }

    /// Returns the entries as frames of one or more lines. Returns no frames if the protocol tells
    /// nothing of them.
    #[must_use]
    pub fn frames(&self, protocol: Protocol) -> &[TextFrame] {
        match protocol {
            Protocol::Text => self.text.plain.get_or_init(|| self.encode(text::entry_line)),
            Protocol::Json => self.json.plain.get_or_init(|| self.encode(json::entry_line)),
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

    fn encode(&self, line: impl Fn(&Entry) -> Option<String>) -> Vec<TextFrame> {
        let mut waiting =
            self.entries.iter().filter_map(line).map(|line| TextFrame::new(&line)).collect();
        std::iter::from_fn(|| TextFrame::coalesce(&mut waiting)).collect()
    }
}

/// Events for the members of a room who speak JSON, encoded at most once.
#[derive(Debug)]
pub struct Notice {
    events: Vec<Event>,
    frame: OnceLock<TextFrame>,
}

impl Notice {
    /// Returns a notice of these events.
    #[must_use]
    pub fn new(events: Vec<Event>) -> Self {
        Self { events, frame: OnceLock::new() }
    }

    /// Returns the events.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Returns the events as one frame with one line per event.
    #[must_use]
    pub fn frame(&self) -> &TextFrame {
        self.frame.get_or_init(|| {
            let lines: Vec<_> = self.events.iter().map(json::event).collect();
            TextFrame::new(&lines.join("\n"))
        })
    }

    /// Returns about how much memory the events take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.events.iter().map(Event::bytes).sum()
    }
}
