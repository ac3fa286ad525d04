//! The users of a cluster after random steps: three hubs in one process, joined by a network that
//! the test controls. Clients connect, change their names and identities, join and leave on any
//! node, while packets are late or lost and nodes are disconnected, go and restart. When everything
//! has been delivered, all nodes must have the same users under the same names.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use chinwag::domain::{Author, ClientId, Identity, MessageText, Nick, NodeMark, RoomName, Seq};
use chinwag::hub::{
    Broadcast, CatchUp, Deliver, Drain, GetStats, Hello, Join, Leave, ListRooms, Read, Register,
    Unregister, Who,
};
use chinwag::log::Log;
use chinwag::log::nodes::{
    Claim, FollowNodes, FromNodes, LocalUsers, NodeId, Nodes, TellNodes, UserChange,
};
use chinwag::protocol::{DisconnectReason, Event};
use chinwag::{Config, Hub};
use proptest::prelude::*;
use proptest::test_runner::Config as Cases;
use tokio::sync::Semaphore;

use crate::fakes::{AnswerAppend, AnswerCounts, FakeLog, log_with_read_marks_of};
use crate::harness::within;

const NODES: usize = 3;
/// Each slot belongs to a node.
const SLOTS: usize = 9;
const KEYS: usize = 3;
const ROOMS: usize = 2;

/// Names that are equal or look alike, one that can only be cut to be numbered, and one that is
/// reserved with a number after it.
const NAMES: [&str; 6] =
    ["Ada", "ada", "Аda", "Ada-2", "abcdefghijklmnopqrstuvwxyz-45678", "anonymous"];

/// The rounds of packets after which the nodes must agree.
const ROUNDS: usize = 60;

#[derive(Clone, Debug)]
enum Step {
    /// Connects a new client in a slot. A client that is still there disconnects first.
    Connect(usize),
    Disconnect(usize),
    Hello {
        slot: usize,
        key: Option<usize>,
        name: Option<usize>,
    },
    Join(usize, usize),
    Leave(usize, usize),
    Read(usize, usize, u64),
    /// Delivers the next packet from one node to another.
    Deliver(usize, usize),
    /// Loses the packets from one node to another, or transmits them again.
    Cut(usize, usize, bool),
    /// Both directions.
    Isolate(usize, bool),
    /// A node counts another one as gone.
    Gone(usize, usize),
    /// Ends a node and its clients. Another node takes its place.
    Restart(usize),
    /// Delivers everything, and compares the nodes.
    Compare,
}

fn step() -> impl Strategy<Value = Step> {
    let (slot, node) = (|| 0..SLOTS, || 0..NODES);
    let name = || proptest::option::weighted(0.8, 0..NAMES.len());
    prop_oneof![
        6 => slot().prop_map(Step::Connect),
        2 => slot().prop_map(Step::Disconnect),
        12 => (slot(), proptest::option::of(0..KEYS), name())
            .prop_map(|(slot, key, name)| Step::Hello { slot, key, name }),
        14 => (slot(), 0..ROOMS).prop_map(|(slot, room)| Step::Join(slot, room)),
        4 => (slot(), 0..ROOMS).prop_map(|(slot, room)| Step::Leave(slot, room)),
        2 => (slot(), 0..ROOMS, 1..5u64).prop_map(|(slot, room, seq)| Step::Read(slot, room, seq)),
        12 => (node(), node()).prop_map(|(from, to)| Step::Deliver(from, to)),
        4 => (node(), node(), any::<bool>()).prop_map(|(from, to, cut)| Step::Cut(from, to, cut)),
        2 => (node(), any::<bool>()).prop_map(|(node, cut)| Step::Isolate(node, cut)),
        2 => (node(), node()).prop_map(|(from, to)| Step::Gone(from, to)),
        1 => node().prop_map(Step::Restart),
        2 => Just(Step::Compare),
    ]
}

