//! Who is in a room: nodes inform each other of their users.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::log::stop;
use super::nats::Version;
use super::proxy::Proxy;
use super::{Cluster, join, say, trouble, with_each_nats};
use crate::harness::{Client, eventually, raw_http, within};
use crate::json::JsonClient;
use crate::program::Program;

with_each_nats!(
    members_of_all_nodes_are_in_joined_members_and_presence,
    users_of_a_killed_node_leave_after_some_seconds,
    members_who_were_missed_are_fetched,
    both_sides_of_a_partition_forget_and_learn_each_other,
    nodes_whose_histories_differ_notice_it_in_a_quiet_chat;
    only with the current one:
    user_on_two_nodes_is_one_member_with_one_name,
    typing_reaches_the_members_on_other_nodes,
    typing_in_a_large_room_is_not_forwarded,
    large_room_has_an_exact_count_on_all_nodes,
    user_of_a_killed_node_who_is_on_another_node_stays,
    users_of_a_stopped_node_leave_and_return,
    node_that_was_stopped_forgets_a_killed_node_as_usual,
    users_of_a_node_that_shuts_down_leave_at_once,
    node_that_starts_knows_the_users_of_the_others,
    connections_that_are_reset_lose_no_change,
    node_whose_presence_is_not_received_leaves_and_returns,
    node_that_receives_no_presence_forgets_the_others_and_learns_them_again,
    without_nats_clients_join_and_see_the_members_of_their_node,
    members_of_all_nodes_count_against_the_limit_of_a_room,
    read_mark_reaches_the_clients_and_counts_of_other_nodes,
    read_mark_reaches_a_node_that_was_away,
    metric_counts_the_live_nodes,
);

/// The nodes remember a silent node for 5 seconds, and the last sign of life of a node is at most a
/// second older than its end. The rest is for a busy machine.
const FORGETTING: std::ops::Range<Duration> = Duration::from_secs(3)..Duration::from_secs(10);

/// Nodes `a` and `c` behind proxies, and a node `b`.
pub(super) struct ProxiedNodes {
    pub(super) a_proxy: Proxy,
    pub(super) c_proxy: Proxy,
    pub(super) a: Program,
    pub(super) b: Program,
    pub(super) c: Program,
    _cluster: Cluster,
}

impl ProxiedNodes {
    pub(super) async fn start(version: Version) -> Self {
        let cluster = Cluster::start(version).await;
        let a_proxy = Proxy::start(cluster.nats.addr()).await;
        let c_proxy = Proxy::start(cluster.nats.addr()).await;
        let a = cluster.node_at(&a_proxy.url(), "a").await;
        let b = cluster.node("b").await;
        let c = cluster.node_at(&c_proxy.url(), "c").await;
        Self { a_proxy, c_proxy, a, b, c, _cluster: cluster }
    }

    /// Connects a user to each node, who receives `presence` of the room `tea`. Returns once all
    /// nodes know all of them.
    pub(super) async fn watchers(&self) -> [JsonClient; 3] {
        watchers([&self.a, &self.b, &self.c]).await
    }
}

/// The names of [`watchers`].
pub(super) const WATCHERS: [&str; 3] = ["Wanda", "Wes", "Wilma"];

/// Connects a user to each node, who receives `presence` of the room `tea`. Returns once all nodes
/// know all of them.
pub(super) async fn watchers(nodes: [&Program; 3]) -> [JsonClient; 3] {
    let mut watchers = [
        watch(nodes[0], WATCHERS[0]).await,
        watch(nodes[1], WATCHERS[1]).await,
        watch(nodes[2], WATCHERS[2]).await,
    ];
    all_know(&mut watchers, "tea", &WATCHERS).await;
    watchers
}

/// Connects a user who receives `presence`, and joins the room `tea`.
async fn watch(node: &Program, nick: &str) -> JsonClient {
    let mut client = join(node, nick, "tea").await;
    client.receives_presence = true;
    client
}

/// Returns the members of a room as a node knows them, sorted, and their number.
pub(super) async fn members(client: &mut JsonClient, room: &str) -> (Vec<String>, u64) {
    client.send(&[json!({"type": "who", "room": room})]).await;
    let answer = client.until("members").await;
    (sorted(&answer["members"]), answer["member_count"].as_u64().unwrap())
}

