//! Several nodes with one log in NATS JetStream (ignored by default: needs nats-server). Each test
//! runs with the server of Debian 12 and with a current one.

mod bad_records; // records that a node cannot apply, and records that are missing
mod balancers; // the shipped nginx and Caddy configurations for several nodes
mod busy_room; // how often members of a busy room are written to
mod compose; // the shipped configuration of three NATS servers
mod conversation;
mod disk_faults; // history files that cannot be written
mod documents; // what docs/CLUSTER.md and the alerts of docs/OPERATIONS.md name
mod faults; // NATS is killed, and set back
mod log; // nodes that start, stop and join
mod names; // names that are claimed on several nodes
mod nats;
mod network_faults; // the connection between a node and NATS
mod new_epoch; // all nodes continue with the history of one of them
mod node_faults; // nodes are killed and stopped
mod presence; // who is in a room, on all nodes
mod proxy;
mod purge;
mod readme;
mod replica_faults; // NATS servers that replicate the stream are killed and stopped
mod talker;
mod upgrade; // NATS servers and nodes that are replaced by newer ones

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::raw_http;
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};
use nats::{Nats, Version};

/// Runs a test with each version of NATS. Tests after `only with the current one:` use nothing in
/// which the versions differ.
macro_rules! with_each_nats {
    ($($test:ident),+ $(,)? $(; only with the current one: $($current:ident),+ $(,)?)?) => {
        mod debian {
            $(#[actix_web::test]
            #[ignore = "needs nats-server"]
            async fn $test() {
                super::$test(crate::cluster::nats::Version::Debian).await;
            })+
        }
        mod current {
            $(#[actix_web::test]
            #[ignore = "needs nats-server"]
            async fn $test() {
                super::$test(crate::cluster::nats::Version::Current).await;
            })+
            $($(#[actix_web::test]
            #[ignore = "needs nats-server"]
            async fn $current() {
                super::$current(crate::cluster::nats::Version::Current).await;
            })+)?
        }
    };
}
use with_each_nats;

/// A NATS server and the history files of some nodes.
struct Cluster {
    nats: Nats,
    folder: TempDir,
}

impl Cluster {
    async fn start(version: Version) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { nats: Nats::start(version, folder.path()).await, folder }
    }

    fn db(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.db"))
    }

    /// Returns the command that starts a node.
    fn command(&self, name: &str, flags: &[&str]) -> Command {
        node_command(&self.nats.url(), name, &self.db(name), flags)
    }

    /// Starts a node, and waits until it listens.
    async fn node(&self, name: &str) -> Program {
        self.node_with(name, &[]).await
    }

    async fn node_with(&self, name: &str, flags: &[&str]) -> Program {
        Program::spawn(self.command(name, flags), self.folder.path(), "http").await
    }

    /// Starts the nodes `a`, `b` and `c`.
    async fn three_nodes(&self) -> [Program; 3] {
        [self.node("a").await, self.node("b").await, self.node("c").await]
    }

    /// Starts a node that connects to NATS at another address.
    async fn node_at(&self, url: &str, name: &str) -> Program {
        let command = node_command(url, name, &self.db(name), &[]);
        Program::spawn(command, self.folder.path(), "http").await
    }

    /// Replaces the history file of a node by a copy of that of another node.
    async fn backup(&self, from: &str, to: &str) {
        for suffix in ["db", "db-wal", "db-shm"] {
            let _ = std::fs::remove_file(self.db(to).with_extension(suffix));
        }
        let mut backup = Command::new(PROGRAM);
        backup.arg("backup").arg("--db").arg(self.db(from)).arg(self.db(to));
        let output = backup.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Returns the command that starts a node.
fn node_command(url: &str, name: &str, db: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["--nats", url, "--node-name", name, "--db"]).arg(db).args(flags);
    command
}

/// Returns what a node answers to `/readyz`: nothing if it is ready, or why it is not.
async fn trouble(node: &Program) -> Option<String> {
    let addr = node.addr;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    let response = raw_http(addr, &request).await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    if head.starts_with("HTTP/1.1 200 ") {
        return None;
    }
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    Some(body.trim_end().to_owned())
}

/// Returns the lines of an export of a history file.
async fn export(db: &Path) -> Vec<Value> {
    let output = Command::new(PROGRAM).arg("export").arg("--db").arg(db).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Connects a user with a key, and joins a room.
async fn join(node: &Program, nick: &str, room: &str) -> JsonClient {
    let key = format!("the secret key of {nick}");
    let mut client = JsonClient::hello(node.addr, json!({"nick": nick, "key": key})).await;
    client.send(&[json!({"type": "join", "room": room})]).await;
    client.until("joined").await;
    client
}

/// Says something and waits until it is committed. Returns its sequence number.
async fn say(client: &mut JsonClient, room: &str, text: &str) -> u64 {
    client.send(&[json!({"type": "say", "room": room, "text": text, "id": text})]).await;
    let said = client.until("said").await;
    assert_eq!(said["duplicate"], false, "{said}");
    said["seq"].as_u64().unwrap()
}
