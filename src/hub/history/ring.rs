//! Recent messages in memory, for clients that join or resume. The messages of one room are its
//! ring. It stays in memory after the room's members have left. All rings together are bounded in
//! bytes: the least recently used one is removed first. If the log keeps messages, a ring is read
//! from there when it is needed again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use crate::config::Config;
use crate::domain::{ChatMessage, RoomName, Seq, Timestamp};

/// The greatest size of the texts in one ring, and the greatest memory of all rings, in bytes.
pub(in crate::hub) const RING_TEXT_BYTES_MAX: usize = 1024 * 1024;
pub(super) const RINGS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// About how much memory a ring takes beside its messages, in bytes.
const RING_OVERHEAD_BYTES: usize = 512;

/// The last messages of a room: all messages after its floor.
#[derive(Default)]
pub(in crate::hub) struct Ring {
    messages: VecDeque<Arc<ChatMessage>>,
    floor: Seq,
    text_bytes: usize,
    /// The memory of all messages, including their texts.
    bytes: usize,
}

impl Ring {
    /// Returns an empty ring. Messages up to `floor` are not in it.
    pub(in crate::hub) fn from(floor: Seq) -> Self {
        Self { floor, ..Self::default() }
    }

    fn push(&mut self, message: Arc<ChatMessage>) {
        self.text_bytes += message.text.as_str().len();
        self.bytes += message.memory_bytes();
        self.messages.push_back(message);
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.messages.pop_front() {
            self.text_bytes -= oldest.text.as_str().len();
            self.bytes -= oldest.memory_bytes();
            self.floor = oldest.seq;
        }
    }

    /// Returns the messages after a sequence number. Returns `None` if some of them are missing.
    pub(in crate::hub) fn after(&self, seq: Seq) -> Option<Vec<Arc<ChatMessage>>> {
        let known = self.messages.partition_point(|message| message.seq <= seq);
        (seq >= self.floor).then(|| self.messages.range(known..).cloned().collect())
    }

    /// Returns the last messages, at most `count`, oldest first.
    pub(in crate::hub) fn latest(&self, count: usize) -> Vec<Arc<ChatMessage>> {
        let skipped = self.messages.len().saturating_sub(count);
        self.messages.range(skipped..).cloned().collect()
    }

    /// Returns the last messages before `before`, at most `limit` and at most `max_bytes` of text
    /// (but the newest of them in any case), and whether the ring has older ones.
    pub(in crate::hub) fn page(
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

    /// Removes messages that are older than `keep_for`.
    fn forget_old(&mut self, now: Timestamp, keep_for: Duration) {
        let horizon = now.minus(keep_for);
        let is_old = |message: &Arc<ChatMessage>| message.at < horizon;
        // A message dated in the future, when the clock was ahead, is removed once a later one is
        // old.
        let may_be_old = |message: &Arc<ChatMessage>| is_old(message) || message.at > now;
        while self.messages.front().is_some_and(may_be_old) && self.messages.iter().any(is_old) {
            self.pop();
        }
    }

    fn bytes(&self) -> usize {
        self.bytes + RING_OVERHEAD_BYTES
    }
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
    pub(in crate::hub) fn new(config: &Config) -> Self {
        Self {
            rings: LruCache::unbounded(),
            bytes: 0,
            messages_max: config.resume_buffer.min(config.keep_messages),
            bytes_max: RINGS_BYTES_MAX,
            keep_for: config.keep_for,
        }
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

    /// Removes a ring without messages.
    pub(in crate::hub) fn remove_if_empty(&mut self, room: &RoomName) {
        if self.rings.peek(room).is_some_and(|ring| ring.messages.is_empty())
            && let Some(ring) = self.rings.pop(room)
        {
            self.bytes -= ring.bytes();
        }
    }

    /// Adds messages to the ring of a room, if there is one.
    pub(in crate::hub) fn push(&mut self, room: &RoomName, messages: &[Arc<ChatMessage>]) {
        self.change(room, |ring| {
            for message in messages {
                ring.push(Arc::clone(message));
            }
        });
    }

    /// Changes a ring, marks it as used and applies all limits.
    fn change(&mut self, room: &RoomName, change: impl FnOnce(&mut Ring)) -> Option<&Ring> {
        let ring = self.rings.get_mut(room)?;
        let before = ring.bytes();
        change(ring);
        while ring.messages.len() > self.messages_max || ring.text_bytes > RING_TEXT_BYTES_MAX {
            ring.pop();
        }
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
    fn all_rings_are_bounded_together_and_the_least_recently_used_one_is_removed() {
        let each = RING_OVERHEAD_BYTES + 10 * message(0, 1, 100).memory_bytes();
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
        assert_eq!(rings.rings.len(), 3);
    }

    #[test]
    fn empty_ring_is_removed_completely() {
        let mut rings = rings(RINGS_BYTES_MAX);
        for room in [0, 1] {
            rings.insert(&name(room), Ring::default());
        }
        rings.push(&name(0), &[message(0, 1, 100)]);
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
            rings.push(&name(0), &[message(0, seq, bytes)]);
            let ring = rings.get(&name(0)).expect("it is there");
            (ring.floor.get(), ring.messages.len())
        };
        let floors = [1, 2, 3, 4].map(|seq| say(&mut rings, seq, 10));
        assert_eq!(floors, [(0, 1), (0, 2), (0, 3), (1, 3)]);
        assert_eq!(say(&mut rings, 5, RING_TEXT_BYTES_MAX - 10), (3, 2));
        assert_eq!(say(&mut rings, 6, RING_TEXT_BYTES_MAX), (5, 1));
    }
}
