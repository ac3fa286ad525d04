//! History: recent messages from the room's ring, older ones from the log.

mod excerpt;
mod reads;
mod ring;

use actix::prelude::*;
use log::warn;

use super::Hub;
use crate::domain::{ClientId, Entry, RoomName, Seq};
use crate::log::{LogError, Paged, Range, Reader};
use crate::protocol::{Event, HistoryRange, Ref};
pub(super) use excerpt::Excerpt;
pub(super) use reads::{Purpose, Read, Reads};
pub(super) use ring::{Missed, RING_TEXT_BYTES_MAX, Ring, Rings};

/// The greatest size of all texts in one answer, in bytes. One message is sent in any case.
const HISTORY_BYTES_MAX: usize = 256 * 1024;

/// Asks for earlier messages of a room of which the client is a member. The answer is
/// [`Event::History`]. It comes after the messages that the client has sent to the room before.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct History {
    /// The client.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
    /// Which messages.
    pub range: HistoryRange,
    /// The greatest number of messages.
    pub limit: usize,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
}

impl Handler<History> for Hub {
    type Result = ();

    fn handle(&mut self, history: History, _: &mut Self::Context) {
        if self.is_member(history.client, &history.room) {
            self.answer_after_commit(history);
        } else {
            self.answer(history.client, Event::not_joined(), history.reference);
        }
    }
}

impl Handler<Paged> for Hub {
    type Result = ();

    fn handle(&mut self, paged: Paged, _: &mut Self::Context) {
        self.paged(paged);
        self.start_reads();
    }
}

impl Hub {
    /// Uses a page for its purpose.
    fn paged(&mut self, Paged { request, mut outcome }: Paged) {
        let purpose = self.reads.finish(request, outcome.as_mut().ok());
        if let Err(error) = &outcome {
            warn!("cannot read history: {error}");
        }
        match purpose {
            Some(Purpose::Ring(room)) => self.fill_ring(&room, outcome),
            Some(Purpose::History { request, reader, newer, changes }) => {
                let read = outcome.map(|older| {
                    let mut excerpt = newer;
                    excerpt.prepend(older, request.limit, HISTORY_BYTES_MAX);
                    changes.iter().for_each(|change| excerpt.apply(change, reader));
                    excerpt
                });
                self.answer_history(request, read);
            }
            None => {}
        }
    }

    /// Adds delivered entries to the room's ring, or keeps them until the ring is filled. Also
    /// notes the changes for reads in progress.
    pub(in crate::hub) fn remember(&mut self, name: &RoomName, entries: &[Entry]) {
        self.rings.push(name, entries);
        self.reads.note_changes(name, entries);
        if let Some(room) = self.rooms.get_mut(name).filter(|room| !room.joining.is_empty()) {
            room.delivered_since.extend_from_slice(entries);
        }
    }

    /// Returns the sequence number up to which the room's entries have been delivered.
    pub(in crate::hub) fn delivered(&self, name: &RoomName) -> Seq {
        let room = self.rooms.get(name);
        let next = room.and_then(|room| room.undelivered.first()).map(Entry::seq);
        next.map_or(self.log.head, |next| Seq::new(next.get().saturating_sub(1)))
    }

    /// Answers a request from the ring, or reads what is missing from the log.
    pub(super) fn answer_from_history(&mut self, request: History) {
        let Some(client) = self.clients.get(&request.client) else { return };
        let reader = client.identity;
        // The answer must not contain entries that are not delivered yet.
        let end = self.delivered(&request.room).next();
        let (before, range) = match request.range {
            HistoryRange::Latest => (end, Range::Latest),
            HistoryRange::Before(before) => (before.min(end), Range::Latest),
            HistoryRange::After(seq) => (end, Range::After(seq)),
            HistoryRange::Around(seq) => (end, Range::Around(seq)),
        };
        let ring = self.rings.get(&request.room).filter(|_| range == Range::Latest);
        let newer = ring.map(|ring| ring.page(before, request.limit, HISTORY_BYTES_MAX, reader));
        let newer = newer.unwrap_or_default();
        if newer.more {
            return self.answer_history(request, Ok(newer));
        }
        let read = Read {
            before: newer.messages.first().map_or(before, |oldest| oldest.seq),
            range,
            reader: Reader::Client(reader),
            // One more message tells whether there are older ones.
            limit: (request.limit - newer.messages.len()).max(1),
            max_bytes: HISTORY_BYTES_MAX,
            purpose: Purpose::History { request, reader, newer, changes: Vec::new() },
        };
        self.read(read);
    }

    fn answer_history(&mut self, request: History, read: Result<Excerpt, LogError>) {
        let History { client, room, reference, .. } = request;
        let event = match read {
            Ok(Excerpt { messages, counts, more, more_newer }) => {
                Event::History { room, messages, counts, more, more_newer }
            }
            Err(error) => Event::Error((&error).into()),
        };
        self.answer(client, event, reference);
    }

    /// Reads messages from the log as soon as the number of reads in progress allows.
    pub(super) fn read(&mut self, read: Read) {
        self.reads.add(read);
        self.start_reads();
    }

    fn start_reads(&mut self) {
        let Some(hub) = self.this.upgrade() else { return };
        loop {
            let is_wanted = |purpose: &Purpose| match purpose {
                Purpose::Ring(_) => true,
                Purpose::History { request, .. } => self.clients.contains_key(&request.client),
            };
            let Some(page) = self.reads.next(&hub, is_wanted) else { return };
            if let Some(paged) = self.log.backend.page(page) {
                self.paged(paged);
            }
        }
    }
}
