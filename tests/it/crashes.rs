//! Killed again and again under those who write: nothing that anybody has seen is lost, and nothing
//! is told twice.

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

/// What a client of the torture has been told.
#[derive(Default)]
struct Witness {
    seen: Vec<(u64, String)>,
    acknowledged: Vec<String>,
}

impl Witness {
    fn see(&mut self, message: &Value) {
        let seq = message["seq"].as_u64().unwrap();
        let last = self.seen.last().map_or(0, |(seq, _)| *seq);
        assert!(seq > last, "{message} after {last}");
        self.seen.push((seq, message["id"].as_str().unwrap().to_owned()));
    }
}

/// Says one message after the other, each again until it is acknowledged, over one connection
/// after the other, until it is told to stop.
async fn torment(
    name: String,
    room: String,
    addr: Rc<Cell<SocketAddr>>,
    acknowledged: Rc<Cell<usize>>,
    stop: Rc<Cell<bool>>,
) -> Witness {
    let mut witness = Witness::default();
    let mut position: Option<(Value, u64)> = None;
    let mut number = 0;
    let key = json!({"nick": name, "key": format!("the secret of {name}")});
    'connection: while !stop.get() {
        let Ok(mut client) = JsonClient::try_connect(addr.get()).await else {
            // As every client does between two tries.
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
                        // Who is here for the first time is told only of late.
                        witness.see(message);
                    }
                    let seq = line["seq"].as_u64().unwrap();
                    position = Some((line["epoch"].clone(), seq));
                }
                "message" => {
                    witness.see(&line);
                    position.as_mut().unwrap().1 = line["seq"].as_u64().unwrap();
                }
                "said" => {
                    assert_eq!(line["id"], format!("{name}-{number}"));
                    witness.acknowledged.push(format!("{name}-{number}"));
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
    witness
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
            (n % ROOMS, rt::spawn(torment(name, room, addr, acknowledged, Rc::clone(&stop))))
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
    let mut witnesses = Vec::new();
    for (room, writer) in writers {
        witnesses.push((room, within("a writer to end", writer).await.unwrap()));
    }
    for room in 0..ROOMS {
        let said = history(program.addr, &format!("r{room}")).await;
        let said: Vec<(u64, String)> = said
            .iter()
            .map(|message| {
                let id = message["id"].as_str().unwrap().to_owned();
                (message["seq"].as_u64().unwrap(), id)
            })
            .collect();
        assert!(said.is_sorted_by(|(a, _), (b, _)| a < b));
        let ids: HashSet<&str> = said.iter().map(|(_, id)| id.as_str()).collect();
        assert_eq!(ids.len(), said.len(), "each is there once");
        for (_, witness) in witnesses.iter().filter(|(its, _)| *its == room) {
            for id in &witness.acknowledged {
                assert!(ids.contains(id.as_str()), "{id} was acknowledged and is gone");
            }
            // What it saw is all that was said from its first message to its last.
            let (first, last) = (witness.seen.first().unwrap(), witness.seen.last().unwrap());
            let span = said.iter().filter(|(seq, _)| (first.0..=last.0).contains(seq));
            assert!(span.eq(&witness.seen), "no gap and no repeat");
            assert!(witness.seen.len() > 100);
        }
    }
}
