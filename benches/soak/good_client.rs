//! A good client: it has a key, repeats commands that were not answered, resumes after a reconnect,
//! and checks that it receives every message.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Sleep, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::history::ReceivedRange;
use super::protocol::{Line, Stream, Unanswered, send};
use super::room::Room;
use super::run::{Pace, Soak};
use super::server::connect;

/// The start of every text of a good client, except farewells and topics.
pub(crate) const PREFIX: &str = "good ";

/// The start of the text and of the id of the last message of each room.
pub(crate) const FAREWELL: &str = "farewell ";

/// How long a client waits until it is connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// One in this many absences is long. Then the client has missed more messages than the room has in
/// memory, and reads them page by page.
const LONG_ABSENCE_ONE_IN: u32 = 20;
const LONG_ABSENCE_SECONDS: Range<u64> = 60..120;

/// A client that has missed fewer messages can resume on every node.
const MISSED_MIN: usize = 500;

pub(crate) struct GoodClient {
    pub(crate) number: u32,
    nick: String,
    pub(crate) rooms: HashMap<String, Room>,
    outbox: VecDeque<Unanswered>,
    /// How many messages it has sent.
    pub(crate) sent: u32,
    /// How many edits, deletions, reactions and topics it has sent.
    changes: u32,
    /// The room, id and sequence number of each of its messages that was acknowledged.
    pub(crate) said: Vec<(String, String, u64)>,
    /// The server of the last connection.
    last_addr: Option<SocketAddr>,
    soak: Rc<Soak>,
}

/// Why a connection ends.
enum End {
    Left,
    Broken,
}

/// Returns a random, exponentially distributed time with this mean, and at most five times as long.
pub(crate) fn random_around(mean: Duration) -> Duration {
    mean.mul_f64(-(1.0 - fastrand::f64()).ln()).min(5 * mean)
}

impl GoodClient {
    pub(crate) fn new(number: u32, soak: Rc<Soak>) -> Self {
        let many = soak.rooms;
        let rooms = [number % many, (number / many) % many].map(|room| format!("room-{room}"));
        let count = 1 + usize::from(number.is_multiple_of(4));
        Self {
            number,
            nick: format!("good-{number}"),
            rooms: rooms.into_iter().take(count).map(|room| (room, Room::default())).collect(),
            outbox: VecDeque::new(),
            sent: 0,
            changes: 0,
            said: Vec::new(),
            last_addr: None,
            soak,
        }
    }

    /// Connects and disconnects until the test is over, all commands are answered and all messages
    /// received.
    pub(crate) async fn run(mut self) -> Self {
        // Clients do not all start at the same time.
        sleep(random_around(Duration::from_secs(5))).await;
        while !self.is_done() {
            match self.connect_once().await {
                Ok(End::Left) => self.pause().await,
                Ok(End::Broken) | Err(_) => {
                    sleep(Duration::from_millis(fastrand::u64(100..2000))).await;
                }
            }
        }
        self
    }

