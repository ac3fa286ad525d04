//! What a message of another crate's may do with the hub: `impl Handler<MyMessage> for Hub` is
//! theirs to write, and these methods do its work.

use super::{Deliver, Hub};
use crate::domain::{ClientId, MessageText, Nick, RoomName};
use crate::socket::DisconnectReason;

impl Hub {
    /// Says something to everyone in a room, in the name of `nick`. In a room where nobody is,
    /// nobody hears it, but who comes later can read it.
    pub fn broadcast(&mut self, room: &RoomName, nick: &Nick, text: MessageText) {
        self.say(room, nick.clone(), text, None, None);
    }

    /// Delivers to one client, which is evicted if it cannot take it.
    pub fn send_to(&mut self, client: ClientId, deliver: Deliver) {
        let Some(known) = self.clients.get(&client) else { return };
        if let Err(reason) = known.to.deliver(deliver) {
            self.evict(client, reason);
        }
    }

    /// The rooms that have members, with how many, in no order.
    pub fn rooms(&self) -> impl Iterator<Item = (&RoomName, usize)> {
        let rooms = self.rooms.iter().map(|(name, room)| (name, room.members.len()));
        rooms.filter(|(_, members)| *members > 0)
    }

    /// The members of a room, in no order.
    pub fn members(&self, room: &RoomName) -> impl Iterator<Item = (ClientId, &Nick)> {
        let members = self.rooms.get(room).into_iter().flat_map(|room| room.members.keys());
        members.filter_map(|id| self.nick(*id).map(|nick| (*id, nick)))
    }

    /// How many clients have gone for this reason since the hub began.
    #[must_use]
    pub fn disconnects(&self, reason: DisconnectReason) -> u64 {
        self.counts.disconnects.get(&reason).copied().unwrap_or_default()
    }
}
