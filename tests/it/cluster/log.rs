//! Nodes that start, stop, join and leave while clients talk.

use serde_json::{Value, json};

use super::nats::Version;
use super::{Cluster, export, join, say, trouble, with_each_nats};
use crate::harness::{eventually, raw_http, within};
use crate::json::JsonClient;
use crate::metrics::assert_durability;
use crate::program::{PROGRAM, Program};

with_each_nats!(
    nodes_deliver_the_messages_of_each_other_in_one_order,
    every_kind_of_entry_reaches_the_other_node,
    client_resumes_on_another_node,
    draft_that_is_repeated_on_another_node_is_a_duplicate,
    node_that_was_away_catches_up,
    nodes_tell_how_many_servers_store_the_log,
    history_of_a_single_server_becomes_that_of_the_first_node,
    node_whose_records_are_gone_copies_the_history_of_another,
    node_with_other_history_is_refused,
    node_whose_history_differs_is_not_ready,
    two_nodes_that_differ_are_out_of_service_until_an_operator_chooses_one,
    journal_of_a_node_without_nats_begins_a_new_epoch,
);

/// Returns the sequence numbers and texts of the next messages that a client receives.
async fn messages(client: &mut JsonClient, count: usize) -> Vec<(u64, String)> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let line = client.until("message").await;
        messages.push((line["seq"].as_u64().unwrap(), line["text"].as_str().unwrap().into()));
    }
    messages
}

async fn nodes_deliver_the_messages_of_each_other_in_one_order(version: Version) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    for n in 0..20 {
        let text = format!("{n}");
        ada.send(&[json!({"type": "say", "room": "tea", "text": format!("a{text}")})]).await;
        bob.send(&[json!({"type": "say", "room": "tea", "text": format!("b{text}")})]).await;
    }
    let (seen_by_ada, seen_by_bob) = (messages(&mut ada, 40).await, messages(&mut bob, 40).await);
    assert_eq!(seen_by_ada, seen_by_bob);
    assert!(seen_by_ada.is_sorted_by(|(a, _), (b, _)| a < b), "{seen_by_ada:?}");
    for prefix in ["a", "b"] {
        let own = seen_by_ada.iter().filter_map(|(_, text)| text.strip_prefix(prefix));
        assert!(own.eq((0..20).map(|n| n.to_string())), "{seen_by_ada:?}");
    }
    stop([a, b]).await;
    assert_eq!(export(&cluster.db("a")).await, export(&cluster.db("b")).await);
}

/// Stops nodes with SIGTERM.
pub(super) async fn stop(nodes: impl IntoIterator<Item = Program>) {
    for mut node in nodes {
        node.signal("-TERM");
        assert_eq!(node.exit_code().await, Some(0));
    }
}