fn sorted(names: &Value) -> Vec<String> {
    let names = names.as_array().unwrap().iter();
    let mut names: Vec<_> = names.map(|name| name.as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Waits until the nodes of all these clients know exactly these members.
#[track_caller]
pub(super) fn all_know(
    clients: &mut [JsonClient],
    room: &str,
    names: &[&str],
) -> impl Future<Output = ()> {
    let mut expected: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    expected.sort();
    let count = names.len() as u64;
    let mut last = Vec::new();
    eventually(format!("all nodes to know {names:?} in {room}"), async move || {
        let mut known = Vec::new();
        for client in clients.iter_mut() {
            known.push(members(client, room).await);
        }
        let is_done = known.iter().all(|known| *known == (expected.clone(), count));
        if !is_done && known != last {
            // The output of a test that fails shows it.
            eprintln!("the nodes know {known:?}");
            last = known;
        }
        is_done
    })
}

/// Waits until `presence` says that a user has joined. Returns the number of members.
#[track_caller]
pub(super) fn until_joined(client: &mut JsonClient, name: &str) -> impl Future<Output = u64> {
    until_presence(client, "joined", name)
}

/// Waits until `presence` says that a user has left. Returns the number of members.
#[track_caller]
pub(super) fn until_left(client: &mut JsonClient, name: &str) -> impl Future<Output = u64> {
    until_presence(client, "left", name)
}

#[track_caller]
fn until_presence(client: &mut JsonClient, list: &str, name: &str) -> impl Future<Output = u64> {
    assert!(client.receives_presence);
    within(format!("presence that {name} has {list}"), async move {
        loop {
            let presence = client.until("presence").await;
            if presence[list].as_array().unwrap().iter().any(|listed| listed == name) {
                return presence["member_count"].as_u64().unwrap();
            }
        }
    })
}

/// Leaves the room `tea`, and waits for the answer.
async fn leave(client: &mut JsonClient) {
    client.send(&[json!({"type": "leave", "room": "tea"})]).await;
    client.until("left").await;
}

async fn members_of_all_nodes_are_in_joined_members_and_presence(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut wanda = watch(&b, "Wanda").await;
    let mut ada = watch(&a, "Ada").await;
    assert_eq!(until_joined(&mut wanda, "Ada").await, 2);
    let mut cyd = JsonClient::hello(b.addr, json!({"nick": "Cyd"})).await;
    cyd.send(&[json!({"type": "join", "room": "tea"})]).await;
    let joined = cyd.until("joined").await;
    assert_eq!(sorted(&joined["members"]), ["Ada", "Cyd", "Wanda"]);
    assert_eq!(joined["member_count"], 3);
    assert_eq!(until_joined(&mut ada, "Cyd").await, 3);
    assert_eq!(until_joined(&mut wanda, "Cyd").await, 3);
    let text = Client::connect(c.addr, "room=tea&nick=Tex").await;
    for client in [&mut wanda, &mut ada] {
        assert_eq!(until_joined(client, "Tex").await, 4);
    }
    drop(text);
    leave(&mut ada).await;
    until_left(&mut wanda, "Ada").await;
    all_know(&mut [wanda, cyd], "tea", &["Cyd", "Wanda"]).await;
}

async fn user_on_two_nodes_is_one_member_with_one_name(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut wes = watch(&c, "Wes").await;
    let mut on_a = watch(&a, "Ada").await;
    assert_eq!(until_joined(&mut wes, "Ada").await, 2);
    let mut on_b = watch(&b, "Ada").await;
    let mut bob = join(&b, "Bob", "tea").await;
    // Nobody else has joined before Bob.
    let presence = within("presence of Bob", wes.until("presence")).await;
    let expected = json!({
        "type": "presence", "room": "tea", "joined": ["Bob"], "left": [], "member_count": 3
    });
    assert_eq!(presence, expected);
    // One of her clients leaves. The node tells it before it tells that the next user has joined.
    leave(&mut on_a).await;
    let cyd = join(&a, "Cyd", "tea").await;
    let presence = wes.until("presence").await;
    assert_eq!((&presence["joined"], &presence["left"]), (&json!(["Cyd"]), &json!([])));
    assert_eq!(presence["member_count"], 4);

    // A new name at one node is her name at all.
    on_a.send(&[json!({"type": "join", "room": "tea"})]).await;
    on_a.until("joined").await;
    on_a.send(&[json!({"type": "nick", "nick": "Ada L."})]).await;
    assert_eq!(on_a.until("welcome").await["nick"], "Ada L.");
    assert_eq!(on_b.until("welcome").await["nick"], "Ada L.");
    for client in [&mut bob, &mut wes, &mut on_b] {
        let renamed = client.until("renamed").await;
        assert_eq!((&renamed["from"], &renamed["to"]), (&json!("Ada"), &json!("Ada L.")));
    }
    // So is one in `hello`, and a client without a name has it at a third node.
    let key = "the secret key of Ada";
    let _third = JsonClient::hello(b.addr, json!({"nick": "Ada M.", "key": key})).await;
    assert_eq!(on_a.until("welcome").await["nick"], "Ada M.");
    for client in [&mut bob, &mut wes] {
        let renamed = client.until("renamed").await;
        assert_eq!((&renamed["from"], &renamed["to"]), (&json!("Ada L."), &json!("Ada M.")));
    }
    let mut on_c = JsonClient::connect(c.addr).await;
    on_c.send(&[json!({"type": "hello", "key": key}), json!({"type": "join", "room": "tea"})])
        .await;
    assert_eq!(on_c.until("welcome").await["nick"], "Ada M.");
    let joined = on_c.until("joined").await;
    assert_eq!(joined["member_count"], 4);
    assert_eq!(sorted(&joined["members"]), ["Ada M.", "Bob", "Cyd", "Wes"]);
    // Her messages have this name, too.
    on_b.send(&[json!({"type": "say", "room": "tea", "text": "hello"})]).await;
    assert_eq!(wes.until("message").await["nick"], "Ada M.");

    // She leaves with her last client.
    for client in [&mut on_a, &mut on_b] {
        leave(client).await;
    }
    let mut others = [bob, cyd];
    all_know(&mut others, "tea", &["Ada M.", "Bob", "Cyd", "Wes"]).await;
    leave(&mut on_c).await;
    assert_eq!(until_left(&mut wes, "Ada M.").await, 3);
}

async fn typing_reaches_the_members_on_other_nodes(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    let mut other_room = join(&b, "Bob", "coffee").await;
    watchers[0].send(&[json!({"type": "typing", "room": "tea"})]).await;
    let expected = json!({"type": "typing", "room": "tea", "nick": WATCHERS[0]});
    for watcher in &mut watchers[1..] {
        assert_eq!(watcher.until("typing").await, expected);
    }
    // The author and members of other rooms do not receive it.
    say(&mut other_room, "coffee", "first").await;
    for (client, room) in [(&mut watchers[0], "tea"), (&mut other_room, "coffee")] {
        client.send(&[json!({"type": "who", "room": room})]).await;
        let mut line = client.next().await.unwrap();
        while line["type"] != "members" {
            assert_ne!(line["type"], "typing");
            line = within("members", client.next()).await.unwrap();
        }
    }
}

async fn typing_in_a_large_room_is_not_forwarded(version: Version) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut ada, mut bob) = (watch(&a, "Ada").await, watch(&b, "Bob").await);
    let mut others = Vec::new();
    for n in 0..100 {
        let node = if n % 2 == 0 { &a } else { &b };
        others.push(Client::connect(node.addr, "room=tea").await);
    }
    for client in [&mut ada, &mut bob] {
        eventually("a large room", async || members(client, "tea").await.1 == 102).await;
    }
    ada.send(&[json!({"type": "typing", "room": "tea"})]).await;
    leave(&mut ada).await;
    let leaves = async {
        loop {
            let line = bob.next().await.unwrap();
            assert_ne!(line["type"], "typing");
            let left = line["left"].as_array();
            if left.is_some_and(|left| left.iter().any(|name| name == "Ada")) {
                break;
            }
        }
    };
    within("Ada to leave", leaves).await;
}

