//! The JSON protocol, `chinwag.v1`: one object per line, and one or more lines per WebSocket
//! message. `docs/PROTOCOL.md` describes it for authors of clients.

use std::iter::once;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::event::Contents;
use super::{Command, ErrorCode, Event, HistoryRange, Limits, Ref, Refusal, Reply, Request};
use crate::domain::{
    Author, BadNick, BadSearch, BadText, Change, ChangeKind, ChatMessage, Durability, Emoji, Entry,
    Epoch, Identity, MessageId, MessageText, Nick, Position, Quote, ReactionCount, RoomName,
    SearchQuery, SearchResult, SearchTerms, Seq, Timestamp, Topic,
};

/// The WebSocket subprotocol by which clients select this protocol (RFC 6455 section 1.9).
pub const SUBPROTOCOL: &str = "chinwag.v1";

/// The greatest `limit` of `history`, and the default.
pub const HISTORY_MAX: usize = 100;
const HISTORY_DEFAULT: usize = 50;

/// The maximum `limit` of `search`.
pub const SEARCH_MAX: usize = 50;
const SEARCH_DEFAULT: usize = 20;

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
    Edit,
    Delete,
    React,
    SetRoom,
    Who,
    Typing,
    Read,
    History,
    Search,
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
    reply_to: Option<Seq>,
}

#[derive(Deserialize)]
struct Edit {
    room: String,
    seq: Seq,
    text: String,
    id: Option<String>,
}

#[derive(Deserialize)]
struct Delete {
    room: String,
    seq: Seq,
    id: Option<String>,
}

#[derive(Deserialize)]
struct React {
    room: String,
    seq: Seq,
    emoji: String,
    on: Option<bool>,
    id: Option<String>,
}

#[derive(Deserialize)]
struct SetRoom {
    room: String,
    topic: String,
    id: Option<String>,
}

#[derive(Deserialize)]
struct Read {
    room: String,
    seq: Seq,
}

