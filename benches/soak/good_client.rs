//! A good client: it has a key, repeats messages that were not answered, resumes after a reconnect,
//! and checks that it receives every message.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Sleep, sleep};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::history::ReceivedRange;
use super::protocol::{HistoryMessage, Line, Stream, Unanswered, say, send};
use super::run::Soak;
use super::server::connect;

/// The start of every text of a good client, except farewells.
pub(crate) const PREFIX: &str = "good ";

/// The start of the last message of each room.
pub(crate) const FAREWELL: &str = "farewell ";

const SAY_INTERVAL: Duration = Duration::from_secs(4);
const CONNECTED_TIME: Duration = Duration::from_secs(120);
const ABSENCE_MAX: Duration = Duration::from_secs(10);

/// One in this many absences is long. Then the client has missed more messages than the room has in
/// memory, and reads them page by page.
const LONG_ABSENCE_ONE_IN: u32 = 20;
const LONG_ABSENCE_SECONDS: Range<u64> = 60..120;

/// What a client knows of a room.
#[derive(Default)]
pub(crate) struct Room {
    epoch: String,
    /// The messages received without a gap since it first joined.
    pub(crate) received: Option<ReceivedRange>,
    /// Messages that wait while the client reads missed messages page by page, newest page first,
    /// until a page reaches the range received before. New messages are appended.
    missed: Option<VecDeque<(u64, String)>>,
    joined: bool,
    /// Whether the farewell was received.
    pub(crate) done: bool,
}

pub(crate) struct GoodClient {
    pub(crate) number: u32,
    nick: String,
    pub(crate) rooms: HashMap<String, Room>,
    outbox: VecDeque<Unanswered>,
    /// How many messages it has sent.
    pub(crate) sent: u32,
    soak: Rc<Soak>,
}

/// Why a connection ends.
enum End {
    Left,
    Broken,
}

