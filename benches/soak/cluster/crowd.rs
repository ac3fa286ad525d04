//! Clients that move between nodes, join and leave rooms, and claim each other's names. From time
//! to time they stay where they are. Then all nodes must know the same members, and each client its
//! own name.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{interval, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::good_client::random_around;
use crate::protocol::{Stream, send};
use crate::run::Soak;
use crate::server::connect;

/// The number of members for each room. A list of members has at most 100 names.
const MEMBERS_PER_ROOM: u32 = 30;

/// How many users want each contested name.
const RIVALS: u32 = 3;

/// The addresses of good clients come before those of the crowd.
const FIRST_NUMBER: u32 = 100_000;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A client that receives nothing for this time disconnects: the node may be stopped.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// The mean time that a client stays connected.
const CONNECTED_TIME: Duration = Duration::from_secs(6);

/// How long it may take until all clients have joined their rooms.
const JOIN_TIMEOUT: Duration = Duration::from_secs(40);

/// How long it may take then until all nodes agree.
const AGREE_TIMEOUT: Duration = Duration::from_secs(15);

/// What kind of user a client is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It has a key, and wants a name that others want, too.
    Rival,
    /// It has a key and a name of its own.
    Keyed,
    /// A second client of the user before it.
    Device,
    /// It has neither key nor name, so each connection is a user.
    Anonymous,
}

/// A client.
struct Member {
    number: u32,
    kind: Kind,
    rooms: Vec<String>,
    state: RefCell<State>,
}

/// What a client knows.
#[derive(Default)]
struct State {
    last_addr: Option<SocketAddr>,
    /// The name that it asks for.
    nick: String,
    /// Its name as the server told it, while it is connected. Another client of the user may have
    /// changed it since.
    told: Option<String>,
    /// Its name as the server answered, while all clients stay where they are.
    answered: Option<String>,
    /// The number of members of each room that it has joined.
    counts: BTreeMap<String, u64>,
}

/// All clients of the crowd.
pub(super) struct Crowd {
    soak: Rc<Soak>,
    members: Vec<Rc<Member>>,
    rooms: Vec<String>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
    /// Whether the clients stay where they are.
    holds: Cell<bool>,
    is_over: Cell<bool>,
    counts: RefCell<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: u64,
    names_taken: u64,
    /// How often a client was told a new name that it had not asked for.
    renamed: u64,
    checks: u64,
    /// The longest time until all clients had joined, and then until all nodes agreed.
    longest_join: Duration,
    longest_agreement: Duration,
}

/// The names of a room on one node, sorted, and their number.
type Known = (Vec<String>, u64);

impl Crowd {
    /// Starts half as many clients as there are good ones.
    pub(super) fn start(soak: &Rc<Soak>) -> Rc<Self> {
        let count = (soak.good / 2).max(6);
        let rooms: Vec<_> =
            (0..count.div_ceil(MEMBERS_PER_ROOM)).map(|n| format!("crowd-{n}")).collect();
        let members = (0..count).map(|number| Rc::new(Member::new(number, count, &rooms)));
        let crowd = Rc::new(Self {
            soak: Rc::clone(soak),
            members: members.collect(),
            rooms,
            tasks: RefCell::default(),
            holds: Cell::new(false),
            is_over: Cell::new(false),
            counts: RefCell::default(),
        });
        let run = |member: &Rc<Member>| spawn_local(Rc::clone(member).run(Rc::clone(&crowd)));
        crowd.tasks.replace(crowd.members.iter().map(run).collect());
        crowd
    }

    /// Disconnects all clients.
    pub(super) async fn stop(&self) {
        self.is_over.set(true);
        for task in self.tasks.take() {
            if timeout(JOIN_TIMEOUT, task).await.is_err() {
                self.soak.fault("a client of the crowd does not end".into());
            }
        }
    }

    /// Lets all clients join their rooms and stay there, and checks that all nodes know the same
    /// members. The nodes run and are connected.
    pub(super) async fn check(&self, minute: f64, addrs: &[SocketAddr]) {
        self.holds.set(true);
        let began = Instant::now();
        while !self.has_joined() && began.elapsed() < JOIN_TIMEOUT {
            sleep(Duration::from_millis(50)).await;
        }
        let join = began.elapsed();
        let mut observers = Vec::new();
        for number in 0..addrs.len() {
            observers.push(Observer { number, stream: None });
        }
        let began = Instant::now();
        let problems = loop {
            let problems = self.problems(&mut observers, addrs).await;
            if problems.is_empty() || began.elapsed() > AGREE_TIMEOUT {
                break problems;
            }
            sleep(Duration::from_millis(50)).await;
        };
        let agreement = began.elapsed();
        println!(
            "minute {minute:.1}: {} clients in {} rooms; all had joined after {join:.1?}, and all \
             nodes {} after {agreement:.1?}",
            self.members.len(),
            self.rooms.len(),
            if problems.is_empty() { "agreed" } else { "did not agree" },
        );
        for problem in problems {
            self.soak.fault(format!("minute {minute:.1}: {problem}"));
        }
        let mut counts = self.counts.borrow_mut();
        counts.checks += 1;
        counts.longest_join = counts.longest_join.max(join);
        counts.longest_agreement = counts.longest_agreement.max(agreement);
        self.holds.set(false);
    }