/// Takes what a hub tells the other nodes.
#[derive(Default)]
struct Teller {
    hub: Option<Recipient<FromNodes>>,
    told: Vec<TellNodes>,
}

impl Actor for Teller {
    type Context = Context<Self>;
}

impl Handler<FollowNodes> for Teller {
    type Result = ();

    fn handle(&mut self, FollowNodes(hub): FollowNodes, _: &mut Self::Context) {
        self.hub = Some(hub);
    }
}

impl Handler<TellNodes> for Teller {
    type Result = ();

    fn handle(&mut self, tell: TellNodes, _: &mut Self::Context) {
        self.told.push(tell);
    }
}

/// Returns the changes since the last call.
#[derive(Message)]
#[rtype(result = "Vec<TellNodes>")]
struct TakeTold;

impl Handler<TakeTold> for Teller {
    type Result = Vec<TellNodes>;

    fn handle(&mut self, _: TakeTold, _: &mut Self::Context) -> Vec<TellNodes> {
        std::mem::take(&mut self.told)
    }
}

/// Sends something to the hub.
#[derive(Message)]
#[rtype(result = "()")]
struct SendToHub(FromNodes);

impl Handler<SendToHub> for Teller {
    type Result = ();

    fn handle(&mut self, SendToHub(from_nodes): SendToHub, _: &mut Self::Context) {
        self.hub.as_ref().expect("the hub follows the nodes").do_send(from_nodes);
    }
}

/// What a client knows from the events that it has received.
#[derive(Clone, Debug, Default)]
struct View {
    nick: String,
    author: Option<Author>,
    /// The number of `welcome` events.
    welcomes: usize,
    /// The names of users who typed.
    typing: Vec<String>,
    /// Whether a user with the client's name was renamed. It may be the client's user.
    is_unsure: bool,
    /// The names in the client's rooms.
    rooms: BTreeMap<RoomName, BTreeSet<String>>,
    /// The last answers to `who`.
    who: HashMap<RoomName, (Vec<Nick>, usize)>,
}

impl View {
    fn apply(&mut self, event: &Event) {
        let shown = |nicks: &[Nick]| nicks.iter().map(Nick::to_string).collect::<Vec<_>>();
        match event {
            Event::Welcome { nick, author, .. } => {
                if self.author.is_some_and(|before| before != *author) {
                    // A user is not always told of its own arrival.
                    self.rooms.values_mut().for_each(|names| drop(names.replace(nick.to_string())));
                }
                (self.nick, self.author, self.is_unsure) = (nick.to_string(), Some(*author), false);
                self.welcomes += 1;
            }
            Event::Joined { room, members, .. } => {
                self.rooms.insert(room.clone(), shown(members).into_iter().collect());
            }
            Event::Left { room } => {
                self.rooms.remove(room);
            }
            Event::Presence { room, joined, left, .. } => {
                if let Some(names) = self.rooms.get_mut(room) {
                    names.retain(|name| left.iter().all(|nick| nick.as_str() != name));
                    names.extend(shown(joined));
                }
            }
            Event::Renamed { room, from, to } => {
                self.is_unsure |= from.as_str() == self.nick;
                if let Some(names) = self.rooms.get_mut(room) {
                    names.remove(from.as_str());
                    names.insert(to.to_string());
                }
            }
            Event::Members { room, members, member_count } => {
                self.who.insert(room.clone(), (members.clone(), *member_count));
            }
            Event::Typing { nick, .. } => self.typing.push(nick.to_string()),
            Event::Error(_)
            | Event::Read { .. }
            | Event::History { .. }
            | Event::Search { .. }
            | Event::Said { .. } => {}
        }
    }
}

/// A client that keeps a [`View`].
#[derive(Default)]
struct Viewer(View);

impl Actor for Viewer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(10_000);
    }
}

