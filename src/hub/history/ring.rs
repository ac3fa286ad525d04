//! Recent messages and changes in memory, for clients that join or resume. Those of one room are
//! its ring. It stays in memory after the room's members have left. All rings together are bounded
//! in bytes: the least recently used one is removed first. A ring that was removed is read from the
//! log when it is needed again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use super::excerpt::Excerpt;
use crate::config::Config;
use crate::domain::{
    Change, ChangeKind, ChatMessage, Emoji, Entry, Identity, MessageText, Reaction, ReactionCount,
    RoomName, Seq, Timestamp, Topic,
};
use crate::log::Messages;

/// The greatest size of the texts in one ring, and the greatest memory of all rings, in bytes.
pub(in crate::hub) const RING_TEXT_BYTES_MAX: usize = 1024 * 1024;
pub(super) const RINGS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// About how much memory a ring takes beside its messages, in bytes.
const RING_OVERHEAD_BYTES: usize = 512;

/// About how much memory a change and a reaction take, in bytes.
const CHANGE_BYTES: usize = 250;
const REACTION_BYTES: usize = 50;

/// The greatest memory of all reactions in one ring, in bytes.
const RING_REACTION_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The last messages of a room in their current state, and the last changes.
#[derive(Default)]
pub(in crate::hub) struct Ring {
    messages: VecDeque<Arc<ChatMessage>>,
    /// The changes, except those that later ones have made obsolete.
    changes: VecDeque<Arc<Change>>,
    /// The reactions to these messages.
    reactions: HashMap<Seq, BTreeMap<Emoji, HashSet<Option<Identity>>>>,
    topic: Topic,
    /// All messages and changes after this are in the ring.
    floor: Seq,
    text_bytes: usize,
    change_text_bytes: usize,
    reaction_bytes: usize,
    /// The memory of all messages and changes, including their texts.
    bytes: usize,
    /// The messages with a quote, as pairs of the quoted message and the reply.
    replies: BTreeSet<(Seq, Seq)>,
    /// The last edit of each message.
    edits: BTreeMap<Seq, Seq>,
}

impl Ring {
    /// Returns a ring of a page that was read from the log.
    pub(in crate::hub) fn of(read: Messages) -> Self {
        let Messages { messages, changes, reactions, topic, floor, .. } = read;
        let mut ring = Self { topic, floor, ..Self::default() };
        messages.into_iter().for_each(|message| ring.push_message(message));
        changes.into_iter().for_each(|change| ring.add_change(change));
        for Reaction { target, emoji, author } in reactions {
            ring.react(target, &emoji, author, true);
        }
        ring
    }

    fn push(&mut self, entry: &Entry) {
        match entry {
            Entry::Message(message) => self.push_message(Arc::clone(message)),
            Entry::Change(change) => self.push_change(change),
            Entry::Settings(_) => {}
        }
    }

    fn push_message(&mut self, message: Arc<ChatMessage>) {
        self.text_bytes += message.text.as_str().len();
        self.bytes += message.memory_bytes();
        if let (Some(target), Some(_)) = (message.reply_to, &message.quote) {
            self.replies.insert((target, message.seq));
        }
        self.messages.push_back(message);
    }

    fn push_change(&mut self, change: &Arc<Change>) {
        match &change.kind {
            ChangeKind::Edit { target, text } => {
                if self.find(*target).is_some_and(|at| self.messages[at].deleted) {
                    return;
                }
                self.forget_edit(*target);
                self.change_message(*target, |message| message.edit(text.clone(), change.at));
                self.replace_quotes(*target, Some(text));
            }
            ChangeKind::Delete { target } => {
                self.forget_changes(|kind| kind.target() == Some(*target));
                self.edits.remove(target);
                self.forget_reactions(*target);
                self.change_message(*target, ChatMessage::delete);
                self.replace_quotes(*target, None);
            }
            ChangeKind::React { target, emoji, on, .. } => {
                self.react(*target, emoji, change.author, *on);
            }
            ChangeKind::Room { topic } => {
                self.forget_changes(|kind| matches!(kind, ChangeKind::Room { .. }));
                self.topic = topic.clone();
            }
        }
        self.add_change(Arc::clone(change));
    }

