//! Runs the clients and the server, prints a line each minute, and checks the results.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::Value;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout_at};

use super::good_client::GoodClient;
use super::history::StoredHistory;
use super::hostile_client;
use super::server::Server;

/// One in this many clients is hostile.
const HOSTILE_ONE_IN: u32 = 20;

/// The number of clients for each room.
const CLIENTS_PER_ROOM: u32 = 50;

/// When the server restarts, as fractions of the duration. None is shortly before the first memory
/// sample that is checked, because the buffers of new connections grow for some minutes.
const RESTARTS: [f64; 4] = [0.03, 0.06, 0.1, 0.7];

/// The limit of memory relative to that after the first third.
const GROWTH_MAX: f64 = 1.05;

/// Memory is checked only if the test takes at least this long.
const MEMORY_CHECK_MINUTES_MIN: f64 = 15.0;

/// How long it may take at the end until all commands are answered, and then as long again until
/// all messages are received.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(90);

const FAULTS_SHOWN: usize = 20;

/// The close code for a server that shuts down.
const SHUTTING_DOWN: u16 = 1001;

/// How often good clients act, and how long they stay.
pub(crate) struct Pace {
    /// The mean time between two commands of a client.
    pub(crate) command_interval: Duration,
    /// The mean time that a client stays connected.
    pub(crate) connected_time: Duration,
    pub(crate) absence_max: Duration,
    /// A client that receives nothing for this time disconnects.
    pub(crate) silence_max: Duration,
    /// Whether the servers are nodes with a shared log, which may be stopped or reject commands.
    pub(crate) in_cluster: bool,
}

const PACE: Pace = Pace {
    command_interval: Duration::from_secs(4),
    connected_time: Duration::from_secs(120),
    absence_max: Duration::from_secs(10),
    // Longer than the test.
    silence_max: Duration::from_secs(1_000_000),
    in_cluster: false,
};

/// The state that all clients share.
pub(crate) struct Soak {
    addrs: Vec<SocketAddr>,
    pub(crate) pace: Pace,
    /// The number of good clients.
    pub(crate) good: u32,
    pub(crate) rooms: u32,
    over: Cell<bool>,
    counts: RefCell<Counts>,
    attacks: RefCell<BTreeMap<&'static str, u64>>,
    faults: RefCell<Vec<String>>,
}

pub(crate) struct Counts {
    /// How often the server closed the connection of a good client, by close code if there was one.
    closed: BTreeMap<Option<u16>, u64>,
    /// The number of good clients that are connected now.
    pub(crate) connected: u64,
    pub(crate) connections: u64,
    pub(crate) resumed: u64,
    pub(crate) paged: u64,
    pub(crate) deliveries: u64,
    pub(crate) answers: u64,
    /// The number of commands without an answer now.
    pub(crate) unanswered: u64,
    /// The number of acknowledged commands of each kind.
    acknowledged: BTreeMap<String, u64>,
    /// Reactions that were rejected because the message was deleted.
    pub(crate) reactions_rejected: u64,
    /// Commands that were sent again after a disconnect and had been committed before.
    pub(crate) duplicates: u64,
    pub(crate) rate_limited: u64,
    pub(crate) renamed: u64,
    /// Connections to another node than the one before.
    pub(crate) hops: u64,
    /// Resumes on a node that had applied less of the log than the client had received.
    pub(crate) behind: u64,
    /// Commands that were sent again.
    pub(crate) repeated: u64,
    /// Rejections because the log cannot take commands.
    pub(crate) busy: u64,
    /// The longest time from first sending a message to its acknowledgement, and its id.
    pub(crate) longest_wait: (Duration, String),
    latency_us: Histogram<u64>,
}

impl Counts {
    /// Notes the time from first sending a command to its acknowledgement.
    pub(crate) fn waited(&mut self, command: &Value, wait: Duration) {
        if command["type"] == "say" && wait > self.longest_wait.0 {
            self.longest_wait = (wait, command["id"].as_str().unwrap().to_owned());
        }
    }

    /// Returns the number of acknowledged commands.
    pub(crate) fn acknowledged_count(&self) -> u64 {
        self.acknowledged.values().sum()
    }

