//! A notice: what all in a room are told that is no message.

use std::sync::OnceLock;

use super::{Event, json};
use crate::socket::TextFrame;

/// Events for everyone in a room, encoded at most once. Only the JSON protocol has them.
#[derive(Debug)]
pub struct Notice {
    events: Vec<Event>,
    frame: OnceLock<TextFrame>,
}

impl Notice {
    /// A notice of these events.
    #[must_use]
    pub fn new(events: Vec<Event>) -> Self {
        Self { events, frame: OnceLock::new() }
    }

    /// The events as data.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The events as one frame of as many lines.
    #[must_use]
    pub fn frame(&self) -> &TextFrame {
        self.frame.get_or_init(|| {
            let lines: Vec<_> = self.events.iter().map(json::event).collect();
            TextFrame::new(&lines.join("\n"))
        })
    }

    /// About how much it holds while it waits, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.events.iter().map(Event::bytes).sum()
    }
}
