//! What one address can do to others, and what three can: `cargo bench --bench attack [-- WORDS]`,
//! where WORDS are part of an attack's name. Linux only, since all of 127/8 is to be loopback.
//!
//! The release binary with a journal and all limits at their defaults, for each attack anew. Four
//! bystanders, each from an address of its own, say something twice a second in the rooms that are
//! attacked, and wait until they hear it. It fails if one of them hears itself later than 100 ms at
//! p99, is refused or closed, or if the server's memory grows by more than 64 MB.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod attacks;
#[cfg(target_os = "linux")]
mod bystander;
#[cfg(target_os = "linux")]
#[path = "../support/process.rs"]
mod process;
#[cfg(target_os = "linux")]
mod show;
#[cfg(target_os = "linux")]
#[path = "../support/words.rs"]
mod words;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    // Cargo adds `--bench`.
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    show::run(&words.join(" "))
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the attacks need /proc and a loopback of many addresses: Linux only");
}
