//! Faults of the connection between a node and NATS.

use std::time::{Duration, Instant};

use serde_json::json;

use super::log::stop;
use super::nats::Version;
use super::proxy::Proxy;
use super::{Cluster, export, join, say, trouble, with_each_nats};
use crate::harness::{eventually, within};
use crate::json::JsonClient;
use crate::program::Program;

with_each_nats!(
    connection_that_is_reset_loses_and_repeats_nothing,
    message_in_flight_during_a_short_outage_is_committed_once,
    node_that_receives_nothing_from_nats_becomes_unready,
    idle_node_without_nats_becomes_unready,
    client_that_is_ahead_of_a_node_resumes_there_without_a_gap,
);

/// A node `a` behind a proxy, and a node `b`.
struct Nodes {
    cluster: Cluster,
    proxy: Proxy,
    a: Program,
    b: Program,
}

impl Nodes {
    async fn start(version: Version) -> Self {
        let cluster = Cluster::start(version).await;
        let proxy = Proxy::start(cluster.nats.addr()).await;
        let b = cluster.node("b").await;
        let a = cluster.node_at(&proxy.url(), "a").await;
        Self { cluster, proxy, a, b }
    }

    /// Stops both nodes, and compares their history files. Returns the texts.
    async fn stop(self) -> Vec<String> {
        stop([self.a, self.b]).await;
        let all = export(&self.cluster.db("a")).await;
        assert_eq!(export(&self.cluster.db("b")).await, all);
        all.iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect()
    }
}

async fn send(client: &mut JsonClient, text: &str) {
    client.send(&[json!({"type": "say", "room": "tea", "text": text, "id": text})]).await;
}

/// Connects a client that has no key. It can join, and read what the node has.
async fn join_to_read(node: &Program) -> JsonClient {
    let mut client =
        JsonClient::hello(node.addr, json!({"nick": "Cyd", "key": "the secret key of Cyd"})).await;
    client.send(&[json!({"type": "join", "room": "tea"})]).await;
    assert_eq!(client.until("joined").await["messages"][0]["text"], "before");
    client
}

async fn assert_reads_history(client: &mut JsonClient) {
    client.send(&[json!({"type": "history", "room": "tea"})]).await;
    assert_eq!(client.until("history").await["messages"][0]["text"], "before");
}

async fn connection_that_is_reset_loses_and_repeats_nothing(version: Version) {
    const ROUNDS: usize = 6;
    let nodes = Nodes::start(version).await;
    let (mut ada, mut bob) =
        (join(&nodes.a, "Ada", "tea").await, join(&nodes.b, "Bob", "tea").await);
    for round in 0..ROUNDS {
        // Connections are reset before, after and while records pass.
        if round % 3 == 0 {
            nodes.proxy.reset();
        }
        send(&mut ada, &format!("a{round}")).await;
        if round % 3 == 1 {
            nodes.proxy.reset();
        }
        send(&mut bob, &format!("b{round}")).await;
        bob.until("said").await;
        if round % 3 == 2 {
            nodes.proxy.reset();
        }
        let said = ada.until("said").await;
        assert_eq!(said["duplicate"], false, "{said}");
    }
    // Ada receives everything that Bob has said.
    send(&mut bob, "last").await;
    while ada.until("message").await["text"] != "last" {}
    let mut texts = nodes.stop().await;
    texts.sort();
    let said = (0..ROUNDS).flat_map(|round| [format!("a{round}"), format!("b{round}")]);
    let mut expected: Vec<_> = said.chain(["last".into()]).collect();
    expected.sort();
    assert_eq!(texts, expected);
}

async fn message_in_flight_during_a_short_outage_is_committed_once(version: Version) {
    let nodes = Nodes::start(version).await;
    let (mut ada, mut bob) =
        (join(&nodes.a, "Ada", "tea").await, join(&nodes.b, "Bob", "tea").await);
    say(&mut ada, "tea", "before").await;
    nodes.proxy.hold_both();
    send(&mut ada, "during").await;
    say(&mut bob, "tea", "elsewhere").await;
    // The history of the room waits for the message in flight.
    let mut cyd = join_to_read(&nodes.a).await;
    // The length of the outage: shorter than the time after which messages are refused.
    tokio::time::sleep(Duration::from_secs(4)).await;
    nodes.proxy.heal();
    let answer = loop {
        let line = ada.next().await.unwrap();
        if line["type"] != "message" {
            break line;
        }
    };
    assert_eq!((&answer["type"], &answer["duplicate"]), (&json!("said"), &json!(false)));
    assert_eq!(bob.until("message").await["text"], "during");
    assert_reads_history(&mut cyd).await;
    assert_eq!(nodes.stop().await, ["before", "elsewhere", "during"]);
}

