//! The messages of recent appends, which the search index takes from memory. Reading them from the
//! file again would take most of the time of indexing them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::domain::{ChangeKind, ChatMessage, Entry, Seq};
use crate::log::sqlite::append::Applied;

/// The maximum size of the messages in memory, in bytes.
const BYTES_MAX: usize = if cfg!(test) { 2000 } else { 1 << 20 };

/// About how much a message takes in addition to its text, in bytes.
const MESSAGE_BYTES: usize = 100;

/// All messages after a sequence number, up to the end of the log.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// The messages begin after this sequence number.
    after: Seq,
    /// The last sequence number of the log.
    head: Seq,
    /// The messages, and the ids of their rooms.
    messages: VecDeque<(i64, Arc<ChatMessage>)>,
    /// The approximate size of the messages.
    bytes: usize,
}

impl Recent {
    /// Adds the messages of an append, before which the log ended at `head`.
    pub(super) fn add(&mut self, head: Seq, applied: &Applied) {
        if self.head != head {
            self.forget(head);
        }
        for entry in &applied.entries {
            match entry {
                Entry::Message(message) => {
                    let Some(room) = applied.rooms.get(&message.room) else { continue };
                    self.bytes += size(message);
                    self.messages.push_back((room.id, Arc::clone(message)));
                }
                Entry::Change(change) => match change.kind {
                    ChangeKind::Edit { target, .. } | ChangeKind::Delete { target } => {
                        if target > self.after {
                            self.forget(change.seq);
                        }
                    }
                    ChangeKind::React { .. } | ChangeKind::Room { .. } => {}
                },
                Entry::Settings(_) => {}
            }
        }
        self.head = applied.head;
        if self.bytes > BYTES_MAX {
            self.forget(applied.head);
        }
    }

    /// Returns the messages after a sequence number up to the end of the log, with the ids of their
    /// rooms, if they are all in memory. The log ends at `head`.
    pub(super) fn after(
        &self,
        after: Seq,
        head: Seq,
    ) -> Option<impl Iterator<Item = &(i64, Arc<ChatMessage>)>> {
        let is_complete = self.head == head && self.after <= after;
        let first = self.messages.partition_point(|(_, message)| message.seq <= after);
        is_complete.then(|| self.messages.range(first..))
    }

    /// Removes the messages up to a sequence number.
    pub(super) fn remove_until(&mut self, seq: Seq) {
        let removed = self.messages.partition_point(|(_, message)| message.seq <= seq);
        for (_, message) in self.messages.drain(..removed) {
            self.bytes -= size(&message);
        }
        self.after = self.after.max(seq);
    }

    /// Removes all messages up to `seq`, which is the last one.
    fn forget(&mut self, seq: Seq) {
        *self = Self { after: seq, head: seq, ..Self::default() };
    }
}

fn size(message: &ChatMessage) -> usize {
    message.text.as_str().len() + MESSAGE_BYTES
}
