//! What the hub says to a client.

use std::sync::Arc;

use actix::prelude::*;
use thiserror::Error;

use crate::domain::ChatMessage;
use crate::socket::DisconnectReason;
use crate::wire::Batch;

/// What the hub delivers to a client. Any actor that handles it can be registered: a session
/// takes the bytes of a batch, a bot its messages.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum Deliver {
    /// Messages for everyone in a room.
    Batch(Arc<Batch>),
    /// A message for this client alone.
    Direct(Arc<ChatMessage>),
    /// The hub has forgotten the client. Nothing that was delivered before and is still unwritten
    /// needs to be written, and nothing comes after.
    Close(DisconnectReason),
}

impl Deliver {
    /// What it holds while it waits, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.bytes(),
            Self::Direct(message) => message.text.as_str().len(),
            Self::Close(_) => 0,
        }
    }
}

/// The hub does not know the client, or has evicted it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the client is not registered")]
pub struct NotRegistered;
