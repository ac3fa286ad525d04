//! A reference model of the hub: plain lists of clients, names, rooms and messages. It has no
//! pacing, no rings and no encodings, and processes one step at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chinwag::domain::Seq;

/// How many deliveries the mailbox of a stalled client holds.
pub const MAILBOX_CAPACITY: usize = 3;

/// How many messages a new member receives, and the size of a page of history.
pub const PAGE_SIZE: usize = 3;

#[derive(Default)]
pub struct ReferenceHub {
    /// Identities below this number have a key.
    keys: usize,
    pub clients: BTreeMap<usize, ReferenceClient>,
    /// The name of each connected identity, or `None` if it is anonymous.
    names: BTreeMap<usize, Option<usize>>,
    rooms: BTreeMap<usize, ReferenceRoom>,
    stored: Vec<StoredEntry>,
    /// What the log has not answered yet.
    in_flight: Option<Append>,
    /// Rooms with messages that wait for the log.
    due_rooms: VecDeque<usize>,
    /// The read marks of the log, by identity and room.
    marks: BTreeMap<(usize, usize), usize>,
    /// The read marks that the hub knows, of identities with a client in the room.
    known_marks: BTreeMap<(usize, usize), usize>,
}

pub struct ReferenceClient {
    pub identity: usize,
    /// Whether it receives `said` for its messages.
    pub events: bool,
    /// Whether it currently receives nothing.
    pub stalled: bool,
    /// How many deliveries are in its mailbox while it is stalled.
    queued: usize,
    rooms: BTreeSet<usize>,
    pub received: Vec<String>,
    pub is_registered: bool,
}

#[derive(Default)]
struct ReferenceRoom {
    pending: Vec<Draft>,
    /// Requests for history that wait for the pending messages: client and room.
    history_requests: Vec<(usize, usize)>,
    in_flight: bool,
}

/// A message that is not stored yet.
#[derive(Clone)]
pub struct Draft {
    client: usize,
    room: usize,
    author: usize,
    action: Action,
    message_id: Option<u8>,
}

/// What a draft does. Texts are numbers.
#[derive(Clone, Copy)]
enum Action {
    Say(usize),
    /// Edits the entry with this number.
    Edit(usize, usize),
}

/// Messages that the log is storing, and requests for history that wait for them: client and room.
type Append = (Vec<Draft>, Vec<(usize, usize)>);

struct StoredEntry {
    room: usize,
    author: usize,
    /// The current text, unless the entry is an edit.
    text: Option<usize>,
    message_id: Option<u8>,
}

impl ReferenceClient {
    pub fn new(identity: usize, events: bool) -> Self {
        Self {
            identity,
            events,
            stalled: false,
            queued: 0,
            rooms: BTreeSet::new(),
            received: Vec::new(),
            is_registered: true,
        }
    }
}

impl ReferenceHub {
    /// Returns a hub without clients, whose identities below this number have a key.
    pub fn new(keys: usize) -> Self {
        Self { keys, ..Self::default() }
    }

    pub fn connect(&mut self, id: usize, client: ReferenceClient) {
        self.names.insert(client.identity, None);
        self.clients.insert(id, client);
    }

    /// Gives a client an identity and a name, which all clients of the identity share. Without a
    /// name, the identity keeps its name or gets that of the client's previous identity.
    pub fn hello(&mut self, id: usize, identity: Option<usize>, name: Option<usize>) {
        let Some(client) = self.clients.get(&id).filter(|client| client.is_registered) else {
            return;
        };
        let (before, after) = (client.identity, identity.unwrap_or(client.identity));
        let name_of = |id: usize| self.names.get(&id).copied().flatten();
        let kept = if self.names.contains_key(&after) { name_of(after) } else { name_of(before) };
        let name = name.or(kept);
        let rooms = client.rooms.clone().into_iter().chain(self.rooms_of(after));
        let is_only_client = self.connections(before) == 1;
        let taken = rooms
            .filter_map(|room| self.owner_of(room, name?))
            .any(|owner| owner != after && !(owner == before && is_only_client));
        if taken {
            return self.reply(id, "error nick_taken".into());
        }
        self.client(id).identity = after;
        if self.connections(before) == 0 {
            self.names.remove(&before);
        }
        self.names.insert(after, name);
        self.forget_marks();
        let reply = name.map_or("welcome anonymous".to_owned(), |name| format!("welcome n{name}"));
        self.reply(id, reply);
    }

