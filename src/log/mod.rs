//! The log assigns sequence numbers to messages and keeps them. This module is the contract between
//! the hub and a log: the hub sends [`Append`] and [`Page`], the log answers through a
//! [`Responder`]. `memory` keeps no messages, only what is needed to number them; `sqlite` keeps
//! them in a file.

mod memory;
mod responder;
#[cfg(feature = "journal")]
pub mod sqlite;

use actix::prelude::*;
use thiserror::Error;

use crate::domain::{ChatMessage, Draft, Epoch, RoomName, Seq, Timestamp};
pub(crate) use memory::MemoryLog;
pub use responder::Responder;

/// A log that a hub is started with.
#[derive(Clone, Debug)]
pub struct Log {
    /// Identifies the log.
    pub epoch: Epoch,
    /// The sequence number of the last message.
    pub head: Seq,
    /// Appends messages.
    pub append: Recipient<Append>,
    /// Reads messages.
    pub page: Recipient<Page>,
    /// Checks whether the log can append.
    pub probe: Recipient<Probe>,
}

/// The hub's view of its log. A log that can answer at once returns the answer. Otherwise it
/// answers through the responder.
pub(crate) trait LogBackend {
    fn append(&mut self, append: Append) -> Option<Appended>;

    fn page(&mut self, page: Page) -> Option<Paged>;

    /// Returns whether messages can be read back. If not, only the hub's rings have them.
    fn keeps_messages(&self) -> bool;

    /// Returns the recipient that knows whether the log works. A log that always works has none.
    fn probe(&self) -> Option<Recipient<Probe>>;
}

impl LogBackend for Log {
    fn append(&mut self, append: Append) -> Option<Appended> {
        self.append.do_send(append);
        None
    }

    fn page(&mut self, page: Page) -> Option<Paged> {
        self.page.do_send(page);
        None
    }

    fn keeps_messages(&self) -> bool {
        true
    }

    fn probe(&self) -> Option<Recipient<Probe>> {
        Some(self.probe.clone())
    }
}

/// Assigns sequence numbers to messages, in this order, and commits them: all or none.
///
/// The hub has one append in flight at a time.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Append {
    /// The messages. Those of one room are adjacent.
    pub drafts: Vec<Draft>,
    /// Takes the outcome.
    pub answer: Responder<Appended>,
}

/// Asks whether the log can commit messages now. The log tries, unless it has recently.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), LogError>")]
pub struct Probe;

/// The outcome of an [`Append`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Appended {
    /// The messages of the append.
    pub drafts: Vec<Draft>,
    /// The outcome for each message, in the same order.
    pub outcome: Result<Vec<Placed>, LogError>,
}

/// The outcome for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The message is committed with this sequence number and time.
    New(Seq, Timestamp),
    /// The same message was committed before with this sequence number.
    Duplicate(Seq),
}

/// Asks for messages of a room.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Page {
    /// The room.
    pub room: RoomName,
    /// Only messages before this one.
    pub before: Seq,
    /// The greatest number of messages. The log returns the last ones.
    pub limit: usize,
    /// The greatest size of all texts, in bytes. One message is returned in any case.
    pub max_bytes: usize,
    /// Takes the messages.
    pub answer: Responder<Paged>,
}

/// The messages that answer a [`Page`].
#[derive(Clone, Debug, Default)]
pub struct Messages {
    /// The messages, oldest first.
    pub messages: Vec<ChatMessage>,
    /// The page has all messages of the room after this one and before the requested one.
    pub floor: Seq,
    /// Whether the log has older messages of the room.
    pub more: bool,
}

/// The outcome of a [`Page`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Paged {
    /// The number by which the hub recognizes its request.
    pub(crate) request: u64,
    pub(crate) outcome: Result<Messages, LogError>,
}

/// Why the log could not do what it was asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LogError {
    /// The log cannot do it now, for example because the disk is full.
    #[error("{0}")]
    Busy(String),
    /// The log cannot do it.
    #[error("{0}")]
    Failed(String),
    /// The log has stopped.
    #[error("the log has stopped")]
    Died,
}
