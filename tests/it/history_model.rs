//! Ring, resume, paging and knowing a message again, held against a plain list, with crashes in
//! between.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::Config as Cases;
use serde_json::{Value, json};

use crate::harness::within;
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

const CLIENTS: usize = 2;
const ROOMS: usize = 2;

/// How many messages a ring holds: few, so that they do not suffice.
const RING: usize = 5;

/// What somebody says: where, and what it is called.
type Said = (usize, Option<u8>);

#[derive(Clone, Debug)]
enum Step {
    /// A client says some things in one frame.
    Say(usize, Vec<Said>),
    /// A client comes back on a second connection, having seen the message that is so far from
    /// the last one that was said, in any room; or from another epoch.
    Resume { client: usize, room: usize, back: usize, stranger: bool },
    /// A client asks for what was said before the message that is so far from the room's last.
    Page { client: usize, room: usize, back: usize, limit: usize },
    /// The server is killed before it has answered.
    Crash(Vec<Said>),
}

fn step() -> impl Strategy<Value = Step> {
    let said = || (0..ROOMS, proptest::option::of(0..8u8));
    prop_oneof![
        4 => (0..CLIENTS, proptest::collection::vec(said(), 1..5))
            .prop_map(|(client, said)| Step::Say(client, said)),
        3 => (0..CLIENTS, 0..ROOMS, 0..16usize, proptest::bool::weighted(0.1)).prop_map(
            |(client, room, back, stranger)| Step::Resume { client, room, back, stranger }
        ),
        3 => (0..CLIENTS, 0..ROOMS, 0..16usize, 1..8usize)
            .prop_map(|(client, room, back, limit)| Step::Page { client, room, back, limit }),
        1 => proptest::collection::vec((0..ROOMS, (0..8u8).prop_map(Some)), 0..6)
            .prop_map(Step::Crash),
    ]
}

/// The plain list.
#[derive(Default)]
struct Model {
    rooms: [Vec<(u64, String)>; ROOMS],
    known: HashMap<(usize, usize, u8), u64>,
    head: u64,
}

impl Model {
    /// Notes a message, unless its author has said it before: then gives its place.
    fn say(&mut self, client: usize, (room, id): Said, seq: u64, text: &str) -> Option<u64> {
        let known = id.and_then(|id| self.known.get(&(client, room, id)).copied());
        if known.is_none() {
            assert!(seq > self.head, "{seq} after {}", self.head);
            self.head = seq;
            self.rooms[room].push((seq, text.to_owned()));
            self.known.extend(id.map(|id| ((client, room, id), seq)));
        }
        known
    }

    /// Those after a place, if the ring still has all of them; else the latest.
    fn resume(&self, room: usize, after: u64) -> (bool, &[(u64, String)]) {
        let said = &self.rooms[room];
        let missed = said.partition_point(|(seq, _)| *seq <= after);
        let recovered = after <= self.head && said.len() - missed <= RING;
        (recovered, &said[if recovered { missed } else { said.len().saturating_sub(RING) }..])
    }
}

struct Play {
    folder: tempfile::TempDir,
    flags: Vec<&'static str>,
    program: Option<Program>,
    clients: Vec<JsonClient>,
    model: Model,
    epoch: Value,
    spoken: usize,
}

fn hello(client: usize) -> Value {
    json!({"nick": format!("n{client}"), "key": format!("the secret of client {client}")})
}

fn name(room: usize) -> String {
    format!("r{room}")
}

/// The places and texts of what is told.
fn told(line: &Value) -> Vec<(u64, String)> {
    let messages = line["messages"].as_array().unwrap().iter();
    messages.map(message).collect()
}

fn message(message: &Value) -> (u64, String) {
    (message["seq"].as_u64().unwrap(), message["text"].as_str().unwrap().to_owned())
}

impl Play {
    async fn begin(kept: bool) -> Self {
        let mut flags = vec!["--resume-buffer", "5"];
        if !kept {
            flags.extend(["--db", "none"]);
        }
        let mut play = Self {
            folder: tempfile::tempdir().unwrap(),
            flags,
            program: None,
            clients: Vec::new(),
            model: Model::default(),
            epoch: Value::Null,
            spoken: 0,
        };
        play.start().await;
        play
    }

