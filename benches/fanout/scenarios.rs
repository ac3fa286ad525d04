//! The scenarios of the benchmark.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::floor::Batches;
use crate::load::{ClientKind, Faults, Load, Rate};
use crate::process::Process;
use crate::table::Figures;

pub(crate) struct Scenario {
    pub(crate) name: String,
    clients: usize,
    rooms: usize,
    rate: Rate,
    time: Duration,
    flags: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Talk,
    /// One in twenty clients never reads.
    Stalled,
    /// All clients connect at the same time, are disconnected, and reconnect.
    Storm,
    /// The server stores messages in a journal.
    Journal,
    /// The server has the default limits.
    Limited,
    /// The clients negotiate compression.
    Compressed,
}

/// 20,000 open files allowed this many clients when the server needed two files per client. The
/// number is unchanged, so that results can be compared.
const ARENA_CLIENTS: usize = 9_900;

fn talk(name: &str, clients: usize, rooms: usize, rate: Rate) -> Scenario {
    let time = Duration::from_secs(5);
    let name = name.to_owned();
    Scenario { name, clients, rooms, rate, time, flags: &[], kind: Kind::Talk }
}

/// A scenario with a journal, which is compared with the same scenario without one.
fn with_journal(name: &str, clients: usize, rooms: usize, rate: Rate) -> Scenario {
    Scenario { kind: Kind::Journal, ..talk(name, clients, rooms, rate) }
}

/// A scenario with the default limits, which is compared with the same scenario without limits.
fn limited(name: &str, rate: Rate) -> Scenario {
    Scenario { kind: Kind::Limited, ..talk(name, 1_000, 1, rate) }
}

/// A scenario with compression, which is compared with the same scenario without compression.
fn compressed(name: &str, rate: Rate) -> Scenario {
    Scenario { kind: Kind::Compressed, ..talk(name, 1_000, 1, rate) }
}

/// Returns all scenarios.
pub(crate) fn all() -> Vec<Scenario> {
    vec![
        talk("light", 100, 1, Rate::PerSecond(20)),
        talk("town hall", 1_000, 1, Rate::PerSecond(400)),
        Scenario {
            flags: &["--batch-window", "0"],
            ..talk("at once", 1_000, 1, Rate::PerSecond(400))
        },
        talk("stadium", 1_000, 1, Rate::PerSecond(10_000)),
        Scenario {
            time: Duration::from_secs(60),
            ..talk("arena", ARENA_CLIENTS, 1, Rate::PerSecond(20))
        },
        talk("rooms", 1_000, 100, Rate::PerSecond(1_000)),
        talk("rooms full", 1_000, 100, Rate::ClosedLoop),
        // Long enough for two heartbeats of every client.
        Scenario { time: Duration::from_secs(50), ..talk("idle", 9_000, 100, Rate::Silent) },
        Scenario {
            time: Duration::from_secs(15),
            kind: Kind::Stalled,
            ..talk("stalled", 1_000, 1, Rate::PerSecond(400))
        },
        Scenario { kind: Kind::Storm, ..talk("storm", 5_000, 50, Rate::Silent) },
        with_journal("light kept", 100, 1, Rate::PerSecond(20)),
        with_journal("town kept", 1_000, 1, Rate::PerSecond(400)),
        with_journal("stadium kept", 1_000, 1, Rate::PerSecond(10_000)),
        with_journal("rooms kept", 1_000, 100, Rate::PerSecond(1_000)),
        limited("town limited", Rate::PerSecond(400)),
        // Every client sends at the rate limit.
        limited("stadium limited", Rate::PerSecond(10_000)),
        compressed("town deflate", Rate::PerSecond(400)),
        compressed("stadium deflate", Rate::PerSecond(10_000)),
    ]
}

/// The core of the server.
const SERVER_CORE: usize = 0;
/// The core of the clients.
const LOAD_CORE: usize = 1;

/// Whether there are two cores. It must be initialized before anything is pinned.
static HAS_TWO_CORES: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1));

/// Pins this thread, and all processes that it starts from now on, to a core.
fn pin(core: usize) {
    if *HAS_TWO_CORES {
        let mut cores = CpuSet::new();
        cores.set(core);
        sched_setaffinity(None, &cores).unwrap();
    }
}

