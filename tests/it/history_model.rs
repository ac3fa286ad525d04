//! Resuming, paging and duplicate detection compared with a plain list, with crashes in between.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::Config as Cases;
use serde_json::{Value, json};

use crate::harness::within;
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

const CLIENTS: usize = 2;
const ROOMS: usize = 2;

/// How many recent messages a room keeps in memory: few, so that the tests exceed it.
const RING_CAPACITY: usize = 5;

/// A message to be sent: its room and its id.
type Draft = (usize, Option<u8>);

#[derive(Clone, Debug)]
enum Step {
    /// A client sends messages in one frame.
    Say(usize, Vec<Draft>),
    /// A client resumes on a second connection, after the message that is `back` messages before
    /// the last one of all rooms, or with an epoch that the server does not know.
    Resume { client: usize, room: usize, back: usize, wrong_epoch: bool },
    /// A client requests the history before the message that is `back` messages from the end of
    /// the room.
    Page { client: usize, room: usize, back: usize, limit: usize },
    /// A client sends messages, and the server is killed before it has answered.
    Crash(Vec<Draft>),
}

fn step() -> impl Strategy<Value = Step> {
    let draft = || (0..ROOMS, proptest::option::of(0..8u8));
    prop_oneof![
        4 => (0..CLIENTS, proptest::collection::vec(draft(), 1..5))
            .prop_map(|(client, drafts)| Step::Say(client, drafts)),
        3 => (0..CLIENTS, 0..ROOMS, 0..16usize, proptest::bool::weighted(0.1)).prop_map(
            |(client, room, back, wrong_epoch)| Step::Resume { client, room, back, wrong_epoch }
        ),
        3 => (0..CLIENTS, 0..ROOMS, 0..16usize, 1..8usize)
            .prop_map(|(client, room, back, limit)| Step::Page { client, room, back, limit }),
        1 => proptest::collection::vec((0..ROOMS, (0..8u8).prop_map(Some)), 0..6)
            .prop_map(Step::Crash),
    ]
}

/// The reference model.
#[derive(Default)]
struct Model {
    /// The messages of each room: sequence number and text.
    rooms: [Vec<(u64, String)>; ROOMS],
    /// Sequence numbers by client, room and id.
    seqs: HashMap<(usize, usize, u8), u64>,
    last_seq: u64,
}

impl Model {
    /// Adds a message. If its author has already sent it, returns the sequence number it has.
    fn say(&mut self, client: usize, (room, id): Draft, seq: u64, text: &str) -> Option<u64> {
        let known_seq = id.and_then(|id| self.seqs.get(&(client, room, id)).copied());
        if known_seq.is_none() {
            assert!(seq > self.last_seq, "{seq} after {}", self.last_seq);
            self.last_seq = seq;
            self.rooms[room].push((seq, text.to_owned()));
            self.seqs.extend(id.map(|id| ((client, room, id), seq)));
        }
        known_seq
    }

    /// Returns true and the messages after `after` if the ring still has all of them, and otherwise
    /// false and the latest messages.
    fn resume(&self, room: usize, after: u64) -> (bool, &[(u64, String)]) {
        let messages = &self.rooms[room];
        let first_missed = messages.partition_point(|(seq, _)| *seq <= after);
        let recovered = after <= self.last_seq && messages.len() - first_missed <= RING_CAPACITY;
        let latest = messages.len().saturating_sub(RING_CAPACITY);
        (recovered, &messages[if recovered { first_missed } else { latest }..])
    }
}

/// A running server, its clients and the model.
struct Run {
    folder: tempfile::TempDir,
    flags: Vec<&'static str>,
    program: Option<Program>,
    clients: Vec<JsonClient>,
    model: Model,
    epoch: Value,
    message_count: usize,
}

fn hello(client: usize) -> Value {
    json!({"nick": format!("n{client}"), "key": format!("the secret of client {client}")})
}

fn room_name(room: usize) -> String {
    format!("r{room}")
}

/// Returns the sequence numbers and texts of the messages in an answer.
fn messages_in(line: &Value) -> Vec<(u64, String)> {
    let messages = line["messages"].as_array().unwrap().iter();
    messages.map(message).collect()
}

