//! The start and the end of the hub. It ends in order when the server drains it, or abnormally: by
//! a panic, or because the log stopped. In all cases every client is told.

use std::collections::HashMap;

use actix::WeakAddr;
use actix::dev::channel::channel;
use actix::prelude::*;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::hub::Hub;
use crate::hub::commit::LogState;
use crate::hub::history::{Reads, Rings};
use crate::hub::nodes::OtherNodes;
use crate::hub::pacing::{FlushTimer, Pacing};
use crate::hub::rooms::{Counts, RoomLimits, WaitingJoins};
use crate::hub::search::Searches;
use crate::log::{Follower, Log, MemoryLog, Probe};
use crate::protocol::DisconnectReason;

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.log.backend.follow(Follower::new(ctx.address().recipient()));
        self.nodes.follow(ctx.address().recipient());
        ctx.spawn(FlushTimer::new());
    }
}

/// Whether the hub is shutting down, and who waits for it to be drained or to stop.
#[derive(Default)]
pub(in crate::hub) struct Lifecycle {
    pub(in crate::hub) draining: bool,
    drained: Vec<oneshot::Sender<()>>,
    watchers: Vec<oneshot::Sender<()>>,
}

/// Shuts the hub down: rejects new messages, commits and delivers those it has accepted (if `wait`
/// is set), and then closes every client's connection with code 1001. Clients that register later
/// are closed too. The answer is a channel that closes when this is done.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "oneshot::Receiver<()>")]
pub struct Drain {
    /// Whether to wait for messages that are not committed yet.
    pub wait: bool,
}

impl Handler<Drain> for Hub {
    type Result = MessageResult<Drain>;

    fn handle(&mut self, Drain { wait }: Drain, _: &mut Self::Context) -> Self::Result {
        let (sender, drained) = oneshot::channel();
        self.lifecycle.drained.push(sender);
        if !std::mem::replace(&mut self.lifecycle.draining, true) {
            self.flush_all();
        }
        if wait {
            self.end_if_drained();
        } else {
            self.end();
        }
        MessageResult(drained)
    }
}

/// Asks for a channel that closes when the hub has stopped.
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

/// Asks whether the hub accepts clients. The answer is the recipient that knows
/// whether the log works, if the log has one.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Option<Recipient<Probe>>, NotReady>")]
pub struct IsReady;

/// The hub is shutting down.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the server is shutting down")]
pub struct NotReady;

impl Handler<IsReady> for Hub {
    type Result = Result<Option<Recipient<Probe>>, NotReady>;

    fn handle(&mut self, _: IsReady, _: &mut Self::Context) -> Self::Result {
        if self.lifecycle.draining { Err(NotReady) } else { Ok(self.log.backend.probe()) }
    }
}

/// The mailbox capacity that actix gives every actor. It applies to `send` and `try_send`, not to
/// `do_send`.
const MAILBOX_CAPACITY: usize = 16;

/// Starts a hub on the current thread, which must run an arbiter.
pub(crate) type StartHub = Box<dyn FnOnce() + Send>;

impl Hub {
    fn new(config: &Config, log: LogState, this: WeakAddr<Self>) -> Self {
        Self {
            clients: HashMap::new(),
            users: HashMap::new(),
            rooms: HashMap::new(),
            rosters: HashMap::new(),
            nodes: OtherNodes::of(log.backend.nodes()),
            opened_rooms: HashMap::new(),
            rings: Rings::new(config, log.state.settings.keep_for),
            reads: Reads::default(),
            waiting_joins: WaitingJoins::default(),
            counts: Counts::default(),
            searches: Searches::default(),
            log,
            pacing: Pacing::new(config.batch_window, config.workers, config.send_queue),
            limits: RoomLimits::new(config),
            disconnects: HashMap::new(),
            metrics: config.metrics.clone(),
            lifecycle: Lifecycle::default(),
            this,
        }
    }

    /// Starts a hub on an arbiter. It keeps messages in memory only.
    pub fn start_in(arbiter: &Arbiter, config: &Config) -> Addr<Self> {
        let (hub, start) = Self::prepare(config);
        arbiter.spawn_fn(start);
        hub
    }

    /// Starts a hub on an arbiter with a log that keeps its messages.
    pub fn start_with_log(arbiter: &Arbiter, config: &Config, log: Log) -> Addr<Self> {
        let (hub, start) = Self::prepare_with_log(config, log);
        arbiter.spawn_fn(start);
        hub
    }

