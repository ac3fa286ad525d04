//! A long evening in half an hour: `scripts/soak [MINUTES [CLIENTS]]`. Linux only.
//!
//! The release binary with all limits at their defaults and a journal; 1,000 clients, each from an
//! address of its own, of which 95 % come and go and talk, and 5 % do harm; the server told to stop,
//! and started again, at 3, 6, 10 and 70 % of the time. It fails if a message of a good client is
//! lost, doubled or out of order, if a good client is closed by anything but a restart, if the
//! server panics or does not end in order, or if its memory grows by more than 5 % after the first
//! third. That is not judged where a third is less than 5 minutes: buffers still grow then.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod good;
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod ledger;
#[cfg(target_os = "linux")]
mod lines;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod show;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    // Cargo adds `--bench`.
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<f64>().ok());
    let minutes = numbers.next().unwrap_or(30.0);
    let clients = numbers.next().unwrap_or(1000.0) as u32;
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, show::run(minutes, clients))
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the soak needs /proc and a loopback of many addresses: Linux only");
}
