//! The hub as plain lists: who is where under which name, what is said, kept and told. No pacing,
//! no rings, no encodings; it does one thing after another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Deliveries that a client has place for which takes none any more.
pub const MAILBOX: usize = 3;

/// How many messages a joiner is told, and a page of history holds.
pub const TOLD: usize = 3;

#[derive(Default)]
pub struct PlainHub {
    pub clients: BTreeMap<usize, PlainClient>,
    /// The name of each identity that has clients here; those without one have chosen none.
    people: BTreeMap<usize, Option<usize>>,
    rooms: BTreeMap<usize, PlainRoom>,
    kept: Vec<Kept>,
    flight: Option<Flight>,
    waiting: VecDeque<usize>,
}

pub struct PlainClient {
    pub identity: usize,
    /// Whether it wants to be told what has become of what it said.
    pub events: bool,
    /// Whether it takes nothing just now, and how many deliveries wait for it.
    pub stalled: bool,
    waiting: usize,
    rooms: BTreeSet<usize>,
    /// What it has been told.
    pub told: Vec<String>,
    /// Whether the hub knows it.
    pub is_here: bool,
}

#[derive(Default)]
struct PlainRoom {
    pending: Vec<Said>,
    asked: Vec<(usize, usize)>,
    in_flight: bool,
}

#[derive(Clone)]
pub struct Said {
    client: usize,
    room: usize,
    text: usize,
    origin: Option<(usize, u8)>,
}

/// What is at the log, and who has asked what was said after it: client and room.
type Flight = (Vec<Said>, Vec<(usize, usize)>);

struct Kept {
    room: usize,
    text: usize,
    origin: Option<(usize, u8)>,
}

impl PlainClient {
    pub fn new(identity: usize, events: bool) -> Self {
        Self {
            identity,
            events,
            stalled: false,
            waiting: 0,
            rooms: BTreeSet::new(),
            told: Vec::new(),
            is_here: true,
        }
    }
}

impl PlainHub {
    pub fn come(&mut self, client: usize, plain: PlainClient) {
        self.people.insert(plain.identity, None);
        self.clients.insert(client, plain);
    }

    /// A client becomes one of `identity`, and all of those are called so; without a name they
    /// are called as before, or as it was.
    pub fn hello(&mut self, id: usize, identity: Option<usize>, name: Option<usize>) {
        let Some(client) = self.clients.get(&id).filter(|client| client.is_here) else { return };
        let (before, after) = (client.identity, identity.unwrap_or(client.identity));
        let named = |who: usize| self.people.get(&who).copied().flatten();
        let known = if self.people.contains_key(&after) { named(after) } else { named(before) };
        let name = name.or(known);
        let rooms = client.rooms.clone().into_iter().chain(self.rooms_of(after));
        let alone = self.windows(before) == 1;
        let taken = rooms
            .filter_map(|room| self.bearer(room, name?))
            .any(|bearer| bearer != after && !(bearer == before && alone));
        if taken {
            return self.tell(id, "error nick_taken".into());
        }
        self.client(id).identity = after;
        if self.windows(before) == 0 {
            self.people.remove(&before);
        }
        self.people.insert(after, name);
        let told = name.map_or("welcome anonymous".to_owned(), |name| format!("welcome n{name}"));
        self.tell(id, told);
    }

    pub fn join(&mut self, id: usize, room: usize) {
        let Some(client) = self.clients.get(&id).filter(|client| client.is_here) else { return };
        let identity = client.identity;
        let bearer = self.people[&identity].and_then(|name| self.bearer(room, name));
        if bearer.is_some_and(|bearer| bearer != identity) {
            return self.tell(id, "error nick_taken".into());
        }
        self.client(id).rooms.insert(room);
        self.rooms.entry(room).or_default();
        let (names, count) = self.members(room);
        let texts = self.latest(room);
        self.tell(id, format!("joined r{room} {texts:?} {names:?} {count}"));
    }

    pub fn leave(&mut self, id: usize, room: usize) {
        if self.is_member(id, room) {
            self.client(id).rooms.remove(&room);
            self.tell(id, format!("left r{room}"));
        }
    }

    pub fn who(&mut self, id: usize, room: usize) {
        if self.is_member(id, room) {
            let (names, count) = self.members(room);
            self.tell(id, format!("members r{room} {names:?} {count}"));
        }
    }

    pub fn say(&mut self, id: usize, room: usize, text: usize, name: Option<u8>) {
        if !self.is_member(id, room) {
            return;
        }
        let origin = name.map(|name| (self.client(id).identity, name));
        let known = self.rooms.entry(room).or_default();
        known.pending.push(Said { client: id, room, text, origin });
        if known.pending.len() == 1 {
            self.waiting.push_back(room);
        }
        self.take_off();
    }

    pub fn history(&mut self, id: usize, room: usize) {
        if !self.is_member(id, room) {
            return;
        }
        let known = self.rooms.entry(room).or_default();
        match &mut self.flight {
            _ if !known.pending.is_empty() => known.asked.push((id, room)),
            Some((_, asked)) if known.in_flight => asked.push((id, room)),
            _ => self.tell_history(id, room),
        }
    }

