//! Clients that talk on several nodes, and a check that all nodes and clients have the same
//! messages.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use actix_web::rt;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::log::stop;
use super::talker::{NodeChoice, Received, Shared, Talker};
use super::{Cluster, export, join, node_command, say};
use crate::harness::{eventually, within};
use crate::program::Program;

/// Nodes, and clients that talk on them.
pub struct Conversation {
    url: String,
    folder: PathBuf,
    flags: Vec<String>,
    pub nodes: Vec<Program>,
    shared: Rc<Shared>,
    /// The clients, and how many messages of each were committed.
    talkers: Vec<(Rc<Cell<usize>>, JoinHandle<Received>)>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Conversation {
    /// Starts nodes of a cluster.
    pub async fn of(cluster: &Cluster, nodes: usize) -> Self {
        Self::start(&cluster.nats.url(), cluster.folder.path(), nodes, &[]).await
    }

    /// Starts nodes that connect to these NATS servers.
    pub async fn start(url: &str, folder: &Path, nodes: usize, flags: &[&str]) -> Self {
        let mut talk = Self {
            url: url.into(),
            folder: folder.into(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            nodes: Vec::new(),
            shared: Rc::default(),
            talkers: Vec::new(),
        };
        for node in 0..nodes {
            let started = talk.start_node(node).await;
            talk.shared.nodes.borrow_mut().push(started.addr);
            talk.nodes.push(started);
        }
        talk
    }

    async fn start_node(&self, node: usize) -> Program {
        let flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        let command = node_command(&self.url, NAMES[node], &self.db(node), &flags);
        Program::spawn(command, &self.folder, "http").await
    }

    fn db(&self, node: usize) -> PathBuf {
        self.folder.join(NAMES[node]).with_extension("db")
    }

    pub fn add(&mut self, name: &str, choice: NodeChoice, seed: u64) {
        let talker = Talker::new(name, &self.shared, choice, seed);
        self.talkers.push((Rc::clone(&talker.committed), rt::spawn(talker.talk())));
    }

    /// Waits until each client has said some more messages.
    pub async fn progress(&self) {
        let goals: Vec<_> = self.talkers.iter().map(|(count, _)| count.get() + 10).collect();
        eventually("progress", async || {
            self.talkers.iter().zip(&goals).all(|((count, _), goal)| count.get() >= *goal)
        })
        .await;
    }

    /// Kills a node with SIGKILL, and starts it again.
    pub async fn kill(&mut self, node: usize) {
        within("the node to be killed", self.nodes[node].child.kill()).await.unwrap();
        self.restart(node).await;
    }

    /// Stops a node with SIGTERM.
    pub async fn stop_node(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.signal("-TERM");
        assert_eq!(node.exit_code().await, Some(0));
        // The output of a test that fails has the log.
        while let Some(line) = node.log.next_line().await.unwrap() {
            eprintln!("{line}");
        }
    }

    /// Starts a node that has ended.
    pub async fn restart(&mut self, node: usize) {
        self.nodes[node] = self.start_node(node).await;
        self.shared.nodes.borrow_mut()[node] = self.nodes[node].addr;
    }

    /// Ends all clients and nodes, and checks what they have. Returns what the clients have
    /// received.
    pub async fn stop(self) -> Vec<Received> {
        self.shared.stop.set(true);
        let dbs: Vec<_> = (0..self.nodes.len()).map(|node| self.db(node)).collect();
        let mut all = Vec::new();
        for (_, talker) in self.talkers {
            all.push(within("a client to end", talker).await.unwrap());
        }
        // All nodes apply everything before they end.
        let mut last = join(&self.nodes[0], "Zoe", "end").await;
        let mut others = Vec::new();
        for node in &self.nodes[1..] {
            others.push(join(node, "Yan", "end").await);
        }
        say(&mut last, "end", "end").await;
        for other in &mut others {
            other.until("message").await;
        }
        stop(self.nodes).await;
        let exported = export(&dbs[0]).await;
        for db in &dbs[1..] {
            assert!(export(db).await == exported, "{} differs", db.display());
        }
        let stored = messages(&dbs[0]).await;
        all.iter().for_each(|received| received.check(&stored));
        all
    }
}

/// Returns the sequence numbers and ids of the messages of the room `tea` in a history file.
pub async fn messages(db: &Path) -> Vec<(u64, String)> {
    let message =
        |line: &Value| (line["seq"].as_u64().unwrap(), line["id"].as_str().unwrap().to_owned());
    export(db).await.iter().filter(|line| line["room"] == "tea").map(message).collect()
}
