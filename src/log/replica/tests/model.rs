//! A reference model of a log. It keeps everything that was ever committed in one list, and answers
//! each question by reading that list.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::domain::{
    Action, Change, ChangeKind, ChatMessage, Draft, Emoji, Entry, Identity, MessageText, Quote,
    Reaction, ReactionCount, Right, RoomName, Seq, Settings, Timestamp, Topic,
};
use crate::log::{Messages, Range, Reader, Refused, Verdict};

const DAY: u64 = 24 * 60 * 60 * 1000;

/// A committed draft.
struct Committed {
    seq: u64,
    at: u64,
    draft: Draft,
}

pub(super) struct Model {
    settings: Settings,
    /// All committed drafts, oldest first.
    list: Vec<Committed>,
    head: u64,
    floors: HashMap<RoomName, u64>,
    /// The times of all appends.
    times: Vec<u64>,
}

/// The authors of the reactions to a message, by emoji.
type Reactions = BTreeMap<Emoji, BTreeSet<Option<Identity>>>;

impl Committed {
    fn is_message(&self) -> bool {
        matches!(self.draft.action, Action::Message { .. })
    }

    fn target(&self) -> Option<u64> {
        match &self.draft.action {
            Action::Edit { target, .. }
            | Action::Delete { target }
            | Action::React { target, .. } => Some(target.get()),
            Action::Message { .. } | Action::Room { .. } => None,
        }
    }

    fn topic(&self) -> Option<&Topic> {
        match &self.draft.action {
            Action::Room { topic } => Some(topic),
            Action::Message { .. }
            | Action::Edit { .. }
            | Action::Delete { .. }
            | Action::React { .. } => None,
        }
    }
}

impl Model {
    pub(super) fn new(settings: Settings) -> Self {
        let (list, floors, times) = (Vec::new(), HashMap::new(), Vec::new());
        Self { settings, list, head: 0, floors, times }
    }

    pub(super) fn head(&self) -> Seq {
        Seq::new(self.head)
    }

    fn floor(&self, room: &RoomName) -> u64 {
        self.floors.get(room).copied().unwrap_or(0)
    }

    fn rooms(&self) -> BTreeSet<RoomName> {
        self.list.iter().map(|committed| committed.draft.room.clone()).collect()
    }

    /// Returns the kept messages of a room.
    fn kept(&self, room: &RoomName) -> Vec<&Committed> {
        let floor = self.floor(room);
        let in_room = self.list.iter().filter(|committed| committed.draft.room == *room);
        in_room.filter(|committed| committed.is_message() && committed.seq > floor).collect()
    }

    fn find(&self, room: &RoomName, seq: Seq) -> Option<&Committed> {
        self.kept(room).into_iter().find(|committed| committed.seq == seq.get())
    }

    fn is_deleted(&self, seq: u64) -> bool {
        self.list.iter().any(|committed| {
            matches!(committed.draft.action, Action::Delete { .. })
                && committed.target() == Some(seq)
        })
    }

    /// Returns the last edit of a message.
    fn last_edit(&self, seq: u64) -> Option<&Committed> {
        self.list.iter().rfind(|committed| {
            matches!(committed.draft.action, Action::Edit { .. }) && committed.target() == Some(seq)
        })
    }

    fn reactions(&self, seq: u64) -> Reactions {
        let mut reactions = Reactions::new();
        for committed in self.list.iter().filter(|committed| committed.target() == Some(seq)) {
            if let Action::React { emoji, on, .. } = &committed.draft.action {
                let authors = reactions.entry(emoji.clone()).or_default();
                if *on {
                    authors.insert(committed.draft.author);
                } else {
                    authors.remove(&committed.draft.author);
                }
            }
        }
        reactions.retain(|_, authors| !authors.is_empty() && !self.is_deleted(seq));
        reactions
    }

    /// Returns the current text of a message.
    fn text(&self, message: &Committed) -> MessageText {
        if self.is_deleted(message.seq) {
            return MessageText::deleted();
        }
        let latest = self.last_edit(message.seq).unwrap_or(message);
        let (Action::Message { text, .. } | Action::Edit { text, .. }) = &latest.draft.action
        else {
            panic!("{:?} has no text", latest.draft);
        };
        text.clone()
    }

