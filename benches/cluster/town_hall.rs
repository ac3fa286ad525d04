//! One room whose members are on three nodes, and the same room on one server without NATS: the CPU
//! time of a delivery, and how many frames a member receives (a write has at least one). It is the
//! scenario *town hall* of `benches/fanout` with three times the members.

use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::load::{ClientKind, Faults, Load, Rate};
use crate::nats::Nats;
use crate::process::{Process, cpu_time};

const MEMBERS: usize = 3_000;
const NODES: usize = 3;
const RATE: Rate = Rate::PerSecond(400);
const RUNS: usize = 5;
const WARM_UP: Duration = Duration::from_secs(1);
const TIME: Duration = Duration::from_secs(5);

/// The core of the servers and the core of the clients.
pub(crate) const CORES: [usize; 2] = [0, 1];

/// The figures of a run, in the order of [`COLUMNS`].
type Figures = [f64; COLUMNS.len()];

/// The columns and their numbers of decimal places.
const COLUMNS: [(&str, usize); 9] = [
    ("deliveries/s", 0),
    ("us/delivery", 3),
    ("us/frame", 1),
    ("frames/s/member", 1),
    ("msg/frame", 1),
    ("p50 ms", 1),
    ("p99 ms", 1),
    ("chinwag %", 1),
    ("NATS %", 1),
];

/// Measures both, in turn.
pub(crate) fn run() {
    let (mut single, mut cluster) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        single.push(on_one_server());
        cluster.push(on_nodes());
    }
    let names = COLUMNS.map(|(name, _)| format!("{name:>12}"));
    println!("{:24} {}", "", names.join(" "));
    print_row("one server without NATS", median(&single));
    print_row("3 nodes, 1 NATS server", median(&cluster));
}

fn on_one_server() -> Figures {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let db = folder.path().join("single.db");
    pin(CORES[0]);
    let server = Process::chinwag(&["--db", db.to_str().unwrap()]);
    measure(&[server], || Duration::ZERO)
}

fn on_nodes() -> Figures {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    pin(CORES[0]);
    let nats = Nats::start(folder.path(), 1, true);
    let url = nats.url();
    let node = |n| {
        let db = folder.path().join(format!("{n}.db"));
        Process::chinwag(&["--db", db.to_str().unwrap(), "--nats", &url])
    };
    let nodes: Vec<_> = (0..NODES).map(node).collect();
    measure(&nodes, || nats.pids().map(cpu_time).sum())
}

/// Spreads the members over the servers, and measures while they send.
fn measure(servers: &[Process], nats_cpu: impl Fn() -> Duration) -> Figures {
    pin(CORES[1]);
    let mut load = Load::new(ClientKind::WebSocket, 1);
    // The members send in turn, so each message comes from another server than the one before.
    for n in 0..MEMBERS {
        load.connect(servers[n % servers.len()].addr, 1);
    }
    load.run(RATE, WARM_UP);
    let cpu = || servers.iter().map(Process::cpu).sum::<Duration>();
    load.reset();
    let (cpu_before, nats_before, began) = (cpu(), nats_cpu(), Instant::now());
    load.run(RATE, TIME);
    let seconds = began.elapsed().as_secs_f64();
    let used = (cpu() - cpu_before).as_secs_f64();
    let nats_used = (nats_cpu() - nats_before).as_secs_f64();
    let counts = load.counts.clone();
    assert_eq!(load.settle(Duration::from_secs(10)), Faults::default(), "nothing is lost");
    let (deliveries, frames) = (counts.deliveries as f64, counts.frames as f64);
    let latency = |quantile| counts.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    [
        deliveries / seconds,
        used * 1e6 / deliveries,
        used * 1e6 / frames,
        frames / seconds / MEMBERS as f64,
        deliveries / frames,
        latency(0.5),
        latency(0.99),
        used / seconds * 100.0,
        nats_used / seconds * 100.0,
    ]
}

/// Pins this thread, and all processes that it starts from now on, to a core.
pub(crate) fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    // A machine with one core has no other one.
    let _ = sched_setaffinity(None, &cores);
}

/// Returns the median of each column.
fn median(runs: &[Figures]) -> Figures {
    std::array::from_fn(|column| {
        let mut values: Vec<_> = runs.iter().map(|run| run[column]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    })
}

fn print_row(what: &str, figures: Figures) {
    print!("{what:24}");
    for ((name, places), figure) in COLUMNS.iter().zip(figures) {
        print!(" {figure:>width$.places$}", width = name.len().max(12));
    }
    println!();
}