async fn every_kind_of_entry_reaches_the_other_node(version: Version) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    let first = say(&mut ada, "tea", "one").await;
    let second = say(&mut ada, "tea", "two").await;
    ada.send(&[
        json!({"type": "say", "room": "tea", "text": "reply", "reply_to": first}),
        json!({"type": "edit", "room": "tea", "seq": first, "text": "first"}),
        json!({"type": "react", "room": "tea", "seq": first, "emoji": "👍", "on": true}),
        json!({"type": "delete", "room": "tea", "seq": second}),
        json!({"type": "set_room", "room": "tea", "topic": "about tea"}),
    ])
    .await;
    assert_eq!(bob.until("room").await["topic"], "about tea");
    // What Bob reads now is in the history file of his node.
    let mut late = JsonClient::hello(b.addr, json!({"nick": "Cyd"})).await;
    late.send(&[json!({"type": "join", "room": "tea"})]).await;
    let joined = late.until("joined").await;
    assert_eq!(joined["topic"], "about tea");
    let messages = joined["messages"].as_array().unwrap();
    let texts: Vec<_> = messages.iter().map(|message| message["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["first", "", "reply"]);
    assert_eq!(messages[0]["reactions"]["👍"], 1, "{joined}");
    assert_eq!(messages[1]["deleted"], true, "{joined}");
    assert_eq!(messages[2]["reply_to"], first);
    stop([a, b]).await;
    assert_eq!(export(&cluster.db("a")).await, export(&cluster.db("b")).await);
}

/// Connects and resumes a room. Returns the answer to the join.
async fn resume(node: &Program, nick: &str, epoch: &Value, seq: u64) -> Value {
    let key = format!("the secret key of {nick}");
    let mut client = JsonClient::hello(node.addr, json!({"nick": nick, "key": key})).await;
    let join = json!({"type": "join", "room": "tea", "after": {"epoch": epoch, "seq": seq}});
    client.send(&[join]).await;
    client.until("joined").await
}

async fn client_resumes_on_another_node(version: Version) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let key = "the secret key of Ada";
    let mut ada = JsonClient::hello(a.addr, json!({"nick": "Ada", "key": key})).await;
    ada.send(&[json!({"type": "join", "room": "tea"})]).await;
    let epoch = ada.until("joined").await["epoch"].clone();
    let mut bob = join(&b, "Bob", "tea").await;
    let seq = say(&mut bob, "tea", "before").await;
    ada.until("message").await;
    a.kill().await;
    let missed = say(&mut bob, "tea", "missed").await;
    let joined = resume(&b, "Ada", &epoch, seq).await;
    assert_eq!(joined["recovered"], true, "{joined}");
    let messages = joined["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 1, "{joined}");
    assert_eq!(messages[0]["seq"], missed);
}

async fn draft_that_is_repeated_on_another_node_is_a_duplicate(version: Version) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut on_a, mut on_b) = (join(&a, "Ada", "tea").await, join(&b, "Ada", "tea").await);
    let seq = say(&mut on_a, "tea", "once").await;
    on_b.send(&[json!({"type": "say", "room": "tea", "text": "once", "id": "once"})]).await;
    let said = on_b.until("said").await;
    assert_eq!((said["seq"].as_u64(), &said["duplicate"]), (Some(seq), &Value::Bool(true)));
}

async fn node_that_was_away_catches_up(version: Version) {
    let cluster = Cluster::start(version).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    let mut ada = join(&a, "Ada", "tea").await;
    say(&mut ada, "tea", "before").await;
    b.kill().await;
    for n in 0..50 {
        say(&mut ada, "tea", &format!("while away {n}")).await;
    }
    let b = cluster.node("b").await;
    let mut bob = join(&b, "Bob", "tea").await;
    bob.send(&[json!({"type": "history", "room": "tea", "limit": 100})]).await;
    let history = bob.until("history").await;
    assert_eq!(history["messages"].as_array().unwrap().len(), 51);
    // A node that is new also has everything, since the stream goes back to the beginning.
    let c = cluster.node("c").await;
    // Once it answers, it also handles signals.
    drop(join(&c, "Cyd", "tea").await);
    stop([a, b, c]).await;
    let all = export(&cluster.db("a")).await;
    assert_eq!(all.len(), 51);
    assert_eq!(export(&cluster.db("b")).await, all);
    assert_eq!(export(&cluster.db("c")).await, all);
}

async fn nodes_tell_how_many_servers_store_the_log(version: Version) {
    let mut cluster = Cluster::start(version).await;
    let a = cluster.node("a").await;
    assert_durability(a.addr, "stream", Some(1)).await;
    // Without NATS the number is not known.
    stop([a]).await;
    cluster.nats.kill().await;
    let a = cluster.node("a").await;
    assert_durability(a.addr, "stream", None).await;
    cluster.nats.restart().await;
    let metrics = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", a.addr);
    let has_number = async || raw_http(a.addr, &metrics).await.contains("chinwag_log_replicas ");
    eventually("the node to read the number", has_number).await;
    assert_durability(a.addr, "stream", Some(1)).await;
}

