//! Limits reads from the log: a few pages at a time, and a total for all messages that were read
//! and are still in memory, in rings or in answers that clients have not taken yet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;

use super::History;
use super::excerpt::Excerpt;
use super::ring::RINGS_BYTES_MAX;
use crate::domain::{Change, CountedBytes, Entry, Identity, RoomName, Seq};
use crate::hub::Hub;
use crate::log::{Messages, Page, Paged, Range, Reader, Responder};

/// The limit for all messages that were read and are still in memory, in bytes: as much as all
/// rings may hold, and half as much again for answers that clients have not taken yet.
const READ_BYTES_MAX: usize = RINGS_BYTES_MAX / 2 * 3;

/// A page takes at most one eighth of what is left. So clients that do not read make the pages
/// of others shorter, but can never use up everything.
const REST_DIVISOR: usize = 8;

/// The number of pages that are read at once.
const READS_MAX: usize = 4;

/// What a page is read for.
#[derive(Debug)]
pub(in crate::hub) enum Purpose {
    /// The ring of a room.
    Ring(RoomName),
    /// The older part of an answer.
    History {
        request: History,
        reader: Identity,
        /// The messages from the ring that follow it.
        newer: Excerpt,
        /// The changes that were delivered to the room since the request.
        changes: Vec<Arc<Change>>,
    },
}

/// A page to read.
pub(in crate::hub) struct Read {
    pub(in crate::hub) purpose: Purpose,
    pub(in crate::hub) before: Seq,
    pub(in crate::hub) range: Range,
    pub(in crate::hub) reader: Reader,
    pub(in crate::hub) limit: usize,
    pub(in crate::hub) max_bytes: usize,
}

/// The reads in progress, those that wait, and the bytes that were read.
#[derive(Default)]
pub(in crate::hub) struct Reads {
    in_progress: HashMap<u64, Purpose>,
    last_request: u64,
    waiting: VecDeque<Read>,
    held_bytes: Arc<AtomicUsize>,
}

impl Purpose {
    fn room(&self) -> &RoomName {
        match self {
            Self::Ring(room) | Self::History { request: History { room, .. }, .. } => room,
        }
    }
}

impl Reads {
    /// Discards all reads. Answers that arrive later are ignored.
    pub(in crate::hub) fn clear(&mut self) {
        self.in_progress.clear();
        self.waiting.clear();
    }

    /// Notes changes that are delivered to a room while its history is read.
    pub(super) fn note_changes(&mut self, room: &RoomName, entries: &[Entry]) {
        if !entries.iter().any(|entry| matches!(entry, Entry::Change(_))) {
            return;
        }
        let waiting = self.waiting.iter_mut().map(|read| &mut read.purpose);
        for purpose in self.in_progress.values_mut().chain(waiting) {
            if let Purpose::History { request, changes, .. } = purpose
                && request.room == *room
            {
                changes.extend(entries.iter().filter_map(|entry| match entry {
                    Entry::Change(change) => Some(Arc::clone(change)),
                    Entry::Message(_) | Entry::Settings(_) => None,
                }));
            }
        }
    }

    pub(super) fn add(&mut self, read: Read) {
        self.waiting.push_back(read);
    }

    /// Returns the next request to the log, if one may be sent now. Drops reads that nobody wants
    /// any more.
    pub(super) fn next(
        &mut self,
        hub: &Addr<Hub>,
        is_wanted: impl Fn(&Purpose) -> bool,
    ) -> Option<Page> {
        while self.in_progress.len() < READS_MAX
            && let Some(read) = self.waiting.pop_front()
        {
            let Read { purpose, before, range, reader, limit, max_bytes } = read;
            if !is_wanted(&purpose) {
                continue;
            }
            let rest = READ_BYTES_MAX.saturating_sub(self.held_bytes.load(Ordering::Relaxed));
            let max_bytes = max_bytes.min(rest / REST_DIVISOR);
            self.last_request += 1;
            let answer = Responder::<Paged>::new(hub.clone().recipient(), self.last_request);
            let room = purpose.room().clone();
            self.in_progress.insert(self.last_request, purpose);
            return Some(Page { room, before, range, reader, limit, max_bytes, answer });
        }
        None
    }

    /// Ends a read. Its messages count until nobody holds them any more.
    pub(super) fn finish(
        &mut self,
        request: u64,
        messages: Option<&mut Messages>,
    ) -> Option<Purpose> {
        for message in messages.into_iter().flat_map(|page| &mut page.messages) {
            // The messages of a log in memory are shared with it, and take no memory of their own.
            if let Some(message) = Arc::get_mut(message) {
                let counted = CountedBytes::new(message.memory_bytes(), &self.held_bytes);
                message.counted = Some(counted);
            }
        }
        self.in_progress.remove(&request)
    }
}
