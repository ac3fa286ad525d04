//! The open rooms. It is the pattern for another actor message of the hub: the struct with its
//! `Handler`.

use actix::prelude::*;

use crate::domain::RoomName;
use crate::hub::Hub;

/// Asks for the rooms that have members on this node, sorted by name.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<RoomInfo>")]
pub struct ListRooms;

/// A room in the answer to [`ListRooms`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomInfo {
    /// The name.
    pub name: RoomName,
    /// The number of clients in the room, on this node.
    pub member_count: usize,
}

impl Handler<ListRooms> for Hub {
    type Result = MessageResult<ListRooms>;

    fn handle(&mut self, _: ListRooms, _: &mut Self::Context) -> Self::Result {
        let mut rooms: Vec<_> = self
            .rooms()
            .map(|(name, member_count)| RoomInfo { name: name.clone(), member_count })
            .collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        MessageResult(rooms)
    }
}