    fn add_change(&mut self, change: Arc<Change>) {
        if let ChangeKind::Edit { target, .. } = change.kind {
            self.edits.insert(target, change.seq);
        }
        self.change_text_bytes += change.kind.text_bytes();
        self.bytes += CHANGE_BYTES + change.kind.text_bytes();
        self.changes.push_back(change);
    }

    /// Removes the changes for which `is_obsolete` returns true.
    fn forget_changes(&mut self, is_obsolete: impl Fn(&ChangeKind) -> bool) {
        let (mut bytes, mut removed) = (0, 0);
        self.changes.retain(|change| {
            let is_obsolete = is_obsolete(&change.kind);
            if is_obsolete {
                (bytes, removed) = (bytes + change.kind.text_bytes(), removed + 1);
            }
            !is_obsolete
        });
        self.change_text_bytes -= bytes;
        self.bytes -= removed * CHANGE_BYTES + bytes;
    }

    /// Removes the change that has set the text of a message.
    fn forget_edit(&mut self, target: Seq) {
        let Some(edit) = self.edits.remove(&target) else { return };
        let found = self.changes.binary_search_by_key(&edit, |change| change.seq);
        if let Some(change) = found.ok().and_then(|at| self.changes.remove(at)) {
            self.forget_bytes_of(&change);
        }
    }

    fn forget_bytes_of(&mut self, change: &Change) {
        self.change_text_bytes -= change.kind.text_bytes();
        self.bytes -= CHANGE_BYTES + change.kind.text_bytes();
    }

    fn find(&self, seq: Seq) -> Option<usize> {
        self.messages.binary_search_by_key(&seq, |message| message.seq).ok()
    }

    /// Changes a message, if it is in the ring.
    fn change_message(&mut self, seq: Seq, change: impl FnOnce(&mut ChatMessage)) {
        if let Some(at) = self.find(seq) {
            let mut message = ChatMessage::clone(&self.messages[at]);
            change(&mut message);
            self.replace(at, message);
        }
    }

    fn replace(&mut self, at: usize, message: ChatMessage) {
        let before = &self.messages[at];
        self.text_bytes -= before.text.as_str().len();
        self.bytes -= before.memory_bytes();
        self.text_bytes += message.text.as_str().len();
        self.bytes += message.memory_bytes();
        self.messages[at] = Arc::new(message);
    }

    /// Replaces the text in quotes of a message, or removes the quotes if `text` is `None`. The
    /// message itself may be older than the ring.
    fn replace_quotes(&mut self, target: Seq, text: Option<&MessageText>) {
        let replies = self.replies.range((target, Seq::default())..=(target, Seq::MAX));
        for (_, reply) in replies.copied().collect::<Vec<_>>() {
            self.change_message(reply, |reply| reply.change_quote(text));
            if text.is_none() {
                self.replies.remove(&(target, reply));
            }
        }
    }

    /// Removes the messages that the log has pruned, which are those up to a floor, and their texts
    /// in edits and quotes.
    fn prune_to(&mut self, floor: Seq) {
        while self.messages.front().is_some_and(|oldest| oldest.seq <= floor) {
            self.pop_message();
        }
        while self.changes.front().is_some_and(|oldest| oldest.seq <= floor) {
            self.pop_change();
        }
        while let Some((&target, _)) = self.edits.first_key_value()
            && target <= floor
        {
            self.forget_edit(target);
        }
        while let Some(&(target, _)) = self.replies.first()
            && target <= floor
        {
            self.replace_quotes(target, None);
        }
        self.floor = self.floor.max(floor);
    }

