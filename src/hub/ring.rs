//! What was said of late in each room, kept in memory: who comes or comes back is told from here.
//! Rings outlive their rooms' members, and are together bounded in bytes: the one that was used
//! longest ago goes first. Where there is a log that keeps messages, it fills them again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::domain::{ChatMessage, RoomName, Seq, Timestamp};

/// The most that one ring and all together hold, in bytes.
pub(super) const RING_BYTES_MAX: usize = 1024 * 1024;
pub(super) const RINGS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// About what a message takes beside its text, its name in two forms and its id, in bytes; and what
/// a ring takes beside its messages.
const MESSAGE_BYTES: usize = 350;
const RING_BYTES: usize = 512;

/// The last messages of a room: all of them that came after its floor.
#[derive(Default)]
pub(super) struct Ring {
    messages: VecDeque<Arc<ChatMessage>>,
    floor: Seq,
    text_bytes: usize,
    /// What all messages take, their texts included.
    bytes: usize,
}

/// About what a message takes in memory, in bytes.
pub(super) fn weight(message: &ChatMessage) -> usize {
    let id = message.id.as_ref().map_or(0, |id| id.as_str().len());
    MESSAGE_BYTES + message.text.as_str().len() + 2 * message.nick.as_str().len() + id
}

impl Ring {
    /// An empty ring of a room of which nothing is known before this place.
    pub(super) fn from(floor: Seq) -> Self {
        Self { floor, ..Self::default() }
    }

    fn push(&mut self, message: Arc<ChatMessage>) {
        self.text_bytes += message.text.as_str().len();
        self.bytes += weight(&message);
        self.messages.push_back(message);
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.messages.pop_front() {
            self.text_bytes -= oldest.text.as_str().len();
            self.bytes -= weight(&oldest);
            self.floor = oldest.seq;
        }
    }

    /// The messages after this place, unless some of them are not here any more.
    pub(super) fn after(&self, seq: Seq) -> Option<Vec<Arc<ChatMessage>>> {
        let known = self.messages.partition_point(|message| message.seq <= seq);
        (seq >= self.floor).then(|| self.messages.range(known..).cloned().collect())
    }

    /// The last messages, at most `count`, oldest first.
    pub(super) fn latest(&self, count: usize) -> Vec<Arc<ChatMessage>> {
        let skipped = self.messages.len().saturating_sub(count);
        self.messages.range(skipped..).cloned().collect()
    }

    /// The last messages before this place, at most `limit` and within `max_bytes` of text, and
    /// whether there are older ones here. Fewer than asked for means that the ring has no more.
    pub(super) fn page(
        &self,
        before: Seq,
        limit: usize,
        max_bytes: usize,
    ) -> (Vec<Arc<ChatMessage>>, bool) {
        let end = self.messages.partition_point(|message| message.seq < before);
        let (mut start, mut bytes) = (end, 0);
        while start > 0 && end - start < limit {
            bytes += self.messages[start - 1].text.as_str().len();
            if bytes > max_bytes && start < end {
                break;
            }
            start -= 1;
        }
        (self.messages.range(start..end).cloned().collect(), start > 0)
    }

    /// Takes away what is older than that.
    fn forget_old(&mut self, now: Timestamp, keep_for: Duration) {
        let horizon = now.minus(keep_for);
        let is_old = |message: &Arc<ChatMessage>| message.at < horizon;
        // One from a moment when the clock was ahead goes with those behind it.
        let may_be_old = |message: &Arc<ChatMessage>| is_old(message) || message.at > now;
        while self.messages.front().is_some_and(may_be_old) && self.messages.iter().any(is_old) {
            self.pop();
        }
    }

    fn bytes(&self) -> usize {
        self.bytes + RING_BYTES
    }
}

/// The rings of all rooms that were used of late.
pub(super) struct Rings {
    rings: HashMap<RoomName, Used>,
    /// Which ring was used when, longest ago first.
    order: BTreeMap<u64, RoomName>,
    uses: u64,
    bytes: usize,
    messages_max: usize,
    bytes_max: usize,
    keep_for: Option<Duration>,
}

struct Used {
    ring: Ring,
    last: u64,
}

