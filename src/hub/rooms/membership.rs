//! Membership: clients join and leave rooms.

use std::rc::Rc;

use actix::prelude::*;

use super::unread::CountedTo;
use super::{Room, Roster};
use crate::config::Config;
use crate::domain::{ClientId, Identity, Nick, Position, RoomName, Seq, Unread};
use crate::hub::Hub;
use crate::hub::history::{Excerpt, Missed, Purpose, RING_TEXT_BYTES_MAX, Read, Ring};
use crate::hub::registry::subtract_opened_room;
use crate::log::nodes::UserChange;
use crate::log::{LogError, Messages, Range, Reader};
use crate::metrics::Limit;
use crate::protocol::{ErrorCode, Event, Limits, Ref, Refusal, json};

/// The limits of rooms and members.
pub(in crate::hub) struct RoomLimits {
    /// The limits in the `welcome` event.
    pub(in crate::hub) advertised: Limits,
    rooms: Option<usize>,
    rooms_per_address: Option<usize>,
    members: Option<usize>,
}

impl RoomLimits {
    pub(in crate::hub) fn new(config: &Config) -> Self {
        Self {
            advertised: Limits {
                message_bytes: config.max_message_bytes,
                frame_bytes: config.frame_limit(),
                rooms: config.max_rooms_per_client,
                history: json::HISTORY_MAX,
                search: None,
                edits: config.edits,
                edit_window_ms: None,
                unread: None,
            },
            rooms: config.max_rooms,
            rooms_per_address: config.max_rooms_per_address,
            members: config.max_members_per_room,
        }
    }
}

/// Makes a client a member of a room. It may already be one. Members receive all later messages.
/// The answer is [`Event::Joined`], or an error: [`ErrorCode::NickTaken`], or at a limit
/// [`ErrorCode::Forbidden`] or [`ErrorCode::Busy`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Join {
    /// The client.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
    /// Which earlier messages the client receives.
    pub catch_up: CatchUp,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
}

/// Which earlier messages a client receives when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// The latest messages, at most this many.
    Latest(usize),
    /// All messages after this position. If some are missing, the client receives the latest 50.
    /// If another node of a cluster may have delivered the entry at this position before this hub,
    /// the answer waits for the entry, but at most 2 seconds.
    After(Position),
}

impl CatchUp {
    /// The default number of messages.
    pub const DEFAULT_COUNT: usize = 50;
}

/// A join whose unread messages are counted.
pub(in crate::hub) struct Joining {
    pub(super) join: Join,
    /// The count. `None` if the user has no read mark for the room, or the log cannot count.
    pub(super) counted: Option<CountedTo>,
}

/// Ends the membership of a client. The answer is [`Event::Left`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Leave {
    /// The client.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
}

impl Handler<Join> for Hub {
    type Result = ();

    fn handle(&mut self, join: Join, _: &mut Self::Context) {
        if let Some(join) = self.wait_for_position(join) {
            self.begin_join(join);
        }
    }
}

impl Handler<Leave> for Hub {
    type Result = ();

    fn handle(&mut self, Leave { client, room, reference }: Leave, _: &mut Self::Context) {
        let Some(known) = self.clients.get_mut(&client).filter(|client| client.is_in(&room)) else {
            return self.answer(client, Event::not_joined(), reference);
        };
        known.rooms.remove(&room);
        known.handle.set_rooms(known.rooms.len());
        let identity = known.identity;
        self.remove_member_and_close(client, identity, &room);
        self.answer(client, Event::Left { room }, reference);
    }
}

impl Hub {
    pub(in crate::hub) fn is_member(&self, client: ClientId, room: &RoomName) -> bool {
        self.clients.get(&client).is_some_and(|client| client.is_in(room))
    }

    /// Admits a client to a room, or lets it wait for the count of its unread messages.
    pub(super) fn begin_join(&mut self, join: Join) {
        if let Some(join) = self.count_unread_before(join) {
            self.join(Joining { join, counted: None });
        }
    }

    /// Admits a client to a room, or lets it wait for the room's ring.
    pub(super) fn join(&mut self, joining: Joining) {
        let Join { client, room: name, .. } = &joining.join;
        let (client, name) = (*client, name.clone());
        if !self.clients.contains_key(&client) {
            return;
        }
        if let Err((limit, refusal)) = self.may_join(client, &name) {
            self.metrics.count_limit(limit);
            return self.answer(client, Event::Error(refusal), joining.join.reference);
        }
        let has_ring = self.rings.contains(&name);
        self.open_room(client, &name);
        let room = self.rooms.entry(name.clone()).or_default();
        if has_ring && room.joining.is_empty() {
            self.admit(joining);
            // A user of another node may have the name.
            return self.close_room_if_idle(&name);
        }
        room.joining.push(joining);
        if room.joining.len() == 1 {
            self.read(Read {
                // Entries that are delivered meanwhile are kept until the ring, the room's recent
                // messages in memory, is filled.
                before: self.delivered(&name).next(),
                range: Range::Latest,
                reader: Reader::Hub,
                limit: self.rings.messages_max(),
                max_bytes: RING_TEXT_BYTES_MAX,
                purpose: Purpose::Ring(name),
            });
        }
    }

