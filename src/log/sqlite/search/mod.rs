//! Full-text search of the messages, with an index in the same file.
//!
//! The index consists of parts, each with a range of sequence numbers and an FTS5 table of its own.
//! A rebuilt part is `building` until it replaces others. A part is `live` while it is searched,
//! and then `dropping`. The ranges of live parts do not overlap. `index` maintains the parts, some
//! time after the messages are appended; it takes the messages from `recent` or from the file, and
//! those of an older version from `window`. `query` searches the parts, and reads messages that are
//! in no part.

mod index;
mod query;
mod recent;
mod searcher;
#[cfg(test)]
mod tests;
mod window;

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row};

use crate::domain::{Nick, WORDS_VERSION, joined_keys};
pub(super) use index::{Indexer, reindex};
pub(super) use searcher::Searcher;

/// A part of the search index: a row of `search_parts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    id: i64,
    /// The range of the sequence numbers of its messages. The newest part has no end: its last
    /// number is the highest possible one.
    first: i64,
    last: i64,
    /// The messages from `first` up to this sequence number are in the index.
    indexed: i64,
    /// The number of these messages when they were indexed. Some may have been pruned since.
    rows: i64,
    state: State,
    /// Whether the index is stored in one segment, which is searched faster.
    merged: bool,
    /// When a check first found that messages of the part were pruned, in milliseconds since 1970.
    pruned_at: Option<i64>,
}

/// The state of a [`Part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is not searched. When it is complete, it replaces the live parts in its range.
    Building,
    /// It is searched.
    Live,
    /// It is not searched any more, and its table is being deleted.
    Dropping,
}

impl ToSql for State {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(match self {
            Self::Building => "building",
            Self::Live => "live",
            Self::Dropping => "dropping",
        }))
    }
}

impl FromSql for State {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(match value.as_str()? {
            "building" => Self::Building,
            "live" => Self::Live,
            _ => Self::Dropping,
        })
    }
}

impl Part {
    /// Returns all parts, newest first.
    fn all(connection: &Connection) -> rusqlite::Result<Vec<Self>> {
        let select = "SELECT id, first, last, indexed, rows, state, merged, pruned_at, words
                      FROM search_parts ORDER BY first DESC, id DESC";
        let mut select = connection.prepare_cached(select)?;
        let parts = select.query_map([], Self::read)?;
        parts.collect()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        // Texts were split by other rules, so a search would not find them.
        let state =
            if row.get::<_, i64>(8)? == WORDS_VERSION { row.get(5)? } else { State::Dropping };
        Ok(Self {
            id: row.get(0)?,
            first: row.get(1)?,
            last: row.get(2)?,
            indexed: row.get(3)?,
            rows: row.get(4)?,
            state,
            merged: row.get(6)?,
            pruned_at: row.get(7)?,
        })
    }

    /// Returns whether it is the newest part, which takes new messages.
    fn is_open(&self) -> bool {
        self.last == i64::MAX && self.state == State::Live
    }

    fn is_complete(&self) -> bool {
        self.indexed >= self.last
    }

    fn table(&self) -> String {
        format!("search_{}", self.id)
    }
}

/// A message as the index stores it: its words, and tokens of its room and its author's name.
#[derive(Debug)]
struct Document {
    text: String,
    room: String,
    nick: String,
}

impl Document {
    /// Returns the document of a message, or `None` if the message has no words.
    fn new(room: i64, nick: &str, text: &str) -> Option<Self> {
        let keys = joined_keys(text);
        let nick = || nick_token(&Nick::from_trusted(nick.to_owned()));
        (!keys.is_empty()).then(|| Self { text: keys, room: room_token(room), nick: nick() })
    }
}

fn room_token(room: i64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut rest = room.unsigned_abs();
    let mut token = String::new();
    while rest > 0 {
        token.insert(0, char::from(DIGITS[(rest % 36) as usize]));
        rest /= 36;
    }
    token.insert(0, 'r');
    token
}

/// Returns the token of a name. Equal names have the same token, and so may other names.
fn nick_token(nick: &Nick) -> String {
    // FNV-1a. The token is stored, and the hash functions of the standard library may change.
    let hash = nick
        .key()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("n{hash:08x}")
}