    async fn pause(&self) {
        // It repeats what was not answered at once on another node.
        if self.soak.pace.in_cluster && !self.outbox.is_empty() {
            return;
        }
        sleep(self.soak.pace.absence_max.mul_f64(fastrand::f64())).await;
        if fastrand::u32(0..LONG_ABSENCE_ONE_IN) == 0 {
            let back = Instant::now() + Duration::from_secs(fastrand::u64(LONG_ABSENCE_SECONDS));
            // At the end of the test, every client reconnects and reads the rest.
            while Instant::now() < back && !self.soak.is_over() {
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.soak.is_over() && self.outbox.is_empty() && self.rooms.values().all(|room| room.done)
    }

    async fn connect_once(&mut self) -> Result<End, Error> {
        let addr = self.soak.other_addr(self.last_addr);
        let is_hop = self.last_addr.replace(addr).is_some_and(|last| last != addr);
        let mut request = format!("ws://{addr}/ws").into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", "chinwag.v1".parse().unwrap());
        let upgrade = async {
            let tcp = connect(addr, self.number).await?;
            tokio_tungstenite::client_async(request, tcp).await
        };
        let upgraded = if self.soak.pace.in_cluster {
            // The node may be stopped.
            let timed_out = |_| Err(Error::Io(ErrorKind::TimedOut.into()));
            timeout(CONNECT_TIMEOUT, upgrade).await.unwrap_or_else(timed_out)
        } else {
            upgrade.await
        };
        if let Err(Error::Http(response)) = &upgraded {
            self.soak.fault(format!("{}: handshake refused with {}", self.nick, response.status()));
        }
        let (mut stream, _) = upgraded?;
        self.soak.count(|counts| counts.connections += 1);
        self.soak.count(|counts| counts.hops += u64::from(is_hop));
        self.soak.count(|counts| counts.connected += 1);
        let end = self.talk(&mut stream).await;
        self.soak.count(|counts| counts.connected -= 1);
        for room in self.rooms.values_mut() {
            room.disconnect();
        }
        if let Ok(End::Left) = end
            && fastrand::bool()
        {
            // The other half drops the connection without a close frame.
            let _ = stream.close(None).await;
        }
        end
    }

    async fn talk(&mut self, stream: &mut Stream) -> Result<End, Error> {
        let key = format!("the secret of number {}", self.number);
        let mut lines = vec![json!({"type": "hello", "nick": self.nick, "key": key})];
        lines.extend(self.rooms.keys().map(|room| self.join(room)));
        for unanswered in &mut self.outbox {
            unanswered.sent_at = None;
        }
        lines.extend(self.repeat_unanswered());
        send(stream, &lines).await?;
        let Pace { command_interval, connected_time, silence_max, .. } = self.soak.pace;
        let mut leave = Box::pin(sleep(random_around(connected_time)));
        let mut next = Box::pin(sleep(random_around(command_interval)));
        let mut silence = Box::pin(sleep(silence_max));
        let mut again: Option<Pin<Box<Sleep>>> = None;
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        silence.as_mut().reset(tokio::time::Instant::now() + silence_max);
                        let mut replies = Vec::new();
                        for line in text.split('\n') {
                            again = self.receive(line, &mut replies).map(|wait| {
                                Box::pin(sleep(wait))
                            }).or(again);
                        }
                        send(stream, &replies).await?;
                        if self.is_done() {
                            return Ok(End::Left);
                        }
                    }
                    Some(Ok(Message::Close(frame))) => {
                        let code = frame.map(|frame| u16::from(frame.code));
                        self.soak.count(|counts| counts.closed(code));
                        let _ = stream.close(None).await;
                        return Ok(End::Broken);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => {
                        self.soak.count(|counts| counts.closed(None));
                        return Ok(End::Broken);
                    }
                },
                () = &mut next => {
                    next = Box::pin(sleep(random_around(command_interval)));
                    let all_joined = self.rooms.values().all(|room| room.joined);
                    if !self.soak.is_over() && all_joined {
                        let command = self.next_command();
                        send(stream, &[command]).await?;
                    }
                }
                () = async { again.as_mut().unwrap().await }, if again.is_some() => {
                    again = None;
                    let lines: Vec<_> = self.repeat_unanswered().collect();
                    send(stream, &lines).await?;
                }
                () = &mut leave => {
                    if !self.soak.is_over() {
                        return Ok(End::Left);
                    }
                    leave = Box::pin(sleep(connected_time));
                }
                () = &mut silence => return Ok(End::Left),
            }
        }
    }

    /// Sends a farewell to each room from an additional client.
    pub(crate) async fn send_farewells(number: u32, soak: Rc<Soak>) {
        let rooms = soak.rooms;
        let mut client = Self::new(number, soak);
        client.rooms = (0..rooms).map(|room| (format!("room-{room}"), Room::default())).collect();
        for room in client.rooms.keys().cloned().collect::<Vec<_>>() {
            let text = FAREWELL.to_owned() + &room;
            client.push(json!({"type": "say", "text": text}), &room, text);
        }
        client.run().await;
    }

    fn join(&self, name: &str) -> Value {
        let room = &self.rooms[name];
        let mut line = json!({"type": "join", "room": name, "ref": name});
        if room.received.is_some() {
            line["after"] = json!({"epoch": room.epoch, "seq": room.position});
        }
        line
    }

    /// Returns the unanswered commands, in the order in which they were first sent, to send them
    /// again.
    fn repeat_unanswered(&self) -> impl Iterator<Item = Value> {
        self.soak.count(|counts| counts.repeated += self.outbox.len() as u64);
        self.outbox.iter().map(|unanswered| unanswered.command.clone())
    }

    fn next_command(&mut self) -> Value {
        let name = fastrand::choice(self.rooms.keys()).unwrap().clone();
        let room = self.rooms.get_mut(&name).unwrap();
        let padding = "x".repeat(fastrand::usize(0..100));
        let id = format!("{}-change-{}", self.number, self.changes);
        let text = format!("{PREFIX}{id} {padding}");
        if self.outbox.is_empty()
            && let Some(change) = room.random_change(&text)
        {
            self.changes += 1;
            return self.push(change, &name, id);
        }
        let id = format!("{}-{}", self.number, self.sent);
        let mut message = json!({"type": "say", "text": format!("{PREFIX}{id} {padding}")});
        if let Some(target) = room.random_target() {
            message["reply_to"] = target.into();
        }
        self.sent += 1;
        self.push(message, &name, id)
    }

    /// Adds a command to those without an answer, and returns it with its room and id.
    fn push(&mut self, mut command: Value, room: &str, id: String) -> Value {
        command["room"] = room.into();
        command["ref"] = id.as_str().into();
        command["id"] = id.into();
        self.soak.count(|counts| counts.unanswered += 1);
        let first_sent = Instant::now();
        let sent_at = Some(first_sent);
        self.outbox.push_back(Unanswered { command: command.clone(), first_sent, sent_at });
        command
    }

    /// Removes a command that was answered.
    fn take(&mut self, id: &str) -> Option<Unanswered> {
        let found = self.outbox.iter().position(|unanswered| unanswered.command["id"] == id)?;
        self.soak.count(|counts| counts.unanswered -= 1);
        self.outbox.remove(found)
    }

    fn room_of(&mut self, command: &Value) -> &mut Room {
        self.rooms.get_mut(command["room"].as_str().unwrap()).unwrap()
    }

    /// Processes a line. Returns how long to wait before all unanswered commands are sent again, if
    /// they must be.
    fn receive(&mut self, line: &str, replies: &mut Vec<Value>) -> Option<Duration> {
        let line: Line<'_> = match serde_json::from_str(line) {
            Ok(line) => line,
            Err(error) => {
                self.soak.fault(format!("{}: {error} in {line:.200}", self.nick));
                return None;
            }
        };
        match line.r#type {
            "message" | "edited" | "deleted" | "reacted" | "room" => self.process_event(&line),
            "said" => self.process_said(&line),
            "joined" => self.process_joined(&line, replies),
            "history" => self.process_history(&line, replies),
            "error" => return self.process_error(&line, replies),
            _ => {}
        }
        None
    }

    fn process_event(&mut self, line: &Line<'_>) {
        let Some(room) = self.rooms.get_mut(&*line.room) else { return };
        if let Err(error) = room.advance(line.seq) {
            self.soak.fault(format!("{} in {}: {error}", self.nick, line.room));
        }
        if line.r#type == "message" {
            room.add(line);
            self.add_message(&line.room, line.seq, &line.id);
        } else {
            room.apply(line);
            self.soak.count(|counts| counts.deliveries += 1);
        }
    }

    fn process_said(&mut self, line: &Line<'_>) {
        self.soak.count(|counts| counts.duplicates += u64::from(line.duplicate));
        let Some(unanswered) = self.take(&line.id) else { return };
        let Unanswered { command, first_sent, sent_at } = unanswered;
        self.room_of(&command).acknowledge(&command, line.seq);
        if command["type"] == "say" {
            let name = command["room"].as_str().unwrap().to_owned();
            self.said.push((name, line.id.to_string(), line.seq));
        }
        self.soak.count(|counts| counts.waited(&command, first_sent.elapsed()));
        self.soak.count(|counts| counts.acknowledged(&command));
        if let Some(sent_at) = sent_at {
            self.soak.count(|counts| counts.answered(sent_at.elapsed()));
        }
    }

    fn process_error(&mut self, line: &Line<'_>, replies: &mut Vec<Value>) -> Option<Duration> {
        for unanswered in &mut self.outbox {
            unanswered.sent_at = None;
        }
        match line.code {
            "rate_limited" => {
                self.soak.count(|counts| counts.rate_limited += 1);
                Some(Duration::from_millis(line.retry_after_ms))
            }
            // Another client took the name while this one was disconnected.
            "nick_taken" => {
                self.nick = format!("good-{}-{}", self.number, fastrand::u16(..));
                replies.push(json!({"type": "nick", "nick": self.nick}));
                replies.push(self.join(&line.r#ref));
                self.soak.count(|counts| counts.renamed += 1);
                Some(Duration::from_millis(100))
            }
            // A command to a room that the client could not join under its old name.
            "not_joined" => Some(Duration::from_secs(1)),
            "busy" if self.soak.pace.in_cluster => {
                self.soak.count(|counts| counts.busy += 1);
                Some(Duration::from_millis(fastrand::u64(200..1000)))
            }
            // The command is sent again after the reconnect.
            "shutting_down" => None,
            code => {
                self.process_rejection(code, &line.r#ref);
                None
            }
        }
    }

    /// Processes the rejection of a command. It is a fault, unless the command is a reaction to a
    /// message that its author has deleted.
    fn process_rejection(&mut self, code: &str, id: &str) {
        let rejected = self.take(id).map(|unanswered| unanswered.command);
        match rejected {
            Some(command) if code == "not_found" && command["type"] == "react" => {
                let target = command["seq"].as_u64().unwrap();
                self.room_of(&command).settled.insert(target, None);
                self.soak.count(|counts| counts.reactions_rejected += 1);
            }
            // The answer to a command that was sent again before its first answer arrived.
            None if code == "not_found" && id.contains("-change-") => {}
            _ => self.soak.fault(format!("{}: {code} after {rejected:?}", self.nick)),
        }
    }

    fn process_joined(&mut self, line: &Line<'_>, replies: &mut Vec<Value>) {
        let Some(room) = self.rooms.get_mut(&*line.room) else { return };
        room.joined = true;
        if !room.epoch.is_empty() && room.epoch != line.epoch {
            self.soak.fault(format!("{}: new epoch after a graceful shutdown", self.nick));
        }
        room.epoch = line.epoch.to_string();
        let is_behind = line.seq < std::mem::replace(&mut room.position, line.seq);
        room.topic = line.topic.to_string();
        if !line.recovered {
            room.messages.clear();
        }
        for message in &line.messages {
            room.add(message);
        }
        for change in &line.changes {
            room.apply(change);
        }
        let is_behind = is_behind && self.soak.pace.in_cluster && !line.recovered;
        if is_behind {
            self.soak.count(|counts| counts.behind += 1);
            room.earlier.extend(room.received.take());
        }
        let Some(received) = &room.received else {
            room.received = Some(ReceivedRange::after(line.seq));
            return;
        };
        let last = received.last;
        self.soak.count(|counts| counts.resumed += 1);
        if line.recovered {
            for message in &line.messages {
                self.add_message(&line.room, message.seq, &message.id);
            }
            self.soak.count(|counts| counts.deliveries += line.changes.len() as u64);
            return;
        }
        self.soak.count(|counts| counts.paged += 1);
        room.missed = Some(VecDeque::new());
        self.add_page(&line.room, &line.messages, last, replies);
    }

    fn process_history(&mut self, line: &Line<'_>, replies: &mut Vec<Value>) {
        let Some(room) = self.rooms.get_mut(&*line.room) else { return };
        if room.missed.is_none() {
            return;
        }
        for message in &line.messages {
            room.add(message);
        }
        let last = room.received.as_ref().map_or(0, |received| received.last);
        if line.messages.is_empty() && line.more {
            self.soak.fault(format!("{}: empty page with more = true", self.nick));
        }
        self.add_page(&line.room, &line.messages, last, replies);
    }

    /// Prepends a page to the missed messages, and requests the page before it until a page reaches
    /// the message `last`.
    fn add_page(&mut self, name: &str, page: &[Line<'_>], last: u64, replies: &mut Vec<Value>) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let Some(missed) = &mut room.missed else { return };
        for message in page.iter().rev().filter(|message| message.seq > last) {
            missed.push_front((message.seq, message.id.to_string()));
        }
        match page.first() {
            Some(first) if first.seq > last => {
                let before = first.seq;
                let request =
                    json!({"type": "history", "room": name, "before": before, "limit": 100});
                replies.push(request);
            }
            Some(_) | None => {
                let missed = room.missed.take().unwrap_or_default();
                if self.soak.pace.in_cluster && missed.len() < MISSED_MIN {
                    let few = missed.len();
                    self.soak.fault(format!(
                        "{} in {name}: only {few} missed, but not recovered",
                        self.nick
                    ));
                }
                for (seq, id) in missed {
                    self.add_message(name, seq, &id);
                }
            }
        }
    }

    /// Adds a message to those that were received without a gap.
    fn add_message(&mut self, name: &str, seq: u64, id: &str) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if let Some(missed) = &mut room.missed {
            missed.push_back((seq, id.to_owned()));
            return;
        }
        self.soak.count(|counts| counts.deliveries += 1);
        room.done |= id.starts_with(FAREWELL);
        if let Some(Err(error)) = room.received.as_mut().map(|received| received.add(seq, id)) {
            self.soak.fault(format!("{} in {name}: {error}", self.nick));
        }
    }
}