impl Handler<Deliver> for Viewer {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        match deliver {
            Deliver::Answer(reply) => self.0.apply(&reply.event),
            Deliver::Direct(replies) => {
                replies.iter().for_each(|reply| self.0.apply(&reply.event));
            }
            Deliver::Notices(notices) => {
                let events = notices.iter().flat_map(|notice| notice.events());
                events.for_each(|event| self.0.apply(event));
            }
            Deliver::Batch(_) | Deliver::Batches(_) | Deliver::Close(_) => {}
        }
    }
}

/// Asks a client for its view.
#[derive(Message)]
#[rtype(result = "View")]
struct GetView;

impl Handler<GetView> for Viewer {
    type Result = MessageResult<GetView>;

    fn handle(&mut self, _: GetView, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.0.clone())
    }
}

struct TestClient {
    id: ClientId,
    actor: Addr<Viewer>,
    key: Option<usize>,
    /// Whether another client of the identity, on this node, may have changed the name. Clients
    /// that are in no room are not told.
    is_unsure: bool,
}

/// A hub, and what the actor that sends its packets knows.
struct TestNode {
    id: NodeId,
    hub: Addr<Hub>,
    log: Addr<FakeLog>,
    teller: Addr<Teller>,
    /// The users of the node, as it would tell them in a state.
    users: LocalUsers,
}

/// The packets from one node to another.
#[derive(Default)]
struct Way {
    packets: VecDeque<FromNodes>,
    is_cut: bool,
    /// Whether packets were lost. The receiver needs the whole state.
    is_behind: bool,
}

struct Run {
    thread: Arbiter,
    nodes: Vec<TestNode>,
    ways: [[Way; NODES]; NODES],
    slots: [Option<TestClient>; SLOTS],
    permits: Arc<Semaphore>,
    last_node: u64,
}

fn room(number: usize) -> RoomName {
    RoomName::parse(&format!("r{number}")).unwrap()
}

fn identity(key: usize) -> Identity {
    Identity::of_key(&format!("the secret of key {key}")).unwrap()
}

fn node_of(slot: usize) -> usize {
    slot % NODES
}

impl TestNode {
    async fn start(thread: &Arbiter, id: u64) -> Self {
        let (id, teller, log) = (NodeId(id), Teller::default().start(), FakeLog::default().start());
        let (follow, tell) = (teller.clone().recipient(), teller.clone().recipient());
        let nodes = Some(Nodes { id, mark: NodeMark::new(id.0), follow, tell });
        let config = Config { batch_window: Duration::ZERO, ..Config::default() };
        let fake = Log { nodes, head: Seq::new(100), ..log_with_read_marks_of(&log) };
        let hub = Hub::start_with_log(thread, &config, fake);
        let node = Self { id, hub, log, teller, users: LocalUsers::of(id) };
        node.reach().await;
        node
    }

    /// Waits until the hub has handled everything.
    async fn reach(&self) {
        within("the hub", self.hub.send(ListRooms)).await.unwrap();
    }

    /// Returns what the other nodes would be told if they asked for everything.
    fn state(&self) -> FromNodes {
        FromNodes::State { node: self.id, users: self.users.state().cloned().collect() }
    }
}

impl Run {
    async fn start() -> Self {
        let thread = Arbiter::new();
        let mut nodes = Vec::new();
        for id in 1..=NODES as u64 {
            nodes.push(TestNode::start(&thread, id).await);
        }
        Self {
            thread,
            nodes,
            ways: Default::default(),
            slots: Default::default(),
            permits: Arc::new(Semaphore::new(10)),
            last_node: NODES as u64,
        }
    }