    /// Returns a message in its current state.
    fn message(&self, message: &Committed) -> ChatMessage {
        let Action::Message { attributed, reply_to, .. } = message.draft.action else {
            panic!("not a message");
        };
        let deleted = self.is_deleted(message.seq);
        let target = reply_to.and_then(|target| self.find(&message.draft.room, target));
        let target = target.filter(|target| !deleted && !self.is_deleted(target.seq));
        let quote = target.map(|target| Quote {
            nick: target.draft.nick.clone(),
            text: self.text(target).as_str().chars().take(100).collect::<String>().into(),
        });
        let edit = self.last_edit(message.seq).filter(|_| !deleted);
        ChatMessage {
            room: message.draft.room.clone(),
            seq: Seq::new(message.seq),
            at: Timestamp::from_millis(message.at),
            author: message.draft.author,
            nick: message.draft.nick.clone(),
            text: self.text(message),
            id: message.draft.id.clone(),
            attributed,
            reply_to,
            quote: quote.map(Arc::new),
            edited_at: edit.map(|edit| Timestamp::from_millis(edit.at)),
            deleted,
            counted: None,
        }
    }

    fn change(&self, change: &Committed) -> Change {
        let Draft { room, author, nick, id, right: _, action } = change.draft.clone();
        let kind = match action {
            Action::Message { .. } => panic!("not a change"),
            Action::Edit { target, text } => ChangeKind::Edit { target, text },
            Action::Delete { target } => ChangeKind::Delete { target },
            Action::React { target, emoji, on } => {
                let before = Model {
                    settings: self.settings.clone(),
                    list: self
                        .list
                        .iter()
                        .filter(|past| past.seq <= change.seq)
                        .map(copy)
                        .collect(),
                    head: change.seq,
                    floors: HashMap::new(),
                    times: Vec::new(),
                };
                let reactions = before.reactions(target.get());
                let count = reactions.get(&emoji).map_or(0, BTreeSet::len) as u32;
                ChangeKind::React { target, emoji, on, count }
            }
            Action::Room { topic } => ChangeKind::Room { topic },
        };
        let (seq, at) = (Seq::new(change.seq), Timestamp::from_millis(change.at));
        Change { room, seq, at, author, nick, id, kind }
    }

    fn bytes_of(&self, message: &Committed) -> u64 {
        let reactions: usize = self.reactions(message.seq).values().map(BTreeSet::len).sum();
        (self.text(message).as_str().len() + 128 + 64 * reactions) as u64
    }

    fn bytes_of_room(&self, room: &RoomName) -> u64 {
        self.kept(room).into_iter().map(|message| self.bytes_of(message)).sum()
    }

    /// Returns the bytes of all messages.
    pub(super) fn bytes(&self) -> u64 {
        self.rooms().iter().map(|room| self.bytes_of_room(room)).sum()
    }

    pub(super) fn apply(
        &mut self,
        at: Timestamp,
        drafts: Vec<Draft>,
    ) -> (Vec<Entry>, Vec<Verdict>) {
        self.times.push(at.millis());
        self.prune_by_age(at.millis());
        let (mut entries, mut verdicts) = (Vec::new(), Vec::new());
        for draft in drafts.clone() {
            let verdict = match (self.duplicate(&draft), self.refusal(at.millis(), &draft)) {
                (Some(seq), _) => Verdict::Duplicate(Seq::new(seq)),
                (None, Some(refused)) => Verdict::Refused(refused),
                (None, None) => {
                    self.head += 1;
                    let committed = Committed { seq: self.head, at: at.millis(), draft };
                    self.list.push(committed);
                    let committed = &self.list[self.list.len() - 1];
                    entries.push(if committed.is_message() {
                        Entry::Message(Arc::new(self.message(committed)))
                    } else {
                        Entry::Change(Arc::new(self.change(committed)))
                    });
                    Verdict::Kept(self.head())
                }
            };
            verdicts.push(verdict);
        }
        for draft in drafts {
            self.prune_by_number(&draft.room);
        }
        self.prune_by_bytes();
        (entries, verdicts)
    }

    pub(super) fn apply_settings(&mut self, at: Timestamp, settings: Settings) {
        self.times.push(at.millis());
        self.head += 1;
        self.settings = settings;
        self.prune_by_age(at.millis());
        for room in self.rooms() {
            self.prune_by_number(&room);
        }
        self.prune_by_bytes();
    }

