//! The program as a child process on a free port: its log, exit code and resources.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::harness::within;

/// The program that these tests were built with.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_chinwag");

/// Environment variables without limits on clients, since all clients of a test come from one
/// address.
pub const UNLIMITED: [(&str, &str); 10] = [
    ("CHINWAG_MAX_CONNECTIONS", "0"),
    ("CHINWAG_MAX_CONNECTIONS_PER_ADDRESS", "0"),
    ("CHINWAG_CONNECT_RATE", "0"),
    ("CHINWAG_PUBLISH_RATE", "0"),
    ("CHINWAG_PUBLISH_RATE_PER_ADDRESS", "0"),
    ("CHINWAG_PUBLISH_BYTES_PER_HOUR_PER_ADDRESS", "0"),
    ("CHINWAG_PUBLISH_BYTES_PER_DAY_PER_ADDRESS", "0"),
    ("CHINWAG_COMMAND_RATE", "0"),
    ("CHINWAG_COMMAND_RATE_PER_ADDRESS", "0"),
    ("CHINWAG_MAX_ROOMS_PER_ADDRESS", "0"),
];

/// A running program and its log.
pub struct Program {
    pub child: Child,
    pub addr: SocketAddr,
    pub log: Lines<BufReader<ChildStderr>>,
}

impl Program {
    /// Starts the program in a folder, and waits until it listens.
    pub async fn start(program: &str, folder: &std::path::Path, flags: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(flags);
        Self::spawn(command, folder, "http").await
    }

    /// Starts a command that serves `http` or `https`, and waits until it listens.
    pub async fn spawn(mut command: Command, folder: &std::path::Path, scheme: &str) -> Self {
        let mut child = command
            .args(["--listen", "127.0.0.1:0"])
            .envs(UNLIMITED)
            .current_dir(folder)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut read = Vec::new();
        let addr = loop {
            let line = within("the address", log.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("no address in {read:#?}"));
            read.push(line.clone());
            if let Some((_, port)) = line.split_once(&format!("open {scheme}://localhost:")) {
                break SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
            }
        };
        Self { child, addr, log }
    }

    /// Kills it with SIGKILL.
    pub async fn kill(mut self) {
        within("the program to be killed", self.child.kill()).await.unwrap();
    }

    /// Sends a signal, for example `-TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let kill = std::process::Command::new("kill").args([name, &pid]).status();
        assert!(kill.unwrap().success());
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        within("the program to end", self.child.wait()).await.unwrap().code()
    }
}

#[cfg(target_os = "linux")]
impl Program {
    /// Returns its resident memory, in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Returns its peak resident memory since [`Program::reset_peak_memory`], in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Returns how many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        let pid = self.child.id().unwrap();
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    pub fn reset_peak_memory(&self) {
        let pid = self.child.id().unwrap();
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    }

    fn status(&self, field: &str) -> u64 {
        let pid = self.child.id().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}
