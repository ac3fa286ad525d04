//! Nodes whose history file cannot be written for some time.

use rusqlite::Connection;

use super::nats::Version;
use super::{Cluster, join, say, trouble, with_each_nats};
use crate::harness::{eventually, within};

with_each_nats!(node_whose_history_file_is_writable_again_is_ready_again);

async fn node_whose_history_file_is_writable_again_is_ready_again(version: Version) {
    let cluster = Cluster::start(version).await;
    let (mut a, b) = (cluster.node("a").await, cluster.node("b").await);
    let (mut ada, mut bob) = (join(&a, "Ada", "tea").await, join(&b, "Bob", "tea").await);
    say(&mut ada, "tea", "before").await;
    bob.until("message").await;
    // Another process writes to the file.
    let lock = Connection::open(cluster.db("a")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    say(&mut bob, "tea", "meanwhile").await;
    within("the error", async {
        while !a.log.next_line().await.unwrap().unwrap().contains("cannot be written") {}
    })
    .await;
    eventually("the node to be unready", async || trouble(&a).await.is_some()).await;
    lock.execute_batch("ROLLBACK").unwrap();
    drop(lock);
    assert_eq!(ada.until("message").await["text"], "meanwhile");
    eventually("the node to be ready", async || trouble(&a).await.is_none()).await;
    say(&mut ada, "tea", "after").await;
    assert_eq!(bob.until("message").await["text"], "after");
}