    /// Adds or removes a reaction to a message, if the message is in the ring.
    fn react(&mut self, target: Seq, emoji: &Emoji, author: Option<Identity>, on: bool) {
        if self.find(target).is_none() {
            return;
        }
        let of_message = self.reactions.entry(target).or_default();
        let authors = of_message.entry(emoji.clone()).or_default();
        let before = authors.len();
        if on {
            authors.insert(author)
        } else {
            authors.remove(&author)
        };
        let after = authors.len();
        if after == 0 {
            of_message.remove(emoji);
        }
        if of_message.is_empty() {
            self.reactions.remove(&target);
        }
        self.reaction_bytes =
            self.reaction_bytes + after * REACTION_BYTES - before * REACTION_BYTES;
    }

    fn forget_reactions(&mut self, target: Seq) {
        let removed = self.reactions.remove(&target).into_iter().flatten();
        let authors: usize = removed.map(|(_, authors)| authors.len()).sum();
        self.reaction_bytes -= authors * REACTION_BYTES;
    }

    fn pop_message(&mut self) {
        if let Some(oldest) = self.messages.pop_front() {
            self.text_bytes -= oldest.text.as_str().len();
            self.bytes -= oldest.memory_bytes();
            self.forget_reactions(oldest.seq);
            if let Some(target) = oldest.reply_to {
                self.replies.remove(&(target, oldest.seq));
            }
            self.floor = self.floor.max(oldest.seq);
        }
    }

    fn pop_change(&mut self) {
        if let Some(oldest) = self.changes.pop_front() {
            self.forget_bytes_of(&oldest);
            if let ChangeKind::Edit { target, .. } = oldest.kind {
                self.edits.remove(&target);
            }
            self.floor = self.floor.max(oldest.seq);
        }
    }

    /// Removes the oldest messages and changes beyond the limits of one ring.
    fn apply_limits(&mut self, messages_max: usize) {
        while self.messages.len() > messages_max
            || self.text_bytes > RING_TEXT_BYTES_MAX
            || self.reaction_bytes > RING_REACTION_BYTES_MAX
        {
            self.pop_message();
        }
        while self.changes.len() > messages_max || self.change_text_bytes > RING_TEXT_BYTES_MAX {
            self.pop_change();
        }
    }

    /// Returns the messages and changes after a sequence number. Returns `None` if the ring may not
    /// have all of them.
    pub(in crate::hub) fn after(&self, seq: Seq) -> Option<Missed> {
        let known = self.messages.partition_point(|message| message.seq <= seq);
        let known_changes = self.changes.partition_point(|change| change.seq <= seq);
        (seq >= self.floor).then(|| Missed {
            messages: self.messages.range(known..).cloned().collect(),
            changes: self.changes.range(known_changes..).cloned().collect(),
        })
    }

    /// Returns the messages of the ring after a sequence number.
    pub(in crate::hub) fn messages_after(
        &self,
        seq: Seq,
    ) -> impl Iterator<Item = &Arc<ChatMessage>> {
        let start = self.messages.partition_point(|message| message.seq <= seq);
        self.messages.range(start..)
    }

    /// Returns the last messages before `before` for a reader with this identity. Returns at most
    /// `limit` messages and `max_bytes` of text, but the newest message in any case.
    pub(in crate::hub) fn page(
        &self,
        before: Seq,
        limit: usize,
        max_bytes: usize,
        reader: Identity,
    ) -> Excerpt {
        let end = self.messages.partition_point(|message| message.seq < before);
        let (mut start, mut bytes) = (end, 0);
        while start > 0 && end - start < limit {
            bytes += self.messages[start - 1].text.as_str().len();
            if bytes > max_bytes && start < end {
                break;
            }
            start -= 1;
        }
        let messages: Vec<_> = self.messages.range(start..end).cloned().collect();
        let counts = messages.iter().flat_map(|message| self.counts(message.seq, reader)).collect();
        Excerpt { messages, counts, more: start > 0, more_newer: false }
    }

