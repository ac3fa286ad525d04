//! How a client says who it is: its identity and its name.

use std::collections::HashSet;
use std::time::Duration;

use actix::prelude::*;

use super::{Hub, map_for_one_room};
use crate::domain::{ClientId, Identity, Nick, RoomName, Settings, Unread};
use crate::protocol::{ErrorCode, Event, Limits, Ref, Refusal, json};

/// Sets the identity and the name of a client. The answer is [`Event::Welcome`]. If the name is
/// taken, the answer is an error with [`ErrorCode::NickTaken`], and nothing changes.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Hello {
    /// The client.
    pub client: ClientId,
    /// The new name of the identity, for all its clients. Without one the identity keeps its name.
    pub nick: Option<Nick>,
    /// The client's identity. Without one the client keeps its identity.
    pub identity: Option<Identity>,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
}

impl Handler<Hello> for Hub {
    type Result = ();

    fn handle(&mut self, hello: Hello, _: &mut Self::Context) {
        let Hello { client: id, nick, identity, reference } = hello;
        let Some(client) = self.clients.get(&id) else { return };
        let before = client.identity;
        let after = identity.unwrap_or(before);
        let Some(nick) = nick.or_else(|| self.current_name(after, before)) else { return };
        let joined = self.users.get(&after).into_iter().flat_map(|user| user.rooms.keys());
        let rooms: HashSet<RoomName> = client.rooms.keys().chain(joined).cloned().collect();
        client.handle.set_renamed_rooms(rooms.len());
        if self.is_taken(&nick, after, before, &rooms) {
            return self.reject_name(id, &nick, rooms.iter(), reference);
        }
        if before == after {
            self.rename(after, &nick);
        } else {
            self.change_identity(id, before, after, &nick);
        }
        let welcome = self.welcome(after, nick);
        self.answer(id, welcome, reference);
    }
}

impl Hub {
    /// Returns the `welcome` of a user with this name.
    pub(super) fn welcome(&self, identity: Identity, nick: Nick) -> Event {
        let (limits, durability) = (self.advertised(), self.log.durability);
        Event::Welcome { nick, author: identity.into(), limits, durability }
    }

    /// Returns the limits that `welcome` has.
    fn advertised(&self) -> Limits {
        let Settings { edits, edit_window, .. } = self.log.state.settings;
        let millis = |window: Duration| u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let search = self.log.backend.search().map(|_| json::SEARCH_MAX);
        let unread = self.log.backend.read_marks().map(|_| Unread::COUNT_MAX);
        let edit_window_ms = edit_window.map(millis);
        Limits { search, unread, edits, edit_window_ms, ..self.limits.advertised }
    }

    /// Returns the name of an identity, or of the former one if it is not known yet. A generated
    /// name stays with the former identity if that has other clients.
    fn current_name(&self, after: Identity, before: Identity) -> Option<Nick> {
        if let Some(user) = self.users.get(&after) {
            return Some(user.nick.clone());
        }
        let nick = &self.users.get(&before)?.nick;
        if nick.is_anonymous() && !self.has_one_client(before) {
            return Some(self.nodes.generate_name());
        }
        Some(nick.clone())
    }

    /// Returns whether another user has the name in one of these rooms.
    fn is_taken(
        &self,
        nick: &Nick,
        after: Identity,
        before: Identity,
        rooms: &HashSet<RoomName>,
    ) -> bool {
        // The former identity keeps its name if it has other clients.
        let is_own = |owner| owner == after || owner == before && self.has_one_client(before);
        let known = rooms.iter().filter_map(|name| self.rosters.get(name));
        known.flat_map(|roster| roster.owners_of(nick)).any(|owner| !is_own(owner))
    }

    fn has_one_client(&self, identity: Identity) -> bool {
        self.users.get(&identity).is_some_and(|user| user.clients.len() == 1 && user.nodes == 0)
    }

    fn change_identity(&mut self, id: ClientId, before: Identity, after: Identity, nick: &Nick) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let rooms = std::mem::replace(&mut client.rooms, map_for_one_room());
        client.identity = after;
        for name in rooms.keys() {
            self.remove_member(id, before, name);
        }
        self.detach(before, id);
        // The user is renamed after the client has left its rooms, since the former identity may
        // have had the name, and before it enters them again, since the identity's old name was not
        // checked there.
        self.rename(after, nick);
        self.attach(after, nick.clone(), id);
        for name in rooms.keys() {
            self.add_member(id, name);
            // The client knows its own name.
            self.show_names(name);
        }
    }

    /// Answers that a name is taken, with a suggestion.
    pub(super) fn reject_name<'a>(
        &mut self,
        client: ClientId,
        nick: &Nick,
        rooms: impl Iterator<Item = &'a RoomName> + Clone,
        reference: Option<Ref>,
    ) {
        let text = format!("another user has the name '{nick}'");
        let mut refusal = Refusal::new(ErrorCode::NickTaken, text);
        refusal.suggested = self.free_name(nick, rooms);
        self.answer(client, Event::Error(refusal), reference);
    }
}
