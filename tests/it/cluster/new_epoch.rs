//! New epochs: all nodes continue with the history of one of them after the stream lost records, or
//! with other settings.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bad_records::{SMALL_STREAM, fill_small_stream};
use super::nats::Version;
use super::{Cluster, export, join, say, trouble, with_each_nats};
use crate::harness::{eventually, within};
use crate::json::JsonClient;
use crate::program::Program;

with_each_nats!(
    all_nodes_continue_after_the_stream_lost_records,
    all_nodes_continue_after_the_stream_was_deleted,
    node_with_other_messages_saves_them_and_copies_the_history,
);

/// The stream at some time.
struct Snapshot(PathBuf);

impl Snapshot {
    async fn take(cluster: &mut Cluster) -> Self {
        cluster.nats.kill().await;
        let copy = cluster.folder.path().join("copy");
        copy_folder(cluster.nats.store(), &copy);
        cluster.nats.restart().await;
        Self(copy)
    }

    async fn restore(self, cluster: &mut Cluster) {
        cluster.nats.kill().await;
        std::fs::remove_dir_all(cluster.nats.store()).unwrap();
        copy_folder(&self.0, cluster.nats.store());
        cluster.nats.restart().await;
    }
}

async fn delete_stream(cluster: &mut Cluster) {
    cluster.nats.kill().await;
    std::fs::remove_dir_all(cluster.nats.store()).unwrap();
    cluster.nats.restart().await;
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let dest = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &dest);
        } else {
            std::fs::copy(entry.path(), dest).unwrap();
        }
    }
}

/// Waits until a node tells the operator to begin a new epoch. Returns the epoch to end.
async fn wait_for_fork(node: &Program) -> String {
    let mut epoch = None;
    eventually("the node to notice the loss", async || {
        let reason = trouble(node).await.unwrap_or_default();
        epoch = reason.split_once("in place of ").map(|(_, epoch)| epoch.to_owned());
        epoch.is_some()
    })
    .await;
    epoch.unwrap()
}

async fn wait_until_ready(node: &Program) {
    eventually("the node to be ready", async || trouble(node).await.is_none()).await;
}

async fn stop(mut node: Program) {
    node.signal("-TERM");
    assert_eq!(node.exit_code().await, Some(0));
}

/// Reads until the connection is closed, and returns the code.
async fn close_code(client: &mut JsonClient) -> Option<u16> {
    within("the end of the connection", async { while client.next().await.is_some() {} }).await;
    client.close_code
}

/// Joins a room after a position. Returns the answer.
async fn resume(node: &Program, epoch: &Value, seq: u64) -> Value {
    let mut client =
        JsonClient::hello(node.addr, json!({"nick": "Eve", "key": "the secret key of Eve"})).await;
    let after = json!({"epoch": epoch, "seq": seq});
    client.send(&[json!({"type": "join", "room": "tea", "after": after})]).await;
    client.until("joined").await
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["text"].as_str().unwrap()).collect()
}

async fn all_nodes_continue_after_the_stream_lost_records(version: Version) {
    check_that_all_nodes_continue(version, true).await;
}

async fn all_nodes_continue_after_the_stream_was_deleted(version: Version) {
    check_that_all_nodes_continue(version, false).await;
}