    pub(super) fn print_results(&self) {
        let counts = self.counts.borrow();
        println!(
            "crowd: {} connections; a name was taken {} times; {} times a client was told a new \
             name that it had not asked for",
            counts.connections, counts.names_taken, counts.renamed
        );
        println!(
            "members were compared {} times; all clients had joined after {:.1?} at most, and all \
             nodes agreed after {:.1?} at most",
            counts.checks, counts.longest_join, counts.longest_agreement
        );
    }

    /// Returns whether a client's user has no other client.
    fn is_only_client(&self, member: &Member) -> bool {
        let of_user = self.members.iter().filter(|other| other.identity() == member.identity());
        of_user.count() == 1
    }

    fn has_joined(&self) -> bool {
        self.members.iter().all(|member| member.has_joined())
    }

    /// Compares what all nodes and clients know. Returns the differences.
    async fn problems(&self, observers: &mut [Observer], addrs: &[SocketAddr]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut known: BTreeMap<&str, Vec<Known>> = BTreeMap::new();
        for observer in &mut *observers {
            let number = observer.number;
            for room in &self.rooms {
                let asked = observer.ask(addrs[number], &self.rooms, room);
                match timeout(CONNECT_TIMEOUT, asked).await {
                    Ok(Some(names)) => known.entry(room).or_default().push(names),
                    _ => {
                        observer.stream = None;
                        problems.push(format!("node {number} does not tell the members of {room}"));
                    }
                }
            }
        }
        for member in self.members.iter().filter(|member| !member.has_joined()) {
            problems.push(format!("{} has not joined its rooms", member.identity()));
        }
        for room in &self.rooms {
            let mut users: BTreeMap<String, String> = BTreeMap::new();
            users.extend((0..observers.len()).map(|n| (observer_name(n), observer_name(n))));
            for member in self.members.iter().filter(|member| member.rooms.contains(room)) {
                let (told, answered) = {
                    let state = member.state.borrow();
                    (state.told.clone(), state.answered.clone())
                };
                let Some(nick) = answered else {
                    problems.push(format!("client {} does not know its name", member.number));
                    continue;
                };
                if told.as_ref() != Some(&nick) && self.is_only_client(member) {
                    let number = member.number;
                    problems.push(format!("client {number} was told {told:?}, and is {nick}"));
                }
                let other = users.entry(member.identity()).or_insert_with(|| nick.clone());
                if *other != nick {
                    let identity = member.identity();
                    problems
                        .push(format!("{identity} is {nick} to one client, {other} to another"));
                }
            }
            let mut names: Vec<_> = users.values().cloned().collect();
            names.sort();
            let mut folded = BTreeSet::new();
            for name in &names {
                if !folded.insert(fold(name)) {
                    problems.push(format!("two users in {room} were told that they are {name}"));
                }
            }
            for (node, (listed, count)) in known.get(&**room).into_iter().flatten().enumerate() {
                let mut folded = BTreeSet::new();
                for name in listed {
                    if !folded.insert(fold(name)) {
                        problems.push(format!("{name} is twice in {room} on node {node}"));
                    }
                }
                if *count != users.len() as u64 {
                    let expected = users.len();
                    problems.push(format!("{room} has {count}, not {expected} on node {node}"));
                }
                let (listed, names): (BTreeSet<_>, BTreeSet<_>) =
                    (listed.iter().collect(), names.iter().collect());
                if listed != names {
                    let more: Vec<_> = listed.difference(&names).collect();
                    let less: Vec<_> = names.difference(&listed).collect();
                    problems.push(format!(
                        "{room} on node {node} has {more:?} besides its users, and lacks {less:?}"
                    ));
                }
            }
            for member in &self.members {
                let state = member.state.borrow();
                let Some(count) = state.counts.get(room) else { continue };
                if *count != users.len() as u64 {
                    let (number, expected) = (member.number, users.len());
                    problems.push(format!(
                        "client {number} was told that {room} has {count} members, not {expected}"
                    ));
                }
            }
        }
        problems
    }
}

/// Returns a form that is equal for the contested names that look alike.
fn fold(name: &str) -> String {
    // The first letter is Cyrillic.
    name.to_lowercase().replace('а', "a")
}

fn observer_name(number: usize) -> String {
    format!("observer-{number}")
}