    fn duplicate(&self, draft: &Draft) -> Option<u64> {
        let latest = self.times.iter().max().expect("an append has a time");
        let is_same = |past: &&Committed| {
            draft.author.is_some()
                && draft.id.is_some()
                && past.draft.room == draft.room
                && past.draft.author == draft.author
                && past.draft.id == draft.id
        };
        let floor = self.floor(&draft.room);
        let is_recognized =
            |past: &&Committed| (past.is_message() && past.seq > floor) || latest - past.at < DAY;
        let found: Vec<_> = self.list.iter().filter(is_same).filter(is_recognized).collect();
        assert!(found.len() <= 1, "one draft was committed twice");
        found.first().map(|past| past.seq)
    }

    fn refusal(&self, at: u64, draft: &Draft) -> Option<Refused> {
        let find = |target: Seq| self.find(&draft.room, target);
        let find_undeleted = |target: Seq| find(target).filter(|it| !self.is_deleted(it.seq));
        match &draft.action {
            Action::Message { reply_to, .. } => {
                let is_missing = reply_to.is_some_and(|target| find(target).is_none());
                is_missing.then_some(Refused::NotFound)
            }
            Action::Edit { target, .. } | Action::Delete { target } => {
                let Some(target) = find_undeleted(*target) else { return Some(Refused::NotFound) };
                let window = self.settings.edit_window.map(|window| window.as_millis());
                let age = i128::from(at) - i128::from(target.at);
                if draft.right == Right::Grant {
                    None
                } else if !self.settings.edits {
                    Some(Refused::EditsDisabled)
                } else if draft.author != target.draft.author {
                    Some(Refused::OtherAuthor)
                } else if window.is_some_and(|window| age > window as i128) {
                    Some(Refused::TooLate)
                } else {
                    None
                }
            }
            // The limits of reactions have tests of their own.
            Action::React { target, .. } => {
                find_undeleted(*target).is_none().then_some(Refused::NotFound)
            }
            Action::Room { .. } => None,
        }
    }

    fn prune_by_age(&mut self, at: u64) {
        let Some(keep_for) = self.settings.keep_for else { return };
        let cutoff = at - keep_for.as_millis() as u64;
        for room in self.rooms() {
            let expired = self.kept(&room).into_iter().rfind(|message| message.at < cutoff);
            if let Some(seq) = expired.map(|message| message.seq) {
                self.floors.insert(room, seq);
            }
        }
    }

    fn prune_by_number(&mut self, room: &RoomName) {
        while self.kept(room).len() as u64 > self.settings.keep_messages {
            self.prune_oldest(room);
        }
    }

    fn prune_by_bytes(&mut self) {
        while self.settings.keep_bytes.is_some_and(|most| self.bytes() > most) {
            let mut largest: Vec<_> =
                self.rooms().into_iter().map(|room| (self.bytes_of_room(&room), room)).collect();
            largest.sort_by(|(bytes, name), (other_bytes, other_name)| {
                other_bytes.cmp(bytes).then(name.cmp(other_name))
            });
            let room = largest[0].1.clone();
            self.prune_oldest(&room);
        }
    }

    fn prune_oldest(&mut self, room: &RoomName) {
        let oldest = self.kept(room)[0].seq;
        self.floors.insert(room.clone(), oldest);
    }

    fn topic(&self, room: &RoomName) -> Topic {
        let mut in_room = self.list.iter().filter(|committed| committed.draft.room == *room).rev();
        let topic = in_room.find_map(|committed| committed.topic());
        topic.cloned().unwrap_or_default()
    }

    /// Returns the changes of a room after its floor that still have an effect.
    fn changes(&self, room: &RoomName) -> Vec<&Committed> {
        let in_room = self.list.iter().filter(|committed| committed.draft.room == *room);
        let changes = in_room.filter(|committed| !committed.is_message());
        let changes = changes.filter(|change| change.seq > self.floor(room));
        let has_effect = |change: &&Committed| match &change.draft.action {
            Action::Edit { target, .. } => {
                self.find(room, *target).is_some()
                    && !self.is_deleted(target.get())
                    && self.last_edit(target.get()).is_some_and(|last| last.seq == change.seq)
            }
            Action::Room { .. } => !self.list.iter().any(|later| {
                later.topic().is_some() && later.draft.room == *room && later.seq > change.seq
            }),
            Action::Message { .. } | Action::Delete { .. } | Action::React { .. } => true,
        };
        changes.filter(has_effect).collect()
    }

