//! What it costs that nodes inform each other of their users: one room with members on three nodes.
//! The same servers without NATS show what the members themselves cost.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write, sink};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::time::interval;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::load::{ClientKind, Load, Rate};
use crate::nats::Nats;
use crate::process::{Process, cpu_time};
use crate::town_hall::{CORES, pin};

const NODES: usize = 3;
const MEMBERS_PER_NODE: usize = 3_000;
const MEMBERS: u64 = (NODES * MEMBERS_PER_NODE) as u64;

/// The room of [`Load`] and of the watchers.
const ROOM: &str = "r0";

/// How many clients join on one server before others join on the next one.
const BATCH: usize = 100;

const TIME: Duration = Duration::from_secs(10);

/// Clients that join, and as many that leave, in each second of the busy time.
const CHANGES_PER_SECOND: u32 = 50;

/// How long it may take until all nodes know the number of members.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How often a watcher asks for the number of members.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// The figures of a phase, in the order of [`COLUMNS`].
type Figures = [f64; COLUMNS.len()];

/// The columns and their numbers of decimal places. The time until all nodes agree begins when all
/// clients have joined or left. The CPU time is that of one node on average.
const COLUMNS: [(&str, usize); 9] = [
    ("seconds", 2),
    ("agreement s", 2),
    ("packets", 0),
    ("kB", 1),
    ("packets/s", 1),
    ("kB/s", 1),
    ("node CPU s", 2),
    ("node CPU %", 1),
    ("NATS CPU %", 1),
];

const WHAT_WIDTH: usize = 52;
const COLUMN_WIDTH: usize = 11;

/// Measures both.
pub(crate) fn run() {
    let names = COLUMNS.map(|(name, _)| format!("{name:>COLUMN_WIDTH$}"));
    println!("{:WHAT_WIDTH$} {}", "", names.join(" "));
    on_servers();
    on_nodes();
}

fn on_servers() {
    pin(CORES[0]);
    let servers: Vec<_> = (0..NODES).map(|_| Process::chinwag(&[])).collect();
    measure("servers without NATS", &servers, None);
}

fn on_nodes() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    pin(CORES[0]);
    let nats = Nats::start(folder.path(), 1, true);
    let url = nats.url();
    let node = |n| {
        let db = folder.path().join(format!("{n}.db"));
        Process::chinwag(&["--db", db.to_str().unwrap(), "--nats", &url])
    };
    let nodes: Vec<_> = (0..NODES).map(node).collect();
    measure("nodes of a cluster", &nodes, Some(&nats));
}

fn print_row(what: &str, figures: Figures) {
    print!("{what:WHAT_WIDTH$}");
    for ((_, places), figure) in COLUMNS.iter().zip(figures) {
        print!(" {figure:>COLUMN_WIDTH$.places$}");
    }
    println!();
}

fn measure(what: &str, servers: &[Process], nats: Option<&Nats>) {
    pin(CORES[1]);
    let packets = nats.map(|nats| Packets::count(nats.addrs()[0]));
    let watchers = servers.iter().map(|server| Watcher::start(server.addr)).collect();
    let meter = Meter { servers, nats, packets, watchers };
    // Without NATS each server knows only its own members. The watchers are members, too.
    let share = if nats.is_some() { 1 } else { NODES as u64 };
    let (none, all) = (NODES as u64 / share, (MEMBERS + NODES as u64) / share);
    meter.wait(none);
    let mut load = Load::new(ClientKind::WebSocket, 1);
    let row = |phase: &str, figures| print_row(&format!("{what}: {phase}"), figures);
    row(
        &format!("{MEMBERS} join"),
        meter.measure(all, || {
            // In turn, so that all servers are equally busy.
            for n in 0..NODES * MEMBERS_PER_NODE / BATCH {
                load.connect(servers[n % NODES].addr, BATCH);
            }
        }),
    );
    row("quiet", meter.measure(all, || load.run(Rate::Silent, TIME)));
    row(
        &format!("{CHANGES_PER_SECOND} join and leave a second"),
        meter.measure(all, || runtime().block_on(change(servers))),
    );
    row("all leave at once", meter.measure(none, || load.disconnect()));
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Lets clients join in turn on all servers, and leave a second later.
async fn change(servers: &[Process]) {
    let mut clients = VecDeque::new();
    let mut ticks = interval(Duration::from_secs(1) / CHANGES_PER_SECOND);
    for n in 0..CHANGES_PER_SECOND as usize * TIME.as_secs() as usize {
        ticks.tick().await;
        let url = format!("ws://{}/ws?room={ROOM}", servers[n % servers.len()].addr);
        clients.push_back(tokio_tungstenite::connect_async(url).await.unwrap());
        if clients.len() > CHANGES_PER_SECOND as usize {
            clients.pop_front();
        }
    }
}

/// What is measured.
struct Meter<'a> {
    servers: &'a [Process],
    nats: Option<&'a Nats>,
    packets: Option<Packets>,
    watchers: Vec<Watcher>,
}

