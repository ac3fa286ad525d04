//! A NATS server as a child process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::harness::{eventually, within};

/// A version of nats-server that `scripts/test` has unpacked.
#[derive(Clone, Copy, Debug)]
pub enum Version {
    /// That of Debian 12: 2.9.
    Debian,
    /// A current one.
    Current,
}

impl Version {
    fn program(self) -> PathBuf {
        let name = match self {
            Self::Debian => "debian",
            Self::Current => "current",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nats").join(name).join("nats-server")
    }
}

/// A running server, which keeps its port and its files over restarts.
pub struct Nats {
    version: Version,
    addr: SocketAddr,
    folder: PathBuf,
    store: PathBuf,
    flags: Vec<String>,
    process: Option<Child>,
}

impl Nats {
    /// Starts a server with JetStream, and waits until it listens.
    pub async fn start(version: Version, folder: &Path) -> Self {
        Self::start_with(version, folder, &[]).await
    }

    pub async fn start_with(version: Version, folder: &Path, flags: &[&str]) -> Self {
        let own = ["--jetstream", "--store_dir", "nats"];
        Self::start_in(version, folder, &[&own, flags].concat()).await
    }

    /// Starts a server with a configuration file that sets its store to the folder `nats`.
    pub async fn start_with_config(version: Version, folder: &Path, config: &Path) -> Self {
        Self::start_in(version, folder, &["--config", config.to_str().unwrap()]).await
    }

    /// Starts three servers, `s0` to `s2`, that are one NATS cluster.
    pub async fn start_cluster(version: Version, folder: &Path) -> Vec<Self> {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let routes = [free(), free(), free()];
        let routes = routes.map(|free| format!("nats://{}", free.local_addr().unwrap()));
        let all_routes = routes.join(",");
        let mut servers = Vec::new();
        for (n, route) in routes.iter().enumerate() {
            let name = format!("s{n}");
            let flags = ["--name", &name, "--cluster", route, "--cluster_name", "chinwag"];
            let flags = [&flags[..], &["--routes", &all_routes]].concat();
            servers.push(Self::start_with(version, &folder.join(&name), &flags).await);
        }
        servers
    }

    async fn start_in(version: Version, folder: &Path, flags: &[&str]) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (addr, store) = (free.local_addr().unwrap(), folder.join("nats"));
        drop(free);
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let folder = folder.to_owned();
        std::fs::create_dir_all(&folder).unwrap();
        let mut nats = Self { version, addr, folder, store, flags, process: None };
        nats.restart().await;
        nats
    }

    /// Starts it again after it was killed.
    pub async fn restart(&mut self) {
        let mut process = self.spawn();
        let is_up = async || {
            // A connection of another test may use its port for a moment. Then it ends.
            if process.try_wait().unwrap().is_some() {
                process = self.spawn();
            }
            TcpStream::connect(self.addr).await.is_ok()
        };
        eventually("NATS to listen", is_up).await;
        self.process = Some(process);
    }

    fn spawn(&self) -> Child {
        Command::new(self.version.program())
            .args(["--addr", "127.0.0.1", "--port", &self.addr.port().to_string()])
            .args(&self.flags)
            .env("NATS_NAME", self.folder.file_name().unwrap())
            .current_dir(&self.folder)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("scripts/test has unpacked nats-server")
    }

    /// Kills it with SIGKILL.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            within("NATS to be killed", process.kill()).await.unwrap();
        }
    }

    /// Stops it with SIGTERM, if it runs, and starts the current version with the same files.
    pub async fn upgrade(&mut self) {
        self.stop().await;
        self.version = Version::Current;
        self.restart().await;
    }

    /// Stops it with SIGTERM.
    pub async fn stop(&mut self) {
        if self.process.is_some() {
            self.signal("-TERM");
        }
        if let Some(mut process) = self.process.take() {
            within("NATS to end", process.wait()).await.unwrap();
        }
    }

    /// Sends a signal, for example `-STOP`.
    pub fn signal(&self, name: &str) {
        let pid = self.process.as_ref().and_then(Child::id).unwrap().to_string();
        let kill = std::process::Command::new("kill").args([name, &pid]).status();
        assert!(kill.unwrap().success());
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Sends a request with the plain protocol of NATS, and returns the answer. If the subject is
    /// that of a stream, the payload becomes a record, and the answer has its position.
    pub async fn request(&self, subject: &str, payload: &str) -> Value {
        let length = payload.len();
        let request = format!(
            "CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\n\
             PUB {subject} answer {length}\r\n{payload}\r\n"
        );
        let answer = within("an answer from NATS", async {
            let mut tcp = BufReader::new(TcpStream::connect(self.addr).await.unwrap());
            tcp.write_all(request.as_bytes()).await.unwrap();
            let length = loop {
                let mut line = String::new();
                assert!(tcp.read_line(&mut line).await.unwrap() > 0, "NATS closed the connection");
                if line.starts_with("MSG answer ") {
                    break line.rsplit(' ').next().unwrap().trim_end().parse().unwrap();
                }
            };
            let mut answer = vec![0; length];
            tcp.read_exact(&mut answer).await.unwrap();
            answer
        });
        serde_json::from_slice(&answer.await).unwrap()
    }

    /// Returns the version that it reports to clients.
    pub async fn reported_version(&self) -> String {
        let greeting = within("a greeting of NATS", async {
            let mut line = String::new();
            let tcp = TcpStream::connect(self.addr).await.unwrap();
            BufReader::new(tcp).read_line(&mut line).await.unwrap();
            line
        });
        let greeting = greeting.await;
        let info: Value = serde_json::from_str(greeting.strip_prefix("INFO ").unwrap()).unwrap();
        info["version"].as_str().unwrap().to_owned()
    }

    /// Returns the folder with its files.
    pub fn store(&self) -> &Path {
        &self.store
    }
}
