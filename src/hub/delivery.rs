//! Delivery to clients: what the hub sends them, and the fan-out of committed messages.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::*;
use tokio::time::Instant;

use super::{Batch, ClientHandle, Hub, Notice};
use crate::domain::{ClientId, RoomName};
use crate::protocol::{DisconnectReason, Event, Ref, Reply};

/// What the hub delivers to a client. Every actor that handles it can be registered: a session
/// takes the encoded frames of a batch, a bot its messages.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum Deliver {
    /// Entries of a room, in order.
    Batch(Arc<Batch>),
    /// Entries of several rooms, one batch for each.
    Batches(Vec<Arc<Batch>>),
    /// Other events of rooms, for clients that registered for events.
    Notices(Vec<Arc<Notice>>),
    /// The answer to a request of the client: exactly one to each [`Hello`](super::Hello),
    /// [`Join`](super::Join), [`Leave`](super::Leave), [`Who`](super::Who),
    /// [`History`](super::History) and [`Search`](super::Search).
    Answer(Box<Reply>),
    /// What only this client is told without having asked, such as the outcome of its messages.
    Direct(Vec<Reply>),
    /// The hub has removed the client. Nothing follows. What was delivered before should still be
    /// written, unless the reason is [`DisconnectReason::SlowClient`].
    Close(DisconnectReason),
}

impl Deliver {
    /// Returns the batches, one for each room.
    #[must_use]
    pub fn batches(&self) -> &[Arc<Batch>] {
        match self {
            Self::Batch(batch) => std::slice::from_ref(batch),
            Self::Batches(batches) => batches,
            Self::Notices(_) | Self::Answer(_) | Self::Direct(_) | Self::Close(_) => &[],
        }
    }

    /// Returns what the delivery counts for in the client's send queue, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.bytes(),
            Self::Batches(batches) => batches.iter().map(|batch| batch.bytes()).sum(),
            Self::Notices(notices) => notices.iter().map(|notice| notice.bytes()).sum(),
            Self::Answer(reply) => reply.bytes(),
            Self::Direct(replies) => replies.iter().map(Reply::bytes).sum(),
            Self::Close(_) => 0,
        }
    }
}

impl Hub {
    /// Delivers to one client. A client whose send queue is full is evicted.
    pub fn send_to(&mut self, client: ClientId, deliver: Deliver) {
        let Some(known) = self.clients.get(&client) else { return };
        if let Err(reason) = known.handle.deliver(deliver) {
            self.evict(client, reason);
        }
    }

    /// Answers a request of a client.
    pub(super) fn answer(&mut self, client: ClientId, event: Event, reference: Option<Ref>) {
        self.send_to(client, Deliver::Answer(Box::new(Reply { event, reference })));
    }

    /// Delivers the undelivered entries of rooms, and closes rooms that are idle then. The time
    /// that comes with a room is when this hub accepted its first entry, if it did.
    pub(super) fn deliver_rooms(
        &mut self,
        rooms: impl IntoIterator<Item = (RoomName, Option<Instant>)>,
    ) {
        let mut batches = Vec::new();
        for (name, accepted) in rooms {
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            let entries = std::mem::take(&mut room.undelivered);
            let now = Instant::now();
            if !entries.is_empty() && room.next_flush <= now {
                // The hub's own entries were paced when they were flushed.
                room.next_flush = now + self.pacing.wait(room.members.len());
            }
            self.remember(&name, &entries);
            self.close_room_if_idle(&name);
            if !entries.is_empty() {
                let accepted = accepted.unwrap_or_else(Instant::now);
                batches.push((name, Arc::new(Batch::new(entries, accepted.into_std()))));
            }
        }
        self.fan_out(&batches);
    }

    /// Delivers committed entries to the members of their rooms.
    pub(super) fn fan_out(&mut self, batches: &[(RoomName, Arc<Batch>)]) {
        let deliveries: usize = batches
            .iter()
            .filter_map(|(name, batch)| Some((self.rooms.get(name)?, batch)))
            .map(|(room, batch)| room.members.len() * batch.entries().len())
            .sum();
        let began = Instant::now();
        match batches {
            [] => return,
            [(name, batch)] => self.fan_out_to_room(name, batch),
            _ => self.fan_out_to_rooms(batches),
        }
        self.metrics.observe_fan_out(deliveries as u64, began.elapsed());
    }

    fn fan_out_to_room(&mut self, name: &RoomName, batch: &Arc<Batch>) {
        let Some(room) = self.rooms.get(name) else { return };
        let mut refused = Vec::new();
        for (&id, member) in &room.members {
            self.pacing.count_batch(member);
            if let Err(reason) = member.deliver(Deliver::Batch(Arc::clone(batch))) {
                refused.push((id, reason));
            }
        }
        for (id, reason) in refused {
            self.evict(id, reason);
        }
    }

    /// Delivers to each member of several rooms once, since the queue of a client is bounded in
    /// deliveries.
    fn fan_out_to_rooms(&mut self, batches: &[(RoomName, Arc<Batch>)]) {
        let mut bundles: HashMap<ClientId, (Rc<ClientHandle>, Vec<Arc<Batch>>)> = HashMap::new();
        for (name, batch) in batches {
            for (&id, member) in self.rooms.get(name).into_iter().flat_map(|room| &room.members) {
                let (_, bundle) = bundles.entry(id).or_insert_with(|| (Rc::clone(member), vec![]));
                bundle.push(Arc::clone(batch));
            }
        }
        for (id, (member, bundle)) in bundles {
            self.pacing.count_batch(&member);
            if let Err(reason) = member.deliver(Deliver::Batches(bundle)) {
                self.evict(id, reason);
            }
        }
    }
}
