//! `chinwag cluster purge` deletes records that all running nodes have.

use serde_json::json;
use tokio::process::Command;

use super::log::stop;
use super::nats::Version;
use super::{Cluster, export, join, say, with_each_nats};
use crate::program::PROGRAM;

with_each_nats!(
    purge_removes_deleted_texts_from_the_stream_and_nodes_go_on,
    purge_deletes_nothing_if_no_node_runs,
);

async fn purge(cluster: &Cluster) -> Result<String, String> {
    let mut command = Command::new(PROGRAM);
    let output = command.args(["cluster", "purge", "--nats", &cluster.nats.url()]).output();
    let output = output.await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

async fn purge_removes_deleted_texts_from_the_stream_and_nodes_go_on(version: Version) {
    let cluster = Cluster::start(version).await;
    let [a, b, away] = [cluster.node("a").await, cluster.node("b").await, cluster.node("c").await];
    let mut ada = join(&a, "Ada", "tea").await;
    let mut bob = join(&b, "Bob", "tea").await;
    drop(join(&away, "Cyd", "tea").await);
    stop([away]).await;
    let seq = say(&mut ada, "tea", "a secret that is deleted").await;
    ada.send(&[json!({"type": "delete", "room": "tea", "seq": seq})]).await;
    ada.until("said").await;
    let last = say(&mut ada, "tea", "after the deletion").await;
    while bob.until("message").await["seq"] != last {}
    let output = purge(&cluster).await.unwrap();
    assert!(output.contains("node a ") && output.contains("node b "), "{output}");
    assert!(!output.contains("node c "), "{output}");
    let (_, first) = output.trim_end().rsplit_once("begins with record ").unwrap();
    // Each record has 4,096 sequence numbers.
    assert!(first.parse::<u64>().unwrap() > seq / 4096, "{output}");
    // The nodes go on, also after a restart. The one that was away copies the history.
    stop([b]).await;
    let [b, c] = [cluster.node("b").await, cluster.node("c").await];
    for (node, nick) in [(&a, "Ann"), (&b, "Ben"), (&c, "Cyd")] {
        say(&mut join(node, nick, "tea").await, "tea", nick).await;
    }
    stop([a, b, c]).await;
    let exported = export(&cluster.db("a")).await;
    assert_eq!(exported.len(), 5, "{exported:?}");
    assert_eq!(export(&cluster.db("b")).await, exported);
    assert_eq!(export(&cluster.db("c")).await, exported);
}

async fn purge_deletes_nothing_if_no_node_runs(version: Version) {
    let cluster = Cluster::start(version).await;
    let error = purge(&cluster).await.unwrap_err();
    assert!(error.contains("the stream does not exist"), "{error}");
    let a = cluster.node("a").await;
    say(&mut join(&a, "Ada", "tea").await, "tea", "hello").await;
    stop([a]).await;
    let error = purge(&cluster).await.unwrap_err();
    assert!(error.contains("no node of this stream is running"), "{error}");
    let a = cluster.node("a").await;
    say(&mut join(&a, "Ada", "tea").await, "tea", "again").await;
}
