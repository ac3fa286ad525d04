//! Joins of clients that are ahead of this node. A client that comes from a faster node resumes
//! after an entry that this node has not delivered yet. Its join waits for the entry, but not for
//! long: nobody knows whether it will come.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use super::membership::{CatchUp, Join};
use crate::domain::{Durability, Seq};
use crate::hub::Hub;

/// The longest time that a join waits.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The joins that wait for an entry. One whose client has left remains until the entry or the time
/// has come, and is then ignored. A session has one join that is not answered, so the limits on
/// connections also limit these.
#[derive(Default)]
pub(in crate::hub) struct Ahead {
    waiting: BTreeMap<AheadKey, Join>,
    last: u64,
}

/// The entry that a join waits for, and a number that no other join has.
pub(in crate::hub) type AheadKey = (Seq, u64);

/// Goes on with a join that does not wait any more. Many may end their wait at the same time, so
/// each is a message of its own, between those of others.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct EndWait(Join);

impl Handler<EndWait> for Hub {
    type Result = ();

    fn handle(&mut self, EndWait(join): EndWait, _: &mut Self::Context) {
        self.begin_join(join);
    }
}

impl Ahead {
    /// Discards all joins that wait.
    pub(in crate::hub) fn clear(&mut self) {
        self.waiting.clear();
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
        self.ahead.last += 1;
        let key = (after.seq, self.ahead.last);
        self.pacing.schedule_join(Instant::now() + WAIT_MAX, key);
        self.ahead.waiting.insert(key, join);
        None
    }

    /// Goes on with the joins whose entries have been delivered. This looks only at joins that the
    /// log has reached, so joins that wait for nothing cost nothing.
    pub(in crate::hub) fn resume_joins(&mut self) {
        let mut undelivered = Vec::new();
        while let Some(first) = self.ahead.waiting.first_entry()
            && first.key().0 <= self.log.head
        {
            let (key, join) = first.remove_entry();
            if key.0 <= self.delivered(&join.room) {
                self.end_wait(join);
            } else {
                undelivered.push((key, join));
            }
        }
        self.ahead.waiting.extend(undelivered);
    }

    /// Goes on with a join that has waited long enough, if it still waits. The client does not
    /// resume.
    pub(in crate::hub) fn stop_waiting(&mut self, key: AheadKey) {
        if let Some(join) = self.ahead.waiting.remove(&key) {
            self.end_wait(join);
        }
    }

    fn end_wait(&self, join: Join) {
        if let Some(hub) = self.this.upgrade() {
            hub.do_send(EndWait(join));
        }
    }
}
