//! A server that is killed repeatedly while clients write, edit, delete and react. Nothing that a
//! client has received is lost, repeated or undone.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
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
use crate::room_view::{MessageView, RoomView};

/// What a writer has received.
#[derive(Default)]
struct Received {
    view: RoomView,
    /// Sequence numbers and ids of messages.
    messages: Vec<(u64, String)>,
    /// Ids of messages that were acknowledged.
    acknowledged: Vec<String>,
    /// The number of acknowledged changes of each kind.
    changes: BTreeMap<&'static str, usize>,
    /// The writer's own messages that acknowledged commands have changed: the text of the edit, or
    /// `None` if the message was deleted.
    own: BTreeMap<u64, Option<String>>,
}

impl Received {
    fn apply(&mut self, line: &Value) {
        self.view.apply(line);
        let messages = match line["type"].as_str().unwrap() {
            "joined" => line["messages"].as_array().unwrap(),
            "message" => std::slice::from_ref(line),
            _ => &[],
        };
        for message in messages {
            let seq = message["seq"].as_u64().unwrap();
            let last = self.messages.last().map_or(0, |(seq, _)| *seq);
            assert!(seq > last, "{message} after {last}");
            self.messages.push((seq, message["id"].as_str().unwrap().to_owned()));
        }
    }

    /// Records an acknowledged command.
    fn acknowledge(&mut self, command: &Value, seq: u64) {
        let target = command["seq"].as_u64().unwrap_or_default();
        let kind = match command["type"].as_str().unwrap() {
            "say" => {
                self.acknowledged.push(command["id"].as_str().unwrap().to_owned());
                self.own.insert(seq, Some(command["text"].as_str().unwrap().to_owned()));
                "say"
            }
            "edit" => {
                self.own.insert(target, Some(command["text"].as_str().unwrap().to_owned()));
                "edit"
            }
            "delete" => {
                self.own.insert(target, None);
                "delete"
            }
            _ => "react",
        };
        *self.changes.entry(kind).or_default() += 1;
    }

    /// Returns the command with a number. It is the same whenever it is repeated.
    fn command(&self, name: &str, room: &str, number: usize) -> Value {
        let id = format!("{name}-{number}");
        let mut own = self.own.iter().rev().filter(|(_, text)| text.is_some());
        let own = own.next().map(|(seq, _)| *seq);
        let newest = self.view.messages.last_key_value().map(|(seq, _)| *seq);
        match (number % 10, own, newest) {
            (3 | 6, Some(own), _) => {
                json!({"type": "edit", "room": room, "id": id, "seq": own, "text": id})
            }
            (8, Some(own), _) => json!({"type": "delete", "room": room, "id": id, "seq": own}),
            (4 | 9, _, Some(newest)) => {
                let (emoji, on) = (["👍", "🎉"][number / 10 % 2], number % 10 == 4);
                json!({"type": "react", "room": room, "id": id, "seq": newest, "emoji": emoji,
                       "on": on})
            }
            _ => json!({"type": "say", "room": room, "id": id, "text": id}),
        }
    }
}

fn hello(name: &str) -> Value {
    json!({"type": "hello", "nick": name, "key": format!("the secret of {name}")})
}

/// Sends numbered commands until it is told to stop, and returns what it has received. Reconnects
/// when the connection breaks, and repeats a command until it is answered.
async fn write(
    name: String,
    room: String,
    addr: Rc<Cell<SocketAddr>>,
    acknowledged: Rc<Cell<usize>>,
    stop: Rc<Cell<bool>>,
) -> Received {
    let mut received = Received::default();
    let mut number = 0;
    let mut command = received.command(&name, &room, number);
    'connection: while !stop.get() {
        let Ok(mut client) = JsonClient::try_connect(addr.get()).await else {
            // The server may be restarting.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let position = received.view.position();
        let join = json!({"type": "join", "room": room, "after": position});
        let first = format!("{}\n{join}\n{command}", hello(&name));
        if client.stream.send(Message::text(first)).await.is_err() {
            continue;
        }
        while let Some(line) = client.next().await {
            match line["type"].as_str().unwrap() {
                "welcome" => {}
                "joined" => {
                    assert_eq!(line["recovered"], !position.is_null(), "{name}: {line}");
                    received.apply(&line);
                }
                "message" | "edited" | "deleted" | "reacted" => received.apply(&line),
                "said" | "error" => {
                    if line["type"] == "said" {
                        assert_eq!(line["id"], command["id"]);
                        received.acknowledge(&command, line["seq"].as_u64().unwrap());
                    } else {
                        // Its author has deleted the message.
                        assert_eq!(
                            (&line["code"], &command["type"]),
                            (&json!("not_found"), &json!("react")),
                            "{line}"
                        );
                    }
                    acknowledged.set(acknowledged.get() + 1);
                    number += 1;
                    command = received.command(&name, &room, number);
                    let next = Message::text(command.to_string());
                    if stop.get() || client.stream.send(next).await.is_err() {
                        continue 'connection;
                    }
                }
                _ => panic!("{line}"),
            }
        }
    }
    received
}