    /// Puts what a node has told on its ways. Returns whether it has told anything.
    async fn collect(&mut self, from: usize) -> bool {
        let node = &mut self.nodes[from];
        node.reach().await;
        let mut changes = Vec::new();
        for told in within("the teller", node.teller.send(TakeTold)).await.unwrap() {
            match told {
                TellNodes::Changed(change) => {
                    node.users.apply(&change);
                    changes.push(change);
                }
                TellNodes::Forget(who) => node.users.forget(who),
                TellNodes::Typing { .. } => {}
            }
        }
        if changes.is_empty() {
            return false;
        }
        let packet = FromNodes::Changed { node: node.id, changes };
        for (_, way) in self.ways[from].iter_mut().enumerate().filter(|(to, _)| *to != from) {
            if way.is_cut || way.is_behind {
                way.is_behind = true;
            } else {
                way.packets.push_back(packet.clone());
            }
        }
        true
    }

    async fn deliver(&mut self, from: usize, to: usize) -> bool {
        self.collect(from).await;
        let Some(packet) = self.ways[from][to].packets.pop_front() else { return false };
        let node = &self.nodes[to];
        within("the teller", node.teller.send(SendToHub(packet))).await.unwrap();
        node.reach().await;
        self.collect(to).await;
        true
    }

    async fn cut(&mut self, from: usize, to: usize, is_cut: bool) {
        if from != to {
            self.collect(from).await;
            let way = &mut self.ways[from][to];
            way.is_cut = is_cut;
            if !is_cut && std::mem::take(&mut way.is_behind) {
                way.packets.push_back(self.nodes[from].state());
            }
        }
    }

    async fn isolate(&mut self, node: usize, is_cut: bool) {
        for other in 0..NODES {
            self.cut(node, other, is_cut).await;
            self.cut(other, node, is_cut).await;
        }
    }

    /// Lets a node count another one as gone. It returns when the way is not cut any more.
    async fn go(&mut self, from: usize, to: usize) {
        if from != to {
            self.collect(from).await;
            let way = &mut self.ways[from][to];
            way.packets.push_back(FromNodes::Gone(self.nodes[from].id));
            (way.is_cut, way.is_behind) = (true, true);
        }
    }

    async fn restart(&mut self, node: usize) {
        self.collect(node).await;
        let slots = (0..SLOTS).filter(|slot| node_of(*slot) == node);
        slots.for_each(|slot| self.slots[slot] = None);
        self.last_node += 1;
        let fresh = TestNode::start(&self.thread, self.last_node).await;
        let former = std::mem::replace(&mut self.nodes[node], fresh);
        drop(within("the hub", former.hub.send(Drain { wait: false })).await.unwrap());
        for other in (0..NODES).filter(|other| *other != node) {
            // The others do not know the new node, and it knows nobody.
            let way = &mut self.ways[node][other];
            way.packets.push_back(FromNodes::Gone(former.id));
            (way.is_cut, way.is_behind) = (false, false);
            let state = self.nodes[other].state();
            let way = &mut self.ways[other][node];
            *way = Way { packets: [state].into(), ..Way::default() };
        }
    }

