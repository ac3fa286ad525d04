//! The JSON protocol, `chinwag.v1`: one object per line, and one or more lines per WebSocket
//! message. `docs/PROTOCOL.md` describes it for authors of clients.

use std::iter::once;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::{Command, ErrorCode, Event, Ref, Refusal, Reply, Request};
use crate::domain::{
    BadText, ChatMessage, Epoch, Identity, MessageId, MessageText, Nick, Position, RoomName, Seq,
    Timestamp,
};

/// The WebSocket subprotocol by which clients select this protocol (RFC 6455 section 1.9).
pub const SUBPROTOCOL: &str = "chinwag.v1";

/// The greatest `limit` of `history`, and the default.
pub const HISTORY_MAX: usize = 100;
const HISTORY_DEFAULT: usize = 50;

/// The longest `ref`, in characters.
const REF_MAX_CHARS: usize = 64;

/// The longest text of an error, in characters. It may quote what the client sent.
const ERROR_MAX_CHARS: usize = 200;

/// The `type` of a command.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Type {
    Hello,
    Nick,
    Join,
    Leave,
    Say,
    Who,
    Typing,
    History,
    #[serde(other)]
    Unknown,
}

/// The fields of every command.
#[derive(Deserialize)]
struct Head {
    r#type: Type,
    r#ref: Option<Value>,
}

// The other fields of each command. Unknown fields are ignored.

#[derive(Deserialize)]
struct Hello {
    nick: Option<String>,
    key: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    nick: String,
}

#[derive(Deserialize)]
struct Join {
    room: String,
    after: Option<After>,
}

#[derive(Deserialize)]
struct After {
    epoch: String,
    seq: Seq,
}

/// The fields of `leave`, `who` and `typing`.
#[derive(Deserialize)]
struct InRoom {
    room: String,
}

#[derive(Deserialize)]
struct Say {
    room: String,
    text: String,
    id: Option<String>,
}

#[derive(Deserialize)]
struct History {
    room: String,
    before: Option<Seq>,
    limit: Option<usize>,
}

/// Decodes a line. Returns none for a blank line. The text of a message must have at most
/// `max_bytes` bytes.
///
/// # Errors
/// Returns the reply to a line that is not a valid command.
pub fn decode(line: &str, max_bytes: usize) -> Result<Option<Request>, Box<Reply>> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(None);
    }
    let refused = |refusal| Box::new(Reply { event: Event::Error(refusal), reference: None });
    let head: Head = parse(line).map_err(refused)?;
    let reference = head.r#ref.map(reference).transpose().map_err(refused)?;
    match command(&head.r#type, line, max_bytes) {
        Ok(command) => Ok(Some(Request { command, reference })),
        Err(refusal) => Err(Box::new(Reply { event: Event::Error(refusal), reference })),
    }
}

fn command(kind: &Type, line: &str, max_bytes: usize) -> Result<Command, Refusal> {
    Ok(match kind {
        Type::Hello => {
            let Hello { nick, key } = parse(line)?;
            let identity = key.as_deref().map(Identity::of_key).transpose();
            Command::Hello {
                nick: nick.as_deref().map(self::nick).transpose()?,
                identity: identity.map_err(|error| refusal(ErrorCode::BadJson, &error))?,
            }
        }
        Type::Nick => {
            let Named { nick } = parse(line)?;
            Command::Nick { nick: self::nick(&nick)? }
        }
        Type::Join => {
            let Join { room, after } = parse(line)?;
            let after =
                after.map(|After { epoch, seq }| Position { epoch: Epoch::of(&epoch), seq });
            Command::Join { room: self::room(&room)?, after }
        }
        Type::Leave => {
            let InRoom { room } = parse(line)?;
            Command::Leave { room: self::room(&room)? }
        }
        Type::Who => {
            let InRoom { room } = parse(line)?;
            Command::Who { room: self::room(&room)? }
        }
        Type::Typing => {
            let InRoom { room } = parse(line)?;
            Command::Typing { room: self::room(&room)? }
        }
        Type::Say => {
            let Say { room, text, id } = parse(line)?;
            let id = id.as_deref().map(MessageId::parse).transpose();
            Command::Say {
                room: self::room(&room)?,
                text: self::text(text, max_bytes)?,
                id: id.map_err(|error| refusal(ErrorCode::BadJson, &error))?,
            }
        }
        Type::History => {
            let History { room, before, limit } = parse(line)?;
            let limit = limit.unwrap_or(HISTORY_DEFAULT);
            if !(1..=HISTORY_MAX).contains(&limit) {
                return Err(refusal(ErrorCode::BadJson, &"limit must be 1 to 100"));
            }
            Command::History { room: self::room(&room)?, before, limit }
        }
        Type::Unknown => {
            return Err(refusal(ErrorCode::UnknownType, &"unknown command type"));
        }
    })
}

