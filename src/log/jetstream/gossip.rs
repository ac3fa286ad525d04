//! Gossip: each node tells the others who is in which room, over NATS without JetStream. A packet
//! may be lost. Packets with changes are numbered, and a node that misses one asks for the whole
//! state. A node that has not been heard of for some time counts as gone, and its users with it.

mod packet;
mod peer;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use actix::prelude::*;
use async_nats::Message as NatsMessage;
use bytes::Bytes;
use log::{debug, info, warn};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::chain::Votes;
use super::link::Link;
use super::record::VERSION;
use crate::domain::{NodeMark, RoomName, random};
use crate::log::nodes::{FollowNodes, FromNodes, LocalUsers, NodeId, Nodes, TellNodes, UserChange};
use crate::log::sqlite::HexIdentity;
use crate::metrics::Metrics;
use packet::{Heartbeat, HexNode, Packet, UserLine};
use peer::Peer;

/// How long changes are gathered.
const TICK: Duration = Duration::from_millis(50);

/// How often a node shows that it is alive.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A node that has not been heard of for this time counts as gone.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// The shortest interval between two states of a node.
const STATE_INTERVAL: Duration = Duration::from_millis(250);

/// The size of a part of a state, in bytes. NATS accepts larger messages: see
/// [`payload_needed`](super::payload_needed).
const PART_BYTES: usize = 256 * 1024;

/// The maximum number of changes in a packet.
const CHANGES_MAX: usize = 500;

/// The packets that may wait for the connection. Any further ones are lost.
const QUEUE: usize = 1024;

/// How long a node that stops waits until NATS has its last packet.
const BYE_TIMEOUT: Duration = Duration::from_millis(500);

/// The pause before another attempt to receive packets.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// The actor that sends and receives packets. It begins when the hub follows it.
pub(super) struct Gossip {
    link: Link,
    id: NodeId,
    mark: NodeMark,
    votes: Votes,
    metrics: Metrics,
    hub: Option<Recipient<FromNodes>>,
    users: LocalUsers,
    /// The number of the last packet with changes.
    n: u64,
    changes: Vec<UserChange>,
    peers: HashMap<NodeId, Peer>,
    /// The packets for the task that sends them. `None` when the node stops: it sends nothing more.
    queue: Option<mpsc::Sender<Bytes>>,
    /// The receiver of `queue`, until the actor begins.
    queued: Option<mpsc::Receiver<Bytes>>,
    /// Ends when the task has sent everything.
    sent: Option<oneshot::Receiver<()>>,
    next_heartbeat: Instant,
    last_tick: Instant,
    is_asked: bool,
    next_state: Instant,
}

/// Tells the other nodes that this one stops.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct SayBye;