fn start_pinned(start: impl FnOnce() -> Process) -> Process {
    pin(SERVER_CORE);
    let server = start();
    pin(LOAD_CORE);
    server
}

impl Scenario {
    /// Parses `CLIENTS,ROOMS,RATE`.
    pub(crate) fn parse(text: &str) -> Self {
        let numbers: Vec<u32> = text
            .split(',')
            .map(|number| number.parse().expect("--talk takes CLIENTS,ROOMS,RATE"))
            .collect();
        let [clients, rooms, rate] = numbers[..] else { panic!("--talk takes three numbers") };
        talk(text, clients as usize, rooms as usize, Rate::PerSecond(rate))
    }

    /// Runs the scenario once, together with what it is compared with.
    pub(crate) fn run(&self) -> Figures {
        match self.kind {
            Kind::Talk | Kind::Stalled => self.compare_floor(),
            Kind::Journal => self.compare_journal(),
            Kind::Limited => self.compare_limits(),
            Kind::Compressed => self.compare_compression(),
            Kind::Storm => self.storm(),
        }
    }

    fn compare_floor(&self) -> Figures {
        let (mut figures, batches) =
            self.run_on(|| Process::chinwag(self.flags), ClientKind::WebSocket);
        if let Some(batches) = batches {
            let ours = figures["us/delivery"];
            figures.insert("x floor", ours / self.floor(batches, Rate::Silent));
            // A floor that also receives the messages of the clients.
            if let Rate::PerSecond(_) = self.rate {
                figures.insert("x in+out", ours / self.floor(batches, self.rate));
            }
        }
        figures
    }

    fn compare_journal(&self) -> Figures {
        // Not in /tmp, which may be in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let db = folder.path().join("chinwag.db");
        let flags = ["--db", db.to_str().unwrap(), "--db-sync", "full"];
        let (figures, _) = self.run_on(|| Process::chinwag(&flags), ClientKind::WebSocket);
        self.compare_plain(figures)
    }

    fn compare_limits(&self) -> Figures {
        let (figures, _) = self.run_on(|| Process::limited(&[]), ClientKind::WebSocket);
        self.compare_plain(figures)
    }

    fn compare_compression(&self) -> Figures {
        let (mut figures, _) = self.run_on(|| Process::chinwag(&[]), ClientKind::CompressedWords);
        let (without, _) = self.run_on(|| Process::chinwag(&[]), ClientKind::Words);
        for (ratio, column) in [("x none", "us/delivery"), ("x bytes", "B/delivery")] {
            figures.insert(ratio, figures[column] / without[column]);
        }
        figures
    }

    /// Adds a comparison with a server that has neither journal nor limits.
    fn compare_plain(&self, mut figures: Figures) -> Figures {
        let (without, _) = self.run_on(|| Process::chinwag(&[]), ClientKind::WebSocket);
        figures.insert("x none", figures["us/delivery"] / without["us/delivery"]);
        figures
    }

    /// Runs the scenario on a new server. Also returns the batches that the server sent.
    fn run_on(
        &self,
        start: impl FnOnce() -> Process,
        client_kind: ClientKind,
    ) -> (Figures, Option<Batches>) {
        let server = start_pinned(start);
        Load::new(ClientKind::WebSocket, 1).connect(server.addr, 1);
        let before = server.memory();
        let mut load = Load::new(client_kind, self.rooms);
        load.connect(server.addr, self.clients);
        if self.kind == Kind::Stalled {
            load.stall(self.clients / 20);
        }
        let is_silent = matches!(self.rate, Rate::Silent);
        if !is_silent {
            load.run(self.rate, Duration::from_secs(1));
        }
        let warm = server.memory();
        let (mut figures, batches) = self.measure(&server, &mut load, self.rate, self.time);
        let faults = load.settle(Duration::from_secs(5));
        let memory = server.memory();
        figures.insert("RSS MB", memory as f64 / 1e6);
        figures.insert("kB/conn", (memory - before) as f64 / 1024.0 / self.clients as f64);
        figures.insert("grown", memory as f64 / warm as f64);
        insert_faults(&mut figures, &faults);
        (figures, batches)
    }

