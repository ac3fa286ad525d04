//! The ids by which duplicates are recognized.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::domain::{Draft, Identity, MessageId, RoomName, Seq, Timestamp};
use crate::log::rules;

/// Identifies a draft: a second draft with the same `DraftId` is a duplicate.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DraftId {
    room: RoomName,
    author: Identity,
    id: MessageId,
}

impl DraftId {
    /// Returns the id of a draft. `None` if the draft has no id or no author.
    pub(super) fn of(draft: &Draft) -> Option<Self> {
        let (author, id) = (draft.author?, draft.id.clone()?);
        Some(Self { room: draft.room.clone(), author, id })
    }
}

/// The recognized ids, with the sequence numbers of their entries.
#[derive(Default)]
pub(super) struct Ids {
    places: HashMap<Arc<DraftId>, Seq>,
    /// The released ids, by the time of their entries: those of changes and of pruned messages.
    /// They are forgotten when they are not recent any more.
    temporary: BTreeMap<(Timestamp, Seq), Arc<DraftId>>,
}

impl Ids {
    pub(super) fn find(&self, id: &DraftId) -> Option<Seq> {
        self.places.get(id).copied()
    }

    /// Adds an id, which is recognized until it is released.
    pub(super) fn insert(&mut self, id: Arc<DraftId>, seq: Seq) {
        self.places.insert(id, seq);
    }

    /// Releases the id of a draft that was committed at `at`: it is forgotten as soon as it is not
    /// recent any more.
    pub(super) fn release(&mut self, id: Arc<DraftId>, at: Timestamp, seq: Seq, latest: Timestamp) {
        if rules::is_recent(at, latest) {
            self.temporary.insert((at, seq), id);
        } else {
            self.places.remove(&id);
        }
    }

    /// Forgets released ids that are not recent any more.
    pub(super) fn forget_old(&mut self, latest: Timestamp) {
        while let Some(oldest) = self.temporary.first_entry()
            && !rules::is_recent(oldest.key().0, latest)
        {
            self.places.remove(&oldest.remove());
        }
    }

    /// Forgets the oldest released ids until at most `most` are left.
    pub(super) fn limit(&mut self, most: usize) {
        while self.temporary.len() > most
            && let Some((_, id)) = self.temporary.pop_first()
        {
            self.places.remove(&id);
        }
    }
}