async fn large_room_has_an_exact_count_on_all_nodes(version: Version) {
    const OTHERS: u64 = 120;
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    let mut others = Vec::new();
    for n in 0..OTHERS {
        let node = [&a, &b, &c][n as usize % 3];
        others.push(Client::connect(node.addr, &format!("room=tea&nick=n{n}")).await);
    }
    for watcher in &mut watchers {
        let is_told = async { while watcher.until("presence").await["member_count"] != 123 {} };
        within("presence with the count", is_told).await;
        let (names, count) = members(watcher, "tea").await;
        assert_eq!((names.len(), count), (100, OTHERS + 3));
    }
    drop(others);
    for watcher in &mut watchers {
        let is_told = async { while watcher.until("presence").await["member_count"] != 3 {} };
        within("presence with the count", is_told).await;
    }
    all_know(&mut watchers, "tea", &WATCHERS).await;
}

async fn users_of_a_killed_node_leave_after_some_seconds(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let [mut on_a, mut on_b, _on_c] = watchers([&a, &b, &c]).await;
    let text = Client::connect(c.addr, "room=tea&nick=Tex").await;
    until_joined(&mut on_a, "Tex").await;
    until_joined(&mut on_b, "Tex").await;
    c.kill().await;
    let killed = Instant::now();
    // A node that is silent for a moment stays.
    for client in [&mut on_a, &mut on_b] {
        assert_eq!(members(client, "tea").await.1, 4);
    }
    for client in [&mut on_a, &mut on_b] {
        until_left(client, WATCHERS[2]).await;
        assert!(FORGETTING.contains(&killed.elapsed()), "{:?}", killed.elapsed());
        eventually("all of its users to leave", async || members(client, "tea").await.1 == 2).await;
    }
    drop(text);
    // Its names are free, and its users return with it.
    let c = cluster.node("c").await;
    let on_c = watch(&c, WATCHERS[2]).await;
    until_joined(&mut on_a, WATCHERS[2]).await;
    all_know(&mut [on_a, on_b, on_c], "tea", &WATCHERS).await;
}

