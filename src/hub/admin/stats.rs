//! What the hub holds and has counted.

use actix::prelude::*;

use crate::hub::{Hub, HubStats};

/// Asks for the hub's [`HubStats`]. The hub looks at every client to answer.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "HubStats")]
pub struct GetStats;

impl Handler<GetStats> for Hub {
    type Result = MessageResult<GetStats>;

    fn handle(&mut self, _: GetStats, _: &mut Self::Context) -> Self::Result {
        let (mut send_queue_bytes, mut fullest_queue_bytes) = (0, 0);
        for client in self.clients.values() {
            let bytes = client.handle.queued_bytes();
            send_queue_bytes += bytes;
            fullest_queue_bytes = bytes.max(fullest_queue_bytes);
        }
        MessageResult(HubStats {
            clients: self.clients.len(),
            users: self.users.values().filter(|user| !user.clients.is_empty()).count(),
            rooms: self.rooms.len(),
            waiting_rooms: self.log.waiting.len(),
            pending_bytes: self.pacing.pending_bytes,
            send_queue_bytes,
            fullest_queue_bytes,
            ring_bytes: self.rings.bytes(),
            durability: self.log.durability,
            disconnects: self.disconnects.clone(),
        })
    }
}
