//! The way from the hub to one client: bounded in batches by the client's mailbox, in bytes by a
//! count of what waits in it, and with the power to end a connection that does not let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;

use super::Deliver;
use crate::socket::{Cutoff, DisconnectReason};

/// Where the hub delivers for a client. An actor of another crate's registers with its recipient
/// `.into()` this; it is then bounded by its mailbox alone.
#[derive(Debug)]
pub struct Outlet {
    /// Never cloned: each clone would have a place in the mailbox of its own, past the limit
    /// (actix#329).
    to: Recipient<Deliver>,
    waiting: Option<Waiting>,
    cutoff: Cutoff,
}

impl From<Recipient<Deliver>> for Outlet {
    fn from(to: Recipient<Deliver>) -> Self {
        Self { to, waiting: None, cutoff: Cutoff::default() }
    }
}

impl Outlet {
    pub(crate) fn new(to: Recipient<Deliver>, waiting: Waiting, cutoff: Cutoff) -> Self {
        Self { to, waiting: Some(waiting), cutoff }
    }

    /// Delivers, or says why not.
    pub(super) fn deliver(&self, deliver: Deliver) -> Result<(), DisconnectReason> {
        let bytes = deliver.bytes();
        if self.waiting.as_ref().is_some_and(|waiting| !waiting.add(bytes)) {
            return Err(DisconnectReason::SlowClient);
        }
        self.to.try_send(deliver).map_err(|refused| match refused {
            SendError::Full(_) => DisconnectReason::SlowClient,
            SendError::Closed(_) => DisconnectReason::Dropped,
        })
    }

    /// What waits for the client to take it, in bytes, as far as that is counted.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.bytes.load(Ordering::Relaxed))
    }

    /// Orders the client to close. The order goes past the limit of the mailbox, behind all that
    /// waits in it; where it is not obeyed in time, the connection is cut off.
    pub(super) fn close(&self, reason: DisconnectReason) {
        self.to.do_send(Deliver::Close(reason));
        self.cutoff.arm();
    }
}

/// The bytes that wait in a session's mailbox: the hub counts them in, the session out.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    bytes: Arc<AtomicUsize>,
    max: usize,
}

impl Waiting {
    pub(crate) fn at_most(max: usize) -> Self {
        Self { bytes: Arc::default(), max }
    }

    /// Counts in, unless that would be too much. What is too much by itself may wait alone.
    fn add(&self, bytes: usize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= self.max;
        if !fits {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Counts out what a session takes from its mailbox.
    pub(crate) fn taken(&self, deliver: &Deliver) {
        self.bytes.fetch_sub(deliver.bytes(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_up_to_the_limit_and_what_is_longer_waits_alone() {
        let waiting = Waiting::at_most(10);
        assert!(waiting.add(4));
        assert!(waiting.add(6));
        assert!(!waiting.add(1));
        waiting.bytes.fetch_sub(10, Ordering::Relaxed);
        assert!(waiting.add(11));
        assert!(!waiting.add(1));
    }
}