    async fn apply(&mut self, step: Step) {
        let reference = None;
        match step {
            Step::Connect(slot) => {
                self.disconnect(slot);
                let (id, actor) = (ClientId::next(), Viewer::default().start());
                let to = actor.clone().recipient().into();
                let hub = &self.nodes[node_of(slot)].hub;
                hub.do_send(Register { client: id, nick: Nick::anonymous(id), events: true, to });
                hub.do_send(Hello { client: id, nick: None, identity: None, reference });
                self.slots[slot] = Some(TestClient { id, actor, key: None, is_unsure: false });
            }
            Step::Disconnect(slot) => self.disconnect(slot),
            Step::Hello { slot, key, name } => {
                let Some(client) = &mut self.slots[slot] else { return };
                client.key = key.or(client.key);
                let (id, key_now) = (client.id, client.key);
                let nick = name.map(|name| Nick::parse(NAMES[name]).unwrap());
                let identity = key.map(identity);
                let hello = Hello { client: id, nick, identity, reference };
                self.nodes[node_of(slot)].hub.do_send(hello);
                for (other, client) in self.slots.iter_mut().enumerate() {
                    if let Some(client) = client
                        && node_of(other) == node_of(slot)
                    {
                        client.is_unsure |= client.key == key_now && client.id != id;
                    }
                }
            }
            Step::Join(slot, to) => {
                let Some(client) = &self.slots[slot] else { return };
                let (client, catch_up) = (client.id, CatchUp::Latest(0));
                let node = &self.nodes[node_of(slot)];
                node.hub.do_send(Join { client, room: room(to), catch_up, reference });
                // The hub asks for the count, and then for a page.
                node.reach().await;
                within("the counts", node.log.send(AnswerCounts)).await.unwrap();
                node.reach().await;
                within("the counts", node.log.send(AnswerCounts)).await.unwrap();
                node.reach().await;
            }
            Step::Leave(slot, from) => {
                let Some(client) = &self.slots[slot] else { return };
                let leave = Leave { client: client.id, room: room(from), reference };
                self.nodes[node_of(slot)].hub.do_send(leave);
            }
            Step::Read(slot, of, seq) => {
                let client = self.slots[slot].as_ref().filter(|client| client.key.is_some());
                let Some(client) = client else { return };
                let permit = Arc::clone(&self.permits).try_acquire_owned().unwrap();
                let (client, room, seq) = (client.id, room(of), Seq::new(seq));
                let node = &self.nodes[node_of(slot)];
                node.hub.do_send(Read { client, room, seq, reference, permit });
                node.reach().await;
            }
            Step::Deliver(from, to) => drop(self.deliver(from, to).await),
            Step::Cut(from, to, is_cut) => self.cut(from, to, is_cut).await,
            Step::Isolate(node, is_cut) => self.isolate(node, is_cut).await,
            Step::Gone(from, to) => self.go(from, to).await,
            Step::Restart(node) => self.restart(node).await,
            Step::Compare => self.compare().await,
        }
    }

    fn disconnect(&mut self, slot: usize) {
        if let Some(client) = self.slots[slot].take() {
            let unregister = Unregister { client: client.id, reason: DisconnectReason::Left };
            self.nodes[node_of(slot)].hub.do_send(unregister);
        }
    }

    /// Connects all nodes, and delivers packets until there are none.
    async fn settle(&mut self) {
        for node in 0..NODES {
            self.isolate(node, false).await;
        }
        for _ in 0..ROUNDS {
            let mut is_quiet = true;
            for from in 0..NODES {
                is_quiet &= !self.collect(from).await;
                for to in 0..NODES {
                    while self.deliver(from, to).await {
                        is_quiet = false;
                    }
                }
            }
            if is_quiet {
                return;
            }
        }
        panic!("the nodes do not stop to tell each other changes");
    }

    /// Returns the views of all clients, with their slots.
    async fn views(&self) -> Vec<(usize, View)> {
        let mut views = Vec::new();
        for node in &self.nodes {
            node.reach().await;
        }
        for (slot, client) in self.slots.iter().enumerate() {
            if let Some(client) = client {
                let view = within("a client", client.actor.send(GetView)).await.unwrap();
                views.push((slot, view));
            }
        }
        views
    }