/// Resumes once more after all writers have stopped.
async fn catch_up(addr: SocketAddr, name: &str, room: &str, received: &mut Received) {
    let mut client = JsonClient::connect(addr).await;
    let join = json!({"type": "join", "room": room, "after": received.view.position()});
    client.send(&[hello(name), join]).await;
    client.expect("welcome").await;
    let joined = client.expect("joined").await;
    assert_eq!(joined["recovered"], true);
    received.apply(&joined);
}

#[actix_web::test]
async fn ten_kills_under_fifty_writers_lose_repeat_and_undo_nothing() {
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
            (n, rt::spawn(write(name, room, addr, acknowledged, Rc::clone(&stop))))
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
    for (n, writer) in writers {
        results.push((n, within("a writer to end", writer).await.unwrap()));
    }
    for (n, received) in &mut results {
        let (name, room) = (format!("w{n}"), format!("r{}", *n % ROOMS));
        catch_up(program.addr, &name, &room, received).await;
    }
    let mut changes: BTreeMap<&str, usize> = BTreeMap::new();
    for room in 0..ROOMS {
        let stored = history(program.addr, &format!("r{room}")).await;
        for (n, received) in results.iter().filter(|(n, _)| n % ROOMS == room) {
            check(&format!("w{n}"), received, &stored);
            for (kind, count) in &received.changes {
                *changes.entry(kind).or_default() += count;
            }
        }
    }
    let kinds = ["delete", "edit", "react", "say"];
    assert!(changes.keys().eq(&kinds) && changes.values().all(|&count| count > 50), "{changes:?}");
}

/// Compares what a writer has received with the stored messages of its room.
fn check(name: &str, received: &Received, stored: &[Value]) {
    let stored_ids: Vec<(u64, String)> = stored
        .iter()
        .map(|message| {
            let id = message["id"].as_str().unwrap().to_owned();
            (message["seq"].as_u64().unwrap(), id)
        })
        .collect();
    assert!(stored_ids.is_sorted_by(|(a, _), (b, _)| a < b));
    let ids: HashSet<&str> = stored_ids.iter().map(|(_, id)| id.as_str()).collect();
    assert_eq!(ids.len(), stored_ids.len(), "each message is stored once");
    for id in &received.acknowledged {
        assert!(ids.contains(id.as_str()), "{id} was acknowledged and is lost");
    }
    // It has received all messages of the room from its first one to the last one.
    let first = received.messages.first().unwrap().0;
    let span = stored_ids.iter().filter(|(seq, _)| *seq >= first);
    assert!(span.eq(&received.messages), "{name}: no gap and no repetition");
    assert!(received.messages.len() > 100);
    // It sees each message as it is stored.
    let stored: BTreeMap<u64, MessageView> = stored
        .iter()
        .map(|message| (message["seq"].as_u64().unwrap(), MessageView::of(message)))
        .collect();
    for (seq, seen) in &received.view.messages {
        assert_eq!(seen, &stored[seq], "{name} sees message {seq} as it is stored");
    }
    // What was acknowledged is not undone. A change that was not acknowledged may follow it.
    let unacknowledged = |seq: &&u64| received.own.keys().next_back() == Some(seq);
    for (seq, text) in received.own.iter().filter(|(seq, _)| !unacknowledged(seq)) {
        let expected = text.clone().unwrap_or_default();
        assert_eq!((&stored[seq].text, stored[seq].is_deleted), (&expected, text.is_none()));
    }
}