/// Returns a random, exponentially distributed time with this mean, and at most five times as long.
fn random_around(mean: Duration) -> Duration {
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
            soak,
        }
    }

    /// Connects and disconnects until the test is over and all messages are answered and received.
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
        sleep(ABSENCE_MAX.mul_f64(fastrand::f64())).await;
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
        let tcp = connect(self.soak.addr, self.number).await?;
        let mut request = format!("ws://{}/ws", self.soak.addr).into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", "chinwag.v1".parse().unwrap());
        let upgraded = tokio_tungstenite::client_async(request, tcp).await;
        if let Err(Error::Http(response)) = &upgraded {
            self.soak.fault(format!("{}: handshake refused with {}", self.nick, response.status()));
        }
        let (mut stream, _) = upgraded?;
        self.soak.count(|counts| counts.connections += 1);
        self.soak.count(|counts| counts.connected += 1);
        let end = self.talk(&mut stream).await;
        self.soak.count(|counts| counts.connected -= 1);
        for room in self.rooms.values_mut() {
            room.joined = false;
            room.missed = None;
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
        lines.extend(self.outbox.iter().map(say));
        send(stream, &lines).await?;
        let mut leave = Box::pin(sleep(random_around(CONNECTED_TIME)));
        let mut next = Box::pin(sleep(random_around(SAY_INTERVAL)));
        let mut again: Option<Pin<Box<Sleep>>> = None;
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(Ok(Message::Text(text))) => {
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
                    next = Box::pin(sleep(random_around(SAY_INTERVAL)));
                    let all_joined = self.rooms.values().all(|room| room.joined);
                    if !self.soak.is_over() && all_joined {
                        let line = self.next_message();
                        send(stream, &[line]).await?;
                    }
                }
                () = async { again.as_mut().unwrap().await }, if again.is_some() => {
                    again = None;
                    let lines: Vec<_> = self.outbox.iter().map(say).collect();
                    send(stream, &lines).await?;
                }
                () = &mut leave => {
                    if !self.soak.is_over() {
                        return Ok(End::Left);
                    }
                    leave = Box::pin(sleep(CONNECTED_TIME));
                }
            }
        }
    }

    /// Sends a farewell to each room from an additional client.
    pub(crate) async fn send_farewells(number: u32, soak: Rc<Soak>) {
        let rooms = soak.rooms;
        let mut client = Self::new(number, soak);
        client.rooms = (0..rooms).map(|room| (format!("room-{room}"), Room::default())).collect();
        let text = |room: &String| FAREWELL.to_owned() + room;
        let farewells = client.rooms.keys().map(|room| Unanswered {
            room: room.clone(),
            text: text(room),
            id: text(room),
            sent_at: None,
        });
        client.outbox = farewells.collect();
        client.run().await;
    }

    fn join(&self, name: &str) -> Value {
        let room = &self.rooms[name];
        let mut line = json!({"type": "join", "room": name, "ref": name});
        if let Some(received) = &room.received {
            line["after"] = json!({"epoch": room.epoch, "seq": received.last});
        }
        line
    }

    fn next_message(&mut self) -> Value {
        let room = fastrand::choice(self.rooms.keys()).unwrap().clone();
        let id = format!("{}-{}", self.number, self.sent);
        let text = format!("{PREFIX}{id} {:x<1$}", "", fastrand::usize(0..100));
        self.sent += 1;
        let unanswered = Unanswered { room, text, id, sent_at: Some(Instant::now()) };
        let line = say(&unanswered);
        self.outbox.push_back(unanswered);
        line
    }

    /// Processes a line. Returns how long to wait before all unanswered messages are sent again, if
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
            "message" => self.add_message(&line.room, line.seq, &line.text),
            "said" => {
                self.soak.count(|counts| counts.duplicates += u64::from(line.duplicate));
                let answered = self.outbox.iter().position(|message| message.id == line.id);
                if let Some(message) = answered.and_then(|n| self.outbox.remove(n))
                    && let Some(sent_at) = message.sent_at
                {
                    self.soak.count(|counts| counts.answered(sent_at.elapsed()));
                }
            }
            "joined" => self.process_joined(&line, replies),
            "history" => self.process_history(&line, replies),
            "error" => return self.process_error(&line, replies),
            _ => {}
        }
        None
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
            // A message to a room that the client could not join under its old name.
            "not_joined" => Some(Duration::from_secs(1)),
            code => {
                self.soak.fault(format!("{}: {code}", self.nick));
                None
            }
        }
    }

    fn process_joined(&mut self, line: &Line<'_>, replies: &mut Vec<Value>) {
        let Some(room) = self.rooms.get_mut(&*line.room) else { return };
        room.joined = true;
        if !room.epoch.is_empty() && room.epoch != line.epoch {
            self.soak.fault(format!("{}: new epoch after a graceful shutdown", self.nick));
        }
        room.epoch = line.epoch.to_string();
        let Some(received) = &room.received else {
            room.received = Some(ReceivedRange::after(line.seq));
            return;
        };
        let last = received.last;
        self.soak.count(|counts| counts.resumed += 1);
        if line.recovered {
            for message in &line.messages {
                self.add_message(&line.room, message.seq, &message.text);
            }
            return;
        }
        self.soak.count(|counts| counts.paged += 1);
        room.missed = Some(VecDeque::new());
        self.add_page(&line.room, &line.messages, last, replies);
    }

    fn process_history(&mut self, line: &Line<'_>, replies: &mut Vec<Value>) {
        let Some(room) = self.rooms.get(&*line.room) else { return };
        if room.missed.is_none() {
            return;
        }
        let last = room.received.as_ref().map_or(0, |received| received.last);
        if line.messages.is_empty() && line.more {
            self.soak.fault(format!("{}: empty page with more = true", self.nick));
        }
        self.add_page(&line.room, &line.messages, last, replies);
    }

    /// Prepends a page to the missed messages, and requests the page before it until a page reaches
    /// the message `last`.
    fn add_page(
        &mut self,
        name: &str,
        page: &[HistoryMessage<'_>],
        last: u64,
        replies: &mut Vec<Value>,
    ) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let Some(missed) = &mut room.missed else { return };
        for message in page.iter().rev().filter(|message| message.seq > last) {
            missed.push_front((message.seq, message.text.to_string()));
        }
        match page.first() {
            Some(first) if first.seq > last => {
                let before = first.seq;
                let request =
                    json!({"type": "history", "room": name, "before": before, "limit": 100});
                replies.push(request);
            }
            Some(_) | None => {
                for (seq, text) in room.missed.take().into_iter().flatten() {
                    self.add_message(name, seq, &text);
                }
            }
        }
    }

    fn add_message(&mut self, name: &str, seq: u64, text: &str) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if let Some(missed) = &mut room.missed {
            missed.push_back((seq, text.to_owned()));
            return;
        }
        self.soak.count(|counts| counts.deliveries += 1);
        room.done |= text.starts_with(FAREWELL);
        if let Some(Err(error)) = room.received.as_mut().map(|received| received.add(seq, text)) {
            self.soak.fault(format!("{} in {name}: {error}", self.nick));
        }
    }
}
