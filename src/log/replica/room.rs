//! A room of a replica: its kept messages and its last changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use litemap::LiteMap;

use super::Recent;
use super::ids::DraftId;
use super::index::Keys;
use crate::domain::{Change, ChatMessage, Emoji, Identity, MessageText, Seq, Timestamp, Topic};
use crate::log::rules;

/// The state of a room.
pub(super) struct Room {
    /// The kept messages, oldest first.
    messages: VecDeque<StoredMessage>,
    /// The last message that was pruned.
    floor: Seq,
    /// The size of all kept messages.
    bytes: u64,
    /// The time and sequence number of each kept message whose time is earlier than the times of
    /// all messages after it. So these times increase, and the first is the earliest of all, even
    /// if the clock was set back. See [`Room::prune_before`].
    times: VecDeque<(Timestamp, Seq)>,
    /// The replies to kept messages, as pairs of target and reply.
    replies: BTreeSet<(Seq, Seq)>,
    /// The changes after the floor, except edits and topics that have no effect any more.
    changes: BTreeMap<Seq, Arc<Change>>,
    /// The last change that was forgotten because of a bound.
    forgotten: Seq,
    topic: Topic,
    /// The change that set the topic.
    topic_change: Option<Seq>,
    /// The last entry.
    last: Seq,
    /// The keys that the index has.
    pub(super) indexed: Keys,
}

/// A kept message.
pub(super) struct StoredMessage {
    /// The message in its current state, except that its quote is as it was at the commit.
    pub(super) message: Arc<ChatMessage>,
    pub(super) reactions: Reactions,
    id: Option<Arc<DraftId>>,
    /// The last edit, if its text was edited.
    edit: Option<Seq>,
}

/// The reactions to a message: the authors by emoji.
#[derive(Default)]
pub(super) struct Reactions(LiteMap<Emoji, BTreeSet<Option<Identity>>>);

impl Room {
    /// Returns a room without entries. Entries up to `floor` are unknown.
    pub(super) fn new(floor: Seq) -> Self {
        Self {
            messages: VecDeque::new(),
            floor,
            bytes: 0,
            times: VecDeque::new(),
            replies: BTreeSet::new(),
            changes: BTreeMap::new(),
            forgotten: Seq::default(),
            topic: Topic::default(),
            topic_change: None,
            last: floor,
            indexed: Keys::default(),
        }
    }

