//! The rules by which a log decides what becomes of a draft. They depend only on the entries before
//! it: their order, their times and the settings among them. So every copy of a log decides the
//! same, whenever it applies an entry and whenever it deletes what is not kept any more.
//!
//! An append is applied in this order, at its time `at`:
//!
//! 1. **Age.** With [`Settings::keep_for`], in every room all messages up to the last one with
//!    `message.at < at - keep_for` are pruned.
//! 2. **Each draft**, in order:
//!    - A draft with an id is a duplicate if the same author has a message with this id in the same
//!      room that is kept or younger than [`DEDUPLICATION_WINDOW`], or a change with this id that is
//!      younger than that. Here age is measured from the greatest time of this and all earlier
//!      appends. So an id that was forgotten is not recognized again when the clock is set back.
//!      A draft without an author is never a duplicate.
//!    - The target of an edit, a deletion or a reaction, and the message that a message replies to,
//!      must be kept in the same room. Only a reply may have a deleted target. Otherwise the draft
//!      is refused with [`Refused::NotFound`].
//!    - Without [`Right::Grant`], an edit or a deletion also needs
//!      [`Settings::edits`] ([`Refused::EditsDisabled`]), the target's author
//!      ([`Refused::OtherAuthor`]), and `at - target.at <= edit_window` ([`Refused::TooLate`]); they
//!      are checked in this order. `None` is an author like any other.
//!    - A reaction with a new emoji to a message that has [`EMOJIS_MAX`] different ones, or a new
//!      reaction to a message that has [`REACTIONS_MAX`], is refused with
//!      [`Refused::TooManyReactions`].
//!    - Otherwise it is kept with the next sequence number, even if it changes nothing, such as a
//!      reaction that the message has already. A refused draft and a duplicate take no sequence
//!      number.
//! 3. **Number.** In each room of the append, the oldest messages beyond [`Settings::keep_messages`]
//!    are pruned.
//! 4. **Bytes.** While all messages together exceed [`Settings::keep_bytes`], the oldest message of
//!    the largest room is pruned, even if it is the room's last. Of equally large rooms it is the
//!    first by name. A message counts as its present text and [`MESSAGE_BYTES`], each reaction to it
//!    as [`REACTION_BYTES`].
//!
//! A room's floor is the sequence number of the last message that was pruned; it never becomes
//! lower. A message is kept if it is after the floor. Deleted messages are kept as places without
//! text and without reactions, and count as messages. New settings take the next sequence number
//! and are applied to all rooms at once, in the order of 1, 3 and 4.

use std::time::Duration;

use thiserror::Error;

use crate::domain::{Identity, Right, Settings, Timestamp};

/// What each message counts in addition to its text, in bytes. Its row and its index entry in the
/// journal take about as much.
pub const MESSAGE_BYTES: u64 = 128;

/// What each reaction counts, in bytes.
pub const REACTION_BYTES: u64 = 64;

/// The minimum time for which a draft with an id is recognized when it is sent again.
pub const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// The greatest number of different emoji at one message.
pub const EMOJIS_MAX: usize = 20;

/// The greatest number of reactions to one message.
pub const REACTIONS_MAX: u64 = 65_536;

/// Why the rules do not permit a draft.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The message that it refers to is not in the room, is not kept any more, or is deleted.
    #[error("there is no such message in this room, or it was deleted")]
    NotFound,
    /// Another author wrote the message.
    #[error("only its author may change a message")]
    OtherAuthor,
    /// Messages cannot be changed here.
    #[error("messages cannot be edited or deleted on this server")]
    EditsDisabled,
    /// The message is older than the edit window.
    #[error("the message is too old to be edited or deleted")]
    TooLate,
    /// The message has too many reactions.
    #[error("the message has too many different reactions")]
    TooManyReactions,
}

/// Returns what a message with its reactions counts, in bytes.
pub(crate) fn counted_bytes(text_bytes: usize, reactions: usize) -> u64 {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let reactions = count(reactions).saturating_mul(REACTION_BYTES);
    count(text_bytes).saturating_add(MESSAGE_BYTES).saturating_add(reactions)
}

/// Returns whether an id of this time is recognized even if no kept message has it. `latest` is the
/// greatest time of this and all earlier appends.
pub(crate) fn is_recent(at: Timestamp, latest: Timestamp) -> bool {
    latest.since(at) < DEDUPLICATION_WINDOW
}

/// Checks whether an author may edit or delete a message at the time `at`.
pub(crate) fn may_change(
    right: Right,
    author: Option<Identity>,
    target_author: Option<Identity>,
    target_at: Timestamp,
    at: Timestamp,
    settings: &Settings,
) -> Result<(), Refused> {
    let is_too_late = || settings.edit_window.is_some_and(|window| at.since(target_at) > window);
    match right {
        Right::Grant => Ok(()),
        Right::Member if !settings.edits => Err(Refused::EditsDisabled),
        Right::Member if author != target_author => Err(Refused::OtherAuthor),
        Right::Member if is_too_late() => Err(Refused::TooLate),
        Right::Member => Ok(()),
    }
}

/// Checks whether a message may get a reaction that it does not have yet. It has this number of
/// reactions and of different emoji.
pub(crate) fn may_react(has_emoji: bool, emojis: usize, reactions: usize) -> Result<(), Refused> {
    let has_too_many = u64::try_from(reactions).is_ok_and(|reactions| reactions >= REACTIONS_MAX);
    if has_too_many || !has_emoji && emojis >= EMOJIS_MAX {
        return Err(Refused::TooManyReactions);
    }
    Ok(())
}