    pub fn join(&mut self, id: usize, room: usize) {
        let Some(client) = self.clients.get(&id).filter(|client| client.is_registered) else {
            return;
        };
        let identity = client.identity;
        let owner = self.names[&identity].and_then(|name| self.owner_of(room, name));
        if owner.is_some_and(|owner| owner != identity) {
            return self.reply(id, "error nick_taken".into());
        }
        self.client(id).rooms.insert(room);
        self.rooms.entry(room).or_default();
        let (names, count) = self.members(room);
        let texts = self.latest(room);
        let unread = self.unread(id, room).unwrap_or_default();
        self.reply(id, format!("joined r{room} {texts:?} {names:?} {count}{unread}"));
    }

    /// Describes the unread messages that a new member receives.
    fn unread(&mut self, id: usize, room: usize) -> Option<String> {
        let client = &self.clients[&id];
        let key = (client.identity, room);
        if !client.events || client.identity >= self.keys {
            return None;
        }
        let known = self.known_marks.get(&key).copied();
        let mark = self.marks.get(&key).copied().max(known).filter(|mark| *mark > 0)?;
        self.known_marks.insert(key, mark);
        let newer = (mark + 1..).zip(&self.stored[mark..]);
        let unread = newer.filter(|(_, entry)| {
            entry.room == room && entry.text.is_some() && entry.author != key.0
        });
        let seqs: Vec<_> = unread.map(|(seq, _)| Seq::new(seq as u64)).collect();
        Some(format!(" unread {} from {:?}, 0 mentions", seqs.len(), seqs.first()))
    }

    /// A client has read a room up to an entry.
    pub fn read(&mut self, id: usize, room: usize, seq: usize) {
        if !self.check_member(id, room) {
            return;
        }
        let identity = self.clients[&id].identity;
        if identity >= self.keys {
            return self.reply(id, "error forbidden".into());
        }
        let seq = seq.min(self.stored.len());
        let known = self.known_marks.entry((identity, room)).or_default();
        if *known >= seq {
            return;
        }
        *known = seq;
        let mark = self.marks.entry((identity, room)).or_default();
        *mark = seq.max(*mark);
        for other in self.clients.keys().copied().collect::<Vec<_>>() {
            let client = &self.clients[&other];
            let is_device = other != id && client.events && client.identity == identity;
            if is_device && client.rooms.contains(&room) {
                self.reply(other, format!("read r{room} {seq}"));
            }
        }
    }

    /// Forgets the marks of identities that have no client in the room.
    fn forget_marks(&mut self) {
        let mut marks = std::mem::take(&mut self.known_marks);
        marks.retain(|(identity, room), _| self.identities_in(*room).contains(identity));
        self.known_marks = marks;
    }

    /// A client searches for a text.
    pub fn search(&mut self, id: usize, text: usize) {
        let found = self.stored.iter().filter(|entry| entry.text == Some(text));
        let found: Vec<_> = found.map(|_| format!("t{text}")).collect();
        self.reply(id, format!("search {found:?} false"));
    }

    pub fn leave(&mut self, id: usize, room: usize) {
        if self.check_member(id, room) {
            self.client(id).rooms.remove(&room);
            self.forget_marks();
            self.reply(id, format!("left r{room}"));
        }
    }

    pub fn who(&mut self, id: usize, room: usize) {
        if self.check_member(id, room) {
            let (names, count) = self.members(room);
            self.reply(id, format!("members r{room} {names:?} {count}"));
        }
    }

