//! A server as a child process, and its memory and CPU time from `/proc`.
#![allow(dead_code, reason = "each benchmark uses a part")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server on a free port. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Process {
    /// Starts the release binary without limits on connections, rates and rooms per address. It
    /// stores no history unless a flag says so.
    pub(crate) fn chinwag(flags: &[&str]) -> Self {
        Self::unlimited(&mut Command::new(env!("CARGO_BIN_EXE_chinwag")), flags)
    }

    fn unlimited(command: &mut Command, flags: &[&str]) -> Self {
        let unlimited = [
            "MAX_CONNECTIONS",
            "MAX_CONNECTIONS_PER_ADDRESS",
            "CONNECT_RATE",
            "PUBLISH_RATE",
            "PUBLISH_RATE_PER_ADDRESS",
            "PUBLISH_BYTES_PER_HOUR_PER_ADDRESS",
            "PUBLISH_BYTES_PER_DAY_PER_ADDRESS",
            "COMMAND_RATE",
            "COMMAND_RATE_PER_ADDRESS",
            "MAX_ROOMS_PER_ADDRESS",
        ];
        command.envs(unlimited.map(|flag| (format!("CHINWAG_{flag}"), "0")));
        Self::on_a_free_port(command, flags)
    }

    /// Starts another executable of chinwag without limits.
    pub(crate) fn other(path: &str, flags: &[&str]) -> Self {
        Self::unlimited(&mut Command::new(path), flags)
    }

    /// Starts the release binary with the default limits.
    pub(crate) fn limited(flags: &[&str]) -> Self {
        Self::on_a_free_port(&mut Command::new(env!("CARGO_BIN_EXE_chinwag")), flags)
    }

    fn on_a_free_port(command: &mut Command, flags: &[&str]) -> Self {
        command.env("CHINWAG_DB", "none").args(["--listen", "127.0.0.1:0"]).args(flags);
        Self::spawn(command)
    }

    /// Starts a program that writes `http://localhost:PORT` to its standard error once it listens.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("http://localhost:")?.1.parse::<u16>().ok())
            .expect("the server logs its port");
        Self { child, addr: ([127, 0, 0, 1], port).into() }
    }

    /// Stops it with SIGTERM.
    pub(crate) fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }

    /// Returns its resident memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Returns its peak resident memory, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Returns the CPU time of its threads.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_time(self.child.id())
    }
}

/// Returns the CPU time of the threads of a process.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanos = threads.map(|thread| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
        stat.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanos.sum())
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
