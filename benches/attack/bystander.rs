//! Bystanders: clients that send messages and measure how long it takes until they receive them.

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

/// A bystander fails if an answer takes longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Bystander {
    stream: WebSocketStream<TcpStream>,
    lines: VecDeque<Value>,
    number: u8,
    messages: u64,
}

impl Bystander {
    /// Connects from its own address and joins the rooms.
    pub(crate) async fn connect(server: SocketAddr, number: u8, rooms: usize) -> Self {
        let tcp = connect(server, Ipv4Addr::new(127, 99, 0, number), "").await.unwrap();
        let stream = WebSocketStream::from_raw_socket(tcp, Role::Client, None).await;
        let mut this = Self { stream, lines: VecDeque::new(), number, messages: 0 };
        this.send(&[json!({"type": "hello", "nick": format!("bystander {number}")})]).await;
        let mut joins = vec![join("lobby"), join(LONG_ROOM)];
        joins.extend(shared_rooms(rooms));
        let count = joins.len();
        this.send(&joins).await;
        for _ in 0..count {
            // A connection may send 200 commands immediately, and then 20 a second.
            let joined = |line: &Value| line["type"] == "joined";
            assert!(
                this.until(Duration::from_secs(60), joined).await.is_ok(),
                "the bystander joins"
            );
        }
        this
    }

    /// Returns the epoch of the log.
    pub(crate) async fn epoch(&mut self) -> String {
        self.send(&[join("lobby")]).await;
        let joined = self.until(ANSWER_TIMEOUT, |line| line["type"] == "joined").await.unwrap();
        joined["epoch"].as_str().unwrap().to_owned()
    }

    /// Sends as many messages of 4 KiB as the rate limit allows in a burst.
    pub(crate) async fn fill(mut self, room: &str) {
        let text = "x".repeat(4000);
        for _ in 0..45 {
            self.send(&[say(room, &text)]).await;
            assert!(
                self.until(ANSWER_TIMEOUT, |line| line["type"] == "said").await.is_ok(),
                "the message is accepted"
            );
        }
    }

    /// Sends messages until the attack is over. Returns the latency of each, or what went wrong.
    pub(crate) async fn talk(mut self, over: &Cell<bool>) -> Result<Vec<Duration>, String> {
        let mut latencies = Vec::new();
        while !over.get() {
            // A bystander reads between its messages, too.
            self.read(PAUSE + Duration::from_millis(fastrand::u64(..20)), |_| false).await?;
            self.messages += 1;
            let room = if self.messages.is_multiple_of(2) { "lobby" } else { LONG_ROOM };
            let text = format!("{} of bystander {}", self.messages, self.number);
            let began = Instant::now();
            self.send(&[say(room, &text)]).await;
            let is_own_message = |line: &Value| line["text"] == text.as_str();
            self.until(ANSWER_TIMEOUT, is_own_message).await?;
            latencies.push(began.elapsed());
        }
        // It still has its name and can join another room.
        self.send(&[nick(&format!("bystander {}", self.number))]).await;
        self.until(ANSWER_TIMEOUT, |line| line["type"] == "welcome").await?;
        self.send(&[join(&format!("room of {}", self.number).replace(' ', "-"))]).await;
        self.until(ANSWER_TIMEOUT, |line| line["type"] == "joined").await?;
        Ok(latencies)
    }

    async fn send(&mut self, lines: &[Value]) {
        let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
        let _ = self.stream.send(Message::text(lines.join("\n"))).await;
    }

    /// Returns the next line that matches. Fails if it does not arrive in time.
    async fn until(
        &mut self,
        time_limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let line = self.read(time_limit, wanted).await?;
        line.ok_or_else(|| format!("no answer within {time_limit:?}"))
    }

    /// Reads until a line matches or the time is over. An error or a close is a failure.
    async fn read(
        &mut self,
        time: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>, String> {
        let read = timeout(time, async {
            loop {
                while let Some(line) = self.lines.pop_front() {
                    if line["type"] == "error" {
                        return Err(format!("received an error: {line}"));
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
                    Some(Err(error)) => return Err(format!("connection lost: {error}")),
                    None => return Err("connection lost".into()),
                }
            }
        });
        read.await.unwrap_or(Ok(None))
    }
}
