//! What the hub says to a client.

use std::sync::Arc;

use actix::prelude::*;
use thiserror::Error;

use crate::socket::DisconnectReason;
use crate::wire::{Batch, Notice, Reply};

/// What the hub delivers to a client. Any actor that handles it can be registered: a session
/// takes the bytes of a batch, a bot its messages.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum Deliver {
    /// Messages for everyone in a room.
    Batch(Arc<Batch>),
    /// The same of several rooms that the client is in.
    Batches(Vec<Arc<Batch>>),
    /// What else all in some rooms are told, if they want to know.
    Notices(Vec<Arc<Notice>>),
    /// The answer to what the client has asked: one to each [`Hello`](super::Hello),
    /// [`Join`](super::Join), [`Leave`](super::Leave), [`Who`](super::Who) and
    /// [`History`](super::History).
    Answer(Box<Reply>),
    /// What this client alone is told besides, as what has become of its messages.
    Direct(Vec<Reply>),
    /// The hub has forgotten the client, and nothing comes after. What was delivered before and is
    /// still unwritten is of use to it, unless it was too slow for that.
    Close(DisconnectReason),
}

impl Deliver {
    /// The messages for everyone that it brings, by rooms.
    #[must_use]
    pub fn batches(&self) -> &[Arc<Batch>] {
        match self {
            Self::Batch(batch) => std::slice::from_ref(batch),
            Self::Batches(batches) => batches,
            Self::Notices(_) | Self::Answer(_) | Self::Direct(_) | Self::Close(_) => &[],
        }
    }

    /// What it holds while it waits, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.bytes(),
            Self::Batches(batches) => batches.iter().map(|batch| batch.bytes()).sum(),
            Self::Notices(notices) => notices.iter().map(|notice| notice.bytes()).sum(),
            Self::Answer(reply) => reply.bytes(),
            Self::Direct(replies) => replies.iter().map(Reply::bytes).sum(),
            Self::Close(_) => 0,
        }
    }
}

/// The hub does not know the client, or it is not in the room.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the client is not in the room")]
pub struct NotAMember;
