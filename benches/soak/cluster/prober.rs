//! Asks each node every 100 ms for the history and the members of a room. It measures how long
//! reads stop, and how long the prober of a node that is away still is a member on other nodes. It
//! has a thread of its own, so that the clients do not delay it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::protocol::{Stream, send};

/// The room that is read. Nobody else writes in it, so no record in flight is about it.
const ROOM: &str = "quiet";
const MESSAGES: u32 = 20;
const INTERVAL: Duration = Duration::from_millis(100);

/// How long after the last sign of life of a node its users may be members on other nodes.
const GONE_WITHIN: Duration = Duration::from_secs(6);

/// How long the prober waits for a connection. Then it tries again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What the prober knows of the nodes.
pub(crate) struct Probes {
    nodes: Vec<Mutex<Node>>,
    totals: Mutex<Totals>,
}

struct Node {
    addr: SocketAddr,
    /// Since when it runs without being stopped or killed.
    up_since: Option<Instant>,
    last_answer: Instant,
    /// Since when it is stopped or killed.
    down_since: Option<Instant>,
    /// Since when nothing that it sends reaches NATS.
    cut_since: Option<Instant>,
    /// When its connections to NATS last forwarded what they had held back.
    healed: Instant,
    /// Which probers were members when it last answered.
    members: Vec<bool>,
}

struct Totals {
    is_over: bool,
    answers: u64,
    /// When a NATS server last forwarded what it had held back.
    nats_healed: Instant,
    /// How often a node has removed the users of another one that was away.
    removals: u64,
    /// How long users of a node stayed members on another one at most, and the two nodes.
    longest_stay: (Duration, usize, usize),
    /// Users who stayed too long.
    ghosts: Vec<String>,
    /// The longest time without an answer, the node, and when it ended.
    longest: (Duration, usize, Instant),
}