#[derive(Deserialize)]
struct History {
    room: String,
    before: Option<Seq>,
    after: Option<Seq>,
    around: Option<Seq>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct Search {
    text: String,
    room: Option<String>,
    from: Option<String>,
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
        Type::Read => {
            let Read { room, seq } = parse(line)?;
            Command::Read { room: self::room(&room)?, seq }
        }
        Type::Say => {
            let Say { room, text, id, reply_to } = parse(line)?;
            Command::Say {
                room: self::room(&room)?,
                text: self::text(text, max_bytes)?,
                id: self::id(id)?,
                reply_to,
            }
        }
        Type::Edit => {
            let Edit { room, seq, text, id } = parse(line)?;
            Command::Edit {
                room: self::room(&room)?,
                target: seq,
                text: self::text(text, max_bytes)?,
                id: self::id(id)?,
            }
        }
        Type::Delete => {
            let Delete { room, seq, id } = parse(line)?;
            Command::Delete { room: self::room(&room)?, target: seq, id: self::id(id)? }
        }
        Type::React => {
            let React { room, seq, emoji, on, id } = parse(line)?;
            let emoji = Emoji::parse(&emoji).map_err(|error| refusal(ErrorCode::BadJson, &error));
            Command::React {
                room: self::room(&room)?,
                target: seq,
                emoji: emoji?,
                on: on.unwrap_or(true),
                id: self::id(id)?,
            }
        }
        Type::SetRoom => {
            let SetRoom { room, topic, id } = parse(line)?;
            let topic = Topic::parse(&topic).map_err(|error| refusal(ErrorCode::BadJson, &error));
            Command::SetRoom { room: self::room(&room)?, topic: topic?, id: self::id(id)? }
        }
        Type::History => {
            let History { room, before, after, around, limit } = parse(line)?;
            let limit = limit.unwrap_or(HISTORY_DEFAULT);
            if !(1..=HISTORY_MAX).contains(&limit) {
                return Err(refusal(ErrorCode::BadJson, &"limit must be 1 to 100"));
            }
            let range = match (before, after, around) {
                (None, None, None) => HistoryRange::Latest,
                (Some(before), None, None) => HistoryRange::Before(before),
                (None, Some(after), None) => HistoryRange::After(after),
                (None, None, Some(around)) => HistoryRange::Around(around),
                (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
                    let words = "use only one of before, after and around";
                    return Err(refusal(ErrorCode::BadJson, &words));
                }
            };
            Command::History { room: self::room(&room)?, range, limit }
        }
        Type::Search => {
            let Search { text, room, from, before, limit } = parse(line)?;
            let limit = limit.unwrap_or(SEARCH_DEFAULT);
            if !(1..=SEARCH_MAX).contains(&limit) {
                return Err(refusal(ErrorCode::BadJson, &"limit must be 1 to 50"));
            }
            let query = SearchQuery {
                terms: search_terms(&text)?,
                room: room.as_deref().map(self::room).transpose()?,
                from: from.as_deref().map(author_name).transpose()?,
                before: before.unwrap_or(Seq::MAX),
                limit,
            };
            Command::Search { query }
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

/// Parses the name of an author. Users cannot choose a generated name, but messages may have one.
fn author_name(text: &str) -> Result<Nick, Refusal> {
    match Nick::parse(text) {
        Err(BadNick::Reserved) => Ok(Nick::from_trusted(text.trim().to_owned())),
        nick => nick.map_err(|error| refusal(ErrorCode::BadNick, &error)),
    }
}

fn search_terms(text: &str) -> Result<SearchTerms, Refusal> {
    SearchTerms::parse(text).map_err(|error| {
        let code = match error {
            BadSearch::Empty => ErrorCode::Empty,
            BadSearch::TooLong => ErrorCode::TooLong,
        };
        refusal(code, &error)
    })
}

fn room(text: &str) -> Result<RoomName, Refusal> {
    RoomName::parse(text).map_err(|error| refusal(ErrorCode::BadRoom, &error))
}

fn id(text: Option<String>) -> Result<Option<MessageId>, Refusal> {
    let id = text.as_deref().map(MessageId::parse).transpose();
    id.map_err(|error| refusal(ErrorCode::BadJson, &error))
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
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<Author>,
    nick: &'a Nick,
    text: &'a MessageText,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quote: Option<&'a Quote>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Reactions::is_empty")]
    reactions: Reactions<'a>,
}

impl<'a> From<&'a ChatMessage> for MessageObject<'a> {
    /// Returns the message without its quote, as in the `message` event.
    fn from(message: &'a ChatMessage) -> Self {
        Self {
            room: &message.room,
            seq: message.seq,
            at: message.at,
            author: message.author.map(Author::from),
            nick: &message.nick,
            text: &message.text,
            id: message.id.as_ref(),
            reply_to: message.reply_to,
            quote: None,
            edited_at: message.edited_at,
            deleted: message.deleted,
            reactions: Reactions(&[]),
        }
    }
}

impl<'a> MessageObject<'a> {
    /// Returns the message with its quote and its reactions, as in `joined` and `history`. The
    /// counts are sorted by message.
    fn listed(message: &'a ChatMessage, counts: &'a [ReactionCount]) -> Self {
        let start = counts.partition_point(|count| count.target < message.seq);
        let end = counts.partition_point(|count| count.target <= message.seq);
        let (quote, reactions) = (message.quote.as_deref(), Reactions(&counts[start..end]));
        Self { quote, reactions, ..message.into() }
    }
}

/// The reactions to one message, as an object of counts by emoji.
struct Reactions<'a>(&'a [ReactionCount]);

impl Reactions<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Reactions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|reaction| (&reaction.emoji, reaction.count)))
    }
}

/// An entry with its `type`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Message(MessageObject<'a>),
    Edited {
        #[serde(flatten)]
        head: ChangeHead<'a>,
        target: Seq,
        text: &'a MessageText,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a MessageId>,
    },
    Deleted {
        #[serde(flatten)]
        head: ChangeHead<'a>,
        target: Seq,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a MessageId>,
    },
    Reacted {
        #[serde(flatten)]
        head: ChangeHead<'a>,
        target: Seq,
        emoji: &'a Emoji,
        on: bool,
        count: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a MessageId>,
    },
    Room {
        #[serde(flatten)]
        head: ChangeHead<'a>,
        topic: &'a Topic,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a MessageId>,
    },
}

/// The fields that all changes have.
#[derive(Serialize)]
struct ChangeHead<'a> {
    room: &'a RoomName,
    seq: Seq,
    at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<Author>,
    nick: &'a Nick,
}