/// The stream loses its last records, or all of them.
async fn check_that_all_nodes_continue(version: Version, keeps_some: bool) {
    let mut cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    say(&mut ada, "tea", "kept").await;
    let snapshot = Snapshot::take(&mut cluster).await;
    for text in ["x", "y", "last"] {
        let seq = say(&mut ada, "tea", text).await;
        while bob.until("message").await["seq"] != seq {}
    }
    if keeps_some {
        snapshot.restore(&mut cluster).await;
    } else {
        delete_stream(&mut cluster).await;
    }
    let epoch = wait_for_fork(&a).await;
    assert_eq!(wait_for_fork(&b).await, epoch);
    // A node that is restarted without the flag refuses to start, and changes nothing.
    stop(a).await;
    let output = within("the node", cluster.command("a", &[]).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&epoch));

    let flags = ["--nats-new-epoch", &epoch];
    let a = cluster.node_with("a", &flags).await;
    wait_until_ready(&a).await;
    // The other node has the same history, and continues without a restart.
    assert_eq!(close_code(&mut bob).await, Some(1012));
    wait_until_ready(&b).await;
    let joined = resume(&b, &json!(epoch), 1).await;
    assert_eq!(joined["recovered"], false, "{joined}");
    let new_epoch = joined["epoch"].clone();
    assert_ne!(new_epoch, json!(epoch));
    let messages = joined["messages"].as_array().unwrap();
    assert_eq!(texts(messages), ["kept", "x", "y", "last"]);
    let last = messages[3]["seq"].as_u64().unwrap();

    let mut bob = join(&b, "Bob", "tea").await;
    assert!(say(&mut bob, "tea", "on").await > last);
    let joined = resume(&a, &new_epoch, last).await;
    assert_eq!((&joined["recovered"], &joined["epoch"]), (&json!(true), &new_epoch), "{joined}");
    // The flag has no effect any more. A new node copies the history.
    stop(a).await;
    let (a, c) = (cluster.node_with("a", &flags).await, cluster.node("c").await);
    assert_eq!(resume(&a, &new_epoch, last).await["recovered"], true);
    assert_eq!(resume(&c, &new_epoch, last).await["recovered"], true);
    say(&mut join(&a, "Ada", "tea").await, "tea", "end").await;
    while bob.until("message").await["text"] != "end" {}
    let mut all = Vec::new();
    for (name, node) in [("a", a), ("b", b), ("c", c)] {
        eventually("the node to have the last message", async || {
            resume(&node, &new_epoch, 0).await["messages"].to_string().contains("end")
        })
        .await;
        stop(node).await;
        all.push(export(&cluster.db(name)).await);
    }
    assert_eq!(texts(&all[0]), ["kept", "x", "y", "last", "on", "end"]);
    assert_eq!((&all[1], &all[2]), (&all[0], &all[0]));
}

async fn node_with_other_messages_saves_them_and_copies_the_history(version: Version) {
    let mut cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let mut bob = join(&b, "Bob", "tea").await;
    let kept = say(&mut bob, "tea", "kept").await;
    say(&mut bob, "tea", "edited").await;
    eventually("the other node to have it", async || {
        resume(&a, &json!("x"), 0).await["messages"].to_string().contains("edited")
    })
    .await;
    stop(a).await;
    let snapshot = Snapshot::take(&mut cluster).await;
    say(&mut bob, "tea", "only b 1").await;
    bob.send(&[json!({"type": "edit", "room": "tea", "seq": kept, "text": "kept 2", "ref": 1})])
        .await;
    bob.until("said").await;
    say(&mut bob, "tea", "only b 2").await;
    snapshot.restore(&mut cluster).await;
    let epoch = wait_for_fork(&b).await;
    // The node that was stopped has the same history as the stream.
    let a = cluster.node("a").await;
    let mut ada = join(&a, "Ada", "tea").await;
    for text in ["only a 1", "only a 2", "only a 3"] {
        say(&mut ada, "tea", text).await;
    }
    // It stays in service, although it passes the last record of the other node, and hears several
    // heartbeats of it.
    let mut bea = join(&a, "Bea", "other").await;
    for n in 0..10 {
        say(&mut bea, "other", &n.to_string()).await;
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(trouble(&a).await, None);
    }
    stop(a).await;
    let a = cluster.node_with("a", &["--nats-new-epoch", &epoch]).await;
    wait_until_ready(&a).await;
    eventually("the other node to notice that its history does not count", async || {
        trouble(&b).await.is_some_and(|reason| reason.contains("restart this node"))
    })
    .await;
    stop(b).await;
    let b = cluster.node("b").await;
    wait_until_ready(&b).await;
    let history = ["kept", "edited", "only a 1", "only a 2", "only a 3"];
    for node in [a, b] {
        let joined = resume(&node, &json!("x"), 0).await;
        assert_eq!(texts(joined["messages"].as_array().unwrap()), history);
        stop(node).await;
    }
    assert_eq!(lost_texts(&cluster, "b"), ["kept 2", "only b 1", "only b 2"]);
    let replaced = files(&cluster, "b.db.replaced-");
    assert_eq!(texts(&export(&replaced[0]).await)[..3], ["kept 2", "edited", "only b 1"]);
    assert_eq!(export(&cluster.db("a")).await, export(&cluster.db("b")).await);
}