    /// Checks the limits of rooms. The default room may always be opened.
    fn may_join(&self, id: ClientId, name: &RoomName) -> Result<(), (Limit, Refusal)> {
        let Some(client) = self.clients.get(&id) else { return Ok(()) };
        if client.is_in(name) {
            return Ok(());
        }
        if let Some(most) = self.limits.advertised.rooms.filter(|&most| client.rooms.len() >= most)
        {
            let text = format!("a connection may be in at most {most} rooms");
            return Err((Limit::MaxRoomsPerClient, Refusal::new(ErrorCode::Forbidden, text)));
        }
        if self.rooms.contains_key(name) || *name == RoomName::default() {
            return Ok(());
        }
        let opened = client.handle.address().and_then(|address| self.opened_rooms.get(&address));
        let most = self.limits.rooms_per_address;
        if let Some(most) = most.filter(|&most| opened.is_some_and(|&opened| opened >= most)) {
            let text = format!("your address may have at most {most} rooms open");
            return Err((Limit::MaxRoomsPerAddress, Refusal::new(ErrorCode::Busy, text)));
        }
        if is_full(self.rooms.len(), self.limits.rooms) {
            let text = "the server has reached its limit of open rooms";
            return Err((Limit::MaxRooms, Refusal::new(ErrorCode::Busy, text)));
        }
        Ok(())
    }

    /// Opens a room, unless it is open. It counts for the address of the client.
    fn open_room(&mut self, id: ClientId, name: &RoomName) {
        let Some(client) = self.clients.get(&id) else { return };
        if !self.rooms.contains_key(name) {
            let opener = client.handle.address();
            if let Some(address) = opener {
                *self.opened_rooms.entry(address).or_default() += 1;
            }
            self.rooms.insert(name.clone(), Room::opened_by(opener));
        }
    }

