//! Measures how long a message takes from a client of one node to a client of another:
//! `cargo bench --features cluster --bench cluster`. Needs target/nats/current/nats-server, which
//! `scripts/test` fetches.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

mod latency;
#[path = "../support/nats.rs"]
mod nats;
#[path = "../support/process.rs"]
mod process;

fn main() {
    latency::run();
}
