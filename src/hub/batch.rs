//! Entries and notices that are delivered to many clients, encoded at most once.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::domain::{ChatMessage, Entry};
use crate::protocol::{Event, Protocol, json, text};
use crate::websocket::TextFrame;

/// Entries of one room that are delivered together. The sessions of all members share the batch. It
/// is encoded and compressed at most once for each protocol, by the first session that needs it.
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

    /// Returns the entries as frames of one or more lines. Returns no frames if the protocol has no
    /// lines for these entries.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Change, ChangeKind, MessageText, Nick, RoomName, Seq, Timestamp};

    fn message(seq: u64) -> Entry {
        let (room, at) = (RoomName::default(), Timestamp::now());
        let nick = Nick::parse("ada").expect("a name");
        let text = MessageText::parse("hello", 100).expect("a text");
        Entry::Message(Arc::new(ChatMessage::new(room, Seq::new(seq), at, nick, text)))
    }

    fn edit(seq: u64, target: u64) -> Entry {
        let text = MessageText::parse("new", 100).expect("a text");
        Entry::Change(Arc::new(Change {
            room: RoomName::default(),
            seq: Seq::new(seq),
            at: Timestamp::now(),
            author: None,
            nick: Nick::parse("ada").expect("a name"),
            id: None,
            kind: ChangeKind::Edit { target: Seq::new(target), text },
        }))
    }

    /// Returns the length of all lines and of the line breaks between them.
    fn text_bytes(frames: &[TextFrame]) -> usize {
        frames.iter().map(|frame| frame.encoded_len()).sum()
    }

    #[test]
    fn batch_encodes_messages_for_both_protocols_and_changes_for_json() {
        let batch = Batch::new(vec![message(1), edit(2, 1), message(3)], Instant::now());
        let messages = Batch::new(vec![message(1), message(3)], Instant::now());
        let seqs: Vec<_> = batch.messages().map(|message| message.seq.get()).collect();
        assert_eq!(seqs, [1, 3]);
        assert_eq!(batch.bytes(), "hello".len() + "new".len() + "hello".len());
        let lengths =
            |protocol| [&batch, &messages].map(|batch| text_bytes(batch.frames(protocol)));
        let [with_change, without] = lengths(Protocol::Text);
        assert_eq!(with_change, without);
        let [with_change, without] = lengths(Protocol::Json);
        assert!(with_change > without, "{with_change} {without}");
    }

    #[test]
    fn batch_without_lines_for_a_protocol_has_no_frames() {
        let batch = Batch::new(vec![edit(2, 1)], Instant::now());
        assert!(batch.frames(Protocol::Text).is_empty());
        assert!(batch.compressed_frames(Protocol::Text).is_empty());
        assert_eq!(batch.frames(Protocol::Json).len(), 1);
    }
}
