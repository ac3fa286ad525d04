//! The soak test of a cluster: good clients and a crowd move between several nodes, which share a
//! log in NATS JetStream, while nodes and NATS servers are killed and stopped and their connections
//! are cut.

mod check;
mod clock;
mod crowd;
mod faults;
mod prober;
mod proxy;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::good_client::GoodClient;
use crate::history::StoredHistory;
use crate::nats::Nats;
use crate::run::{Pace, Soak, check_closed, check_messages, settle};
use crate::server::Server;
use clock::Clock;
use crowd::Crowd;
use faults::Faults;
use prober::Probes;
use proxy::Proxies;

/// What the command line says about the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) nodes: usize,
    /// The number of NATS servers, all of which store the log.
    pub(crate) replicas: usize,
    pub(crate) faults: bool,
    pub(crate) seed: u64,
}

const PACE: Pace = Pace {
    command_interval: Duration::from_secs(2),
    connected_time: Duration::from_secs(5),
    absence_max: Duration::from_secs(2),
    silence_max: Duration::from_secs(3),
    in_cluster: true,
};

/// The number of clients for each room.
const CLIENTS_PER_ROOM: u32 = 40;

/// How long a node may take until it listens. It waits for NATS for about 10 seconds.
const START_TIMEOUT: Duration = Duration::from_secs(40);

/// The time with faults between two comparisons of what nodes know of members.
const ROUND: Duration = Duration::from_secs(150);

/// What the tasks of the test share besides [`Soak`].
struct Shared {
    soak: Rc<Soak>,
    probes: Arc<Probes>,
    began: Instant,
    end: Instant,
    /// The number of faults that were injected, by kind.
    injected: RefCell<BTreeMap<&'static str, u64>>,
    /// The longest time from starting a node until it listened.
    longest_start: RefCell<Duration>,
}

/// Runs the whole test.
pub(crate) async fn run(minutes: f64, clients: u32, options: &Options) -> ExitCode {
    fastrand::seed(options.seed);
    let repeat = repeat_command(minutes, clients, options);
    println!("{repeat}\n");
    // Not in /tmp, which may be in memory.
    let mut folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // A stream on one server is safe only with `always`.
    let nats = Nats::start(folder.path(), options.replicas, options.replicas == 1);
    let proxies = Proxies::start(options.nodes, &nats.addrs());
    let mut nodes = new_nodes(&proxies, options);
    let clock = options.faults.then(|| Clock::of(&mut nodes[0]));
    for node in &mut nodes {
        let up = node.try_up(START_TIMEOUT).await;
        up.unwrap_or_else(|error| panic!("{error}:\n{}", node.log()));
    }
    let rooms = clients.div_ceil(CLIENTS_PER_ROOM);
    let addrs: Vec<_> = nodes.iter().map(|node| node.addr).collect();
    let probes = Probes::start(&addrs);
    let soak = Rc::new(Soak::new(addrs.clone(), PACE, clients, rooms));
    let began = Instant::now();
    let shared = Rc::new(Shared {
        soak: Rc::clone(&soak),
        probes,
        began,
        end: began + Duration::from_secs_f64(minutes * 60.0),
        injected: RefCell::default(),
        longest_start: RefCell::default(),
    });
    let good: Vec<_> =
        (0..clients).map(|n| spawn_local(GoodClient::new(n, Rc::clone(&soak)).run())).collect();
    let rows = spawn_local(print_rows(Rc::clone(&shared)));
    let crowd = Crowd::start(&soak);
    let mut faults = Faults::new(nodes, nats, proxies, clock, options.seed);
    while Instant::now() < shared.end {
        let until = shared.end.min(Instant::now() + ROUND);
        if options.faults {
            faults.round(until, &shared).await;
        } else {
            sleep(until - Instant::now()).await;
        }
        check::all_ready(&soak, &faults.nodes).await;
        crowd.check(shared.minute(), &addrs).await;
    }
    let Faults { mut nodes, nats, proxies, clock, .. } = faults;
    clock.inspect(|clock| clock.set(0));
    rows.abort();
    crowd.stop().await;
    let good = settle(&soak, good, Vec::new()).await;
    shared.print_row();
    let memory: Vec<_> =
        nodes.iter().map(|node| format!("{:.1}", node.memory() as f64 / 1e6)).collect();
    shared.probes.stop();
    check::equal_chains(&soak, &nodes).await;
    check::metrics(&soak, &nodes).await;
    for node in &mut nodes {
        node.down().await;
    }
    drop((nats, proxies));
    let exports: Vec<_> = nodes.iter().map(Server::export).collect();
    for (n, export) in exports.iter().enumerate().skip(1) {
        if *export != exports[0] {
            soak.fault(format!("the exports of the nodes 0 and {n} differ"));
        }
    }
    check_messages(&soak, &good, &StoredHistory::parse(&exports[0]));
    check::logs(&soak, &nodes);
    check_closed(&soak);
    shared.print_results();
    crowd.print_results();
    println!("memory of the nodes at the end: {} MB", memory.join(", "));
    let faults = soak.fault_count();
    if faults == 0 {
        println!("\nno fault");
        return ExitCode::SUCCESS;
    }
    folder.disable_cleanup(true);
    let mut folders = vec![folder.path().display().to_string()];
    folders.extend(nodes.iter_mut().map(|node| node.keep_files().display().to_string()));
    println!("\n{faults} faults. The files are in\n{}", folders.join("\n"));
    println!("Repeat it with: {repeat}");
    ExitCode::FAILURE
}

