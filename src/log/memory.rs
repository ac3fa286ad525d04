//! A log that keeps no messages: it assigns sequence numbers and recognizes repeated messages. Only
//! the hub's rings remember recent messages.

use actix::prelude::*;
use lru::LruCache;

use super::{Append, Appended, LogBackend, Messages, Page, Paged, Placed, Probe};
use crate::domain::{Draft, Origin, RoomName, Seq, Timestamp};

/// How many of the last messages with an id are recognized.
const ORIGINS_MAX: usize = 65_536;

/// Of how many rooms the last sequence number is known.
const ROOMS_MAX: usize = 65_536;

/// The log of a hub without a file.
pub(crate) struct MemoryLog {
    head: Seq,
    origins: LruCache<(RoomName, Origin), Seq>,
    /// The last sequence number of each room.
    rooms: LruCache<RoomName, Seq>,
    /// The greatest number that was removed from `rooms`.
    forgotten: Seq,
}

impl Default for MemoryLog {
    fn default() -> Self {
        // Unbounded caches allocate as they grow. The bounds are applied in `place`.
        let (origins, rooms) = (LruCache::unbounded(), LruCache::unbounded());
        Self { head: Seq::default(), origins, rooms, forgotten: Seq::default() }
    }
}

impl MemoryLog {
    fn place(&mut self, drafts: &[Draft]) -> Vec<Placed> {
        let at = Timestamp::now();
        let placed = drafts.iter().map(|draft| {
            let origin = draft.origin.clone().map(|origin| (draft.room.clone(), origin));
            if let Some(&seq) = origin.as_ref().and_then(|origin| self.origins.peek(origin)) {
                return Placed::Duplicate(seq);
            }
            self.head = self.head.next();
            if let Some(origin) = origin {
                self.origins.push(origin, self.head);
                if self.origins.len() > ORIGINS_MAX {
                    self.origins.pop_lru();
                }
            }
            self.rooms.push(draft.room.clone(), self.head);
            if self.rooms.len() > ROOMS_MAX
                && let Some((_, last)) = self.rooms.pop_lru()
            {
                self.forgotten = self.forgotten.max(last);
            }
            Placed::New(self.head, at)
        });
        placed.collect()
    }

    /// Returns a page without messages. Its floor is the last message of the room before `before`,
    /// or a later one.
    fn empty_page(&self, room: &RoomName, before: Seq) -> Messages {
        let last = self.rooms.peek(room).copied().unwrap_or(self.forgotten);
        let end = Seq::new(before.get().saturating_sub(1));
        Messages { floor: last.min(end), ..Messages::default() }
    }
}

impl LogBackend for MemoryLog {
    fn append(&mut self, Append { drafts, mut answer }: Append) -> Option<Appended> {
        answer.cancel();
        let placed = self.place(&drafts);
        Some(Appended { drafts, outcome: Ok(placed) })
    }

    fn page(&mut self, Page { room, before, mut answer, .. }: Page) -> Option<Paged> {
        let Paged { request, .. } = answer.cancel()?;
        Some(Paged { request, outcome: Ok(self.empty_page(&room, before)) })
    }

    fn probe(&self) -> Option<Recipient<Probe>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClientId, Identity, MessageId, MessageText, Nick};

    fn draft(room: &str, id: Option<&str>) -> Draft {
        let author = Identity::of_key("a key of sixteen or more").expect("a key");
        let id = id.map(|id| MessageId::parse(id).expect("an id"));
        Draft {
            room: RoomName::parse(room).expect("a room"),
            nick: Nick::anonymous(ClientId::next()),
            text: MessageText::parse("hello", 5).expect("a text"),
            attributed: false,
            origin: id.map(|id| Origin { author, id }),
        }
    }

    fn seqs(placed: Vec<Placed>) -> Vec<(u64, bool)> {
        let seq = |placed| match placed {
            Placed::New(seq, _) => (seq.get(), true),
            Placed::Duplicate(seq) => (seq.get(), false),
        };
        placed.into_iter().map(seq).collect()
    }

    #[test]
    fn repeated_message_is_a_duplicate_only_in_its_room() {
        let mut log = MemoryLog::default();
        let drafts =
            [draft("a", Some("x")), draft("a", None), draft("b", Some("x")), draft("a", Some("x"))];
        assert_eq!(seqs(log.place(&drafts)), [(1, true), (2, true), (3, true), (1, false)]);
    }

    #[test]
    fn floor_is_the_last_message_of_the_room_before_the_page() {
        let mut log = MemoryLog::default();
        log.place(&[draft("a", None), draft("b", None), draft("a", None)]);
        let floor = |log: &MemoryLog, room: &str, before| {
            let room = RoomName::parse(room).expect("a room");
            log.empty_page(&room, Seq::new(before)).floor.get()
        };
        assert_eq!(floor(&log, "a", 4), 3);
        assert_eq!(floor(&log, "a", 3), 2);
        assert_eq!(floor(&log, "b", 4), 2);
        assert_eq!(floor(&log, "silent", 4), 0);
        // The rooms that were used longest ago are forgotten.
        let drafts: Vec<_> = (0..ROOMS_MAX).map(|n| draft(&format!("r{n}"), None)).collect();
        log.place(&drafts);
        assert_eq!(log.rooms.len(), ROOMS_MAX);
        assert_eq!(floor(&log, "a", u64::MAX), 3);
        assert_eq!(floor(&log, "silent", u64::MAX), 3);
    }
}