    /// Returns a quantile of the times to the answers to commands that were sent once.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1e3
    }

    pub(crate) fn acknowledged(&mut self, command: &Value) {
        let kind = if command["reply_to"].is_null() { &command["type"] } else { &"reply".into() };
        *self.acknowledged.entry(kind.as_str().unwrap().to_owned()).or_default() += 1;
    }

    /// Counts the answer to a command that was sent only once.
    pub(crate) fn answered(&mut self, latency: Duration) {
        self.answers += 1;
        self.latency_us.saturating_record(latency.as_micros() as u64);
    }

    /// Returns the numbers of acknowledged commands by kind, as words.
    pub(crate) fn acknowledged_kinds(&self) -> String {
        let kinds = self.acknowledged.iter().map(|(kind, count)| format!("{count} {kind}"));
        kinds.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn closed(&mut self, code: Option<u16>) {
        *self.closed.entry(code).or_default() += 1;
    }
}

impl Soak {
    pub(crate) fn new(addrs: Vec<SocketAddr>, pace: Pace, good: u32, rooms: u32) -> Self {
        let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        let counts = Counts {
            closed: BTreeMap::new(),
            connected: 0,
            connections: 0,
            resumed: 0,
            paged: 0,
            deliveries: 0,
            answers: 0,
            unanswered: 0,
            acknowledged: BTreeMap::new(),
            reactions_rejected: 0,
            duplicates: 0,
            rate_limited: 0,
            renamed: 0,
            hops: 0,
            behind: 0,
            repeated: 0,
            busy: 0,
            longest_wait: (Duration::ZERO, String::new()),
            latency_us,
        };
        Self {
            addrs,
            pace,
            good,
            rooms,
            over: Cell::new(false),
            counts: RefCell::new(counts),
            attacks: RefCell::default(),
            faults: RefCell::default(),
        }
    }

    /// Returns the address of a random server.
    pub(crate) fn addr(&self) -> SocketAddr {
        *fastrand::choice(&self.addrs).unwrap()
    }

    /// Returns the address of another server than this one, if there are several.
    pub(crate) fn other_addr(&self, last: Option<SocketAddr>) -> SocketAddr {
        let others = self.addrs.iter().filter(|addr| Some(**addr) != last);
        fastrand::choice(others.collect::<Vec<_>>()).copied().unwrap_or_else(|| self.addr())
    }

    /// Returns the number of faults so far.
    pub(crate) fn fault_count(&self) -> usize {
        self.faults.borrow().len()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Returns the name of a random good client.
    pub(crate) fn random_nick(&self) -> String {
        format!("good-{}", fastrand::u32(0..self.good))
    }

    /// Returns the name of a random room of good clients.
    pub(crate) fn random_room(&self) -> String {
        format!("room-{}", fastrand::u32(0..self.rooms))
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.borrow_mut());
    }

    pub(crate) fn count_attack(&self, name: &'static str) {
        *self.attacks.borrow_mut().entry(name).or_default() += 1;
    }

    /// Records a failure of the test.
    pub(crate) fn fault(&self, what: String) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < FAULTS_SHOWN {
            println!("FAULT {what}");
        }
        faults.push(what);
    }

    /// Prints a line with the counts so far.
    fn print_row(&self, minute: f64, server: &Server) {
        let counts = self.counts.borrow();
        println!(
            "{minute:>6.1} {:>9} {:>9} {:>11} {:>7} {:>7} {:>6} {:>7} {:>8.1} {:>8.1} {:>7.1} \
             {:>6} {:>6.1}",
            counts.connected,
            counts.answers,
            counts.deliveries,
            counts.connections,
            counts.resumed,
            counts.paged,
            self.attacks.borrow().values().sum::<u64>(),
            counts.latency_ms(0.5),
            counts.latency_ms(0.99),
            server.memory() as f64 / 1e6,
            server.descriptors(),
            server.cpu().as_secs_f64(),
        );
    }
}

const HEADING: &str = "minute connected  answered  deliveries   conns resumed  paged attacks   \
                       p50 ms   p99 ms  RSS MB   fds  cpu s";

/// The server's memory at a time, which is a fraction of the duration of the test.
struct MemorySample {
    at: f64,
    bytes: u64,
}