impl Meter<'_> {
    /// Measures from the beginning of an action until all servers know the number of members.
    fn measure(&self, members: u64, act: impl FnOnce()) -> Figures {
        let sum = |times: Vec<Duration>| times.into_iter().sum::<Duration>().as_secs_f64();
        let cpu = || sum(self.servers.iter().map(Process::cpu).collect());
        let nats_cpu = || sum(self.nats.into_iter().flat_map(Nats::pids).map(cpu_time).collect());
        let packets = || self.packets.as_ref().map_or([0.0; 2], Packets::get);
        let (cpu_before, nats_before, packets_before) = (cpu(), nats_cpu(), packets());
        let began = Instant::now();
        act();
        let acted = Instant::now();
        self.wait(members);
        let (seconds, agreement) = (began.elapsed().as_secs_f64(), acted.elapsed().as_secs_f64());
        let node_cpu = (cpu() - cpu_before) / self.servers.len() as f64;
        let [count, bytes] = packets();
        let (count, kilobytes) = (count - packets_before[0], (bytes - packets_before[1]) / 1e3);
        [
            seconds,
            agreement,
            count,
            kilobytes,
            count / seconds,
            kilobytes / seconds,
            node_cpu,
            node_cpu / seconds * 100.0,
            (nats_cpu() - nats_before) / seconds * 100.0,
        ]
    }

    /// Waits until all servers know the number of members.
    fn wait(&self, members: u64) {
        let deadline = Instant::now() + TIMEOUT;
        for watcher in &self.watchers {
            watcher.asks.store(true, Relaxed);
        }
        while self.watchers.iter().any(|watcher| watcher.count.load(Relaxed) != members) {
            let counts: Vec<_> =
                self.watchers.iter().map(|watcher| watcher.count.load(Relaxed)).collect();
            assert!(Instant::now() < deadline, "the servers know {counts:?}, not {members}");
            std::thread::sleep(Duration::from_millis(10));
        }
        for watcher in &self.watchers {
            watcher.asks.store(false, Relaxed);
        }
    }
}

/// A member on one server, which knows the number of members.
struct Watcher {
    count: Arc<AtomicU64>,
    /// Whether it asks for the number all the time.
    asks: Arc<AtomicBool>,
}

impl Watcher {
    /// Starts a thread for the member.
    fn start(server: SocketAddr) -> Self {
        let watcher = Self { count: Arc::default(), asks: Arc::default() };
        let (count, asks) = (Arc::clone(&watcher.count), Arc::clone(&watcher.asks));
        let watch = async move {
            let mut request = format!("ws://{server}/ws").into_client_request().unwrap();
            request.headers_mut().insert("Sec-WebSocket-Protocol", "chinwag.v1".parse().unwrap());
            let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
            let who = format!("{{\"type\":\"who\",\"room\":\"{ROOM}\"}}");
            let lines =
                format!("{{\"type\":\"hello\"}}\n{{\"type\":\"join\",\"room\":\"{ROOM}\"}}");
            socket.send(Message::text(lines)).await.unwrap();
            let mut ticks = interval(ASK_INTERVAL);
            loop {
                tokio::select! {
                    _ = ticks.tick() => if asks.load(Relaxed) {
                        socket.send(Message::text(who.clone())).await.unwrap();
                    },
                    message = socket.next() => {
                        // The server has been stopped at the end.
                        let Some(Ok(message)) = message else { return };
                        let Message::Text(text) = message else { continue };
                        for line in text.split('\n') {
                            let line: serde_json::Value = serde_json::from_str(line).unwrap();
                            if let Some(members) = line["member_count"].as_u64() {
                                count.store(members, Relaxed);
                            }
                        }
                    }
                }
            }
        };
        std::thread::spawn(|| runtime().block_on(watch));
        watcher
    }
}

/// Counts the packets about presence, and their bytes, without what NATS adds.
struct Packets {
    counts: Arc<[AtomicU64; 2]>,
}

impl Packets {
    fn count(nats: SocketAddr) -> Self {
        let counts = Arc::<[AtomicU64; 2]>::default();
        let packets = Self { counts: Arc::clone(&counts) };
        let mut tcp = TcpStream::connect(nats).unwrap();
        tcp.write_all(b"CONNECT {\"verbose\":false}\r\nSUB chinwag.p.> 1\r\n").unwrap();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(tcp.try_clone().unwrap());
            let mut line = String::new();
            // It ends when NATS ends.
            while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
                if line.starts_with("MSG ") {
                    let length = line.rsplit(' ').next().unwrap().trim_end();
                    let length: u64 = length.parse().unwrap();
                    // With the line break at the end.
                    if std::io::copy(&mut (&mut reader).take(length + 2), &mut sink()).is_err() {
                        return;
                    }
                    counts[0].fetch_add(1, Relaxed);
                    counts[1].fetch_add(length, Relaxed);
                } else if line.starts_with("PING") && tcp.write_all(b"PONG\r\n").is_err() {
                    return;
                }
                line.clear();
            }
        });
        packets
    }

    /// Returns the number of packets and of their bytes.
    fn get(&self) -> [f64; 2] {
        [0, 1].map(|n| self.counts[n].load(Relaxed) as f64)
    }
}