async fn user_of_a_killed_node_who_is_on_another_node_stays(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    let mut ada = [join(&b, "Ada", "tea").await, join(&c, "Ada", "tea").await];
    until_joined(&mut watchers[0], "Ada").await;
    c.kill().await;
    let mut left = Vec::new();
    while !left.contains(&json!(WATCHERS[2])) {
        let presence = within("presence", watchers[0].until("presence")).await;
        left.extend(presence["left"].as_array().unwrap().clone());
    }
    assert_eq!(left, [json!(WATCHERS[2])]);
    let [on_a, on_b, _] = watchers;
    all_know(&mut [on_a, on_b], "tea", &["Ada", WATCHERS[0], WATCHERS[1]]).await;
    // Her client at the other node has still joined.
    say(&mut ada[0], "tea", "still here").await;
}

async fn users_of_a_stopped_node_leave_and_return(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    b.signal("-STOP");
    let stopped = Instant::now();
    for n in [0, 2] {
        until_left(&mut watchers[n], WATCHERS[1]).await;
        assert!(FORGETTING.contains(&stopped.elapsed()), "{:?}", stopped.elapsed());
    }
    // These changes are not missed by the stopped node.
    leave(&mut watchers[2]).await;
    let ada = join(&c, "Ada", "tea").await;
    b.signal("-CONT");
    until_joined(&mut watchers[0], WATCHERS[1]).await;
    let [on_a, on_b, _] = watchers;
    all_know(&mut [on_a, on_b, ada], "tea", &["Ada", WATCHERS[0], WATCHERS[1]]).await;
}

/// After it continues, a node first considers all others to be alive, because it heard nobody.
async fn node_that_was_stopped_forgets_a_killed_node_as_usual(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    b.signal("-STOP");
    until_left(&mut watchers[0], WATCHERS[1]).await;
    // Meanwhile it stays stopped for longer than it remembers others.
    let text = Client::connect(c.addr, "room=tea&nick=Tex").await;
    until_joined(&mut watchers[0], "Tex").await;
    b.signal("-CONT");
    c.kill().await;
    let killed = Instant::now();
    until_left(&mut watchers[1], WATCHERS[2]).await;
    assert!(killed.elapsed() < FORGETTING.end, "{:?}", killed.elapsed());
    let [on_a, on_b, _] = watchers;
    all_know(&mut [on_a, on_b], "tea", &WATCHERS[..2]).await;
    drop(text);
}

