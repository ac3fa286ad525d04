//! A room: its members, their names, and the messages that wait for its flush.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::membership::Joining;
use super::presence::PresenceDelta;
use crate::domain::{ClientId, Entry, Identity, Nick};
use crate::hub::ClientHandle;
use crate::hub::history::History;
use crate::hub::publish::{Flush, Pending};
use crate::limits::SourceAddress;

/// An open room: it has members, clients that join, or messages that are not committed yet.
pub(in crate::hub) struct Room {
    /// The address of the client that opened it. None if the server or another crate did.
    pub(super) opener: Option<SourceAddress>,
    pub(in crate::hub) members: HashMap<ClientId, Rc<ClientHandle>>,
    /// The users of the members.
    pub(super) users: HashSet<Identity>,
    /// The owner of each chosen name, keyed by both comparison forms ([`Nick::forms`]).
    names: HashMap<String, Identity>,
    pub(super) presence: PresenceDelta,
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
            users: HashSet::new(),
            names: HashMap::new(),
            presence: PresenceDelta::default(),
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

    /// Adds a user whose first client has joined.
    pub(super) fn add_user(&mut self, who: Identity, nick: &Nick) {
        self.users.insert(who);
        self.take_name(who, nick);
        self.presence.joined(who, nick);
    }

    /// Removes a user whose last client has left.
    pub(super) fn remove_user(&mut self, who: Identity, nick: &Nick) {
        self.users.remove(&who);
        self.release_name(who, nick);
        self.presence.left(who, nick);
    }

    /// Changes the name of a user.
    pub(in crate::hub) fn rename(&mut self, who: Identity, before: &Nick, after: &Nick) {
        self.release_name(who, before);
        self.take_name(who, after);
        self.presence.renamed(who, before);
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

    /// Returns the users who have this name or one that looks alike. The two forms of a name may
    /// belong to two users. Names that the server gave have no owner.
    pub(in crate::hub) fn owners_of<'a>(
        &'a self,
        nick: &'a Nick,
    ) -> impl Iterator<Item = Identity> + use<'a> {
        let forms = Self::chosen(nick).into_iter().flatten();
        forms.filter_map(|form| self.names.get(form)).copied()
    }

    fn take_name(&mut self, who: Identity, nick: &Nick) {
        for form in Self::chosen(nick).into_iter().flatten() {
            self.names.entry(form.to_owned()).or_insert(who);
        }
    }

    fn release_name(&mut self, who: Identity, nick: &Nick) {
        for form in Self::chosen(nick).into_iter().flatten() {
            if self.names.get(form) == Some(&who) {
                self.names.remove(form);
            }
        }
    }

    /// Returns the forms of a name, unless the server gave it.
    fn chosen(nick: &Nick) -> Option<[&str; 2]> {
        (!nick.is_anonymous()).then(|| nick.forms())
    }

    /// Returns whether a line with this text and without its author's name could be read as a
    /// message of a member.
    pub(in crate::hub) fn could_be_from_a_member(&self, text: &str) -> bool {
        Nick::forms_claimed_by(text).iter().any(|forms| {
            Nick::is_reserved(forms) || forms.iter().any(|form| self.names.contains_key(form))
        })
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
