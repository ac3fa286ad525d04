//! Methods for messages of other crates: `impl Handler<MyMessage> for Hub` is theirs to write, and
//! may call these and [`Hub::send_to`]. Sessions may take what a handler delivers only after it has
//! returned, so a handler that publishes in very many rooms may fill the send queue of a client in
//! all of them.

use super::Hub;
use crate::domain::{Action, ClientId, Draft, MessageText, Nick, Right, RoomName};
use crate::protocol::DisconnectReason;

impl Hub {
    /// Publishes a message to the members of a room under the name `nick`. If the room has no
    /// members, the message is only kept.
    pub fn broadcast(&mut self, room: &RoomName, nick: &Nick, text: MessageText) {
        self.perform(room, nick, Action::message(text, None));
    }

    /// Performs an action in a room, by the server itself and under the name `nick`. The log does
    /// not check authors, so the action may edit or delete the message of any author.
    pub fn perform(&mut self, room: &RoomName, nick: &Nick, action: Action) {
        let (room, nick, right) = (room.clone(), nick.clone(), Right::Grant);
        self.publish(Draft { room, author: None, nick, id: None, right, action }, None);
    }

    /// Returns the rooms that have members on this node, with their number, in no order.
    pub fn rooms(&self) -> impl Iterator<Item = (&RoomName, usize)> {
        let rooms = self.rooms.iter().map(|(name, room)| (name, room.members.len()));
        rooms.filter(|(_, members)| *members > 0)
    }

    /// Returns the members of a room on this node, in no order.
    pub fn members(&self, room: &RoomName) -> impl Iterator<Item = (ClientId, &Nick)> {
        let members = self.rooms.get(room).into_iter().flat_map(|room| room.members.keys());
        members.filter_map(|id| self.nick(*id).map(|nick| (*id, nick)))
    }

    /// Returns how many connections have ended for this reason since the hub started.
    #[must_use]
    pub fn disconnects(&self, reason: DisconnectReason) -> u64 {
        self.disconnects.get(&reason).copied().unwrap_or_default()
    }
}