async fn history_of_a_single_server_becomes_that_of_the_first_node(version: Version) {
    let cluster = Cluster::start(version).await;
    let db = cluster.db("a");
    let db_flag = db.to_str().unwrap();
    let flags = ["--db", db_flag];
    let mut single = Program::start(PROGRAM, cluster.folder.path(), &flags).await;
    let mut ada = JsonClient::hello(single.addr, json!({"nick": "Ada"})).await;
    ada.send(&[json!({"type": "join", "room": "tea"})]).await;
    let epoch = ada.until("joined").await["epoch"].clone();
    let seq = say(&mut ada, "tea", "alone").await;
    single.signal("-TERM");
    single.exit_code().await;

    let a = cluster.node("a").await;
    let joined = resume(&a, "Ada", &epoch, seq).await;
    assert_eq!((&joined["recovered"], &joined["epoch"]), (&Value::Bool(true), &epoch));
    let mut ada = join(&a, "Ada", "tea").await;
    assert!(say(&mut ada, "tea", "together").await > seq);
    // The history before the cluster is not in the stream. The first node sends it.
    let b = cluster.node("b").await;
    say(&mut ada, "tea", "three").await;
    let joined = resume(&b, "Bob", &epoch, seq).await;
    assert_eq!((&joined["recovered"], &joined["epoch"]), (&Value::Bool(true), &epoch));
    stop([a, b]).await;
    let all = export(&db).await;
    assert_eq!(all.len(), 3);
    assert_eq!(export(&cluster.db("b")).await, all);
    // No node can send it now.
    let error = refused(&cluster, "c").await;
    assert!(error.contains("no other node sent a copy"), "{error}");
    cluster.backup("a", "c").await;
    let c = cluster.node("c").await;
    // Once it answers, it also handles signals.
    drop(join(&c, "Cyd", "tea").await);
    stop([c]).await;
    assert_eq!(export(&cluster.db("c")).await, all);
}

async fn node_whose_records_are_gone_copies_the_history_of_another(version: Version) {
    let cluster = Cluster::start(version).await;
    let flags = ["--nats-log-bytes", "1048576"];
    let (a, b) = (cluster.node_with("a", &flags).await, cluster.node("b").await);
    let mut ada = join(&a, "Ada", "tea").await;
    let first = say(&mut ada, "tea", "first").await;
    b.kill().await;
    let long = "x".repeat(4000);
    for n in 0..400 {
        let text = format!("{n} {long}");
        ada.send(&[json!({"type": "say", "room": "tea", "text": text})]).await;
        ada.until("said").await;
    }
    say(&mut ada, "tea", "last").await;
    let b = cluster.node("b").await;
    let mut bob = join(&b, "Bob", "tea").await;
    bob.send(&[json!({"type": "history", "room": "tea", "around": first, "limit": 2})]).await;
    assert_eq!(bob.until("history").await["messages"][0]["text"], "first");
    // It follows the log from there on.
    say(&mut ada, "tea", "after").await;
    while bob.until("message").await["text"] != "after" {}
    stop([a, b]).await;
    let all = export(&cluster.db("a")).await;
    assert_eq!(all.len(), 403);
    assert_eq!(export(&cluster.db("b")).await, all);
}