/// A client that asks one node for the members of all rooms.
struct Observer {
    number: usize,
    stream: Option<Stream>,
}

impl Observer {
    /// Returns the members of a room. Connects if it is not connected. Returns `None` if the
    /// connection ends.
    async fn ask(&mut self, addr: SocketAddr, rooms: &[String], room: &str) -> Option<Known> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let number = FIRST_NUMBER - 1 - self.number as u32;
                let mut stream = upgrade(addr, number).await?;
                let nick = observer_name(self.number);
                let key = format!("the secret of the {nick}");
                let mut lines = vec![json!({"type": "hello", "nick": nick, "key": key})];
                lines.extend(rooms.iter().map(|room| json!({"type": "join", "room": room})));
                send(&mut stream, &lines).await.ok()?;
                none.insert(stream)
            }
        };
        send(stream, &[json!({"type": "who", "room": room, "ref": room})]).await.ok()?;
        loop {
            let Message::Text(text) = stream.next().await?.ok()? else { continue };
            for line in text.split('\n') {
                let line: Value = serde_json::from_str(line).ok()?;
                if line["type"] == "error" {
                    return None;
                }
                if line["type"] == "members" && line["ref"] == *room {
                    let names = line["members"].as_array()?.iter();
                    let mut names: Vec<_> =
                        names.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
                    names.sort();
                    return Some((names, line["member_count"].as_u64()?));
                }
            }
        }
    }
}

async fn upgrade(addr: SocketAddr, number: u32) -> Option<Stream> {
    let mut request = format!("ws://{addr}/ws").into_client_request().ok()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", "chinwag.v1".parse().ok()?);
    let upgrade = async {
        let tcp = connect(addr, number).await.ok()?;
        tokio_tungstenite::client_async(request, tcp).await.ok()
    };
    // The node may be stopped.
    let (stream, _) = timeout(CONNECT_TIMEOUT, upgrade).await.ok()??;
    Some(stream)
}

impl Member {
    fn new(number: u32, count: u32, rooms: &[String]) -> Self {
        let kind = match number % 6 {
            0 | 1 => Kind::Rival,
            2 | 3 => Kind::Keyed,
            4 => Kind::Device,
            _ => Kind::Anonymous,
        };
        let mut nick = format!("crowd-{number}");
        // The clients of a user may be in different rooms. Rivals are in the same room.
        let mut first = number as usize;
        if kind == Kind::Rival {
            let (index, rivals) = (number / 6 * 2 + number % 6, count / 6 * 2);
            let stars = (rivals / RIVALS).max(1);
            let star = index % stars;
            nick = match index / stars % RIVALS {
                0 => format!("star-{star}"),
                1 => format!("Star-{star}"),
                // The third letter is Cyrillic.
                _ => format!("stаr-{star}"),
            };
            first = star as usize;
        }
        let two = if number.is_multiple_of(4) && rooms.len() > 1 { 2 } else { 1 };
        let rooms = (first..first + two).map(|n| rooms[n % rooms.len()].clone()).collect();
        Self { number, kind, rooms, state: RefCell::new(State { nick, ..State::default() }) }
    }

    /// Returns what identifies its user.
    fn identity(&self) -> String {
        let number = self.number - u32::from(self.kind == Kind::Device);
        format!("user {number}")
    }

    fn has_joined(&self) -> bool {
        let state = self.state.borrow();
        state.told.is_some() && state.counts.len() == self.rooms.len()
    }

    /// Connects again and again.
    async fn run(self: Rc<Self>, crowd: Rc<Crowd>) {
        sleep(Duration::from_millis(fastrand::u64(..3000))).await;
        while !crowd.is_over.get() {
            self.connect_once(&crowd).await;
            {
                let mut state = self.state.borrow_mut();
                (state.told, state.answered) = (None, None);
                state.counts.clear();
            }
            let pause = if crowd.holds.get() { 50..200 } else { 50..2000 };
            sleep(Duration::from_millis(fastrand::u64(pause))).await;
        }
    }

