//! The hub: one actor that knows every client and every room, and brings each message to all who
//! are in its room. It never waits and does no input or output. Sessions talk to it by
//! [`Register`], [`Unregister`] and [`Broadcast`]; it talks to them by [`Deliver`]. Every further
//! message has a file of its own beside this one.

mod deliver;
mod extend;
mod lifecycle;
mod list_rooms;
mod outlet;
mod pacing;
mod room;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::*;
use log::debug;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::domain::{ChatMessage, ClientId, MessageText, Nick, RoomName};
use crate::socket::DisconnectReason;
use crate::wire::Batch;
pub use deliver::{Deliver, NotRegistered};
pub use lifecycle::{Drain, Watch};
pub use list_rooms::{ListRooms, RoomInfo};
pub use outlet::Outlet;
pub(crate) use outlet::Waiting;
use pacing::{FlushTimer, Pacing};
use room::Room;

/// The hub actor. Start it with [`Hub::start_in`], one to a server.
pub struct Hub {
    clients: HashMap<ClientId, Rc<Client>>,
    rooms: HashMap<RoomName, Room>,
    disconnects: HashMap<DisconnectReason, u64>,
    resume_buffer: usize,
    pacing: Pacing,
    draining: bool,
    watchers: Vec<oneshot::Sender<()>>,
}

/// A client as the hub holds it.
struct Client {
    nick: Nick,
    room: RoomName,
    to: Outlet,
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(FlushTimer::new());
    }
}

/// A client has come: it is a member of its room from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Register {
    /// Its id, given before its session starts.
    pub client: ClientId,
    /// The name its messages bear.
    pub nick: Nick,
    /// The room it is in.
    pub room: RoomName,
    /// How many of the room's recent messages it wants first.
    pub history: usize,
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

/// A client says something to everyone in its room, itself included.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NotRegistered>")]
pub struct Broadcast {
    /// Who says it.
    pub client: ClientId,
    /// What it says.
    pub text: MessageText,
    /// Of a semaphore of the sender's, given back when the hub has accepted the message: that the
    /// sender waits for it when it has none left is what bounds the hub's mailbox.
    pub permit: OwnedSemaphorePermit,
}

impl Handler<Register> for Hub {
    type Result = ();

    fn handle(&mut self, register: Register, _: &mut Self::Context) {
        let Register { client: id, nick, room: name, history, to } = register;
        if self.draining {
            to.close(DisconnectReason::ShuttingDown);
            return;
        }
        // An id is given once; who uses it twice takes his own place.
        self.remove(id, DisconnectReason::Dropped);
        let client = Rc::new(Client { nick, room: name.clone(), to });
        let room = self.rooms.entry(name).or_default();
        let recent = room.recent(history);
        room.join(id, Rc::clone(&client));
        self.clients.insert(id, client);
        if !recent.is_empty() {
            self.send_to(id, Deliver::Batch(Arc::new(Batch::new(recent))));
        }
    }
}

impl Handler<Unregister> for Hub {
    type Result = ();

    fn handle(&mut self, Unregister { client, reason }: Unregister, _: &mut Self::Context) {
        self.remove(client, reason);
    }
}

impl Handler<Broadcast> for Hub {
    type Result = Result<(), NotRegistered>;

    fn handle(&mut self, said: Broadcast, _: &mut Self::Context) -> Self::Result {
        let author = self.clients.get(&said.client).cloned().ok_or(NotRegistered)?;
        self.broadcast(&author.room, &author.nick, said.text);
        self.accept(&author.room, said.permit);
        Ok(())
    }
}

impl Hub {
    /// Says something to everyone in a room, in the name of `nick`. In a room where nobody is,
    /// nobody hears it.
    pub fn broadcast(&mut self, name: &RoomName, nick: &Nick, text: MessageText) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let attributed = !nick.is_anonymous() || room.reads_as_a_members(text.as_str());
        room.push(ChatMessage { room: name.clone(), nick: nick.clone(), text, attributed });
        self.flush_when_due(name);
    }

    /// Takes what is pending in a room and fans it out.
    fn flush(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let messages = room.take_pending();
        if !messages.is_empty() {
            room.next_flush = Instant::now() + self.pacing.wait(room.members.len());
            room.remember(&messages, self.resume_buffer);
            self.fan_out(name, &Arc::new(Batch::new(messages)));
        }
    }

    /// Delivers a batch to every member; those who do not take it are evicted.
    fn fan_out(&mut self, name: &RoomName, batch: &Arc<Batch>) {
        let Some(room) = self.rooms.get(name) else { return };
        let mut refused = Vec::new();
        for (&id, member) in &room.members {
            if let Err(reason) = member.to.deliver(Deliver::Batch(Arc::clone(batch))) {
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

    /// The one way out of the registry. An empty room is forgotten.
    fn remove(&mut self, id: ClientId, reason: DisconnectReason) -> Option<Rc<Client>> {
        let client = self.clients.remove(&id)?;
        if let Some(room) = self.rooms.get_mut(&client.room) {
            room.leave(id);
            if room.members.is_empty() {
                self.rooms.remove(&client.room);
            }
        }
        *self.disconnects.entry(reason).or_default() += 1;
        debug!("client {id} is gone from {}: {reason}", client.room);
        Some(client)
    }
}
