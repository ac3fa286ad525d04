//! What the server tells clients, except messages for a whole room.

use std::borrow::Cow;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use super::{Ref, json};
use crate::domain::{ChatMessage, Epoch, MessageId, Nick, RoomName, Seq};

/// An event of the JSON protocol, except `message`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// Answers `hello`.
    Welcome {
        /// The client's name.
        nick: Nick,
        /// The limits for what the client sends.
        limits: Limits,
    },
    /// Answers `join`. The client is now a member.
    Joined {
        /// The room.
        room: RoomName,
        /// The log.
        epoch: Epoch,
        /// The client's position: earlier messages are in `messages` or were received before, and
        /// later ones will be delivered.
        seq: Seq,
        /// Whether `messages` are all messages that the client has missed. Otherwise they are the
        /// latest ones.
        recovered: bool,
        /// The names of the members, at most 100.
        members: Vec<Nick>,
        /// The number of members.
        member_count: usize,
        /// Messages, oldest first.
        #[serde(serialize_with = "json::serialize_messages")]
        messages: Vec<Arc<ChatMessage>>,
    },
    /// Tells that users joined and left.
    Presence {
        /// The room.
        room: RoomName,
        /// Users who joined, at most 100.
        joined: Vec<Nick>,
        /// Users who left, at most 100.
        left: Vec<Nick>,
        /// The number of members.
        member_count: usize,
    },
    /// Tells that a user changed their name.
    Renamed {
        /// The room.
        room: RoomName,
        /// The old name.
        from: Nick,
        /// The new name.
        to: Nick,
    },
    /// Tells that a user is typing.
    Typing {
        /// The room.
        room: RoomName,
        /// The user.
        nick: Nick,
    },
    /// Answers `who`.
    Members {
        /// The room.
        room: RoomName,
        /// The names of the members, at most 100.
        members: Vec<Nick>,
        /// The number of members.
        member_count: usize,
    },
    /// Answers `leave`.
    Left {
        /// The room.
        room: RoomName,
    },
    /// Answers `history`.
    History {
        /// The room.
        room: RoomName,
        /// Messages, oldest first.
        #[serde(serialize_with = "json::serialize_messages")]
        messages: Vec<Arc<ChatMessage>>,
        /// Whether there are older messages.
        more: bool,
    },
    /// Answers `say`: the message is committed.
    Said {
        /// The room.
        room: RoomName,
        /// The sequence number.
        seq: Seq,
        /// The client's id for the message.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<MessageId>,
        /// Whether the message had been committed before. It is not delivered again.
        duplicate: bool,
    },
    /// Answers a command that failed.
    Error(Refusal),
}

impl Event {
    /// Returns the error for a request to a room of which the client is not a member.
    pub(crate) fn not_joined() -> Self {
        Self::Error(Refusal::new(ErrorCode::NotJoined, "join the room first"))
    }

    /// Removes and returns the messages of `joined` or `history`. Other events have none.
    pub(super) fn take_messages(&mut self) -> Vec<Arc<ChatMessage>> {
        if let Self::Joined { messages, .. } | Self::History { messages, .. } = self {
            take(messages)
        } else {
            Vec::new()
        }
    }

    /// Returns about how much memory the event takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let texts = match self {
            Self::Joined { messages, .. } | Self::History { messages, .. } => {
                messages.iter().map(|message| message.text.as_str().len()).sum()
            }
            Self::Presence { joined, left, .. } => (joined.len() + left.len()) * size_of::<Nick>(),
            Self::Members { members, .. } => members.len() * size_of::<Nick>(),
            Self::Welcome { .. }
            | Self::Renamed { .. }
            | Self::Typing { .. }
            | Self::Left { .. }
            | Self::Said { .. }
            | Self::Error(_) => 0,
        };
        size_of::<Reply>() + texts
    }
}

/// The limits for what a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Longest text of a message, in bytes.
    pub message_bytes: usize,
    /// Longest WebSocket message, in bytes.
    pub frame_bytes: usize,
    /// Most rooms of one connection, if there is a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<usize>,
    /// Most messages in one answer to `history`.
    pub history: usize,
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The reason for programs.
    pub code: ErrorCode,
    /// The reason for people.
    pub message: Cow<'static, str>,
    /// Whether the same command may succeed later.
    pub temporary: bool,
    /// A free name, if the name was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggested: Option<Nick>,
    /// After how many milliseconds the command may succeed, if a rate was exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// Returns a refusal with this reason.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let temporary = code.is_temporary();
        Self { code, message: message.into(), temporary, suggested: None, retry_after_ms: None }
    }

    /// Returns a refusal of a message that exceeds a rate and may be sent after this time.
    #[must_use]
    pub fn rate_limited(wait: Duration) -> Self {
        // Rounded up, since a client that comes a moment too early would fail again.
        let wait = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let refusal = Self::new(ErrorCode::RateLimited, "too many messages; try again later");
        Self { retry_after_ms: Some(wait.max(1)), ..refusal }
    }
}

/// Why a command failed, for programs. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is not a JSON object with the fields of its `type`.
    BadJson,
    /// There is no such `type`.
    UnknownType,
    /// The first command is not `hello`.
    HelloFirst,
    /// The name of the room is invalid.
    BadRoom,
    /// The name of the user is invalid.
    BadNick,
    /// Another user has the name.
    NickTaken,
    /// The text is longer than the limit.
    TooLong,
    /// The text is empty.
    Empty,
    /// The client is not a member of the room.
    NotJoined,
    /// A rate was exceeded.
    RateLimited,
    /// The server or the room is full, or the log unavailable.
    Busy,
    /// The client must not do this.
    Forbidden,
    /// The server failed.
    Internal,
    /// The server is shutting down.
    ShuttingDown,
}

impl ErrorCode {
    /// All codes in the order of their declaration.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Returns the code as it is sent, which is also its label in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
    }

    /// Returns whether the same command may succeed later.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        match self {
            Self::RateLimited | Self::Busy | Self::ShuttingDown => true,
            Self::BadJson
            | Self::UnknownType
            | Self::HelloFirst
            | Self::BadRoom
            | Self::BadNick
            | Self::NickTaken
            | Self::TooLong
            | Self::Empty
            | Self::NotJoined
            | Self::Forbidden
            | Self::Internal => false,
        }
    }
}

/// An event with the `ref` of the command that it answers.
#[derive(Clone, Debug, Serialize)]
pub struct Reply {
    /// The event.
    #[serde(flatten)]
    pub event: Event,
    /// The command's reference.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<Ref>,
}

impl Reply {
    /// Returns about how much memory the reply takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.event.bytes()
    }
}