    fn counts(&self, target: Seq, reader: Identity) -> impl Iterator<Item = ReactionCount> {
        let of_message = self.reactions.get(&target).into_iter().flatten();
        of_message.map(move |(emoji, authors)| ReactionCount {
            target,
            emoji: emoji.clone(),
            count: u32::try_from(authors.len()).unwrap_or(u32::MAX),
            mine: authors.contains(&Some(reader)),
        })
    }

    /// Returns the room's topic.
    pub(in crate::hub) fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Removes messages and changes that are older than `keep_for`.
    fn forget_old(&mut self, now: Timestamp, keep_for: Duration) {
        let horizon = now.minus(keep_for);
        // A message dated in the future, when the clock was ahead, is removed once a later one is
        // old.
        let may_be_old = |at: Timestamp| at < horizon || at > now;
        while self.messages.front().is_some_and(|oldest| may_be_old(oldest.at))
            && self.messages.iter().any(|message| message.at < horizon)
        {
            self.pop_message();
        }
        while self.changes.front().is_some_and(|oldest| may_be_old(oldest.at))
            && self.changes.iter().any(|change| change.at < horizon)
        {
            self.pop_change();
        }
    }

    fn bytes(&self) -> usize {
        self.bytes + self.reaction_bytes + RING_OVERHEAD_BYTES
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.changes.is_empty()
    }
}

/// The messages and changes that a client has missed.
pub(in crate::hub) struct Missed {
    pub(in crate::hub) messages: Vec<Arc<ChatMessage>>,
    pub(in crate::hub) changes: Vec<Arc<Change>>,
}

/// The rings of all recently used rooms.
pub(in crate::hub) struct Rings {
    rings: LruCache<RoomName, Ring>,
    bytes: usize,
    messages_max: usize,
    bytes_max: usize,
    keep_for: Option<Duration>,
}

impl Rings {
    pub(in crate::hub) fn new(config: &Config, keep_for: Option<Duration>) -> Self {
        Self {
            rings: LruCache::unbounded(),
            bytes: 0,
            messages_max: config.resume_buffer.min(config.keep_messages),
            bytes_max: RINGS_BYTES_MAX,
            keep_for,
        }
    }

    /// Changes how long messages are kept.
    pub(in crate::hub) fn set_keep_for(&mut self, keep_for: Option<Duration>) {
        self.keep_for = keep_for;
    }

    /// Removes all rings.
    pub(in crate::hub) fn clear(&mut self) {
        self.rings.clear();
        self.bytes = 0;
    }

    /// Returns the greatest number of messages in one ring.
    pub(in crate::hub) fn messages_max(&self) -> usize {
        self.messages_max
    }

    /// Returns the memory of all rings in bytes.
    pub(in crate::hub) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(in crate::hub) fn contains(&self, room: &RoomName) -> bool {
        self.rings.contains(room)
    }

    /// Returns the ring of a room, without messages that are too old.
    pub(in crate::hub) fn get(&mut self, room: &RoomName) -> Option<&Ring> {
        self.change(room, |_| {})
    }

    /// Adds a ring for a room that has none.
    pub(in crate::hub) fn insert(&mut self, room: &RoomName, ring: Ring) {
        self.bytes += ring.bytes();
        self.rings.put(room.clone(), ring);
        self.change(room, |_| {});
    }

    /// Removes a ring without messages and changes.
    pub(in crate::hub) fn remove_if_empty(&mut self, room: &RoomName) {
        if self.rings.peek(room).is_some_and(Ring::is_empty)
            && let Some(ring) = self.rings.pop(room)
        {
            self.bytes -= ring.bytes();
        }
    }

    /// Adds entries to the ring of a room, if there is one.
    pub(in crate::hub) fn push(&mut self, room: &RoomName, entries: &[Entry]) {
        self.change(room, |ring| entries.iter().for_each(|entry| ring.push(entry)));
    }