impl Gossip {
    pub(super) fn new(link: Link, id: NodeId, votes: Votes, metrics: Metrics) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE);
        let now = Instant::now();
        Self {
            link,
            id,
            mark: NodeMark::new(id.0),
            votes,
            metrics,
            hub: None,
            users: LocalUsers::of(id),
            n: 0,
            changes: Vec::new(),
            peers: HashMap::new(),
            queue: Some(queue),
            queued: Some(queued),
            sent: None,
            next_heartbeat: now,
            last_tick: now,
            is_asked: false,
            next_state: now,
        }
    }

    /// Starts the actor. Returns what a hub needs, and the recipient that ends it.
    pub(super) fn launch(self) -> (Nodes, Recipient<SayBye>) {
        let (id, mark) = (self.id, self.mark);
        let gossip = self.start();
        let (follow, tell) = (gossip.clone().recipient(), gossip.clone().recipient());
        (Nodes { id, mark, follow, tell }, gossip.recipient())
    }

    /// Returns the subject of this node's packets.
    fn subject(&self) -> String {
        self.link.packet_subject(&String::from(HexNode(self.id)))
    }

    fn tell_hub(&self, from_nodes: FromNodes) {
        if let Some(hub) = &self.hub {
            hub.do_send(from_nodes);
        }
    }

    fn send(&self, packet: &Packet) {
        let Some(queue) = &self.queue else { return };
        if queue.try_send(packet.encode().into()).is_err() {
            debug!("a packet for the other nodes is lost");
        }
    }

    /// Receives packets, until the subscription ends.
    fn subscribe(&self, ctx: &mut Context<Self>) {
        let link = self.link.clone();
        let subscribe = async move {
            loop {
                match link.packets().await {
                    Ok(packets) => return packets,
                    Err(error) => warn!("cannot hear the other nodes: {error}; trying again"),
                }
                sleep(RETRY_PAUSE).await;
            }
        };
        let begin = |packets, gossip: &mut Self, ctx: &mut Context<Self>| {
            ctx.add_stream(packets);
            gossip.send(&Packet::Ask { node: None });
        };
        ctx.spawn(subscribe.into_actor(self).map(begin));
    }

    fn tick(&mut self) {
        let now = Instant::now();
        // After a time in which this process did not run, others were not heard because of that.
        let late = now.duration_since(self.last_tick).saturating_sub(HEARTBEAT_INTERVAL);
        self.last_tick = now;
        for peer in self.peers.values_mut() {
            peer.heard = (peer.heard + late).min(now);
        }
        self.send_changes();
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + HEARTBEAT_INTERVAL;
            self.send_heartbeat();
        }
        if self.is_asked && now >= self.next_state {
            (self.is_asked, self.next_state) = (false, now + STATE_INTERVAL);
            self.send_state();
        }
        let is_gone = |peer: &Peer| now.saturating_duration_since(peer.heard) >= GONE_AFTER;
        let gone = self.peers.iter().filter(|(_, peer)| is_gone(peer)).map(|(&node, _)| node);
        for node in gone.collect::<Vec<_>>() {
            self.remove(node, "has not been heard of for 5 s");
        }
    }

    fn send_changes(&mut self) {
        for changes in std::mem::take(&mut self.changes).chunks(CHANGES_MAX) {
            self.n += 1;
            let changes = changes.iter().map(Into::into).collect();
            self.send(&Packet::Changes { n: self.n, changes });
        }
    }

    fn send_heartbeat(&self) {
        let chain = self.votes.last();
        self.send(&Packet::Heartbeat(Heartbeat {
            n: self.n,
            mark: self.mark.get(),
            after: chain.position,
            chain: self.votes.is_reading().then(|| format!("{:016x}", chain.hash)),
            version: env!("CARGO_PKG_VERSION").into(),
            records: VERSION,
            name: self.link.node_name().map(str::to_owned),
        }));
    }

    /// Sends all users of this node, in parts.
    fn send_state(&self) {
        let mut parts = vec![Vec::new()];
        let mut bytes = 0;
        for user in self.users.state().flat_map(UserLine::of) {
            bytes += user.bytes();
            if bytes > PART_BYTES {
                bytes = user.bytes();
                parts.push(Vec::new());
            }
            parts.last_mut().expect("there is a first part").push(user);
        }
        let count = parts.len();
        for (part, users) in parts.into_iter().enumerate() {
            self.send(&Packet::State { n: self.n, part, parts: count, users });
        }
    }

    /// Takes a packet of another node.
    fn take(&mut self, node: NodeId, packet: Packet) {
        let now = Instant::now();
        if matches!(packet, Packet::Bye {}) {
            return self.remove(node, "has stopped");
        }
        let peers = self.peers.len();
        let peer = self.peers.entry(node).or_insert_with(|| Peer::new(now));
        peer.heard = now;
        match packet {
            Packet::Heartbeat(heartbeat) => {
                peer.take_heartbeat(heartbeat.n);
                let mark = NodeMark::new(heartbeat.mark.into());
                if peer.mark.replace(mark).is_none() {
                    let name = heartbeat.name.as_deref().unwrap_or("without a name");
                    info!("the node {} ({name}, chinwag {}) runs", id(node), heartbeat.version);
                }
                self.votes.take(node, heartbeat.chain(), &self.metrics);
                self.avoid_mark_of(node);
            }
            Packet::Changes { n, changes } => {
                if let Some(changes) = peer.take_changes(n, changes) {
                    let changes = changes.iter().filter_map(packet::ChangeLine::read).collect();
                    self.tell_hub(FromNodes::Changed { node, changes });
                }
            }
            Packet::State { n, part, parts, users } => {
                if let Some(users) = peer.take_state(n, part, parts, users) {
                    let users = users.iter().filter_map(UserLine::read).collect();
                    self.tell_hub(FromNodes::State { node, users });
                }
            }
            Packet::Typing { room, who } => {
                if let Ok(room) = RoomName::parse(&room) {
                    self.tell_hub(FromNodes::Typing { room, who: who.0 });
                }
            }
            Packet::Ask { node } => self.is_asked |= node.is_none_or(|node| node.0 == self.id),
            Packet::Bye {} => {}
        }
        if self.peers.get_mut(&node).is_some_and(|peer| peer.must_ask(now)) {
            self.send(&Packet::Ask { node: Some(HexNode(node)) });
        }
        if self.peers.len() != peers {
            self.metrics.set_nodes(self.peers.len() + 1);
        }
    }

    fn remove(&mut self, node: NodeId, reason: &str) {
        if self.peers.remove(&node).is_some() {
            info!("the node {} {reason}; removing its users", id(node));
            self.metrics.set_nodes(self.peers.len() + 1);
            self.tell_hub(FromNodes::Gone(node));
        }
    }

    /// Takes another mark if a node has the same one. Of two nodes, the one with the greater id
    /// does so.
    fn avoid_mark_of(&mut self, node: NodeId) {
        let mark = self.peers.get(&node).and_then(|peer| peer.mark);
        if mark != Some(self.mark) || node > self.id {
            return;
        }
        let is_used = |mark| self.peers.values().any(|peer| peer.mark == Some(mark));
        let first = random();
        let marks = (0..u64::from(NodeMark::COUNT)).map(|i| NodeMark::new(first.wrapping_add(i)));
        self.mark = marks.into_iter().find(|mark| !is_used(*mark)).unwrap_or(self.mark);
        self.tell_hub(FromNodes::Mark(self.mark));
        self.send_heartbeat();
    }
}

