//! History: recent messages from the room's ring, older ones from the log.

mod reads;
mod ring;

use std::sync::Arc;

use actix::prelude::*;
use log::warn;

use super::Hub;
use crate::domain::{ChatMessage, ClientId, RoomName, Seq};
use crate::log::{LogError, Messages, Paged};
use crate::protocol::{Event, Ref};
pub(super) use reads::{Purpose, Read, Reads};
pub(super) use ring::{RING_TEXT_BYTES_MAX, Ring, Rings};

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
    /// Only messages before this one. Without it, the latest ones.
    pub before: Option<Seq>,
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

    /// Adds committed messages to the room's ring, or keeps them until the ring is filled.
    pub(in crate::hub) fn remember(&mut self, name: &RoomName, messages: &[Arc<ChatMessage>]) {
        self.rings.push(name, messages);
        if let Some(room) = self.rooms.get_mut(name).filter(|room| !room.joining.is_empty()) {
            room.committed_since.extend_from_slice(messages);
        }
    }

    /// Answers a request from the ring, or reads what is missing from the log.
    pub(super) fn answer_from_history(&mut self, request: History) {
        // Messages that are not delivered yet are not history.
        let end = self.log.head.next();
        let before = request.before.map_or(end, |before| before.min(end));
        let (newer, more) = match self.rings.get(&request.room) {
            Some(ring) => ring.page(before, request.limit, HISTORY_BYTES_MAX),
            None => (Vec::new(), false),
        };
        if more {
            return self.answer_history(request, newer, true);
        }
        let read = Read {
            before: newer.first().map_or(before, |oldest| oldest.seq),
            // One more message tells whether there are older ones.
            limit: (request.limit - newer.len()).max(1),
            max_bytes: HISTORY_BYTES_MAX,
            purpose: Purpose::History { request, newer },
        };
        self.read(read);
    }

    fn history_read(
        &mut self,
        request: History,
        newer: Vec<Arc<ChatMessage>>,
        read: Result<Messages, LogError>,
    ) {
        match read {
            Ok(older) => {
                let (messages, more) = join_pages(older, newer, request.limit);
                self.answer_history(request, messages, more);
            }
            Err(error) => {
                let event = Event::Error((&error).into());
                self.answer(request.client, event, request.reference);
            }
        }
    }

    fn answer_history(&mut self, request: History, messages: Vec<Arc<ChatMessage>>, more: bool) {
        let History { client, room, reference, .. } = request;
        self.answer(client, Event::History { room, messages, more }, reference);
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
        messages.push(Arc::new(message));
    }
    messages.reverse();
    (messages, older.more)
}
