//! Searches messages, newest first: in the parts of the index, and one by one where there is no
//! part yet. Every candidate is compared with the current text of the message, so a part may
//! contain words of messages that were pruned.

use std::ops::ControlFlow;
use std::time::Instant;

use log::warn;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row};

use super::{Part, State, nick_token, room_token};
use crate::domain::{Author, Identity, Nick, RoomName, SearchQuery, SearchResult};
use crate::log::Found;
use crate::log::sqlite::rows::{self, integer};

/// The maximum number of messages that one search reads without the index. If there are more, the
/// results are incomplete.
const SCANNED_MAX: i64 = if cfg!(test) { 40 } else { 20_000 };

/// A search in a room with at most this number of messages does not use the index.
const SMALL_ROOM: i64 = if cfg!(test) { 10 } else { 1000 };

/// Returns the messages that match, newest first. At the deadline, returns the results so far.
pub(super) fn search(
    connection: &Connection,
    query: &SearchQuery,
    deadline: Instant,
) -> rusqlite::Result<Found> {
    // All statements must see the same snapshot. It ends with this function.
    let snapshot = connection.unchecked_transaction()?;
    let mut search = Search {
        connection: &snapshot,
        query,
        room: None,
        deadline,
        scanned: 0,
        found: Found::default(),
    };
    if let Some(name) = &query.room {
        let Some(room) = Room::find(&snapshot, name)? else { return Ok(Found::default()) };
        search.room = Some(room);
    }
    // `Break` means that the search has enough results, or no time is left.
    let _ = search.run()?;
    Ok(search.found)
}

struct Room {
    id: i64,
    messages: i64,
    floor: i64,
}

impl Room {
    fn find(connection: &Connection, name: &RoomName) -> rusqlite::Result<Option<Self>> {
        let select = "SELECT id, messages, floor FROM rooms WHERE name = ?1";
        let mut select = connection.prepare_cached(select)?;
        let room = select.query_row([name.as_str()], |row| {
            Ok(Self { id: row.get(0)?, messages: row.get(1)?, floor: row.get(2)? })
        });
        room.optional()
    }
}

struct Search<'a> {
    connection: &'a Connection,
    query: &'a SearchQuery,
    /// The room of the query.
    room: Option<Room>,
    deadline: Instant,
    /// The number of messages that were read without the index.
    scanned: i64,
    found: Found,
}

/// `Break` ends the search.
type Flow = rusqlite::Result<ControlFlow<()>>;

/// Returns from the enclosing function if the search has ended.
macro_rules! go_on {
    ($flow:expr) => {
        if $flow?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    };
}

