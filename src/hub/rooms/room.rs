//! A room: its members, and the messages that wait for its flush. Who its users are is in the
//! [`roster`](super::roster).

use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::membership::Joining;
use crate::domain::{ClientId, Entry};
use crate::hub::ClientHandle;
use crate::hub::history::History;
use crate::hub::publish::{Flush, Pending};
use crate::limits::SourceAddress;

/// An open room: it has members, clients that join, or messages that are not committed yet.
pub(in crate::hub) struct Room {
    /// The address of the client that opened it. None if the server or another crate did.
    pub(super) opener: Option<SourceAddress>,
    pub(in crate::hub) members: HashMap<ClientId, Rc<ClientHandle>>,
    /// Clients that join as soon as the ring is filled.
    pub(in crate::hub) joining: Vec<Joining>,
    /// Entries that were delivered after the read for the ring began.
    pub(in crate::hub) delivered_since: Vec<Entry>,
    /// Committed entries that are not delivered yet.
    pub(in crate::hub) undelivered: Vec<Entry>,
    pub(in crate::hub) pending: Vec<Pending>,
    pub(in crate::hub) pending_bytes: usize,
    /// Requests for history that came after a pending message.
    pub(in crate::hub) history_requests: Vec<History>,
    /// Permits of messages beyond what a room may hold. They are released by the next flush.
    pub(in crate::hub) permits: Vec<OwnedSemaphorePermit>,
    pub(in crate::hub) next_flush: Instant,
    /// Whether the flush is scheduled, or the room waits for the log.
    pub(in crate::hub) scheduled: bool,
    /// Whether messages of the room are in the append in flight.
    pub(in crate::hub) in_flight: bool,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            opener: None,
            members: HashMap::new(),
            joining: Vec::new(),
            delivered_since: Vec::new(),
            undelivered: Vec::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            history_requests: Vec::new(),
            permits: Vec::new(),
            next_flush: Instant::now(),
            scheduled: false,
            in_flight: false,
        }
    }
}

impl Room {
    pub(super) fn opened_by(opener: Option<SourceAddress>) -> Self {
        Self { opener, ..Self::default() }
    }

    /// Returns another address that has a client in the room, unless `opener` still has one.
    pub(super) fn successor(&self, opener: SourceAddress) -> Option<SourceAddress> {
        let mut successor = None;
        for address in self.members.values().filter_map(|member| member.address()) {
            if address == opener {
                return None;
            }
            successor = Some(address);
        }
        successor
    }

    /// Adds a pending message. Returns the length of its text in bytes.
    pub(in crate::hub) fn push(&mut self, pending: Pending) -> usize {
        let bytes = pending.draft.action.text_bytes();
        self.pending_bytes += bytes;
        self.pending.push(pending);
        bytes
    }

    /// Takes the pending messages, and releases the permits of senders that wait.
    pub(in crate::hub) fn take_pending(&mut self) -> Flush {
        self.pending_bytes = 0;
        self.scheduled = false;
        self.permits.clear();
        let (pending, history_requests) = (&mut self.pending, &mut self.history_requests);
        Flush {
            pending: std::mem::take(pending),
            history_requests: std::mem::take(history_requests),
        }
    }

    /// Discards undelivered entries, and the joins that wait for the ring.
    pub(in crate::hub) fn forget_entries(&mut self) {
        self.joining.clear();
        self.delivered_since.clear();
        self.undelivered.clear();
    }

    /// Returns whether the room has no members, nobody joins, and all entries are delivered.
    pub(super) fn is_idle(&self) -> bool {
        let is_empty = self.members.is_empty() && self.joining.is_empty();
        is_empty && self.pending.is_empty() && !self.in_flight && self.undelivered.is_empty()
    }
}
