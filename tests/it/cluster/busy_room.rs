//! How often the members of a busy room on several nodes are written to.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::rt;
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::nats::Version;
use super::{Cluster, join, with_each_nats};
use crate::harness::eventually;

with_each_nats!(nodes_together_do_not_write_more_often_than_one);

async fn nodes_together_do_not_write_more_often_than_one(version: Version) {
    const MEMBERS: usize = 200;
    /// The time that a single node waits between two writes to a room of this size.
    const WAIT: Duration = Duration::from_millis(10);
    const ROUNDS: u32 = 400;
    let cluster = Cluster::start(version).await;
    let nodes = [cluster.node("a").await, cluster.node("b").await, cluster.node("c").await];
    let mut senders = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        senders.push(join(node, &format!("s{n}"), "tea").await);
    }
    let names: Vec<_> = (0..MEMBERS).map(|n| format!("m{n}")).collect();
    let members = names.iter().map(|name| join(&nodes[0], name, "tea"));
    let members = join_all(members).await;
    let (frames, messages) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    for (n, mut member) in members.into_iter().enumerate() {
        let (frames, messages) = (Rc::clone(&frames), Rc::clone(&messages));
        rt::spawn(async move {
            while let Some(Ok(frame)) = member.stream.next().await {
                if let (Message::Text(text), 0) = (frame, n) {
                    let count = text.matches("\"type\":\"message\"").count();
                    frames.set(frames.get() + u32::from(count > 0));
                    messages.set(messages.get() + count);
                }
            }
        });
    }
    let began = Instant::now();
    for n in 0..ROUNDS {
        for sender in &mut senders {
            sender.send(&[json!({"type": "say", "room": "tea", "text": format!("{n}")})]).await;
        }
        // 600 messages a second.
        let next = WAIT / 2 * n;
        tokio::time::sleep(next.saturating_sub(began.elapsed())).await;
    }
    let sent = ROUNDS as usize * senders.len();
    eventually("all messages", async || messages.get() == sent).await;
    // A busy machine only makes them fewer.
    let most = began.elapsed().as_secs_f64() / WAIT.as_secs_f64() + 1.0;
    assert!(f64::from(frames.get()) <= most, "{} writes in {:?}", frames.get(), began.elapsed());
}