impl<'a> From<&'a Change> for Line<'a> {
    fn from(change: &'a Change) -> Self {
        let Change { room, seq, at, author, nick, id, kind } = change;
        let author = author.map(Author::from);
        let (head, id) = (ChangeHead { room, seq: *seq, at: *at, author, nick }, id.as_ref());
        match kind {
            ChangeKind::Edit { target, text } => Self::Edited { head, target: *target, text, id },
            ChangeKind::Delete { target } => Self::Deleted { head, target: *target, id },
            &ChangeKind::React { target, ref emoji, on, count } => {
                Self::Reacted { head, target, emoji, on, count, id }
            }
            ChangeKind::Room { topic } => Self::Room { head, topic, id },
        }
    }
}

/// An [`Event`] as an object.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum EventObject<'a> {
    Welcome {
        nick: &'a Nick,
        author: Author,
        limits: &'a Limits,
        durability: Durability,
    },
    Joined {
        room: &'a RoomName,
        epoch: &'a Epoch,
        seq: Seq,
        recovered: bool,
        #[serde(skip_serializing_if = "Topic::is_empty")]
        topic: &'a Topic,
        members: &'a [Nick],
        member_count: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        read: Option<Seq>,
        #[serde(skip_serializing_if = "Option::is_none")]
        unread: Option<usize>,
        #[serde(skip_serializing_if = "Option::is_none")]
        first_unread: Option<Seq>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mentions: Option<usize>,
        messages: MessageList<'a>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        mine: Vec<OwnReaction<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        changes: Vec<Line<'a>>,
    },
    Presence {
        room: &'a RoomName,
        joined: &'a [Nick],
        left: &'a [Nick],
        member_count: usize,
    },
    Renamed {
        room: &'a RoomName,
        from: &'a Nick,
        to: &'a Nick,
    },
    Typing {
        room: &'a RoomName,
        nick: &'a Nick,
    },
    Read {
        room: &'a RoomName,
        seq: Seq,
    },
    Members {
        room: &'a RoomName,
        members: &'a [Nick],
        member_count: usize,
    },
    Left {
        room: &'a RoomName,
    },
    History {
        room: &'a RoomName,
        messages: MessageList<'a>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        mine: Vec<OwnReaction<'a>>,
        more: bool,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        more_newer: bool,
    },
    Search {
        results: &'a [SearchResult],
        more: bool,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        incomplete: bool,
    },
    Said {
        room: &'a RoomName,
        seq: Seq,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a MessageId>,
        duplicate: bool,
    },
    Error(&'a Refusal),
}

impl<'a> From<&'a Event> for EventObject<'a> {
    fn from(event: &'a Event) -> Self {
        match event {
            Event::Welcome { nick, author, limits, durability } => {
                Self::Welcome { nick, author: *author, limits, durability: *durability }
            }
            Event::Joined {
                room,
                epoch,
                seq,
                recovered,
                topic,
                members,
                member_count,
                unread,
                messages,
                counts,
                changes,
            } => Self::Joined {
                room,
                epoch,
                seq: *seq,
                recovered: *recovered,
                topic,
                members,
                member_count: *member_count,
                read: unread.map(|unread| unread.mark),
                unread: unread.map(|unread| unread.count),
                first_unread: unread.and_then(|unread| unread.first),
                mentions: unread.map(|unread| unread.mentions),
                messages: MessageList { messages, counts },
                mine: OwnReaction::among(counts).collect(),
                changes: changes.iter().map(|change| (&**change).into()).collect(),
            },
            Event::Presence { room, joined, left, member_count } => {
                Self::Presence { room, joined, left, member_count: *member_count }
            }
            Event::Renamed { room, from, to } => Self::Renamed { room, from, to },
            Event::Typing { room, nick } => Self::Typing { room, nick },
            Event::Read { room, seq } => Self::Read { room, seq: *seq },
            Event::Members { room, members, member_count } => {
                Self::Members { room, members, member_count: *member_count }
            }
            Event::Left { room } => Self::Left { room },
            Event::History { room, messages, counts, more, more_newer } => Self::History {
                room,
                messages: MessageList { messages, counts },
                mine: OwnReaction::among(counts).collect(),
                more: *more,
                more_newer: *more_newer,
            },
            Event::Search { results, more, incomplete } => {
                Self::Search { results, more: *more, incomplete: *incomplete }
            }
            Event::Said { room, seq, id, duplicate } => {
                Self::Said { room, seq: *seq, id: id.as_ref(), duplicate: *duplicate }
            }
            Event::Error(refusal) => Self::Error(refusal),
        }
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        EventObject::from(self).serialize(serializer)
    }
}