impl Rings {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            rings: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            messages_max: config.resume_buffer.min(config.keep_messages),
            bytes_max: RINGS_BYTES_MAX,
            keep_for: config.keep_for,
        }
    }

    /// How many messages a ring holds.
    pub(super) fn messages_max(&self) -> usize {
        self.messages_max
    }

    /// What all rings hold, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn contains(&self, room: &RoomName) -> bool {
        self.rings.contains_key(room)
    }

    /// The ring of a room, without what is too old to be told.
    pub(super) fn get(&mut self, room: &RoomName) -> Option<&Ring> {
        self.change(room, |_| {})
    }

    /// Puts a ring where there is none.
    pub(super) fn insert(&mut self, room: &RoomName, ring: Ring) {
        self.bytes += ring.bytes();
        self.rings.insert(room.clone(), Used { ring, last: 0 });
        self.change(room, |_| {});
    }

    /// Forgets a ring with nothing in it.
    pub(super) fn forget_if_empty(&mut self, room: &RoomName) {
        if self.rings.get(room).is_some_and(|used| used.ring.messages.is_empty())
            && let Some(Used { ring, last }) = self.rings.remove(room)
        {
            self.order.remove(&last);
            self.bytes -= ring.bytes();
        }
    }

    /// Adds what has just been said, if there is a ring to add it to.
    pub(super) fn push(&mut self, room: &RoomName, messages: &[Arc<ChatMessage>]) {
        self.change(room, |ring| {
            for message in messages {
                ring.push(Arc::clone(message));
            }
        });
    }

    /// Changes a ring, notes that it was used, and cuts off what is too much.
    fn change(&mut self, room: &RoomName, change: impl FnOnce(&mut Ring)) -> Option<&Ring> {
        let Used { ring, last } = self.rings.get_mut(room)?;
        let before = ring.bytes();
        change(ring);
        while ring.messages.len() > self.messages_max || ring.text_bytes > RING_BYTES_MAX {
            ring.pop();
        }
        if let Some(keep_for) = self.keep_for {
            ring.forget_old(Timestamp::now(), keep_for);
        }
        self.bytes = self.bytes + ring.bytes() - before;
        self.uses += 1;
        let name = self.order.remove(last).unwrap_or_else(|| room.clone());
        *last = self.uses;
        self.order.insert(self.uses, name);
        while self.bytes > self.bytes_max && self.order.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            let gone = self.rings.remove(&oldest);
            self.bytes -= gone.map_or(0, |used| used.ring.bytes());
        }
        self.rings.get(room).map(|used| &used.ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Draft, MessageText, Nick};

    fn name(n: usize) -> RoomName {
        RoomName::parse(&format!("r{n}")).expect("a room")
    }

    fn message(room: usize, seq: u64, bytes: usize) -> Arc<ChatMessage> {
        let nick = Nick::parse("ada").expect("a name");
        let text = MessageText::parse("x".repeat(bytes), bytes).expect("a text");
        let draft = Draft { room: name(room), nick, text, attributed: false, origin: None };
        Arc::new(draft.placed(Seq::new(seq), Timestamp::now()))
    }

    fn rings(bytes_max: usize) -> Rings {
        Rings { bytes_max, ..Rings::new(&Config::default()) }
    }

    #[test]
    fn all_rings_together_are_bounded_and_the_one_used_longest_ago_goes() {
        let each = RING_BYTES + 10 * weight(&message(0, 1, 100));
        let mut rings = rings(3 * each);
        let fill = |rings: &mut Rings, room: usize| {
            rings.insert(&name(room), Ring::default());
            let messages: Vec<_> = (1..=10).map(|seq| message(room, seq, 100)).collect();
            rings.push(&name(room), &messages);
        };
        (0..3).for_each(|room| fill(&mut rings, room));
        assert_eq!(rings.bytes, 3 * each);
        assert!(rings.get(&name(0)).is_some());
        fill(&mut rings, 3);
        let left = [0, 1, 2, 3].map(|room| rings.contains(&name(room)));
        assert_eq!(left, [true, false, true, true], "room 1 was used longest ago");
        assert_eq!(rings.bytes, 3 * each);
        assert_eq!(rings.order.len(), 3);
    }

    #[test]
    fn a_ring_with_nothing_in_it_is_forgotten_without_a_trace() {
        let mut rings = rings(RINGS_BYTES_MAX);
        for room in [0, 1] {
            rings.insert(&name(room), Ring::default());
        }
        rings.push(&name(0), &[message(0, 1, 100)]);
        for room in [0, 1, 2] {
            rings.forget_if_empty(&name(room));
        }
        assert_eq!([0, 1].map(|room| rings.contains(&name(room))), [true, false]);
        assert_eq!(rings.bytes, RING_BYTES + weight(&message(0, 1, 100)));
        assert_eq!((rings.rings.len(), rings.order.len()), (1, 1));
    }

    #[test]
    fn one_ring_is_bounded_in_messages_and_bytes_and_knows_how_far_it_reaches() {
        let mut rings = rings(RINGS_BYTES_MAX);
        rings.messages_max = 3;
        rings.insert(&name(0), Ring::default());
        let say = |rings: &mut Rings, seq, bytes| {
            rings.push(&name(0), &[message(0, seq, bytes)]);
            let ring = rings.get(&name(0)).expect("it is there");
            (ring.floor.get(), ring.messages.len())
        };
        let floors = [1, 2, 3, 4].map(|seq| say(&mut rings, seq, 10));
        assert_eq!(floors, [(0, 1), (0, 2), (0, 3), (1, 3)]);
        assert_eq!(say(&mut rings, 5, RING_BYTES_MAX - 10), (3, 2));
        assert_eq!(say(&mut rings, 6, RING_BYTES_MAX), (5, 1));
    }
}
