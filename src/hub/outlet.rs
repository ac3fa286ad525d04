//! The way from the hub to one client: bounded in batches by the client's mailbox, in bytes by a
//! count of what waits in it, and with the power to end a connection that does not let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;

use super::Deliver;
use crate::admission::Source;
use crate::socket::{Cutoff, DisconnectReason};

/// Where the hub delivers for a client. An actor of another crate's registers with its recipient
/// `.into()` this; it is then bounded by its mailbox alone.
#[derive(Debug)]
pub struct Outlet {
    /// Never cloned: each clone would have a place in the mailbox of its own, past the limit
    /// (actix#329).
    to: Recipient<Deliver>,
    budget: Option<QueueBudget>,
    /// The address of its peer, if it is one of ours.
    source: Option<Source>,
    cutoff: Cutoff,
}

impl From<Recipient<Deliver>> for Outlet {
    fn from(to: Recipient<Deliver>) -> Self {
        Self { to, budget: None, source: None, cutoff: Cutoff::default() }
    }
}

impl Outlet {
    pub(crate) fn new(
        to: Recipient<Deliver>,
        budget: QueueBudget,
        cutoff: Cutoff,
        source: Source,
    ) -> Self {
        Self { to, budget: Some(budget), source: Some(source), cutoff }
    }

    /// The address of the client, if it has one.
    pub(super) fn source(&self) -> Option<Source> {
        self.source
    }

    /// Tells the client in how many rooms it is.
    pub(super) fn is_in_rooms(&self, rooms: usize) {
        if let Some(budget) = &self.budget {
            budget.shared.rooms.store(rooms, Ordering::Relaxed);
        }
    }

    /// Tells the session in how many rooms a change of name had to be made.
    pub(super) fn renamed_rooms(&self, rooms: usize) {
        if let Some(budget) = &self.budget {
            budget.shared.renamed.store(rooms, Ordering::Relaxed);
        }
    }

    /// Delivers, or says why not.
    pub(super) fn deliver(&self, deliver: Deliver) -> Result<(), DisconnectReason> {
        let bytes = deliver.bytes();
        if self.budget.as_ref().is_some_and(|budget| !budget.add(bytes)) {
            return Err(DisconnectReason::SlowClient);
        }
        self.to.try_send(deliver).map_err(|refused| match refused {
            SendError::Full(_) => DisconnectReason::SlowClient,
            SendError::Closed(_) => DisconnectReason::Dropped,
        })
    }

    /// What waits for the client to take it, in bytes, as far as that is counted.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.budget.as_ref().map_or(0, |budget| budget.shared.bytes.load(Ordering::Relaxed))
    }

    /// Orders the client to close. The order goes past the limit of the mailbox, behind all that
    /// waits in it; where it is not obeyed in time, the connection is cut off.
    pub(super) fn close(&self, reason: DisconnectReason) {
        self.to.do_send(Deliver::Close(reason));
        self.cutoff.arm();
    }
}

/// What a session and the hub share: the bytes that wait in the session's mailbox, which the hub
/// counts in and the session out, and in how many rooms the client and its identity are.
#[derive(Clone, Debug)]
pub(crate) struct QueueBudget {
    shared: Arc<Shared>,
    max: usize,
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    rooms: AtomicUsize,
    renamed: AtomicUsize,
}

impl QueueBudget {
    pub(crate) fn at_most(max: usize) -> Self {
        Self { shared: Arc::default(), max }
    }

    /// Counts in, unless that would be too much. What is too much by itself may wait alone.
    fn add(&self, bytes: usize) -> bool {
        let before = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= self.max;
        if !fits {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// In how many rooms the client is, as the hub last said.
    pub(crate) fn rooms(&self) -> usize {
        self.shared.rooms.load(Ordering::Relaxed)
    }

    /// The number of rooms in which the last change of name had to be made: those of all clients of
    /// the identity.
    pub(crate) fn renamed_rooms(&self) -> usize {
        self.shared.renamed.load(Ordering::Relaxed)
    }

    /// Counts out what a session takes from its mailbox.
    pub(crate) fn taken(&self, deliver: &Deliver) {
        self.shared.bytes.fetch_sub(deliver.bytes(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_up_to_the_limit_and_what_is_longer_waits_alone() {
        let budget = QueueBudget::at_most(10);
        assert!(budget.add(4));
        assert!(budget.add(6));
        assert!(!budget.add(1));
        budget.shared.bytes.fetch_sub(10, Ordering::Relaxed);
        assert!(budget.add(11));
        assert!(!budget.add(1));
    }
}
