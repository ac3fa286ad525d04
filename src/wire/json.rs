//! The JSON protocol, `chinwag.v1`: one object to a line, one line or several to a frame, both
//! ways. `docs/PROTOCOL.md` tells it from the client's side.

use std::iter::once;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Command, ErrorCode, Event, Ref, Refusal, Reply, Request};
use crate::domain::{
    BadText, ChatMessage, Epoch, Identity, MessageId, MessageText, Nick, Position, RoomName, Seq,
};

/// By what name a client asks for this protocol in its handshake (RFC 6455 section 1.9).
pub const SUBPROTOCOL: &str = "chinwag.v1";

/// The most messages in one answer to `history`, and as many as there are if none is asked for.
pub const HISTORY_MAX: usize = 100;
const HISTORY_DEFAULT: usize = 50;

/// The longest `ref`, and the longest part of a mistake that is told back, in characters.
const REF_MAX_CHARS: usize = 64;
const EXPLAINED_MAX_CHARS: usize = 200;

/// The kinds of lines that a client sends.
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

/// What every line has.
#[derive(Deserialize)]
struct Head {
    r#type: Type,
    r#ref: Option<Value>,
}

// What lines of each type have beside that. What is not named here is ignored.

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

/// What `leave`, `who` and `typing` have.
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

/// Reads a line; a blank one is nothing. No text of a message may be longer than `max_bytes`.
///
/// # Errors
/// The reply to a line that is no command.
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
                return Err(refusal(ErrorCode::BadJson, &"a limit is 1 to 100"));
            }
            Command::History { room: self::room(&room)?, before, limit }
        }
        Type::Unknown => {
            return Err(refusal(ErrorCode::UnknownType, &"there is no command of this type"));
        }
    })
}

fn parse<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, Refusal> {
    // Serde would also take the fields from an array, by their order.
    if !line.starts_with('{') {
        return Err(refusal(ErrorCode::BadJson, &"a line is one JSON object"));
    }
    serde_json::from_str(line).map_err(|error| refusal(ErrorCode::BadJson, &error))
}

fn reference(value: Value) -> Result<Ref, Refusal> {
    let fits = match &value {
        Value::String(text) => text.chars().nth(REF_MAX_CHARS).is_none(),
        Value::Number(_) => true,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    };
    let takes = "a ref is a number, or a string of at most 64 characters";
    if fits { Ok(Ref(value)) } else { Err(refusal(ErrorCode::BadJson, &takes)) }
}

fn nick(text: &str) -> Result<Nick, Refusal> {
    Nick::parse(text).map_err(|error| refusal(ErrorCode::BadNick, &error))
}

fn room(text: &str) -> Result<RoomName, Refusal> {
    RoomName::parse(text).map_err(|error| refusal(ErrorCode::BadRoom, &error))
}

/// Line breaks of every kind become `\n`; what has nothing to see is empty.
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
    let words: String = why.to_string().chars().take(EXPLAINED_MAX_CHARS).collect();
    Refusal::new(code, words)
}

/// What a room is told, as a line.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told<'a> {
    Message(&'a ChatMessage),
}

/// The line that tells of a message, without its line break.
#[must_use]
pub fn line(message: &ChatMessage) -> String {
    encode(&Told::Message(message))
}

/// The line that answers a client, without its line break.
#[must_use]
pub fn reply(reply: &Reply) -> String {
    encode(reply)
}

/// Encodes an answer in parts, each when it is asked for; every message is a part.
pub fn reply_parts(mut reply: Reply) -> impl Iterator<Item = String> {
    let messages = reply.event.take_messages();
    // This is found nowhere else: within a string each `"` has a `\` before it.
    const NO_MESSAGES: &str = "\"messages\":[]";
    let whole = encode(&reply);
    let place = whole.find(NO_MESSAGES).map_or(whole.len(), |at| at + NO_MESSAGES.len() - 1);
    let (before, after) = whole.split_at(place);
    let (before, after) = (before.to_owned(), after.to_owned());
    let messages = messages.into_iter().enumerate().map(|(n, message)| {
        let message = encode(&message);
        if n == 0 { message } else { format!(",{message}") }
    });
    once(before).chain(messages).chain(once(after))
}

/// The line that tells of an event, without its line break.
#[must_use]
pub fn event(event: &Event) -> String {
    encode(event)
}

fn encode(told: &impl Serialize) -> String {
    serde_json::to_string(told).expect("all keys are strings, and nothing else can fail")
}
