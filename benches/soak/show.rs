//! The evening from beginning to end, what is shown of it each minute, and the verdict.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout_at};

use super::good::{Good, PREFIX};
use super::hostile;
use super::ledger::Truth;
use super::server::Server;

/// Of all clients, one in so many is hostile.
const HOSTILE_ONE_IN: u32 = 20;

/// For so many clients there is a room.
const CLIENTS_OF_A_ROOM: u32 = 50;

/// When the server is stopped and started again, as parts of the whole. Not shortly before memory is
/// first looked at: connections that stay grow their buffers for some minutes.
const RESTARTS: [f64; 4] = [0.03, 0.06, 0.1, 0.7];

/// How much more memory than after the first third there may be.
const GROWTH_MAX: f64 = 1.05;

/// How long an evening is at least of which that is judged.
const JUDGED_MINUTES_MIN: f64 = 15.0;

/// How long it may take in the end until everything is answered and read.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(90);

const FAULTS_SHOWN: usize = 20;

/// The close code of a server that stops.
const SHUTTING_DOWN: u16 = 1001;

/// What all clients share.
pub(crate) struct Soak {
    pub(crate) addr: SocketAddr,
    /// How many good clients there are, and how many rooms they talk in.
    pub(crate) good: u32,
    pub(crate) rooms: u32,
    over: Cell<bool>,
    counts: RefCell<Counts>,
    acts: RefCell<BTreeMap<&'static str, u64>>,
    faults: RefCell<Vec<String>>,
}

pub(crate) struct Counts {
    /// How often the server has ended a good client's connection, by close code if there was one.
    closed: BTreeMap<Option<u16>, u64>,
    pub(crate) connected: u64,
    pub(crate) stays: u64,
    pub(crate) resumed: u64,
    pub(crate) paged: u64,
    pub(crate) deliveries: u64,
    pub(crate) answers: u64,
    /// Messages that were said again after a break, and had arrived before.
    pub(crate) duplicates: u64,
    pub(crate) told_to_wait: u64,
    pub(crate) renamed: u64,
    latency_us: Histogram<u64>,
}

impl Counts {
    /// A message that was said once was answered so long after.
    pub(crate) fn answered(&mut self, after: Duration) {
        self.answers += 1;
        self.latency_us.saturating_record(after.as_micros() as u64);
    }

    pub(crate) fn closed(&mut self, code: Option<u16>) {
        *self.closed.entry(code).or_default() += 1;
    }
}

impl Soak {
    fn new(addr: SocketAddr, good: u32, rooms: u32) -> Self {
        let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        let counts = Counts {
            closed: BTreeMap::new(),
            connected: 0,
            stays: 0,
            resumed: 0,
            paged: 0,
            deliveries: 0,
            answers: 0,
            duplicates: 0,
            told_to_wait: 0,
            renamed: 0,
            latency_us,
        };
        Self {
            addr,
            good,
            rooms,
            over: Cell::new(false),
            counts: RefCell::new(counts),
            acts: RefCell::default(),
            faults: RefCell::default(),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// The name of one of the good, and of a room that they talk in.
    pub(crate) fn a_name(&self) -> String {
        format!("good-{}", fastrand::u32(0..self.good))
    }

    pub(crate) fn a_room(&self) -> String {
        format!("room-{}", fastrand::u32(0..self.rooms))
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.borrow_mut());
    }

    pub(crate) fn act(&self, name: &'static str) {
        *self.acts.borrow_mut().entry(name).or_default() += 1;
    }

    /// Notes what should not be.
    pub(crate) fn fault(&self, what: String) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < FAULTS_SHOWN {
            println!("FAULT {what}");
        }
        faults.push(what);
    }

    /// A line of what has been so far.
    fn show(&self, minute: f64, server: &Server) {
        let counts = self.counts.borrow();
        let latency = |quantile| counts.latency_us.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "{minute:>6.1} {:>9} {:>9} {:>11} {:>7} {:>7} {:>6} {:>7} {:>8.1} {:>8.1} {:>7.1} \
             {:>6} {:>6.1}",
            counts.connected,
            counts.answers,
            counts.deliveries,
            counts.stays,
            counts.resumed,
            counts.paged,
            self.acts.borrow().values().sum::<u64>(),
            latency(0.5),
            latency(0.99),
            server.memory() as f64 / 1e6,
            server.descriptors(),
            server.cpu().as_secs_f64(),
        );
    }
}

