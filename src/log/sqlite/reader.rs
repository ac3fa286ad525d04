//! The readers of the journal, on threads of their own. They answer the hub's requests for pages of
//! the history. In SQLite's write-ahead log mode they do not block the writer.

use std::path::PathBuf;

use actix::prelude::*;
use rusqlite::{Connection, OptionalExtension};

use super::schema;
use super::writer::integer;
use crate::domain::{ChatMessage, MessageId, MessageText, Nick, RoomName, Seq, Timestamp};
use crate::log::{LogError, Messages, Page};

/// An actor that reads the journal.
pub struct Reader {
    /// `None` after an error. The next request reopens the file.
    connection: Option<Connection>,
    path: PathBuf,
}

impl Actor for Reader {
    type Context = SyncContext<Self>;
}

impl Handler<Page> for Reader {
    type Result = ();

    fn handle(&mut self, page: Page, _: &mut Self::Context) {
        let Page { room, before, limit, max_bytes, answer } = page;
        let messages = self.read(&room, before, limit, max_bytes);
        answer.give(messages.map_err(|error| LogError::Failed(error.to_string())));
    }
}

impl Reader {
    pub(super) fn new(connection: Option<Connection>, path: PathBuf) -> Self {
        Self { connection, path }
    }

    /// Reads the last messages of a room before `before`, as [`Page`] describes.
    pub(super) fn read(
        &mut self,
        room: &RoomName,
        before: Seq,
        limit: usize,
        max_bytes: usize,
    ) -> rusqlite::Result<Messages> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => schema::open_to_read(&self.path)?,
        };
        let messages = read_page(&connection, room, before, limit, max_bytes)?;
        self.connection = Some(connection);
        Ok(messages)
    }
}

fn read_page(
    connection: &Connection,
    name: &RoomName,
    before: Seq,
    limit: usize,
    max_bytes: usize,
) -> rusqlite::Result<Messages> {
    // Both queries must see the same snapshot.
    let snapshot = connection.unchecked_transaction()?;
    let room: Option<(i64, i64)> = snapshot
        .prepare_cached("SELECT id, floor FROM rooms WHERE name = ?1")?
        .query_row([name.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((room, floor)) = room else { return Ok(Messages::default()) };
    let mut select = snapshot.prepare_cached(
        "SELECT seq, at, nick, text, attributed, id FROM messages
         WHERE room = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq DESC",
    )?;
    let mut rows = select.query((room, floor, integer(before)))?;
    let mut page = Messages { floor: Seq::new(floor.unsigned_abs()), ..Messages::default() };
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let message = message_from_row(name, row)?;
        bytes += message.text.as_str().len();
        let is_full = page.messages.len() >= limit || bytes > max_bytes;
        if is_full && !page.messages.is_empty() {
            (page.floor, page.more) = (message.seq, true);
            break;
        }
        page.messages.push(message);
    }
    page.messages.reverse();
    Ok(page)
}

/// Reads a message from the columns `seq, at, nick, text, attributed, id`.
pub(super) fn message_from_row(
    room: &RoomName,
    row: &rusqlite::Row<'_>,
) -> rusqlite::Result<ChatMessage> {
    let id: Option<String> = row.get(5)?;
    Ok(ChatMessage {
        room: room.clone(),
        seq: Seq::new(row.get::<_, i64>(0)?.unsigned_abs()),
        at: Timestamp::from_millis(row.get::<_, i64>(1)?.unsigned_abs()),
        nick: Nick::from_trusted(row.get(2)?),
        text: MessageText::from_trusted(row.get(3)?),
        attributed: row.get(4)?,
        id: id.and_then(|id| MessageId::parse(&id).ok()),
        counted: None,
    })
}