fn message(message: &Value) -> (u64, String) {
    (message["seq"].as_u64().unwrap(), message["text"].as_str().unwrap().to_owned())
}

impl Run {
    async fn new(persistent: bool) -> Self {
        let mut flags = vec!["--resume-buffer", "5"];
        if !persistent {
            flags.extend(["--db", "none"]);
        }
        let mut run = Self {
            folder: tempfile::tempdir().unwrap(),
            flags,
            program: None,
            clients: Vec::new(),
            model: Model::default(),
            epoch: Value::Null,
            message_count: 0,
        };
        run.start().await;
        run
    }

    fn is_persistent(&self) -> bool {
        !self.flags.contains(&"none")
    }

    async fn connect(&self, client: usize) -> JsonClient {
        JsonClient::hello(self.program.as_ref().unwrap().addr, hello(client)).await
    }

    async fn start(&mut self) {
        self.program = Some(Program::start(PROGRAM, self.folder.path(), &self.flags).await);
        self.clients.clear();
        for client in 0..CLIENTS {
            let mut client = self.connect(client).await;
            for room in 0..ROOMS {
                client.send(&[json!({"type": "join", "room": room_name(room)})]).await;
                self.epoch = client.expect("joined").await["epoch"].clone();
            }
            self.clients.push(client);
        }
    }

    /// Returns a text for each message, and the command that sends it.
    fn commands(&mut self, drafts: &[Draft]) -> (Vec<String>, Vec<Value>) {
        let command = |(n, &(room, id)): (usize, &Draft)| {
            self.message_count += 1;
            let (text, id) =
                (format!("message {}", self.message_count), id.map(|id| id.to_string()));
            let command =
                json!({"type": "say", "room": room_name(room), "text": text, "id": id, "ref": n});
            (text, command)
        };
        drafts.iter().enumerate().map(command).unzip()
    }

    /// Sends messages, and compares the answers and what all clients receive with the model.
    async fn say(&mut self, client: usize, drafts: &[Draft], texts: &[String], commands: &[Value]) {
        self.clients[client].send(commands).await;
        let mut received: [[Vec<_>; ROOMS]; CLIENTS] = Default::default();
        let mut answers = vec![Value::Null; drafts.len()];
        while answers.contains(&Value::Null) {
            let line = within("an answer", self.clients[client].next()).await.unwrap();
            match line["type"].as_str().unwrap() {
                "said" => {
                    let n = line["ref"].as_u64().unwrap() as usize;
                    answers[n] = line;
                }
                "message" => received[client][room_of(&line)].push(message(&line)),
                _ => panic!("{line}"),
            }
        }
        let before: Vec<_> = self.model.rooms.iter().map(Vec::len).collect();
        // Rooms may be flushed in another order than that of the messages.
        let seqs = answers.iter().map(|answer| answer["seq"].as_u64().unwrap());
        let mut order: Vec<_> = seqs.enumerate().collect();
        order.sort_by_key(|(n, seq)| (*seq, *n));
        for (n, seq) in order {
            let known_seq = self.model.say(client, drafts[n], seq, &texts[n]);
            assert_eq!(answers[n]["duplicate"], known_seq.is_some(), "{}", answers[n]);
            assert_eq!(seq, known_seq.unwrap_or(seq));
        }
        let new: usize =
            self.model.rooms.iter().map(Vec::len).sum::<usize>() - before.iter().sum::<usize>();
        for (n, other) in self.clients.iter_mut().enumerate() {
            while received[n].iter().map(Vec::len).sum::<usize>() < new {
                let line = other.expect("message").await;
                received[n][room_of(&line)].push(message(&line));
            }
        }
        for (room, before) in before.into_iter().enumerate() {
            for received in &received {
                assert_eq!(received[room], self.model.rooms[room][before..]);
            }
        }
    }

    /// Resumes in a room on a new connection, and compares the answer with the model.
    async fn resume(&self, client: usize, room: usize, after: u64, wrong_epoch: bool) {
        let epoch = if wrong_epoch { json!("another") } else { self.epoch.clone() };
        let position = json!({"epoch": epoch, "seq": after});
        let mut client = self.connect(client).await;
        client.send(&[json!({"type": "join", "room": room_name(room), "after": position})]).await;
        let joined = client.expect("joined").await;
        let (recovered, messages) =
            self.model.resume(room, if wrong_epoch { u64::MAX } else { after });
        assert_eq!((joined["recovered"] == true, &messages_in(&joined)[..]), (recovered, messages));
    }

