//! What clients are told beside the messages of their rooms.

use std::borrow::Cow;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use super::Ref;
use crate::config::Config;
use crate::domain::{ChatMessage, Epoch, MessageId, Nick, RoomName, Seq};

/// What a client is told that is no message.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// Answers `hello`.
    Welcome {
        /// The name that the client goes by.
        nick: Nick,
        /// What it may send.
        limits: Limits,
    },
    /// Answers `join`: the client is a member from this place of the log on.
    Joined {
        /// Of which room.
        room: RoomName,
        /// Which log it is.
        epoch: Epoch,
        /// The place: all before it is in `messages` or has been seen, all after it will come.
        seq: Seq,
        /// Whether `messages` are all that came after what the client has seen; else they are the
        /// latest.
        recovered: bool,
        /// Who is there, at most 100 of them.
        members: Vec<Nick>,
        /// How many are there.
        member_count: usize,
        /// Oldest first.
        messages: Vec<Arc<ChatMessage>>,
    },
    /// Tells of those who came and went, of each at most 100.
    Presence {
        /// Where.
        room: RoomName,
        /// Who is there now who was not.
        joined: Vec<Nick>,
        /// Who is not any more.
        left: Vec<Nick>,
        /// How many are there.
        member_count: usize,
    },
    /// Tells that somebody goes by another name.
    Renamed {
        /// Where.
        room: RoomName,
        /// The name so far.
        from: Nick,
        /// The name from now on.
        to: Nick,
    },
    /// Tells that somebody is typing.
    Typing {
        /// Where.
        room: RoomName,
        /// Who.
        nick: Nick,
    },
    /// Answers `who`.
    Members {
        /// Of which room.
        room: RoomName,
        /// Who is there, at most 100 of them.
        members: Vec<Nick>,
        /// How many are there.
        member_count: usize,
    },
    /// Answers `leave`.
    Left {
        /// Which room.
        room: RoomName,
    },
    /// Answers `history`.
    History {
        /// Of which room.
        room: RoomName,
        /// Oldest first.
        messages: Vec<Arc<ChatMessage>>,
        /// Whether there are older ones.
        more: bool,
    },
    /// Answers `say`: the message has its place in the log.
    Said {
        /// In which room.
        room: RoomName,
        /// The place.
        seq: Seq,
        /// What the client called it.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<MessageId>,
        /// Whether it had been said before; then everyone has been told already.
        duplicate: bool,
    },
    /// Answers whatever could not be done.
    Error(Refusal),
}

impl Event {
    /// Takes the messages out of `joined` or `history`, oldest first; others have none.
    pub(super) fn take_messages(&mut self) -> Vec<Arc<ChatMessage>> {
        if let Self::Joined { messages, .. } | Self::History { messages, .. } = self {
            take(messages)
        } else {
            Vec::new()
        }
    }

    /// About how much it holds while it waits, in bytes.
    pub(super) fn bytes(&self) -> usize {
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

/// What a client may send: see the flags of these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Longest text of a message, in bytes.
    pub message_bytes: usize,
    /// Longest WebSocket message, in bytes.
    pub frame_bytes: usize,
    /// Rooms to be a member of at once, if that is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<usize>,
    /// Messages in one answer to `history`.
    pub history: usize,
}

impl Limits {
    /// The limits that a server of this configuration has.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            message_bytes: config.max_message_bytes,
            frame_bytes: config.frame_limit(),
            rooms: config.max_rooms_per_client,
            history: super::json::HISTORY_MAX,
        }
    }
}

/// Why a command was not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: Cow<'static, str>,
    /// Whether the same command may succeed later.
    pub temporary: bool,
    /// Of a name that is taken: one that is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggested: Option<Nick>,
    /// Of what is too much just now: after how many milliseconds it may succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal for this reason.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let temporary = code.is_temporary();
        Self { code, message: message.into(), temporary, suggested: None, retry_after_ms: None }
    }

    /// A refusal of what may succeed after this time.
    #[must_use]
    pub fn too_much_just_now(wait: Duration) -> Self {
        // Rounded up: who comes a moment too early comes in vain.
        let wait = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let refusal = Self::new(ErrorCode::RateLimited, "that is too much at once; wait a moment");
        Self { retry_after_ms: Some(wait.max(1)), ..refusal }
    }
}

/// Why a command was not obeyed, for programs. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a JSON object with the fields that its `type` takes.
    BadJson,
    /// No such `type`.
    UnknownType,
    /// Something else before `hello`.
    HelloFirst,
    /// No name of a room.
    BadRoom,
    /// No name of a person.
    BadNick,
    /// A name that somebody else goes by.
    NickTaken,
    /// A text over the limit.
    TooLong,
    /// A text with nothing in it.
    Empty,
    /// The client is no member of the room.
    NotJoined,
    /// More than the client may say just now.
    RateLimited,
    /// The server, or the room, cannot take it just now.
    Busy,
    /// The client may not do that.
    Forbidden,
    /// The server cannot do that.
    Internal,
    /// The server is shutting down.
    ShuttingDown,
}

impl ErrorCode {
    /// Every code, in the order in which they are declared.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The code as it is written, also as the label of a metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
    }

    /// Whether the same command may succeed later.
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

/// An event, and the `ref` of the command that it answers.
#[derive(Clone, Debug, Serialize)]
pub struct Reply {
    /// What the client is told.
    #[serde(flatten)]
    pub event: Event,
    /// What the command carried.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<Ref>,
}

impl Reply {
    /// About how much it holds while it waits, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.event.bytes()
    }
}
