//! The ids by which repeated drafts are recognized.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::domain::{Draft, Identity, MessageId, RoomName, Seq, Timestamp};
use crate::log::rules;

/// Identifies a draft: two drafts with the same `DraftId` are the same.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DraftId {
    room: RoomName,
    author: Identity,
    id: MessageId,
}

impl DraftId {
    /// Returns the id of a draft that has one, and an author.
    pub(super) fn of(draft: &Draft) -> Option<Self> {
        let (author, id) = (draft.author?, draft.id.clone()?);
        Some(Self { room: draft.room.clone(), author, id })
    }
}

/// All ids that are recognized, with their sequence numbers.
#[derive(Default)]
pub(super) struct Ids {
    places: HashMap<Arc<DraftId>, Seq>,
    /// The ids that are forgotten after some time, by their time: those of changes and of messages
    /// that are not kept any more.
    temporary: BTreeMap<(Timestamp, Seq), Arc<DraftId>>,
}

impl Ids {
    pub(super) fn find(&self, id: &DraftId) -> Option<Seq> {
        self.places.get(id).copied()
    }

    /// Adds an id until it is released.
    pub(super) fn insert(&mut self, id: Arc<DraftId>, seq: Seq) {
        self.places.insert(id, seq);
    }

    /// Forgets the id of a draft that was committed at `at`, as soon as it is not recent any more.
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

    /// Forgets the oldest released ids that are too many.
    pub(super) fn limit(&mut self, most: usize) {
        while self.temporary.len() > most
            && let Some((_, id)) = self.temporary.pop_first()
        {
            self.places.remove(&id);
        }
    }
}
