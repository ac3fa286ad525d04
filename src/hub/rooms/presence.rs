//! Presence: who joins, leaves, changes their name or types. Only clients that registered for
//! events are told. Small rooms are told soon, large rooms once a second. Presence is not kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use crate::domain::{ClientId, Identity, Nick, RoomName};
use crate::hub::registry::{Client, User};
use crate::hub::{Deliver, Hub, Notice};
use crate::log::nodes::TellNodes;
use crate::protocol::{Event, Ref};

/// A room with more users than this is large. This is also the greatest number of names in one
/// list.
const LARGE: usize = 100;

/// The interval of updates in a large room.
const LARGE_INTERVAL: Duration = Duration::from_secs(1);

/// The changes since the last update of a room.
#[derive(Default)]
pub(super) struct PresenceDelta {
    changes: HashMap<Identity, Change>,
    scheduled: bool,
    /// The earliest time of the next update.
    next: Option<Instant>,
}

/// The change of one user since the last update. The name is the one in that update.
enum Change {
    Joined,
    Left(Nick),
    Renamed(Nick),
}

impl PresenceDelta {
    pub(super) fn joined(&mut self, who: Identity, nick: &Nick) {
        match self.changes.remove(&who) {
            Some(Change::Left(before)) if before.as_str() == nick.as_str() => {}
            Some(Change::Left(before)) => {
                self.changes.insert(who, Change::Renamed(before));
            }
            Some(Change::Joined | Change::Renamed(_)) | None => {
                self.changes.insert(who, Change::Joined);
            }
        }
    }

    pub(super) fn left(&mut self, who: Identity, nick: &Nick) {
        match self.changes.remove(&who) {
            Some(Change::Joined) => {}
            Some(Change::Renamed(before) | Change::Left(before)) => {
                self.changes.insert(who, Change::Left(before));
            }
            None => {
                self.changes.insert(who, Change::Left(nick.clone()));
            }
        }
    }

    pub(super) fn renamed(&mut self, who: Identity, before: &Nick) {
        self.changes.entry(who).or_insert_with(|| Change::Renamed(before.clone()));
    }

    #[allow(clippy::mutable_key_type, reason = "a nick's hash does not depend on its cached forms")]
    fn take(&mut self, users: &HashMap<Identity, User>) -> Changes {
        let mut changes = Changes::default();
        for (who, change) in self.changes.drain() {
            let nick = users.get(&who).map(|user| user.nick.clone());
            match (change, nick) {
                (Change::Joined, Some(nick)) => changes.joined.push((who, nick)),
                (Change::Renamed(before), Some(nick)) if before.as_str() != nick.as_str() => {
                    changes.renamed.push((before, nick));
                }
                (Change::Left(nick), _) => changes.left.push(nick),
                (Change::Joined | Change::Renamed(_), _) => {}
            }
        }
        // A user who left and another who joined under the same name cancel out.
        let left: HashSet<Nick> = changes.left.iter().cloned().collect();
        let joined: HashSet<Nick> = changes.joined.iter().map(|(_, nick)| nick.clone()).collect();
        changes.joined.retain(|(_, nick)| !left.contains(nick));
        changes.left.retain(|nick| !joined.contains(nick));
        changes
    }
}

/// The content of one update.
#[derive(Default)]
struct Changes {
    joined: Vec<(Identity, Nick)>,
    left: Vec<Nick>,
    /// The old and the new names.
    renamed: Vec<(Nick, Nick)>,
}

/// Asks for the members of a room of which the client is a member. The answer is
/// [`Event::Members`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Who {
    /// The client.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
}

/// Tells the other members of a room that the client's user is typing, unless the room is large.
/// There is no answer.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Typing {
    /// The client.
    pub client: ClientId,
    /// The room.
    pub room: RoomName,
}

impl Handler<Who> for Hub {
    type Result = ();

    fn handle(&mut self, Who { client, room, reference }: Who, _: &mut Self::Context) {
        if !self.is_member(client, &room) {
            return self.answer(client, Event::not_joined(), reference);
        }
        let (members, member_count) = self.member_names(&room);
        self.answer(client, Event::Members { room, members, member_count }, reference);
    }
}

impl Handler<Typing> for Hub {
    type Result = ();

    fn handle(&mut self, Typing { client, room: name }: Typing, _: &mut Self::Context) {
        let Some(who) = self.clients.get(&client).map(|client| client.identity) else { return };
        if self.is_member(client, &name) && self.send_typing(who, &name) {
            self.nodes.tell(TellNodes::Typing { room: name, who });
        }
    }
}

