//! The protocols: decodes lines of clients into [`Command`]s, and encodes entries and [`Event`]s
//! as lines. Pure functions over [`domain`](crate::domain), without actors and sockets.

mod disconnect;
mod event;
pub mod json;
pub mod text;

pub use disconnect::DisconnectReason;
pub use event::{ErrorCode, Event, Limits, Refusal, Reply};

use serde::Serialize;

use crate::domain::{
    Emoji, Identity, MessageId, MessageText, Nick, Position, RoomName, SearchQuery, Seq, Topic,
};

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain lines, as in gorilla/websocket's chat example: see [`text`].
    Text,
    /// One JSON object per line: see [`json`].
    Json,
}

/// The bytes that a change counts in addition to its text and its id. Its row in a history file
/// takes about as much.
const CHANGE_BYTES: usize = 128;

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
        /// The message of the same room that it replies to.
        reply_to: Option<Seq>,
    },
    /// Replaces the text of a message.
    Edit {
        /// The room.
        room: RoomName,
        /// The message.
        target: Seq,
        /// The new text.
        text: MessageText,
        /// The client's id for the change.
        id: Option<MessageId>,
    },
    /// Deletes a message.
    Delete {
        /// The room.
        room: RoomName,
        /// The message.
        target: Seq,
        /// The client's id for the change.
        id: Option<MessageId>,
    },
    /// Adds or removes a reaction to a message.
    React {
        /// The room.
        room: RoomName,
        /// The message.
        target: Seq,
        /// The reaction.
        emoji: Emoji,
        /// Whether to add it.
        on: bool,
        /// The client's id for the change.
        id: Option<MessageId>,
    },
    /// Changes a room.
    SetRoom {
        /// The room.
        room: RoomName,
        /// The new topic.
        topic: Topic,
        /// The client's id for the change.
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
    /// Sets the user's read mark for a room: the user has read its messages up to this number.
    Read {
        /// The room.
        room: RoomName,
        /// The sequence number.
        seq: Seq,
    },
    /// Asks for messages of a room.
    History {
        /// The room.
        room: RoomName,
        /// Which messages.
        range: HistoryRange,
        /// The greatest number of messages.
        limit: usize,
    },
    /// Searches stored messages.
    Search {
        /// What to find.
        query: SearchQuery,
    },
}

impl Command {
    /// Returns the bytes that the command counts against rates and the backlog, if it adds an entry
    /// to the log: the length of its text, and for a change also its id and [`CHANGE_BYTES`].
    /// Returns `None` for other commands.
    pub(crate) fn published_bytes(&self) -> Option<usize> {
        let change = |text: &str, id: &Option<MessageId>| {
            let id = id.as_ref().map_or(0, |id| id.as_str().len());
            Some(text.len() + id + CHANGE_BYTES)
        };
        match self {
            Self::Say { text, .. } => Some(text.as_str().len()),
            Self::Edit { text, id, .. } => change(text.as_str(), id),
            Self::SetRoom { topic, id, .. } => change(topic.as_str(), id),
            Self::Delete { id, .. } | Self::React { id, .. } => change("", id),
            Self::Hello { .. }
            | Self::Nick { .. }
            | Self::Join { .. }
            | Self::Leave { .. }
            | Self::Who { .. }
            | Self::Typing { .. }
            | Self::Read { .. }
            | Self::History { .. }
            | Self::Search { .. } => None,
        }
    }
}

/// Which messages of a room a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryRange {
    /// The latest ones.
    Latest,
    /// The last ones before this sequence number.
    Before(Seq),
    /// The first ones after this sequence number.
    After(Seq),
    /// Those around this sequence number: half of the limit is for the message itself and older
    /// ones, half for newer ones.
    Around(Seq),
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