async fn users_of_a_node_that_shuts_down_leave_at_once(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, mut c] = cluster.three_nodes().await;
    let [on_a, on_b, _on_c] = &mut watchers([&a, &b, &c]).await;
    let began = Instant::now();
    c.signal("-TERM");
    for client in [on_a, on_b] {
        assert_eq!(until_left(client, WATCHERS[2]).await, 2);
    }
    // A node that is only silent is forgotten later.
    assert!(began.elapsed() < FORGETTING.start, "{:?}", began.elapsed());
    assert_eq!(c.exit_code().await, Some(0));
}

async fn node_that_starts_knows_the_users_of_the_others(version: Version) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (ada, bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    let c = cluster.node("c").await;
    // Nobody has joined or left since it started.
    let cyd = join(&c, "Cyd", "tea").await;
    all_know(&mut [ada, bob, cyd], "tea", &["Ada", "Bob", "Cyd"]).await;
}

/// Waits until a proxy has discarded so many messages that a change is among them: a node sends
/// one other message a second, and a change after 50 ms.
async fn until_changes_were_dropped(proxy: &Proxy) {
    let before = proxy.dropped();
    eventually("messages to be dropped", async || proxy.dropped() >= before + 3).await;
}

async fn members_who_were_missed_are_fetched(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    let mut tessa = join(&nodes.a, "Tessa", "tea").await;
    until_joined(&mut watchers[1], "Tessa").await;
    // What the node sends.
    nodes.a_proxy.drop_sent_presence();
    leave(&mut tessa).await;
    let _ada = join(&nodes.a, "Ada", "tea").await;
    until_changes_were_dropped(&nodes.a_proxy).await;
    nodes.a_proxy.drop_nothing();
    let names = [&WATCHERS[..], &["Ada"]].concat();
    all_know(&mut watchers, "tea", &names).await;
    // What the node should receive.
    nodes.a_proxy.drop_received_presence();
    let mut bob = join(&nodes.b, "Bob", "tea").await;
    leave(&mut watchers[2]).await;
    until_changes_were_dropped(&nodes.a_proxy).await;
    nodes.a_proxy.drop_nothing();
    let [on_a, on_b, on_c] = watchers;
    let names = ["Ada", "Bob", WATCHERS[0], WATCHERS[1]];
    let mut watchers = [on_a, on_b];
    all_know(&mut watchers, "tea", &names).await;
    leave(&mut bob).await;
    all_know(&mut watchers, "tea", &["Ada", WATCHERS[0], WATCHERS[1]]).await;
    drop(on_c);
}

async fn connections_that_are_reset_lose_no_change(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    let mut names = WATCHERS.map(str::to_owned).to_vec();
    let mut others = Vec::new();
    for round in 0..6 {
        let (node, proxy) =
            if round % 2 == 0 { (&nodes.a, &nodes.a_proxy) } else { (&nodes.c, &nodes.c_proxy) };
        let (gone, stays) = (format!("Gone{round}"), format!("Stays{round}"));
        let mut leaver = join(node, &gone, "tea").await;
        proxy.reset();
        others.push(join(node, &stays, "tea").await);
        leave(&mut leaver).await;
        names.push(stays);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        all_know(&mut watchers, "tea", &names).await;
    }
}

async fn node_whose_presence_is_not_received_leaves_and_returns(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    nodes.a_proxy.drop_sent_presence();
    let began = Instant::now();
    for watcher in &mut watchers[1..] {
        assert_eq!(until_left(watcher, WATCHERS[0]).await, 2);
        assert!(FORGETTING.contains(&began.elapsed()), "{:?}", began.elapsed());
    }
    // It still receives the others.
    assert_eq!(members(&mut watchers[0], "tea").await.1, 3);
    let bob = join(&nodes.b, "Bob", "tea").await;
    until_joined(&mut watchers[0], "Bob").await;
    nodes.a_proxy.drop_nothing();
    for watcher in &mut watchers[1..] {
        assert_eq!(until_joined(watcher, WATCHERS[0]).await, 4);
    }
    all_know(&mut watchers, "tea", &[&WATCHERS[..], &["Bob"]].concat()).await;
    drop(bob);
}