fn parse<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, Refusal> {
    // Serde would also accept an array of the fields.
    if !line.starts_with('{') {
        return Err(refusal(ErrorCode::BadJson, &"a line must be one JSON object"));
    }
    serde_json::from_str(line).map_err(|error| refusal(ErrorCode::BadJson, &error))
}

fn reference(value: Value) -> Result<Ref, Refusal> {
    let fits = match &value {
        Value::String(text) => text.chars().nth(REF_MAX_CHARS).is_none(),
        Value::Number(_) => true,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    };
    let takes = "ref must be a number, or a string of at most 64 characters";
    if fits { Ok(Ref(value)) } else { Err(refusal(ErrorCode::BadJson, &takes)) }
}

fn nick(text: &str) -> Result<Nick, Refusal> {
    Nick::parse(text).map_err(|error| refusal(ErrorCode::BadNick, &error))
}

fn room(text: &str) -> Result<RoomName, Refusal> {
    RoomName::parse(text).map_err(|error| refusal(ErrorCode::BadRoom, &error))
}

/// Parses the text of a message. `\r\n` and `\r` become `\n`.
fn text(text: String, max_bytes: usize) -> Result<MessageText, Refusal> {
    let text =
        if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text };
    let parsed = if text.trim().is_empty() {
        Err(BadText::Empty)
    } else {
        MessageText::parse(text, max_bytes)
    };
    parsed.map_err(|error| {
        let code = match error {
            BadText::Empty => ErrorCode::Empty,
            BadText::TooLong(_) => ErrorCode::TooLong,
            BadText::Control => ErrorCode::BadJson,
        };
        refusal(code, &error)
    })
}

fn refusal(code: ErrorCode, why: &dyn std::fmt::Display) -> Refusal {
    let words: String = why.to_string().chars().take(ERROR_MAX_CHARS).collect();
    Refusal::new(code, words)
}

/// A message as an object, without its `type`.
#[derive(Serialize)]
struct MessageObject<'a> {
    room: &'a RoomName,
    seq: Seq,
    at: Timestamp,
    nick: &'a Nick,
    text: &'a MessageText,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a MessageId>,
}

impl<'a> From<&'a ChatMessage> for MessageObject<'a> {
    fn from(message: &'a ChatMessage) -> Self {
        let ChatMessage { room, seq, at, nick, text, id, attributed: _, counted: _ } = message;
        Self { room, seq: *seq, at: *at, nick, text, id: id.as_ref() }
    }
}

/// A message with its `type`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Message(MessageObject<'a>),
}

/// Encodes a message as a line, without the line break.
#[must_use]
pub fn line(message: &ChatMessage) -> String {
    encode(&Line::Message(message.into()))
}

/// Encodes a message as an object without `type`, as in `history` and in exports.
#[must_use]
pub fn object(message: &ChatMessage) -> String {
    encode(&MessageObject::from(message))
}

/// Encodes an answer as a line, without the line break.
#[must_use]
pub fn reply(reply: &Reply) -> String {
    encode(reply)
}

/// Encodes an answer piece by piece, each when it is asked for. Every message is a piece.
pub fn reply_parts(mut reply: Reply) -> impl Iterator<Item = String> {
    let messages = reply.event.take_messages();
    // This cannot occur inside a string, where `"` is escaped.
    const NO_MESSAGES: &str = "\"messages\":[]";
    let whole = encode(&reply);
    let place = whole.find(NO_MESSAGES).map_or(whole.len(), |at| at + NO_MESSAGES.len() - 1);
    let (before, after) = whole.split_at(place);
    let (before, after) = (before.to_owned(), after.to_owned());
    let messages = messages.into_iter().enumerate().map(|(n, message)| {
        let message = object(&message);
        if n == 0 { message } else { format!(",{message}") }
    });
    once(before).chain(messages).chain(once(after))
}

/// Encodes an event as a line, without the line break.
#[must_use]
pub fn event(event: &Event) -> String {
    encode(event)
}

/// Serializes messages as an array of objects, for `#[serde(serialize_with)]`.
pub(super) fn serialize_messages<S: Serializer>(
    messages: &[Arc<ChatMessage>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(messages.iter().map(|message| MessageObject::from(&**message)))
}

fn encode(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("all keys are strings and no other error is possible")
}