    fn is_kept(&self) -> bool {
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
                client.send(&[json!({"type": "join", "room": name(room)})]).await;
                self.epoch = client.expect("joined").await["epoch"].clone();
            }
            self.clients.push(client);
        }
    }

    /// A text for each thing said, and the line that says it.
    fn lines(&mut self, said: &[Said]) -> (Vec<String>, Vec<Value>) {
        let line = |(n, &(room, id)): (usize, &Said)| {
            self.spoken += 1;
            let (text, id) = (format!("message {}", self.spoken), id.map(|id| id.to_string()));
            let line = json!({"type": "say", "room": name(room), "text": text, "id": id, "ref": n});
            (text, line)
        };
        said.iter().enumerate().map(line).unzip()
    }

    /// Says some things, and holds the answers and what everybody is told against the model.
    async fn say(&mut self, client: usize, said: &[Said], texts: &[String], lines: &[Value]) {
        self.clients[client].send(lines).await;
        let mut heard: [[Vec<_>; ROOMS]; CLIENTS] = Default::default();
        let mut answers = vec![Value::Null; said.len()];
        while answers.contains(&Value::Null) {
            let line = within("an answer", self.clients[client].next()).await.unwrap();
            match line["type"].as_str().unwrap() {
                "said" => {
                    let n = line["ref"].as_u64().unwrap() as usize;
                    answers[n] = line;
                }
                "message" => heard[client][room_of(&line)].push(message(&line)),
                _ => panic!("{line}"),
            }
        }
        let before: Vec<_> = self.model.rooms.iter().map(Vec::len).collect();
        // Rooms may be flushed in another order than that in which they were spoken in.
        let seqs = answers.iter().map(|answer| answer["seq"].as_u64().unwrap());
        let mut order: Vec<_> = seqs.enumerate().collect();
        order.sort_by_key(|(n, seq)| (*seq, *n));
        for (n, seq) in order {
            let known = self.model.say(client, said[n], seq, &texts[n]);
            assert_eq!(answers[n]["duplicate"], known.is_some(), "{}", answers[n]);
            assert_eq!(seq, known.unwrap_or(seq));
        }
        let new: usize =
            self.model.rooms.iter().map(Vec::len).sum::<usize>() - before.iter().sum::<usize>();
        for (n, other) in self.clients.iter_mut().enumerate() {
            while heard[n].iter().map(Vec::len).sum::<usize>() < new {
                let line = other.expect("message").await;
                heard[n][room_of(&line)].push(message(&line));
            }
        }
        for (room, before) in before.into_iter().enumerate() {
            for heard in &heard {
                assert_eq!(heard[room], self.model.rooms[room][before..]);
            }
        }
    }

    /// Joins a room as one who comes back, and holds what it is told against the model.
    async fn resume(&self, client: usize, room: usize, after: u64, stranger: bool) {
        let epoch = if stranger { json!("another") } else { self.epoch.clone() };
        let after_line = json!({"epoch": epoch, "seq": after});
        let mut client = self.connect(client).await;
        client.send(&[json!({"type": "join", "room": name(room), "after": after_line})]).await;
        let joined = client.expect("joined").await;
        let (recovered, messages) =
            self.model.resume(room, if stranger { u64::MAX } else { after });
        assert_eq!((joined["recovered"] == true, &told(&joined)[..]), (recovered, messages));
    }

    async fn page(&mut self, client: usize, room: usize, before: Option<u64>, limit: usize) {
        let line = json!({"type": "history", "room": name(room), "before": before, "limit": limit});
        self.clients[client].send(&[line]).await;
        let page = self.clients[client].expect("history").await;
        let said = &self.model.rooms[room];
        let forgotten = if self.is_kept() { 0 } else { said.len().saturating_sub(RING) };
        let end = said.partition_point(|(seq, _)| before.is_none_or(|before| *seq < before));
        let start = end.saturating_sub(limit).max(forgotten).min(end);
        assert_eq!(
            (&told(&page)[..], &page["more"]),
            (&said[start..end], &json!(start > forgotten))
        );
    }

    /// Kills the server while it is told some things, and says them again.
    async fn crash(&mut self, said: &[Said]) {
        let (texts, lines) = self.lines(said);
        self.clients[0].send(&lines).await;
        let before = std::mem::take(&mut self.epoch);
        self.program.take().unwrap().kill().await;
        self.start().await;
        assert_eq!(self.epoch == before, self.is_kept());
        if !self.is_kept() {
            self.model = Model::default();
        }
        let mut unheard = Vec::new();
        for room in 0..ROOMS {
            let page = json!({"type": "history", "room": name(room), "limit": 100});
            self.clients[1].send(&[page]).await;
            let kept = told(&self.clients[1].expect("history").await);
            let (heard, rest) = kept.split_at(self.model.rooms[room].len());
            assert_eq!(heard, self.model.rooms[room]);
            unheard.extend_from_slice(rest);
        }
        unheard.sort_unstable();
        for (seq, text) in unheard {
            let n = texts.iter().position(|said| *said == text).unwrap();
            assert_eq!(self.model.say(0, said[n], seq, &text), None);
            // What was said before it in the room was kept, too.
            let earlier = said[..n].iter().filter(|(room, _)| *room == said[n].0);
            for (room, id) in earlier {
                assert!(self.model.known.contains_key(&(0, *room, id.unwrap())));
            }
        }
        if !said.is_empty() {
            self.say(0, said, &texts, &lines).await;
        }
    }
}

fn room_of(line: &Value) -> usize {
    line["room"].as_str().unwrap()[1..].parse().unwrap()
}

async fn play(kept: bool, steps: Vec<Step>) {
    let mut play = Play::begin(kept).await;
    for step in steps {
        match step {
            Step::Say(client, said) => {
                let (texts, lines) = play.lines(&said);
                play.say(client, &said, &texts, &lines).await;
            }
            Step::Resume { client, room, back, stranger } => {
                let all = || play.model.rooms.iter().flatten().map(|(seq, _)| *seq);
                let mut seqs: Vec<u64> = all().collect();
                seqs.sort_unstable();
                // The first is one that nobody has been given yet.
                let after = match back {
                    0 => play.model.head + 1,
                    back => seqs.len().checked_sub(back).map_or(0, |n| seqs[n]),
                };
                play.resume(client, room, after, stranger).await;
            }
            Step::Page { client, room, back, limit } => {
                let said = &play.model.rooms[room];
                let before = said.len().checked_sub(back).and_then(|n| said.get(n));
                play.page(client, room, before.map(|(seq, _)| *seq), limit).await;
            }
            Step::Crash(said) => play.crash(&said).await,
        }
    }
}

#[test]
fn history_matches_the_model_across_crashes() {
    let cases = Cases { cases: 40, failure_persistence: None, ..Cases::default() };
    let steps = proptest::collection::vec(step(), 1..40);
    proptest!(cases, |(kept in any::<bool>(), steps in steps)| {
        actix_web::rt::System::new().block_on(play(kept, steps));
    });
}
