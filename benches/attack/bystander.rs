//! Those who are only there: they talk, and note how long it takes until they hear themselves.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::attacks::{LONG_ROOM, connect, join, nick, say, shared_rooms};

const PAUSE: Duration = Duration::from_millis(500);

/// Longer is as bad as never.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Bystander {
    stream: WebSocketStream<TcpStream>,
    lines: VecDeque<Value>,
    number: u8,
    said: u64,
}

impl Bystander {
    /// Comes from an address of its own, into all the rooms.
    pub(crate) async fn come(server: SocketAddr, number: u8, rooms: usize) -> Self {
        let tcp = connect(server, Ipv4Addr::new(127, 99, 0, number), "").await.unwrap();
        let stream = WebSocketStream::from_raw_socket(tcp, Role::Client, None).await;
        let mut this = Self { stream, lines: VecDeque::new(), number, said: 0 };
        this.send(&[json!({"type": "hello", "nick": format!("bystander {number}")})]).await;
        let mut joins = vec![join("lobby"), join(LONG_ROOM)];
        joins.extend(shared_rooms(rooms));
        let count = joins.len();
        this.send(&joins).await;
        for _ in 0..count {
            // A connection may ask for 200 things at once, and 20 in each second after that.
            let joined = |line: &Value| line["type"] == "joined";
            assert!(this.until(Duration::from_secs(60), joined).await.is_ok(), "it joins");
        }
        this
    }

    /// The epoch of the log.
    pub(crate) async fn epoch(&mut self) -> String {
        self.send(&[join("lobby")]).await;
        let joined = self.until(PATIENCE, |line| line["type"] == "joined").await.unwrap();
        joined["epoch"].as_str().unwrap().to_owned()
    }

    /// Says as much as it may at once, 4 KiB each time.
    pub(crate) async fn fill(mut self, room: &str) {
        let text = "x".repeat(4000);
        for _ in 0..45 {
            self.send(&[say(room, &text)]).await;
            assert!(
                self.until(PATIENCE, |line| line["type"] == "said").await.is_ok(),
                "it is said"
            );
        }
    }

    /// Talks until it is over; gives how long each message took, or what went wrong.
    pub(crate) async fn talk(mut self, over: &Cell<bool>) -> Result<Vec<Duration>, String> {
        let mut took = Vec::new();
        while !over.get() {
            // Somebody who reads, all the time.
            self.read(PAUSE + Duration::from_millis(fastrand::u64(..20)), |_| false).await?;
            self.said += 1;
            let room = if self.said.is_multiple_of(2) { "lobby" } else { LONG_ROOM };
            let text = format!("{} of bystander {}", self.said, self.number);
            let began = Instant::now();
            self.send(&[say(room, &text)]).await;
            let heard = |line: &Value| line["text"] == text.as_str();
            self.until(PATIENCE, heard).await?;
            took.push(began.elapsed());
        }
        // It is still who it was, and as many rooms take it.
        self.send(&[nick(&format!("bystander {}", self.number))]).await;
        self.until(PATIENCE, |line| line["type"] == "welcome").await?;
        self.send(&[join(&format!("room of {}", self.number).replace(' ', "-"))]).await;
        self.until(PATIENCE, |line| line["type"] == "joined").await?;
        Ok(took)
    }

    async fn send(&mut self, lines: &[Value]) {
        let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
        let _ = self.stream.send(Message::text(lines.join("\n"))).await;
    }

    /// Reads to a line of its choice, which must come in time.
    async fn until(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let line = self.read(patience, wanted).await?;
        line.ok_or_else(|| format!("nothing in {patience:?}"))
    }

    /// Reads to a line of its choice, or for so long. To be refused or closed is a fault.
    async fn read(
        &mut self,
        time: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>, String> {
        let read = timeout(time, async {
            loop {
                while let Some(line) = self.lines.pop_front() {
                    if line["type"] == "error" {
                        return Err(format!("refused: {line}"));
                    }
                    if wanted(&line) {
                        return Ok(Some(line));
                    }
                }
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let lines = text.split('\n');
                        self.lines
                            .extend(lines.map(|line| serde_json::from_str::<Value>(line).unwrap()));
                    }
                    Some(Ok(Message::Close(frame))) => return Err(format!("closed: {frame:?}")),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(format!("cut off: {error}")),
                    None => return Err("cut off".into()),
                }
            }
        });
        read.await.unwrap_or(Ok(None))
    }
}
