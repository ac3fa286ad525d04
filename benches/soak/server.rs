//! A server under test, which can be restarted with the same file and port.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::nats::free_port;

const START_STOP_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    folder: TempDir,
    flags: Vec<String>,
    environment: Vec<(&'static str, String)>,
    child: Option<Child>,
    /// The id of the last process that was killed.
    pub(crate) killed: Option<u32>,
    /// The CPU time of the processes before this one.
    earlier_cpu: Duration,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let mut server = Self::new(&[]);
        server.up().await;
        server
    }

    /// Returns a server that is not running yet.
    pub(crate) fn new(flags: &[&str]) -> Self {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let addr = (Ipv4Addr::LOCALHOST, free_port()).into();
        // Not in /tmp, which may be in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (environment, earlier_cpu) = (Vec::new(), Duration::ZERO);
        Self { addr, folder, flags, environment, child: None, killed: None, earlier_cpu }
    }

    /// Adds a variable to the environment in which it starts.
    pub(crate) fn set_variable(&mut self, name: &'static str, value: String) {
        self.environment.push((name, value));
    }

    /// Returns the folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn up(&mut self) {
        let up = self.try_up(START_STOP_TIMEOUT).await;
        up.unwrap_or_else(|error| panic!("{error}:\n{}", self.log()));
    }

    /// Starts it, and waits until it listens.
    pub(crate) async fn try_up(&mut self, timeout: Duration) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_chinwag"));
        command.args(["--listen", &self.addr.to_string(), "--db"]).arg(self.db());
        command.args(&self.flags).envs(self.environment.iter().cloned());
        let child = self.child.insert(command.stderr(log).spawn().unwrap());
        let deadline = Instant::now() + timeout;
        while TcpStream::connect(self.addr).await.is_err() {
            if let Some(status) = child.try_wait().unwrap() {
                return Err(format!("the server exited with {status} when it started"));
            }
            if Instant::now() >= deadline {
                return Err(format!("the server does not listen within {timeout:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Kills it with SIGKILL. Fails if it has exited already.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        let mut child = self.child.take().unwrap();
        let exited = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.killed = Some(child.id());
        exited.map_or(Ok(()), |status| Err(format!("the server exited with {status}")))
    }

    /// Sends a signal, for example `-STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Stops it with SIGTERM, and waits until it has exited.
    pub(crate) async fn down(&mut self) {
        self.earlier_cpu = self.cpu();
        self.signal("-TERM");
        let mut child = self.child.take().unwrap();
        let deadline = Instant::now() + START_STOP_TIMEOUT;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the server does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(status.success(), "the server exited with {status}:\n{}", self.log());
    }

    /// Exports all messages, one per line.
    pub(crate) fn export(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chinwag"));
        let output = command.arg("export").arg("--db").arg(self.db()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap()
    }

    /// Returns its resident memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// Returns the CPU time of all its processes.
    pub(crate) fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(self.proc("task")).unwrap();
        let nanos = threads.filter_map(|thread| {
            let stat = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        });
        self.earlier_cpu + Duration::from_nanos(nanos.sum())
    }

    /// Returns its metrics: name with labels, and value.
    pub(crate) async fn metrics(&self) -> Vec<(String, f64)> {
        let answer = self.get("/metrics").await;
        let lines = answer.lines().filter_map(|line| line.rsplit_once(' '));
        lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    /// Returns the response to a GET request.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(self.addr).await.unwrap();
        let host = self.addr;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Does not delete the files at the end. Returns their folder.
    pub(crate) fn keep_files(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }

    fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.child.as_ref().unwrap().id()).into()
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.folder.path().join("chinwag.db")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Connects from an own address for each number. On Linux all of 127/8 is loopback.
pub(crate) async fn connect(server: SocketAddr, number: u32) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::from_bits(0x7F40_0000 + number), 0).into())?;
    let tcp = socket.connect(server).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
