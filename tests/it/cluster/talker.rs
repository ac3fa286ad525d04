//! Clients that talk, move between nodes and resume, and a check of what they have received.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use crate::json::JsonClient;

/// What all clients of a test share.
#[derive(Default)]
pub struct Shared {
    /// The addresses of the nodes, which change when nodes are started again.
    pub nodes: RefCell<Vec<SocketAddr>>,
    pub stop: Cell<bool>,
}

/// Which nodes a client uses.
#[derive(Clone, Copy, Debug)]
pub enum NodeChoice {
    /// Only this node.
    Only(usize),
    /// This node first, and the next node each time that a connection ends or is refused.
    From(usize),
    /// Any node. The client moves to another one every 200 ms or so.
    Any,
}

/// A client that says numbered messages. It repeats each until it is committed, and resumes on each
/// new connection.
pub struct Talker {
    name: String,
    shared: Rc<Shared>,
    rng: fastrand::Rng,
    choice: NodeChoice,
    /// The number of its messages that were committed.
    pub committed: Rc<Cell<usize>>,
    received: Received,
}

/// What a client has received.
#[derive(Default)]
pub struct Received {
    /// The epoch, and the last sequence number that it knows.
    position: Option<(Value, u64)>,
    /// The sequence numbers and ids of messages. Each part has no gap.
    parts: Vec<Vec<(u64, String)>>,
    /// The sequence numbers and ids of its own messages.
    said: Vec<(u64, String)>,
    /// How often it has resumed without a gap.
    pub resumed: usize,
    /// How the servers closed its connections. `None` if they did not send a close frame.
    pub close_codes: Vec<Option<u16>>,
}

impl Talker {
    pub fn new(name: &str, shared: &Rc<Shared>, choice: NodeChoice, seed: u64) -> Self {
        Self {
            name: name.into(),
            shared: Rc::clone(shared),
            rng: fastrand::Rng::with_seed(seed),
            choice,
            committed: Rc::default(),
            received: Received::default(),
        }
    }

    /// Talks until it is told to stop.
    pub async fn talk(mut self) -> Received {
        while !self.shared.stop.get() {
            let node = {
                let nodes = self.shared.nodes.borrow();
                match &mut self.choice {
                    NodeChoice::Only(node) => nodes[*node],
                    NodeChoice::From(node) => {
                        nodes[std::mem::replace(node, (*node + 1) % nodes.len())]
                    }
                    NodeChoice::Any => nodes[self.rng.usize(..nodes.len())],
                }
            };
            match JsonClient::try_connect(node).await {
                Ok(client) => self.talk_to(client).await,
                // The node may be starting.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
        self.received
    }

    async fn talk_to(&mut self, mut client: JsonClient) {
        let stay = match self.choice {
            NodeChoice::Only(_) | NodeChoice::From(_) => Duration::from_secs(3600),
            NodeChoice::Any => Duration::from_millis(self.rng.u64(150..250)),
        };
        let until = Instant::now() + stay;
        let key = format!("the secret key of {}", self.name);
        let hello = json!({"type": "hello", "nick": self.name, "key": key});
        let after = self.received.position.clone();
        let after = after.map(|(epoch, seq)| json!({"epoch": epoch, "seq": seq}));
        let join = json!({"type": "join", "room": "tea", "after": after});
        let mut next = format!("{hello}\n{join}\n{}", self.command());
        while !self.shared.stop.get() {
            if !next.is_empty() && client.stream.send(Message::text(&*next)).await.is_err() {
                return;
            }
            next.clear();
            let line = match timeout_at(until, client.next()).await {
                Ok(Some(line)) => line,
                Ok(None) => return self.received.close_codes.push(client.close_code),
                Err(_) => return,
            };
            match line["type"].as_str().unwrap() {
                "welcome" => {}
                "joined" => self.received.join(&line),
                "message" => self.received.push(&line),
                "said" => {
                    let id = line["id"].as_str().unwrap().to_owned();
                    self.received.said.push((line["seq"].as_u64().unwrap(), id));
                    self.committed.set(self.committed.get() + 1);
                    next = self.command();
                }
                "error" if line["code"] == "busy" || line["code"] == "shutting_down" => {
                    // It is refused at once while the log is stalled or the node shuts down.
                    sleep(Duration::from_millis(50)).await;
                    next = self.command();
                }
                _ => panic!("{}: {line}", self.name),
            }
        }
    }

    fn command(&self) -> String {
        let id = format!("{}-{}", self.name, self.committed.get());
        json!({"type": "say", "room": "tea", "text": id, "id": id}).to_string()
    }
}

impl Received {
    fn join(&mut self, joined: &Value) {
        let seq = joined["seq"].as_u64().unwrap();
        let before = self.position.replace((joined["epoch"].clone(), seq));
        if joined["recovered"] == true {
            self.resumed += 1;
        } else {
            // Only a node that has not applied as much as the last one may not resume.
            assert!(before.is_none_or(|(_, before)| before > seq), "{joined}");
            self.parts.push(Vec::new());
        }
        joined["messages"].as_array().unwrap().iter().for_each(|message| self.push(message));
        self.position = Some((joined["epoch"].clone(), seq));
    }

    fn push(&mut self, message: &Value) {
        let seq = message["seq"].as_u64().unwrap();
        let id = message["id"].as_str().unwrap_or_default().to_owned();
        self.parts.last_mut().unwrap().push((seq, id));
        self.position.as_mut().unwrap().1 = seq;
    }

    /// Compares it with the messages of the room in a history file.
    pub fn check(&self, stored: &[(u64, String)]) {
        assert!(stored.is_sorted_by(|(a, _), (b, _)| a < b));
        let ids: BTreeSet<_> = stored.iter().map(|(_, id)| id).collect();
        assert_eq!(ids.len(), stored.len(), "each message is stored once");
        for said in &self.said {
            assert!(stored.contains(said), "{said:?} was committed and is lost");
        }
        for part in self.parts.iter().filter(|part| !part.is_empty()) {
            let (first, last) = (part[0].0, part[part.len() - 1].0);
            let span = stored.iter().filter(|(seq, _)| (first..=last).contains(seq));
            assert!(span.eq(part), "gap, repetition or other order: {part:?}");
        }
    }
}
