//! A long evening in half an hour: `scripts/soak [MINUTES]`. Linux only.
//!
//! The release binary with all limits at their defaults and a journal; 950 clients that come and go
//! and talk, 50 that do harm, each from an address of its own; the server told to stop, and started
//! again, at 3, 6, 10 and 70 % of the time. It fails if a message of a good client is lost,
//! doubled or out of order, if the server panics or does not end in order, or if its memory grows
//! by more than 5 % after the first third.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod good;
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod ledger;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod show;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let minutes = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(30.0);
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, show::run(minutes))
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the soak needs /proc and a loopback of many addresses: Linux only");
}
