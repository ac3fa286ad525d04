//! What the hub holds, for those who watch over it; and what it counts as it goes.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::*;
use log::debug;
use tokio::time::Instant;

use super::Hub;
use crate::domain::{ClientId, RoomName};
use crate::metrics::Metrics;
use crate::socket::DisconnectReason;
use crate::wire::Batch;

/// Asks how much the hub holds. It looks at every client.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Held")]
pub struct Survey;

/// How much a hub holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Connections.
    pub clients: usize,
    /// Identities behind them.
    pub people: usize,
    /// Rooms where somebody is, or something is under way.
    pub rooms: usize,
    /// Rooms that wait for the log.
    pub waiting_rooms: usize,
    /// Text that was accepted and is not at the log yet, in bytes.
    pub pending_bytes: usize,
    /// What waits for sessions to take it, in bytes.
    pub send_queue_bytes: usize,
    /// The most of that that waits for one session, in bytes.
    pub fullest_queue_bytes: usize,
    /// Recent messages, in bytes.
    pub ring_bytes: usize,
}

/// What the hub counts.
pub(super) struct Counts {
    pub(super) disconnects: HashMap<DisconnectReason, u64>,
    pub(super) metrics: Metrics,
}

impl Counts {
    pub(super) fn on(metrics: &Metrics) -> Self {
        Self { disconnects: HashMap::new(), metrics: metrics.clone() }
    }

    pub(super) fn gone(&mut self, client: ClientId, reason: DisconnectReason) {
        debug!("client {client} is gone: {reason}");
        *self.disconnects.entry(reason).or_default() += 1;
        self.metrics.disconnected(reason);
    }
}

impl Handler<Survey> for Hub {
    type Result = MessageResult<Survey>;

    fn handle(&mut self, _: Survey, _: &mut Self::Context) -> Self::Result {
        let (mut send_queue_bytes, mut fullest_queue_bytes) = (0, 0);
        for client in self.clients.values() {
            let waiting = client.to.waiting_bytes();
            send_queue_bytes += waiting;
            fullest_queue_bytes = waiting.max(fullest_queue_bytes);
        }
        MessageResult(Held {
            clients: self.clients.len(),
            people: self.people.len(),
            rooms: self.rooms.len(),
            waiting_rooms: self.log.waiting.len(),
            pending_bytes: self.pacing.pending_bytes,
            send_queue_bytes,
            fullest_queue_bytes,
            ring_bytes: self.rings.bytes(),
        })
    }
}

impl Hub {
    /// Delivers the batches of a flush, and counts that.
    pub(super) fn fan_out_counted(&mut self, batches: &[(RoomName, Arc<Batch>)]) {
        if batches.is_empty() {
            return;
        }
        let deliveries: usize = batches
            .iter()
            .filter_map(|(name, batch)| Some((self.rooms.get(name)?, batch)))
            .map(|(room, batch)| room.members.len() * batch.messages().len())
            .sum();
        let began = Instant::now();
        self.fan_out_all(batches);
        self.counts.metrics.fanned_out(deliveries as u64, began.elapsed());
    }
}