/// The messages of `joined` or `history`.
struct MessageList<'a> {
    messages: &'a [Arc<ChatMessage>],
    counts: &'a [ReactionCount],
}

impl Serialize for MessageList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let objects = self.messages.iter().map(|it| MessageObject::listed(it, self.counts));
        serializer.collect_seq(objects)
    }
}

/// A reaction of the client that receives `joined` or `history`.
#[derive(Serialize)]
struct OwnReaction<'a> {
    seq: Seq,
    emoji: &'a Emoji,
}

impl<'a> OwnReaction<'a> {
    fn among(counts: &'a [ReactionCount]) -> impl Iterator<Item = Self> {
        counts.iter().filter(|count| count.mine).map(Self::from)
    }
}

impl<'a> From<&'a ReactionCount> for OwnReaction<'a> {
    fn from(count: &'a ReactionCount) -> Self {
        Self { seq: count.target, emoji: &count.emoji }
    }
}

/// Encodes a message as a line, without the line break.
#[must_use]
pub fn line(message: &ChatMessage) -> String {
    encode(&Line::Message(message.into()))
}

/// Encodes an entry as a line, without the line break. Returns `None` if clients do not receive it.
#[must_use]
pub fn entry_line(entry: &Entry) -> Option<String> {
    match entry {
        Entry::Message(message) => Some(line(message)),
        Entry::Change(change) => Some(encode(&Line::from(&**change))),
        Entry::Settings(_) => None,
    }
}

/// Encodes a message as an object without `type`, quote and reactions.
#[must_use]
pub fn object(message: &ChatMessage) -> String {
    encode(&MessageObject::from(message))
}

/// Encodes an answer as a line, without the line break.
#[must_use]
pub fn reply(reply: &Reply) -> String {
    encode(reply)
}

/// Encodes an answer piece by piece, each when the iterator reaches it. Every message, every change
/// and every reaction of the reader is a piece.
pub fn reply_parts(mut reply: Reply) -> impl Iterator<Item = String> {
    let Contents { messages, counts, changes } = reply.event.take_contents();
    // This cannot occur inside a string, where `"` is escaped.
    const NO_MESSAGES: &str = "\"messages\":[]";
    let whole = encode(&reply);
    let place = whole.find(NO_MESSAGES).map_or(whole.len(), |at| at + NO_MESSAGES.len() - 1);
    let (before, after) = whole.split_at(place);
    let (bracket, after) = after.split_at(after.len().min(1));
    let (before, bracket, after) = (before.to_owned(), bracket.to_owned(), after.to_owned());
    let mine: Vec<_> = counts.iter().filter(|count| count.mine).cloned().collect();
    let messages = messages.into_iter().map(move |it| encode(&MessageObject::listed(&it, &counts)));
    once(before)
        .chain(separated(messages))
        .chain(once(bracket))
        .chain(array("mine", mine, |count| encode(&OwnReaction::from(&count))))
        .chain(array("changes", changes, |change| encode(&Line::from(&*change))))
        .chain(once(after))
}

/// Encodes an array as another field of an object. Returns nothing if the array is empty.
fn array<T>(
    name: &'static str,
    items: Vec<T>,
    encode: impl Fn(T) -> String,
) -> impl Iterator<Item = String> {
    let has_items = !items.is_empty();
    let begin = has_items.then(|| format!(",\"{name}\":["));
    let end = has_items.then(|| "]".to_owned());
    begin.into_iter().chain(separated(items.into_iter().map(encode))).chain(end)
}

/// Puts a comma before each item except the first one.
fn separated(items: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    items.enumerate().map(|(n, item)| if n == 0 { item } else { format!(",{item}") })
}

/// Encodes an event as a line, without the line break.
#[must_use]
pub fn event(event: &Event) -> String {
    encode(event)
}

fn encode(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("all keys are strings and no other error is possible")
}

#[cfg(test)]
mod tests;
