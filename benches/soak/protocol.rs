//! Lines of the JSON protocol.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::SinkExt;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

pub(crate) type Stream = WebSocketStream<TcpStream>;

/// A line from the server of any type, or a message or change in it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Line<'a> {
    /// Empty for a message in `joined` and `history`.
    pub(crate) r#type: &'a str,
    #[serde(borrow)]
    pub(crate) room: Cow<'a, str>,
    pub(crate) seq: u64,
    pub(crate) at: u64,
    #[serde(borrow)]
    pub(crate) text: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    pub(crate) reply_to: Option<u64>,
    pub(crate) edited_at: Option<u64>,
    pub(crate) deleted: bool,
    pub(crate) reactions: BTreeMap<String, u64>,
    pub(crate) target: u64,
    #[serde(borrow)]
    pub(crate) emoji: Cow<'a, str>,
    pub(crate) count: u64,
    #[serde(borrow)]
    pub(crate) topic: Cow<'a, str>,
    pub(crate) duplicate: bool,
    #[serde(borrow)]
    pub(crate) epoch: Cow<'a, str>,
    pub(crate) recovered: bool,
    #[serde(borrow)]
    pub(crate) messages: Vec<Line<'a>>,
    #[serde(borrow)]
    pub(crate) changes: Vec<Line<'a>>,
    pub(crate) more: bool,
    pub(crate) code: &'a str,
    pub(crate) retry_after_ms: u64,
    #[serde(borrow)]
    pub(crate) r#ref: Cow<'a, str>,
}

/// A command that the server has not answered.
pub(crate) struct Unanswered {
    /// It has an `id` and the same `ref`.
    pub(crate) command: Value,
    /// When it was first sent.
    pub(crate) first_sent: Instant,
    /// When it was sent. `None` if it must be sent again: then its latency is not measured.
    pub(crate) sent_at: Option<Instant>,
}

pub(crate) async fn send(stream: &mut Stream, lines: &[Value]) -> Result<(), Error> {
    if lines.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    stream.send(Message::text(lines.join("\n"))).await
}
