//! What the server tells clients, except messages for a whole room.

use std::borrow::Cow;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use super::Ref;
use crate::domain::{
    Author, Change, ChatMessage, Durability, Epoch, MessageId, Nick, ReactionCount, RoomName,
    SearchResult, Seq, Topic, Unread,
};

/// An event of the JSON protocol, except those that deliver an entry of the log.
/// [`json`](super::json) defines its serialized form.
#[derive(Clone, Debug)]
pub enum Event {
    /// Answers `hello`.
    Welcome {
        /// The client's name.
        nick: Nick,
        /// The client's public identity.
        author: Author,
        /// The limits for what the client sends.
        limits: Limits,
        /// What a committed message survives.
        durability: Durability,
    },
    /// Answers `join`. The client is now a member.
    Joined {
        /// The room.
        room: RoomName,
        /// The log.
        epoch: Epoch,
        /// The client's position: earlier entries are in `messages` and `changes` or were received
        /// before, and later ones will be delivered.
        seq: Seq,
        /// Whether `messages` and `changes` contain everything that the client has missed.
        /// Otherwise `messages` are the latest ones.
        recovered: bool,
        /// The room's topic.
        topic: Topic,
        /// The names of the members, at most 100.
        members: Vec<Nick>,
        /// The number of members.
        member_count: usize,
        /// The unread messages of the client's user up to `seq`. `None` if the user has no read
        /// mark for the room, or the log cannot count.
        unread: Option<Unread>,
        /// Messages in their current state, oldest first.
        messages: Vec<Arc<ChatMessage>>,
        /// The reactions to these messages, sorted by message. Empty if `recovered`, since the
        /// reactions are among the changes.
        counts: Vec<ReactionCount>,
        /// Changes that the client has missed, oldest first. Empty unless `recovered`.
        changes: Vec<Arc<Change>>,
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
    /// Tells a client that its user has read the messages of a room up to a sequence number, on
    /// another connection.
    Read {
        /// The room.
        room: RoomName,
        /// The sequence number.
        seq: Seq,
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
        /// Messages in their current state, oldest first.
        messages: Vec<Arc<ChatMessage>>,
        /// The reactions to these messages, sorted by message.
        counts: Vec<ReactionCount>,
        /// Whether there are older messages.
        more: bool,
        /// Whether there are newer messages.
        more_newer: bool,
    },
    /// Answers `search`.
    Search {
        /// The results, newest first.
        results: Vec<SearchResult>,
        /// Whether there may be older results.
        more: bool,
        /// Whether some messages were not searched, because they are not indexed yet or the time
        /// ran out.
        incomplete: bool,
    },
    /// Answers `say`, `edit`, `delete`, `react` and `set_room`: the entry is committed.
    Said {
        /// The room.
        room: RoomName,
        /// The sequence number.
        seq: Seq,
        /// The client's id for the entry.
        id: Option<MessageId>,
        /// Whether the entry had been committed before. It is not delivered again.
        duplicate: bool,
    },
    /// Answers a command that failed.
    Error(Refusal),
}

impl Event {
    /// Returns the error for a request to a room of which the client is not a member.
    pub(crate) fn not_joined() -> Self {
        Self::Error(Refusal::not_joined())
    }

    /// Removes and returns the contents of `joined` or `history`. Other events have none.
    pub(super) fn take_contents(&mut self) -> Contents {
        match self {
            Self::Joined { messages, counts, changes, .. } => {
                Contents { messages: take(messages), counts: take(counts), changes: take(changes) }
            }
            Self::History { messages, counts, .. } => {
                Contents { messages: take(messages), counts: take(counts), changes: Vec::new() }
            }
            Self::Welcome { .. }
            | Self::Presence { .. }
            | Self::Renamed { .. }
            | Self::Typing { .. }
            | Self::Read { .. }
            | Self::Members { .. }
            | Self::Left { .. }
            | Self::Search { .. }
            | Self::Said { .. }
            | Self::Error(_) => Contents::default(),
        }
    }

    /// Returns about how much memory the event takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let contents = match self {
            Self::Joined { topic, messages, counts, changes, .. } => {
                let changes =
                    changes.iter().map(|change| size_of::<Change>() + change.kind.text_bytes());
                topic.as_str().len() + contents_bytes(messages, counts) + changes.sum::<usize>()
            }
            Self::History { messages, counts, .. } => contents_bytes(messages, counts),
            Self::Search { results, .. } => results.iter().map(SearchResult::memory_bytes).sum(),
            Self::Presence { joined, left, .. } => (joined.len() + left.len()) * size_of::<Nick>(),
            Self::Members { members, .. } => members.len() * size_of::<Nick>(),
            Self::Welcome { .. }
            | Self::Renamed { .. }
            | Self::Typing { .. }
            | Self::Read { .. }
            | Self::Left { .. }
            | Self::Said { .. }
            | Self::Error(_) => 0,
        };
        size_of::<Reply>() + contents
    }
}

/// What `joined` and `history` contain.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) messages: Vec<Arc<ChatMessage>>,
    pub(super) counts: Vec<ReactionCount>,
    pub(super) changes: Vec<Arc<Change>>,
}

/// Returns the length of all texts and quotes, and the size of the counts, in bytes.
fn contents_bytes(messages: &[Arc<ChatMessage>], counts: &[ReactionCount]) -> usize {
    let text_bytes = |message: &Arc<ChatMessage>| {
        let quote = message.quote.as_ref().map_or(0, |quote| quote.text.len());
        message.text.as_str().len() + quote
    };
    messages.iter().map(text_bytes).sum::<usize>() + size_of_val(counts)
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
    /// The maximum number of results in one answer to `search`. `None` if the server cannot search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<usize>,
    /// Whether authors may edit and delete their messages.
    pub edits: bool,
    /// How long after sending a message its author may edit or delete it, in milliseconds. `None`
    /// is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit_window_ms: Option<u64>,
    /// The maximum number of unread messages that `joined` counts. `None` if the server keeps no
    /// read marks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<usize>,
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

    /// Returns the refusal of a request to a room of which the client is not a member.
    pub(crate) fn not_joined() -> Self {
        Self::new(ErrorCode::NotJoined, "join the room first")
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
    /// The message that the command refers to is not in the room, is not kept any more, or is
    /// deleted.
    NotFound,
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
            | Self::NotFound
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