impl Search<'_> {
    fn run(&mut self) -> Flow {
        let mut upper = integer(self.query.before).saturating_sub(1);
        if self.room.as_ref().is_some_and(|room| room.messages <= SMALL_ROOM) {
            return self.scan(0, upper);
        }
        let parts = Part::all(self.connection)?;
        let expression = self.expression();
        for part in parts.iter().filter(|part| part.state == State::Live) {
            go_on!(self.scan(part.indexed.max(part.first - 1) + 1, upper));
            match self.search_part(part, upper, &expression) {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
                    warn!("a part of the search index is damaged: {error}");
                    self.found.incomplete = true;
                }
                searched => go_on!(searched),
            }
            upper = upper.min(part.first - 1);
            // A part without results has not checked it.
            go_on!(self.check_time());
        }
        let select = "SELECT coalesce(max(top), 0) FROM search_fill";
        let placed: i64 =
            self.connection.prepare_cached(select)?.query_row([], |row| row.get(0))?;
        go_on!(self.scan(placed, upper));
        // Older messages are not in `message_rooms` yet.
        self.found.incomplete |= placed > 0 && upper > 0;
        Ok(ControlFlow::Continue(()))
    }

    /// Returns the query in the syntax of FTS5. All strings are in quotes.
    fn expression(&self) -> String {
        let phrases = self.query.terms.phrases().iter().map(|keys| keys.join(" "));
        let mut terms: Vec<_> = phrases.map(|phrase| ("text", phrase)).collect();
        terms.extend(self.room.as_ref().map(|room| ("room", room_token(room.id))));
        terms.extend(self.query.from.as_ref().map(|nick| ("nick", nick_token(nick))));
        let terms = terms.iter().map(|(column, term)| {
            // A key contains no quotes. Doubling them ensures that it cannot end the string.
            format!("{column} : \"{}\"", term.replace('"', "\"\""))
        });
        terms.collect::<Vec<_>>().join(" AND ")
    }

    /// Searches a part up to a sequence number.
    fn search_part(&mut self, part: &Part, upper: i64, expression: &str) -> Flow {
        if upper < part.first {
            return Ok(ControlFlow::Continue(()));
        }
        let table = part.table();
        let mut select = self.connection.prepare_cached(&format!(
            "SELECT rowid FROM {table} WHERE {table} MATCH ?1 AND rowid <= ?2 ORDER BY rowid DESC"
        ))?;
        let mut message = self.connection.prepare_cached(
            "SELECT message.seq, message.at, message.author, message.nick, message.text,
                 message.deleted, room.floor, room.name
             FROM message_rooms placed CROSS JOIN rooms room CROSS JOIN messages message
             WHERE placed.seq = ?1 AND room.id = placed.room
                 AND message.room = placed.room AND message.seq = placed.seq",
        )?;
        let mut rows = select.query((expression, upper.min(part.indexed)))?;
        while let Some(row) = rows.next()? {
            let mut found = message.query([row.get::<_, i64>(0)?])?;
            if let Some(row) = found.next()? {
                go_on!(self.consider(row));
            }
            go_on!(self.check_time());
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads the messages between two sequence numbers one by one.
    fn scan(&mut self, first: i64, last: i64) -> Flow {
        if first > last {
            return Ok(ControlFlow::Continue(()));
        }
        // One row more than allowed shows that not all were read.
        let most = SCANNED_MAX - self.scanned + 1;
        if let Some(room) = &self.room {
            let select = "SELECT message.seq, message.at, message.author, message.nick,
                              message.text, message.deleted, room.floor, room.name
                          FROM rooms room CROSS JOIN messages message
                          WHERE room.id = ?1 AND message.room = room.id
                              AND message.seq BETWEEN ?2 AND ?3
                          ORDER BY message.seq DESC LIMIT ?4";
            let mut select = self.connection.prepare_cached(select)?;
            let first = first.max(room.floor + 1);
            let mut rows = select.query((room.id, first, last, most))?;
            while let Some(row) = rows.next()? {
                go_on!(self.consider_scanned(row));
            }
        } else {
            let select = "SELECT message.seq, message.at, message.author, message.nick,
                              message.text, message.deleted, room.floor, room.name
                          FROM message_rooms placed CROSS JOIN rooms room
                              CROSS JOIN messages message
                          WHERE placed.seq BETWEEN ?1 AND ?2 AND room.id = placed.room
                              AND message.room = placed.room AND message.seq = placed.seq
                          ORDER BY placed.seq DESC LIMIT ?3";
            let mut select = self.connection.prepare_cached(select)?;
            let mut rows = select.query((first, last, most))?;
            while let Some(row) = rows.next()? {
                go_on!(self.consider_scanned(row));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn consider_scanned(&mut self, row: &Row<'_>) -> Flow {
        if self.scanned == SCANNED_MAX {
            // The rest of this range is skipped.
            self.found.incomplete = true;
            return Ok(ControlFlow::Continue(()));
        }
        self.scanned += 1;
        go_on!(self.consider(row));
        self.check_time()
    }

    /// Adds a message to the results if it matches.
    fn consider(&mut self, row: &Row<'_>) -> Flow {
        let seq: i64 = row.get(0)?;
        if row.get(5)? || seq <= row.get::<_, i64>(6)? {
            return Ok(ControlFlow::Continue(()));
        }
        let nick = Nick::from_trusted(row.get(3)?);
        if self.query.from.as_ref().is_some_and(|from| *from != nick) {
            return Ok(ControlFlow::Continue(()));
        }
        let name = row.get_ref(7)?.as_str()?;
        if self.query.room.as_ref().is_some_and(|room| room.as_str() != name) {
            return Ok(ControlFlow::Continue(()));
        }
        let Some(snippet) = self.query.terms.snippet(row.get_ref(4)?.as_str()?) else {
            return Ok(ControlFlow::Continue(()));
        };
        if self.found.results.len() == self.query.limit {
            self.found.more = true;
            return Ok(ControlFlow::Break(()));
        }
        let author: Option<[u8; 16]> = row.get(2)?;
        self.found.results.push(SearchResult {
            room: RoomName::from_trusted(name.to_owned()),
            seq: rows::seq(seq),
            at: rows::time(row.get(1)?),
            author: author.map(|author| Author::from(Identity::from_trusted(author))),
            nick,
            snippet,
        });
        Ok(ControlFlow::Continue(()))
    }

    /// Ends the search at the deadline.
    fn check_time(&mut self) -> Flow {
        if Instant::now() < self.deadline {
            return Ok(ControlFlow::Continue(()));
        }
        self.found.incomplete = true;
        self.found.more = !self.found.results.is_empty();
        Ok(ControlFlow::Break(()))
    }
}
