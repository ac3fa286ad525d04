//! A journal that does not commit for longer than the pong timeout, while clients flood the server.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use actix::{Handler, Message as ActorMessage};
use chinwag::log::sqlite::Writer;
use chinwag::{Config, Server};
use futures_util::future::{join, join_all};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{DEADLINE, within};
use crate::journal::{config_with_journal, join_command};
use crate::json::JsonClient;

const FLOODERS: usize = 100;

const PONG_TIMEOUT: Duration = Duration::from_secs(4);

/// Blocks the journal's thread for this long.
#[derive(ActorMessage)]
#[rtype(result = "()")]
struct BlockThread(Duration);

impl Handler<BlockThread> for Writer {
    type Result = ();

    fn handle(&mut self, BlockThread(duration): BlockThread, _: &mut actix::Context<Self>) {
        // The blocked thread is what the test is about.
        std::thread::sleep(duration);
    }
}

/// Starts a server and connects the flooders, two to a room.
async fn start_with_flooders(folder: &Path) -> (Server, Vec<JsonClient>) {
    let config = Config {
        ping_interval: PONG_TIMEOUT / 4,
        pong_timeout: PONG_TIMEOUT,
        resume_buffer: 10,
        ..config_with_journal(folder)
    };
    let server = chinwag::server::start(config).await.unwrap();
    let addr = server.addrs()[0];
    // They connect concurrently, because a client answers pings only while the test reads from it.
    let clients = join_all((0..FLOODERS).map(async |n| {
        let mut client = JsonClient::hello(addr, json!({})).await;
        client.send(&[join_command(&format!("r{}", n / 2))]).await;
        client.expect("joined").await;
        client
    }))
    .await;
    (server, clients)
}

fn long_say(client: usize, number: usize) -> Message {
    let (room, id) = (format!("r{}", client / 2), format!("{client}-{number}"));
    let text = "x".repeat(4000);
    Message::text(json!({"type": "say", "room": room, "text": text, "id": id}).to_string())
}

#[actix_web::test]
async fn stalled_journal_loses_no_client_and_no_message() {
    const MESSAGES: usize = 25;
    let folder = tempfile::tempdir().unwrap();
    let (server, clients) = start_with_flooders(folder.path()).await;
    let began = Instant::now();
    let stall = 2 * PONG_TIMEOUT;
    server.journal().unwrap().writer().do_send(BlockThread(stall));
    let flood = join_all(clients.into_iter().enumerate().map(async |(n, client)| {
        let (mut sink, mut stream) = client.stream.split();
        let send = async {
            for number in 0..MESSAGES {
                sink.send(long_say(n, number)).await.unwrap();
            }
        };
        let read = async {
            let (mut said, mut ids) = (0, Vec::new());
            while said < MESSAGES || ids.len() < 2 * MESSAGES {
                let frame = stream.next().await.unwrap().unwrap();
                assert!(!frame.is_close(), "{n} was closed: {frame}");
                // Parsing JSON would be too slow: one thread reads for a hundred clients, and a
                // client answers a ping only when it has read everything before it.
                for line in frame.to_text().unwrap().split('\n').filter(|_| frame.is_text()) {
                    if line.starts_with("{\"type\":\"said\"") {
                        said += 1;
                    } else if line.starts_with("{\"type\":\"message\"") {
                        ids.push(line.rsplit_once("\"id\":").unwrap().1.to_owned());
                    } else {
                        assert!(line.starts_with("{\"type\":\"presence\""), "{line}");
                    }
                }
            }
            ids
        };
        let delivered = timeout(stall + DEADLINE, join(send, read)).await;
        let ((), ids) = delivered.expect("all messages are delivered");
        let unique: HashSet<_> = ids.iter().collect();
        assert_eq!((unique.len(), ids.len()), (2 * MESSAGES, 2 * MESSAGES));
    }));
    flood.await;
    assert!(began.elapsed() > stall, "the journal was stalled");
    within("the server to stop", server.stop()).await;
}