    /// Compares what the clients of all nodes see when everything is delivered.
    async fn compare(&mut self) {
        self.settle().await;
        let reference = None;
        for (slot, view) in self.views().await {
            let Some(client) = &mut self.slots[slot] else { continue };
            let is_unsure = std::mem::take(&mut client.is_unsure) || view.is_unsure;
            let (client, hub) = (client.id, &self.nodes[node_of(slot)].hub);
            if is_unsure {
                let (nick, identity) = (None, None);
                hub.do_send(Hello { client, nick, identity, reference: reference.clone() });
            }
            for room in view.rooms.keys().cloned() {
                hub.do_send(Who { client, room, reference: reference.clone() });
            }
        }
        let views = self.views().await;
        // The names of the identities in each room, from what their own clients were told.
        let mut rooms: BTreeMap<RoomName, HashMap<Author, String>> = BTreeMap::new();
        for (slot, view) in &views {
            for name in view.rooms.keys() {
                let author = view.author.expect("a welcome");
                let known = rooms.entry(name.clone()).or_default();
                if let Some(other) = known.insert(author, view.nick.clone()) {
                    assert_eq!(other, view.nick, "the name of the identity in slot {slot}");
                }
            }
        }
        for (slot, view) in &views {
            for name in view.rooms.keys() {
                let (members, count) = &view.who[name];
                let mut expected: Vec<_> = rooms[name].values().cloned().collect();
                let mut shown: Vec<_> = members.iter().map(Nick::to_string).collect();
                expected.sort();
                shown.sort();
                assert_eq!(shown, expected, "who in {name} for slot {slot}");
                assert_eq!(*count, expected.len(), "the count in {name} for slot {slot}");
                let mut forms = HashSet::new();
                for nick in members {
                    let is_generated = nick.is_anonymous();
                    let own = if is_generated { [nick.as_str(); 2] } else { nick.forms() };
                    let own = HashSet::from(own.map(str::to_owned));
                    assert!(forms.is_disjoint(&own), "{members:?} in {name} look alike");
                    forms.extend(own);
                }
            }
        }
        self.compare_events().await;
    }

