//! A replica of a log: it applies appends by the [`rules`], and answers requests for pages from the
//! resulting state. It does no I/O and reads no clock. The log in memory is a replica.

mod ids;
mod index;
mod page;
mod room;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Verdict;
use super::rules::{self, Refused};
use crate::domain::{
    Action, Change, ChangeKind, ChatMessage, Draft, Entry, RoomName, Seq, Settings, SettingsChange,
    Timestamp,
};
use ids::{DraftId, Ids};
use index::RoomIndex;
use room::{Room, StoredMessage};

/// Bounds of what a replica remembers beside kept messages. Without bounds its memory grows with
/// the number of rooms and changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The greatest number of changes of one room. Only pages for the hub have changes.
    pub(crate) changes_per_room: usize,
    /// The greatest number of changes of all rooms.
    pub(crate) changes: usize,
    /// The greatest number of ids of changes and of pruned messages. With a bound, a replica may
    /// not recognize a duplicate that another replica recognizes.
    pub(crate) ids: usize,
    /// The greatest number of rooms without messages. A room that is forgotten loses its topic and
    /// its exact floor.
    pub(crate) rooms: usize,
}

impl Bounds {
    /// No bounds, for a replica that must decide exactly as others do.
    pub(crate) const NONE: Self = Self {
        changes_per_room: usize::MAX,
        changes: usize::MAX,
        ids: usize::MAX,
        rooms: usize::MAX,
    };
}

/// The state of a log after some of its appends.
pub(crate) struct Replica {
    head: Seq,
    settings: Settings,
    rooms: HashMap<RoomName, Room>,
    index: RoomIndex,
    recent: Recent,
    /// A room that is not in `rooms` may have had entries up to this sequence number.
    dropped: Seq,
    /// The floors that were raised since they were last taken.
    floors: Vec<(RoomName, Seq)>,
}

/// What is remembered beside kept messages.
struct Recent {
    bounds: Bounds,
    /// The greatest time of all appends so far.
    latest: Timestamp,
    ids: Ids,
    /// The rooms of all changes that are in memory.
    changes: BTreeMap<Seq, RoomName>,
}

impl Replica {
    /// Returns the replica of an empty log, without bounds.
    #[cfg_attr(not(test), expect(dead_code, reason = "the log in memory has bounds"))]
    pub(crate) fn new(settings: Settings) -> Self {
        Self::bounded(settings, Bounds::NONE)
    }

    /// Returns the replica of an empty log.
    pub(crate) fn bounded(settings: Settings, bounds: Bounds) -> Self {
        Self {
            head: Seq::default(),
            settings,
            rooms: HashMap::new(),
            index: RoomIndex::default(),
            recent: Recent {
                bounds,
                latest: Timestamp::default(),
                ids: Ids::default(),
                changes: BTreeMap::new(),
            },
            dropped: Seq::default(),
            floors: Vec::new(),
        }
    }

    /// Returns the sequence number of the last entry.
    pub(crate) fn head(&self) -> Seq {
        self.head
    }

    /// Returns the settings at the head.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Applies an append. Returns the new entries in order, and the outcome for each draft.
    pub(crate) fn apply(
        &mut self,
        at: Timestamp,
        drafts: Vec<Draft>,
    ) -> (Vec<Entry>, Vec<Verdict>) {
        self.advance(at);
        self.prune_by_age(at);
        let mut entries = Vec::with_capacity(drafts.len());
        let mut verdicts = Vec::with_capacity(drafts.len());
        let mut rooms: Vec<RoomName> = Vec::new();
        for draft in drafts {
            if rooms.last() != Some(&draft.room) {
                rooms.push(draft.room.clone());
            }
            let verdict = match self.place(at, draft) {
                Ok(entry) => {
                    let seq = entry.seq();
                    entries.push(entry);
                    Verdict::Kept(seq)
                }
                Err(verdict) => verdict,
            };
            verdicts.push(verdict);
        }
        for room in &rooms {
            self.prune_by_number(room);
        }
        self.prune_by_bytes();
        self.enforce_bounds();
        (entries, verdicts)
    }

