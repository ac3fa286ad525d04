//! Entries: everything that happens in rooms, in one order. A [`Draft`] becomes an [`Entry`] when
//! the log has assigned its sequence number.

use std::sync::Arc;

use super::{
    ChatMessage, Emoji, Identity, MessageId, MessageText, Nick, RoomName, Seq, Settings, Timestamp,
    Topic,
};

/// What the hub has accepted and the log has not committed yet.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The room.
    pub room: RoomName,
    /// The author. `None` if the server itself published it.
    pub author: Option<Identity>,
    /// The author's name.
    pub nick: Nick,
    /// The author's id for the draft. Two drafts of one author in one room with the same id are the
    /// same. A draft without an author has none.
    pub id: Option<MessageId>,
    /// Why the author may do this.
    pub right: Right,
    /// What the author does.
    pub action: Action,
}

/// The right under which a draft was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Right {
    /// The author is a member of the room. A message of another author cannot be changed.
    Member,
    /// The program that runs the server permits it. The log does not check the author.
    Grant,
}

/// What a draft does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Adds a message.
    Message {
        /// The text.
        text: MessageText,
        /// See [`ChatMessage::attributed`].
        attributed: bool,
        /// The message of the same room that it replies to.
        reply_to: Option<Seq>,
    },
    /// Replaces the text of a message.
    Edit {
        /// The message.
        target: Seq,
        /// The new text.
        text: MessageText,
    },
    /// Deletes a message. Its text is removed, its place in the room stays.
    Delete {
        /// The message.
        target: Seq,
    },
    /// Adds or removes the author's reaction to a message.
    React {
        /// The message.
        target: Seq,
        /// The reaction.
        emoji: Emoji,
        /// Whether to add it.
        on: bool,
    },
    /// Changes the room.
    Room {
        /// The new topic.
        topic: Topic,
    },
}

impl Action {
    /// Returns the action of adding a message. The hub determines whether it is attributed.
    #[must_use]
    pub fn message(text: MessageText, reply_to: Option<Seq>) -> Self {
        Self::Message { text, attributed: false, reply_to }
    }

    /// Returns the length of its text in bytes.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Message { text, .. } | Self::Edit { text, .. } => text.as_str().len(),
            Self::Room { topic } => topic.as_str().len(),
            Self::Delete { .. } | Self::React { .. } => 0,
        }
    }
}

/// Something that happened: what a log hands out, in its order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Entry {
    /// A message was added.
    Message(Arc<ChatMessage>),
    /// A message or a room was changed.
    Change(Arc<Change>),
    /// The settings of the log were changed.
    Settings(Arc<SettingsChange>),
}

/// Who receives an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Audience {
    /// The members of this room.
    Room,
    /// Nobody. The log and the hub use it.
    Nobody,
}

impl Entry {
    /// Returns the sequence number.
    #[must_use]
    pub fn seq(&self) -> Seq {
        match self {
            Self::Message(message) => message.seq,
            Self::Change(change) => change.seq,
            Self::Settings(change) => change.seq,
        }
    }

    /// Returns the room to which the entry belongs.
    #[must_use]
    pub fn room(&self) -> Option<&RoomName> {
        match self {
            Self::Message(message) => Some(&message.room),
            Self::Change(change) => Some(&change.room),
            Self::Settings(_) => None,
        }
    }

    /// Returns who receives the entry.
    #[must_use]
    pub fn audience(&self) -> Audience {
        match self {
            Self::Message(_) | Self::Change(_) => Audience::Room,
            Self::Settings(_) => Audience::Nobody,
        }
    }

    /// Returns the length of its text in bytes.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.text.as_str().len(),
            Self::Change(change) => change.kind.text_bytes(),
            Self::Settings(_) => 0,
        }
    }
}

/// A change of a message or a room.
#[derive(Clone, Debug)]
pub struct Change {
    /// The room.
    pub room: RoomName,
    /// The sequence number.
    pub seq: Seq,
    /// The time of the commit.
    pub at: Timestamp,
    /// The author of the change. `None` if the server itself made it.
    pub author: Option<Identity>,
    /// The author's name.
    pub nick: Nick,
    /// The author's id for the change.
    pub id: Option<MessageId>,
    /// What was changed.
    pub kind: ChangeKind,
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeKind {
    /// The text of a message was replaced.
    Edit {
        /// The message.
        target: Seq,
        /// The new text.
        text: MessageText,
    },
    /// A message was deleted.
    Delete {
        /// The message.
        target: Seq,
    },
    /// The author's reaction to a message was added or removed.
    React {
        /// The message.
        target: Seq,
        /// The reaction.
        emoji: Emoji,
        /// Whether it was added.
        on: bool,
        /// How many authors react to the message with this emoji now.
        count: u32,
    },
    /// The room was changed.
    Room {
        /// The new topic.
        topic: Topic,
    },
}

impl ChangeKind {
    /// Returns the message that was changed.
    #[must_use]
    pub fn target(&self) -> Option<Seq> {
        match self {
            Self::Edit { target, .. } | Self::Delete { target } | Self::React { target, .. } => {
                Some(*target)
            }
            Self::Room { .. } => None,
        }
    }

    /// Returns the length of the text in bytes.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            Self::Edit { text, .. } => text.as_str().len(),
            Self::Room { topic } => topic.as_str().len(),
            Self::Delete { .. } | Self::React { .. } => 0,
        }
    }
}

/// A change of the log's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsChange {
    /// The sequence number.
    pub seq: Seq,
    /// The time of the commit.
    pub at: Timestamp,
    /// The new settings.
    pub settings: Settings,
}

/// How many authors react to a message with one emoji.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactionCount {
    /// The message.
    pub target: Seq,
    /// The emoji.
    pub emoji: Emoji,
    /// The number of authors.
    pub count: u32,
    /// Whether the reader of the answer is one of them.
    pub mine: bool,
}

/// One author's reaction to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// The message.
    pub target: Seq,
    /// The emoji.
    pub emoji: Emoji,
    /// The author. `None` is the server itself.
    pub author: Option<Identity>,
}
