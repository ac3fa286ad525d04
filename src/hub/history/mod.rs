//! History: recent messages from the room's ring, older ones from the log.

mod reads;
mod ring;

use std::sync::Arc;

use actix::prelude::*;
use log::warn;

use super::Hub;
use crate::domain::{ChatMessage, ClientId, Entry, ReactionCount, RoomName, Seq};
use crate::log::{LogError, Messages, Paged, Range, Reader};
use crate::protocol::{Event, HistoryRange, Ref};
pub(super) use reads::{Purpose, Read, Reads};
pub(super) use ring::{Missed, RING_TEXT_BYTES_MAX, Ring, RingPage, Rings};

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
            Some(Purpose::History { request, newer }) => self.history_read(request, newer, outcome),
            None => {}
        }
    }

    /// Adds delivered entries to the room's ring, or keeps them until the ring is filled.
    pub(in crate::hub) fn remember(&mut self, name: &RoomName, entries: &[Entry]) {
        self.rings.push(name, entries);
        if let Some(room) = self.rooms.get_mut(name).filter(|room| !room.joining.is_empty()) {
            room.delivered_since.extend_from_slice(entries);
        }
    }

    /// Returns the place in the log up to which the room was delivered.
    pub(in crate::hub) fn delivered(&self, name: &RoomName) -> Seq {
        let room = self.rooms.get(name);
        let next = room.and_then(|room| room.undelivered.first()).map(Entry::seq);
        next.map_or(self.log.head, |next| Seq::new(next.get().saturating_sub(1)))
    }

    /// Answers a request from the ring, or reads what is missing from the log.
    pub(super) fn answer_from_history(&mut self, request: History) {
        let Some(client) = self.clients.get(&request.client) else { return };
        let reader = client.identity;
        // What is not delivered yet is not history.
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
            let RingPage { messages, counts, more } = newer;
            return self.answer_history(request, messages, counts, more, false);
        }
        let read = Read {
            before: newer.messages.first().map_or(before, |oldest| oldest.seq),
            range,
            reader: Reader::Client(reader),
            // One more message tells whether there are older ones.
            limit: (request.limit - newer.messages.len()).max(1),
            max_bytes: HISTORY_BYTES_MAX,
            purpose: Purpose::History { request, newer },
        };
        self.read(read);
    }

    fn history_read(
        &mut self,
        request: History,
        newer: RingPage,
        read: Result<Messages, LogError>,
    ) {
        match read {
            Ok(mut older) => {
                let mut counts = std::mem::take(&mut older.counts);
                counts.extend(newer.counts);
                let more_newer = older.more_newer;
                let (messages, more) = join_pages(older, newer.messages, request.limit);
                let first = messages.first().map_or(Seq::MAX, |first| first.seq);
                counts.retain(|count| count.target >= first);
                self.answer_history(request, messages, counts, more, more_newer);
            }
            Err(error) => {
                let event = Event::Error((&error).into());
                self.answer(request.client, event, request.reference);
            }
        }
    }

    fn answer_history(
        &mut self,
        request: History,
        messages: Vec<Arc<ChatMessage>>,
        counts: Vec<ReactionCount>,
        more: bool,
        more_newer: bool,
    ) {
        let History { client, room, reference, .. } = request;
        let event = Event::History { room, messages, counts, more, more_newer };
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

/// Puts a page of the log before newer messages, within the limits of one answer. Returns the
/// messages and whether there are older ones.
fn join_pages(
    older: Messages,
    newer: Vec<Arc<ChatMessage>>,
    limit: usize,
) -> (Vec<Arc<ChatMessage>>, bool) {
    let mut bytes: usize = newer.iter().map(|message| message.text.as_str().len()).sum();
    let mut messages: Vec<_> = newer.into_iter().rev().collect();
    let mut older_messages = older.messages.into_iter().rev();
    for message in older_messages.by_ref() {
        bytes += message.text.as_str().len();
        let is_full = messages.len() >= limit || bytes > HISTORY_BYTES_MAX;
        if is_full && !messages.is_empty() {
            messages.reverse();
            return (messages, true);
        }
        messages.push(message);
    }
    messages.reverse();
    (messages, older.more)
}
