//! Unread messages: those of a room that a user has not read.

use super::Seq;

/// The unread messages of a user in a room: those of others after the user's read mark that are
/// not deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// The read mark. The user has read the messages up to this sequence number.
    pub mark: Seq,
    /// The number of unread messages, at most [`Unread::COUNT_MAX`], which means that many or more.
    pub count: usize,
    /// The oldest unread message. `None` if there is none.
    pub first: Option<Seq>,
    /// How many of the counted messages mention the user.
    pub mentions: usize,
}

impl Unread {
    /// The maximum count.
    pub const COUNT_MAX: usize = 1000;

    /// Counts a message that is newer than those that were counted before.
    pub(crate) fn add(&mut self, seq: Seq, is_mention: bool) {
        self.count = (self.count + 1).min(Self::COUNT_MAX);
        self.mentions = (self.mentions + usize::from(is_mention)).min(self.count);
        self.first = self.first.or(Some(seq));
    }
}
