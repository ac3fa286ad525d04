//! Conversions between the values of SQLite and those of the domain.

use rusqlite::Row;

use crate::domain::{
    ChatMessage, Identity, MessageId, MessageText, Nick, RoomName, Seq, Timestamp,
};

/// Converts a sequence number to SQLite's signed integer.
pub(super) fn integer(seq: Seq) -> i64 {
    i64::try_from(seq.get()).unwrap_or(i64::MAX)
}

/// Converts a sequence number that was read.
pub(super) fn seq(number: i64) -> Seq {
    Seq::new(number.unsigned_abs())
}

/// Converts a time to SQLite's signed integer.
pub(super) fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.millis()).unwrap_or(i64::MAX)
}

/// Converts a time that was read.
pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis.unsigned_abs())
}

/// Converts a number of bytes or messages to SQLite's signed integer.
pub(super) fn count(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Returns the bytes of the author of a reaction. An empty blob is the server itself, because a
/// primary key cannot contain `NULL`.
pub(super) fn reaction_author(author: Option<&Identity>) -> &[u8] {
    author.map_or(&[], |author| author.as_bytes())
}

/// Converts the author of a reaction that was read.
pub(super) fn identity(bytes: &[u8]) -> Option<Identity> {
    bytes.try_into().ok().map(Identity::from_trusted)
}

/// Reads a message, without its quote, from the columns `seq, at, nick, text, attributed, id,
/// author, reply_to, edited_at, deleted`.
pub(super) fn message(room: &RoomName, row: &Row<'_>) -> rusqlite::Result<ChatMessage> {
    let id: Option<String> = row.get(5)?;
    let author: Option<[u8; 16]> = row.get(6)?;
    Ok(ChatMessage {
        room: room.clone(),
        seq: seq(row.get(0)?),
        at: time(row.get(1)?),
        author: author.map(Identity::from_trusted),
        nick: Nick::from_trusted(row.get(2)?),
        text: MessageText::from_trusted(row.get(3)?),
        attributed: row.get(4)?,
        id: id.and_then(|id| MessageId::parse(&id).ok()),
        reply_to: row.get::<_, Option<i64>>(7)?.map(seq),
        quote: None,
        edited_at: row.get::<_, Option<i64>>(8)?.map(time),
        deleted: row.get(9)?,
        counted: None,
    })
}