    /// Runs the load and measures it. Also returns the batches that the server sent.
    fn measure(
        &self,
        server: &Process,
        load: &mut Load,
        rate: Rate,
        time: Duration,
    ) -> (Figures, Option<Batches>) {
        load.reset();
        let (cpu, segments, start) = (server.cpu(), data_segments(), Instant::now());
        load.run(rate, time);
        let seconds = start.elapsed().as_secs_f64();
        let cpu = (server.cpu() - cpu).as_secs_f64();
        let counts = load.counts.clone();
        // The kernel counts what both sides send; over loopback a write is a segment.
        let writes = (data_segments() - segments).saturating_sub(counts.sent + counts.pongs) as f64;
        let mut figures = Figures::new();
        let deliveries = counts.deliveries as f64;
        figures.insert("writes/s", writes / seconds);
        figures.insert("MB/s", counts.bytes as f64 / 1e6 / seconds);
        figures.insert("core %", cpu / seconds * 100.0);
        figures.insert("load %", counts.busy.as_secs_f64() / seconds * 100.0);
        if counts.deliveries == 0 {
            return (figures, None);
        }
        figures.insert("deliveries/s", deliveries / seconds);
        figures.insert("us/delivery", cpu * 1e6 / deliveries);
        figures.insert("B/delivery", counts.bytes as f64 / deliveries);
        figures.insert("msg/frame", deliveries / counts.frames as f64);
        let latency = |quantile| counts.latency_us.value_at_quantile(quantile) as f64 / 1e3;
        figures.insert("p50 ms", latency(0.5));
        figures.insert("p99 ms", latency(0.99));
        figures.insert("max ms", counts.latency_us.max() as f64 / 1e3);
        let members = (self.clients / self.rooms) as f64;
        let batches = Batches {
            clients: self.clients,
            rooms: self.rooms,
            per_second: writes / members / seconds,
            messages: (deliveries / writes).round().max(1.0) as usize,
        };
        (figures, Some(batches))
    }

    /// Measures the CPU time of a delivery by the floor, in microseconds, while clients send at
    /// this rate.
    fn floor(&self, batches: Batches, rate: Rate) -> f64 {
        let floor = start_pinned(|| batches.start());
        let mut load = Load::new(ClientKind::Frames, self.rooms);
        load.connect(floor.addr, self.clients);
        load.run(rate, Duration::from_millis(500));
        let time = self.time.min(Duration::from_secs(5));
        let (figures, _) = self.measure(&floor, &mut load, rate, time);
        figures["us/delivery"]
    }

    fn storm(&self) -> Figures {
        let server = start_pinned(|| Process::chinwag(self.flags));
        let mut load = Load::new(ClientKind::WebSocket, self.rooms);
        let mut seconds = [0.0; 2];
        let mut memory = [0; 2];
        for round in 0..2 {
            let start = Instant::now();
            load.storm(server.addr, self.clients);
            seconds[round] = start.elapsed().as_secs_f64();
            // The server registers these clients and unregisters those of the first round.
            load.run(Rate::Silent, Duration::from_secs(1));
            memory[round] = server.memory();
            if round == 0 {
                load.disconnect();
            }
        }
        // Checks that all clients are registered: each receives the messages of its room.
        load.run(Rate::PerSecond(100), Duration::from_secs(1));
        let faults = load.settle(Duration::from_secs(5));
        let mut figures = Figures::from([
            ("first s", seconds[0]),
            ("back s", seconds[1]),
            ("RSS MB", memory[1] as f64 / 1e6),
            ("grown", memory[1] as f64 / memory[0] as f64),
        ]);
        insert_faults(&mut figures, &faults);
        figures
    }
}

fn insert_faults(figures: &mut Figures, faults: &Faults) {
    figures.insert("lost", faults.lost as f64);
    figures.insert("repeated", faults.repeated as f64);
    figures.insert("closed", faults.closed as f64);
}

/// Returns how many TCP segments with data this system has sent.
fn data_segments() -> u64 {
    let table = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut rows = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "TCPOrigDataSent").unwrap().1.parse().unwrap()
}
