//! The hub: one actor that knows every client and every room, and brings each message to all who
//! are in its room. It never waits and does no input or output. Sessions talk to it by
//! [`Register`], [`Unregister`] and [`Broadcast`]; it talks to them by [`Deliver`]. Every further
//! message has a file of its own beside this one.

mod bundle;
mod deliver;
mod extend;
mod hello;
mod history;
mod lifecycle;
mod list_rooms;
mod log;
mod membership;
mod memory;
mod outlet;
mod pacing;
mod people;
mod presence;
mod ring;
mod room;
mod survey;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use actix::{WeakAddr, prelude::*};
use tokio::sync::OwnedSemaphorePermit;

use crate::admission::Source;
use crate::domain::{ClientId, Identity, MessageId, MessageText, Nick, Origin, RoomName};
use crate::socket::DisconnectReason;
use crate::wire::{Batch, Ref};
pub use deliver::{Deliver, NotAMember};
pub use hello::Hello;
pub use history::History;
use lifecycle::Lifecycle;
pub use lifecycle::{Drain, IsReady, NotReady, Watch};
pub use list_rooms::{ListRooms, RoomInfo};
use log::Logging;
pub use log::{Answer, Append, Appended, Log, LogError, Messages, Page, Paged, Placed, Probe};
pub use membership::{CatchUp, Join, Leave};
pub use outlet::Outlet;
pub(crate) use outlet::QueueBudget;
use pacing::Pacing;
pub use people::IsFree;
use people::{Client, Person, room_for_one};
pub use presence::{Typing, Who};
use ring::Rings;
use room::{Room, Sender};
use survey::Counts;
pub use survey::{Held, Survey};

/// The hub actor. Start it with [`Hub::start_in`], one to a server.
pub struct Hub {
    clients: HashMap<ClientId, Client>,
    people: HashMap<Identity, Person>,
    rooms: HashMap<RoomName, Room>,
    /// How many of the rooms each address has opened.
    opened: HashMap<Source, usize>,
    rings: Rings,
    log: Logging,
    pacing: Pacing,
    limits: membership::Bounds,
    counts: Counts,
    lifecycle: Lifecycle,
    this: WeakAddr<Self>,
}

/// A client has come. It is in no room yet.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Register {
    /// Its id, given before its session starts.
    pub client: ClientId,
    /// The name its messages bear.
    pub nick: Nick,
    /// Whether it wants to be told more than messages: the place of each of its own, who comes and
    /// goes.
    pub events: bool,
    /// Where to deliver.
    pub to: Outlet,
}

/// A client is gone. One that was never here, or has been forgotten before, is no mistake.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Unregister {
    /// Whose connection has ended.
    pub client: ClientId,
    /// Why it has.
    pub reason: DisconnectReason,
}

/// A client says something to everyone in a room that it is in, itself included.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NotAMember>")]
pub struct Broadcast {
    /// Who says it.
    pub client: ClientId,
    /// Where.
    pub room: RoomName,
    /// What it says.
    pub text: MessageText,
    /// What it calls that: the same of the same identity is said only once.
    pub id: Option<MessageId>,
    /// What the answer echoes.
    pub reference: Option<Ref>,
    /// Of the sender's semaphore, given back when the hub has accepted the message: that the sender
    /// waits when it has none left is what bounds the hub's mailbox.
    pub permit: OwnedSemaphorePermit,
}

impl Handler<Register> for Hub {
    type Result = ();

    fn handle(&mut self, register: Register, _: &mut Self::Context) {
        let Register { client: id, nick, events, to } = register;
        if self.lifecycle.draining {
            return to.close(DisconnectReason::ShuttingDown);
        }
        // An id is given once; who uses it twice takes its own place.
        self.remove(id, DisconnectReason::Dropped);
        let (identity, rooms, to) = (Identity::of_client(id), room_for_one(), Rc::new(to));
        self.enroll(identity, nick);
        self.clients.insert(id, Client { identity, events, rooms, to });
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

    fn handle(&mut self, said: Broadcast, _: &mut Self::Context) -> Self::Result {
        let Broadcast { client, room, text, id, reference, permit } = said;
        let sender = Sender { client, reference };
        if self.lifecycle.draining {
            return self.refuse_at_the_end(sender);
        }
        let author = self.clients.get(&client).filter(|author| author.rooms.contains_key(&room));
        let (Some(author), Some(nick)) = (author, self.nick(client)) else {
            return self.refuse(sender);
        };
        let origin = id.map(|id| Origin { author: author.identity, id });
        self.say(&room, nick.clone(), text, origin, Some(sender));
        self.accept(&room, permit);
        Ok(())
    }
}

impl Hub {
    /// Takes what is pending in a room to the log, and from there to everyone.
    fn flush(&mut self, name: &RoomName) {
        if !self.log.is_idle() {
            return self.log.wait(name);
        }
        let taken = self.take_pending(name);
        self.append(taken);
    }

    /// Delivers a batch to every member; those who do not take it are evicted.
    fn fan_out(&mut self, name: &RoomName, batch: &Arc<Batch>) {
        let Some(room) = self.rooms.get(name) else { return };
        let mut refused = Vec::new();
        for (&id, member) in &room.members {
            if let Err(reason) = member.deliver(Deliver::Batch(Arc::clone(batch))) {
                refused.push((id, reason));
            }
        }
        for (id, reason) in refused {
            self.evict(id, reason);
        }
    }

    /// Removes a client and orders it to close: one that does not take what it is given, as the
    /// chat example does when `send` would block, or everybody in the end.
    fn evict(&mut self, id: ClientId, reason: DisconnectReason) {
        if let Some(client) = self.remove(id, reason) {
            client.to.close(reason);
        }
    }

    /// The one way out of the registry, and of all rooms.
    fn remove(&mut self, id: ClientId, reason: DisconnectReason) -> Option<Client> {
        let client = self.clients.remove(&id)?;
        for name in client.rooms.keys() {
            self.leave(id, client.identity, name);
        }
        self.dismiss(client.identity);
        self.counts.gone(id, reason);
        Some(client)
    }
}