/// Starts a node, which must end with an error. Returns its log.
pub(super) async fn refused(cluster: &Cluster, name: &str) -> String {
    let mut command = cluster.command(name, &["--listen", "127.0.0.1:0"]);
    let output = within("the node to end", command.kill_on_drop(true).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

async fn node_with_other_history_is_refused(version: Version) {
    let cluster = Cluster::start(version).await;
    let _a = cluster.node("a").await;
    let other = cluster.db("b");
    let flags = ["--db", other.to_str().unwrap()];
    let single = Program::start(PROGRAM, cluster.folder.path(), &flags).await;
    let mut bob = join(&single, "Bob", "tea").await;
    say(&mut bob, "tea", "alone").await;
    stop([single]).await;
    let error = refused(&cluster, "b").await;
    assert!(error.contains("is not a copy of this log"), "{error}");
    assert_eq!(export(&other).await.len(), 1);
}

async fn journal_of_a_node_without_nats_begins_a_new_epoch(version: Version) {
    let cluster = Cluster::start(version).await;
    let a = cluster.node("a").await;
    let mut ada = JsonClient::hello(a.addr, json!({"nick": "Ada"})).await;
    ada.send(&[json!({"type": "join", "room": "tea"})]).await;
    let epoch = ada.until("joined").await["epoch"].clone();
    let seq = say(&mut ada, "tea", "together").await;
    stop([a]).await;
    let db = cluster.db("a");
    let flags = ["--db", db.to_str().unwrap()];
    let single = Program::start(PROGRAM, cluster.folder.path(), &flags).await;
    let joined = resume(&single, "Ada", &epoch, seq).await;
    assert_eq!(joined["recovered"], false, "{joined}");
    assert_ne!(joined["epoch"], epoch);
    assert_eq!(joined["messages"][0]["text"], "together");
    let mut ada = join(&single, "Ada", "tea").await;
    assert!(say(&mut ada, "tea", "alone").await > seq);
    stop([single]).await;
    // It is not a node any more.
    let error = refused(&cluster, "a").await;
    assert!(error.contains("is not a copy of this log"), "{error}");
}

async fn node_whose_history_differs_is_not_ready(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, c] = [cluster.node("a").await, cluster.node("b").await, cluster.node("c").await];
    // Once it answers, it also handles signals.
    drop(join(&c, "Cyd", "tea").await);
    stop([c]).await;
    let db = rusqlite::Connection::open(cluster.db("c")).unwrap();
    db.execute_batch("UPDATE shared_log SET chain = zeroblob(32)").unwrap();
    drop(db);
    let c = cluster.node("c").await;
    let mut clients = Vec::new();
    for (node, nick) in [(&a, "Ada"), (&b, "Bob"), (&c, "Cyd")] {
        clients.push(join(node, nick, "tea").await);
    }
    for (n, client) in clients.iter_mut().take(2).enumerate() {
        say(client, "tea", &format!("hello {n}")).await;
    }
    eventually("the node to notice it", async || !is_ready(&c).await).await;
    assert!(is_ready(&a).await && is_ready(&b).await);
    // Its clients read, but cannot write.
    let cyd = &mut clients[2];
    cyd.send(&[json!({"type": "say", "room": "tea", "text": "wrong", "ref": 1})]).await;
    assert_eq!(cyd.until("error").await["code"], "busy");
    stop([c]).await;
    // It copies the history of another node.
    let c = cluster.node("c").await;
    let mut cyd = join(&c, "Cyd", "tea").await;
    say(&mut cyd, "tea", "right").await;
    assert!(is_ready(&c).await);
    stop([a, b, c]).await;
    assert!(export(&cluster.db("c")).await == export(&cluster.db("a")).await);
}

/// Nobody writes, so only the heartbeats show the difference.
async fn two_nodes_that_differ_are_out_of_service_until_an_operator_chooses_one(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b] = [cluster.node("a").await, cluster.node("b").await];
    let mut ada = join(&a, "Ada", "tea").await;
    say(&mut ada, "tea", "before").await;
    drop(join(&b, "Bob", "tea").await);
    stop([b]).await;
    let db = rusqlite::Connection::open(cluster.db("b")).unwrap();
    db.execute_batch("UPDATE shared_log SET chain = zeroblob(32)").unwrap();
    drop(db);
    let b = cluster.node("b").await;
    eventually("both to notice it", async || !is_ready(&a).await && !is_ready(&b).await).await;
    let reason = trouble(&a).await.unwrap();
    assert!(reason.contains("start the one with the right history first"), "{reason}");
    drop(join(&b, "Bob", "tea").await);
    stop([a, b]).await;
    let a = cluster.node("a").await;
    eventually("the chosen node to be ready", async || is_ready(&a).await).await;
    let b = cluster.node("b").await;
    let mut bob = join(&b, "Bob", "tea").await;
    say(&mut bob, "tea", "after").await;
    assert!(is_ready(&a).await && is_ready(&b).await);
    let marks = ["a.db.differs", "b.db.differs"].map(|mark| cluster.folder.path().join(mark));
    eventually("no mark to remain", async || marks.iter().all(|mark| !mark.exists())).await;
    stop([a, b]).await;
    assert!(export(&cluster.db("a")).await == export(&cluster.db("b")).await);
}

/// Returns whether the status of `/readyz` is 200.
async fn is_ready(node: &Program) -> bool {
    let request =
        format!("GET /readyz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", node.addr);
    raw_http(node.addr, &request).await.starts_with("HTTP/1.1 200 ")
}
