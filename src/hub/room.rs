//! A room: who is in it, what is about to be flushed, what was said of late.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Client;
use crate::domain::{ChatMessage, ClientId, Nick};

/// The most that a room remembers, in bytes of text, whatever the number of messages: 1 MiB.
const MAX_RECENT_BYTES: usize = 1024 * 1024;

/// A room with at least one member, or one that is about to get its first.
pub(super) struct Room {
    pub(super) members: HashMap<ClientId, Rc<Client>>,
    /// How many members bear each name that was chosen, by the form in which names are compared:
    /// kept, since a sender must not be able to make the hub look through all members at every
    /// message.
    names: HashMap<String, usize>,
    pub(super) pending: Vec<Arc<ChatMessage>>,
    pub(super) pending_bytes: usize,
    /// Permits of senders that wait for the next flush: those who filled the batch.
    pub(super) unaccepted: Vec<OwnedSemaphorePermit>,
    pub(super) next_flush: Instant,
    pub(super) scheduled: bool,
    recent: VecDeque<Arc<ChatMessage>>,
    recent_bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            members: HashMap::new(),
            names: HashMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            unaccepted: Vec::new(),
            next_flush: Instant::now(),
            scheduled: false,
            recent: VecDeque::new(),
            recent_bytes: 0,
        }
    }
}

impl Room {
    pub(super) fn join(&mut self, id: ClientId, client: Rc<Client>) {
        if !client.nick.is_anonymous() {
            *self.names.entry(client.nick.key().to_owned()).or_default() += 1;
        }
        self.members.insert(id, client);
    }

    pub(super) fn leave(&mut self, id: ClientId) {
        let Some(client) = self.members.remove(&id) else { return };
        if let Entry::Occupied(mut bearers) = self.names.entry(client.nick.key().to_owned()) {
            *bearers.get_mut() -= 1;
            if *bearers.get() == 0 {
                bearers.remove();
            }
        }
    }

    /// Puts a message by for the next flush.
    pub(super) fn push(&mut self, message: ChatMessage) {
        self.pending_bytes += message.text.as_str().len();
        self.pending.push(Arc::new(message));
    }

    /// Takes what is pending, and lets go of those who wait for that.
    pub(super) fn take_pending(&mut self) -> Vec<Arc<ChatMessage>> {
        self.pending_bytes = 0;
        self.scheduled = false;
        self.unaccepted.clear();
        std::mem::take(&mut self.pending)
    }

    /// Whether a line of this text, written without its author's name, would read as if somebody
    /// in the room had said it.
    pub(super) fn reads_as_a_members(&self, text: &str) -> bool {
        Nick::key_claimed_by(text).is_some_and(|key| {
            key.starts_with(Nick::ANONYMOUS_PREFIX) || self.names.contains_key(&key)
        })
    }

    /// Keeps messages for those who come later, at most `limit` in all.
    pub(super) fn remember(&mut self, messages: &[Arc<ChatMessage>], limit: usize) {
        for message in messages {
            self.recent_bytes += message.text.as_str().len();
            self.recent.push_back(Arc::clone(message));
        }
        while self.recent.len() > limit || self.recent_bytes > MAX_RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes -= oldest.text.as_str().len();
        }
    }

    /// The last messages, at most `count`, oldest first.
    pub(super) fn recent(&self, count: usize) -> Vec<Arc<ChatMessage>> {
        let skipped = self.recent.len().saturating_sub(count);
        self.recent.iter().skip(skipped).cloned().collect()
    }
}
