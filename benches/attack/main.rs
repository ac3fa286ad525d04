//! Measures how attacks from one and from three addresses affect other clients:
//! `cargo bench --bench attack [-- WORDS]`, where WORDS are part of an attack's name. Linux only,
//! where all of 127/8 is loopback.
//!
//! Each attack runs against a new server: the release binary with a journal and the default limits.
//! Four bystanders, each from its own address, send two messages a second in the attacked rooms and
//! wait for each. The benchmark fails if the p99 of these latencies exceeds 100 ms, if a bystander
//! receives an error or is closed, or if the server's memory grows by more than 64 MB.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod attacks;
#[cfg(target_os = "linux")]
mod bystander;
#[cfg(target_os = "linux")]
#[path = "../support/process.rs"]
mod process;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
#[path = "../support/sample_text.rs"]
mod sample_text;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    // Cargo passes `--bench` to every benchmark.
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    run::run(&words.join(" "))
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("this benchmark needs Linux: /proc, and many loopback addresses");
}
