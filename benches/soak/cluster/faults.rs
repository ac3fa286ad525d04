//! Kills and stops nodes and NATS servers, cuts connections between them, and moves the clock of a
//! node. The seed determines what, in which order and for how long. Faults of different kinds
//! overlap.

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::clock::{Clock, clean_up_after};
use super::proxy::Proxies;
use super::{START_TIMEOUT, Shared};
use crate::nats::Nats;
use crate::server::Server;

/// How long a fault of a node lasts, in milliseconds. Often it is longer than other nodes remember
/// its users.
const NODE_FAULT_MS: Range<u64> = 500..12_000;

/// How long a fault of NATS lasts, in milliseconds. The majority of the servers is never away for
/// more than 10 seconds.
const NATS_FAULT_MS: Range<u64> = 500..8_000;

/// The pause between two faults, in milliseconds.
const PAUSE_MS: Range<u64> = 0..3_000;

/// The pause between two faults of connections, or between two changes of the clock.
const LONG_PAUSE_MS: Range<u64> = 1_000..15_000;

/// One in this many faults of three NATS servers affects two of them.
const MAJORITY_ONE_IN: u32 = 5;

/// One in this many rounds is without faults of NATS, so that only the nodes determine how long the
/// users of a node that is away stay.
const QUIET_NATS_ONE_IN: u32 = 3;

/// What is added to the time of day, in seconds.
const OFFSETS: [i64; 8] = [0, 2, -2, 60, -60, 3_600, -3_600, 86_400];

/// What the faults affect, and the generators that determine them.
pub(super) struct Faults {
    pub(super) nodes: Vec<Server>,
    pub(super) nats: Nats,
    pub(super) proxies: Rc<Proxies>,
    /// The clock of node 0.
    pub(super) clock: Option<Clock>,
    random: [fastrand::Rng; 4],
    round: u32,
}