    /// Removes the messages up to a floor, which the log has pruned, from the ring of a room.
    pub(in crate::hub) fn prune_to(&mut self, room: &RoomName, floor: Seq) {
        if self.rings.contains(room) {
            self.change(room, |ring| ring.prune_to(floor));
        }
    }

    /// Changes a ring, marks it as used and applies all limits.
    fn change(&mut self, room: &RoomName, change: impl FnOnce(&mut Ring)) -> Option<&Ring> {
        let ring = self.rings.get_mut(room)?;
        let before = ring.bytes();
        change(ring);
        ring.apply_limits(self.messages_max);
        if let Some(keep_for) = self.keep_for {
            ring.forget_old(Timestamp::now(), keep_for);
        }
        self.bytes = self.bytes + ring.bytes() - before;
        while self.bytes > self.bytes_max && self.rings.len() > 1 {
            let removed = self.rings.pop_lru();
            self.bytes -= removed.map_or(0, |(_, ring)| ring.bytes());
        }
        self.rings.peek(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClientId, Nick, Quote};
    use proptest::prelude::*;

    fn name(n: usize) -> RoomName {
        RoomName::parse(&format!("r{n}")).expect("a room")
    }

    fn message(room: usize, seq: u64, bytes: usize) -> Arc<ChatMessage> {
        let nick = Nick::parse("ada").expect("a name");
        let text = MessageText::parse("x".repeat(bytes), bytes).expect("a text");
        Arc::new(ChatMessage::new(name(room), Seq::new(seq), Timestamp::now(), nick, text))
    }

    fn rings(bytes_max: usize) -> Rings {
        Rings { bytes_max, ..Rings::new(&Config::default(), None) }
    }

    #[test]
    fn all_rings_are_bounded_together_and_the_least_recently_used_one_is_removed() {
        let each = RING_OVERHEAD_BYTES + 10 * message(0, 1, 100).memory_bytes();
        let mut rings = rings(3 * each);
        let fill = |rings: &mut Rings, room: usize| {
            rings.insert(&name(room), Ring::default());
            let messages: Vec<_> =
                (1..=10).map(|seq| Entry::Message(message(room, seq, 100))).collect();
            rings.push(&name(room), &messages);
        };
        (0..3).for_each(|room| fill(&mut rings, room));
        assert_eq!(rings.bytes, 3 * each);
        assert!(rings.get(&name(0)).is_some());
        fill(&mut rings, 3);
        let left = [0, 1, 2, 3].map(|room| rings.contains(&name(room)));
        assert_eq!(left, [true, false, true, true], "room 1 was used longest ago");
        assert_eq!(rings.bytes, 3 * each);
        assert_eq!(rings.rings.len(), 3);
    }

    #[test]
    fn empty_ring_is_removed_completely() {
        let mut rings = rings(RINGS_BYTES_MAX);
        for room in [0, 1] {
            rings.insert(&name(room), Ring::default());
        }
        rings.push(&name(0), &[Entry::Message(message(0, 1, 100))]);
        for room in [0, 1, 2] {
            rings.remove_if_empty(&name(room));
        }
        assert_eq!([0, 1].map(|room| rings.contains(&name(room))), [true, false]);
        assert_eq!(rings.bytes, RING_OVERHEAD_BYTES + message(0, 1, 100).memory_bytes());
        assert_eq!(rings.rings.len(), 1);
    }

    #[test]
    fn ring_is_bounded_in_messages_and_bytes_and_its_floor_follows() {
        let mut rings = rings(RINGS_BYTES_MAX);
        rings.messages_max = 3;
        rings.insert(&name(0), Ring::default());
        let say = |rings: &mut Rings, seq, bytes| {
            rings.push(&name(0), &[Entry::Message(message(0, seq, bytes))]);
            let ring = rings.get(&name(0)).expect("it is there");
            (ring.floor.get(), ring.messages.len())
        };
        let floors = [1, 2, 3, 4].map(|seq| say(&mut rings, seq, 10));
        assert_eq!(floors, [(0, 1), (0, 2), (0, 3), (1, 3)]);
        assert_eq!(say(&mut rings, 5, RING_TEXT_BYTES_MAX - 10), (3, 2));
        assert_eq!(say(&mut rings, 6, RING_TEXT_BYTES_MAX), (5, 1));
    }

    /// A step of the property test. Targets are counted back from the last entry.
    #[derive(Clone, Debug)]
    enum Step {
        Say(Option<u64>),
        Edit(u64),
        Delete(u64),
        React { back: u64, emoji: usize, author: usize, on: bool },
        Topic,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => proptest::option::of(0..6u64).prop_map(Step::Say),
            3 => (0..8u64).prop_map(Step::Edit),
            2 => (0..8u64).prop_map(Step::Delete),
            4 => (0..8u64, 0..2usize, 0..2usize, any::<bool>())
                .prop_map(|(back, emoji, author, on)| Step::React { back, emoji, author, on }),
            1 => Just(Step::Topic),
        ]
    }

