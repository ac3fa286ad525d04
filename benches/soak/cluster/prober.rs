//! Asks each node every 100 ms for the history of a room, and measures how long reads stop. It has
//! a thread of its own, so that the clients do not delay it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::protocol::{Line, Stream, send};

/// The room that is read. Nobody else writes in it, so no record in flight is about it.
const ROOM: &str = "quiet";
const MESSAGES: u32 = 20;
const INTERVAL: Duration = Duration::from_millis(100);

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
}

struct Totals {
    is_over: bool,
    answers: u64,
    /// The longest time without an answer, the node, and when it ended.
    longest: (Duration, usize, Instant),
}

impl Probes {
    /// Starts the prober, once the room has messages.
    pub(crate) fn start(addrs: &[SocketAddr]) -> Arc<Self> {
        let now = Instant::now();
        let node = |addr: &SocketAddr| {
            Mutex::new(Node { addr: *addr, up_since: Some(now), last_answer: now })
        };
        let longest = (Duration::ZERO, 0, now);
        let totals = Totals { is_over: false, answers: 0, longest };
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

    /// Notes that a node runs again.
    pub(crate) fn set_up(&self, node: usize) {
        self.nodes[node].lock().unwrap().up_since = Some(Instant::now());
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
            read_until(&mut stream, "said").await.unwrap();
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
        let lines = [json!({"type": "hello"}), json!({"type": "join", "room": ROOM})];
        send(&mut stream, &lines).await.ok()?;
        read_until(&mut stream, "joined").await?;
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
                let request = json!({"type": "history", "room": ROOM, "limit": MESSAGES});
                if send(&mut stream, &[request]).await.is_err()
                    || read_until(&mut stream, "history").await.is_none()
                {
                    break;
                }
                self.totals.lock().unwrap().answers += 1;
                self.note_silence(node);
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
}

/// Reads until an event of this type. Returns `None` if the connection ends.
async fn read_until(stream: &mut Stream, kind: &str) -> Option<()> {
    loop {
        let Message::Text(text) = stream.next().await?.ok()? else { continue };
        for line in text.split('\n') {
            let line: Line<'_> = serde_json::from_str(line).unwrap();
            if line.r#type == kind {
                return Some(());
            }
        }
    }
}
