//! Measures several nodes that share a log: `cargo bench --features cluster --bench cluster`. Needs
//! target/nats/current/nats-server, which `scripts/test` fetches. Linux only. Arguments after `--`
//! are the names of the measurements to run: `latency`, `presence` and `town`.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

#[cfg(target_os = "linux")]
mod latency;
#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "this benchmark uses a part")]
#[path = "../fanout/load.rs"]
mod load;
#[cfg(target_os = "linux")]
#[path = "../support/nats.rs"]
mod nats;
#[cfg(target_os = "linux")]
mod presence;
#[cfg(target_os = "linux")]
#[path = "../support/process.rs"]
mod process;
#[cfg(target_os = "linux")]
#[path = "../support/sample_text.rs"]
mod sample_text;
#[cfg(target_os = "linux")]
mod town_hall;

#[cfg(target_os = "linux")]
fn main() {
    // Cargo passes `--bench` to every benchmark.
    let names: Vec<_> = std::env::args().skip(1).filter(|name| name != "--bench").collect();
    let wanted = |name| names.is_empty() || names.iter().any(|wanted| wanted == name);
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    if wanted("latency") {
        latency::run();
    }
    if wanted("presence") {
        presence::run();
    }
    if wanted("town") {
        town_hall::run();
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("this benchmark needs Linux: epoll and /proc");
}
