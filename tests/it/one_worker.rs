//! A server with one worker. Its hub runs on the worker's thread.

use std::time::Duration;

use chinwag::Config;
use chinwag::protocol::DisconnectReason as Reason;
use futures_util::future::join_all;

use crate::harness::{TestServer, config, within};

/// Without a pause after each delivery, the hub would fill the send queues before a session on its
/// thread can run.
#[actix_web::test]
async fn burst_of_messages_does_not_evict_clients_that_read() {
    const CLIENTS: usize = 8;
    const MESSAGES: usize = 40;
    let (batch_window, send_queue) = (Duration::ZERO, 16);
    let config = Config { workers: 1, batch_window, send_queue, ..config() };
    let server = TestServer::start_with(config).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.join("").await);
    }
    let received = join_all(clients.iter_mut().enumerate().map(async |(number, client)| {
        for n in 0..MESSAGES {
            client.say(&format!("{number} {n}")).await;
        }
        let mut lines = Vec::new();
        while lines.len() < CLIENTS * MESSAGES {
            lines.push(within("the next message", client.line()).await.expect("not evicted"));
        }
        lines
    }))
    .await;
    assert!(received.iter().all(|lines| lines == &received[0]), "all receive the same");
    assert_eq!(server.disconnects(Reason::SlowClient).await, 0);
    server.stop().await;
}