/// Runs the whole test.
pub(crate) async fn run(minutes: f64, clients: u32) -> ExitCode {
    let mut server = Server::start().await;
    let hostile = clients / HOSTILE_ONE_IN;
    let good = clients - hostile;
    let rooms = clients.div_ceil(CLIENTS_PER_ROOM);
    let soak = Rc::new(Soak::new(vec![server.addr], PACE, good, rooms));
    println!("{minutes} minutes, {good} good clients, {hostile} hostile\n\n{HEADING}");
    let good: Vec<_> =
        (0..good).map(|n| spawn_local(GoodClient::new(n, Rc::clone(&soak)).run())).collect();
    let hostile: Vec<_> =
        (0..hostile).map(|n| spawn_local(hostile_client::run(n, Rc::clone(&soak)))).collect();
    let memory = run_server(minutes, &mut server, &soak).await;
    let good = settle(&soak, good, hostile).await;
    soak.print_row(minutes, &server);
    let metrics = server.metrics().await;
    server.down().await;
    check_messages(&soak, &good, &StoredHistory::parse(&server.export()));
    check_memory(&soak, &memory, minutes);
    check_log(&soak, &server.log());
    check_closed(&soak);
    print_counts(&soak, &metrics);
    let faults = soak.fault_count();
    println!(
        "\n{}; acknowledged: {}",
        if faults == 0 { "no fault".into() } else { format!("{faults} faults") },
        soak.counts.borrow().acknowledged_kinds(),
    );
    if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Restarts the server from time to time, prints a row each minute and samples the memory.
async fn run_server(minutes: f64, server: &mut Server, soak: &Soak) -> Vec<MemorySample> {
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
        memory.push(MemorySample { at, bytes: server.memory() });
        let now = (at * minutes).floor();
        if now > minute {
            minute = now;
            soak.print_row(minute, server);
        }
        if restarts.next_if(|&due| due <= at).is_some() {
            server.down().await;
            server.up().await;
        }
    }
}

/// Stops the hostile clients and waits until the good clients have finished: all their commands are
/// answered, and they have received the farewell, the last entry of each room.
pub(crate) async fn settle(
    soak: &Rc<Soak>,
    good: Vec<JoinHandle<GoodClient>>,
    hostile: Vec<JoinHandle<()>>,
) -> Vec<GoodClient> {
    soak.over.set(true);
    for client in hostile {
        client.await.unwrap();
    }
    // No change may follow the farewell, because clients leave when they have received it.
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    while soak.counts.borrow().unanswered > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(100)).await;
    }
    let farewells = spawn_local(GoodClient::send_farewells(soak.good, Rc::clone(soak)));
    let deadline = tokio::time::Instant::now() + SETTLE_TIMEOUT;
    let mut settled = Vec::new();
    for client in good {
        match timeout_at(deadline, client).await {
            Ok(client) => settled.push(client.unwrap()),
            Err(_) => soak.fault("a good client does not finish".into()),
        }
    }
    match timeout_at(deadline, farewells).await {
        Ok(farewells) => farewells.unwrap(),
        Err(_) => soak.fault("a farewell is not answered".into()),
    }
    settled
}

/// Compares what good clients have sent and received with the journal.
pub(crate) fn check_messages(soak: &Soak, good: &[GoodClient], stored: &StoredHistory) {
    let mut ids = stored.good_ids();
    let (mut sent, mut received, mut states) = (0, 0, 0);
    for client in good {
        for number in 0..client.sent {
            sent += 1;
            match ids.remove(format!("{}-{number}", client.number).as_str()) {
                Some(1) => {}
                count => {
                    soak.fault(format!("{}-{number} is stored {count:?} times", client.number))
                }
            }
        }
        for (room, id, seq) in &client.said {
            if !stored.has(room, *seq, id) {
                soak.fault(format!("{id} was acknowledged as {seq} in {room}"));
            }
        }
        for (room, state) in &client.rooms {
            for range in &state.earlier {
                match stored.check_range(room, range) {
                    Ok(count) => received += count,
                    Err(error) => soak.fault(format!("{} in {room}: {error}", client.number)),
                }
            }
            let Some(range) = &state.received else {
                soak.fault(format!("{} was never in {room}", client.number));
                continue;
            };
            match stored.check_range(room, range) {
                Ok(count) => received += count,
                Err(error) => soak.fault(format!("{} in {room}: {error}", client.number)),
            }
            match stored.check_state(room, state) {
                Ok(count) => states += count,
                Err(error) => soak.fault(format!("{} in {room}: {error}", client.number)),
            }
        }
    }
    if !ids.is_empty() {
        soak.fault(format!("{} unknown messages are stored", ids.len()));
    }
    println!(
        "\n{sent} messages of good clients, each stored once among {}",
        stored.message_count()
    );
    println!(
        "{received} messages received by good clients, in each room without a gap and in order"
    );
    println!(
        "{states} times a good client knew the state of a message in the end, as it is stored"
    );
    if stored.largest_room() >= 100_000 {
        soak.fault("a room has more messages than keep_messages".into());
    }
}

