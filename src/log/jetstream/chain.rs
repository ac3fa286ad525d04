//! Comparison of the nodes' journals. Each record and each heartbeat has the position and the chain
//! of its node's journal, which is a hash of everything that the journal has applied. If the chains
//! of two nodes differ at one position, one of the journals is wrong, because of a fault of its
//! disk, of NATS or of chinwag.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::error;

use crate::log::nodes::NodeId;
use crate::metrics::{LogEvent, Metrics};

/// The number of recent positions whose chains are remembered.
const RECENT_MAX: usize = 4096;

/// Records older than this are not counted.
const COUNTED_FOR: Duration = Duration::from_secs(60);

/// The chain of a journal at a position, shortened to 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) position: u64,
    pub(super) hash: u64,
}

impl Chain {
    pub(super) fn new(position: u64, chain: &[u8; 32]) -> Self {
        let mut hash = [0; 8];
        hash.copy_from_slice(&chain[..8]);
        Self { position, hash: u64::from_be_bytes(hash) }
    }
}

/// What a node knows about the journals of others.
#[derive(Debug, Default)]
struct Comparison {
    /// Its own chains, oldest first.
    recent: VecDeque<Chain>,
    /// Whether the last chain of each other node agreed, and when it was read.
    others: HashMap<NodeId, (bool, Instant)>,
    lacks_majority: bool,
    /// Whether the node reads the log. Otherwise its journal may be that of another log, or have
    /// records that the log has lost, and is not compared.
    is_reading: bool,
}

impl Comparison {
    /// Returns the comparison of a node that begins with this chain.
    fn from(chain: Chain) -> Self {
        let mut comparison = Self::default();
        comparison.push(chain);
        comparison
    }

    /// Adds the node's own chain at the next position.
    fn push(&mut self, chain: Chain) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(chain);
    }

    /// Returns the node's last chain.
    fn last(&self) -> Chain {
        self.recent.back().copied().unwrap_or_default()
    }

    /// Returns whether the last chain of a node differed.
    fn differs(&self, node: NodeId) -> bool {
        self.others.get(&node).is_some_and(|(agrees, _)| !agrees)
    }

    /// Compares the chain of another node. Returns false if it differs.
    fn compare(&mut self, node: NodeId, chain: Chain, now: Instant) -> bool {
        let own = self.recent.binary_search_by_key(&chain.position, |own| own.position);
        let Ok(own) = own.map(|index| self.recent[index]) else { return true };
        let agrees = own == chain;
        let lacks_majority = self.lacks_majority;
        // A node without a majority publishes nothing more, so its silence means nothing.
        self.others.retain(|_, (agrees, at)| {
            lacks_majority && !*agrees || now.duration_since(*at) < COUNTED_FOR
        });
        self.others.insert(node, (agrees, now));
        let agreeing = self.others.values().filter(|(agrees, _)| *agrees).count();
        let differs_most = self.others.len() - agreeing > agreeing;
        self.lacks_majority = differs_most && (lacks_majority || !agrees);
        agrees
    }

    /// Forgets that a node differed, because it does not read the log any more. If it agreed, that
    /// still counts: it may have lost its connection.
    fn forget_difference(&mut self, node: NodeId) {
        self.others.retain(|other, (agrees, _)| *other != node || *agrees);
        let agreeing = self.others.values().filter(|(agrees, _)| *agrees).count();
        self.lacks_majority &= self.others.len() - agreeing > agreeing;
    }

    /// Returns whether at least as many nodes differ from this one as agree with it, itself
    /// included. Then it must not serve clients.
    fn lacks_majority(&self) -> bool {
        self.lacks_majority
    }
}

/// The comparison, which the records and the heartbeats of other nodes change. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Votes(Rc<RefCell<Comparison>>);

impl Votes {
    /// Returns the votes on a journal that has this chain.
    pub(super) fn from(chain: Chain) -> Self {
        Self(Rc::new(RefCell::new(Comparison::from(chain))))
    }

    /// Forgets everything. The journal now has this chain.
    pub(super) fn restart(&self, chain: Chain) {
        let is_reading = self.is_reading();
        self.0.replace(Comparison { is_reading, ..Comparison::from(chain) });
    }

    /// Adds the node's own chain at the next position.
    pub(super) fn push(&self, chain: Chain) {
        self.0.borrow_mut().push(chain);
    }

    /// Returns the node's last chain.
    pub(super) fn last(&self) -> Chain {
        self.0.borrow().last()
    }

    /// Notes whether the node reads the log.
    pub(super) fn set_reading(&self, is_reading: bool) {
        self.0.borrow_mut().is_reading = is_reading;
    }

