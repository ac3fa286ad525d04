//! Nodes that are killed and stopped while clients talk.

use std::cell::Cell;
use std::rc::Rc;

use actix_web::rt;
use serde_json::json;
use tokio::task::JoinHandle;

use super::log::stop;
use super::nats::Version;
use super::talker::{Received, Shared, Talker};
use super::{Cluster, export, join, say, with_each_nats};
use crate::harness::{eventually, within};
use crate::json::JsonClient;
use crate::program::Program;

with_each_nats!(
    message_of_a_stopped_node_that_is_repeated_on_another_node_exists_once,
    nodes_that_are_killed_lose_and_repeat_nothing,
    clients_that_move_between_nodes_see_one_order,
);

/// Returns once the node has handled all commands that the client has sent.
async fn handled(client: &mut JsonClient) {
    client.send(&[json!({"type": "join", "room": "other"})]).await;
    client.until("joined").await;
}

async fn message_of_a_stopped_node_that_is_repeated_on_another_node_exists_once(version: Version) {
    let mut cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut on_a, mut on_b) = (join(&a, "Ada", "tea").await, join(&b, "Ada", "tea").await);
    let mut expected = Vec::new();
    for round in ["killed", "stopped"] {
        let command = json!({"type": "say", "room": "tea", "text": round, "id": round});
        // The record of the first node is lost, or waits in the connection to NATS.
        if round == "killed" {
            cluster.nats.kill().await;
        } else {
            cluster.nats.signal("-STOP");
        }
        on_a.send(std::slice::from_ref(&command)).await;
        handled(&mut on_a).await;
        a.signal("-STOP");
        on_b.send(std::slice::from_ref(&command)).await;
        if round == "killed" {
            cluster.nats.restart().await;
        } else {
            handled(&mut on_b).await;
            cluster.nats.signal("-CONT");
        }
        let seq = on_b.until("said").await["seq"].clone();
        a.signal("-CONT");
        assert_eq!(on_a.until("said").await["seq"], seq);
        expected.push((seq.as_u64().unwrap(), round.to_owned()));
    }
    let last = say(&mut on_a, "tea", "last").await;
    expected.push((last, "last".into()));
    while on_b.until("message").await["text"] != "last" {}
    stop([a, b]).await;
    assert_eq!(messages(&cluster, "a").await, expected);
    assert_eq!(export(&cluster.db("b")).await, export(&cluster.db("a")).await);
}

/// Returns the sequence numbers and ids of the messages of the room in a history file.
async fn messages(cluster: &Cluster, name: &str) -> Vec<(u64, String)> {
    let lines = export(&cluster.db(name)).await;
    let message = |line: &serde_json::Value| {
        (line["seq"].as_u64().unwrap(), line["id"].as_str().unwrap().to_owned())
    };
    lines.iter().filter(|line| line["room"] == "tea").map(message).collect()
}

/// Nodes, and clients that talk on them.
struct Conversation {
    cluster: Cluster,
    nodes: Vec<Program>,
    shared: Rc<Shared>,
    /// The clients, and how many messages of each were committed.
    talkers: Vec<(Rc<Cell<usize>>, JoinHandle<Received>)>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Conversation {
    async fn start(version: Version, nodes: usize) -> Self {
        let cluster = Cluster::start(version).await;
        let mut started = Vec::new();
        for name in &NAMES[..nodes] {
            started.push(cluster.node(name).await);
        }
        let shared = Rc::<Shared>::default();
        shared.nodes.replace(started.iter().map(|node| node.addr).collect());
        Self { cluster, nodes: started, shared, talkers: Vec::new() }
    }

    fn add(&mut self, name: &str, node: Option<usize>, seed: u64) {
        let talker = Talker::new(name, &self.shared, node, seed);
        self.talkers.push((Rc::clone(&talker.committed), rt::spawn(talker.talk())));
    }

    /// Waits until each client has said some more messages.
    async fn progress(&self) {
        let goals: Vec<_> = self.talkers.iter().map(|(count, _)| count.get() + 10).collect();
        eventually("progress", async || {
            self.talkers.iter().zip(&goals).all(|((count, _), goal)| count.get() >= *goal)
        })
        .await;
    }

    /// Kills a node with SIGKILL, and starts it again.
    async fn kill(&mut self, node: usize) {
        within("the node to be killed", self.nodes[node].child.kill()).await.unwrap();
        self.nodes[node] = self.cluster.node(NAMES[node]).await;
        self.shared.nodes.borrow_mut()[node] = self.nodes[node].addr;
    }

    /// Ends all clients and nodes, and checks what they have. Returns what the clients have
    /// received.
    async fn stop(self) -> Vec<Received> {
        self.shared.stop.set(true);
        let mut all = Vec::new();
        for (_, talker) in self.talkers {
            all.push(within("a client to end", talker).await.unwrap());
        }
        // All nodes apply everything before they end.
        let mut last = join(&self.nodes[0], "Zoe", "end").await;
        let mut others = Vec::new();
        for node in &self.nodes[1..] {
            others.push(join(node, "Yan", "end").await);
        }
        say(&mut last, "end", "end").await;
        for other in &mut others {
            other.until("message").await;
        }
        let count = self.nodes.len();
        stop(self.nodes).await;
        let exported = export(&self.cluster.db("a")).await;
        for name in &NAMES[1..count] {
            assert!(export(&self.cluster.db(name)).await == exported, "{name} differs");
        }
        let stored = messages(&self.cluster, "a").await;
        all.iter().for_each(|received| received.check(&stored));
        all
    }
}

async fn nodes_that_are_killed_lose_and_repeat_nothing(version: Version) {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut talk = Conversation::start(version, 2).await;
    for n in 0..6 {
        talk.add(&format!("t{n}"), Some(n % 2), rng.u64(..));
    }
    for _ in 0..3 {
        talk.progress().await;
        talk.kill(rng.usize(..2)).await;
    }
    talk.progress().await;
    let received = talk.stop().await;
    assert!(received.iter().any(|received| received.resumed > 0));
}

async fn clients_that_move_between_nodes_see_one_order(version: Version) {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut talk = Conversation::start(version, 3).await;
    for n in 0..3 {
        talk.add(&format!("t{n}"), Some(n), rng.u64(..));
    }
    for n in 0..4 {
        talk.add(&format!("m{n}"), None, rng.u64(..));
    }
    talk.progress().await;
    talk.kill(rng.usize(..3)).await;
    talk.progress().await;
    let received = talk.stop().await;
    assert!(received.iter().map(|received| received.resumed).sum::<usize>() > 4);
}
