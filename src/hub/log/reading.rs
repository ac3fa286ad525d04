//! Limits what is read from the log: a few pages at a time, and a total for all messages that are
//! still in memory, in rings or in answers that their clients have not taken yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Messages, Wanted};
use crate::domain::{CountedBytes, Seq};
use crate::hub::ring::{RINGS_BYTES_MAX, weight};

/// Limit for all messages that were read and are still in memory, in bytes: as much as all rings
/// may hold, and half as much again for answers that clients have not taken yet.
const READ_BYTES_MAX: usize = RINGS_BYTES_MAX / 2 * 3;

/// A page takes at most this fraction of what is left. So clients that do not read make the pages
/// of others shorter, but can never use up everything.
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

    /// Takes the next page to read, if one may be read now. Pages that nobody wants any more are
    /// dropped.
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