    /// Returns whether the node reads the log, so that its chain can be compared.
    pub(super) fn is_reading(&self) -> bool {
        self.0.borrow().is_reading
    }

    /// Takes the chain of another node. `None` if that node does not read the log.
    pub(super) fn take(&self, node: NodeId, chain: Option<Chain>, metrics: &Metrics) {
        let mut comparison = self.0.borrow_mut();
        let Some(chain) = chain else { return comparison.forget_difference(node) };
        let was_different = comparison.differs(node);
        let is_comparable = comparison.is_reading && chain != Chain::default();
        if is_comparable && !comparison.compare(node, chain, Instant::now()) {
            if !was_different {
                error!("the history files of two nodes differ at record {}", chain.position);
            }
            metrics.count_log(LogEvent::Divergence);
        }
    }

    /// See [`Comparison::lacks_majority`].
    pub(super) fn lacks_majority(&self) -> bool {
        self.0.borrow().lacks_majority()
    }

    /// Returns whether another node has the same history, and no majority another one.
    pub(super) fn are_favorable(&self) -> bool {
        let comparison = self.0.borrow();
        !comparison.lacks_majority && comparison.others.values().any(|(agrees, _)| *agrees)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(position: u64, hash: u64) -> Chain {
        Chain { position, hash }
    }

    #[test]
    fn minority_lacks_majority_and_of_two_nodes_both_are() {
        let now = Instant::now();
        let mut comparison = Comparison::default();
        (1..=10).for_each(|position| comparison.push(chain(position, 1)));
        assert!(comparison.compare(NodeId(1), chain(5, 1), now));
        assert!(!comparison.lacks_majority());
        // One agrees, and one differs.
        assert!(!comparison.compare(NodeId(2), chain(6, 2), now));
        assert!(!comparison.lacks_majority());
        assert!(!comparison.compare(NodeId(3), chain(6, 2), now));
        assert!(comparison.lacks_majority());
        // A node that is started with a copy is another producer.
        assert!(comparison.compare(NodeId(4), chain(7, 1), now));
        assert!(!comparison.lacks_majority());
        // Of two nodes that differ, neither has a majority, however long that takes.
        let mut of_two = Comparison::default();
        (1..=10).for_each(|position| of_two.push(chain(position, 1)));
        assert!(!of_two.compare(NodeId(1), chain(5, 2), now));
        assert!(of_two.lacks_majority());
        let later = now + 10 * COUNTED_FOR;
        assert!(!of_two.compare(NodeId(1), chain(6, 2), later));
        assert!(of_two.lacks_majority());
        assert!(of_two.compare(NodeId(2), chain(6, 1), later));
        assert!(!of_two.lacks_majority());
    }

    #[test]
    fn node_that_is_silent_does_not_change_the_vote() {
        let now = Instant::now();
        let mut comparison = Comparison::default();
        (1..=10).for_each(|position| comparison.push(chain(position, 1)));
        assert!(comparison.compare(NodeId(1), chain(5, 1), now));
        assert!(!comparison.compare(NodeId(2), chain(5, 2), now + Duration::from_secs(30)));
        assert!(comparison.compare(NodeId(3), chain(6, 1), now + Duration::from_secs(70)));
        assert!(!comparison.lacks_majority());
    }

    #[test]
    fn node_that_does_not_read_the_log_has_no_vote() {
        let (votes, metrics) = (Votes::from(chain(1, 1)), Metrics::default());
        votes.take(NodeId(1), Some(chain(1, 2)), &metrics);
        assert!(!votes.lacks_majority(), "this node does not read the log yet");
        votes.set_reading(true);
        votes.take(NodeId(1), Some(chain(1, 2)), &metrics);
        assert!(votes.lacks_majority());
        votes.take(NodeId(1), None, &metrics);
        assert!(!votes.lacks_majority());
        // One node agrees and loses its connection. Of two others, one differs.
        votes.take(NodeId(2), Some(chain(1, 1)), &metrics);
        votes.take(NodeId(2), None, &metrics);
        votes.take(NodeId(3), Some(chain(1, 2)), &metrics);
        assert!(!votes.lacks_majority());
    }

    #[test]
    fn position_that_is_not_remembered_is_not_compared() {
        let now = Instant::now();
        let mut comparison = Comparison::default();
        assert!(comparison.compare(NodeId(1), chain(5, 2), now));
        (1..=5000).for_each(|position| comparison.push(chain(position, 1)));
        assert_eq!(comparison.recent.len(), RECENT_MAX);
        assert!(comparison.compare(NodeId(1), chain(5000 - RECENT_MAX as u64, 2), now));
        assert!(!comparison.compare(NodeId(1), chain(5001 - RECENT_MAX as u64, 2), now));
        assert!(comparison.lacks_majority());
    }
}