/// Returns the files of the nodes whose names begin like this. The shortest name is the first.
fn files(cluster: &Cluster, prefix: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(cluster.folder.path()).unwrap().map(|entry| entry.unwrap());
    let files = all.filter(|file| file.file_name().to_string_lossy().starts_with(prefix));
    let mut files: Vec<_> = files.map(|file| file.path()).collect();
    files.sort();
    files
}

/// Returns the texts in the file that a node wrote before it copied a history.
fn lost_texts(cluster: &Cluster, name: &str) -> Vec<String> {
    let lost = files(cluster, &format!("{name}.db.lost-"));
    let lines = lost.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect::<String>();
    let lines: Vec<Value> = lines.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    texts(&lines).into_iter().map(str::to_owned).collect()
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn node_that_is_behind_copies_the_history() {
    let mut cluster = Cluster::start(Version::Current).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let mut ada = join(&a, "Ada", "tea").await;
    say(&mut ada, "tea", "kept").await;
    stop(b).await;
    let snapshot = Snapshot::take(&mut cluster).await;
    say(&mut ada, "tea", "last").await;
    snapshot.restore(&mut cluster).await;
    let epoch = wait_for_fork(&a).await;
    stop(a).await;
    let a = cluster.node_with("a", &["--nats-new-epoch", &epoch]).await;
    wait_until_ready(&a).await;
    say(&mut join(&a, "Ada", "tea").await, "tea", "on").await;
    // The epoch is ended already, so the flag has no effect.
    let b = cluster.node_with("b", &["--nats-new-epoch", &epoch]).await;
    wait_until_ready(&b).await;
    for node in [&a, &b] {
        let joined = resume(node, &json!("x"), 0).await;
        assert_eq!(texts(joined["messages"].as_array().unwrap()), ["kept", "last", "on"]);
    }
    assert!(lost_texts(&cluster, "b").is_empty());
}

/// The node that begins the epoch gets its earlier history file back, as if it had been killed
/// before it stored the new epoch, and begins the epoch again.
#[actix_web::test]
#[ignore = "needs nats-server"]
async fn epoch_that_was_begun_twice_counts_once() {
    let mut cluster = Cluster::start(Version::Current).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let mut client = join(&b, "Zoe", "tea").await;
    say(&mut join(&a, "Ada", "tea").await, "tea", "kept").await;
    client.until("message").await;
    delete_stream(&mut cluster).await;
    let epoch = wait_for_fork(&a).await;
    stop(a).await;
    let saved = cluster.folder.path().join("saved.db");
    std::fs::copy(cluster.db("a"), &saved).unwrap();
    let flags = ["--nats-new-epoch", &epoch];
    let a = cluster.node_with("a", &flags).await;
    wait_until_ready(&a).await;
    stop(a).await;
    close_code(&mut client).await;
    wait_until_ready(&b).await;
    let mut bob = join(&b, "Bob", "tea").await;
    say(&mut bob, "tea", "between").await;
    assert!(!cluster.db("a").with_extension("db-wal").exists());
    std::fs::copy(&saved, cluster.db("a")).unwrap();
    let a = cluster.node_with("a", &flags).await;
    wait_until_ready(&a).await;
    say(&mut join(&a, "Ada", "tea").await, "tea", "end").await;
    while bob.until("message").await["text"] != "end" {}
    let joined = resume(&a, &json!("x"), 0).await;
    assert_eq!(joined["epoch"], resume(&b, &json!("x"), 0).await["epoch"]);
    stop(a).await;
    stop(b).await;
    let all = export(&cluster.db("a")).await;
    assert_eq!(texts(&all), ["kept", "between", "end"]);
    assert_eq!(export(&cluster.db("b")).await, all);
}

/// Two operators choose two nodes with different histories. The first one counts.
#[actix_web::test]
#[ignore = "needs nats-server"]
async fn second_node_that_begins_the_same_epoch_copies_the_history_of_the_first() {
    let mut cluster = Cluster::start(Version::Current).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let mut ada = join(&a, "Ada", "tea").await;
    say(&mut ada, "tea", "kept").await;
    stop(b).await;
    say(&mut ada, "tea", "last").await;
    stop(a).await;
    delete_stream(&mut cluster).await;
    let refused = within("the node", cluster.command("a", &[]).output()).await.unwrap();
    let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
    let (_, epoch) = reason.trim().rsplit_once("--nats-new-epoch ").unwrap();
    let flags = ["--nats-new-epoch", epoch];
    let a = cluster.node_with("a", &flags).await;
    say(&mut join(&a, "Ada", "tea").await, "tea", "on").await;
    let b = cluster.node_with("b", &flags).await;
    for node in [&a, &b] {
        wait_until_ready(node).await;
        let joined = resume(node, &json!("x"), 0).await;
        assert_eq!(texts(joined["messages"].as_array().unwrap()), ["kept", "last", "on"]);
    }
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn messages_of_a_loss_that_nobody_noticed_are_saved_before_a_copy_replaces_them() {
    let mut cluster = Cluster::start(Version::Current).await;
    let a = cluster.node_with("a", &SMALL_STREAM).await;
    let b = cluster.node_with("b", &SMALL_STREAM).await;
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    say(&mut ada, "tea", "kept").await;
    bob.until("message").await;
    stop(a).await;
    let snapshot = Snapshot::take(&mut cluster).await;
    say(&mut bob, "tea", "only b").await;
    stop(b).await;
    snapshot.restore(&mut cluster).await;
    let a = cluster.node_with("a", &SMALL_STREAM).await;
    fill_small_stream(&mut join(&a, "Ada", "tea").await).await;
    let b = cluster.node_with("b", &SMALL_STREAM).await;
    wait_until_ready(&b).await;
    assert_eq!(lost_texts(&cluster, "b"), ["only b"]);
}

#[actix_web::test]
#[ignore = "needs nats-server"]
async fn settings_change_with_a_new_epoch_while_another_node_runs() {
    let cluster = Cluster::start(Version::Current).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let mut bob = join(&b, "Bob", "tea").await;
    say(&mut bob, "tea", "before").await;
    let epoch = resume(&b, &json!("x"), 0).await["epoch"].as_str().unwrap().to_owned();
    stop(a).await;
    // The node that begins the epoch does not have this message yet.
    say(&mut bob, "tea", "between").await;
    let a = cluster.node_with("a", &["--nats-new-epoch", &epoch, "--no-edits"]).await;
    assert_eq!(close_code(&mut bob).await, Some(1012));
    say(&mut join(&b, "Bob", "tea").await, "tea", "after").await;
    for node in [&a, &b] {
        wait_until_ready(node).await;
        let mut client = JsonClient::connect(node.addr).await;
        client.send(&[json!({"type": "hello", "nick": "Eve"})]).await;
        let welcome = client.until("welcome").await;
        assert_eq!(welcome["limits"]["edits"], false, "{welcome}");
        drop(client);
        eventually("the node to have all messages", async || {
            resume(node, &json!("x"), 0).await["messages"].to_string().contains("after")
        })
        .await;
    }
    // A new node reads the records of both epochs.
    let c = cluster.node("c").await;
    for node in [a, b, c] {
        stop(node).await;
    }
    let all = export(&cluster.db("a")).await;
    assert_eq!(texts(&all), ["before", "between", "after"]);
    assert_eq!(export(&cluster.db("b")).await, all);
    assert_eq!(export(&cluster.db("c")).await, all);
}
