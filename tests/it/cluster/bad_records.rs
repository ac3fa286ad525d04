//! Records that a node cannot apply, and records that the stream does not have any more.

use serde_json::json;

use super::log::refused;
use super::nats::Version;
use super::{Cluster, export, join, say, trouble, with_each_nats};
use crate::harness::{eventually, within};
use crate::json::JsonClient;
use crate::program::Program;

with_each_nats!(
    node_without_records_and_other_nodes_is_refused,
    running_node_that_missed_deleted_records_becomes_unready,
    record_of_a_newer_version_makes_nodes_unready,
    record_of_another_program_is_skipped,
);

pub const SMALL_STREAM: [&str; 2] = ["--nats-log-bytes", "1048576"];

/// Says more than a small stream keeps.
pub async fn fill_small_stream(client: &mut JsonClient) {
    let text = "x".repeat(4000);
    let say = json!({"type": "say", "room": "tea", "text": text});
    for _ in 0..40 {
        for _ in 0..10 {
            client.send(std::slice::from_ref(&say)).await;
        }
        for _ in 0..10 {
            client.until("said").await;
        }
    }
}

/// Returns the two numbers of the message about missing records.
fn positions(message: &str) -> (u64, u64) {
    let (_, rest) = message.split_once("the stream begins with record ").expect(message);
    let (first, rest) = rest.split_once(", the history file ends with record ").unwrap();
    let (last, _) = rest.split_once(',').unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}

async fn node_without_records_and_other_nodes_is_refused(version: Version) {
    let cluster = Cluster::start(version).await;
    let a = cluster.node_with("a", &SMALL_STREAM).await;
    let b = cluster.node_with("b", &SMALL_STREAM).await;
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    say(&mut ada, "tea", "before").await;
    bob.until("message").await;
    b.kill().await;
    fill_small_stream(&mut ada).await;
    a.kill().await;
    // No other node can send it a copy.
    let (first, last) = positions(&refused(&cluster, "b").await);
    assert!(first > last + 1 && last > 1, "{first} {last}");
    cluster.backup("a", "b").await;
    let b = cluster.node_with("b", &SMALL_STREAM).await;
    let a = cluster.node_with("a", &SMALL_STREAM).await;
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    say(&mut ada, "tea", "after").await;
    assert_eq!(bob.until("message").await["text"], "after");
}

async fn running_node_that_missed_deleted_records_becomes_unready(version: Version) {
    let cluster = Cluster::start(version).await;
    let a = cluster.node_with("a", &SMALL_STREAM).await;
    let b = cluster.node_with("b", &SMALL_STREAM).await;
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    say(&mut ada, "tea", "before").await;
    bob.until("message").await;
    b.signal("-STOP");
    fill_small_stream(&mut ada).await;
    fill_small_stream(&mut ada).await;
    b.signal("-CONT");
    let mut reason = String::new();
    eventually("the node to be unready", async || {
        reason = trouble(&b).await.unwrap_or_default();
        reason.contains("the stream begins with record")
    })
    .await;
    let (first, last) = positions(&reason);
    assert!(first > last + 1, "{first} {last}");
    assert_refuses_only_messages(&b).await;
    assert_eq!(trouble(&a).await, None);
}

/// Clients can join and read, but not say anything.
async fn assert_refuses_only_messages(node: &Program) {
    let mut client =
        JsonClient::hello(node.addr, json!({"nick": "Cyd", "key": "the secret key of Cyd"})).await;
    let commands = [
        json!({"type": "join", "room": "tea"}),
        json!({"type": "history", "room": "tea"}),
        json!({"type": "say", "room": "tea", "text": "refused"}),
    ];
    client.send(&commands).await;
    assert_ne!(client.until("joined").await["messages"], json!([]));
    assert_ne!(client.until("history").await["messages"], json!([]));
    client.expect_error("busy").await;
}

async fn record_of_a_newer_version_makes_nodes_unready(version: Version) {
    unknown_record_makes_nodes_unready(version, "{\"v\":2,\"pin\":{}}", "a newer version").await;
}

async fn record_of_another_program_is_skipped(version: Version) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    for record in ["hello", "{}", "{\"v\":\"1\"}"] {
        cluster.nats.request("chinwag.log", record).await;
        let seq = say(&mut ada, "tea", record).await;
        assert_eq!(bob.until("message").await["seq"], seq);
    }
    assert_eq!((trouble(&a).await, trouble(&b).await), (None, None));
    // A node that reads them later skips them, too.
    let c = cluster.node("c").await;
    drop((a, b, c));
    let all = export(&cluster.db("a")).await;
    assert_eq!(all.len(), 3);
    assert_eq!(export(&cluster.db("c")).await, all);
}

async fn unknown_record_makes_nodes_unready(version: Version, record: &str, reason: &str) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    say(&mut ada, "tea", "before").await;
    bob.until("message").await;
    let position = cluster.nats.request("chinwag.log", record).await["seq"].clone();
    let expected = format!("record {position} cannot be applied: ");
    for mut node in [a, b] {
        eventually("the node to be unready", async || trouble(&node).await.is_some()).await;
        let trouble = trouble(&node).await.unwrap();
        assert!(trouble.contains(&expected) && trouble.contains(reason), "{trouble}");
        let logged = within("a line of the log", async {
            loop {
                let line = node.log.next_line().await.unwrap().unwrap();
                if line.contains(&expected) {
                    break line;
                }
            }
        });
        let logged = logged.await;
        assert!(logged.contains(reason) && logged.contains("upgrade this node"), "{logged}");
        assert_refuses_only_messages(&node).await;
    }
}
