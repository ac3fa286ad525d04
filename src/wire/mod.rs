//! The protocols: from a client's frame to a [`Command`], from an [`Event`] or a [`Batch`] to
//! frames. Pure functions over [`domain`](crate::domain); no actor and no address is known here.

mod batch;
mod event;
pub mod json;
mod notice;
pub mod text;

pub use batch::Batch;
pub use event::{ErrorCode, Event, Limits, Refusal, Reply};
pub use notice::Notice;

use serde::Serialize;

use crate::domain::{Identity, MessageId, MessageText, Nick, Position, RoomName, Seq};

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain lines, as in gorilla/websocket's chat example: see [`text`].
    Text,
    /// One JSON object to a line: see [`json`].
    Json,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Says who it is.
    Hello {
        /// By what name; without one it stays as it is.
        nick: Option<Nick>,
        /// Whose client it is; without a key it stays by itself.
        identity: Option<Identity>,
    },
    /// Go by another name.
    Nick {
        /// Which.
        nick: Nick,
    },
    /// Be a member of a room.
    Join {
        /// Which.
        room: RoomName,
        /// What the client has seen of it, if it has been here before.
        after: Option<Position>,
    },
    /// Be one no more.
    Leave {
        /// Of which.
        room: RoomName,
    },
    /// Say something to everyone in a room.
    Say {
        /// In which.
        room: RoomName,
        /// What.
        text: MessageText,
        /// What the client calls it.
        id: Option<MessageId>,
    },
    /// Tell who is in a room.
    Who {
        /// In which.
        room: RoomName,
    },
    /// Let the others in a room know that something is being typed.
    Typing {
        /// In which.
        room: RoomName,
    },
    /// Tell what was said in a room.
    History {
        /// In which.
        room: RoomName,
        /// Before this place; without one, of late.
        before: Option<Seq>,
        /// How many messages at most.
        limit: usize,
    },
}

/// A command, and by what its answer is to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// What the answer echoes.
    pub reference: Option<Ref>,
}

/// What a client attaches to a command, to know the answer by: a number, or a string of at most
/// 64 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Ref(serde_json::Value);
