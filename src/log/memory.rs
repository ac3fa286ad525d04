//! A log that keeps no messages: it assigns sequence numbers and recognizes repeated messages. Only
//! the hub's rings remember recent messages.

use actix::prelude::*;
use lru::LruCache;

use super::{Append, Appended, LogBackend, Messages, Page, Paged, Placed, Probe};
use crate::domain::{Draft, Origin, RoomName, Seq, Timestamp};

/// How many of the last messages with an id are recognized.
const ORIGINS_MAX: usize = 65_536;

/// The log of a hub without a file.
pub(crate) struct MemoryLog {
    head: Seq,
    origins: LruCache<(RoomName, Origin), Seq>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        // An unbounded cache allocates as it grows. `place` applies the bound.
        Self { head: Seq::default(), origins: LruCache::unbounded() }
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
            Placed::New(self.head, at)
        });
        placed.collect()
    }
}

impl LogBackend for MemoryLog {
    fn append(&mut self, Append { drafts, mut answer }: Append) -> Option<Appended> {
        answer.cancel();
        let placed = self.place(&drafts);
        Some(Appended { drafts, outcome: Ok(placed) })
    }

    fn page(&mut self, Page { before, mut answer, .. }: Page) -> Option<Paged> {
        let Paged { request, .. } = answer.cancel()?;
        let floor = Seq::new(before.get().saturating_sub(1));
        Some(Paged { request, outcome: Ok(Messages { floor, ..Messages::default() }) })
    }

    fn keeps_messages(&self) -> bool {
        false
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
}
