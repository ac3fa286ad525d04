//! The protocols: from a client's frame to a [`Command`], from a
//! [`ChatMessage`](crate::domain::ChatMessage) to frames. Pure functions over
//! [`domain`](crate::domain); no actor and no address is known here.

mod batch;
pub mod text;

pub use batch::Batch;

use crate::domain::MessageText;

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain lines, as in gorilla/websocket's chat example: see [`text`].
    Text,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Say this to everyone in the room.
    Say(MessageText),
}