async fn node_that_receives_no_presence_forgets_the_others_and_learns_them_again(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    nodes.a_proxy.drop_received_presence();
    let began = Instant::now();
    for other in &WATCHERS[1..] {
        let known = async || !members(&mut watchers[0], "tea").await.0.contains(&(*other).into());
        eventually("the node to forget the others", known).await;
        assert!(FORGETTING.contains(&began.elapsed()), "{:?}", began.elapsed());
    }
    // The others still receive it.
    for watcher in &mut watchers[1..] {
        assert_eq!(members(watcher, "tea").await.1, 3);
    }
    let ada = join(&nodes.a, "Ada", "tea").await;
    until_joined(&mut watchers[1], "Ada").await;
    nodes.a_proxy.drop_nothing();
    all_know(&mut watchers, "tea", &[&WATCHERS[..], &["Ada"]].concat()).await;
    drop(ada);
}

async fn both_sides_of_a_partition_forget_and_learn_each_other(version: Version) {
    let nodes = ProxiedNodes::start(version).await;
    let mut watchers = nodes.watchers().await;
    nodes.a_proxy.hold_both();
    eventually("both to leave", async || members(&mut watchers[0], "tea").await.1 == 1).await;
    until_left(&mut watchers[1], WATCHERS[0]).await;
    let (ada, bob) = (join(&nodes.a, "Ada", "tea").await, join(&nodes.b, "Bob", "tea").await);
    until_joined(&mut watchers[2], "Bob").await;
    let (on_a, on_b) = (members(&mut watchers[0], "tea").await, members(&mut watchers[1], "tea"));
    assert_eq!(on_a, (vec!["Ada".into(), WATCHERS[0].into()], 2));
    assert_eq!(on_b.await, (vec!["Bob".into(), WATCHERS[1].into(), WATCHERS[2].into()], 3));
    nodes.a_proxy.heal();
    all_know(&mut watchers, "tea", &[&WATCHERS[..], &["Ada", "Bob"]].concat()).await;
    drop((ada, bob));
}

async fn without_nats_clients_join_and_see_the_members_of_their_node(version: Version) {
    let mut cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let mut watchers = watchers([&a, &b, &c]).await;
    say(&mut watchers[1], "tea", "before").await;
    while watchers[0].until("message").await["text"] != "before" {}
    cluster.nats.kill().await;
    // The other nodes are forgotten one after the other.
    eventually("both to leave", async || members(&mut watchers[0], "tea").await.1 == 1).await;
    let mut ada = JsonClient::hello(a.addr, json!({"nick": "Ada"})).await;
    ada.send(&[json!({"type": "join", "room": "tea"})]).await;
    let joined = ada.until("joined").await;
    assert_eq!(joined["messages"][0]["text"], "before");
    assert_eq!(until_joined(&mut watchers[0], "Ada").await, 2);
    ada.send(&[json!({"type": "history", "room": "tea"})]).await;
    assert_eq!(ada.until("history").await["messages"][0]["text"], "before");
    ada.send(&[json!({"type": "nick", "nick": "Ada L."})]).await;
    assert_eq!(watchers[0].until("renamed").await["to"], "Ada L.");
    cluster.nats.restart().await;
    all_know(&mut watchers, "tea", &[&WATCHERS[..], &["Ada L."]].concat()).await;
}

async fn members_of_all_nodes_count_against_the_limit_of_a_room(version: Version) {
    let cluster = Cluster::start(version).await;
    let flags = ["--max-members-per-room", "3"];
    let a = cluster.node_with("a", &flags).await;
    let b = cluster.node_with("b", &flags).await;
    let c = cluster.node_with("c", &flags).await;
    let mut watchers = watchers([&a, &b, &c]).await;
    let mut ada = JsonClient::hello(a.addr, json!({"nick": "Ada"})).await;
    ada.send(&[json!({"type": "join", "room": "tea"})]).await;
    assert_eq!(ada.expect_error("busy").await["temporary"], true);
    let mut text = Client::connect(b.addr, "room=tea").await;
    assert_eq!(text.expect_close().await.0, 1013);
    ada.send(&[json!({"type": "join", "room": "coffee"})]).await;
    ada.expect("joined").await;
    leave(&mut watchers[1]).await;
    until_left(&mut watchers[0], WATCHERS[1]).await;
    ada.send(&[json!({"type": "join", "room": "tea"})]).await;
    assert_eq!(ada.expect("joined").await["member_count"], 3);
}