impl Actor for Gossip {
    type Context = Context<Self>;
}

impl Handler<FollowNodes> for Gossip {
    type Result = ();

    fn handle(&mut self, FollowNodes(hub): FollowNodes, ctx: &mut Self::Context) {
        self.hub = Some(hub);
        self.metrics.set_nodes(1);
        let Some(mut queued) = self.queued.take() else { return };
        let (link, subject) = (self.link.clone(), self.subject());
        let (sender, sent) = oneshot::channel();
        self.sent = Some(sent);
        actix::spawn(async move {
            while let Some(packet) = queued.recv().await {
                // What is sent while NATS is away would come late and all at once.
                if link.is_connected()
                    && let Err(error) = link.client.publish(subject.clone(), packet).await
                {
                    debug!("a packet for the other nodes is lost: {error}");
                }
            }
            let bye = link.client.publish(subject, Packet::Bye {}.encode().into());
            if link.is_connected() && bye.await.is_ok() {
                let _ = link.client.flush().await;
            }
            drop(sender);
        });
        self.subscribe(ctx);
        ctx.run_interval(TICK, |gossip, _| gossip.tick());
    }
}

impl Handler<TellNodes> for Gossip {
    type Result = ();

    fn handle(&mut self, tell: TellNodes, _: &mut Self::Context) {
        match tell {
            TellNodes::Changed(change) => {
                self.users.apply(&change);
                self.changes.push(change);
            }
            TellNodes::Forget(who) => self.users.forget(who),
            TellNodes::Typing { room, who } if !self.peers.is_empty() => {
                let (room, who) = (room.as_str().into(), HexIdentity(who));
                self.send(&Packet::Typing { room, who });
            }
            TellNodes::Typing { .. } => {}
        }
    }
}

impl Handler<SayBye> for Gossip {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: SayBye, _: &mut Self::Context) -> Self::Result {
        self.queue = None;
        let sent = self.sent.take();
        Box::pin(async move {
            if let Some(sent) = sent
                && timeout(BYE_TIMEOUT, sent).await.is_err()
            {
                debug!("the other nodes may not know yet that this one stops");
            }
        })
    }
}

/// Returns an id as it is logged.
fn id(node: NodeId) -> String {
    HexNode(node).into()
}

/// What a packet tells about a node.
pub(super) enum SignOfLife {
    /// The node runs.
    Runs {
        node: NodeId,
        /// Its name, or its id if it has none.
        name: String,
        /// The last record that its history file has.
        position: u64,
    },
    /// The node stops.
    Stopped(NodeId),
}

/// Returns what a message on the subject of the packets tells about its node.
pub(super) fn sign_of_life(message: &NatsMessage) -> Option<SignOfLife> {
    let id = sender(message)?;
    match Packet::decode(&message.payload)? {
        Packet::Heartbeat(Heartbeat { name, after, .. }) => Some(SignOfLife::Runs {
            node: id.0,
            name: name.unwrap_or_else(|| id.into()),
            position: after,
        }),
        Packet::Bye {} => Some(SignOfLife::Stopped(id.0)),
        Packet::Changes { .. }
        | Packet::State { .. }
        | Packet::Typing { .. }
        | Packet::Ask { .. } => None,
    }
}

/// Returns the node that has sent a packet. It is the last part of the subject.
fn sender(message: &NatsMessage) -> Option<HexNode> {
    let id = message.subject.rsplit('.').next()?;
    HexNode::try_from(id.to_owned()).ok()
}

impl StreamHandler<NatsMessage> for Gossip {
    fn handle(&mut self, message: NatsMessage, _: &mut Self::Context) {
        let node = sender(&message).filter(|node| node.0 != self.id);
        if let Some((HexNode(node), packet)) = node.zip(Packet::decode(&message.payload)) {
            self.take(node, packet);
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        self.subscribe(ctx);
    }
}
