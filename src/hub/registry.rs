//! The registry of clients and users. A user is an identity with a name and any number of clients.
//! A user counts once in a room, even with several clients in it. No other user in the room has
//! the same name or one that looks alike. In a cluster, the users are those of all nodes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use actix::prelude::*;
use litemap::LiteMap;

use super::{ClientHandle, Hub};
use crate::domain::{ClientId, Identity, Nick, RoomName, Seq};
use crate::limits::SourceAddress;
use crate::log::nodes::{Claim, TellNodes};

/// A map by rooms. It is a sorted vector, since most clients are in one room.
pub(super) type RoomMap<V> = LiteMap<RoomName, V>;

/// Returns an empty map with capacity for one room.
pub(super) fn map_for_one_room<V>() -> RoomMap<V> {
    LiteMap::with_capacity(1)
}

/// A registered client.
pub(super) struct Client {
    pub(super) identity: Identity,
    /// Whether the client receives other events than messages.
    pub(super) events: bool,
    pub(super) rooms: RoomMap<()>,
    pub(super) handle: Rc<ClientHandle>,
}

impl Client {
    pub(super) fn is_in(&self, room: &RoomName) -> bool {
        self.rooms.contains_key(room)
    }

    /// Returns whether the client, whose id this is, has sent a key.
    pub(super) fn has_key(&self, id: ClientId) -> bool {
        self.identity != Identity::of_client(id)
    }
}

/// An identity with at least one client, here or on another node.
pub(super) struct User {
    pub(super) nick: Nick,
    /// The claim to the name. It decides if two nodes disagree.
    pub(super) claim: Claim,
    pub(super) clients: Vec<ClientId>,
    /// The number of other nodes on which the user is in a room.
    pub(super) nodes: u32,
    /// The rooms in which the user has clients, here or on another node.
    pub(super) rooms: RoomMap<UserRoom>,
}

/// A room of a user.
#[derive(Default)]
pub(super) struct UserRoom {
    /// The number of the user's clients in the room.
    pub(super) clients: u32,
    /// The number of other nodes on which the user has clients in the room.
    pub(super) nodes: u32,
    /// The latest read mark that the hub has sent to the log or received from it, or 0.
    pub(super) read_mark: Seq,
}

impl UserRoom {
    /// Returns whether the user has no client in the room, here or on another node.
    pub(super) fn is_empty(&self) -> bool {
        self.clients == 0 && self.nodes == 0
    }
}

/// Asks whether this name is free in the room for a user who is not connected yet.
#[derive(Clone, Debug, Message)]
#[rtype(result = "bool")]
pub struct IsFree {
    /// The room.
    pub room: RoomName,
    /// The name.
    pub nick: Nick,
}

impl Handler<IsFree> for Hub {
    type Result = bool;

    fn handle(&mut self, IsFree { room, nick }: IsFree, _: &mut Self::Context) -> bool {
        self.rosters.get(&room).is_none_or(|roster| roster.owners_of(&nick).next().is_none())
    }
}

/// Subtracts one room from those that clients at an address have opened.
pub(super) fn subtract_opened_room(
    opened: &mut HashMap<SourceAddress, usize>,
    source: SourceAddress,
) {
    if let Entry::Occupied(mut rooms) = opened.entry(source) {
        *rooms.get_mut() -= 1;
        if *rooms.get() == 0 {
            rooms.remove();
        }
    }
}

impl Hub {
    /// Returns the name of a client's user.
    pub(super) fn nick(&self, client: ClientId) -> Option<&Nick> {
        let client = self.clients.get(&client)?;
        self.users.get(&client.identity).map(|user| &user.nick)
    }

    /// Adds a client to its user. If the identity has no user yet, adds one with this name.
    pub(super) fn attach(&mut self, identity: Identity, nick: Nick, id: ClientId) {
        let user = || User {
            nick,
            claim: self.nodes.next_claim(),
            clients: Vec::with_capacity(1),
            nodes: 0,
            rooms: map_for_one_room(),
        };
        self.users.entry(identity).or_insert_with(user).clients.push(id);
    }

    /// Removes a client, which is in no room any more, from its user.
    pub(super) fn detach(&mut self, identity: Identity, id: ClientId) {
        if let Some(user) = self.users.get_mut(&identity) {
            user.clients.retain(|client| *client != id);
            self.remove_user_if_absent(identity);
        }
    }

    /// Removes a user who has no client, here or on another node.
    pub(super) fn remove_user_if_absent(&mut self, identity: Identity) {
        if self.users.get(&identity).is_some_and(|user| user.clients.is_empty() && user.nodes == 0)
        {
            self.users.remove(&identity);
            self.nodes.tell(TellNodes::Forget(identity));
        }
    }

    /// Changes the name of a user. The name must be free.
    pub(super) fn rename(&mut self, identity: Identity, nick: &Nick) {
        if self.users.get(&identity).is_some_and(|user| user.nick.as_str() != nick.as_str()) {
            let claim = self.nodes.next_claim();
            self.set_name(identity, nick, claim);
            self.tell_name(identity);
        }
    }

    /// Sets the name of a user in all rooms.
    pub(super) fn set_name(&mut self, identity: Identity, nick: &Nick, claim: Claim) {
        let Some(user) = self.users.get_mut(&identity) else { return };
        user.claim = claim;
        let before = std::mem::replace(&mut user.nick, nick.clone());
        if before.as_str() == nick.as_str() {
            return;
        }
        let rooms: Vec<_> = user.rooms.keys().cloned().collect();
        for name in &rooms {
            if let Some(roster) = self.rosters.get_mut(name) {
                roster.rename(identity, &before, nick);
            }
            self.schedule_presence(name);
        }
    }

    /// Returns a similar name that is free in all these rooms. Gives up after a few attempts, so
    /// that repeated requests cannot keep the hub busy.
    pub(super) fn free_name<'a>(
        &self,
        nick: &Nick,
        rooms: impl Iterator<Item = &'a RoomName> + Clone,
    ) -> Option<Nick> {
        // The more rooms, the fewer attempts.
        let tries = (1000 / rooms.clone().count().max(1)).clamp(1, 8) as u32;
        (2..2 + tries).find_map(|number| {
            nick.numbered(number).filter(|other| self.is_free_in(other, rooms.clone()))
        })
    }

    /// Returns whether no user in these rooms has the name.
    pub(super) fn is_free_in<'a>(
        &self,
        nick: &Nick,
        rooms: impl Iterator<Item = &'a RoomName>,
    ) -> bool {
        let mut known = rooms.filter_map(|name| self.rosters.get(name));
        known.all(|roster| roster.owners_of(nick).next().is_none())
    }
}