fn check_memory(soak: &Soak, memory: &[MemorySample], minutes: f64) {
    let third = 1.0 / 3.0;
    let window = third + 1.0 / 30.0;
    let max = |from: f64, to: f64| {
        let within = memory.iter().filter(|sample| (from..to).contains(&sample.at));
        within.map(|sample| sample.bytes).max().unwrap_or(0) as f64
    };
    let (baseline, after) = (max(third, window), max(window, 1.0));
    println!(
        "memory: {:.1} MB at most from minute {:.1} to {:.1}, {:.1} MB at most after that: {:.3} \
         of it, {GROWTH_MAX} allowed",
        baseline / 1e6,
        third * minutes,
        window * minutes,
        after / 1e6,
        after / baseline,
    );
    if minutes < MEMORY_CHECK_MINUTES_MIN {
        println!(
            "memory is not checked: the test took less than {MEMORY_CHECK_MINUTES_MIN} minutes"
        );
    } else if after > GROWTH_MAX * baseline {
        soak.fault("memory has grown".into());
    }
}

fn check_log(soak: &Soak, log: &str) {
    let mut lines: BTreeMap<&str, u64> = BTreeMap::new();
    for line in log.lines().filter(|line| !line.contains(" INFO ")) {
        let words = line.split_once("] ").map_or(line, |(_, words)| words);
        *lines.entry(words).or_default() += 1;
    }
    if log.contains("panicked") {
        soak.fault("the server has panicked".into());
    }
    println!("\nwarnings and errors in the log:");
    for (line, count) in lines {
        println!("{count:>6} {line}");
    }
}

/// Checks that the server has closed connections of good clients only for restarts.
pub(crate) fn check_closed(soak: &Soak) {
    println!("\nconnections of good clients that the server closed, by close code:");
    let closed = std::mem::take(&mut soak.counts.borrow_mut().closed);
    for (code, count) in closed {
        match code {
            Some(SHUTTING_DOWN) => println!("{count:>6} {SHUTTING_DOWN}"),
            // A restart does not wait for slow clients or for pending handshakes.
            None => println!("{count:>6} without a close code"),
            Some(code) => soak.fault(format!("{count} good clients were closed with {code}")),
        }
    }
}

fn print_counts(soak: &Soak, metrics: &[(String, f64)]) {
    println!("\nlimits reached, errors sent and connections closed since the last restart:");
    let kinds = ["chinwag_limit_hits_total", "chinwag_errors_total", "chinwag_disconnects_total"];
    for (name, value) in metrics {
        if *value > 0.0 && kinds.iter().any(|kind| name.starts_with(kind)) {
            println!("{value:>9} {name}");
        }
        if name.contains("panicked") && *value > 0.0 {
            soak.fault("a session has panicked".into());
        }
    }
    println!("\nattacks:");
    for (name, count) in soak.attacks.borrow().iter() {
        println!("{count:>6} {name}");
    }
    let counts = soak.counts.borrow();
    println!(
        "\ngood clients resumed in a room {} times, {} of them by reading history page by page; \
         sent {} commands again that had been committed; were rate-limited {} times; \
         reacted {} times to a message that was deleted at the same time; and had to change their \
         name {} times",
        counts.resumed,
        counts.paged,
        counts.duplicates,
        counts.rate_limited,
        counts.reactions_rejected,
        counts.renamed
    );
}