    /// Returns the address of a hub that keeps messages in memory only, and the function that
    /// starts it. Messages that are sent earlier wait in its mailbox.
    pub(crate) fn prepare(config: &Config) -> (Addr<Self>, StartHub) {
        let log = MemoryLog::new(config);
        Self::prepare_with(config, || {
            LogState::new(log.epoch().clone(), log.head(), log.state(), Box::new(log))
        })
    }

    /// Does the same as [`Hub::prepare`] for a hub with a log that keeps its messages.
    pub(crate) fn prepare_with_log(config: &Config, log: Log) -> (Addr<Self>, StartHub) {
        Self::prepare_with(config, || {
            LogState::new(log.epoch.clone(), log.head, log.state.clone(), Box::new(log))
        })
    }

    fn prepare_with(
        config: &Config,
        log: impl FnOnce() -> LogState + Send + 'static,
    ) -> (Addr<Self>, StartHub) {
        let (to, mailbox) = channel(MAILBOX_CAPACITY);
        let config = config.clone();
        let start = move || {
            let ctx = Context::with_receiver(mailbox);
            let this = ctx.address().downgrade();
            ctx.run(Self::new(&config, log(), this));
        };
        (Addr::new(to), Box::new(start))
    }

    /// Closes all connections, if the hub is shutting down and all messages are delivered.
    pub(in crate::hub) fn end_if_drained(&mut self) {
        if self.lifecycle.draining && self.log.is_settled() {
            self.end();
        }
    }

    /// Closes all connections, and tells those who wait for the drain.
    pub(in crate::hub) fn end(&mut self) {
        self.close_all(DisconnectReason::ShuttingDown);
        self.lifecycle.drained.clear();
    }

    pub(in crate::hub) fn close_all(&mut self, reason: DisconnectReason) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClientId, MessageText, Nick, RoomName};
    use crate::hub::{CatchUp, Deliver, Join, Register};
    use std::time::Duration;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    /// A client that passes on what is delivered to it.
    struct RecordingClient(mpsc::UnboundedSender<Deliver>);

    impl Actor for RecordingClient {
        type Context = Context<Self>;
    }

    impl Handler<Deliver> for RecordingClient {
        type Result = ();

        fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
            let _ = self.0.send(deliver);
        }
    }

    /// Publishes one message in each room. The rooms are not due for an hour.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct PublishInEachRoom;

    impl Handler<PublishInEachRoom> for Hub {
        type Result = ();

        fn handle(&mut self, _: PublishInEachRoom, _: &mut Self::Context) {
            let names: Vec<RoomName> = self.rooms.keys().cloned().collect();
            let nick = Nick::parse("ada").expect("a name");
            for name in &names {
                let room = self.rooms.get_mut(name).expect("it is open");
                room.next_flush = Instant::now() + Duration::from_secs(3600);
                self.broadcast(name, &nick, MessageText::parse("bye", 3).expect("a text"));
            }
        }
    }

    #[actix_web::test]
    async fn drain_delivers_the_pending_messages_of_all_rooms_before_it_closes_clients() {
        let hub = Hub::start_in(&Arbiter::new(), &Config::default());
        let (sender, mut delivered) = mpsc::unbounded_channel();
        let client = ClientId::next();
        let to = RecordingClient(sender).start().recipient().into();
        let register = Register { client, nick: Nick::anonymous(client), events: false, to };
        hub.send(register).await.expect("the hub is there");
        for room in ["a", "b", "c"].map(|name| RoomName::parse(name).expect("a room")) {
            let join = Join { client, room, catch_up: CatchUp::Latest(0), reference: None };
            hub.send(join).await.expect("the hub is there");
        }
        hub.send(PublishInEachRoom).await.expect("the hub is there");
        let drained = hub.send(Drain { wait: true }).await.expect("the hub is there");
        assert!(drained.await.is_err(), "the channel closes");
        let mut messages = 0;
        loop {
            let deliver = delivered.recv().await.expect("a close at the end");
            if let Deliver::Close(reason) = deliver {
                assert_eq!(reason, DisconnectReason::ShuttingDown);
                break;
            }
            messages += deliver.batches().iter().map(|batch| batch.entries().len()).sum::<usize>();
        }
        assert_eq!(messages, 3);
    }
}