/// Returns the answer to a `join` of another client of Ada.
async fn ada_joins(node: &Program) -> Value {
    let key = "the secret key of Ada";
    let mut client = JsonClient::hello(node.addr, json!({"nick": "Ada", "key": key})).await;
    client.send(&[json!({"type": "join", "room": "tea"})]).await;
    client.until("joined").await
}

async fn read_mark_reaches_the_clients_and_counts_of_other_nodes(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = cluster.three_nodes().await;
    let (mut on_a, mut on_b) = (join(&a, "Ada", "tea").await, join(&b, "Ada", "tea").await);
    let mut bob = join(&b, "Bob", "tea").await;
    let mut seqs = Vec::new();
    for text in ["one", "two", "three"] {
        seqs.push(say(&mut bob, "tea", text).await);
    }
    let read = |seq: u64| json!({"type": "read", "room": "tea", "seq": seq});
    for client in [&mut on_a, &mut on_b] {
        while client.until("message").await["text"] != "three" {}
    }
    on_a.send(&[read(seqs[1])]).await;
    assert_eq!(on_b.until("read").await, read(seqs[1]));
    // At the third node she has no client yet.
    for node in [&a, &b, &c] {
        let is_counted = async || {
            let joined = ada_joins(node).await;
            joined["read"] == seqs[1] && joined["unread"] == 1 && joined["first_unread"] == seqs[2]
        };
        eventually("the read mark", is_counted).await;
    }
    // A mark never moves back.
    on_b.send(&[read(seqs[0]), read(seqs[2])]).await;
    assert_eq!(on_a.until("read").await, read(seqs[2]));
    for node in [&a, &b, &c] {
        let is_counted = async || {
            let joined = ada_joins(node).await;
            joined["read"] == seqs[2] && joined["unread"] == 0
        };
        eventually("the read mark", is_counted).await;
    }
}

async fn read_mark_reaches_a_node_that_was_away(version: Version) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&a, "Bob", "tea").await);
    let first = say(&mut bob, "tea", "one").await;
    while ada.until("message").await["text"] != "one" {}
    b.kill().await;
    let read = |seq: u64| json!({"type": "read", "room": "tea", "seq": seq});
    ada.send(&[read(first)]).await;
    say(&mut bob, "tea", "two").await;
    let b = cluster.node("b").await;
    let is_counted = async || {
        let joined = ada_joins(&b).await;
        joined["read"] == first && joined["unread"] == 1
    };
    eventually("the read mark", is_counted).await;
}

/// Returns the value of a metric.
async fn metric(addr: SocketAddr, name: &str) -> Option<f64> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    let metrics = raw_http(addr, &request).await;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

async fn metric_counts_the_live_nodes(version: Version) {
    let cluster = Cluster::start(version).await;
    let a = cluster.node("a").await;
    let are_live = async |count: f64| {
        let is_counted = async || metric(a.addr, "chinwag_nodes").await == Some(count);
        eventually(format!("{count} nodes"), is_counted).await;
    };
    are_live(1.0).await;
    let b = cluster.node("b").await;
    are_live(2.0).await;
    let c = cluster.node("c").await;
    are_live(3.0).await;
    b.kill().await;
    are_live(2.0).await;
    // Once it answers, it also handles signals.
    drop(join(&c, "Cyd", "tea").await);
    stop([c]).await;
    are_live(1.0).await;
}

async fn nodes_whose_histories_differ_notice_it_in_a_quiet_chat(version: Version) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    say(&mut ada, "tea", "the last message").await;
    bob.until("message").await;
    stop([b]).await;
    let db = rusqlite::Connection::open(cluster.db("b")).unwrap();
    db.execute_batch("UPDATE shared_log SET chain = zeroblob(32)").unwrap();
    drop(db);
    let b = cluster.node("b").await;
    let divergences = async |node: &Program| {
        metric(node.addr, "chinwag_log_divergences_total").await.unwrap_or_default()
    };
    let is_noticed = async || divergences(&a).await + divergences(&b).await > 0.0;
    eventually("a node to notice it", is_noticed).await;
    let is_unready = async || trouble(&a).await.is_some() || trouble(&b).await.is_some();
    eventually("a node to be unready", is_unready).await;
}