impl Probes {
    /// Starts the prober, once the room has messages.
    pub(crate) fn start(addrs: &[SocketAddr]) -> Arc<Self> {
        let now = Instant::now();
        let node = |addr: &SocketAddr| {
            Mutex::new(Node {
                addr: *addr,
                up_since: Some(now),
                last_answer: now,
                down_since: None,
                cut_since: None,
                healed: now,
                members: vec![false; addrs.len()],
            })
        };
        let totals = Totals {
            is_over: false,
            answers: 0,
            nats_healed: now,
            removals: 0,
            longest_stay: (Duration::ZERO, 0, 0),
            ghosts: Vec::new(),
            longest: (Duration::ZERO, 0, now),
        };
        let nodes = addrs.iter().map(node).collect();
        let probes = Arc::new(Self { nodes, totals: Mutex::new(totals) });
        let (shared, count) = (Arc::clone(&probes), addrs.len());
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                shared.write_messages().await;
                ready.send(()).unwrap();
                let probe = |n| shared.probe(n);
                futures_util::future::join_all((0..count).map(probe)).await;
            });
        });
        wait.recv().unwrap();
        probes
    }

    pub(crate) fn stop(&self) {
        for node in 0..self.nodes.len() {
            self.note_silence(node);
        }
        self.totals.lock().unwrap().is_over = true;
    }

    /// Notes that a node is being killed or stopped.
    pub(crate) fn set_down(&self, node: usize) {
        self.nodes[node].lock().unwrap().up_since = None;
    }

    /// Notes that a node was killed or stopped.
    pub(crate) fn set_silent(&self, node: usize) {
        self.nodes[node].lock().unwrap().down_since = Some(Instant::now());
    }

    /// Notes that a node runs again.
    pub(crate) fn set_up(&self, node: usize) {
        let mut node = self.nodes[node].lock().unwrap();
        (node.up_since, node.down_since) = (Some(Instant::now()), None);
    }

    /// Notes that nothing that a node sends reaches NATS.
    pub(crate) fn set_cut(&self, node: usize) {
        self.nodes[node].lock().unwrap().cut_since = Some(Instant::now());
    }

    /// Notes that a node reaches NATS again. What was held back arrives now.
    pub(crate) fn set_healed(&self, node: usize) {
        let mut node = self.nodes[node].lock().unwrap();
        (node.cut_since, node.healed) = (None, Instant::now());
    }

    /// Notes that a NATS server runs again. What it had received before it was stopped arrives now.
    pub(crate) fn set_nats_healed(&self) {
        self.totals.lock().unwrap().nats_healed = Instant::now();
    }

    /// Returns how often a node has removed the users of another one that was away; how long such
    /// users stayed at most, and on which node those of which node; and those who stayed too long.
    pub(crate) fn stays(&self) -> (u64, (Duration, usize, usize), Vec<String>) {
        let totals = self.totals.lock().unwrap();
        (totals.removals, totals.longest_stay, totals.ghosts.clone())
    }

    pub(crate) fn answers(&self) -> u64 {
        self.totals.lock().unwrap().answers
    }

    pub(crate) fn longest(&self) -> (Duration, usize, Instant) {
        self.totals.lock().unwrap().longest
    }

    async fn write_messages(&self) {
        let mut stream = self.connect(0).await.unwrap();
        for n in 0..MESSAGES {
            let line = json!({"type": "say", "room": ROOM, "text": format!("quiet {n}")});
            send(&mut stream, &[line]).await.unwrap();
            read_all(&mut stream, &["said"]).await.unwrap();
            // Slower than the rate limit.
            sleep(INTERVAL * 2).await;
        }
    }

    async fn connect(&self, node: usize) -> Option<Stream> {
        let addr = self.nodes[node].lock().unwrap().addr;
        let tcp = TcpStream::connect(addr).await.ok()?;
        let mut request = format!("ws://{addr}/ws").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "chinwag.v1".parse().unwrap());
        let (mut stream, _) = tokio_tungstenite::client_async(request, tcp).await.ok()?;
        let (nick, key) = (name(node), format!("the secret of the prober of node {node}"));
        let hello = json!({"type": "hello", "nick": nick, "key": key});
        send(&mut stream, &[hello, json!({"type": "join", "room": ROOM})]).await.ok()?;
        read_all(&mut stream, &["joined"]).await?;
        Some(stream)
    }

    /// Asks a node until the test is over.
    async fn probe(&self, node: usize) {
        self.nodes[node].lock().unwrap().last_answer = Instant::now();
        while !self.totals.lock().unwrap().is_over {
            let Ok(Some(mut stream)) = timeout(CONNECT_TIMEOUT, self.connect(node)).await else {
                // A node that is down refuses connections at once.
                sleep(INTERVAL / 2).await;
                continue;
            };
            while !self.totals.lock().unwrap().is_over {
                let next = tokio::time::Instant::now() + INTERVAL;
                let requests = [
                    json!({"type": "history", "room": ROOM, "limit": MESSAGES}),
                    json!({"type": "who", "room": ROOM}),
                ];
                let asked = Instant::now();
                if send(&mut stream, &requests).await.is_err() {
                    break;
                }
                let Some(answers) = read_all(&mut stream, &["history", "members"]).await else {
                    break;
                };
                self.totals.lock().unwrap().answers += 1;
                self.note_silence(node);
                self.note_members(node, asked, &answers[1]);
                sleep_until(next).await;
            }
        }
    }

    /// Notes how long a node has not answered until now.
    fn note_silence(&self, node: usize) {
        let now = Instant::now();
        let mut known = self.nodes[node].lock().unwrap();
        let before = std::mem::replace(&mut known.last_answer, now);
        // An answer that a node sent before it was stopped may be read later.
        let Some(up_since) = known.up_since else { return };
        let silence = now.saturating_duration_since(before.max(up_since));
        let mut totals = self.totals.lock().unwrap();
        if silence > totals.longest.0 {
            totals.longest = (silence, node, now);
        }
    }

    /// Notes who was a member of the room on a node when, or after, the node was asked.
    fn note_members(&self, node: usize, asked: Instant, answer: &Value) {
        let names = answer["members"].as_array().unwrap();
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let is_member = names.iter().any(|known| *known == name(other));
            let (silent_since, other_healed) = {
                let other = self.nodes[other].lock().unwrap();
                (other.down_since.into_iter().chain(other.cut_since).min(), other.healed)
            };
            let mut known = self.nodes[node].lock().unwrap();
            let was_member = std::mem::replace(&mut known.members[other], is_member);
            let (Some(silent_since), Some(up_since)) = (silent_since, known.up_since) else {
                continue;
            };
            let mut totals = self.totals.lock().unwrap();
            if !is_member {
                totals.removals += u64::from(was_member);
                continue;
            }
            // What was held back may have arrived later than the node was last alive.
            let last_sign =
                [silent_since, up_since, known.healed, other_healed, totals.nats_healed]
                    .into_iter()
                    .max();
            let stay =
                last_sign.map_or(Duration::ZERO, |last| asked.saturating_duration_since(last));
            if stay > totals.longest_stay.0 {
                totals.longest_stay = (stay, node, other);
            }
            if stay > GONE_WITHIN {
                totals.ghosts.push(format!(
                    "users of node {other} stayed on node {node} {stay:.1?} after its last sign"
                ));
            }
        }
    }
}

/// Returns the name of the prober of a node.
fn name(node: usize) -> String {
    format!("prober-{node}")
}

/// Reads until one event of each of these types, and returns them in this order. Returns `None` if
/// the connection ends.
async fn read_all(stream: &mut Stream, kinds: &[&str]) -> Option<Vec<Value>> {
    let mut found = vec![None; kinds.len()];
    while found.contains(&None) {
        let Message::Text(text) = stream.next().await?.ok()? else { continue };
        for line in text.split('\n') {
            let line: Value = serde_json::from_str(line).unwrap();
            if let Some(index) = kinds.iter().position(|kind| line["type"] == *kind) {
                found[index] = Some(line);
            }
        }
    }
    found.into_iter().collect()
}
