//! A log that is kept nowhere: it counts places, and knows again what was said twice.

use std::collections::{HashMap, VecDeque};

use super::Placed;
use crate::domain::{Draft, Origin, RoomName, Seq, Timestamp};

/// How many messages are known again: those said last.
const ORIGINS_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Memory {
    head: Seq,
    known: HashMap<(RoomName, Origin), Seq>,
    /// The same, oldest first.
    order: VecDeque<(RoomName, Origin)>,
}

impl Memory {
    pub(super) fn append(&mut self, drafts: &[Draft]) -> Vec<Placed> {
        let at = Timestamp::now();
        drafts
            .iter()
            .map(|draft| match &draft.origin {
                None => self.place(at),
                Some(origin) => {
                    let origin = (draft.room.clone(), origin.clone());
                    if let Some(&seq) = self.known.get(&origin) {
                        return Placed::Duplicate(seq);
                    }
                    let placed = self.place(at);
                    self.know(origin);
                    placed
                }
            })
            .collect()
    }

    fn place(&mut self, at: Timestamp) -> Placed {
        self.head = self.head.next();
        Placed::New(self.head, at)
    }

    fn know(&mut self, origin: (RoomName, Origin)) {
        self.known.insert(origin.clone(), self.head);
        self.order.push_back(origin);
        if self.order.len() > ORIGINS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
