//! The rules by which a log commits or refuses drafts, and prunes messages. A decision depends only
//! on the earlier entries: their order, their times and the settings among them. It does not depend
//! on when a copy of the log applies an entry, or on when it deletes pruned messages. So all copies
//! of a log decide the same.
//!
//! A pruned message is not kept any more: no answer contains it. The log applies an append in this
//! order, at its time `at`:
//!
//! 1. **Age.** With [`Settings::keep_for`], in every room all messages up to the last one with
//!    `message.at < at - keep_for` are pruned.
//! 2. **Each draft**, in order:
//!    - A draft with an author and an id is a duplicate if the same author has, in the same room
//!      and with the same id, a message that is kept, or a message or change that is younger than
//!      [`DEDUPLICATION_WINDOW`]. This age is measured from the greatest time of this and all
//!      earlier appends. So an id that has expired is not recognized again when the clock is set
//!      back. A draft without an author is never a duplicate.
//!    - The target of an edit, a deletion or a reaction must be a kept message of the same room
//!      that is not deleted. The message to which a message replies must be a kept message of the
//!      same room, and may be deleted. Otherwise the draft is refused with [`Refused::NotFound`].
//!    - Without [`Right::Grant`], an edit or a deletion has three more conditions, which are
//!      checked in this order: [`Settings::edits`] is true ([`Refused::EditsDisabled`]), the draft
//!      has the author of the target ([`Refused::OtherAuthor`]), and the target is not older than
//!      [`Settings::edit_window`] at the time `at` ([`Refused::TooLate`]). If neither has an
//!      author, they count as having the same.
//!    - A reaction with a new emoji to a message that has [`EMOJIS_MAX`] different ones, or a new
//!      reaction to a message that has [`REACTIONS_MAX`], is refused with
//!      [`Refused::TooManyReactions`].
//!    - Any other draft is committed with the next sequence number, even if it changes nothing,
//!      such as adding a reaction that the message has already. A refused draft and a duplicate
//!      take no sequence number.
//! 3. **Number.** In each room of the append, the oldest messages beyond
//!    [`Settings::keep_messages`] are pruned.
//! 4. **Bytes.** While all messages together exceed [`Settings::keep_bytes`], the oldest message of
//!    the largest room is pruned, even if it is the room's last. Of equally large rooms it is the
//!    first by name. A message counts as its current text and [`MESSAGE_BYTES`], and each reaction
//!    to it as [`REACTION_BYTES`].
//!
//! A room's floor is the sequence number of the last message that was pruned; it never becomes
//! lower. A message is kept if it is after the floor. A message that a user deleted is kept without
//! text and reactions, and counts as a message. New settings take the next sequence number. They
//! are applied to all rooms at once, in the order of 1, 3 and 4.

use std::time::Duration;

use thiserror::Error;

use crate::domain::{Identity, Right, Settings, Timestamp};

/// The bytes that each message counts in addition to its text. Its row and its index entry in the
/// journal take about as much.
pub const MESSAGE_BYTES: u64 = 128;

/// The bytes that each reaction counts.
pub const REACTION_BYTES: u64 = 64;

/// The minimum time for which the log recognizes duplicates of a draft with an id.
pub const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// The greatest number of different emoji among the reactions to one message.
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
    #[error("only the author of a message may edit or delete it")]
    OtherAuthor,
    /// The settings do not permit edits and deletions.
    #[error("messages cannot be edited or deleted on this server")]
    EditsDisabled,
    /// The message is older than the edit window.
    #[error("the message is too old to be edited or deleted")]
    TooLate,
    /// The message has the maximum number of reactions, or of different emoji.
    #[error("the message has the maximum number of reactions")]
    TooManyReactions,
}

/// Returns the bytes that a message with its reactions counts.
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

/// Checks whether a new reaction may be added to a message that has this number of different emoji
/// and of reactions. `has_emoji` is whether it already has a reaction with the same emoji.
pub(crate) fn may_react(has_emoji: bool, emojis: usize, reactions: usize) -> Result<(), Refused> {
    let has_too_many = u64::try_from(reactions).is_ok_and(|reactions| reactions >= REACTIONS_MAX);
    if has_too_many || !has_emoji && emojis >= EMOJIS_MAX {
        return Err(Refused::TooManyReactions);
    }
    Ok(())
}
