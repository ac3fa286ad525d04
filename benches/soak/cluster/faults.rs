//! Kills and stops nodes and NATS servers. The seed determines which, in which order and for how
//! long. The faults of nodes and those of NATS overlap.

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{START_TIMEOUT, Shared};
use crate::nats::Nats;
use crate::server::Server;

/// How long a fault lasts, in milliseconds. The majority of the NATS servers is never away for more
/// than 10 seconds.
const FAULT_MS: Range<u64> = 500..8_000;

/// The pause between two faults, in milliseconds.
const PAUSE_MS: Range<u64> = 0..3_000;

/// One in this many faults of three NATS servers affects two of them.
const MAJORITY_ONE_IN: u32 = 5;

fn random_ms(random: &mut fastrand::Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

/// Kills and stops nodes, one at a time. All run at the end.
pub(super) async fn of_nodes(mut nodes: Vec<Server>, seed: u64, shared: Rc<Shared>) -> Vec<Server> {
    let mut random = fastrand::Rng::with_seed(seed);
    while Instant::now() < shared.end {
        sleep(random_ms(&mut random, PAUSE_MS)).await;
        let (n, time) = (random.usize(..nodes.len()), random_ms(&mut random, FAULT_MS));
        let node = &mut nodes[n];
        shared.probes.set_down(n);
        if random.bool() {
            shared.count("a node is killed");
            if let Err(error) = node.kill() {
                shared.soak.fault(format!("node {n}: {error}"));
            }
            sleep(time).await;
            start(n, node, &shared).await;
        } else {
            shared.count("a node is stopped");
            node.signal("-STOP");
            sleep(time).await;
            node.signal("-CONT");
        }
        shared.probes.set_up(n);
    }
    nodes
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

/// Kills and stops NATS servers: one at a time, or for a short time two of three. All run at the
/// end.
pub(super) async fn of_nats(mut nats: Nats, seed: u64, shared: Rc<Shared>) -> Nats {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(1));
    while Instant::now() < shared.end {
        sleep(random_ms(&mut random, PAUSE_MS)).await;
        let mut servers: Vec<_> = (0..nats.count()).collect();
        random.shuffle(&mut servers);
        let is_majority = servers.len() > 1 && random.u32(..MAJORITY_ONE_IN) == 0;
        servers.truncate(if is_majority { 2 } else { 1 });
        let time = random_ms(&mut random, FAULT_MS);
        if random.bool() {
            let kind =
                if is_majority { "two NATS servers are killed" } else { "a NATS server is killed" };
            shared.count(kind);
            servers.iter().for_each(|n| nats.kill(*n));
            sleep(time).await;
            servers.iter().for_each(|n| nats.restart(*n));
            await_nats(&nats, &servers, &shared).await;
        } else {
            let kind = if is_majority {
                "two NATS servers are stopped"
            } else {
                "a NATS server is stopped"
            };
            shared.count(kind);
            servers.iter().for_each(|n| nats.signal(*n, "-STOP"));
            sleep(time).await;
            servers.iter().for_each(|n| nats.signal(*n, "-CONT"));
        }
    }
    nats
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
