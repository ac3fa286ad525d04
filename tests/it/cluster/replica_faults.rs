//! NATS servers that replicate the stream, which are killed and stopped while clients talk. Only
//! with a current NATS: before 2.10.23 a killed server may lose a stream (nats-server#6888).

use serde_json::{Value, json};
use tempfile::TempDir;

use super::log::stop;
use super::nats::{Nats, Version};
use super::{export, join, node_command};
use crate::harness::{eventually, within};
use crate::json::JsonClient;
use crate::metrics::assert_durability;
use crate::program::Program;

/// Three servers, and two nodes.
struct Replicas {
    servers: Vec<Nats>,
    folder: TempDir,
    a: Program,
    b: Program,
}

impl Replicas {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let servers = Nats::start_cluster(Version::Current, folder.path()).await;
        let urls = servers.iter().map(Nats::url).collect::<Vec<_>>().join(",");
        let node = async |name: &str| {
            let db = folder.path().join(name).with_extension("db");
            let command = node_command(&urls, name, &db, &["--nats-replicas", "3"]);
            Program::spawn(command, folder.path(), "http").await
        };
        let (a, b) = (node("a").await, node("b").await);
        Self { servers, folder, a, b }
    }

    /// Returns the number of the server that leads the stream.
    async fn leader(&self) -> usize {
        let info = self.servers[0].request("$JS.API.STREAM.INFO.chinwag", "").await;
        assert_eq!(info["config"]["num_replicas"], 3);
        let name = info["cluster"]["leader"].as_str().unwrap();
        name.strip_prefix('s').unwrap().parse().unwrap()
    }

    /// Stops both nodes, and compares their history files. Returns the texts.
    async fn stop(self) -> Vec<String> {
        stop([self.a, self.b]).await;
        let db = |name: &str| self.folder.path().join(name).with_extension("db");
        let all = export(&db("a")).await;
        assert_eq!(export(&db("b")).await, all);
        all.iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect()
    }
}

/// Repeats a message until it is committed. Returns how often it was refused.
async fn say_patiently(client: &mut JsonClient, text: &str) -> usize {
    let command = json!({"type": "say", "room": "tea", "text": text, "id": text});
    client.send(std::slice::from_ref(&command)).await;
    let mut refusals = 0;
    let repeat = async {
        loop {
            let line = client.next().await.unwrap();
            if line["type"] == "said" && line["id"] == text {
                return assert_eq!(line["duplicate"], false, "{line}");
            }
            if line["type"] == "error" {
                assert_eq!(line["code"], "busy", "{line}");
                refusals += 1;
                // It is refused at once.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                client.send(std::slice::from_ref(&command)).await;
            }
        }
    };
    within("a message to be committed", repeat).await;
    refusals
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn leader_that_is_killed_loses_and_repeats_nothing() {
    let mut replicas = Replicas::start().await;
    let (mut ada, mut bob) =
        (join(&replicas.a, "Ada", "tea").await, join(&replicas.b, "Bob", "tea").await);
    say_patiently(&mut ada, "before").await;
    assert_durability(replicas.a.addr, "stream", Some(3)).await;
    let leader = replicas.leader().await;
    let during = json!({"type": "say", "room": "tea", "text": "in flight", "id": "in flight"});
    ada.send(&[during]).await;
    replicas.servers[leader].kill().await;
    ada.until("said").await;
    say_patiently(&mut ada, "without it").await;
    replicas.servers[leader].restart().await;
    say_patiently(&mut bob, "with it").await;
    while ada.until("message").await["text"] != "with it" {}
    assert_eq!(replicas.stop().await, ["before", "in flight", "without it", "with it"]);
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn minority_that_is_stopped_does_not_delay_messages_for_long() {
    let replicas = Replicas::start().await;
    let (mut ada, mut bob) =
        (join(&replicas.a, "Ada", "tea").await, join(&replicas.b, "Bob", "tea").await);
    say_patiently(&mut ada, "before").await;
    // The leader, or the server of a node, may be the one that stops.
    let leader = replicas.leader().await;
    replicas.servers[leader].signal("-STOP");
    say_patiently(&mut ada, "ada").await;
    say_patiently(&mut bob, "bob").await;
    replicas.servers[leader].signal("-CONT");
    say_patiently(&mut ada, "after").await;
    while bob.until("message").await["text"] != "after" {}
    assert_eq!(replicas.stop().await, ["before", "ada", "bob", "after"]);
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn without_a_majority_messages_are_refused_until_it_is_back() {
    let mut replicas = Replicas::start().await;
    let (mut ada, mut bob) =
        (join(&replicas.a, "Ada", "tea").await, join(&replicas.b, "Bob", "tea").await);
    say_patiently(&mut ada, "before").await;
    for server in &mut replicas.servers[1..] {
        server.kill().await;
    }
    let in_flight = json!({"type": "say", "room": "tea", "text": "in flight", "id": "in flight"});
    ada.send(&[in_flight]).await;
    eventually("a refusal", async || {
        let probe: Value = json!({"type": "say", "room": "tea", "text": "refused"});
        ada.send(&[probe]).await;
        // Nothing answers messages while the node hopes.
        let answer = tokio::time::timeout(std::time::Duration::from_millis(500), ada.next());
        answer.await.is_ok_and(|line| line.unwrap()["code"] == "busy")
    })
    .await;
    for server in &mut replicas.servers[1..] {
        server.restart().await;
    }
    say_patiently(&mut bob, "after").await;
    while ada.until("message").await["text"] != "after" {}
    let mut texts = replicas.stop().await;
    texts.sort();
    assert_eq!(texts, ["after", "before", "in flight"]);
}