const HEADING: &str = "minute connected  answered  deliveries   stays resumed  paged hostile   \
                       p50 ms   p99 ms  RSS MB   fds  cpu s";

/// Memory of the server at some moment of the evening, in parts of the whole.
struct Memory {
    at: f64,
    bytes: u64,
}

pub(crate) async fn run(minutes: f64, clients: u32) -> ExitCode {
    let mut server = Server::start().await;
    let hostile = clients / HOSTILE_ONE_IN;
    let good = clients - hostile;
    let rooms = clients.div_ceil(CLIENTS_OF_A_ROOM);
    let soak = Rc::new(Soak::new(server.addr, good, rooms));
    println!("{minutes} minutes, {good} good clients, {hostile} hostile\n\n{HEADING}");
    let good: Vec<_> =
        (0..good).map(|n| spawn_local(Good::new(n, Rc::clone(&soak)).live())).collect();
    let hostile: Vec<_> =
        (0..hostile).map(|n| spawn_local(hostile::live(n, Rc::clone(&soak)))).collect();
    let memory = evening(minutes, &mut server, &soak).await;
    let good = settle(&soak, good, hostile).await;
    soak.show(minutes, &server);
    let limits = server.metrics().await;
    server.down().await;
    judge(&soak, &good, &Truth::of(&server.export()));
    judge_memory(&soak, &memory, minutes);
    judge_log(&soak, &server.said());
    judge_closed(&soak);
    show_rest(&soak, &limits);
    let faults = soak.faults.borrow().len();
    println!("\n{}", if faults == 0 { "no fault".into() } else { format!("{faults} faults") });
    if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Watches, and stops and starts the server.
async fn evening(minutes: f64, server: &mut Server, soak: &Soak) -> Vec<Memory> {
    let began = Instant::now();
    let whole = Duration::from_secs_f64(minutes * 60.0);
    let mut restarts = RESTARTS.iter().copied().peekable();
    let (mut memory, mut minute) = (Vec::new(), 0.0);
    let mut ticks = interval((whole / 300).min(Duration::from_secs(5)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let at = began.elapsed().as_secs_f64() / whole.as_secs_f64();
        if at >= 1.0 {
            return memory;
        }
        memory.push(Memory { at, bytes: server.memory() });
        let now = (at * minutes).floor();
        if now > minute {
            minute = now;
            soak.show(minute, server);
        }
        if restarts.next_if(|&due| due <= at).is_some() {
            server.down().await;
            server.up().await;
        }
    }
}

/// Lets the hostile go and the good finish, who then have nothing unanswered and have read the
/// farewell that is said in each room last.
async fn settle(
    soak: &Rc<Soak>,
    good: Vec<JoinHandle<Good>>,
    hostile: Vec<JoinHandle<()>>,
) -> Vec<Good> {
    soak.over.set(true);
    for villain in hostile {
        villain.await.unwrap();
    }
    // What was said last is answered meanwhile; what is not is said again.
    sleep(Duration::from_secs(15)).await;
    let farewell = spawn_local(Good::farewell(soak.good, Rc::clone(soak)));
    let deadline = tokio::time::Instant::now() + SETTLE_TIME_MAX;
    let mut settled = Vec::new();
    for client in good {
        match timeout_at(deadline, client).await {
            Ok(client) => settled.push(client.unwrap()),
            Err(_) => soak.fault("a client does not come to its end".into()),
        }
    }
    match timeout_at(deadline, farewell).await {
        Ok(farewell) => farewell.unwrap(),
        Err(_) => soak.fault("the farewell is not answered".into()),
    }
    settled
}

/// Holds what the good have said and read against what the journal has.
fn judge(soak: &Soak, good: &[Good], truth: &Truth) {
    let mut texts: HashMap<String, u32> = HashMap::new();
    for (text, count) in truth.good_texts() {
        let id = text[PREFIX.len()..].split(' ').next().unwrap();
        *texts.entry(id.to_owned()).or_default() += count;
    }
    let (mut said, mut read) = (0, 0);
    for client in good {
        for number in 0..client.said {
            said += 1;
            match texts.remove(&format!("{}-{number}", client.number)) {
                Some(1) => {}
                count => soak.fault(format!("{}-{number} is there {count:?} times", client.number)),
            }
        }
        for (room, known) in &client.rooms {
            let Some(stretch) = &known.read else {
                soak.fault(format!("{} was never in {room}", client.number));
                continue;
            };
            match truth.check(room, stretch) {
                Ok(count) => read += count,
                Err(wrong) => soak.fault(format!("{} in {wrong}", client.number)),
            }
        }
    }
    if !texts.is_empty() {
        soak.fault(format!("{} messages that nobody knows of", texts.len()));
    }
    println!("\n{said} messages of good clients, each once in the journal's {}", truth.messages());
    println!("{read} messages read by good clients, each room without a gap and in order");
    if truth.longest() >= 100_000 {
        soak.fault("a room is longer than what is kept".into());
    }
}

fn judge_memory(soak: &Soak, memory: &[Memory], minutes: f64) {
    let third = 1.0 / 3.0;
    let window = third + 1.0 / 30.0;
    let most = |from: f64, to: f64| {
        let within = memory.iter().filter(|sample| (from..to).contains(&sample.at));
        within.map(|sample| sample.bytes).max().unwrap_or(0) as f64
    };
    let (baseline, after) = (most(third, window), most(window, 1.0));
    println!(
        "memory: {:.1} MB at most from minute {:.1} to {:.1}, {:.1} MB at most after that: {:.3} \
         of it, {GROWTH_MAX} allowed",
        baseline / 1e6,
        third * minutes,
        window * minutes,
        after / 1e6,
        after / baseline,
    );
    if minutes < JUDGED_MINUTES_MIN {
        println!("which is not judged, since it was less than {JUDGED_MINUTES_MIN} minutes");
    } else if after > GROWTH_MAX * baseline {
        soak.fault("memory has grown".into());
    }
}

fn judge_log(soak: &Soak, log: &str) {
    let mut lines: BTreeMap<&str, u64> = BTreeMap::new();
    for line in log.lines().filter(|line| !line.contains(" INFO ")) {
        let words = line.split_once("] ").map_or(line, |(_, words)| words);
        *lines.entry(words).or_default() += 1;
    }
    if log.contains("panicked") {
        soak.fault("the server has panicked".into());
    }
    println!("\nwhat the server logged beside its starts and ends:");
    for (line, count) in lines {
        println!("{count:>6} {line}");
    }
}

/// No hostile client has cost a good one its connection.
fn judge_closed(soak: &Soak) {
    println!("\nconnections of good clients that the server has ended, by close code:");
    let closed = std::mem::take(&mut soak.counts.borrow_mut().closed);
    for (code, count) in closed {
        match code {
            Some(SHUTTING_DOWN) => println!("{count:>6} {SHUTTING_DOWN}"),
            // A restart does not wait for who is slow, or still on the way in.
            None => println!("{count:>6} without one"),
            Some(code) => soak.fault(format!("{count} good clients were closed with {code}")),
        }
    }
}

fn show_rest(soak: &Soak, metrics: &[(String, f64)]) {
    println!("\nlimits reached, errors told and connections ended since the last start:");
    let kinds = ["chinwag_limit_hits_total", "chinwag_errors_total", "chinwag_disconnects_total"];
    for (name, value) in metrics {
        if *value > 0.0 && kinds.iter().any(|kind| name.starts_with(kind)) {
            println!("{value:>9} {name}");
        }
        if name.contains("panicked") && *value > 0.0 {
            soak.fault("a session has panicked".into());
        }
    }
    println!("\nwhat the hostile did:");
    for (name, count) in soak.acts.borrow().iter() {
        println!("{count:>6} {name}");
    }
    let counts = soak.counts.borrow();
    println!(
        "\ngood clients came back to a room {} times, {} of them too late to be told at once; \
         said {} messages again that had arrived; were told to wait {} times, and had lost their \
         name {} times",
        counts.resumed, counts.paged, counts.duplicates, counts.told_to_wait, counts.renamed
    );
}