fn random_ms(random: &mut fastrand::Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

impl Faults {
    pub(super) fn new(
        nodes: Vec<Server>,
        nats: Nats,
        proxies: Proxies,
        clock: Option<Clock>,
        seed: u64,
    ) -> Self {
        let random = [0, 1, 2, 3].map(|n| fastrand::Rng::with_seed(seed.wrapping_add(n)));
        Self { nodes, nats, proxies: Rc::new(proxies), clock, random, round: 0 }
    }

    /// Injects faults until this time. At the end all nodes and servers run and are connected. The
    /// clock of node 0 may be wrong.
    pub(super) async fn round(&mut self, until: Instant, shared: &Shared) {
        let Self { nodes, nats, proxies, clock, random, round } = self;
        let [of_nodes, of_nats, of_connections, of_clock] = random;
        let with_nats = *round % QUIET_NATS_ONE_IN != QUIET_NATS_ONE_IN - 1;
        *round += 1;
        let count = nodes.len();
        tokio::join!(
            break_nodes(nodes, of_nodes, until, shared),
            async {
                if with_nats {
                    break_nats(nats, of_nats, until, shared).await;
                }
            },
            break_connections(proxies, count, of_connections, until, shared),
            async {
                if let Some(clock) = clock {
                    move_clock(clock, of_clock, until, shared).await;
                }
            },
        );
    }
}

/// Kills and stops nodes, one at a time.
async fn break_nodes(
    nodes: &mut [Server],
    random: &mut fastrand::Rng,
    until: Instant,
    shared: &Shared,
) {
    while Instant::now() < until {
        sleep(random_ms(random, PAUSE_MS)).await;
        let (n, time) = (random.usize(..nodes.len()), random_ms(random, NODE_FAULT_MS));
        let node = &mut nodes[n];
        shared.probes.set_down(n);
        if random.bool() {
            shared.count("a node is killed");
            if let Err(error) = node.kill() {
                shared.soak.fault(format!("node {n}: {error}"));
            }
            shared.probes.set_silent(n);
            node.killed.take().into_iter().for_each(clean_up_after);
            sleep(time).await;
            start(n, node, shared).await;
        } else {
            shared.count("a node is stopped");
            node.signal("-STOP");
            shared.probes.set_silent(n);
            sleep(time).await;
            node.signal("-CONT");
        }
        shared.probes.set_up(n);
    }
}

async fn start(n: usize, node: &mut Server, shared: &Shared) {
    let began = Instant::now();
    if let Err(error) = node.try_up(START_TIMEOUT).await {
        shared.soak.fault(format!("node {n}: {error}"));
        // The other checks need all nodes.
        let _ = node.kill();
        node.up().await;
    }
    let mut longest = shared.longest_start.borrow_mut();
    *longest = began.elapsed().max(*longest);
}

/// Kills and stops NATS servers: one at a time, or for a short time two of three. Lets the leader
/// of three step down.
async fn break_nats(nats: &mut Nats, random: &mut fastrand::Rng, until: Instant, shared: &Shared) {
    while Instant::now() < until {
        sleep(random_ms(random, PAUSE_MS)).await;
        let mut servers: Vec<_> = (0..nats.count()).collect();
        random.shuffle(&mut servers);
        let is_majority = servers.len() > 1 && random.u32(..MAJORITY_ONE_IN) == 0;
        servers.truncate(if is_majority { 2 } else { 1 });
        let time = random_ms(random, NATS_FAULT_MS);
        match random.u32(..5) {
            0 | 1 => {
                shared.count(if is_majority {
                    "two NATS servers are killed"
                } else {
                    "a NATS server is killed"
                });
                servers.iter().for_each(|n| nats.kill(*n));
                sleep(time).await;
                servers.iter().for_each(|n| nats.restart(*n));
                await_nats(nats, &servers, shared).await;
            }
            4 if nats.count() > 1 => {
                if step_down(nats, servers[0]).await {
                    shared.count("the leader of the stream steps down");
                }
            }
            _ => {
                shared.count(if is_majority {
                    "two NATS servers are stopped"
                } else {
                    "a NATS server is stopped"
                });
                servers.iter().for_each(|n| nats.signal(*n, "-STOP"));
                sleep(time).await;
                servers.iter().for_each(|n| nats.signal(*n, "-CONT"));
            }
        }
        shared.probes.set_nats_healed();
    }
}

async fn await_nats(nats: &Nats, servers: &[usize], shared: &Shared) {
    let is_up = async {
        while !servers.iter().all(|n| nats.is_listening(*n)) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(START_TIMEOUT, is_up).await.is_err() {
        shared.soak.fault("a NATS server does not start again".into());
    }
}

/// Asks for another leader of the stream. Returns whether a server has answered that there is one.
async fn step_down(nats: &Nats, server: usize) -> bool {
    const REQUEST: &str = "CONNECT {\"verbose\":false}\r\nSUB answer 1\r\n\
                           PUB $JS.API.STREAM.LEADER.STEPDOWN.chinwag answer 0\r\n\r\n";
    let addr = nats.addrs()[server];
    let ask = async {
        let mut tcp = TcpStream::connect(addr).await.ok()?;
        tcp.write_all(REQUEST.as_bytes()).await.ok()?;
        let mut answer = String::new();
        while !answer.contains("\"success\":true") {
            let mut buffer = [0; 4096];
            let count = tcp.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
            answer += &String::from_utf8_lossy(&buffer[..count]);
        }
        Some(())
    };
    // Nobody answers while there is no leader.
    timeout(Duration::from_secs(2), ask).await.is_ok_and(|answer| answer.is_some())
}

/// Cuts connections between a node and NATS: one direction or both. Or resets them.
async fn break_connections(
    proxies: &Proxies,
    nodes: usize,
    random: &mut fastrand::Rng,
    until: Instant,
    shared: &Shared,
) {
    while Instant::now() < until {
        sleep(random_ms(random, LONG_PAUSE_MS)).await;
        let (n, time) = (random.usize(..nodes), random_ms(random, NODE_FAULT_MS));
        let (sent, received) = match random.u32(..5) {
            0 | 1 => (true, true),
            2 => (true, false),
            3 => (false, true),
            _ => {
                shared.count("connections of a node to NATS are reset");
                proxies.reset(n);
                continue;
            }
        };
        shared.count(match (sent, received) {
            (true, true) => "a node is cut off from NATS",
            (true, false) => "nothing that a node sends reaches NATS",
            _ => "a node receives nothing from NATS",
        });
        proxies.hold(n, sent, received);
        if sent {
            shared.probes.set_cut(n);
        }
        sleep(time).await;
        proxies.heal(n);
        shared.probes.set_healed(n);
    }
}

/// Moves the clock of a node to and fro.
async fn move_clock(clock: &Clock, random: &mut fastrand::Rng, until: Instant, shared: &Shared) {
    while Instant::now() < until {
        sleep(random_ms(random, LONG_PAUSE_MS)).await;
        shared.count("the clock of node 0 is moved");
        clock.set(*random.choice(&OFFSETS).unwrap());
    }
}
