//! A client as it should be: it says who it is, says again what was not answered, comes back with
//! what it has seen, and checks that nothing is missing.

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

use super::ledger::Stretch;
use super::lines::{Line, Said, Stream, Unanswered, say, send};
use super::server::connect;
use super::show::Soak;

/// How the texts of the good begin.
pub(crate) const PREFIX: &str = "good ";

/// What each says before it goes: the end of the evening.
pub(crate) const FAREWELL: &str = "farewell ";

const SAY_EVERY: Duration = Duration::from_secs(4);
const STAY: Duration = Duration::from_secs(120);
const STAY_AWAY_MAX: Duration = Duration::from_secs(10);

/// One in so many who leave stays away for longer than a room remembers, and reads what it missed
/// page by page.
const LONG_AWAY_ONE_IN: u32 = 20;
const LONG_AWAY: Range<u64> = 60..120;

/// What it knows of a room.
#[derive(Default)]
pub(crate) struct Room {
    epoch: String,
    /// Without a gap from where it first joined.
    pub(crate) read: Option<Stretch>,
    /// What came too late to be recovered is read page by page, newest first, until it meets what
    /// was read before. What is told meanwhile waits behind it.
    missed: Option<VecDeque<(u64, String)>>,
    joined: bool,
    /// Whether the farewell was read.
    pub(crate) done: bool,
}

pub(crate) struct Good {
    pub(crate) number: u32,
    nick: String,
    pub(crate) rooms: HashMap<String, Room>,
    outbox: VecDeque<Unanswered>,
    /// How many messages it has said in all.
    pub(crate) said: u32,
    soak: Rc<Soak>,
}

/// Why a stay ends.
enum End {
    Left,
    Broken,
}

/// A random time around this one.
fn about(mean: Duration) -> Duration {
    mean.mul_f64(-(1.0 - fastrand::f64()).ln()).min(5 * mean)
}

impl Good {
    pub(crate) fn new(number: u32, soak: Rc<Soak>) -> Self {
        let many = soak.rooms;
        let rooms = [number % many, (number / many) % many].map(|room| format!("room-{room}"));
        let count = 1 + usize::from(number.is_multiple_of(4));
        Self {
            number,
            nick: format!("good-{number}"),
            rooms: rooms.into_iter().take(count).map(|room| (room, Room::default())).collect(),
            outbox: VecDeque::new(),
            said: 0,
            soak,
        }
    }

    /// Comes and goes until the evening is over and everything is answered and read.
    pub(crate) async fn live(mut self) -> Self {
        // Not all in the same moment.
        sleep(about(Duration::from_secs(5))).await;
        while !self.is_done() {
            match self.stay().await {
                Ok(End::Left) => self.stay_away().await,
                Ok(End::Broken) | Err(_) => {
                    sleep(Duration::from_millis(fastrand::u64(100..2000))).await;
                }
            }
        }
        self
    }

