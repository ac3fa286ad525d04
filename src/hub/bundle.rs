//! What is said in several rooms at once: who is in more than one of them takes all that as one
//! delivery, since the queue of a client is bounded in deliveries.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::{Deliver, Hub, Outlet};
use crate::domain::{ClientId, RoomName};
use crate::wire::Batch;

impl Hub {
    /// Delivers the batches of some rooms, as [`Hub::fan_out`] does that of one.
    pub(super) fn fan_out_all(&mut self, batches: &[(RoomName, Arc<Batch>)]) {
        if let [(name, batch)] = batches {
            return self.fan_out(name, batch);
        }
        let mut bundles: HashMap<ClientId, (Rc<Outlet>, Vec<Arc<Batch>>)> = HashMap::new();
        for (name, batch) in batches {
            for (&id, member) in self.rooms.get(name).into_iter().flat_map(|room| &room.members) {
                let (_, bundle) = bundles.entry(id).or_insert_with(|| (Rc::clone(member), vec![]));
                bundle.push(Arc::clone(batch));
            }
        }
        for (id, (member, bundle)) in bundles {
            if let Err(reason) = member.deliver(Deliver::Batches(bundle)) {
                self.evict(id, reason);
            }
        }
    }
}
