//! Who is in which room: a client joins and leaves as many as it may.

use std::sync::Arc;

use actix::prelude::*;

use super::log::Wanted;
use super::people::uncharge;
use super::ring::{RING_BYTES_MAX, Ring};
use super::room::{Room, Sender};
use super::{Deliver, Hub, LogError, Messages, NotAMember};
use crate::config::Config;
use crate::domain::{ChatMessage, ClientId, Identity, Position, RoomName, Seq};
use crate::metrics::Limit;
use crate::wire::{ErrorCode, Event, Limits, Ref, Refusal, Reply};

/// How much of everything there may be.
pub(super) struct Bounds {
    /// What clients are told.
    pub(super) told: Limits,
    rooms: Option<usize>,
    rooms_per_address: Option<usize>,
    members: Option<usize>,
}

impl Bounds {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            told: Limits::of(config),
            rooms: config.max_rooms,
            rooms_per_address: config.max_rooms_per_address,
            members: config.max_members_per_room,
        }
    }
}

/// Makes a client a member of a room, which it may be already. It is answered by
/// [`Event::Joined`], and told all that is said there from then on; or by
/// [`ErrorCode::NickTaken`], or where a limit is reached [`ErrorCode::Forbidden`] or
/// [`ErrorCode::Busy`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Join {
    /// Who joins.
    pub client: ClientId,
    /// What.
    pub room: RoomName,
    /// What it wants to be told first.
    pub catch_up: CatchUp,
    /// What the answer echoes.
    pub reference: Option<Ref>,
}

/// What a joiner is told of before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// The latest messages, so many.
    Latest(usize),
    /// All after what it has seen; or if that cannot be, the latest 50.
    After(Position),
}

impl CatchUp {
    /// How many messages a joiner is told who has not asked for a number.
    pub const LATEST: usize = 50;
}

/// Makes a client a member no more. It is answered by [`Event::Left`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Leave {
    /// Who leaves.
    pub client: ClientId,
    /// What.
    pub room: RoomName,
    /// What the answer echoes.
    pub reference: Option<Ref>,
}

impl Handler<Join> for Hub {
    type Result = ();

    fn handle(&mut self, join: Join, _: &mut Self::Context) {
        if !self.clients.contains_key(&join.client) {
            return;
        }
        if let Err((limit, refusal)) = self.may_join(join.client, &join.room) {
            self.counts.metrics.limited(limit);
            return self.answer(join.client, Event::Error(refusal), join.reference);
        }
        let name = join.room.clone();
        let is_asleep = !self.rings.contains(&name);
        self.open(join.client, &name);
        let room = self.rooms.entry(name.clone()).or_default();
        if !is_asleep && room.joining.is_empty() {
            return self.admit(join);
        }
        room.joining.push(join);
        if self.log.is_memory() {
            self.rings.insert(&name, Ring::from(self.log.head));
            self.admit_all(&name);
        } else if self.rooms.get(&name).is_some_and(|room| room.joining.len() == 1) {
            let limit = self.rings.messages_max();
            self.page(Wanted::Ring(name), Seq::MAX, limit, RING_BYTES_MAX);
        }
    }
}

impl Handler<Leave> for Hub {
    type Result = ();

    fn handle(&mut self, Leave { client, room, reference }: Leave, _: &mut Self::Context) {
        if !self.is_member(client, &room) {
            return self.refuse_stranger(client, reference);
        }
        if let Some(known) = self.clients.get_mut(&client) {
            known.rooms.remove(&room);
            known.to.is_in_rooms(known.rooms.len());
            let identity = known.identity;
            self.leave(client, identity, &room);
        }
        self.answer(client, Event::Left { room }, reference);
    }
}

impl Hub {
    /// Whether the limits on rooms let a client join one. The default room is always there.
    fn may_join(&self, id: ClientId, name: &RoomName) -> Result<(), (Limit, Refusal)> {
        let Some(client) = self.clients.get(&id) else { return Ok(()) };
        if client.rooms.contains_key(name) {
            return Ok(());
        }
        if let Some(most) = self.limits.told.rooms.filter(|&most| client.rooms.len() >= most) {
            let words = format!("a connection is in at most {most} rooms");
            return Err((Limit::MaxRoomsPerClient, Refusal::new(ErrorCode::Forbidden, words)));
        }
        if self.rooms.contains_key(name) || *name == RoomName::default() {
            return Ok(());
        }
        let opened = client.to.source().and_then(|source| self.opened.get(&source));
        let most = self.limits.rooms_per_address;
        if let Some(most) = most.filter(|&most| opened.is_some_and(|&opened| opened >= most)) {
            let words = format!("at most {most} rooms are open that your address has opened");
            return Err((Limit::MaxRoomsPerAddress, Refusal::new(ErrorCode::Busy, words)));
        }
        if is_full(self.rooms.len(), self.limits.rooms) {
            let words = "there are as many rooms as the server takes";
            return Err((Limit::MaxRooms, Refusal::new(ErrorCode::Busy, words)));
        }
        Ok(())
    }

    /// Opens a room, if it is not open, on the account of a client's address.
    fn open(&mut self, id: ClientId, name: &RoomName) {
        let Some(client) = self.clients.get(&id) else { return };
        if !self.rooms.contains_key(name) {
            let opener = client.to.source();
            if let Some(source) = opener {
                *self.opened.entry(source).or_default() += 1;
            }
            self.rooms.insert(name.clone(), Room::opened_by(opener));
        }
    }

