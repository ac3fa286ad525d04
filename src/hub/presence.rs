//! Who comes, goes, is called otherwise, is typing: what the members of a room are told beside its
//! messages, if they want to know. It is told soon in a small room and gathered in a large one,
//! and nothing of it is kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use super::{Client, Deliver, Hub, Person};
use crate::domain::{ClientId, Identity, Nick, RoomName};
use crate::wire::{Event, Notice, Ref};

/// How many people make a room large, and the most that are told of by name at once.
pub(super) const LARGE: usize = 100;

/// How often a large room is told.
const GATHERED: Duration = Duration::from_secs(1);

/// What a room is yet to be told.
#[derive(Default)]
pub(super) struct News {
    changes: HashMap<Identity, Change>,
    scheduled: bool,
    next: Option<Instant>,
}

/// What has become of somebody since the room was last told. Names are those that it knows.
enum Change {
    Came,
    Went(Nick),
    Renamed(Nick),
}

impl News {
    pub(super) fn came(&mut self, who: Identity, nick: &Nick) {
        match self.changes.remove(&who) {
            Some(Change::Went(before)) if before.as_str() == nick.as_str() => {}
            Some(Change::Went(before)) => {
                self.changes.insert(who, Change::Renamed(before));
            }
            Some(Change::Came | Change::Renamed(_)) | None => {
                self.changes.insert(who, Change::Came);
            }
        }
    }

    pub(super) fn went(&mut self, who: Identity, nick: &Nick) {
        match self.changes.remove(&who) {
            Some(Change::Came) => {}
            Some(Change::Renamed(before) | Change::Went(before)) => {
                self.changes.insert(who, Change::Went(before));
            }
            None => {
                self.changes.insert(who, Change::Went(nick.clone()));
            }
        }
    }

    pub(super) fn renamed(&mut self, who: Identity, before: &Nick) {
        self.changes.entry(who).or_insert_with(|| Change::Renamed(before.clone()));
    }

    #[allow(clippy::mutable_key_type, reason = "a nick's hash does not depend on its cached forms")]
    fn take(&mut self, people: &HashMap<Identity, Person>) -> Changes {
        let mut changes = Changes::default();
        for (who, change) in self.changes.drain() {
            let nick = people.get(&who).map(|person| person.nick.clone());
            match (change, nick) {
                (Change::Came, Some(nick)) => changes.joined.push((who, nick)),
                (Change::Renamed(before), Some(nick)) if before.as_str() != nick.as_str() => {
                    changes.renamed.push((before, nick));
                }
                (Change::Went(nick), _) => changes.left.push(nick),
                (Change::Came | Change::Renamed(_), _) => {}
            }
        }
        // Who has only become another identity has neither come nor gone.
        let left: HashSet<Nick> = changes.left.iter().cloned().collect();
        let joined: HashSet<Nick> = changes.joined.iter().map(|(_, nick)| nick.clone()).collect();
        changes.joined.retain(|(_, nick)| !left.contains(nick));
        changes.left.retain(|nick| !joined.contains(nick));
        changes
    }
}

/// What a room is told at once.
#[derive(Default)]
struct Changes {
    joined: Vec<(Identity, Nick)>,
    left: Vec<Nick>,
    /// From which name to which.
    renamed: Vec<(Nick, Nick)>,
}

/// Asks who is in a room that the client is in. It is answered by [`Event::Members`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Who {
    /// Who asks.
    pub client: ClientId,
    /// About which room.
    pub room: RoomName,
    /// What the answer echoes.
    pub reference: Option<Ref>,
}

/// A client is typing, which the others in a room are told unless it is large. It is not answered.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Typing {
    /// Who is.
    pub client: ClientId,
    /// In which room.
    pub room: RoomName,
}

impl Handler<Who> for Hub {
    type Result = ();

    fn handle(&mut self, Who { client, room, reference }: Who, _: &mut Self::Context) {
        if !self.is_member(client, &room) {
            return self.refuse_stranger(client, reference);
        }
        let (members, member_count) = self.names(&room);
        self.answer(client, Event::Members { room, members, member_count }, reference);
    }
}

impl Handler<Typing> for Hub {
    type Result = ();

    fn handle(&mut self, Typing { client, room: name }: Typing, _: &mut Self::Context) {
        let Some(who) = self.clients.get(&client).map(|client| client.identity) else { return };
        let is_small = self.rooms.get(&name).is_some_and(|room| room.people.len() <= LARGE);
        if let Some(nick) = self.nick(client).filter(|_| is_small && self.is_member(client, &name))
        {
            let notice =
                Notice::new(vec![Event::Typing { room: name.clone(), nick: nick.clone() }]);
            let mut told = HashMap::new();
            self.gather(&name, notice, Some(who), &mut told);
            self.notify(told);
        }
    }
}

impl Hub {
    /// Notes when a room will be told what has changed.
    pub(super) fn tell_news_when_due(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if !room.news.changes.is_empty() && !std::mem::replace(&mut room.news.scheduled, true) {
            let now = Instant::now();
            let due = room.news.next.unwrap_or(now).max(now);
            self.pacing.tell_news_at(due, name);
        }
    }

    /// Tells rooms what has changed in them. Who is in several of them is told all of it in one
    /// delivery: somebody who comes or goes in hundreds of rooms must not fill the queues of those
    /// who share them.
    pub(super) fn tell_news(&mut self, names: &[RoomName]) {
        let now = Instant::now();
        let mut told = HashMap::new();
        for name in names {
            if let Some((notice, but)) = self.news(name, now) {
                self.gather(name, notice, but, &mut told);
            }
        }
        self.notify(told);
    }

    /// What a room is to be told, and who of it is not.
    fn news(&mut self, name: &RoomName, now: Instant) -> Option<(Notice, Option<Identity>)> {
        let room = self.rooms.get_mut(name)?;
        room.news.scheduled = false;
        let is_large = room.people.len() > LARGE;
        let wait = if is_large { GATHERED } else { self.pacing.wait(room.members.len()) };
        room.news.next = Some(now + wait);
        let Changes { joined, left, renamed } = room.news.take(&self.people);
        let member_count = room.people.len();
        // Who came alone knows that it has.
        let alone = match &joined[..] {
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
        (!events.is_empty()).then(|| (Notice::new(events), alone))
    }

    /// Adds a notice for the members of a room who want to know, but for one.
    fn gather(
        &self,
        name: &RoomName,
        notice: Notice,
        but: Option<Identity>,
        told: &mut HashMap<ClientId, Vec<Arc<Notice>>>,
    ) {
        let notice = Arc::new(notice);
        for &id in self.rooms.get(name).into_iter().flat_map(|room| room.members.keys()) {
            let wants = |client: &Client| client.events && but != Some(client.identity);
            if self.clients.get(&id).is_some_and(wants) {
                told.entry(id).or_default().push(Arc::clone(&notice));
            }
        }
    }

    fn notify(&mut self, told: HashMap<ClientId, Vec<Arc<Notice>>>) {
        for (id, notices) in told {
            self.send_to(id, Deliver::Notices(notices));
        }
    }

    /// The names of those who are in a room, as many as are told, in order; and how many they are.
    pub(super) fn names(&self, room: &RoomName) -> (Vec<Nick>, usize) {
        let Some(room) = self.rooms.get(room) else { return (Vec::new(), 0) };
        let people = room.people.iter().filter_map(|who| self.people.get(who));
        let mut names: Vec<_> = people.take(LARGE).map(|person| person.nick.clone()).collect();
        names.sort_by(|a, b| a.key().cmp(b.key()));
        (names, room.people.len())
    }
}
