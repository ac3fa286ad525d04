//! What a node knows of another one: up to which change it knows the users of that node.

use std::time::{Duration, Instant};

use super::packet::{ChangeLine, UserLine};
use crate::domain::NodeMark;

/// The pause before a node is asked again for its users.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The greatest number of parts of a state. A node cannot send more at a time.
const PARTS_MAX: usize = super::QUEUE;

/// Another node.
#[derive(Debug)]
pub(super) struct Peer {
    /// The number of the last packet with changes that was applied.
    n: u64,
    /// Whether no packet was missed.
    is_current: bool,
    /// The parts of a state that were received.
    parts: Option<Parts>,
    /// When the node was last heard.
    pub(super) heard: Instant,
    /// When it was last asked for its users.
    asked: Option<Instant>,
    /// The node's mark in generated names.
    pub(super) mark: Option<NodeMark>,
}

/// The first parts of a state.
#[derive(Debug)]
struct Parts {
    n: u64,
    next: usize,
    users: Vec<UserLine>,
}

impl Peer {
    pub(super) fn new(now: Instant) -> Self {
        let (parts, asked, mark) = (None, None, None);
        Self { n: 0, is_current: true, parts, heard: now, asked, mark }
    }

    /// Takes the number of the last packet with changes.
    pub(super) fn take_heartbeat(&mut self, n: u64) {
        self.is_current &= n == self.n;
    }

    /// Takes a packet with changes. Returns the changes if they are the next ones.
    pub(super) fn take_changes(
        &mut self,
        n: u64,
        changes: Vec<ChangeLine>,
    ) -> Option<Vec<ChangeLine>> {
        if n <= self.n {
            return None;
        }
        self.is_current &= n == self.n + 1;
        if !self.is_current {
            return None;
        }
        self.n = n;
        Some(changes)
    }

    /// Takes a part of a state. Returns all users if it is the last part of a state that is needed.
    pub(super) fn take_state(
        &mut self,
        n: u64,
        part: usize,
        parts: usize,
        users: Vec<UserLine>,
    ) -> Option<Vec<UserLine>> {
        if self.is_current && n <= self.n || parts > PARTS_MAX {
            self.parts = None;
            return None;
        }
        let mut received = match self.parts.take() {
            _ if part == 0 => Parts { n, next: 0, users: Vec::new() },
            Some(received) if received.n == n && received.next == part => received,
            // A part is missing.
            Some(_) | None => return None,
        };
        received.users.extend(users);
        received.next += 1;
        if received.next < parts {
            self.parts = Some(received);
            return None;
        }
        (self.n, self.is_current, self.asked) = (n, true, None);
        Some(received.users)
    }

    /// Returns whether to ask the node for its users now.
    pub(super) fn must_ask(&mut self, now: Instant) -> bool {
        let is_early = self.asked.is_some_and(|asked| now.duration_since(asked) < ASK_AGAIN);
        let must_ask = !self.is_current && !is_early;
        if must_ask {
            self.asked = Some(now);
        }
        must_ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::new(Instant::now())
    }

    #[test]
    fn changes_are_applied_only_in_order_and_a_gap_asks_for_the_state() {
        let mut peer = peer();
        assert!(!peer.must_ask(Instant::now()));
        assert!(peer.take_changes(1, Vec::new()).is_some());
        assert!(peer.take_changes(1, Vec::new()).is_none(), "a repetition");
        assert!(!peer.must_ask(Instant::now()));
        assert!(peer.take_changes(3, Vec::new()).is_none());
        assert!(peer.take_changes(4, Vec::new()).is_none());
        let now = Instant::now();
        assert!(peer.must_ask(now));
        assert!(!peer.must_ask(now), "it was asked just now");
        assert!(peer.must_ask(now + ASK_AGAIN));
        // A state from before the gap ended.
        assert!(peer.take_state(3, 0, 1, Vec::new()).is_some());
        assert!(peer.take_changes(4, Vec::new()).is_some());
        assert!(!peer.must_ask(now + 9 * ASK_AGAIN));
    }

    #[test]
    fn heartbeat_shows_that_the_last_changes_were_missed() {
        let mut peer = peer();
        peer.take_heartbeat(0);
        assert!(!peer.must_ask(Instant::now()));
        peer.take_heartbeat(1);
        assert!(peer.must_ask(Instant::now()));
    }

    #[test]
    fn state_counts_only_with_all_its_parts() {
        let mut peer = peer();
        peer.take_heartbeat(7);
        assert!(peer.take_state(7, 1, 3, Vec::new()).is_none());
        assert!(peer.take_state(7, 0, 3, Vec::new()).is_none());
        assert!(peer.take_state(7, 2, 3, Vec::new()).is_none());
        assert!(peer.take_state(7, 0, 3, Vec::new()).is_none());
        assert!(peer.take_state(7, 1, 3, Vec::new()).is_none());
        assert!(peer.take_state(8, 2, 3, Vec::new()).is_none(), "a part of another state");
        for part in 0..2 {
            assert!(peer.take_state(8, part, 3, Vec::new()).is_none());
        }
        assert!(peer.take_state(8, 2, 3, Vec::new()).is_some());
        assert!(peer.take_state(8, 0, 1, Vec::new()).is_none(), "it is known already");
        assert!(peer.take_changes(9, Vec::new()).is_some());
    }

    #[test]
    fn parts_of_a_state_without_an_end_are_not_kept() {
        let mut peer = peer();
        peer.take_heartbeat(7);
        assert!(peer.take_state(7, 0, PARTS_MAX + 1, Vec::new()).is_none());
        assert!(peer.parts.is_none());
        assert!(peer.take_state(7, 0, PARTS_MAX, Vec::new()).is_none());
        assert!(peer.parts.is_some());
    }
}
