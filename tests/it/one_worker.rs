//! A server with one worker. Its hub runs on the worker's thread.

use std::time::Duration;

use chinwag::Config;
use chinwag::protocol::DisconnectReason as Reason;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{TestServer, config, within};
use crate::json::JsonClient;

/// Without a pause, the hub would fill the send queues before a session on its thread can run.
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

/// Each message leads to two deliveries to its author: the message and the receipt.
#[actix_web::test]
async fn author_in_many_rooms_that_reads_is_not_evicted() {
    const ROOMS: usize = 40;
    let config = Config { workers: 1, send_queue: 16, ..config() };
    let server = TestServer::start_with(config).await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    let rooms: Vec<_> = (0..ROOMS).map(|n| format!("room{n}")).collect();
    for room in &rooms {
        ada.send(&[json!({"type": "join", "room": room})]).await;
        ada.until("joined").await;
    }
    // The second message to a room waits until the room is due.
    let say = |room| json!({"type": "say", "room": room, "text": "hello"});
    let lines: Vec<_> = rooms.iter().cycle().take(3 * ROOMS).map(say).collect();
    ada.send(&lines).await;
    for _ in &lines {
        ada.until("said").await;
    }
    assert_eq!(server.disconnects(Reason::SlowClient).await, 0);
    server.stop().await;
}

/// A room that sends every message at once joins those that the hub accepts together.
#[actix_web::test]
async fn burst_of_messages_is_joined_in_few_websocket_messages() {
    let config = Config { workers: 1, batch_window: Duration::ZERO, ..config() };
    let server = TestServer::start_with(config).await;
    let mut reader = server.join("room=a").await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[json!({"type": "join", "room": "a"})]).await;
    ada.until("joined").await;
    ada.send(&vec![json!({"type": "say", "room": "a", "text": "hello"}); 10]).await;
    for _ in 0..10 {
        reader.expect("hello").await;
    }
    assert!(reader.messages <= 3, "{} WebSocket messages", reader.messages);
}