    /// Fills the ring of a room with the messages that were read, and admits the clients that wait
    /// for it. If the log could not be read, they are admitted without earlier messages.
    pub(in crate::hub) fn fill_ring(&mut self, name: &RoomName, read: Result<Messages, LogError>) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let delivered_since = std::mem::take(&mut room.delivered_since);
        if let Ok(messages) = read {
            self.rings.insert(name, Ring::of(messages));
            self.rings.push(name, &delivered_since);
        }
        let joining = self.rooms.get_mut(name).map(|room| std::mem::take(&mut room.joining));
        for joining in joining.into_iter().flatten() {
            self.admit(joining);
        }
        self.close_room_if_idle(name);
    }

    /// Makes a client a member at the current position of the log, and sends it earlier messages.
    fn admit(&mut self, Joining { join, counted }: Joining) {
        let Join { client: id, room: name, catch_up, reference } = join;
        let (Some(client), Some(nick)) = (self.clients.get(&id), self.nick(id)) else { return };
        let roster = self.rosters.get(&name);
        let remote = roster.map_or(0, |roster| roster.remote);
        let is_other = |owner| owner != client.identity;
        if roster.is_some_and(|roster| roster.owners_of(nick).any(is_other)) {
            let (nick, rooms) = (nick.clone(), client.rooms.clone());
            return self.reject_name(id, &nick, rooms.keys().chain([&name]), reference);
        }
        let members = self.rooms.get(&name).map_or(0, |room| room.members.len());
        if is_full(members + remote, self.limits.members) && !client.is_in(&name) {
            self.metrics.count_limit(Limit::MaxMembersPerRoom);
            let refusal = Refusal::new(ErrorCode::Busy, "the room is full");
            return self.answer(id, Event::Error(refusal), reference);
        }
        let identity = client.identity;
        self.add_member(id, &name);
        let unread = counted.and_then(|counted| self.unread_now(id, &name, counted));
        let (members, member_count) = self.member_names(&name);
        let joined = self.joined(name, identity, catch_up, members, member_count, unread);
        self.answer(id, joined, reference);
    }

    /// Returns the `joined` event for a new member of a room.
    fn joined(
        &mut self,
        room: RoomName,
        reader: Identity,
        catch_up: CatchUp,
        members: Vec<Nick>,
        member_count: usize,
        unread: Option<Unread>,
    ) -> Event {
        let (epoch, seq) = (self.log.epoch.clone(), self.delivered(&room));
        let ring = self.rings.get(&room);
        let (missed, count) = match catch_up {
            CatchUp::Latest(count) => (None, count),
            CatchUp::After(after) => {
                let is_known = after.epoch == epoch && after.seq <= seq;
                let missed = ring.filter(|_| is_known).and_then(|ring| ring.after(after.seq));
                (missed, CatchUp::DEFAULT_COUNT)
            }
        };
        let recovered = missed.is_some();
        let topic = ring.map(|ring| ring.topic().clone()).unwrap_or_default();
        let (messages, changes, counts) = match missed {
            Some(Missed { messages, changes }) => (messages, changes, Vec::new()),
            None => {
                let page = ring.map(|ring| ring.page(Seq::MAX, count, usize::MAX, reader));
                let Excerpt { messages, counts, .. } = page.unwrap_or_default();
                (messages, Vec::new(), counts)
            }
        };
        Event::Joined {
            room,
            epoch,
            seq,
            recovered,
            topic,
            members,
            member_count,
            unread,
            messages,
            changes,
            counts,
        }
    }

    /// Adds a client to a room.
    pub(in crate::hub) fn add_member(&mut self, id: ClientId, name: &RoomName) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some(user) = self.users.get_mut(&client.identity) else { return };
        if client.rooms.insert(name.clone(), ()).is_some() {
            return;
        }
        client.handle.set_rooms(client.rooms.len());
        let room = self.rooms.entry(name.clone()).or_default();
        room.members.insert(id, Rc::clone(&client.handle));
        let (who, nick, claim) = (client.identity, &user.nick, user.claim);
        let known = user.rooms.entry(name.clone()).or_default();
        let is_new = known.is_empty();
        known.clients += 1;
        if known.clients == 1 {
            let (room, nick) = (name.clone(), nick.clone());
            self.nodes.tell_change(|| UserChange::Entered { who, room, nick, claim });
        }
        if is_new {
            self.rosters.entry(name.clone()).or_default().add_user(who, nick);
            self.schedule_presence(name);
        }
    }

    /// Removes a client from a room.
    pub(in crate::hub) fn remove_member(
        &mut self,
        id: ClientId,
        identity: Identity,
        name: &RoomName,
    ) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let Some(user) = self.users.get_mut(&identity) else { return };
        let Some(handle) = room.members.remove(&id) else { return };
        // A room counts for an address only while one of the address's clients is in it.
        let opener = room.opener.filter(|&opener| handle.address() == Some(opener));
        if let Some(opener) = opener
            && let Some(successor) = room.successor(opener)
        {
            room.opener = Some(successor);
            *self.opened_rooms.entry(successor).or_default() += 1;
            subtract_opened_room(&mut self.opened_rooms, opener);
        }
        if let Some(known) = user.rooms.get_mut(name) {
            known.clients -= 1;
            if known.clients == 0 {
                self.nodes.tell_change(|| UserChange::Left { who: identity, room: name.clone() });
                self.leave_roster_if_absent(identity, name);
            }
        }
    }

    /// Removes a user from a roster if none of the user's clients is in the room, here or on
    /// another node.
    pub(in crate::hub) fn leave_roster_if_absent(&mut self, identity: Identity, name: &RoomName) {
        let Some(user) = self.users.get_mut(&identity) else { return };
        if user.rooms.get(name).is_none_or(|room| !room.is_empty()) {
            return;
        }
        user.rooms.remove(name);
        let Some(roster) = self.rosters.get_mut(name) else { return };
        roster.remove_user(identity, &user.nick);
        self.schedule_presence(name);
        self.remove_roster_if_unused(name);
    }

    /// Removes a roster without users. While the room is open it stays, since a client that changes
    /// its identity leaves the room and returns, and must be told both names.
    fn remove_roster_if_unused(&mut self, name: &RoomName) {
        let is_open = self.rooms.contains_key(name);
        if !is_open && self.rosters.get(name).is_some_and(Roster::is_empty) {
            self.rosters.remove(name);
        }
    }

    /// Removes a client from a room, and closes the room if that is then idle.
    pub(in crate::hub) fn remove_member_and_close(
        &mut self,
        id: ClientId,
        identity: Identity,
        name: &RoomName,
    ) {
        self.remove_member(id, identity, name);
        self.close_room_if_idle(name);
    }

    /// Closes a room without members and pending messages. Its ring stays for clients that return.
    /// An empty ring is removed, so that many rooms do not leave a ring each.
    pub(in crate::hub) fn close_room_if_idle(&mut self, name: &RoomName) {
        if self.rooms.get(name).is_some_and(Room::is_idle) {
            let opener = self.rooms.remove(name).and_then(|room| room.opener);
            if let Some(address) = opener {
                subtract_opened_room(&mut self.opened_rooms, address);
            }
            self.remove_roster_if_unused(name);
            self.rings.remove_if_empty(name);
        }
    }
}

fn is_full(count: usize, most: Option<usize>) -> bool {
    most.is_some_and(|most| count >= most)
}
