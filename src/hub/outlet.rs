//! The way from the hub to one client: bounded in batches by the client's mailbox, in bytes by a
//! count of what waits in it, and with the power to end a connection that does not let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use actix::prelude::*;

use super::Deliver;
use crate::admission::Source;
use crate::socket::{Budget, Cutoff, DisconnectReason};

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
        if self.budget.as_ref().is_some_and(|budget| !budget.add(&deliver)) {
            return Err(DisconnectReason::SlowClient);
        }
        self.to.try_send(deliver).map_err(|refused| match refused {
            SendError::Full(_) => DisconnectReason::SlowClient,
            SendError::Closed(_) => DisconnectReason::Dropped,
        })
    }

    /// What waits for the client to take it, in bytes, as far as that is counted.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.budget.as_ref().map_or(0, QueueBudget::waiting_bytes)
    }

    /// Orders the client to close. The order goes past the limit of the mailbox, behind all that
    /// waits in it; where it is not obeyed in time, the connection is cut off.
    pub(super) fn close(&self, reason: DisconnectReason) {
        self.to.do_send(Deliver::Close(reason));
        self.cutoff.arm();
    }
}

/// What a session and the hub share: what was delivered and has not gone out to the connection yet,
/// which the hub counts in and the connection out; and in how many rooms the client and its
/// identity are.
#[derive(Clone, Debug)]
pub(crate) struct QueueBudget {
    shared: Arc<Shared>,
    max_bytes: u64,
    max_deliveries: u64,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes in the lower bits, and deliveries above: see [`DELIVERY`].
    waiting: AtomicU64,
    rooms: AtomicUsize,
    renamed: AtomicUsize,
}

/// One delivery beside its bytes. Both halves stay far from their ends: there are a million
/// deliveries at most, and 16 TB.
const DELIVERY: u64 = 1 << 44;

impl Budget for Shared {
    fn release(&self, amount: u64) {
        self.waiting.fetch_sub(amount, Ordering::Relaxed);
    }
}

impl QueueBudget {
    pub(crate) fn at_most(bytes: usize, deliveries: usize) -> Self {
        let within = |most: usize, end: u64| u64::try_from(most).unwrap_or(end).min(end);
        Self {
            shared: Arc::default(),
            max_bytes: within(bytes, DELIVERY / 2),
            max_deliveries: within(deliveries, u64::MAX / DELIVERY / 2),
        }
    }

    /// Where what has gone out is counted.
    pub(crate) fn budget(&self) -> Arc<dyn Budget> {
        Arc::clone(&self.shared) as _
    }

    /// What a delivery counts for.
    pub(crate) fn amount(deliver: &Deliver) -> u64 {
        // An order to close goes past the limit.
        let counts = !matches!(deliver, Deliver::Close(_));
        if counts { DELIVERY + u64::try_from(deliver.bytes()).unwrap_or(DELIVERY) } else { 0 }
    }

    /// Counts in, unless that would be too much. What is too much by itself may wait alone.
    fn add(&self, deliver: &Deliver) -> bool {
        let amount = Self::amount(deliver);
        let before = self.shared.waiting.fetch_add(amount, Ordering::Relaxed);
        let bytes = (before + amount) % DELIVERY;
        let fits =
            before == 0 || bytes <= self.max_bytes && before / DELIVERY < self.max_deliveries;
        if !fits {
            self.shared.release(amount);
        }
        fits
    }

    /// Counts out at once.
    pub(crate) fn release(&self, amount: u64) {
        self.shared.release(amount);
    }

    fn waiting_bytes(&self) -> usize {
        let bytes = self.shared.waiting.load(Ordering::Relaxed) % DELIVERY;
        usize::try_from(bytes).unwrap_or(usize::MAX)
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Nick, RoomName};
    use crate::wire::{Event, Reply};

    /// A delivery that counts for so many names more than one without any.
    fn deliver(names: usize) -> Deliver {
        let nick = Nick::parse("ada").expect("a name");
        let (room, members) = (RoomName::default(), vec![nick; names]);
        let event = Event::Members { room, members, member_count: names };
        Deliver::Answer(Box::new(Reply { event, reference: None }))
    }

    #[test]
    fn bytes_wait_up_to_the_limit_and_what_is_longer_waits_alone() {
        let one = deliver(9).bytes();
        let budget = QueueBudget::at_most(2 * one, 9);
        assert!(budget.add(&deliver(9)));
        assert!(!budget.add(&deliver(10)));
        assert!(budget.add(&deliver(9)));
        assert_eq!(budget.waiting_bytes(), 2 * one);
        budget.budget().release(2 * QueueBudget::amount(&deliver(9)));
        assert!(budget.add(&deliver(100)));
        assert!(!budget.add(&deliver(0)));
    }

    #[test]
    fn deliveries_wait_up_to_the_limit_however_short() {
        let budget = QueueBudget::at_most(1 << 20, 3);
        for _ in 0..3 {
            assert!(budget.add(&deliver(1)));
        }
        assert!(!budget.add(&deliver(1)));
        budget.budget().release(QueueBudget::amount(&deliver(1)));
        assert!(budget.add(&deliver(1)));
    }
}