    /// Compares the names that clients know from events with the answers to `who`. Events may be
    /// late.
    async fn compare_events(&self) {
        let mut difference = String::new();
        for _ in 0..100 {
            difference.clear();
            for (slot, view) in self.views().await {
                for (name, known) in &view.rooms {
                    let who: BTreeSet<_> = view.who[name].0.iter().map(Nick::to_string).collect();
                    if *known != who {
                        difference += &format!("slot {slot} in {name}: {known:?}, not {who:?}; ");
                    }
                }
            }
            if difference.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("{difference}");
    }

    /// Disconnects all clients, and checks that nothing is left of them.
    async fn end(&mut self) {
        (0..SLOTS).for_each(|slot| self.disconnect(slot));
        self.settle().await;
        for node in &self.nodes {
            let stats = within("the hub", node.hub.send(GetStats)).await.unwrap();
            assert_eq!((stats.users, stats.clients, stats.rooms), (0, 0, 0));
            assert!(node.users.is_empty(), "{:?}", node.users);
        }
        for slot in 0..NODES {
            self.apply(Step::Connect(slot)).await;
            for room in 0..ROOMS {
                self.apply(Step::Join(slot, room)).await;
            }
        }
        for (slot, view) in self.views().await {
            for (name, members) in view.rooms {
                assert_eq!(members.len(), 1, "{name} of slot {slot} has {members:?}");
            }
        }
        self.thread.stop();
    }
}

async fn run(steps: Vec<Step>) {
    let mut run = Run::start().await;
    for step in steps {
        run.apply(step).await;
    }
    run.compare().await;
    run.end().await;
}

/// Returns the number of random runs. The variable `NODES_MODEL_CASES` sets another one.
fn cases() -> u32 {
    std::env::var("NODES_MODEL_CASES").map_or(60, |cases| cases.parse().unwrap())
}

#[test]
fn nodes_agree_on_users_and_names_when_everything_is_delivered() {
    let cases = Cases { cases: cases(), failure_persistence: None, ..Cases::default() };
    let steps = proptest::collection::vec(step(), 1..100);
    proptest!(cases, |(steps in steps)| {
        actix_web::rt::System::new().block_on(run(steps));
    });
}

/// Runs these steps, and compares the nodes afterwards.
fn check(steps: impl IntoIterator<Item = Step>) {
    actix_web::rt::System::new().block_on(run(steps.into_iter().collect()));
}

fn hello(slot: usize, key: Option<usize>, name: Option<usize>) -> Step {
    Step::Hello { slot, key, name }
}

#[test]
fn node_with_the_greater_claim_tells_it_to_a_node_that_does_not_know_it() {
    let before = [Step::Connect(8), Step::Connect(7), Step::Connect(1), Step::Connect(4)];
    // At node 1 the identity takes another name, which the other nodes are not told.
    let names = [hello(8, Some(2), Some(0)), Step::Join(8, 0), Step::Join(7, 0)];
    check(before.into_iter().chain(names).chain([hello(1, Some(2), None)]));
}

#[test]
fn generated_name_stays_with_the_identity_that_has_other_clients() {
    check([
        Step::Connect(0),
        Step::Connect(3),
        hello(0, Some(0), None),
        Step::Join(0, 0),
        hello(3, Some(0), None),
        hello(3, Some(1), None),
        Step::Join(3, 0),
    ]);
}

#[test]
fn name_that_is_reserved_with_a_hyphen_and_a_number_can_be_resolved() {
    let connect = [Step::Connect(0), Step::Connect(1), hello(0, None, Some(5))];
    check(connect.into_iter().chain([hello(1, None, Some(5)), Step::Join(0, 0), Step::Join(1, 0)]));
}

#[test]
fn only_member_of_a_room_is_told_that_its_former_name_has_left_with_its_identity() {
    check([Step::Connect(0), Step::Join(0, 0), hello(0, Some(0), Some(0))]);
}

#[test]
fn name_that_two_users_have_for_a_short_time_does_not_confuse_the_clients_of_other_nodes() {
    actix_web::rt::System::new().block_on(async {
        let mut run = Run::start().await;
        let steps = [
            Step::Connect(2),
            Step::Join(2, 0),
            Step::Connect(0),
            hello(0, None, Some(0)),
            Step::Compare,
            Step::Connect(1),
            hello(1, None, Some(0)),
            Step::Join(0, 0),
            Step::Join(1, 0),
            Step::Deliver(0, 2),
            Step::Deliver(1, 2),
        ];
        for step in steps {
            run.apply(step).await;
        }
        // Both users have the name at node 2 until one of their nodes renames its user.
        tokio::time::sleep(Duration::from_millis(20)).await;
        run.compare().await;
        run.end().await;
    });
}

/// A user of another node, who has entered the room 0.
fn entered(key: usize, name: usize, clock: u64) -> FromNodes {
    let (who, nick) = (identity(key), Nick::parse(NAMES[name]).unwrap());
    let (node, room) = (NodeId(99), room(0));
    let claim = Claim { clock, node };
    FromNodes::Changed { node, changes: vec![UserChange::Entered { who, room, nick, claim }] }
}

impl Run {
    /// Applies steps, and returns the view of the client in a slot.
    async fn view_after(&mut self, slot: usize, steps: impl IntoIterator<Item = Step>) -> View {
        for step in steps {
            self.apply(step).await;
        }
        let views = self.views().await;
        views.into_iter().find(|(other, _)| *other == slot).expect("a client").1
    }

