//! Counts of unread messages. Before a client joins a room, the log counts the messages that the
//! user has not read, and the join waits for the answer. The hub adds the messages that are
//! delivered meanwhile.

use std::collections::HashMap;

use actix::prelude::*;
use log::warn;

use super::membership::{Join, Joining};
use crate::domain::{ClientId, Identity, RoomName, Seq, Unread, mentions};
use crate::hub::Hub;
use crate::log::{CountUnread, Counted, Responder};

/// The joins that wait for a count, by the number of the request to the log.
#[derive(Default)]
pub(in crate::hub) struct Counts {
    waiting: HashMap<u64, Waiting>,
    last_request: u64,
}

/// A join that waits for a count.
struct Waiting {
    join: Join,
    /// The user whose messages are counted.
    identity: Identity,
    /// The last entry that is counted.
    end: Seq,
}

/// The unread messages of a user up to an entry of the room.
pub(super) struct CountedTo {
    identity: Identity,
    end: Seq,
    unread: Unread,
}

impl Counts {
    /// Discards all joins that wait. Answers that arrive later are ignored.
    pub(in crate::hub) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Adds a join that waits. Returns the number of its request.
    fn add(&mut self, waiting: Waiting) -> u64 {
        self.last_request += 1;
        self.waiting.insert(self.last_request, waiting);
        self.last_request
    }
}

impl Handler<Counted> for Hub {
    type Result = ();

    fn handle(&mut self, Counted { request, outcome }: Counted, _: &mut Self::Context) {
        let Some(waiting) = self.counts.waiting.remove(&request) else { return };
        let Waiting { join, identity, end } = waiting;
        let unread = outcome.unwrap_or_else(|error| {
            warn!("cannot count unread messages: {error}");
            None
        });
        let counted = unread.map(|unread| CountedTo { identity, end, unread });
        self.join(Joining { join, counted });
    }
}

impl Hub {
    /// Asks the log for the unread messages of a client's user, and lets the join wait for the
    /// answer. Returns the join if there is nothing to count: the log keeps no read marks, the
    /// client has no key, or it did not register for events.
    pub(super) fn count_unread_before(&mut self, join: Join) -> Option<Join> {
        let end = self.delivered(&join.room);
        let (id, room) = (join.client, join.room.clone());
        let client = self.clients.get(&id).filter(|client| client.events && client.has_key(id));
        let user = client.and_then(|client| self.users.get(&client.identity));
        let (Some(client), Some(user), Some(marks), Some(hub)) =
            (client, user, self.log.backend.read_marks(), self.this.upgrade())
        else {
            return Some(join);
        };
        let identity = client.identity;
        let known = user.rooms.get(&room).map(|room| room.read_mark).unwrap_or_default();
        let request = self.counts.add(Waiting { join, identity, end });
        let answer = Responder::<Counted>::new(hub.recipient(), request);
        let (nick, before) = (user.nick.clone(), end.next());
        marks.count.do_send(CountUnread { identity, nick, room, known, before, answer });
        None
    }

    /// Returns the unread messages of a new member's user at the member's position, and remembers
    /// the user's read mark. Returns `None` if the client has another identity than when they were
    /// counted.
    pub(super) fn unread_now(
        &mut self,
        id: ClientId,
        name: &RoomName,
        counted: CountedTo,
    ) -> Option<Unread> {
        let CountedTo { identity, end, mut unread } = counted;
        self.clients.get(&id).filter(|client| client.identity == identity)?;
        let user = self.users.get_mut(&identity)?;
        if let Some(room) = user.rooms.get_mut(name) {
            room.read_mark = room.read_mark.max(unread.mark);
        }
        // Usually no message was delivered since the count.
        let newer = self.rings.get(name).into_iter().flat_map(|ring| ring.messages_after(end));
        for message in newer.filter(|it| !it.deleted && it.author != Some(identity)) {
            unread.add(message.seq, mentions(message.text.as_str(), &user.nick));
        }
        Some(unread)
    }
}
