//! A server that is killed repeatedly while clients write. No message that a client has received is
//! lost, and none is delivered twice.

use std::cell::Cell;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use actix_web::rt;
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{eventually, within};
use crate::journal::history;
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

/// What a writer has received.
#[derive(Default)]
struct Received {
    /// Sequence numbers and ids.
    messages: Vec<(u64, String)>,
    acknowledged: Vec<String>,
}

impl Received {
    fn add(&mut self, message: &Value) {
        let seq = message["seq"].as_u64().unwrap();
        let last = self.messages.last().map_or(0, |(seq, _)| *seq);
        assert!(seq > last, "{message} after {last}");
        self.messages.push((seq, message["id"].as_str().unwrap().to_owned()));
    }
}

/// Sends numbered messages until it is told to stop, and returns what it has received. Reconnects
/// when the connection breaks, and repeats a message until it is acknowledged.
async fn write(
    name: String,
    room: String,
    addr: Rc<Cell<SocketAddr>>,
    acknowledged: Rc<Cell<usize>>,
    stop: Rc<Cell<bool>>,
) -> Received {
    let mut received = Received::default();
    let mut position: Option<(Value, u64)> = None;
    let mut number = 0;
    let key = json!({"nick": name, "key": format!("the secret of {name}")});
    'connection: while !stop.get() {
        let Ok(mut client) = JsonClient::try_connect(addr.get()).await else {
            // The server may be restarting.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let mut hello = json!({"type": "hello"});
        hello.as_object_mut().unwrap().extend(key.as_object().unwrap().clone());
        let after = position.as_ref().map(|(epoch, seq)| json!({"epoch": epoch, "seq": seq}));
        let join = json!({"type": "join", "room": room, "after": after});
        let say = |number: usize| {
            let id = format!("{name}-{number}");
            json!({"type": "say", "room": room, "text": "x", "id": id}).to_string()
        };
        let first = format!("{hello}\n{join}\n{}", say(number));
        if client.stream.send(Message::text(first)).await.is_err() {
            continue;
        }
        while let Some(line) = client.next().await {
            match line["type"].as_str().unwrap() {
                "welcome" => {}
                "joined" => {
                    assert_eq!(line["recovered"], position.is_some(), "{name}: {line}");
                    for message in line["messages"].as_array().unwrap() {
                        // A first join has only the latest messages.
                        received.add(message);
                    }
                    let seq = line["seq"].as_u64().unwrap();
                    position = Some((line["epoch"].clone(), seq));
                }
                "message" => {
                    received.add(&line);
                    position.as_mut().unwrap().1 = line["seq"].as_u64().unwrap();
                }
                "said" => {
                    assert_eq!(line["id"], format!("{name}-{number}"));
                    received.acknowledged.push(format!("{name}-{number}"));
                    acknowledged.set(acknowledged.get() + 1);
                    number += 1;
                    if stop.get() || client.stream.send(Message::text(say(number))).await.is_err() {
                        continue 'connection;
                    }
                }
                _ => panic!("{line}"),
            }
        }
    }
    received
}

#[actix_web::test]
async fn ten_kills_under_fifty_writers_lose_and_repeat_nothing() {
    const ROOMS: usize = 5;
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(PROGRAM, folder.path(), &[]).await;
    let addr = Rc::new(Cell::new(program.addr));
    let acknowledged = Rc::new(Cell::new(0));
    let stop = Rc::new(Cell::new(false));
    let writers: Vec<_> = (0..50)
        .map(|n| {
            let (name, room) = (format!("w{n}"), format!("r{}", n % ROOMS));
            let (addr, acknowledged) = (Rc::clone(&addr), Rc::clone(&acknowledged));
            (n % ROOMS, rt::spawn(write(name, room, addr, acknowledged, Rc::clone(&stop))))
        })
        .collect();
    for _ in 0..10 {
        let before = acknowledged.get();
        eventually("progress", async || acknowledged.get() > before + 300).await;
        program.kill().await;
        program = Program::start(PROGRAM, folder.path(), &[]).await;
        addr.set(program.addr);
    }
    let before = acknowledged.get();
    eventually("progress", async || acknowledged.get() > before + 300).await;
    stop.set(true);
    let mut results = Vec::new();
    for (room, writer) in writers {
        results.push((room, within("a writer to end", writer).await.unwrap()));
    }
    for room in 0..ROOMS {
        let stored = history(program.addr, &format!("r{room}")).await;
        let stored: Vec<(u64, String)> = stored
            .iter()
            .map(|message| {
                let id = message["id"].as_str().unwrap().to_owned();
                (message["seq"].as_u64().unwrap(), id)
            })
            .collect();
        assert!(stored.is_sorted_by(|(a, _), (b, _)| a < b));
        let ids: HashSet<&str> = stored.iter().map(|(_, id)| id.as_str()).collect();
        assert_eq!(ids.len(), stored.len(), "each message is stored once");
        for (_, received) in results.iter().filter(|(writer_room, _)| *writer_room == room) {
            for id in &received.acknowledged {
                assert!(ids.contains(id.as_str()), "{id} was acknowledged and is lost");
            }
            // It has received all messages of the room from its first one to its last one.
            let (first, last) =
                (received.messages.first().unwrap(), received.messages.last().unwrap());
            let span = stored.iter().filter(|(seq, _)| (first.0..=last.0).contains(seq));
            assert!(span.eq(&received.messages), "no gap and no repetition");
            assert!(received.messages.len() > 100);
        }
    }
}
