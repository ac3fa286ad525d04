//! Nodes that are killed and stopped while clients talk.

use serde_json::json;

use super::conversation::{Conversation, messages};
use super::log::stop;
use super::nats::Version;
use super::talker::NodeChoice;
use super::{Cluster, export, join, say, with_each_nats};
use crate::json::JsonClient;

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
    assert_eq!(messages(&cluster.db("a")).await, expected);
    assert_eq!(export(&cluster.db("b")).await, export(&cluster.db("a")).await);
}

async fn nodes_that_are_killed_lose_and_repeat_nothing(version: Version) {
    let cluster = Cluster::start(version).await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut talk = Conversation::of(&cluster, 2).await;
    for n in 0..6 {
        talk.add(&format!("t{n}"), NodeChoice::Only(n % 2), rng.u64(..));
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
    let cluster = Cluster::start(version).await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut talk = Conversation::of(&cluster, 3).await;
    for n in 0..3 {
        talk.add(&format!("t{n}"), NodeChoice::Only(n), rng.u64(..));
    }
    for n in 0..4 {
        talk.add(&format!("m{n}"), NodeChoice::Any, rng.u64(..));
    }
    talk.progress().await;
    talk.kill(rng.usize(..3)).await;
    talk.progress().await;
    let received = talk.stop().await;
    assert!(received.iter().map(|received| received.resumed).sum::<usize>() > 4);
}