    /// Applies new settings. Returns the entry.
    #[cfg_attr(not(test), expect(dead_code, reason = "the log in memory has fixed settings"))]
    pub(crate) fn apply_settings(&mut self, at: Timestamp, settings: Settings) -> Entry {
        self.advance(at);
        self.head = self.head.next();
        self.settings = settings.clone();
        self.prune_by_age(at);
        let rooms: Vec<_> = self.rooms.keys().cloned().collect();
        for room in &rooms {
            self.prune_by_number(room);
        }
        self.prune_by_bytes();
        self.enforce_bounds();
        Entry::Settings(Arc::new(SettingsChange { seq: self.head, at, settings }))
    }

    /// Advances the greatest time of all appends, and forgets ids that are too old then.
    fn advance(&mut self, at: Timestamp) {
        self.recent.latest = self.recent.latest.max(at);
        self.recent.ids.forget_old(self.recent.latest);
    }

    /// Commits a draft if the rules permit it.
    fn place(&mut self, at: Timestamp, draft: Draft) -> Result<Entry, Verdict> {
        let id = DraftId::of(&draft).map(Arc::new);
        if let Some(seq) = id.as_ref().and_then(|id| self.recent.ids.find(id)) {
            return Err(Verdict::Duplicate(seq));
        }
        check(self.rooms.get(&draft.room), at, &draft, &self.settings).map_err(Verdict::Refused)?;
        self.head = self.head.next();
        if let Some(id) = &id {
            self.recent.ids.insert(Arc::clone(id), self.head);
        }
        let room = self.rooms.entry(draft.room.clone()).or_insert_with(|| Room::new(self.dropped));
        Ok(commit(room, &mut self.recent, self.head, at, id, draft))
    }

    fn prune_by_age(&mut self, at: Timestamp) {
        let Some(keep_for) = self.settings.keep_for else { return };
        let cutoff = at.minus(keep_for);
        while let Some(name) = self.index.room_with_message_before(cutoff).cloned() {
            if let Some(room) = self.rooms.get_mut(&name) {
                room.prune_before(cutoff, &mut self.recent);
                let floor = room.floor();
                self.note_floor(&name, floor);
            }
            self.reindex(&name);
        }
    }

    /// Prunes the oldest messages of a room beyond `keep_messages`, and updates the index.
    fn prune_by_number(&mut self, name: &RoomName) {
        let most = usize::try_from(self.settings.keep_messages).unwrap_or(usize::MAX);
        if let Some(room) = self.rooms.get_mut(name) {
            let before = room.floor();
            while room.len() > most {
                room.prune_oldest(&mut self.recent);
            }
            let floor = room.floor();
            if floor > before {
                self.note_floor(name, floor);
            }
        }
        self.reindex(name);
    }

    fn prune_by_bytes(&mut self) {
        let Some(most) = self.settings.keep_bytes else { return };
        while self.index.bytes() > most
            && let Some(name) = self.index.largest_room().cloned()
        {
            if let Some(room) = self.rooms.get_mut(&name) {
                room.prune_oldest(&mut self.recent);
                let floor = room.floor();
                self.note_floor(&name, floor);
            }
            self.reindex(&name);
        }
    }

    /// Returns the floors that were raised since the last call.
    pub(crate) fn take_floors(&mut self) -> Vec<(RoomName, Seq)> {
        std::mem::take(&mut self.floors)
    }

    /// Notes a raised floor. The rooms of consecutive calls are often the same.
    fn note_floor(&mut self, name: &RoomName, floor: Seq) {
        match self.floors.last_mut() {
            Some((last, seq)) if last == name => *seq = floor,
            Some(_) | None => self.floors.push((name.clone(), floor)),
        }
    }