impl Hub {
    /// Tells the other members of a room that a user is typing. Returns false if the room is large.
    pub(in crate::hub) fn send_typing(&mut self, who: Identity, name: &RoomName) -> bool {
        let is_small = self.rosters.get(name).is_some_and(|roster| roster.users.len() <= LARGE);
        let Some(user) = self.users.get(&who).filter(|_| is_small) else { return false };
        let event = Event::Typing { room: name.clone(), nick: user.nick.clone() };
        let mut notices = HashMap::new();
        self.add_notice(name, Notice::new(vec![event]), Some(who), &mut notices);
        self.deliver_notices(notices);
        true
    }

    /// Schedules the presence update of a room, if there are changes.
    pub(in crate::hub) fn schedule_presence(&mut self, name: &RoomName) {
        let Some(roster) = self.rosters.get_mut(name) else { return };
        let presence = &mut roster.presence;
        if !presence.changes.is_empty() && !std::mem::replace(&mut presence.scheduled, true) {
            let now = Instant::now();
            let due = presence.next.unwrap_or(now).max(now);
            self.pacing.schedule_presence(due, name);
        }
    }

    /// Sends the presence updates of rooms. A client in several of them gets one delivery, so that
    /// a user who joins or leaves hundreds of rooms does not fill the queues of other clients.
    pub(in crate::hub) fn send_presence(&mut self, names: &[RoomName]) {
        let now = Instant::now();
        let mut notices = HashMap::new();
        for name in names {
            if let Some((notice, except)) = self.presence_update(name, now) {
                self.add_notice(name, notice, except, &mut notices);
            }
        }
        self.deliver_notices(notices);
    }

    /// Returns the update of a room, and the user who does not get it.
    fn presence_update(
        &mut self,
        name: &RoomName,
        now: Instant,
    ) -> Option<(Notice, Option<Identity>)> {
        let roster = self.rosters.get_mut(name)?;
        roster.presence.scheduled = false;
        let members = self.rooms.get(name).map_or(0, |room| room.members.len());
        let is_large = roster.users.len() > LARGE;
        let wait = if is_large { LARGE_INTERVAL } else { self.pacing.wait(members) };
        roster.presence.next = Some(now + wait);
        let Changes { joined, left, renamed } = roster.presence.take(&self.users);
        let member_count = roster.users.len();
        // A user whose own arrival is the only change does not need to be told.
        let except = match &joined[..] {
            [(who, _)] if left.is_empty() && renamed.is_empty() => Some(*who),
            _ => None,
        };
        let mut events = Vec::new();
        if !(joined.is_empty() && left.is_empty()) {
            let joined = joined.into_iter().map(|(_, nick)| nick).take(LARGE).collect();
            let left = left.into_iter().take(LARGE).collect();
            events.push(Event::Presence { room: name.clone(), joined, left, member_count });
        }
        let renamed = renamed.into_iter().take(LARGE);
        events.extend(renamed.map(|(from, to)| Event::Renamed { room: name.clone(), from, to }));
        (!events.is_empty()).then(|| (Notice::new(events), except))
    }

    /// Adds a notice for the members of a room that registered for events, except one user.
    fn add_notice(
        &self,
        name: &RoomName,
        notice: Notice,
        except: Option<Identity>,
        notices: &mut HashMap<ClientId, Vec<Arc<Notice>>>,
    ) {
        let notice = Arc::new(notice);
        for &id in self.rooms.get(name).into_iter().flat_map(|room| room.members.keys()) {
            let wants = |client: &Client| client.events && except != Some(client.identity);
            if self.clients.get(&id).is_some_and(wants) {
                notices.entry(id).or_default().push(Arc::clone(&notice));
            }
        }
    }

    fn deliver_notices(&mut self, notices: HashMap<ClientId, Vec<Arc<Notice>>>) {
        for (id, notices) in notices {
            self.send_to(id, Deliver::Notices(notices));
        }
    }

    /// Returns the names of the users in a room, sorted, at most 100, and the number of users.
    pub(super) fn member_names(&self, room: &RoomName) -> (Vec<Nick>, usize) {
        let Some(roster) = self.rosters.get(room) else { return (Vec::new(), 0) };
        let users = roster.users.iter().filter_map(|who| self.users.get(who));
        let mut names: Vec<_> = users.take(LARGE).map(|user| user.nick.clone()).collect();
        names.sort_by(|a, b| a.key().cmp(b.key()));
        (names, roster.users.len())
    }
}