    pub fn say(&mut self, id: usize, room: usize, text: usize, message_id: Option<u8>) {
        self.submit(id, room, Action::Say(text), message_id);
    }

    pub fn edit(&mut self, id: usize, room: usize, target: usize, text: usize) {
        self.submit(id, room, Action::Edit(target, text), None);
    }

    fn submit(&mut self, id: usize, room: usize, action: Action, message_id: Option<u8>) {
        if !self.check_member(id, room) {
            return;
        }
        let author = self.client(id).identity;
        let state = self.rooms.entry(room).or_default();
        state.pending.push(Draft { client: id, room, author, action, message_id });
        if state.pending.len() == 1 {
            self.due_rooms.push_back(room);
        }
        self.start_append();
    }

    pub fn history(&mut self, id: usize, room: usize) {
        if !self.check_member(id, room) {
            return;
        }
        let state = self.rooms.entry(room).or_default();
        match &mut self.in_flight {
            _ if !state.pending.is_empty() => state.history_requests.push((id, room)),
            Some((_, requests)) if state.in_flight => requests.push((id, room)),
            _ => self.reply_with_history(id, room),
        }
    }

    /// The log answers the append in flight.
    pub fn answer_append(&mut self, success: bool) {
        let Some((drafts, history_requests)) = self.in_flight.take() else { return };
        let mut receipts: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut published: Vec<(usize, String)> = Vec::new();
        for draft in drafts {
            let Draft { client, room, .. } = draft;
            self.rooms.entry(room).or_default().in_flight = false;
            let events = self.clients.get(&client).is_some_and(|client| client.events);
            let receipt = if success {
                self.store(draft).map(|(receipt, line)| {
                    published.extend(line.map(|line| (room, line)));
                    receipt
                })
            } else {
                Err("error busy".to_owned())
            };
            let is_error = receipt.is_err();
            let receipt = receipt.unwrap_or_else(|error| error);
            if events || is_error {
                receipts.entry(client).or_default().push(receipt);
            }
        }
        // Each client receives all messages of its rooms in one delivery.
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            let client = &self.clients[&id];
            let mine = published.iter().filter(|(room, _)| client.rooms.contains(room));
            let lines: Vec<_> = mine.map(|(_, line)| line.clone()).collect();
            if !lines.is_empty() {
                self.deliver(id, lines);
            }
        }
        for (id, lines) in receipts {
            self.deliver(id, lines);
        }
        for (id, room) in history_requests {
            self.reply_with_history(id, room);
        }
        self.start_append();
    }

    /// Stores a draft. Returns its receipt and the line that the members of the room receive, or an
    /// error.
    fn store(&mut self, draft: Draft) -> Result<(String, Option<String>), String> {
        let Draft { room, author, action, message_id, .. } = draft;
        let is_same = |old: &StoredEntry| {
            message_id.is_some()
                && (old.room, old.author, old.message_id) == (room, author, message_id)
        };
        if let Some(index) = self.stored.iter().position(is_same) {
            return Ok((format!("said r{room} {} duplicate", index + 1), None));
        }
        let seq = self.stored.len() + 1;
        let line = match action {
            Action::Say(text) => format!("r{room} {seq} t{text}"),
            Action::Edit(target, text) => {
                let edited = target.checked_sub(1).and_then(|index| self.stored.get_mut(index));
                let edited = edited.filter(|edited| edited.room == room && edited.text.is_some());
                match edited {
                    None => return Err("error not_found".to_owned()),
                    Some(edited) if edited.author != author => {
                        return Err("error forbidden".to_owned());
                    }
                    Some(edited) => edited.text = Some(text),
                }
                format!("r{room} {seq} edits {target} t{text}")
            }
        };
        let text = if let Action::Say(text) = action { Some(text) } else { None };
        self.stored.push(StoredEntry { room, author, text, message_id });
        Ok((format!("said r{room} {seq} new"), Some(line)))
    }

    /// Passes all pending messages to the log, unless it has not answered the last append.
    fn start_append(&mut self) {
        if self.in_flight.is_some() || self.due_rooms.is_empty() {
            return;
        }
        let (mut drafts, mut history_requests) = (Vec::new(), Vec::new());
        for room in self.due_rooms.drain(..) {
            let state = self.rooms.entry(room).or_default();
            drafts.append(&mut state.pending);
            history_requests.append(&mut state.history_requests);
            state.in_flight = true;
        }
        self.in_flight = Some((drafts, history_requests));
    }

    /// Returns the number of stored entries.
    pub fn stored(&self) -> usize {
        self.stored.len()
    }

    pub fn disconnect(&mut self, id: usize) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.is_registered) else {
            return;
        };
        client.is_registered = false;
        client.rooms.clear();
        let identity = client.identity;
        if self.connections(identity) == 0 {
            self.names.remove(&identity);
        }
        self.forget_marks();
    }

    /// A stalled client receives everything in its mailbox.
    pub fn resume(&mut self, id: usize) {
        let client = self.client(id);
        (client.stalled, client.queued) = (false, 0);
    }

    fn reply_with_history(&mut self, id: usize, room: usize) {
        let texts = self.latest(room);
        let more = self.texts(room).count() > PAGE_SIZE;
        self.reply(id, format!("history r{room} {texts:?} {more}"));
    }

    fn reply(&mut self, id: usize, line: String) {
        self.deliver(id, vec![line]);
    }

    /// Makes one delivery. Evicts the client if its mailbox is full.
    fn deliver(&mut self, id: usize, lines: Vec<String>) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.is_registered) else {
            return;
        };
        if client.stalled && client.queued == MAILBOX_CAPACITY {
            client.received.push("close slow_client".into());
            return self.disconnect(id);
        }
        client.queued += usize::from(client.stalled);
        client.received.extend(lines);
    }

    fn client(&mut self, id: usize) -> &mut ReferenceClient {
        self.clients.get_mut(&id).unwrap()
    }

    /// Whether a client is in a room. Otherwise it receives an error.
    fn check_member(&mut self, id: usize, room: usize) -> bool {
        let is_member = self.clients.get(&id).is_some_and(|client| client.rooms.contains(&room));
        if !is_member {
            self.reply(id, "error not_joined".into());
        }
        is_member
    }

    fn connections(&self, identity: usize) -> usize {
        let registered = self.clients.values().filter(|client| client.is_registered);
        registered.filter(|client| client.identity == identity).count()
    }

    fn rooms_of(&self, identity: usize) -> BTreeSet<usize> {
        let clients = self.clients.values().filter(|client| client.identity == identity);
        clients.flat_map(|client| client.rooms.iter().copied()).collect()
    }

    fn identities_in(&self, room: usize) -> BTreeSet<usize> {
        let members = self.clients.values().filter(|client| client.rooms.contains(&room));
        members.map(|client| client.identity).collect()
    }

    /// Returns the identity in a room that has this name.
    fn owner_of(&self, room: usize, name: usize) -> Option<usize> {
        self.identities_in(room).into_iter().find(|id| self.names[id] == Some(name))
    }

    /// Returns the sorted names in a room, and how many identities are there, anonymous ones
    /// included.
    fn members(&self, room: usize) -> (Vec<String>, usize) {
        let identities = self.identities_in(room);
        let mut names: Vec<_> = identities.iter().filter_map(|id| self.names[id]).collect();
        names.sort_unstable();
        (names.iter().map(|name| format!("n{name}")).collect(), identities.len())
    }

    fn latest(&self, room: usize) -> Vec<String> {
        let all: Vec<_> = self.texts(room).map(|text| format!("t{text}")).collect();
        all[all.len().saturating_sub(PAGE_SIZE)..].to_vec()
    }

    /// Returns the texts of the messages in a room.
    fn texts(&self, room: usize) -> impl Iterator<Item = usize> {
        let of_room = self.stored.iter().filter(move |entry| entry.room == room);
        of_room.filter_map(|entry| entry.text)
    }
}