/// Returns the command that runs the same test again. The times at which clients and faults act are
/// the same, but what happens between them is not.
fn repeat_command(minutes: f64, clients: u32, options: &Options) -> String {
    let Options { nodes, replicas, faults, seed } = options;
    let faults = if *faults { " --faults" } else { "" };
    format!(
        "scripts/soak {minutes} {clients} --nodes {nodes} --replicas {replicas}{faults} \
         --seed {seed}"
    )
}

/// Returns nodes that do not run yet.
fn new_nodes(proxies: &Proxies, options: &Options) -> Vec<Server> {
    let replicas = options.replicas.to_string();
    let node = |n: usize| {
        let name = format!("n{n}");
        // NATS reserves the space of the stream.
        let log = ["--nats-log-bytes", "1073741824", "--nats-replicas", &replicas];
        Server::new(&[&["--nats", proxies.url(n), "--node-name", &name], &log[..]].concat())
    };
    (0..options.nodes).map(node).collect()
}

async fn print_rows(shared: Rc<Shared>) {
    println!(
        "minute connected     said deliveries    hops resumed  paged behind repeated   busy   \
         p50 ms   p99 ms say max s read max s faults"
    );
    loop {
        sleep(Duration::from_secs(60)).await;
        shared.print_row();
    }
}

impl Shared {
    /// Returns the minutes since the test began.
    fn minute(&self) -> f64 {
        self.began.elapsed().as_secs_f64() / 60.0
    }

    fn count(&self, kind: &'static str) {
        *self.injected.borrow_mut().entry(kind).or_default() += 1;
    }

    fn print_row(&self) {
        self.soak.count(|counts| {
            println!(
                "{:>6.1} {:>9} {:>8} {:>10} {:>7} {:>7} {:>6} {:>6} {:>8} {:>6} {:>8.1} {:>8.1} \
                 {:>9.1} {:>10.2} {:>6}",
                self.minute(),
                counts.connected,
                counts.acknowledged_count(),
                counts.deliveries,
                counts.hops,
                counts.resumed,
                counts.paged,
                counts.behind,
                counts.repeated,
                counts.busy,
                counts.latency_ms(0.5),
                counts.latency_ms(0.99),
                counts.longest_wait.0.as_secs_f64(),
                self.probes.longest().0.as_secs_f64(),
                self.injected.borrow().values().sum::<u64>(),
            );
        });
    }

    fn print_results(&self) {
        self.soak.count(|counts| {
            let (wait, id) = &counts.longest_wait;
            println!("\nacknowledged: {}", counts.acknowledged_kinds());
            println!("longest wait from first sending a message until `said`: {wait:.1?} ({id})");
            println!(
                "commands sent again: {}, of which the log had {} already; answers `busy`: {}",
                counts.repeated, counts.duplicates, counts.busy
            );
            println!(
                "connections to another node: {}; resumes: {}, of which {} read history page by \
                 page, and {} more on a node that was behind",
                counts.hops, counts.resumed, counts.paged, counts.behind
            );
        });
        let (longest, node, at) = self.probes.longest();
        let minute = at.duration_since(self.began).as_secs_f64() / 60.0;
        println!(
            "history was read {} times; longest time without an answer from a node that runs: \
             {longest:.2?} (node {node}, minute {minute:.2})",
            self.probes.answers()
        );
        let (removals, (stay, node, other), ghosts) = self.probes.stays();
        println!(
            "nodes removed the users of another node that was away {removals} times; the last \
             ones {stay:.2?} after its last sign of life (those of node {other} on node {node})"
        );
        ghosts.into_iter().for_each(|ghost| self.soak.fault(ghost));
        println!("longest start of a node: {:.1?}", self.longest_start.borrow());
        println!("faults injected:");
        for (kind, count) in self.injected.borrow().iter() {
            println!("{count:>6} {kind}");
        }
    }
}