    /// Returns the number of kept messages.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn messages(&self) -> &VecDeque<StoredMessage> {
        &self.messages
    }

    pub(super) fn changes(&self) -> &BTreeMap<Seq, Arc<Change>> {
        &self.changes
    }

    pub(super) fn floor(&self) -> Seq {
        self.floor
    }

    pub(super) fn forgotten(&self) -> Seq {
        self.forgotten
    }

    pub(super) fn topic(&self) -> &Topic {
        &self.topic
    }

    pub(super) fn last(&self) -> Seq {
        self.last
    }

    /// Returns whether the room has nothing but a floor.
    pub(super) fn is_blank(&self) -> bool {
        self.messages.is_empty() && self.changes.is_empty() && self.topic.is_empty()
    }

    /// Returns the keys by which the index should have the room.
    pub(super) fn keys(&self) -> Keys {
        let is_idle = self.messages.is_empty();
        Keys {
            bytes: (!is_idle).then_some(self.bytes),
            earliest: self.times.front().map(|(earliest, _)| *earliest),
            idle: is_idle.then_some(self.last),
        }
    }

    /// Returns the number of kept messages before a sequence number.
    pub(super) fn count_before(&self, seq: Seq) -> usize {
        self.messages.partition_point(|stored| stored.message.seq < seq)
    }

    /// Returns a kept message.
    pub(super) fn find(&self, seq: Seq) -> Option<&StoredMessage> {
        self.messages.get(self.count_before(seq)).filter(|stored| stored.message.seq == seq)
    }

    /// Calls a function with a kept message, and updates the size of all messages.
    fn modify<T>(&mut self, seq: Seq, f: impl FnOnce(&mut StoredMessage) -> T) -> Option<T> {
        let index = self.count_before(seq);
        let stored = self.messages.get_mut(index).filter(|stored| stored.message.seq == seq)?;
        let old_bytes = stored.bytes();
        let result = f(stored);
        self.bytes = self.bytes - old_bytes + stored.bytes();
        Some(result)
    }

    /// Adds the newest message.
    pub(super) fn add(&mut self, stored: StoredMessage) {
        let ChatMessage { seq, at, .. } = *stored.message;
        while self.times.back().is_some_and(|(time, _)| *time >= at) {
            self.times.pop_back();
        }
        self.times.push_back((at, seq));
        if let Some(target) = stored.message.reply_to {
            self.replies.insert((target, seq));
        }
        self.bytes += stored.bytes();
        self.last = seq;
        self.messages.push_back(stored);
    }

    /// Sets the text of a message by the change `seq`.
    pub(super) fn edit(
        &mut self,
        target: Seq,
        seq: Seq,
        at: Timestamp,
        text: MessageText,
        recent: &mut Recent,
    ) {
        let superseded = self.modify(target, |stored| {
            Arc::make_mut(&mut stored.message).edit(text, at);
            stored.edit.replace(seq)
        });
        self.remove_change(superseded.flatten(), recent);
    }

    /// Removes the text of a message, also from its quotes in replies.
    pub(super) fn delete(&mut self, target: Seq, recent: &mut Recent) {
        let superseded = self.modify(target, |stored| {
            Arc::make_mut(&mut stored.message).delete();
            stored.reactions = Reactions::default();
            stored.edit.take()
        });
        self.remove_change(superseded.flatten(), recent);
        let replies = self.replies.range((target, Seq::default())..=(target, Seq::MAX));
        for reply in replies.map(|(_, reply)| *reply).collect::<Vec<_>>() {
            self.modify(reply, |stored| Arc::make_mut(&mut stored.message).change_quote(None));
        }
    }

    /// Adds or removes a reaction. Returns the number of authors with this emoji.
    pub(super) fn react(
        &mut self,
        target: Seq,
        emoji: &Emoji,
        author: Option<Identity>,
        on: bool,
    ) -> u32 {
        self.modify(target, |stored| stored.reactions.set(emoji, author, on)).unwrap_or_default()
    }

    /// Sets the topic by the change `seq`.
    pub(super) fn set_topic(&mut self, topic: Topic, seq: Seq, recent: &mut Recent) {
        self.topic = topic;
        let superseded = self.topic_change.replace(seq);
        self.remove_change(superseded, recent);
    }

    /// Adds the newest change.
    pub(super) fn add_change(&mut self, change: Arc<Change>, recent: &mut Recent) {
        self.last = change.seq;
        recent.changes.insert(change.seq, change.room.clone());
        self.changes.insert(change.seq, change);
        while self.changes.len() > recent.bounds.changes_per_room
            && let Some((seq, _)) = self.changes.pop_first()
        {
            recent.changes.remove(&seq);
            self.forgotten = seq;
        }
    }

    /// Forgets the room's oldest change, `seq`, because of a bound.
    pub(super) fn forget_change(&mut self, seq: Seq) {
        self.changes.remove(&seq);
        self.forgotten = self.forgotten.max(seq);
    }

    /// Removes a change that has no effect any more.
    fn remove_change(&mut self, seq: Option<Seq>, recent: &mut Recent) {
        if let Some(seq) = seq {
            self.changes.remove(&seq);
            recent.changes.remove(&seq);
        }
    }

    /// Prunes all messages up to the last one from before `cutoff`.
    pub(super) fn prune_before(&mut self, cutoff: Timestamp, recent: &mut Recent) {
        // All messages after an element of `times` are later than it. So the last element from
        // before the cutoff is also the last such message.
        let expired = self.times.partition_point(|(time, _)| *time < cutoff);
        if let Some(&(_, last)) = expired.checked_sub(1).and_then(|last| self.times.get(last)) {
            while self.floor < last && !self.messages.is_empty() {
                self.prune_oldest(recent);
            }
        }
    }

    /// Prunes the oldest message, if there is one.
    pub(super) fn prune_oldest(&mut self, recent: &mut Recent) {
        let Some(stored) = self.messages.pop_front() else { return };
        let ChatMessage { seq, at, .. } = *stored.message;
        self.floor = seq;
        self.bytes -= stored.bytes();
        while self.times.front().is_some_and(|(_, first)| *first <= seq) {
            self.times.pop_front();
        }
        if let Some(target) = stored.message.reply_to {
            self.replies.remove(&(target, seq));
        }
        self.remove_change(stored.edit, recent);
        while let Some(first) = self.changes.first_entry()
            && *first.key() <= seq
        {
            recent.changes.remove(first.key());
            first.remove();
        }
        if let Some(id) = stored.id {
            recent.ids.release(id, at, seq, recent.latest);
        }
        self.release_memory();
    }

    /// Releases memory when much of it is unused.
    fn release_memory(&mut self) {
        if self.messages.len() < self.messages.capacity() / 4 {
            self.messages.shrink_to(self.messages.len() * 2);
            self.times.shrink_to(self.messages.len() * 2);
        }
    }
}

impl StoredMessage {
    pub(super) fn new(message: Arc<ChatMessage>, id: Option<Arc<DraftId>>) -> Self {
        Self { message, reactions: Reactions::default(), id, edit: None }
    }

    /// Returns the length of its text in bytes.
    pub(super) fn text_bytes(&self) -> usize {
        self.message.text.as_str().len()
    }

    fn bytes(&self) -> u64 {
        rules::counted_bytes(self.text_bytes(), self.reactions.len())
    }
}

impl Reactions {
    /// Returns the number of reactions.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// Returns the number of different emoji.
    pub(super) fn emojis(&self) -> usize {
        self.0.len()
    }

    pub(super) fn has_emoji(&self, emoji: &Emoji) -> bool {
        self.0.contains_key(emoji)
    }

    pub(super) fn contains(&self, emoji: &Emoji, author: Option<Identity>) -> bool {
        self.0.get(emoji).is_some_and(|authors| authors.contains(&author))
    }

    /// Returns each emoji with its authors, sorted.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Emoji, &BTreeSet<Option<Identity>>)> {
        self.0.iter()
    }

    /// Adds or removes a reaction. Returns the number of authors with this emoji.
    fn set(&mut self, emoji: &Emoji, author: Option<Identity>, on: bool) -> u32 {
        if on && !self.0.contains_key(emoji) {
            self.0.insert(emoji.clone(), BTreeSet::new());
        }
        let Some(authors) = self.0.get_mut(emoji) else { return 0 };
        if on {
            authors.insert(author);
        } else {
            authors.remove(&author);
        }
        let count = authors.len();
        if count == 0 {
            self.0.remove(emoji);
        }
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}
