//! How the hub's life begins and ends: in order, when the server drains it, or by a panic. Either
//! way every client is told.

use std::collections::HashMap;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::{Hub, Pacing};
use crate::config::Config;
use crate::socket::DisconnectReason;

/// Ends every client's connection with code 1001, also of those who register from now on.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Drain;

impl Handler<Drain> for Hub {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        self.draining = true;
        self.close_all(DisconnectReason::ShuttingDown);
    }
}

/// Asks for a channel that closes when the hub is gone.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "oneshot::Receiver<()>")]
pub struct Watch;

impl Handler<Watch> for Hub {
    type Result = MessageResult<Watch>;

    fn handle(&mut self, _: Watch, _: &mut Self::Context) -> Self::Result {
        let (watcher, watched) = oneshot::channel();
        self.watchers.push(watcher);
        MessageResult(watched)
    }
}

impl Hub {
    /// A hub without clients.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            clients: HashMap::new(),
            rooms: HashMap::new(),
            disconnects: HashMap::new(),
            resume_buffer: config.resume_buffer,
            pacing: Pacing::new(config.batch_window, config.workers),
            draining: false,
            watchers: Vec::new(),
        }
    }

    /// Starts a hub on a thread of its own.
    pub fn start_in(arbiter: &Arbiter, config: &Config) -> Addr<Self> {
        let config = config.clone();
        Self::start_in_arbiter(&arbiter.handle(), move |_| Self::new(&config))
    }

    fn close_all(&mut self, reason: DisconnectReason) {
        let clients: Vec<_> = self.clients.keys().copied().collect();
        for id in clients {
            self.evict(id, reason);
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.close_all(DisconnectReason::Internal);
    }
}