async fn node_that_receives_nothing_from_nats_becomes_unready(version: Version) {
    let nodes = Nodes::start(version).await;
    let (mut ada, mut bob) =
        (join(&nodes.a, "Ada", "tea").await, join(&nodes.b, "Bob", "tea").await);
    say(&mut ada, "tea", "before").await;
    assert_eq!(trouble(&nodes.a).await, None);
    let began = Instant::now();
    nodes.proxy.hold_answers();
    // It reaches NATS, and so the other node, but this node does not know it.
    send(&mut ada, "during").await;
    while bob.until("message").await["text"] != "during" {}
    say(&mut bob, "tea", "elsewhere").await;
    eventually("the node to be unready", async || trouble(&nodes.a).await.is_some()).await;
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(trouble(&nodes.b).await, None);
    let mut cyd = join_to_read(&nodes.a).await;
    assert_reads_history(&mut cyd).await;
    nodes.proxy.heal();
    let said = ada.until("said").await;
    assert_eq!(said["duplicate"], false, "{said}");
    eventually("the node to be ready", async || trouble(&nodes.a).await.is_none()).await;
    assert_eq!(nodes.stop().await, ["before", "during", "elsewhere"]);
}

async fn idle_node_without_nats_becomes_unready(version: Version) {
    let mut nodes = Nodes::start(version).await;
    let (mut ada, mut bob) =
        (join(&nodes.a, "Ada", "tea").await, join(&nodes.b, "Bob", "tea").await);
    say(&mut ada, "tea", "before").await;
    nodes.proxy.hold_both();
    eventually("the node to be unready", async || trouble(&nodes.a).await.is_some()).await;
    // Nothing is in flight, so all messages are refused at once.
    send(&mut ada, "refused").await;
    assert_eq!(ada.until("error").await["code"], "busy");
    say(&mut bob, "tea", "elsewhere").await;
    nodes.proxy.heal();
    while ada.until("message").await["text"] != "elsewhere" {}
    eventually("the node to be ready", async || trouble(&nodes.a).await.is_none()).await;
    say(&mut ada, "tea", "after").await;
    nodes.a.signal("-TERM");
    // An outage may last for hours, so a problem is not logged at every attempt.
    let mut logged = 0;
    while let Some(line) = within("the log", nodes.a.log.next_line()).await.unwrap() {
        logged += usize::from(line.contains("reading the log in NATS again: not connected"));
    }
    assert!(logged <= 2, "{logged}");
    assert_eq!(nodes.stop().await, ["before", "elsewhere", "after"]);
}

/// Resumes on a node that does not receive what the client has received on the other node.
async fn client_that_is_ahead_of_a_node_resumes_there_without_a_gap(version: Version) {
    let nodes = Nodes::start(version).await;
    let mut bob =
        JsonClient::hello(nodes.b.addr, json!({"nick": "Bob", "key": "the secret key of Bob"}))
            .await;
    bob.send(&[json!({"type": "join", "room": "tea"})]).await;
    let epoch = bob.until("joined").await["epoch"].clone();
    // The first node has applied this, and receives nothing after it.
    let mut ada = join(&nodes.a, "Ada", "tea").await;
    let before = say(&mut ada, "tea", "before").await;
    while bob.until("message").await["text"] != "before" {}
    nodes.proxy.hold_answers();
    let known = say(&mut bob, "tea", "known").await;
    let missed = say(&mut bob, "tea", "missed").await;
    assert!(before < known && known < missed);

    let mut hopper =
        JsonClient::hello(nodes.a.addr, json!({"nick": "Cyd", "key": "the secret key of Cyd"}))
            .await;
    let after = json!({"epoch": epoch, "seq": known});
    hopper.send(&[json!({"type": "join", "room": "tea", "after": after})]).await;
    // The node has received the join, and does not answer it.
    let answer = tokio::time::timeout(Duration::from_millis(300), hopper.next()).await;
    assert!(answer.is_err(), "{answer:?}");
    nodes.proxy.heal();
    let joined = hopper.expect("joined").await;
    assert_eq!(joined["recovered"], true, "{joined}");
    // What the node applied before it answered is in the answer, and what comes later follows.
    let seq = if joined["messages"] == json!([]) {
        hopper.until("message").await["seq"].clone()
    } else {
        joined["messages"][0]["seq"].clone()
    };
    assert_eq!(seq, missed, "{joined}");

    // Nothing has this sequence number, so the answer comes after two seconds.
    let began = Instant::now();
    let after = json!({"epoch": epoch, "seq": (1_u64 << 53) - 1});
    hopper.send(&[json!({"type": "join", "room": "tea", "after": after})]).await;
    let joined = hopper.until("joined").await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(false), &json!(missed)));
    assert_eq!(nodes.stop().await, ["before", "known", "missed"]);
}
