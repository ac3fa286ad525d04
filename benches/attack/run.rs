//! Runs one attack after the other, and prints a line for each.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio::time::sleep;

use super::attacks::{ATTACKS, Attack, Attacker, LONG_ROOM};
use super::bystander::Bystander;
use super::process::Process;

const ATTACK_TIME: Duration = Duration::from_secs(10);
const BYSTANDERS: u8 = 4;
const FILLERS: u8 = 6;
const P99_MAX_MS: f64 = 100.0;
const GROWTH_MAX_BYTES: u64 = 64_000_000;

pub(crate) fn run(name_filter: &str) -> ExitCode {
    println!(
        "{:<54} {:>9} {:>8} {:>8} {:>8} {:>9}  core %",
        "attack", "addresses", "p50 ms", "p99 ms", "max ms", "grown MB"
    );
    let mut is_ok = true;
    for attack in ATTACKS.iter().filter(|attack| attack.name.contains(name_filter)) {
        for addresses in [0, 1, 3] {
            is_ok &= attack_server(attack, addresses);
        }
    }
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Attacks a new server from this number of addresses; 0 means no attack (baseline). Returns
/// whether the results are within the limits.
fn attack_server(attack: &'static Attack, addresses: u8) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("chinwag.db");
    let server = Process::limited(&["--db", db.to_str().unwrap()]);
    let addr = server.addr;
    LocalSet::new().block_on(&runtime(), async {
        let fill = (0..FILLERS).map(async |n| {
            Bystander::connect(addr, 100 + n, 0).await.fill(LONG_ROOM).await;
        });
        join_all(fill).await;
        let connect = (1..=BYSTANDERS).map(|n| Bystander::connect(addr, n, attack.shared_rooms));
        let mut bystanders = join_all(connect).await;
        let epoch = bystanders[0].epoch().await;
        let (before, cpu) = (server.memory(), server.cpu());
        let attackers = (0..u32::from(addresses) * attack.connections as u32).map(move |number| {
            let from = Ipv4Addr::new(127, 66, 0, 1 + (number % u32::from(addresses)) as u8);
            Attacker { attack, number, from, server: addr, epoch: epoch.clone() }
        });
        let over = Cell::new(false);
        let attackers: Vec<_> = attackers.collect();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let attack = LocalSet::new();
            for attacker in attackers {
                attack.spawn_local(attacker.attack());
            }
            attack.block_on(&runtime(), async { drop(ended.await) });
        });
        let watch = async {
            let mut max = 0;
            for _ in 0..ATTACK_TIME.as_millis() / 100 {
                sleep(Duration::from_millis(100)).await;
                max = max.max(server.memory());
            }
            over.set(true);
            max
        };
        let talk = join_all(bystanders.into_iter().map(|bystander| bystander.talk(&over)));
        let (max, latencies) = futures_util::future::join(watch, talk).await;
        drop(end);
        thread.join().unwrap();
        let core = (server.cpu() - cpu).as_secs_f64() / ATTACK_TIME.as_secs_f64() * 100.0;
        report(attack, addresses, latencies, max.saturating_sub(before), core)
    })
}

/// Prints the results of an attack. Returns whether they are within the limits.
fn report(
    attack: &Attack,
    addresses: u8,
    latencies: Vec<Result<Vec<Duration>, String>>,
    growth: u64,
    core: f64,
) -> bool {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).unwrap();
    let mut faults = Vec::new();
    for bystander in latencies {
        match bystander {
            Ok(all) => {
                all.iter().for_each(|one| histogram.saturating_record(one.as_micros() as u64));
            }
            Err(fault) => faults.push(fault),
        }
    }
    let ms = |micros: u64| micros as f64 / 1000.0;
    let p99 = ms(histogram.value_at_quantile(0.99));
    println!(
        "{:<54} {addresses:>9} {:>8.1} {p99:>8.1} {:>8.1} {:>9.1}  {core:.0}",
        attack.name,
        ms(histogram.value_at_quantile(0.5)),
        ms(histogram.max()),
        growth as f64 / 1e6,
    );
    let is_ok = p99 < P99_MAX_MS && growth < GROWTH_MAX_BYTES && faults.is_empty();
    for fault in &faults {
        println!("  {fault}");
    }
    if !is_ok {
        println!("  FAIL");
    }
    is_ok
}