    pub(super) fn page(
        &self,
        room: &RoomName,
        before: Seq,
        range: Range,
        reader: Reader,
        limit: usize,
        max_bytes: usize,
    ) -> Messages {
        let mut all = self.kept(room);
        all.retain(|message| message.seq < before.get());
        let chosen = self.choose(&all, range, limit, max_bytes);
        let first = chosen.first().copied();
        let (older, newer): (Vec<_>, Vec<_>) = match (first, range) {
            (Some(first), _) => {
                let last = chosen[chosen.len() - 1];
                let older = all.iter().filter(|message| message.seq < first);
                (older.collect(), all.iter().filter(|message| message.seq > last).collect())
            }
            (None, _) => (all.iter().collect(), Vec::new()),
        };
        let mut page = Messages {
            topic: self.topic(room),
            floor: Seq::new(older.last().map_or(self.floor(room), |last| last.seq)),
            more: !older.is_empty(),
            more_newer: !newer.is_empty(),
            ..Messages::default()
        };
        for message in all.iter().filter(|message| chosen.contains(&message.seq)) {
            page.messages.push(Arc::new(self.message(message)));
            self.add_reactions(&mut page, message.seq, reader);
        }
        if reader == Reader::Hub {
            let mut changes = self.changes(room);
            changes.retain(|change| change.seq < before.get());
            while changes.len() > limit {
                let left_out = changes.remove(0);
                page.floor = page.floor.max(Seq::new(left_out.seq));
            }
            page.changes = changes.into_iter().map(|it| Arc::new(self.change(it))).collect();
        }
        page
    }

    fn add_reactions(&self, page: &mut Messages, seq: u64, reader: Reader) {
        let target = Seq::new(seq);
        for (emoji, authors) in self.reactions(seq) {
            match reader {
                Reader::Hub => {
                    for author in authors {
                        page.reactions.push(Reaction { target, emoji: emoji.clone(), author });
                    }
                }
                Reader::Client(identity) => page.counts.push(ReactionCount {
                    target,
                    emoji,
                    count: authors.len() as u32,
                    mine: authors.contains(&Some(identity)),
                }),
            }
        }
    }

    /// Returns the sequence numbers of the messages that a page has.
    fn choose(&self, all: &[&Committed], range: Range, limit: usize, max_bytes: usize) -> Vec<u64> {
        let limit = limit.max(1);
        let bytes = |messages: &[&Committed]| -> usize {
            messages.iter().map(|message| self.text(message).as_str().len()).sum()
        };
        // The longest part that fits.
        let last = |part: &[&Committed], limit: usize, max_bytes: usize, least: usize| {
            let fits = |n: &usize| *n <= limit && bytes(&part[part.len() - n..]) <= max_bytes;
            (0..=part.len()).filter(fits).max().unwrap_or(0).max(least.min(part.len()))
        };
        let first = |part: &[&Committed], limit: usize, max_bytes: usize, least: usize| {
            let fits = |n: &usize| *n <= limit && bytes(&part[..*n]) <= max_bytes;
            (0..=part.len()).filter(fits).max().unwrap_or(0).max(least.min(part.len()))
        };
        let split = |seq: Seq| all.iter().filter(|message| message.seq <= seq.get()).count();
        let chosen = match range {
            Range::Latest => &all[all.len() - last(all, limit, max_bytes, 1)..],
            Range::After(seq) => {
                let after = &all[split(seq)..];
                &after[..first(after, limit, max_bytes, 1)]
            }
            Range::Around(seq) => {
                let (older, newer) = all.split_at(split(seq));
                let half = limit - limit / 2;
                let half_bytes = max_bytes - max_bytes / 2;
                let from = older.len() - last(older, half, half_bytes, 1);
                let rest = max_bytes.saturating_sub(bytes(&older[from..]));
                let least = usize::from(older.is_empty());
                let newer = first(newer, limit / 2, rest, least);
                &all[from..split(seq) + newer]
            }
        };
        chosen.iter().map(|message| message.seq).collect()
    }
}

fn copy(committed: &Committed) -> Committed {
    Committed { seq: committed.seq, at: committed.at, draft: committed.draft.clone() }
}
