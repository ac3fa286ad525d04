//! The protocols: decodes lines of clients into [`Command`]s, and encodes messages and [`Event`]s
//! as lines. Pure functions over [`domain`](crate::domain), without actors and sockets.

mod disconnect;
mod event;
pub mod json;
pub mod text;

pub use disconnect::DisconnectReason;
pub use event::{ErrorCode, Event, Limits, Refusal, Reply};

use serde::Serialize;

use crate::domain::{Identity, MessageId, MessageText, Nick, Position, RoomName, Seq};

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain lines, as in gorilla/websocket's chat example: see [`text`].
    Text,
    /// One JSON object per line: see [`json`].
    Json,
}

/// A command of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Introduces the client.
    Hello {
        /// The name to use. Without one the client keeps its name.
        nick: Option<Nick>,
        /// The client's identity. Without one the client keeps its identity.
        identity: Option<Identity>,
    },
    /// Changes the name.
    Nick {
        /// The new name.
        nick: Nick,
    },
    /// Joins a room.
    Join {
        /// The room.
        room: RoomName,
        /// The position up to which the client has received the room's messages, if it was a member
        /// before.
        after: Option<Position>,
    },
    /// Leaves a room.
    Leave {
        /// The room.
        room: RoomName,
    },
    /// Publishes a message to the members of a room.
    Say {
        /// The room.
        room: RoomName,
        /// The text.
        text: MessageText,
        /// The client's id for the message.
        id: Option<MessageId>,
    },
    /// Asks for the members of a room.
    Who {
        /// The room.
        room: RoomName,
    },
    /// Tells the other members of a room that the user is typing.
    Typing {
        /// The room.
        room: RoomName,
    },
    /// Asks for earlier messages of a room.
    History {
        /// The room.
        room: RoomName,
        /// Only messages before this one. Without it, the latest ones.
        before: Option<Seq>,
        /// The greatest number of messages.
        limit: usize,
    },
}

/// A command with the reference that its answer repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// The reference.
    pub reference: Option<Ref>,
}

/// The `ref` of a command, which the answer repeats: a number, or a string of at most 64
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Ref(serde_json::Value);