    async fn stay_away(&self) {
        sleep(STAY_AWAY_MAX.mul_f64(fastrand::f64())).await;
        if fastrand::u32(0..LONG_AWAY_ONE_IN) == 0 {
            let back = Instant::now() + Duration::from_secs(fastrand::u64(LONG_AWAY));
            // Who is still away when the evening ends has to read its end.
            while Instant::now() < back && !self.soak.is_over() {
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.soak.is_over() && self.outbox.is_empty() && self.rooms.values().all(|room| room.done)
    }

    async fn stay(&mut self) -> Result<End, Error> {
        let tcp = connect(self.soak.addr, self.number).await?;
        let mut request = format!("ws://{}/ws", self.soak.addr).into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", "chinwag.v1".parse().unwrap());
        let upgraded = tokio_tungstenite::client_async(request, tcp).await;
        if let Err(Error::Http(response)) = &upgraded {
            self.soak.fault(format!("{}: refused with {}", self.nick, response.status()));
        }
        let (mut stream, _) = upgraded?;
        self.soak.count(|counts| counts.stays += 1);
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
            // The others just drop it.
            let _ = stream.close(None).await;
        }
        end
    }

    async fn talk(&mut self, stream: &mut Stream) -> Result<End, Error> {
        let key = format!("the secret of number {}", self.number);
        let mut lines = vec![json!({"type": "hello", "nick": self.nick, "key": key})];
        lines.extend(self.rooms.keys().map(|room| self.join(room)));
        for unanswered in &mut self.outbox {
            unanswered.first_said = None;
        }
        lines.extend(self.outbox.iter().map(say));
        send(stream, &lines).await?;
        let mut leave = Box::pin(sleep(about(STAY)));
        let mut next = Box::pin(sleep(about(SAY_EVERY)));
        let mut again: Option<Pin<Box<Sleep>>> = None;
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        let mut answers = Vec::new();
                        for line in text.split('\n') {
                            again = self.hear(line, &mut answers).map(|wait| {
                                Box::pin(sleep(wait))
                            }).or(again);
                        }
                        send(stream, &answers).await?;
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
                    next = Box::pin(sleep(about(SAY_EVERY)));
                    let all_joined = self.rooms.values().all(|room| room.joined);
                    if !self.soak.is_over() && all_joined {
                        let line = self.say_something();
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
                    leave = Box::pin(sleep(STAY));
                }
            }
        }
    }

    /// Says farewell in each room, as one client of its own.
    pub(crate) async fn farewell(number: u32, soak: Rc<Soak>) {
        let rooms = soak.rooms;
        let mut one = Self::new(number, soak);
        one.rooms = (0..rooms).map(|room| (format!("room-{room}"), Room::default())).collect();
        let text = |room: &String| FAREWELL.to_owned() + room;
        let said = one.rooms.keys().map(|room| Unanswered {
            room: room.clone(),
            text: text(room),
            id: text(room),
            first_said: None,
        });
        one.outbox = said.collect();
        one.live().await;
    }

    fn join(&self, name: &str) -> Value {
        let room = &self.rooms[name];
        let mut line = json!({"type": "join", "room": name, "ref": name});
        if let Some(read) = &room.read {
            line["after"] = json!({"epoch": room.epoch, "seq": read.last});
        }
        line
    }

    fn say_something(&mut self) -> Value {
        let room = fastrand::choice(self.rooms.keys()).unwrap().clone();
        let id = format!("{}-{}", self.number, self.said);
        let text = format!("{PREFIX}{id} {:x<1$}", "", fastrand::usize(0..100));
        self.said += 1;
        let unanswered = Unanswered { room, text, id, first_said: Some(Instant::now()) };
        let line = say(&unanswered);
        self.outbox.push_back(unanswered);
        line
    }

    /// Takes in a line; gives how long to wait before all is said again, if it must be.
    fn hear(&mut self, line: &str, answers: &mut Vec<Value>) -> Option<Duration> {
        let line: Line<'_> = match serde_json::from_str(line) {
            Ok(line) => line,
            Err(error) => {
                self.soak.fault(format!("{}: {error} in {line:.200}", self.nick));
                return None;
            }
        };
        match line.r#type {
            "message" => self.read(&line.room, line.seq, &line.text),
            "said" => {
                self.soak.count(|counts| counts.duplicates += u64::from(line.duplicate));
                let answered = self.outbox.iter().position(|said| said.id == line.id);
                if let Some(said) = answered.and_then(|n| self.outbox.remove(n))
                    && let Some(first) = said.first_said
                {
                    self.soak.count(|counts| counts.answered(first.elapsed()));
                }
            }
            "joined" => self.joined(&line, answers),
            "history" => self.paged(&line, answers),
            "error" => return self.refused(&line, answers),
            _ => {}
        }
        None
    }

    fn refused(&mut self, line: &Line<'_>, answers: &mut Vec<Value>) -> Option<Duration> {
        for unanswered in &mut self.outbox {
            unanswered.first_said = None;
        }
        match line.code {
            "rate_limited" => {
                self.soak.count(|counts| counts.told_to_wait += 1);
                Some(Duration::from_millis(line.retry_after_ms))
            }
            // Somebody has taken it while this one was away.
            "nick_taken" => {
                self.nick = format!("good-{}-{}", self.number, fastrand::u16(..));
                answers.push(json!({"type": "nick", "nick": self.nick}));
                answers.push(self.join(&line.r#ref));
                self.soak.count(|counts| counts.renamed += 1);
                Some(Duration::from_millis(100))
            }
            // What was said to a room that could not be joined under the old name.
            "not_joined" => Some(Duration::from_secs(1)),
            code => {
                self.soak.fault(format!("{}: {code}", self.nick));
                None
            }
        }
    }

    fn joined(&mut self, line: &Line<'_>, answers: &mut Vec<Value>) {
        let Some(room) = self.rooms.get_mut(&*line.room) else { return };
        room.joined = true;
        if !room.epoch.is_empty() && room.epoch != line.epoch {
            self.soak.fault(format!("{}: another epoch after a clean end", self.nick));
        }
        room.epoch = line.epoch.to_string();
        let Some(read) = &room.read else {
            room.read = Some(Stretch::after(line.seq));
            return;
        };
        let last = read.last;
        self.soak.count(|counts| counts.resumed += 1);
        if line.recovered {
            for said in &line.messages {
                self.read(&line.room, said.seq, &said.text);
            }
            return;
        }
        self.soak.count(|counts| counts.paged += 1);
        room.missed = Some(VecDeque::new());
        self.page(&line.room, &line.messages, last, answers);
    }

    fn paged(&mut self, line: &Line<'_>, answers: &mut Vec<Value>) {
        let Some(room) = self.rooms.get(&*line.room) else { return };
        if room.missed.is_none() {
            return;
        }
        let last = room.read.as_ref().map_or(0, |read| read.last);
        if line.messages.is_empty() && line.more {
            self.soak.fault(format!("{}: an empty page, and more", self.nick));
        }
        self.page(&line.room, &line.messages, last, answers);
    }

    /// Puts older messages before what was missed, and asks for more until it meets what was read.
    fn page(&mut self, name: &str, page: &[Said<'_>], last: u64, answers: &mut Vec<Value>) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let Some(missed) = &mut room.missed else { return };
        for said in page.iter().rev().filter(|said| said.seq > last) {
            missed.push_front((said.seq, said.text.to_string()));
        }
        match page.first() {
            Some(first) if first.seq > last => {
                let before = first.seq;
                let ask = json!({"type": "history", "room": name, "before": before, "limit": 100});
                answers.push(ask);
            }
            Some(_) | None => {
                for (seq, text) in room.missed.take().into_iter().flatten() {
                    self.read(name, seq, &text);
                }
            }
        }
    }

    fn read(&mut self, name: &str, seq: u64, text: &str) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if let Some(missed) = &mut room.missed {
            missed.push_back((seq, text.to_owned()));
            return;
        }
        self.soak.count(|counts| counts.deliveries += 1);
        room.done |= text.starts_with(FAREWELL);
        if let Some(Err(wrong)) = room.read.as_mut().map(|read| read.read(seq, text)) {
            self.soak.fault(format!("{} in {name}: {wrong}", self.nick));
        }
    }
}