    /// The log answers: it has kept what it was given, or could not.
    pub fn land(&mut self, kept: bool) {
        let Some((said, asked)) = self.flight.take() else { return };
        let mut receipts: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut told: Vec<(usize, String)> = Vec::new();
        for Said { client, room, text, origin } in said {
            self.rooms.entry(room).or_default().in_flight = false;
            let known = self
                .kept
                .iter()
                .position(|old| origin.is_some() && (old.room, old.origin) == (room, origin));
            let events = self.clients.get(&client).is_some_and(|client| client.events);
            let receipt = match known {
                _ if !kept => "error busy".to_owned(),
                Some(place) => format!("said r{room} {} duplicate", place + 1),
                None => {
                    self.kept.push(Kept { room, text, origin });
                    told.push((room, format!("r{room} {} t{text}", self.kept.len())));
                    format!("said r{room} {} new", self.kept.len())
                }
            };
            if events || !kept {
                receipts.entry(client).or_default().push(receipt);
            }
        }
        // One delivery to each, of all that it is to be told.
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            let client = &self.clients[&id];
            let mine = told.iter().filter(|(room, _)| client.rooms.contains(room));
            let lines: Vec<_> = mine.map(|(_, line)| line.clone()).collect();
            if !lines.is_empty() {
                self.deliver(id, lines);
            }
        }
        for (id, lines) in receipts {
            self.deliver(id, lines);
        }
        for (id, room) in asked {
            self.tell_history(id, room);
        }
        self.take_off();
    }

    /// Everything that waits for the log goes to it, if it is free.
    fn take_off(&mut self) {
        if self.flight.is_some() || self.waiting.is_empty() {
            return;
        }
        let (mut said, mut asked) = (Vec::new(), Vec::new());
        for room in self.waiting.drain(..) {
            let known = self.rooms.entry(room).or_default();
            said.append(&mut known.pending);
            asked.append(&mut known.asked);
            known.in_flight = true;
        }
        self.flight = Some((said, asked));
    }

    pub fn go(&mut self, id: usize) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.is_here) else {
            return;
        };
        client.is_here = false;
        client.rooms.clear();
        let identity = client.identity;
        if self.windows(identity) == 0 {
            self.people.remove(&identity);
        }
    }

    /// A client takes what waits for it.
    pub fn wake(&mut self, id: usize) {
        let client = self.client(id);
        (client.stalled, client.waiting) = (false, 0);
    }

    fn tell_history(&mut self, id: usize, room: usize) {
        let texts = self.latest(room);
        let more = self.kept.iter().filter(|kept| kept.room == room).count() > TOLD;
        self.tell(id, format!("history r{room} {texts:?} {more}"));
    }

    fn tell(&mut self, id: usize, line: String) {
        self.deliver(id, vec![line]);
    }

    /// One delivery. A client that has no place for it is sent away.
    fn deliver(&mut self, id: usize, lines: Vec<String>) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.is_here) else {
            return;
        };
        if client.stalled && client.waiting == MAILBOX {
            client.told.push("close slow_client".into());
            return self.go(id);
        }
        client.waiting += usize::from(client.stalled);
        client.told.extend(lines);
    }

    fn client(&mut self, id: usize) -> &mut PlainClient {
        self.clients.get_mut(&id).unwrap()
    }

    /// Whether a client is in a room; one that is not is told so.
    fn is_member(&mut self, id: usize, room: usize) -> bool {
        let is_there = self.clients.get(&id).is_some_and(|client| client.rooms.contains(&room));
        if !is_there {
            self.tell(id, "error not_joined".into());
        }
        is_there
    }

    fn windows(&self, identity: usize) -> usize {
        let here = self.clients.values().filter(|client| client.is_here);
        here.filter(|client| client.identity == identity).count()
    }

    fn rooms_of(&self, identity: usize) -> BTreeSet<usize> {
        let theirs = self.clients.values().filter(|client| client.identity == identity);
        theirs.flat_map(|client| client.rooms.iter().copied()).collect()
    }

    fn people_in(&self, room: usize) -> BTreeSet<usize> {
        let there = self.clients.values().filter(|client| client.rooms.contains(&room));
        there.map(|client| client.identity).collect()
    }

    fn bearer(&self, room: usize, name: usize) -> Option<usize> {
        self.people_in(room).into_iter().find(|who| self.people[who] == Some(name))
    }

    /// The names that were chosen in a room, in order, and how many are there in all.
    fn members(&self, room: usize) -> (Vec<String>, usize) {
        let people = self.people_in(room);
        let mut names: Vec<_> = people.iter().filter_map(|who| self.people[who]).collect();
        names.sort_unstable();
        (names.iter().map(|name| format!("n{name}")).collect(), people.len())
    }

    fn latest(&self, room: usize) -> Vec<String> {
        let all = self.kept.iter().filter(|kept| kept.room == room);
        let all: Vec<_> = all.map(|kept| format!("t{}", kept.text)).collect();
        all[all.len().saturating_sub(TOLD)..].to_vec()
    }
}
