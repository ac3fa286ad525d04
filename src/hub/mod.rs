//! The hub: one actor that knows every client and every room, and delivers each message to the
//! members of its room. Sessions send it [`Register`], [`Unregister`] and [`Broadcast`], and it
//! sends them [`Deliver`]. The submodules define the other messages. The hub does no input or
//! output and waits for no answer.

mod admin;
mod batch;
mod change;
mod client_handle;
mod commit;
mod delivery;
mod extend;
mod hello;
mod history;
mod nodes;
mod pacing;
mod publish;
mod registry;
mod rooms;
mod search;

use std::collections::HashMap;
use std::rc::Rc;

use actix::{WeakAddr, prelude::*};
use log::debug;
use tokio::sync::OwnedSemaphorePermit;

use crate::domain::{Action, ClientId, Identity, MessageId, MessageText, Nick, RoomName, Seq};
use crate::limits::SourceAddress;
pub use crate::metrics::HubStats;
use crate::metrics::Metrics;
use crate::protocol::{DisconnectReason, Ref};
use admin::Lifecycle;
pub(crate) use admin::StartHub;
pub use admin::{Drain, GetStats, IsReady, ListRooms, NotReady, RoomInfo, Watch};
pub use batch::{Batch, Notice};
pub use change::{Delete, Edit, React, SetRoom};
pub use client_handle::ClientHandle;
pub(crate) use client_handle::QueueBudget;
use commit::LogState;
pub use delivery::Deliver;
pub use hello::Hello;
pub use history::History;
use history::{Reads, Rings};
use nodes::OtherNodes;
use pacing::Pacing;
pub use publish::NotAMember;
use publish::Sender;
pub use registry::IsFree;
use registry::{Client, User, map_for_one_room};
pub use rooms::{CatchUp, Join, Leave, Read, Typing, Who};
use rooms::{Counts, Room, RoomLimits, Roster, WaitingJoins};
pub use search::Search;
use search::Searches;

/// The hub actor. A server has one: see [`Hub::start_in`].
pub struct Hub {
    clients: HashMap<ClientId, Client>,
    users: HashMap<Identity, User>,
    rooms: HashMap<RoomName, Room>,
    rosters: HashMap<RoomName, Roster>,
    nodes: OtherNodes,
    /// The number of open rooms that clients at each address have opened.
    opened_rooms: HashMap<SourceAddress, usize>,
    rings: Rings,
    reads: Reads,
    waiting_joins: WaitingJoins,
    counts: Counts,
    searches: Searches,
    log: LogState,
    pacing: Pacing,
    limits: RoomLimits,
    disconnects: HashMap<DisconnectReason, u64>,
    metrics: Metrics,
    lifecycle: Lifecycle,
    this: WeakAddr<Self>,
}

/// Registers a client. It is not a member of any room yet.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Register {
    /// The client's id, from [`ClientId::next`].
    pub client: ClientId,
    /// The user's name.
    pub nick: Nick,
    /// Whether to deliver events other than messages, such as receipts and presence.
    pub events: bool,
    /// Where to deliver.
    pub to: ClientHandle,
}

/// Removes a client. Does nothing if the hub does not know it, or has removed it before.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Unregister {
    /// The client whose connection has ended.
    pub client: ClientId,
    /// The reason.
    pub reason: DisconnectReason,
}

/// Publishes a message to all members of a room, including its author.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NotAMember>")]
pub struct Broadcast {
    /// The author's client, which must be a member of the room.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
    /// The text.
    pub text: MessageText,
    /// The message of the same room that it replies to.
    pub reply_to: Option<Seq>,
    /// The author's id for the message. A message that repeats an id of the same identity in the
    /// same room is a duplicate and not delivered again.
    pub id: Option<MessageId>,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
    /// A permit of the sender's semaphore. The hub holds it until the room has space. A sender
    /// without permits waits, which bounds the hub's mailbox.
    pub permit: OwnedSemaphorePermit,
}

impl Handler<Register> for Hub {
    type Result = ();

    fn handle(&mut self, register: Register, _: &mut Self::Context) {
        let Register { client: id, nick, events, to } = register;
        if self.lifecycle.draining {
            return to.close(DisconnectReason::ShuttingDown);
        }
        // A client that uses its id twice replaces its first registration.
        self.remove(id, DisconnectReason::Dropped);
        let (identity, rooms, handle) = (Identity::of_client(id), map_for_one_room(), Rc::new(to));
        let nick = self.nodes.mark_anonymous(id, nick);
        self.attach(identity, nick, id);
        self.clients.insert(id, Client { identity, events, rooms, handle });
    }
}

impl Handler<Unregister> for Hub {
    type Result = ();

    fn handle(&mut self, Unregister { client, reason }: Unregister, _: &mut Self::Context) {
        self.remove(client, reason);
    }
}

impl Handler<Broadcast> for Hub {
    type Result = Result<(), NotAMember>;

    fn handle(&mut self, broadcast: Broadcast, ctx: &mut Self::Context) -> Self::Result {
        let Broadcast { client, room, text, reply_to, id, reference, permit } = broadcast;
        let action = Action::message(text, reply_to);
        self.submit(&room, action, id, Sender { client, reference }, permit, ctx)
    }
}

impl Hub {
    /// Removes a client and tells it to close, as gorilla's chat example does with a client whose
    /// channel is full.
    fn evict(&mut self, id: ClientId, reason: DisconnectReason) {
        if let Some(client) = self.remove(id, reason) {
            client.handle.close(reason);
        }
    }

    /// Removes a client from the registry and its rooms. Nothing else removes clients.
    fn remove(&mut self, id: ClientId, reason: DisconnectReason) -> Option<Client> {
        let client = self.clients.remove(&id)?;
        for name in client.rooms.keys() {
            self.remove_member_and_close(id, client.identity, name);
        }
        self.detach(client.identity, id);
        debug!("client {id} removed: {reason}");
        *self.disconnects.entry(reason).or_default() += 1;
        Some(client)
    }
}