    /// Lets a node receive something.
    async fn receive(&self, node: usize, from_nodes: FromNodes) {
        let node = &self.nodes[node];
        within("the teller", node.teller.send(SendToHub(from_nodes))).await.unwrap();
        node.reach().await;
    }
}

#[actix_web::test]
async fn greatest_possible_claim_of_a_broken_node_does_not_stop_the_hub() {
    let mut run = Run::start().await;
    run.receive(0, entered(0, 0, u64::MAX)).await;
    let view = run.view_after(0, [Step::Connect(0), hello(0, None, Some(3))]).await;
    assert_eq!(view.nick, "Ada-2");
    run.thread.stop();
}

#[actix_web::test]
async fn room_is_not_left_open_by_a_join_that_is_rejected_because_of_a_user_of_another_node() {
    let mut run = Run::start().await;
    run.view_after(0, [Step::Connect(0), hello(0, None, Some(0)), Step::Join(0, 0)]).await;
    let client = run.slots[0].as_ref().expect("a client").id;
    let node = &run.nodes[0];
    let said = node.hub.send(Broadcast {
        client,
        room: room(0),
        text: MessageText::parse("hello", 100).unwrap(),
        reply_to: None,
        id: None,
        reference: None,
        permit: Arc::clone(&run.permits).try_acquire_owned().unwrap(),
    });
    within("the hub", said).await.unwrap().unwrap();
    within("the log", node.log.send(AnswerAppend { success: true })).await.unwrap();
    node.reach().await;
    run.apply(Step::Leave(0, 0)).await;
    // The recent messages of the room are still in memory.
    run.receive(0, entered(0, 0, 1)).await;
    run.apply(Step::Join(0, 0)).await;
    let stats = within("the hub", run.nodes[0].hub.send(GetStats)).await.unwrap();
    assert_eq!(stats.rooms, 0);
    run.thread.stop();
}

#[actix_web::test]
async fn name_of_a_user_who_left_unnoticed_is_free_for_another_user_of_the_same_state() {
    let mut run = Run::start().await;
    let before = [
        Step::Connect(1),
        hello(1, Some(0), Some(0)),
        Step::Join(1, 0),
        Step::Connect(0),
        hello(0, Some(1), Some(4)),
        Step::Join(0, 0),
        Step::Compare,
        Step::Connect(4),
        hello(4, Some(1), None),
        Step::Join(4, 0),
        Step::Compare,
    ];
    let missed = [Step::Cut(1, 0, true), Step::Leave(1, 0), hello(4, None, Some(0))];
    let view = run.view_after(0, before.into_iter().chain(missed).chain([Step::Compare])).await;
    assert_eq!(view.nick, NAMES[0]);
    run.end().await;
}

#[actix_web::test]
async fn mark_that_a_node_has_already_is_not_told_to_its_clients() {
    let mut run = Run::start().await;
    let before = run.view_after(0, [Step::Connect(0), Step::Join(0, 0)]).await;
    run.receive(0, FromNodes::Mark(NodeMark::new(run.nodes[0].id.0))).await;
    assert_eq!(run.view_after(0, []).await.welcomes, before.welcomes);
    run.receive(0, FromNodes::Mark(NodeMark::new(77))).await;
    let after = run.view_after(0, []).await;
    assert_eq!(after.welcomes, before.welcomes + 1);
    assert_ne!(after.nick, before.nick);
    run.thread.stop();
}

#[actix_web::test]
async fn user_of_another_node_types_only_in_its_own_rooms() {
    let mut run = Run::start().await;
    let join = [Step::Connect(0), Step::Join(0, 0), Step::Join(0, 1)];
    run.view_after(0, join).await;
    run.receive(0, entered(0, 0, 1)).await;
    for room in [room(1), room(0)] {
        run.receive(0, FromNodes::Typing { room, who: identity(0) }).await;
    }
    assert_eq!(run.view_after(0, []).await.typing, ["Ada"]);
    run.thread.stop();
}

#[actix_web::test]
async fn name_is_gone_when_all_users_who_had_it_have_other_names() {
    let mut run = Run::start().await;
    run.view_after(2, [Step::Connect(2), Step::Join(2, 0)]).await;
    run.receive(2, entered(0, 0, 1)).await;
    run.receive(2, entered(1, 0, 2)).await;
    // The client must be told of both before they are renamed. There is nothing else to wait for.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let node = NodeId(99);
    let named = |(key, name): (usize, usize)| UserChange::Named {
        who: identity(key),
        nick: Nick::parse(NAMES[name]).unwrap(),
        claim: Claim { clock: 9, node },
    };
    let changes = [(0, 3), (1, 4)].map(named).into();
    run.receive(2, FromNodes::Changed { node, changes }).await;
    // Until the update of the room is due.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let names = &run.view_after(2, []).await.rooms[&room(0)];
    assert!(names.len() == 3 && !names.contains(NAMES[0]), "{names:?}");
    run.thread.stop();
}
