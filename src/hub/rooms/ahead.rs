//! Joins of clients that are ahead of this node. A client that comes from a faster node resumes
//! after an entry that this node has not delivered yet. Its join waits for the entry, but only for
//! a limited time, because the entry may not exist.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use super::membership::{CatchUp, Join};
use crate::domain::{Durability, Seq};
use crate::hub::Hub;

/// The longest time that a join waits.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The joins that wait for an entry. The join of a client that has left remains until the entry is
/// delivered or the time is over, and is then ignored. A session waits for the answer to a join
/// before it sends another one, so the limits on connections also limit the joins.
#[derive(Default)]
pub(in crate::hub) struct WaitingJoins {
    joins: BTreeMap<WaitingJoinKey, Join>,
    last: u64,
}

/// The entry that a join waits for, and a number that no other join has.
pub(in crate::hub) type WaitingJoinKey = (Seq, u64);

/// Continues with a join that does not wait any more. Many joins may stop waiting at the same time.
/// Each is a message of its own, so that the hub handles other messages in between.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct EndWait(Join);

impl Handler<EndWait> for Hub {
    type Result = ();

    fn handle(&mut self, EndWait(join): EndWait, _: &mut Self::Context) {
        self.begin_join(join);
    }
}

impl WaitingJoins {
    /// Discards all joins that wait.
    pub(in crate::hub) fn clear(&mut self) {
        self.joins.clear();
    }
}

impl Hub {
    /// Lets a join wait for the entry after which the client resumes, if another node may have
    /// delivered it. Returns the join if it need not wait.
    pub(super) fn wait_for_position(&mut self, join: Join) -> Option<Join> {
        let CatchUp::After(after) = &join.catch_up else { return Some(join) };
        // Entries of a log that no other node uses are delivered by this hub, or do not exist.
        let is_shared = matches!(self.log.durability, Durability::Stream { .. });
        let is_ahead = after.epoch == self.log.epoch && after.seq > self.delivered(&join.room);
        if !is_shared || !is_ahead {
            return Some(join);
        }
        self.waiting_joins.last += 1;
        let key = (after.seq, self.waiting_joins.last);
        self.pacing.schedule_join(Instant::now() + WAIT_MAX, key);
        self.waiting_joins.joins.insert(key, join);
        None
    }

    /// Continues with the joins whose entries have been delivered. Looks only at joins whose entry
    /// is not after the end of the log, so joins that wait for an entry that does not exist take no
    /// time.
    pub(in crate::hub) fn resume_joins(&mut self) {
        let mut undelivered = Vec::new();
        while let Some(first) = self.waiting_joins.joins.first_entry()
            && first.key().0 <= self.log.head
        {
            let (key, join) = first.remove_entry();
            if key.0 <= self.delivered(&join.room) {
                self.end_wait(join);
            } else {
                undelivered.push((key, join));
            }
        }
        self.waiting_joins.joins.extend(undelivered);
    }

    /// Continues with a join that has waited long enough, if it still waits. The client then
    /// receives the latest messages.
    pub(in crate::hub) fn stop_waiting(&mut self, key: WaitingJoinKey) {
        if let Some(join) = self.waiting_joins.joins.remove(&key) {
            self.end_wait(join);
        }
    }

    fn end_wait(&self, join: Join) {
        if let Some(hub) = self.this.upgrade() {
            hub.do_send(EndWait(join));
        }
    }
}
