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
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod good_client;
#[cfg(target_os = "linux")]
mod history;
#[cfg(target_os = "linux")]
mod hostile_client;
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
    // Cargo passes `--bench` to every benchmark.
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<f64>().ok());
    let minutes = numbers.next().unwrap_or(30.0);
    let clients = numbers.next().unwrap_or(1000.0) as u32;
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, run::run(minutes, clients))
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("this test needs Linux: /proc, and many loopback addresses");
}
