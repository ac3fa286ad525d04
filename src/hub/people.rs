//! Who stands behind the clients: a person has a name, which nobody else in its rooms has, and any
//! number of clients. In a room it is one, in however many windows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use actix::prelude::*;
use litemap::LiteMap;

use super::{Hub, Outlet};
use crate::admission::Source;
use crate::domain::{ClientId, Identity, Nick, RoomName};

/// A client as the hub holds it.
pub(super) struct Client {
    pub(super) identity: Identity,
    /// Whether it wants to be told more than messages.
    pub(super) events: bool,
    pub(super) rooms: LiteMap<RoomName, ()>,
    pub(super) to: Rc<Outlet>,
}

/// An identity of which a client is here.
pub(super) struct Person {
    pub(super) nick: Nick,
    clients: usize,
    /// Where it is, with how many of its clients.
    pub(super) rooms: LiteMap<RoomName, usize>,
}

/// Asks whether somebody who is not here yet could join a room under this name.
#[derive(Clone, Debug, Message)]
#[rtype(result = "bool")]
pub struct IsFree {
    /// Where.
    pub room: RoomName,
    /// The name.
    pub nick: Nick,
}

impl Person {
    /// How many clients it has.
    pub(super) fn clients(&self) -> usize {
        self.clients
    }
}

impl Handler<IsFree> for Hub {
    type Result = bool;

    fn handle(&mut self, IsFree { room, nick }: IsFree, _: &mut Self::Context) -> bool {
        self.rooms.get(&room).is_none_or(|room| room.bearers(&nick).next().is_none())
    }
}

/// An empty map with capacity for one room: most clients join no more.
pub(super) fn room_for_one<V>() -> LiteMap<RoomName, V> {
    LiteMap::with_capacity(1)
}

/// Takes one room off the account of an address.
pub(super) fn uncharge(opened: &mut HashMap<Source, usize>, source: Source) {
    if let Entry::Occupied(mut rooms) = opened.entry(source) {
        *rooms.get_mut() -= 1;
        if *rooms.get() == 0 {
            rooms.remove();
        }
    }
}

impl Hub {
    /// The name that a client goes by.
    pub(super) fn nick(&self, client: ClientId) -> Option<&Nick> {
        let client = self.clients.get(&client)?;
        self.people.get(&client.identity).map(|person| &person.nick)
    }

    /// Counts a client in. A person who is here goes on under the name it has.
    pub(super) fn enroll(&mut self, identity: Identity, nick: Nick) {
        let person = || Person { nick, clients: 0, rooms: room_for_one() };
        self.people.entry(identity).or_insert_with(person).clients += 1;
    }

    /// Counts a client out, which is in no room any more.
    pub(super) fn dismiss(&mut self, identity: Identity) {
        if let Some(person) = self.people.get_mut(&identity) {
            person.clients -= 1;
            if person.clients == 0 {
                self.people.remove(&identity);
            }
        }
    }

    /// Makes a client a member of a room.
    pub(super) fn enter(&mut self, id: ClientId, name: &RoomName) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some(person) = self.people.get_mut(&client.identity) else { return };
        if client.rooms.insert(name.clone(), ()).is_some() {
            return;
        }
        client.to.is_in_rooms(client.rooms.len());
        let room = self.rooms.entry(name.clone()).or_default();
        room.members.insert(id, Rc::clone(&client.to));
        if let Some(windows) = person.rooms.get_mut(name) {
            *windows += 1;
        } else {
            person.rooms.insert(name.clone(), 1);
            room.arrive(client.identity, &person.nick);
            self.tell_news_when_due(name);
        }
    }

    /// Takes a member out of a room.
    pub(super) fn exit(&mut self, id: ClientId, identity: Identity, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let Some(person) = self.people.get_mut(&identity) else { return };
        let Some(gone) = room.members.remove(&id) else { return };
        // An address is charged for a room only while one of its clients is there.
        let opener = room.opener.filter(|&opener| gone.source() == Some(opener));
        if let Some(opener) = opener
            && let Some(successor) = room.successor(opener)
        {
            room.opener = Some(successor);
            *self.opened.entry(successor).or_default() += 1;
            uncharge(&mut self.opened, opener);
        }
        if let Some(windows) = person.rooms.get_mut(name) {
            *windows -= 1;
            if *windows == 0 {
                person.rooms.remove(name);
                room.depart(identity, &person.nick);
                self.tell_news_when_due(name);
            }
        }
    }

    /// Gives a person another name, which is free.
    pub(super) fn rename(&mut self, identity: Identity, nick: &Nick) {
        let Some(person) = self.people.get_mut(&identity) else { return };
        if person.nick.as_str() == nick.as_str() {
            return;
        }
        let before = std::mem::replace(&mut person.nick, nick.clone());
        let rooms: Vec<_> = person.rooms.keys().cloned().collect();
        for name in &rooms {
            if let Some(room) = self.rooms.get_mut(name) {
                room.rename(identity, &before, nick);
            }
            self.tell_news_when_due(name);
        }
    }

    /// A name like this one that nobody has in any of these rooms, if there is one close by: who
    /// asks again and again must not keep the hub looking.
    pub(super) fn free_name<'a>(
        &self,
        nick: &Nick,
        rooms: impl Iterator<Item = &'a RoomName> + Clone,
    ) -> Option<Nick> {
        // Somebody who is in many rooms is not searched for long.
        let tries = (1000 / rooms.clone().count().max(1)).clamp(1, 8) as u32;
        (2..2 + tries).find_map(|number| {
            let other = nick.numbered(number)?;
            let mut there = rooms.clone().filter_map(|name| self.rooms.get(name));
            let is_free = there.all(|room| room.bearers(&other).next().is_none());
            is_free.then_some(other)
        })
    }
}
