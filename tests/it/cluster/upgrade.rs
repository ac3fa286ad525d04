//! NATS servers and nodes that are replaced by newer ones while clients talk.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::conversation::Conversation;
use super::nats::{Nats, Version};
use super::talker::NodeChoice;
use super::{Cluster, with_each_nats};
use crate::harness::eventually;
use crate::json::JsonClient;
use crate::program::Program;

with_each_nats!(nodes_that_are_restarted_one_by_one_lose_and_repeat_nothing);

/// Checks that clients of a node can join a room and read it.
async fn assert_readable(node: &Program) {
    let mut reader =
        JsonClient::hello(node.addr, json!({"nick": "Rea", "key": "the secret key of Rea"})).await;
    reader.send(&[json!({"type": "join", "room": "tea"})]).await;
    assert_ne!(reader.expect("joined").await["messages"], json!([]));
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn nats_server_that_is_upgraded_loses_nothing_and_clients_stay_connected() {
    let mut cluster = Cluster::start(Version::Debian).await;
    let mut talk = Conversation::of(&cluster, 2).await;
    for n in 0..4 {
        talk.add(&format!("t{n}"), NodeChoice::Only(n % 2), 0);
    }
    talk.progress().await;
    let old = cluster.nats.reported_version().await;
    cluster.nats.stop().await;
    for node in &talk.nodes {
        assert_readable(node).await;
    }
    cluster.nats.upgrade().await;
    assert_ne!(cluster.nats.reported_version().await, old);
    talk.progress().await;
    for received in talk.stop().await {
        assert_eq!((received.resumed, received.close_codes), (0, vec![]));
    }
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn replicas_that_are_upgraded_one_by_one_lose_nothing_and_clients_stay_connected() {
    let folder = tempfile::tempdir().unwrap();
    let mut servers = Nats::start_cluster(Version::Debian, folder.path()).await;
    let urls = servers.iter().map(Nats::url).collect::<Vec<_>>().join(",");
    let flags = ["--nats-replicas", "3"];
    let mut talk = Conversation::start(&urls, folder.path(), 2, &flags).await;
    for n in 0..4 {
        talk.add(&format!("t{n}"), NodeChoice::Only(n % 2), 0);
    }
    for server in &mut servers {
        talk.progress().await;
        let old = server.reported_version().await;
        server.upgrade().await;
        assert_ne!(server.reported_version().await, old);
        // As the documentation says: the next server is stopped when this one has all records.
        eventually("all servers to have the stream", async || is_whole(server).await).await;
    }
    talk.progress().await;
    for received in talk.stop().await {
        assert_eq!((received.resumed, received.close_codes), (0, vec![]));
    }
}

/// Returns whether the stream has a leader, and the other replicas have all of its records.
async fn is_whole(server: &Nats) -> bool {
    // Nothing answers while there is no leader.
    let info = server.request("$JS.API.STREAM.INFO.chinwag", "");
    let info = timeout(Duration::from_secs(1), info).await.unwrap_or_default();
    let is_current = |replica: &Value| replica["current"] == true && replica["offline"] != true;
    let replicas = info["cluster"]["replicas"].as_array();
    replicas.is_some_and(|others| others.len() == 2 && others.iter().all(is_current))
}

async fn nodes_that_are_restarted_one_by_one_lose_and_repeat_nothing(version: Version) {
    let cluster = Cluster::start(version).await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut talk = Conversation::of(&cluster, 2).await;
    for n in 0..4 {
        talk.add(&format!("t{n}"), NodeChoice::From(n % 2), rng.u64(..));
    }
    for n in 0..2 {
        talk.add(&format!("m{n}"), NodeChoice::Any, rng.u64(..));
    }
    for node in 0..2 {
        talk.progress().await;
        talk.stop_node(node).await;
        // All clients talk on the other node.
        talk.progress().await;
        talk.restart(node).await;
    }
    talk.progress().await;
    let received = talk.stop().await;
    // The last two also move by themselves, and connect while a node stops.
    for received in &received {
        let is_going_away = |code: &Option<u16>| *code == Some(1001);
        assert!(received.close_codes.iter().all(is_going_away), "{:?}", received.close_codes);
    }
    // Those of the first node moved twice, those of the second one once.
    let closed = received[..4].iter().map(|received| received.close_codes.len());
    assert_eq!(closed.collect::<Vec<_>>(), [2, 1, 2, 1]);
    assert!(received.iter().all(|received| received.resumed > 0));
}