    /// Stays connected for some time, or until the connection ends. Returns `None` in that case.
    async fn connect_once(&self, crowd: &Crowd) -> Option<()> {
        let addr = crowd.soak.other_addr(self.state.borrow().last_addr);
        self.state.borrow_mut().last_addr = Some(addr);
        let mut stream = upgrade(addr, FIRST_NUMBER + self.number).await?;
        crowd.counts.borrow_mut().connections += 1;
        let nick = self.state.borrow().nick.clone();
        // A second client has the name of its user, if it is known.
        let nick = [Kind::Rival, Kind::Keyed].contains(&self.kind).then_some(&*nick);
        send(&mut stream, &[self.hello(nick)]).await.ok()?;
        let mut leave = Box::pin(sleep(random_around(CONNECTED_TIME)));
        let mut silence = Box::pin(sleep(SILENCE_MAX));
        let mut ticks = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                message = stream.next() => match message?.ok()? {
                    Message::Text(text) => {
                        silence.as_mut().reset(tokio::time::Instant::now() + SILENCE_MAX);
                        let mut replies = Vec::new();
                        for line in text.split('\n') {
                            let line = serde_json::from_str(line).ok()?;
                            self.receive(&line, crowd, &mut replies);
                        }
                        send(&mut stream, &replies).await.ok()?;
                    }
                    Message::Close(_) => return None,
                    Message::Ping(_) | Message::Pong(_) => {}
                    Message::Binary(_) | Message::Frame(_) => return None,
                },
                _ = ticks.tick() => {
                    if crowd.is_over.get() {
                        return Some(());
                    }
                    let lines = self.next_commands(crowd.holds.get());
                    send(&mut stream, &lines).await.ok()?;
                }
                () = &mut leave => {
                    if !crowd.holds.get() {
                        return Some(());
                    }
                    leave = Box::pin(sleep(CONNECTED_TIME));
                }
                () = &mut silence => return None,
            }
        }
    }

    fn hello(&self, nick: Option<&str>) -> Value {
        let mut hello = json!({"type": "hello", "ref": "hello"});
        if self.kind != Kind::Anonymous {
            hello["key"] = format!("the secret of the {}", self.identity()).into();
        }
        if let Some(nick) = nick {
            hello["nick"] = nick.into();
        }
        hello
    }

    /// Returns the commands of a second. The last one has an answer, if the node answers.
    fn next_commands(&self, holds: bool) -> Vec<Value> {
        let mut state = self.state.borrow_mut();
        if state.told.is_none() {
            return Vec::new();
        }
        let missing = self.rooms.iter().filter(|room| !state.counts.contains_key(*room));
        let mut lines: Vec<_> = missing.map(|room| join(room)).collect();
        let room = fastrand::choice(&self.rooms).unwrap();
        if holds {
            lines.push(json!({"type": "hello", "ref": "name"}));
        } else {
            state.answered = None;
            let wanted = |nick: &str| json!({"type": "nick", "nick": nick, "ref": "nick"});
            match (fastrand::u32(..100), self.kind) {
                (0..35, Kind::Rival) => lines.push(wanted(&state.nick)),
                (0..10, Kind::Keyed | Kind::Device) => {
                    lines.push(wanted(&format!("crowd-{}-{}", self.number, fastrand::u8(..))));
                }
                (35..45, _) => lines.push(json!({"type": "leave", "room": room})),
                (45..55, _) => lines.push(json!({"type": "typing", "room": room})),
                _ => {}
            }
        }
        lines.push(json!({"type": "who", "room": room}));
        lines
    }

    fn receive(&self, line: &Value, crowd: &Crowd, replies: &mut Vec<Value>) {
        let mut state = self.state.borrow_mut();
        let room = || line["room"].as_str().unwrap_or_default().to_owned();
        let count = line["member_count"].as_u64().unwrap_or_default();
        match line["type"].as_str().unwrap_or_default() {
            "welcome" if line["ref"] == "name" => {
                state.answered = line["nick"].as_str().map(str::to_owned);
            }
            "welcome" => {
                let is_first = state.told.is_none();
                state.told = line["nick"].as_str().map(str::to_owned);
                if is_first {
                    replies.extend(self.rooms.iter().map(|room| join(room)));
                } else if line["ref"].is_null() {
                    crowd.counts.borrow_mut().renamed += 1;
                }
            }
            "joined" => {
                state.counts.insert(room(), count);
            }
            "presence" => {
                if let Some(known) = state.counts.get_mut(&room()) {
                    *known = count;
                }
            }
            "left" => {
                state.counts.remove(&room());
            }
            "error" => match line["code"].as_str().unwrap_or_default() {
                "nick_taken" => {
                    crowd.counts.borrow_mut().names_taken += 1;
                    let own = format!("crowd-{}-{}", self.number, fastrand::u16(..));
                    let other = match line["suggested"].as_str() {
                        Some(suggested) if !crowd.holds.get() && fastrand::bool() => suggested,
                        _ => &own,
                    };
                    if line["ref"] == "hello" {
                        replies.push(self.hello(Some(other)));
                    } else if line["ref"] == "join" {
                        replies.push(json!({"type": "nick", "nick": other, "ref": "other"}));
                        let missing =
                            self.rooms.iter().filter(|room| !state.counts.contains_key(*room));
                        replies.extend(missing.map(|room| join(room)));
                    }
                }
                "rate_limited" | "busy" | "not_joined" | "shutting_down" => {}
                code => crowd.soak.fault(format!("client {} of the crowd: {code}", self.number)),
            },
            _ => {}
        }
    }
}

fn join(room: &str) -> Value {
    json!({"type": "join", "room": room, "ref": "join"})
}
