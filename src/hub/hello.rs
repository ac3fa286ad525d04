//! Who a client is: its identity, and the name that everybody knows it by.

use std::collections::HashSet;

use actix::prelude::*;

use super::Hub;
use super::people::room_for_one;
use crate::domain::{ClientId, Identity, Nick, RoomName};
use crate::wire::{ErrorCode, Event, Ref, Refusal};

/// A client says who it is, at first or anew. It is answered by [`Event::Welcome`], or by
/// [`ErrorCode::NickTaken`]; then it stays who it was.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Hello {
    /// Who says so.
    pub client: ClientId,
    /// The name that it and all clients of its identity go by from now on; without one they do as
    /// before.
    pub nick: Option<Nick>,
    /// Whose client it is; without one it stays as it is.
    pub identity: Option<Identity>,
    /// What the answer echoes.
    pub reference: Option<Ref>,
}

impl Handler<Hello> for Hub {
    type Result = ();

    fn handle(&mut self, hello: Hello, _: &mut Self::Context) {
        let Hello { client: id, nick, identity, reference } = hello;
        let Some(client) = self.clients.get(&id) else { return };
        let before = client.identity;
        let after = identity.unwrap_or(before);
        let known = self.people.get(&after).or_else(|| self.people.get(&before));
        let Some(nick) = nick.or_else(|| known.map(|person| person.nick.clone())) else { return };
        let theirs = self.people.get(&after).into_iter().flat_map(|person| person.rooms.keys());
        let rooms: HashSet<RoomName> = client.rooms.keys().chain(theirs).cloned().collect();
        client.to.renamed_rooms(rooms.len());
        if self.is_taken(&nick, after, before, &rooms) {
            return self.refuse_name(id, &nick, rooms.iter(), reference);
        }
        if before == after {
            self.rename(after, &nick);
        } else {
            self.become_client_of(id, before, after, &nick);
        }
        let welcome = Event::Welcome { nick, limits: self.limits.told };
        self.answer(id, welcome, reference);
    }
}

impl Hub {
    /// Whether somebody else has the name: neither who wants it, nor who it is so far.
    fn is_taken(
        &self,
        nick: &Nick,
        after: Identity,
        before: Identity,
        rooms: &HashSet<RoomName>,
    ) -> bool {
        // Another window of who it is so far keeps the name.
        let is_its_own = |bearer| bearer == after || bearer == before && self.is_alone(before);
        let there = rooms.iter().filter_map(|name| self.rooms.get(name));
        there.flat_map(|room| room.bearers(nick)).any(|bearer| !is_its_own(bearer))
    }

    fn is_alone(&self, identity: Identity) -> bool {
        self.people.get(&identity).is_some_and(|person| person.clients() == 1)
    }

    fn become_client_of(&mut self, id: ClientId, before: Identity, after: Identity, nick: &Nick) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let rooms = std::mem::replace(&mut client.rooms, room_for_one());
        client.identity = after;
        for name in rooms.keys() {
            self.exit(id, before, name);
        }
        self.dismiss(before);
        // Between the two: the name may have been the other identity's until now, and a client
        // enters no room under a name that was not checked.
        self.rename(after, nick);
        self.enroll(after, nick.clone());
        for name in rooms.keys() {
            self.enter(id, name);
        }
    }

    /// Tells a client that it cannot have a name, and one that it could have.
    pub(super) fn refuse_name<'a>(
        &mut self,
        client: ClientId,
        nick: &Nick,
        rooms: impl Iterator<Item = &'a RoomName> + Clone,
        reference: Option<Ref>,
    ) {
        let words = format!("somebody else goes by the name '{nick}'");
        let mut refusal = Refusal::new(ErrorCode::NickTaken, words);
        refusal.suggested = self.free_name(nick, rooms);
        self.answer(client, Event::Error(refusal), reference);
    }
}