    /// Updates the index after a room has changed. With a bound of rooms, forgets a room that is
    /// blank.
    fn reindex(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        self.index.update(name, room);
        if room.is_blank() && self.recent.bounds.rooms < usize::MAX {
            self.forget_room(name);
        }
    }

    fn forget_room(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.remove(name) else { return };
        self.index.remove(name, &room);
        for seq in room.changes().keys() {
            self.recent.changes.remove(seq);
        }
        self.dropped = self.dropped.max(room.last());
    }

    fn enforce_bounds(&mut self) {
        let bounds = self.recent.bounds;
        self.recent.ids.limit(bounds.ids);
        while self.recent.changes.len() > bounds.changes
            && let Some((seq, name)) = self.recent.changes.pop_first()
        {
            if let Some(room) = self.rooms.get_mut(&name) {
                room.forget_change(seq);
            }
            self.reindex(&name);
        }
        while let Some(name) = self.index.idle_room_beyond(bounds.rooms).cloned() {
            self.forget_room(&name);
        }
    }
}

/// Checks whether the rules permit a draft that is not a duplicate.
fn check(
    room: Option<&Room>,
    at: Timestamp,
    draft: &Draft,
    settings: &Settings,
) -> Result<(), Refused> {
    let find = |target| room.and_then(|room| room.find(target)).ok_or(Refused::NotFound);
    let find_undeleted = |target| {
        find(target)
            .and_then(|stored| (!stored.message.deleted).then_some(stored).ok_or(Refused::NotFound))
    };
    match &draft.action {
        Action::Message { reply_to: Some(target), .. } => find(*target).map(|_| ()),
        Action::Message { reply_to: None, .. } | Action::Room { .. } => Ok(()),
        Action::Edit { target, .. } | Action::Delete { target } => {
            let target = &find_undeleted(*target)?.message;
            rules::may_change(draft.right, draft.author, target.author, target.at, at, settings)
        }
        Action::React { target, emoji, on } => {
            let reactions = &find_undeleted(*target)?.reactions;
            if !*on || reactions.contains(emoji, draft.author) {
                return Ok(());
            }
            rules::may_react(reactions.has_emoji(emoji), reactions.emojis(), reactions.len())
        }
    }
}

/// Adds a draft to a room with the sequence number `seq`.
fn commit(
    room: &mut Room,
    recent: &mut Recent,
    seq: Seq,
    at: Timestamp,
    id: Option<Arc<DraftId>>,
    draft: Draft,
) -> Entry {
    let Draft { room: name, author, nick, id: given_id, right: _, action } = draft;
    let kind = match action {
        Action::Message { text, attributed, reply_to } => {
            let quoted = reply_to.and_then(|target| room.find(target));
            let message = Arc::new(ChatMessage {
                room: name,
                seq,
                at,
                author,
                nick,
                text,
                id: given_id,
                attributed,
                reply_to,
                quote: quoted.and_then(|quoted| quoted.message.as_quote()),
                edited_at: None,
                deleted: false,
                counted: None,
            });
            room.add(StoredMessage::new(Arc::clone(&message), id));
            return Entry::Message(message);
        }
        Action::Edit { target, text } => {
            room.edit(target, seq, at, text.clone(), recent);
            ChangeKind::Edit { target, text }
        }
        Action::Delete { target } => {
            room.delete(target, recent);
            ChangeKind::Delete { target }
        }
        Action::React { target, emoji, on } => {
            let count = room.react(target, &emoji, author, on);
            ChangeKind::React { target, emoji, on, count }
        }
        Action::Room { topic } => {
            room.set_topic(topic.clone(), seq, recent);
            ChangeKind::Room { topic }
        }
    };
    if let Some(id) = id {
        recent.ids.release(id, at, seq, recent.latest);
    }
    let change = Arc::new(Change { room: name, seq, at, author, nick, id: given_id, kind });
    room.add_change(Arc::clone(&change), recent);
    Entry::Change(change)
}
