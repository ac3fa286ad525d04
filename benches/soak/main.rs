//! A load test with restarts and hostile clients: `scripts/soak [MINUTES [CLIENTS]]`. By default it
//! runs for 30 minutes with 1,000 clients. Linux only.
//!
//! The server is the release binary with a journal and the default limits. Each client has its own
//! address. 95 % are good clients, which connect, send commands and disconnect; 5 % are hostile.
//! One in five commands of a good client edits or deletes its last message, reacts or replies to
//! the newest one, or sets the topic; the others are messages. The server is stopped and restarted
//! at 3, 6, 10 and 70 % of the time.
//!
//! The test fails if
//!
//! * a message of a good client is lost, duplicated or out of order;
//! * an acknowledged edit or deletion is undone, or one of the last 100 messages that a good client
//!   knows in a room differs in the end from the stored one: its text, edits or reactions;
//! * the server closes a good client's connection, other than for a restart;
//! * the server panics or does not shut down gracefully;
//! * the server's memory grows by more than 5 % after the first third. This is not checked if a
//!   third is less than 5 minutes, because buffers still grow then.
//!
//! `scripts/soak [MINUTES [CLIENTS]] --nodes N` runs a cluster instead, by default for 30 minutes
//! with 120 clients, which move to another node every few seconds. More options:
//!
//! * `--replicas 1|3`: the number of NATS servers; 1 by default;
//! * `--faults`: kills and stops nodes and NATS servers all the time, lets leaders step down, cuts
//!   connections between nodes and NATS in one or both directions, and moves the clock of a node;
//! * `--seed S`: repeats the schedule of a run.
//!
//! Half as many more clients join and leave rooms on all nodes, and claim each other's names. Every
//! few minutes and at the end the faults pause. Then the test also fails if a node is not ready; if
//! the nodes do not agree who is in which room; if a name is twice in a room; or if a client was
//! told another name than the nodes know. Besides, it fails if the users of a node that was killed,
//! stopped or cut off stay on another one for more than 6 seconds, if the history files of the nodes
//! differ, or if a node exits by itself. It needs `target/nats/current/nats-server`, which
//! `scripts/test` fetches.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod cluster;
#[cfg(target_os = "linux")]
mod good_client;
#[cfg(target_os = "linux")]
mod history;
#[cfg(target_os = "linux")]
mod hostile_client;
#[cfg(target_os = "linux")]
#[path = "../support/nats.rs"]
mod nats;
#[cfg(target_os = "linux")]
mod protocol;
#[cfg(target_os = "linux")]
mod room;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod server;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let (mut numbers, mut cluster) = (Vec::new(), None);
    let (mut replicas, mut faults, mut seed) = (1, false, fastrand::u64(..));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
            value.unwrap_or_else(|| panic!("{argument} takes a number"))
        };
        match argument.as_str() {
            // Cargo passes this to every benchmark.
            "--bench" => {}
            "--nodes" => cluster = Some(number() as usize),
            "--replicas" => replicas = number() as usize,
            "--faults" => faults = true,
            "--seed" => seed = number(),
            other => {
                let value = other.parse::<f64>();
                numbers.push(value.unwrap_or_else(|_| panic!("unknown argument {other}")));
            }
        }
    }
    assert!(cluster != Some(0) && [1, 3].contains(&replicas), "--nodes N, and --replicas 1 or 3");
    assert!(cluster.is_some() || !faults, "--faults needs --nodes");
    let cluster = cluster.map(|nodes| cluster::Options { nodes, replicas, faults, seed });
    let minutes = numbers.first().copied().unwrap_or(30.0);
    let clients = if cluster.is_some() { 120.0 } else { 1000.0 };
    let clients = numbers.get(1).copied().unwrap_or(clients) as u32;
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        match cluster {
            Some(options) => cluster::run(minutes, clients, &options).await,
            None => run::run(minutes, clients).await,
        }
    })
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("this test needs Linux: /proc, and many loopback addresses");
}