    pub(super) fn is_member(&self, client: ClientId, room: &RoomName) -> bool {
        self.clients.get(&client).is_some_and(|client| client.rooms.contains_key(room))
    }

    pub(super) fn refuse_stranger(&mut self, client: ClientId, reference: Option<Ref>) {
        self.answer(client, not_joined(), reference);
    }

    /// The same for something said, which nobody waits for an answer to.
    pub(super) fn refuse(&mut self, sender: Sender) -> Result<(), NotAMember> {
        let Sender { client, reference } = sender;
        self.send_to(client, Deliver::Direct(vec![Reply { event: not_joined(), reference }]));
        Err(NotAMember)
    }

    /// The same for something said after the server has begun to shut down. A plain client is told
    /// by the close frame that is about to come.
    pub(super) fn refuse_at_the_end(&mut self, sender: Sender) -> Result<(), NotAMember> {
        let Sender { client, reference } = sender;
        if self.clients.get(&client).is_some_and(|client| client.events) {
            let refusal = Refusal::new(ErrorCode::ShuttingDown, "the server is shutting down");
            let event = Event::Error(refusal);
            self.send_to(client, Deliver::Direct(vec![Reply { event, reference }]));
        }
        Err(NotAMember)
    }

    /// The ring of a room that wakes has been read, or cannot be.
    pub(super) fn woken(&mut self, name: &RoomName, read: Result<Messages, LogError>) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let meanwhile = std::mem::take(&mut room.meanwhile);
        if let Ok(Messages { messages, floor, .. }) = read {
            let head = self.log.head;
            self.rings.insert(name, Ring::from(floor));
            // The log may be ahead of what everyone has been told, and its page behind it.
            let mut messages: Vec<_> = messages.into_iter().map(Arc::new).collect();
            messages.retain(|message| message.seq <= head);
            let last = messages.last().map_or(floor, |message| message.seq);
            messages.extend(meanwhile.into_iter().filter(|message| message.seq > last));
            self.rings.push(name, &messages);
        }
        self.admit_all(name);
    }

    fn admit_all(&mut self, name: &RoomName) {
        let joining = self.rooms.get_mut(name).map(|room| std::mem::take(&mut room.joining));
        for join in joining.into_iter().flatten() {
            self.admit(join);
        }
        self.forget_if_idle(name);
    }

    /// Makes a client a member at this point of the log, and tells it what came before.
    fn admit(&mut self, Join { client: id, room: name, catch_up, reference }: Join) {
        let (Some(client), Some(nick)) = (self.clients.get(&id), self.nick(id)) else { return };
        let room = self.rooms.get(&name).into_iter();
        if room.flat_map(|room| room.bearers(nick)).any(|bearer| bearer != client.identity) {
            let (nick, rooms) = (nick.clone(), client.rooms.clone());
            return self.refuse_name(id, &nick, rooms.keys().chain([&name]), reference);
        }
        let there = self.rooms.get(&name).map_or(0, |room| room.members.len());
        if is_full(there, self.limits.members) && !client.rooms.contains_key(&name) {
            self.counts.metrics.limited(Limit::MaxMembersPerRoom);
            let refusal = Refusal::new(ErrorCode::Busy, "as many are in the room as it takes");
            return self.answer(id, Event::Error(refusal), reference);
        }
        self.enter(id, &name);
        let (members, member_count) = self.names(&name);
        let head = self.log.head;
        let ring = self.rings.get(&name);
        let (missed, count) = match catch_up {
            CatchUp::Latest(count) => (None, count),
            CatchUp::After(Position { epoch, seq }) => {
                let known = epoch == self.log.epoch && seq <= head;
                (ring.filter(|_| known).and_then(|ring| ring.after(seq)), CatchUp::LATEST)
            }
        };
        let recovered = missed.is_some();
        let latest = || ring.map(|ring| ring.latest(count)).unwrap_or_default();
        let messages = missed.unwrap_or_else(latest);
        let joined = Event::Joined {
            epoch: self.log.epoch.clone(),
            seq: head,
            recovered,
            messages,
            members,
            member_count,
            room: name,
        };
        self.answer(id, joined, reference);
    }

    /// Keeps what everyone is about to be told for those who come later.
    pub(super) fn remember(&mut self, name: &RoomName, messages: &[Arc<ChatMessage>]) {
        self.rings.push(name, messages);
        if let Some(room) = self.rooms.get_mut(name).filter(|room| !room.joining.is_empty()) {
            room.meanwhile.extend_from_slice(messages);
        }
    }

    /// Takes a client out of a room.
    pub(super) fn leave(&mut self, id: ClientId, identity: Identity, name: &RoomName) {
        self.exit(id, identity, name);
        self.forget_if_idle(name);
    }

    /// Forgets a room where nobody is and nothing is under way. Its ring stays for those who
    /// come back; but if nothing is in it and the log can tell that again, a flood of names must
    /// not leave one for each.
    pub(super) fn forget_if_idle(&mut self, name: &RoomName) {
        if self.rooms.get(name).is_some_and(super::Room::is_idle) {
            let opener = self.rooms.remove(name).and_then(|room| room.opener);
            if let Some(source) = opener {
                uncharge(&mut self.opened, source);
            }
            if !self.log.is_memory() {
                self.rings.forget_if_empty(name);
            }
        }
    }
}

fn is_full(count: usize, most: Option<usize>) -> bool {
    most.is_some_and(|most| count >= most)
}

fn not_joined() -> Event {
    Event::Error(Refusal::new(ErrorCode::NotJoined, "join the room first"))
}
