//! Messages for operators and for the program that runs the hub.

mod drain;
mod list;
mod stats;

pub(super) use drain::Lifecycle;
pub(crate) use drain::StartHub;
pub use drain::{Drain, IsReady, NotReady, Watch};
pub use list::{ListRooms, RoomInfo};
pub use stats::GetStats;
