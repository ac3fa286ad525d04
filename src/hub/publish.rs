//! Publishing: a message is accepted and waits in its room until the room is flushed.

use actix::Context;
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::history::History;
use super::{Deliver, Hub};
use crate::domain::{Action, ClientId, Draft, MessageId, Nick, Right, RoomName};
use crate::log::LogError;
use crate::protocol::{ErrorCode, Event, Ref, Refusal, Reply};

/// What one room may hold before its senders wait for the flush, in bytes of text and in messages.
pub(super) const ROOM_PENDING_BYTES_MAX: usize = 64 * 1024;
pub(super) const ROOM_PENDING_MESSAGES_MAX: usize = 4096;

/// What all rooms together may hold before all senders wait, in bytes of text. Rooms wait for each
/// other if the log is slow.
const PENDING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The message was not accepted: the client is not a member of the room, or the server is shutting
/// down.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the client is not in the room")]
pub struct NotAMember;

/// An accepted message that waits for the flush of its room.
pub(super) struct Pending {
    pub(super) draft: Draft,
    /// The client that sent it. None if the server itself published it.
    pub(super) sender: Option<Sender>,
    pub(super) accepted: Instant,
}

/// The client that receives the receipt of a draft.
pub(super) struct Sender {
    pub(super) client: ClientId,
    pub(super) reference: Option<Ref>,
}

/// What is taken from rooms for one append.
#[derive(Default)]
pub(super) struct Flush {
    pub(super) pending: Vec<Pending>,
    /// Requests for history that clients sent after these messages.
    pub(super) history_requests: Vec<History>,
}

impl Hub {
    /// Accepts an action of a member in a room. Rejects it if the hub is shutting down or the
    /// client is not a member.
    pub(super) fn submit(
        &mut self,
        room: &RoomName,
        action: Action,
        id: Option<MessageId>,
        sender: Sender,
        permit: OwnedSemaphorePermit,
        ctx: &mut Context<Self>,
    ) -> Result<(), NotAMember> {
        if self.lifecycle.draining {
            return self.reject_while_draining(sender);
        }
        let author = self.clients.get(&sender.client).filter(|author| author.is_in(room));
        let (Some(author), Some(nick)) = (author, self.nick(sender.client)) else {
            return self.reject(sender);
        };
        let (nick, author) = (nick.clone(), Some(author.identity));
        let draft = Draft { room: room.clone(), author, nick, id, right: Right::Member, action };
        self.publish(draft, Some(sender));
        self.release_permit(room, permit);
        self.let_sessions_run(ctx);
        Ok(())
    }

    /// Adds a draft to the pending ones of its room, and flushes the room if that is due.
    /// Determines whether a message is [attributed](crate::domain::ChatMessage::attributed).
    pub(super) fn publish(&mut self, mut draft: Draft, sender: Option<Sender>) {
        if self.log.stalled {
            return self.reject_busy(sender);
        }
        let name = draft.room.clone();
        if let Action::Message { text, attributed, .. } = &mut draft.action {
            let is_named = !draft.nick.is_anonymous();
            *attributed = is_named || self.could_be_from_a_member(text.as_str(), &name);
        }
        let room = self.rooms.entry(name.clone()).or_default();
        self.pacing.pending_bytes += room.push(Pending { draft, sender, accepted: Instant::now() });
        self.flush_when_due(&name);
    }

    /// Returns whether a line with this text and without its author's name could be read as a
    /// message of a member of the room.
    fn could_be_from_a_member(&self, text: &str, room: &RoomName) -> bool {
        let roster = self.rosters.get(room);
        Nick::forms_claimed_by(text).iter().any(|forms| {
            Nick::is_reserved(forms) || roster.is_some_and(|roster| roster.has_name(forms))
        })
    }

    /// Tells the sender that its draft cannot be stored now.
    pub(super) fn reject_busy(&mut self, sender: Option<Sender>) {
        let Some(Sender { client, reference }) = sender else { return };
        let event = Event::Error((&LogError::Busy(String::new())).into());
        self.send_to(client, Deliver::Direct(vec![Reply { event, reference }]));
    }

    /// Returns the permit of a published message to its sender: now, or at a limit of pending
    /// messages, when the room is flushed.
    pub(super) fn release_permit(&mut self, name: &RoomName, permit: OwnedSemaphorePermit) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let is_full = room.pending_bytes >= ROOM_PENDING_BYTES_MAX
            || room.pending.len() >= ROOM_PENDING_MESSAGES_MAX
            || self.pacing.pending_bytes >= PENDING_BYTES_MAX;
        if is_full && !room.pending.is_empty() {
            room.permits.push(permit);
        }
    }

    /// Rejects a message to a room of which its sender is not a member.
    pub(super) fn reject(&mut self, sender: Sender) -> Result<(), NotAMember> {
        let Sender { client, reference } = sender;
        let event = Event::not_joined();
        self.send_to(client, Deliver::Direct(vec![Reply { event, reference }]));
        Err(NotAMember)
    }

    /// Rejects a message while the server shuts down. A client of the text protocol is told by the
    /// close frame that follows.
    pub(super) fn reject_while_draining(&mut self, sender: Sender) -> Result<(), NotAMember> {
        let Sender { client, reference } = sender;
        if self.clients.get(&client).is_some_and(|client| client.events) {
            let refusal = Refusal::new(ErrorCode::ShuttingDown, "the server is shutting down");
            let event = Event::Error(refusal);
            self.send_to(client, Deliver::Direct(vec![Reply { event, reference }]));
        }
        Err(NotAMember)
    }
}