    async fn page(&mut self, client: usize, room: usize, before: Option<u64>, limit: usize) {
        let line =
            json!({"type": "history", "room": room_name(room), "before": before, "limit": limit});
        self.clients[client].send(&[line]).await;
        let page = self.clients[client].expect("history").await;
        let messages = &self.model.rooms[room];
        let first_kept =
            if self.is_persistent() { 0 } else { messages.len().saturating_sub(RING_CAPACITY) };
        let end = messages.partition_point(|(seq, _)| before.is_none_or(|before| *seq < before));
        let start = end.saturating_sub(limit).max(first_kept).min(end);
        assert_eq!(
            (&messages_in(&page)[..], &page["more"]),
            (&messages[start..end], &json!(start > first_kept))
        );
    }

    /// Sends messages, kills the server before it answers, restarts it and sends them again.
    async fn crash(&mut self, drafts: &[Draft]) {
        let (texts, commands) = self.commands(drafts);
        self.clients[0].send(&commands).await;
        let before = std::mem::take(&mut self.epoch);
        self.program.take().unwrap().kill().await;
        self.start().await;
        assert_eq!(self.epoch == before, self.is_persistent());
        if !self.is_persistent() {
            self.model = Model::default();
        }
        let mut unconfirmed = Vec::new();
        for room in 0..ROOMS {
            let page = json!({"type": "history", "room": room_name(room), "limit": 100});
            self.clients[1].send(&[page]).await;
            let stored = messages_in(&self.clients[1].expect("history").await);
            let (confirmed, rest) = stored.split_at(self.model.rooms[room].len());
            assert_eq!(confirmed, self.model.rooms[room]);
            unconfirmed.extend_from_slice(rest);
        }
        unconfirmed.sort_unstable();
        for (seq, text) in unconfirmed {
            let n = texts.iter().position(|sent| *sent == text).unwrap();
            assert_eq!(self.model.say(0, drafts[n], seq, &text), None);
            // Earlier messages of the same room were stored, too.
            let earlier = drafts[..n].iter().filter(|(room, _)| *room == drafts[n].0);
            for (room, id) in earlier {
                assert!(self.model.seqs.contains_key(&(0, *room, id.unwrap())));
            }
        }
        if !drafts.is_empty() {
            self.say(0, drafts, &texts, &commands).await;
        }
    }
}

fn room_of(line: &Value) -> usize {
    line["room"].as_str().unwrap()[1..].parse().unwrap()
}

async fn run(persistent: bool, steps: Vec<Step>) {
    let mut run = Run::new(persistent).await;
    for step in steps {
        match step {
            Step::Say(client, drafts) => {
                let (texts, commands) = run.commands(&drafts);
                run.say(client, &drafts, &texts, &commands).await;
            }
            Step::Resume { client, room, back, wrong_epoch } => {
                let all = || run.model.rooms.iter().flatten().map(|(seq, _)| *seq);
                let mut seqs: Vec<u64> = all().collect();
                seqs.sort_unstable();
                // `back == 0` stands for a sequence number that does not exist yet.
                let after = match back {
                    0 => run.model.last_seq + 1,
                    back => seqs.len().checked_sub(back).map_or(0, |n| seqs[n]),
                };
                run.resume(client, room, after, wrong_epoch).await;
            }
            Step::Page { client, room, back, limit } => {
                let messages = &run.model.rooms[room];
                let before = messages.len().checked_sub(back).and_then(|n| messages.get(n));
                run.page(client, room, before.map(|(seq, _)| *seq), limit).await;
            }
            Step::Crash(drafts) => run.crash(&drafts).await,
        }
    }
}

#[test]
fn history_matches_the_model_across_crashes() {
    let cases = Cases { cases: 40, failure_persistence: None, ..Cases::default() };
    let steps = proptest::collection::vec(step(), 1..40);
    proptest!(cases, |(persistent in any::<bool>(), steps in steps)| {
        actix_web::rt::System::new().block_on(run(persistent, steps));
    });
}
