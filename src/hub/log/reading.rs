//! What is read from the log: a few pages at a time, and together no more than memory has room for,
//! whoever holds them: rings, answers that wait for their clients.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Messages, Wanted};
use crate::domain::{CountedBytes, Seq};
use crate::hub::ring::{RINGS_BYTES_MAX, weight};

/// The most that all messages which were read and are still in memory hold, in bytes: as much as
/// all rings may, and half as much again for what is on its way to clients.
const READ_BYTES_MAX: usize = RINGS_BYTES_MAX / 2 * 3;

/// One page takes at most this part of what there is still room for. So many clients that take
/// nothing make the pages of others short, but never leave them none.
const PART_OF_WHAT_IS_LEFT: usize = 8;

/// How many pages are read at once.
const READS_MAX: usize = 4;

/// A page that is to be read.
pub(super) struct Read {
    pub(super) wanted: Wanted,
    pub(super) before: Seq,
    pub(super) limit: usize,
    pub(super) max_bytes: usize,
}

/// The pages under way, those that wait, and what was read.
#[derive(Default)]
pub(super) struct Reading {
    under_way: usize,
    waiting: VecDeque<Read>,
    held: Arc<AtomicUsize>,
}

impl Reading {
    pub(super) fn add(&mut self, read: Read) {
        self.waiting.push_back(read);
    }

    /// The page to read now, if there is one; of those that nobody wants any more, none.
    pub(super) fn next(&mut self, is_wanted: impl Fn(&Wanted) -> bool) -> Option<Read> {
        if self.under_way >= READS_MAX {
            return None;
        }
        let read = std::iter::from_fn(|| self.waiting.pop_front());
        let mut read = { read }.find(|read| is_wanted(&read.wanted))?;
        let left = READ_BYTES_MAX.saturating_sub(self.held.load(Ordering::Relaxed));
        read.max_bytes = read.max_bytes.min(left / PART_OF_WHAT_IS_LEFT);
        self.under_way += 1;
        Some(read)
    }

    /// A page has been read: its messages count for as long as anybody holds them.
    pub(super) fn done(&mut self, messages: Option<&mut Messages>) {
        self.under_way -= 1;
        for message in messages.into_iter().flat_map(|page| &mut page.messages) {
            message.counted = Some(CountedBytes::new(weight(message), &self.held));
        }
    }
}
