//! Which rooms there are: the first message beyond register, unregister and broadcast, and the
//! pattern for those that follow.

use actix::prelude::*;

use super::Hub;
use crate::domain::RoomName;

/// Asks for the rooms that have members, in the order of their names.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<RoomInfo>")]
pub struct ListRooms;

/// A room as [`ListRooms`] tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomInfo {
    /// Its name.
    pub name: RoomName,
    /// How many clients are in it.
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
