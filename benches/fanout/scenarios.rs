//! What is measured.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::floor::Batches;
use crate::load::{Faults, Load, Rate, Speaks};
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
    /// All connect at once, are cut, and come back.
    Storm,
    /// Every message is on disk before it is sent.
    Kept,
    /// All limits are as they are by default.
    Limited,
    /// The clients take compressed messages.
    Compressed,
}

/// As many as 20,000 open files allowed when the server needed two for each: so that figures can be
/// compared.
const ARENA_CLIENTS: usize = 9_900;

fn talk(name: &str, clients: usize, rooms: usize, rate: Rate) -> Scenario {
    let time = Duration::from_secs(5);
    let name = name.to_owned();
    Scenario { name, clients, rooms, rate, time, flags: &[], kind: Kind::Talk }
}

/// The same with a journal, compared with how it is without.
fn kept(name: &str, clients: usize, rate: Rate) -> Scenario {
    Scenario { kind: Kind::Kept, ..talk(name, clients, 1, rate) }
}

/// The same with all limits, compared with how it is without.
fn limited(name: &str, rate: Rate) -> Scenario {
    Scenario { kind: Kind::Limited, ..talk(name, 1_000, 1, rate) }
}

/// The same with words, compressed, compared with how it is when clients do not offer that.
fn compressed(name: &str, rate: Rate) -> Scenario {
    Scenario { kind: Kind::Compressed, ..talk(name, 1_000, 1, rate) }
}

/// All that have a name.
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
        // Two heartbeats of every client.
        Scenario { time: Duration::from_secs(50), ..talk("idle", 9_000, 100, Rate::Silent) },
        Scenario {
            time: Duration::from_secs(15),
            kind: Kind::Stalled,
            ..talk("stalled", 1_000, 1, Rate::PerSecond(400))
        },
        Scenario { kind: Kind::Storm, ..talk("storm", 5_000, 50, Rate::Silent) },
        kept("light kept", 100, Rate::PerSecond(20)),
        kept("town kept", 1_000, Rate::PerSecond(400)),
        kept("stadium kept", 1_000, Rate::PerSecond(10_000)),
        limited("town limited", Rate::PerSecond(400)),
        // Everybody says as much as is allowed.
        limited("stadium limited", Rate::PerSecond(10_000)),
        compressed("town deflate", Rate::PerSecond(400)),
        compressed("stadium deflate", Rate::PerSecond(10_000)),
    ]
}

/// The server's core, and that of the clients.
const SERVER_CORE: usize = 0;
const LOAD_CORE: usize = 1;

/// Whether there is a core for each. Asked before anything is pinned.
static CORES_SUFFICE: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1));

/// Runs on one core from here on, with all processes started from here on.
fn pin(core: usize) {
    if *CORES_SUFFICE {
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
    /// `CLIENTS,ROOMS,RATE`.
    pub(crate) fn parse(text: &str) -> Self {
        let numbers: Vec<u32> = text
            .split(',')
            .map(|number| number.parse().expect("--talk takes CLIENTS,ROOMS,RATE"))
            .collect();
        let [clients, rooms, rate] = numbers[..] else { panic!("--talk takes three numbers") };
        talk(text, clients as usize, rooms as usize, Rate::PerSecond(rate))
    }

    /// Runs once, with what it is compared with.
    pub(crate) fn run(&self) -> Figures {
        match self.kind {
            Kind::Talk | Kind::Stalled => self.beside_its_floor(),
            Kind::Kept => self.beside_no_journal(),
            Kind::Limited => self.beside_no_limits(),
            Kind::Compressed => self.beside_no_compression(),
            Kind::Storm => self.storm(),
        }
    }

    fn beside_its_floor(&self) -> Figures {
        let (mut figures, batches) = self.talk(|| Process::chinwag(self.flags), Speaks::WebSocket);
        if let Some(batches) = batches {
            let ours = figures["us/delivery"];
            figures.insert("x floor", ours / self.floor(batches, Rate::Silent));
            // The same, with a floor that is also told what the clients say.
            if let Rate::PerSecond(_) = self.rate {
                figures.insert("x in+out", ours / self.floor(batches, self.rate));
            }
        }
        figures
    }

    fn beside_no_journal(&self) -> Figures {
        // Not in /tmp, which may be in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let db = folder.path().join("chinwag.db");
        let flags = ["--db", db.to_str().unwrap(), "--db-sync", "full"];
        let (figures, _) = self.talk(|| Process::chinwag(&flags), Speaks::WebSocket);
        self.beside(figures)
    }

    fn beside_no_limits(&self) -> Figures {
        let (figures, _) = self.talk(|| Process::limited(&[]), Speaks::WebSocket);
        self.beside(figures)
    }

    fn beside_no_compression(&self) -> Figures {
        let (mut figures, _) = self.talk(|| Process::chinwag(&[]), Speaks::CompressedWords);
        let (without, _) = self.talk(|| Process::chinwag(&[]), Speaks::Words);
        for (ratio, column) in [("x none", "us/delivery"), ("x bytes", "B/delivery")] {
            figures.insert(ratio, figures[column] / without[column]);
        }
        figures
    }

    /// Adds how it compares with a server that has neither journal nor limits.
    fn beside(&self, mut figures: Figures) -> Figures {
        let (without, _) = self.talk(|| Process::chinwag(&[]), Speaks::WebSocket);
        figures.insert("x none", figures["us/delivery"] / without["us/delivery"]);
        figures
    }

    /// Lets them talk to a server of their own; tells also what batches went out.
    fn talk(&self, start: impl FnOnce() -> Process, speaks: Speaks) -> (Figures, Option<Batches>) {
        let server = start_pinned(start);
        Load::new(Speaks::WebSocket, 1).connect(server.addr, 1);
        let before = server.memory();
        let mut load = Load::new(speaks, self.rooms);
        load.connect(server.addr, self.clients);
        if self.kind == Kind::Stalled {
            load.stall(self.clients / 20);
        }
        let quiet = matches!(self.rate, Rate::Silent);
        if !quiet {
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

    /// Lets them talk, and counts; tells also what batches went out.
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

    /// The CPU time that the floor needs for a delivery, in microseconds, while it is told so much.
    fn floor(&self, batches: Batches, rate: Rate) -> f64 {
        let floor = start_pinned(|| batches.start());
        let mut load = Load::new(Speaks::Frames, self.rooms);
        load.connect(floor.addr, self.clients);
        load.run(rate, Duration::from_millis(500));
        let time = self.time.min(Duration::from_secs(5));
        let (figures, _) = self.measure(&floor, &mut load, rate, time);
        figures["us/delivery"]
    }

    fn storm(&self) -> Figures {
        let server = start_pinned(|| Process::chinwag(self.flags));
        let mut load = Load::new(Speaks::WebSocket, self.rooms);
        let mut seconds = [0.0; 2];
        let mut memory = [0; 2];
        for round in 0..2 {
            let start = Instant::now();
            load.storm(server.addr, self.clients);
            seconds[round] = start.elapsed().as_secs_f64();
            // They are all heard of and counted in, and those before are counted out.
            load.run(Rate::Silent, Duration::from_secs(1));
            memory[round] = server.memory();
            if round == 0 {
                load.cut();
            }
        }
        // Proof that they are in: everybody in a room reads what one of them says.
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

/// The segments with data that this system has sent so far, to itself or others.
fn data_segments() -> u64 {
    let table = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut rows = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "TCPOrigDataSent").unwrap().1.parse().unwrap()
}