    /// A message as a client sees it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    struct Seen {
        text: String,
        edited: bool,
        deleted: bool,
        reactions: BTreeMap<Emoji, Vec<Option<Identity>>>,
    }

    /// The room as a client sees it, which applies events by the rules of `docs/PROTOCOL.md`.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    struct View {
        messages: BTreeMap<Seq, Seen>,
        topic: String,
    }

    impl View {
        fn add(&mut self, message: &ChatMessage) {
            let text = message.text.as_str().to_owned();
            let edited = message.edited_at.is_some();
            let (deleted, reactions) = (message.deleted, BTreeMap::new());
            self.messages.insert(message.seq, Seen { text, edited, deleted, reactions });
        }

        fn change(&mut self, change: &Change) {
            if let ChangeKind::Room { topic } = &change.kind {
                self.topic = topic.as_str().to_owned();
            }
            let target = change.kind.target().and_then(|target| self.messages.get_mut(&target));
            let Some(seen) = target else { return };
            match &change.kind {
                ChangeKind::Edit { text, .. } if !seen.deleted => {
                    (seen.text, seen.edited) = (text.as_str().to_owned(), true);
                }
                ChangeKind::Delete { .. } => *seen = Seen { deleted: true, ..Seen::default() },
                ChangeKind::React { emoji, on, .. } => {
                    let authors = seen.reactions.entry(emoji.clone()).or_default();
                    authors.retain(|author| *author != change.author);
                    if *on {
                        authors.push(change.author);
                        authors.sort_unstable();
                    }
                    if authors.is_empty() {
                        seen.reactions.remove(emoji);
                    }
                }
                ChangeKind::Edit { .. } | ChangeKind::Room { .. } => {}
            }
        }

        /// Returns the quote of a message, unless it does not exist or is deleted.
        fn quote(&self, target: Seq) -> Option<Arc<Quote>> {
            let seen = self.messages.get(&target).filter(|seen| !seen.deleted)?;
            Some(Arc::new(Quote::new(Nick::parse("ada").expect("a name"), &seen.text)))
        }

        fn apply(&mut self, entry: &Entry) {
            match entry {
                Entry::Message(message) => self.add(message),
                Entry::Change(change) => self.change(change),
                Entry::Settings(_) => {}
            }
        }
    }

    /// Returns the entries of these steps. As in the log, changes of messages that do not exist or
    /// are deleted are left out.
    fn entries(steps: &[Step]) -> Vec<Entry> {
        let emojis = ["👍", "🎉"].map(|emoji| Emoji::parse(emoji).expect("an emoji"));
        let authors = [1, 2].map(|_| Some(Identity::of_client(ClientId::next())));
        let mut view = View::default();
        let mut entries: Vec<Entry> = Vec::new();
        for (n, step) in (1..).zip(steps) {
            let (seq, at) = (Seq::new(n), Timestamp::from_millis(n));
            let nick = Nick::parse("ada").expect("a name");
            let text = |what: &str| MessageText::parse(format!("{what} {n}"), 100).expect("a text");
            let target = |back: u64| Seq::new((n - 1).saturating_sub(back));
            let (author, kind) = match step {
                Step::Say(reply_to) => {
                    let mut message = ChatMessage::new(name(0), seq, at, nick, text("say"));
                    message.reply_to = reply_to.map(target);
                    message.quote = message.reply_to.and_then(|target| view.quote(target));
                    entries.push(Entry::Message(Arc::new(message)));
                    view.apply(&entries[entries.len() - 1]);
                    continue;
                }
                Step::Edit(back) => {
                    (None, ChangeKind::Edit { target: target(*back), text: text("edit") })
                }
                Step::Delete(back) => (None, ChangeKind::Delete { target: target(*back) }),
                Step::React { back, emoji, author, on } => {
                    let (target, emoji) = (target(*back), emojis[*emoji].clone());
                    let kind = ChangeKind::React { target, emoji, on: *on, count: 0 };
                    (authors[*author], kind)
                }
                Step::Topic => {
                    let topic = Topic::parse(&format!("topic {n}")).expect("a topic");
                    (None, ChangeKind::Room { topic })
                }
            };
            let target = kind.target();
            if target.is_some_and(|seq| view.messages.get(&seq).is_none_or(|seen| seen.deleted)) {
                continue;
            }
            let change = Change { room: name(0), seq, at, author, nick, id: None, kind };
            entries.push(Entry::Change(Arc::new(change)));
            view.apply(&entries[entries.len() - 1]);
        }
        entries
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// A client that resumes after an absence has the same messages in the same state as a
        /// client that stayed connected, unless the ring reports that it does not have all entries.
        #[test]
        fn resumed_client_sees_the_same_room_as_one_that_stayed_connected(
            steps in proptest::collection::vec(step(), 1..60),
            away in 0..60usize,
            messages_max in 3..20usize,
        ) {
            let entries = entries(&steps);
            let mut rings = Rings { messages_max, ..rings(RINGS_BYTES_MAX) };
            rings.insert(&name(0), Ring::default());
            entries.chunks(3).for_each(|chunk| rings.push(&name(0), chunk));
            let away = away.min(entries.len());
            let (mut resumed, mut present) = (View::default(), View::default());
            entries[..away].iter().for_each(|entry| resumed.apply(entry));
            entries.iter().for_each(|entry| present.apply(entry));
            let seq = away.checked_sub(1).map_or(Seq::default(), |last| entries[last].seq());
            let ring = rings.get(&name(0)).expect("it was inserted");
            // At most `messages_max` entries are missing, so none can be forgotten.
            let is_short = entries.len() - away <= messages_max;
            let Some(missed) = ring.after(seq) else {
                prop_assert!(!is_short);
                return Ok(());
            };
            missed.messages.iter().for_each(|message| resumed.add(message));
            missed.changes.iter().for_each(|change| resumed.change(change));
            prop_assert_eq!(&resumed, &present);

            // A client that joins receives the same state from the ring.
            let reader = Identity::of_client(ClientId::next());
            let page = ring.page(Seq::MAX, 50, usize::MAX, reader);
            for message in &page.messages {
                let seen = &present.messages[&message.seq];
                let shown = (message.text.as_str(), message.edited_at.is_some(), message.deleted);
                prop_assert_eq!(shown, (seen.text.as_str(), seen.edited, seen.deleted));
                let counts = page.counts.iter().filter(|count| count.target == message.seq);
                let counts: Vec<_> = counts.map(|count| (&count.emoji, count.count)).collect();
                let expected = seen.reactions.iter();
                let expected = expected.map(|(emoji, authors)| (emoji, authors.len() as u32));
                prop_assert_eq!(counts, expected.collect::<Vec<_>>());
                // Quotes have the current text, even of a message that is not in the ring any more.
                let target = message.reply_to.filter(|_| !message.deleted);
                let quote = target.and_then(|target| present.quote(target));
                prop_assert_eq!(&message.quote, &quote);
            }
            prop_assert_eq!(ring.topic().as_str(), present.topic.as_str());
        }
    }

    #[test]
    fn quote_of_a_message_outside_the_ring_follows_its_edit_and_deletion() {
        let quoted = |steps: &[Step]| {
            let mut rings = Rings { messages_max: 2, ..rings(RINGS_BYTES_MAX) };
            rings.insert(&name(0), Ring::default());
            entries(steps).chunks(1).for_each(|entry| rings.push(&name(0), entry));
            let ring = rings.get(&name(0)).expect("it was inserted");
            assert_eq!(ring.floor, Seq::new(1));
            ring.messages[0].quote.as_ref().map(|quote| quote.text.to_string())
        };
        let said = [Step::Say(None), Step::Say(Some(0)), Step::Say(None)];
        assert_eq!(quoted(&said).as_deref(), Some("say 1"));
        let edited = [said.as_slice(), &[Step::Edit(2)]].concat();
        assert_eq!(quoted(&edited).as_deref(), Some("edit 4"));
        let deleted = [edited.as_slice(), &[Step::Delete(3)]].concat();
        assert_eq!(quoted(&deleted), None);
    }

    #[test]
    fn ring_does_not_contain_a_pruned_text() {
        let mut rings = rings(RINGS_BYTES_MAX);
        rings.insert(&name(0), Ring::default());
        let edited = [Step::Say(None), Step::Say(Some(0)), Step::Say(None), Step::Edit(2)];
        let edited: Vec<Entry> = entries(&edited);
        let Entry::Message(first) = &edited[0] else { panic!("a message") };
        let quoted = match &edited[1] {
            Entry::Message(reply) => {
                let quote = first.as_quote();
                Entry::Message(Arc::new(ChatMessage { quote, ..ChatMessage::clone(reply) }))
            }
            Entry::Change(_) | Entry::Settings(_) => panic!("a message"),
        };
        rings.push(&name(0), &[edited[0].clone(), quoted, edited[2].clone(), edited[3].clone()]);
        let shown = |rings: &mut Rings| {
            let ring = rings.get(&name(0)).expect("it was inserted");
            format!("{:?} {:?}", ring.messages, ring.changes)
        };
        assert_eq!(shown(&mut rings).matches("edit 4").count(), 3, "message, quote and change");
        let bytes = rings.bytes();
        rings.prune_to(&name(0), Seq::new(1));
        let left = shown(&mut rings);
        assert!(!left.contains("edit 4") && left.contains("say 2"), "{left}");
        assert!(rings.bytes() < bytes);
        let ring = rings.get(&name(0)).expect("it was inserted");
        assert!(ring.after(Seq::default()).is_none() && ring.after(Seq::new(1)).is_some());
    }

    #[test]
    fn ring_does_not_contain_a_deleted_text() {
        let step = |steps: &[Step]| {
            let mut rings = rings(RINGS_BYTES_MAX);
            rings.insert(&name(0), Ring::default());
            rings.push(&name(0), &entries(steps));
            let ring = rings.get(&name(0)).expect("it was inserted");
            format!("{:?} {:?}", ring.messages, ring.changes)
        };
        let said = [Step::Say(None), Step::Edit(0), Step::Say(Some(1))];
        assert!(step(&said).contains("edit 2"));
        let deleted = [said.as_slice(), &[Step::Delete(2)]].concat();
        let ring = step(&deleted);
        assert!(!ring.contains("say 1") && !ring.contains("edit 2"), "{ring}");
        assert!(ring.contains("say 3"), "{ring}");
    }
}
