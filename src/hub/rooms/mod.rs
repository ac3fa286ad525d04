//! Rooms: their members, who joins and leaves, and who is told.

mod membership;
mod presence;
mod room;

pub(super) use membership::RoomLimits;
pub use membership::{CatchUp, Join, Leave};
pub use presence::{Typing, Who};
pub(super) use room::Room;
