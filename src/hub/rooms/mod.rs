//! Rooms: their members, who joins and leaves, who is told, and what their members have read.

mod ahead;
mod membership;
mod presence;
mod read;
mod room;
mod roster;
mod unread;

pub(super) use ahead::{WaitingJoinKey, WaitingJoins};
pub(super) use membership::RoomLimits;
pub use membership::{CatchUp, Join, Leave};
pub use presence::{Typing, Who};
pub use read::Read;
pub(super) use room::Room;
pub(super) use roster::Roster;
pub(super) use unread::Counts;
