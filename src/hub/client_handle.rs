//! The hub's handle of a client: its bounded send queue, and the power to close the connection.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use actix::prelude::*;

use super::Deliver;
use crate::limits::SourceAddress;
use crate::protocol::DisconnectReason;
use crate::websocket::{Budget, ForceClose};

/// Where the hub delivers to a client. An actor of another crate registers with its recipient
/// converted by `into()`. Then only its mailbox bounds the queue.
#[derive(Debug)]
pub struct ClientHandle {
    /// Never cloned: each clone could exceed the mailbox's limit by one (actix#329).
    to: Recipient<Deliver>,
    budget: Option<QueueBudget>,
    /// The client's address. None for actors of other crates.
    address: Option<SourceAddress>,
    force_close: ForceClose,
    /// The hub's last round with a batch for this client, and the number of batches in it.
    batches: Cell<(u32, u32)>,
}

impl From<Recipient<Deliver>> for ClientHandle {
    fn from(to: Recipient<Deliver>) -> Self {
        let (force_close, batches) = (ForceClose::default(), Cell::default());
        Self { to, budget: None, address: None, force_close, batches }
    }
}

impl ClientHandle {
    pub(crate) fn new(
        to: Recipient<Deliver>,
        budget: QueueBudget,
        force_close: ForceClose,
        address: SourceAddress,
    ) -> Self {
        let (budget, address) = (Some(budget), Some(address));
        Self { to, budget, address, force_close, batches: Cell::default() }
    }

    pub(super) fn address(&self) -> Option<SourceAddress> {
        self.address
    }

    /// Tells the session the number of the client's rooms.
    pub(super) fn set_rooms(&self, rooms: usize) {
        if let Some(budget) = &self.budget {
            budget.shared.rooms.store(rooms, Ordering::Relaxed);
        }
    }

    /// Tells the session the number of rooms that the last change of name concerned.
    pub(super) fn set_renamed_rooms(&self, rooms: usize) {
        if let Some(budget) = &self.budget {
            budget.shared.renamed.store(rooms, Ordering::Relaxed);
        }
    }

    /// Counts a batch in a round of the hub. Returns the number of batches in this round so far.
    pub(super) fn count_batch(&self, round: u32) -> u32 {
        let (last_round, batches) = self.batches.get();
        let batches = if last_round == round { batches + 1 } else { 1 };
        self.batches.set((round, batches));
        batches
    }

    /// Delivers without waiting.
    ///
    /// # Errors
    /// Returns the reason to evict the client.
    pub(super) fn deliver(&self, deliver: Deliver) -> Result<(), DisconnectReason> {
        if self.budget.as_ref().is_some_and(|budget| !budget.add(&deliver)) {
            return Err(DisconnectReason::SlowClient);
        }
        self.to.try_send(deliver).map_err(|refused| match refused {
            SendError::Full(_) => DisconnectReason::SlowClient,
            SendError::Closed(_) => DisconnectReason::Dropped,
        })
    }

    /// Returns the size of the client's send queue in bytes, as far as it is counted.
    pub(super) fn queued_bytes(&self) -> usize {
        self.budget.as_ref().map_or(0, QueueBudget::queued_bytes)
    }

    /// Tells the client to close. This message exceeds the limit of the mailbox if it is full. The
    /// connection is closed by force if the client does not close it in time.
    pub(super) fn close(&self, reason: DisconnectReason) {
        self.to.do_send(Deliver::Close(reason));
        self.force_close.arm();
    }
}

/// The bounded send queue of a client, as numbers that the hub and the session share: what was
/// delivered and not written yet, and the number of the client's rooms. The hub adds deliveries,
/// the connection removes them when they are written.
#[derive(Clone, Debug)]
pub(crate) struct QueueBudget {
    shared: Arc<Shared>,
    max_bytes: u64,
    max_deliveries: u64,
}

