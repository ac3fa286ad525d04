//! Presence: who joins, leaves, changes their name or types. Only clients that registered for
//! events are told. Small rooms are told soon, large rooms once a second. Presence is not kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use super::Roster;
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
    /// Whether a client has received the names while there were changes.
    was_shown: bool,
    /// Names that such a client may have received, and whose users have left or been renamed.
    withdrawn: Vec<Nick>,
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
        self.withdraw(nick);
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
        self.withdraw(before);
        self.changes.entry(who).or_insert_with(|| Change::Renamed(before.clone()));
    }

    /// Notes that a client has received the names.
    fn show(&mut self) {
        self.was_shown |= !self.changes.is_empty();
    }

    /// Notes that a user does not have this name any more.
    fn withdraw(&mut self, nick: &Nick) {
        if self.was_shown {
            self.withdrawn.push(nick.clone());
        }
    }

    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.withdrawn.is_empty()
    }
}

/// The content of one update.
#[derive(Default)]
struct Changes {
    joined: Vec<Nick>,
    left: Vec<Nick>,
    /// The old and the new names.
    renamed: Vec<(Nick, Nick)>,
    /// A user whose own arrival is the only change, and who does not need to be told.
    except: Option<Identity>,
}

impl Changes {
    /// Takes the changes since the last update. They are those of the set of names: two users may
    /// have one name for a short time, or one after the other.
    fn take(roster: &mut Roster, users: &HashMap<Identity, User>) -> Self {
        let changes = std::mem::take(&mut roster.presence.changes);
        let withdrawn = std::mem::take(&mut roster.presence.withdrawn);
        roster.presence.was_shown = false;
        let is_kept = |nick: &Nick| {
            let mut owners = roster.owners_of(nick).filter(|owner| !changes.contains_key(owner));
            let has_it = |user: &User| user.nick.as_str() == nick.as_str();
            owners.any(|owner| users.get(&owner).is_some_and(has_it))
        };
        let (mut before, mut after) = (HashMap::new(), HashMap::new());
        for (who, change) in &changes {
            let now = users.get(who).map(|user| &user.nick);
            let (old, new) = match change {
                Change::Joined => (None, now),
                Change::Left(old) => (Some(old), None),
                Change::Renamed(old) => (Some(old), now),
            };
            before.extend(old.map(|nick| (nick.as_str(), nick)));
            after.extend(new.map(|nick| (nick.as_str(), nick)));
        }
        let mut joined = after.clone();
        joined.retain(|name, nick| !before.contains_key(name) && !is_kept(nick));
        let mut left = before;
        left.extend(withdrawn.iter().map(|nick| (nick.as_str(), nick)));
        let is_present = |nick: &Nick| after.contains_key(nick.as_str()) || is_kept(nick);
        left.retain(|_, nick| !is_present(nick));
        let mut renamed = Vec::new();
        for (who, change) in &changes {
            if let Change::Renamed(old) = change
                && let Some(new) = users.get(who).map(|user| &user.nick)
                && joined.remove(new.as_str()).is_some()
            {
                renamed.push((old.clone(), new.clone()));
                if is_present(old) {
                    // Another user has the old name.
                    joined.insert(old.as_str(), old);
                } else {
                    left.remove(old.as_str());
                }
            }
        }
        let mut arrivals = changes.iter().filter(|(_, change)| matches!(change, Change::Joined));
        let only = arrivals.next().filter(|_| changes.len() == 1 && withdrawn.is_empty());
        Self {
            joined: joined.into_values().cloned().collect(),
            left: left.into_values().cloned().collect(),
            renamed,
            except: only.map(|(who, _)| *who),
        }
    }
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
        // A user of another node may have left the room already.
        let user = self.users.get(&who).filter(|user| user.rooms.contains_key(name));
        let Some(user) = user.filter(|_| is_small) else { return false };
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
        if !presence.is_empty() && !std::mem::replace(&mut presence.scheduled, true) {
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
        let Changes { joined, left, renamed, except } = Changes::take(roster, &self.users);
        let member_count = roster.users.len();
        let renamed = renamed.into_iter().take(LARGE);
        let renamed = renamed.map(|(from, to)| Event::Renamed { room: name.clone(), from, to });
        // Renames come first, since other users may have taken the old names.
        let mut events: Vec<_> = renamed.collect();
        if !(joined.is_empty() && left.is_empty()) {
            let joined = joined.into_iter().take(LARGE).collect();
            let left = left.into_iter().take(LARGE).collect();
            events.push(Event::Presence { room: name.clone(), joined, left, member_count });
        }
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

    /// Notes that a client receives the names in a room, or one of them, before the next update.
    pub(in crate::hub) fn show_names(&mut self, room: &RoomName) {
        if let Some(roster) = self.rosters.get_mut(room) {
            roster.presence.show();
        }
    }

    /// Returns the names of the users in a room, sorted, at most 100, and the number of users.
    pub(super) fn member_names(&mut self, room: &RoomName) -> (Vec<Nick>, usize) {
        self.show_names(room);
        let Some(roster) = self.rosters.get(room) else { return (Vec::new(), 0) };
        let users = roster.users.iter().filter_map(|who| self.users.get(who));
        let mut names: Vec<_> = users.take(LARGE).map(|user| user.nick.clone()).collect();
        names.sort_by(|a, b| a.key().cmp(b.key()));
        (names, roster.users.len())
    }
}
