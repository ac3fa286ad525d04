//! Checks the nodes at the end, when no client sends any more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use tokio::time::sleep;

use crate::run::Soak;
use crate::server::Server;

/// How long it may take until all nodes are ready, and until all have applied the same records.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The place of a node in the log: position, time, base and chain.
type Place = (i64, i64, i64, Vec<u8>);

/// Waits until all nodes are ready.
pub(super) async fn all_ready(soak: &Soak, nodes: &[Server]) {
    let began = Instant::now();
    for (n, node) in nodes.iter().enumerate() {
        loop {
            let answer = node.get("/readyz").await;
            if answer.starts_with("HTTP/1.1 200 ") {
                break;
            }
            if began.elapsed() > TIMEOUT {
                let reason = answer.lines().last().unwrap_or_default();
                soak.fault(format!("node {n} is not ready: {reason}"));
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    println!("all nodes were ready {:.1?} after the last fault", began.elapsed());
}

/// Waits until all nodes have applied the same records, and compares their chains.
pub(super) async fn equal_chains(soak: &Soak, nodes: &[Server]) {
    let began = Instant::now();
    loop {
        let before: Vec<_> = nodes.iter().map(place).collect();
        // A record that was in flight would be applied meanwhile.
        sleep(Duration::from_secs(1)).await;
        let places: Vec<_> = nodes.iter().map(place).collect();
        let have_settled = before == places && places.iter().all(|place| place.0 == places[0].0);
        if have_settled || began.elapsed() > TIMEOUT {
            if places.iter().all(|place| *place == places[0]) {
                println!("\nall nodes have applied {} records, with equal chains", places[0].0);
            } else {
                soak.fault(format!("the nodes differ: {places:?}"));
            }
            return;
        }
    }
}

fn place(node: &Server) -> Place {
    let file = Connection::open_with_flags(node.db(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    // The node may be writing.
    file.busy_timeout(Duration::from_secs(5)).unwrap();
    let select = "SELECT position, time, base, chain FROM shared_log";
    let place =
        file.query_row(select, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
    place.unwrap()
}

/// Checks the metrics of the nodes, and prints those of the log.
pub(super) async fn metrics(soak: &Soak, nodes: &[Server]) {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    for node in nodes {
        for (name, value) in node.metrics().await {
            *sums.entry(name).or_default() += value;
        }
    }
    println!("\nof all nodes since their last start:");
    for (name, value) in sums {
        let is_log = name.starts_with("chinwag_log_") && name.ends_with("_total");
        if is_log || name.starts_with("chinwag_errors_total") && value > 0.0 {
            println!("{value:>9} {name}");
        }
        let is_fault = ["forks", "divergences", "panicked"].iter().any(|what| name.contains(what));
        if is_fault && value > 0.0 {
            soak.fault(format!("{name} is {value}"));
        }
    }
}

/// Looks for panics in the logs, and prints the kinds of warnings and errors.
pub(super) fn logs(soak: &Soak, nodes: &[Server]) {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for (n, node) in nodes.iter().enumerate() {
        let log = node.log();
        if log.contains("panicked") {
            soak.fault(format!("node {n} has panicked"));
        }
        for line in log.lines().filter(|line| !line.contains(" INFO ")) {
            let words = line.split_once("] ").map_or(line, |(_, words)| words);
            let words = words.replace(|letter: char| letter.is_ascii_digit(), "#");
            *kinds.entry(words).or_default() += 1;
        }
    }
    println!("\nwarnings and errors in the logs, with # for digits:");
    for (kind, count) in kinds {
        println!("{count:>6} {kind:.160}");
    }
}
