//! Lines of the JSON protocol.

use std::borrow::Cow;
use std::time::Instant;

use futures_util::SinkExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

pub(crate) type Stream = WebSocketStream<TcpStream>;

/// A line from the server, of any type.
#[derive(Deserialize)]
pub(crate) struct Line<'a> {
    pub(crate) r#type: &'a str,
    #[serde(default, borrow)]
    pub(crate) room: Cow<'a, str>,
    #[serde(default)]
    pub(crate) seq: u64,
    #[serde(default, borrow)]
    pub(crate) text: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(crate) id: Cow<'a, str>,
    #[serde(default)]
    pub(crate) duplicate: bool,
    #[serde(default, borrow)]
    pub(crate) epoch: Cow<'a, str>,
    #[serde(default)]
    pub(crate) recovered: bool,
    #[serde(default, borrow)]
    pub(crate) messages: Vec<HistoryMessage<'a>>,
    #[serde(default)]
    pub(crate) more: bool,
    #[serde(default)]
    pub(crate) code: &'a str,
    #[serde(default)]
    pub(crate) retry_after_ms: u64,
    #[serde(default, borrow)]
    pub(crate) r#ref: Cow<'a, str>,
}

/// A message in `joined` and `history`.
#[derive(Deserialize)]
pub(crate) struct HistoryMessage<'a> {
    pub(crate) seq: u64,
    #[serde(borrow)]
    pub(crate) text: Cow<'a, str>,
}

/// A message that the server has not answered.
pub(crate) struct Unanswered {
    pub(crate) room: String,
    pub(crate) text: String,
    pub(crate) id: String,
    /// When it was sent. `None` if it is a farewell or must be sent again: then its latency is not
    /// measured.
    pub(crate) sent_at: Option<Instant>,
}

pub(crate) fn say(Unanswered { room, text, id, .. }: &Unanswered) -> Value {
    json!({"type": "say", "room": room, "text": text, "id": id})
}

pub(crate) async fn send(stream: &mut Stream, lines: &[Value]) -> Result<(), Error> {
    if lines.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    stream.send(Message::text(lines.join("\n"))).await
}
