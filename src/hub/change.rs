//! Changes by members: edits, deletions, reactions and topics. Each is an actor message, like
//! [`Broadcast`](super::Broadcast). The log decides whether the author may make the change.

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;

use super::Hub;
use super::publish::{NotAMember, Sender};
use crate::domain::{Action, ClientId, Emoji, MessageId, MessageText, RoomName, Seq, Topic};
use crate::protocol::Ref;

/// Replaces the text of a message of the same author.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NotAMember>")]
pub struct Edit {
    /// The author's client, which must be a member of the room.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
    /// The message.
    pub target: Seq,
    /// The new text.
    pub text: MessageText,
    /// The author's id for the edit. See [`Broadcast::id`](super::Broadcast::id).
    pub id: Option<MessageId>,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
    /// See [`Broadcast::permit`](super::Broadcast::permit).
    pub permit: OwnedSemaphorePermit,
}

/// Deletes a message of the same author. The message stays in the room, without its text.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NotAMember>")]
pub struct Delete {
    /// The author's client, which must be a member of the room.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
    /// The message.
    pub target: Seq,
    /// The author's id for the deletion. See [`Broadcast::id`](super::Broadcast::id).
    pub id: Option<MessageId>,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
    /// See [`Broadcast::permit`](super::Broadcast::permit).
    pub permit: OwnedSemaphorePermit,
}

/// Adds or removes a reaction to a message.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NotAMember>")]
pub struct React {
    /// The author's client, which must be a member of the room.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
    /// The message.
    pub target: Seq,
    /// The reaction.
    pub emoji: Emoji,
    /// Whether to add it.
    pub on: bool,
    /// The author's id for the change. See [`Broadcast::id`](super::Broadcast::id).
    pub id: Option<MessageId>,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
    /// See [`Broadcast::permit`](super::Broadcast::permit).
    pub permit: OwnedSemaphorePermit,
}

/// Changes the topic of a room.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NotAMember>")]
pub struct SetRoom {
    /// The author's client, which must be a member of the room.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
    /// The new topic. An empty one removes it.
    pub topic: Topic,
    /// The author's id for the change. See [`Broadcast::id`](super::Broadcast::id).
    pub id: Option<MessageId>,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
    /// See [`Broadcast::permit`](super::Broadcast::permit).
    pub permit: OwnedSemaphorePermit,
}

impl Handler<Edit> for Hub {
    type Result = Result<(), NotAMember>;

    fn handle(&mut self, edit: Edit, ctx: &mut Self::Context) -> Self::Result {
        let Edit { client, room, target, text, id, reference, permit } = edit;
        let action = Action::Edit { target, text };
        self.submit(&room, action, id, Sender { client, reference }, permit, ctx)
    }
}

impl Handler<Delete> for Hub {
    type Result = Result<(), NotAMember>;

    fn handle(&mut self, delete: Delete, ctx: &mut Self::Context) -> Self::Result {
        let Delete { client, room, target, id, reference, permit } = delete;
        let action = Action::Delete { target };
        self.submit(&room, action, id, Sender { client, reference }, permit, ctx)
    }
}

impl Handler<React> for Hub {
    type Result = Result<(), NotAMember>;

    fn handle(&mut self, react: React, ctx: &mut Self::Context) -> Self::Result {
        let React { client, room, target, emoji, on, id, reference, permit } = react;
        let action = Action::React { target, emoji, on };
        self.submit(&room, action, id, Sender { client, reference }, permit, ctx)
    }
}

impl Handler<SetRoom> for Hub {
    type Result = Result<(), NotAMember>;

    fn handle(&mut self, set_room: SetRoom, ctx: &mut Self::Context) -> Self::Result {
        let SetRoom { client, room, topic, id, reference, permit } = set_room;
        let action = Action::Room { topic };
        self.submit(&room, action, id, Sender { client, reference }, permit, ctx)
    }
}