#[derive(Debug, Default)]
struct Shared {
    /// The bytes in the lower bits, the deliveries in the upper ones: see [`DELIVERY`].
    queued: AtomicU64,
    rooms: AtomicUsize,
    renamed: AtomicUsize,
}

/// One delivery in [`Shared::queued`]. Neither part can overflow: it has room for a million
/// deliveries and 16 TB.
const DELIVERY: u64 = 1 << 44;

impl Budget for Shared {
    fn release(&self, amount: u64) {
        self.queued.fetch_sub(amount, Ordering::Relaxed);
    }
}

impl QueueBudget {
    pub(crate) fn new(bytes: usize, deliveries: usize) -> Self {
        let within = |most: usize, end: u64| u64::try_from(most).unwrap_or(end).min(end);
        Self {
            shared: Arc::default(),
            max_bytes: within(bytes, DELIVERY / 2),
            max_deliveries: within(deliveries, u64::MAX / DELIVERY / 2),
        }
    }

    /// Returns the budget that the connection releases written deliveries to.
    pub(crate) fn budget(&self) -> Arc<dyn Budget> {
        Arc::clone(&self.shared) as _
    }

    /// Returns what a delivery counts for.
    pub(crate) fn amount(deliver: &Deliver) -> u64 {
        // Close exceeds the limit.
        let counts = !matches!(deliver, Deliver::Close(_));
        if counts { DELIVERY + u64::try_from(deliver.bytes()).unwrap_or(DELIVERY) } else { 0 }
    }

    /// Adds a delivery, unless the queue is full. A delivery over the limit may be alone in the
    /// queue.
    fn add(&self, deliver: &Deliver) -> bool {
        let amount = Self::amount(deliver);
        let before = self.shared.queued.fetch_add(amount, Ordering::Relaxed);
        let bytes = (before + amount) % DELIVERY;
        let fits =
            before == 0 || bytes <= self.max_bytes && before / DELIVERY < self.max_deliveries;
        if !fits {
            self.shared.release(amount);
        }
        fits
    }

    /// Removes a delivery that is not written to the connection.
    pub(crate) fn release(&self, amount: u64) {
        self.shared.release(amount);
    }

    fn queued_bytes(&self) -> usize {
        let bytes = self.shared.queued.load(Ordering::Relaxed) % DELIVERY;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Returns the number of the client's rooms.
    pub(crate) fn rooms(&self) -> usize {
        self.shared.rooms.load(Ordering::Relaxed)
    }

    /// Returns the number of rooms that the last change of name concerned: those of all clients of
    /// the identity.
    pub(crate) fn renamed_rooms(&self) -> usize {
        self.shared.renamed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Nick, RoomName};
    use crate::protocol::{Event, Reply};

    /// Returns a delivery with this number of names.
    fn deliver(names: usize) -> Deliver {
        let nick = Nick::parse("ada").expect("a name");
        let (room, members) = (RoomName::default(), vec![nick; names]);
        let event = Event::Members { room, members, member_count: names };
        Deliver::Answer(Box::new(Reply { event, reference: None }))
    }

    #[test]
    fn queue_is_bounded_in_bytes_and_takes_a_longer_delivery_alone() {
        let one = deliver(9).bytes();
        let budget = QueueBudget::new(2 * one, 9);
        assert!(budget.add(&deliver(9)));
        assert!(!budget.add(&deliver(10)));
        assert!(budget.add(&deliver(9)));
        assert_eq!(budget.queued_bytes(), 2 * one);
        budget.budget().release(2 * QueueBudget::amount(&deliver(9)));
        assert!(budget.add(&deliver(100)));
        assert!(!budget.add(&deliver(0)));
    }

    #[test]
    fn queue_is_bounded_in_deliveries() {
        let budget = QueueBudget::new(1 << 20, 3);
        for _ in 0..3 {
            assert!(budget.add(&deliver(1)));
        }
        assert!(!budget.add(&deliver(1)));
        budget.budget().release(QueueBudget::amount(&deliver(1)));
        assert!(budget.add(&deliver(1)));
    }
}
