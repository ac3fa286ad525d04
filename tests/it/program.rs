//! The program as a child process: started on a free port, its log read, its memory weighed.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::harness::within;

/// The program that these tests were built with.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_chinwag");

/// All clients of a test come from one address.
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

/// The program running, and what it logs.
pub struct Program {
    pub child: Child,
    pub addr: SocketAddr,
    pub log: Lines<BufReader<ChildStderr>>,
}

impl Program {
    pub async fn start(program: &str, folder: &std::path::Path, flags: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(flags);
        Self::spawn(command, folder, "http").await
    }

    /// Runs a command that serves `http` or `https`.
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
        let addr = loop {
            let line = within("the address", log.next_line()).await.unwrap();
            let line = line.expect("it logs the address before it ends");
            if let Some((_, port)) = line.split_once(&format!("open {scheme}://localhost:")) {
                break SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
            }
        };
        Self { child, addr, log }
    }

    /// Ends it without warning, as a crash would.
    pub async fn kill(mut self) {
        within("the program to be killed", self.child.kill()).await.unwrap();
    }

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
    /// Its resident memory now, in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory that was resident since [`Program::reset_peak_memory`].
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// How many files and sockets it has open.
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
