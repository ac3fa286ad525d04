//! How the hub's life begins and ends: in order, when the server drains it, or by a panic. Either
//! way every client is told.

use std::collections::HashMap;

use actix::WeakAddr;
use actix::prelude::*;
use thiserror::Error;
use tokio::sync::oneshot;

use super::log::Logging;
use super::membership::Bounds;
use super::pacing::FlushTimer;
use super::survey::Counts;
use super::{Hub, Log, Pacing, Probe, Rings};
use crate::config::Config;
use crate::socket::DisconnectReason;

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(FlushTimer::new());
    }
}

/// Whether the hub's life is ending, and who wants to know.
#[derive(Default)]
pub(super) struct Lifecycle {
    pub(super) draining: bool,
    drained: Vec<oneshot::Sender<()>>,
    watchers: Vec<oneshot::Sender<()>>,
}

/// Takes nothing more, brings what has been accepted to the log and to everyone, and then ends
/// every client's connection with code 1001, also of those who register from now on. It is
/// answered by a channel that closes when all that is done.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "oneshot::Receiver<()>")]
pub struct Drain {
    /// Whether to wait for the log. Without it, what is under way is left to itself.
    pub wait: bool,
}

impl Handler<Drain> for Hub {
    type Result = MessageResult<Drain>;

    fn handle(&mut self, Drain { wait }: Drain, _: &mut Self::Context) -> Self::Result {
        let (sender, drained) = oneshot::channel();
        self.lifecycle.drained.push(sender);
        if !std::mem::replace(&mut self.lifecycle.draining, true) {
            let names: Vec<_> = self.rooms.keys().cloned().collect();
            names.iter().for_each(|name| self.flush(name));
        }
        if wait {
            self.end_if_drained();
        } else {
            self.end();
        }
        MessageResult(drained)
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
        self.lifecycle.watchers.push(watcher);
        MessageResult(watched)
    }
}

/// Asks whether the hub would take a new client, and how to find out whether its log would keep
/// what that says.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Option<Recipient<Probe>>, NotReady>")]
pub struct IsReady;

/// The hub is draining.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the server is shutting down")]
pub struct NotReady;

impl Handler<IsReady> for Hub {
    type Result = Result<Option<Recipient<Probe>>, NotReady>;

    fn handle(&mut self, _: IsReady, _: &mut Self::Context) -> Self::Result {
        if self.lifecycle.draining { Err(NotReady) } else { Ok(self.log.probe()) }
    }
}

impl Hub {
    /// A hub without clients.
    fn new(config: &Config, log: Option<Log>, this: WeakAddr<Self>) -> Self {
        Self {
            clients: HashMap::new(),
            people: HashMap::new(),
            rooms: HashMap::new(),
            opened: HashMap::new(),
            rings: Rings::new(config),
            log: Logging::new(log),
            pacing: Pacing::new(config.batch_window, config.workers),
            limits: Bounds::of(config),
            counts: Counts::on(&config.metrics),
            lifecycle: Lifecycle::default(),
            this,
        }
    }

    /// Starts a hub on a thread of its own. It keeps messages in memory only.
    pub fn start_in(arbiter: &Arbiter, config: &Config) -> Addr<Self> {
        Self::start_with_log(arbiter, config, None)
    }

    /// Starts a hub on a thread of its own, with a log that keeps its messages.
    pub fn start_with_log(arbiter: &Arbiter, config: &Config, log: Option<Log>) -> Addr<Self> {
        let config = config.clone();
        Self::start_in_arbiter(&arbiter.handle(), move |ctx| {
            Self::new(&config, log, ctx.address().downgrade())
        })
    }

    /// Ends all connections, if nothing is under way that they should be told.
    pub(super) fn end_if_drained(&mut self) {
        if self.lifecycle.draining && self.log.is_idle() {
            self.end();
        }
    }

    fn end(&mut self) {
        self.close_all(DisconnectReason::ShuttingDown);
        self.lifecycle.drained.clear();
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
