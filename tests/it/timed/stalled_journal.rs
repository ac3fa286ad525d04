//! A journal that stands still, as a disk may, under clients that must not be taken for dead.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use actix::{Handler, Message as ActorMessage};
use chinwag::journal::Writer;
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

/// Keeps the journal's thread from all else for so long.
#[derive(ActorMessage)]
#[rtype(result = "()")]
struct Stall(Duration);

impl Handler<Stall> for Writer {
    type Result = ();

    fn handle(&mut self, Stall(duration): Stall, _: &mut actix::Context<Self>) {
        std::thread::sleep(duration);
    }
}

/// A server, and those who are about to flood it, two to a room.
async fn server(folder: &Path) -> (Server, Vec<JsonClient>) {
    let config = Config {
        ping_interval: PONG_TIMEOUT / 4,
        pong_timeout: PONG_TIMEOUT,
        resume_buffer: 10,
        ..config_with_journal(folder)
    };
    let server = chinwag::server::start(config).await.unwrap();
    let addr = server.addrs()[0];
    // Together, since one that is not read meanwhile answers no pings.
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
    let (server, clients) = server(folder.path()).await;
    let began = Instant::now();
    let stall = 2 * PONG_TIMEOUT;
    server.journal().unwrap().writer().do_send(Stall(stall));
    let flood = join_all(clients.into_iter().enumerate().map(async |(n, client)| {
        let (mut sink, mut stream) = client.stream.split();
        let send = async {
            for number in 0..MESSAGES {
                sink.send(long_say(n, number)).await.unwrap();
            }
        };
        let read = async {
            let (mut said, mut seen) = (0, Vec::new());
            while said < MESSAGES || seen.len() < 2 * MESSAGES {
                let frame = stream.next().await.unwrap().unwrap();
                assert!(!frame.is_close(), "{n} was closed: {frame}");
                // Not parsed: a hundred read in one thread, and whoever is slow to read what comes
                // before a ping is slow to answer it.
                for line in frame.to_text().unwrap().split('\n').filter(|_| frame.is_text()) {
                    if line.starts_with("{\"type\":\"said\"") {
                        said += 1;
                    } else if line.starts_with("{\"type\":\"message\"") {
                        seen.push(line.rsplit_once("\"id\":").unwrap().1.to_owned());
                    } else {
                        assert!(line.starts_with("{\"type\":\"presence\""), "{line}");
                    }
                }
            }
            seen
        };
        let delivered = timeout(stall + DEADLINE, join(send, read)).await;
        let ((), seen) = delivered.expect("all is delivered");
        let once: HashSet<_> = seen.iter().collect();
        assert_eq!((once.len(), seen.len()), (2 * MESSAGES, 2 * MESSAGES));
    }));
    flood.await;
    assert!(began.elapsed() > stall, "it has stood still");
    within("the server to stop", server.stop()).await;
}
