//! Nodes and NATS servers that are killed, stopped and set back while clients talk.

use serde_json::json;

use super::nats::Version;
use super::new_epoch::copy_folder;
use super::{Cluster, export, join, say, with_each_nats};
use crate::harness::eventually;
use crate::json::JsonClient;

with_each_nats!(
    nats_that_is_killed_and_restarted_loses_and_repeats_nothing,
    without_nats_clients_read_and_senders_are_told,
    stream_that_lost_records_is_noticed,
);

async fn nats_that_is_killed_and_restarted_loses_and_repeats_nothing(version: Version) {
    let mut cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    for round in 0..3 {
        say(&mut ada, "tea", &format!("before {round}")).await;
        cluster.nats.kill().await;
        // It is in flight while NATS is away, and is committed once.
        ada.send(&[json!({"type": "say", "room": "tea", "text": "x", "id": format!("{round}")})])
            .await;
        cluster.nats.restart().await;
        ada.until("said").await;
        for expected in [format!("before {round}"), "x".into()] {
            assert_eq!(bob.until("message").await["text"], expected.as_str());
        }
    }
    drop((a, b));
    let all = export(&cluster.db("a")).await;
    assert_eq!(all.len(), 6);
    assert_eq!(export(&cluster.db("b")).await, all);
}

async fn without_nats_clients_read_and_senders_are_told(version: Version) {
    let mut cluster = Cluster::start(version).await;
    let a = cluster.node("a").await;
    let mut ada = join(&a, "Ada", "tea").await;
    say(&mut ada, "tea", "before").await;
    cluster.nats.kill().await;
    // After some seconds messages are refused at once. Those in flight are answered later.
    eventually("an error", async || {
        ada.send(&[json!({"type": "say", "room": "tea", "text": "now"})]).await;
        // Nothing answers the messages that are in flight.
        let answer = tokio::time::timeout(std::time::Duration::from_millis(500), ada.next());
        answer.await.is_ok_and(|line| line.unwrap()["code"] == "busy")
    })
    .await;
    let mut bob =
        JsonClient::hello(a.addr, json!({"nick": "Bob", "key": "the secret key of Bob"})).await;
    bob.send(&[json!({"type": "join", "room": "tea"})]).await;
    assert_eq!(bob.until("joined").await["messages"][0]["text"], "before");
    // A node whose history file is part of the log starts, too.
    a.kill().await;
    let a = cluster.node("a").await;
    let mut bob =
        JsonClient::hello(a.addr, json!({"nick": "Bob", "key": "the secret key of Bob"})).await;
    bob.send(&[json!({"type": "join", "room": "tea"})]).await;
    assert_eq!(bob.until("joined").await["messages"][0]["text"], "before");
    cluster.nats.restart().await;
    eventually("a message to be accepted", async || {
        bob.send(&[json!({"type": "say", "room": "tea", "text": "again", "id": "again"})]).await;
        loop {
            let line = bob.next().await.unwrap();
            if line["type"] == "said" || line["type"] == "error" {
                break line["type"] == "said";
            }
        }
    })
    .await;
}

async fn stream_that_lost_records_is_noticed(version: Version) {
    let mut cluster = Cluster::start(version).await;
    let a = cluster.node("a").await;
    let mut ada = join(&a, "Ada", "tea").await;
    say(&mut ada, "tea", "kept").await;
    cluster.nats.kill().await;
    let copy = cluster.folder.path().join("copy");
    copy_folder(cluster.nats.store(), &copy);
    cluster.nats.restart().await;
    for n in 0..3 {
        say(&mut ada, "tea", &format!("lost {n}")).await;
    }
    cluster.nats.kill().await;
    std::fs::remove_dir_all(cluster.nats.store()).unwrap();
    copy_folder(&copy, cluster.nats.store());
    cluster.nats.restart().await;
    let mut log = a.log;
    eventually("the node to notice it", async || {
        log.next_line().await.unwrap().unwrap().contains("the stream has lost records")
    })
    .await;
}
