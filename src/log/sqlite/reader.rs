//! The readers of the journal, on threads of their own. They answer the hub's requests for pages of
//! the history and for counts of unread messages. In SQLite's write-ahead log mode they do not
//! block the writer.

use std::path::PathBuf;

use actix::prelude::*;
use rusqlite::Connection;

use super::marks::{self, PendingMarks, UnreadQuery};
use super::page::{Query, read_page};
use super::schema;
use crate::domain::Unread;
use crate::log::{CountUnread, LogError, Messages, Page};

/// An actor that reads the journal.
pub struct Reader {
    /// `None` after an error. The next request reopens the file.
    connection: Option<Connection>,
    path: PathBuf,
    pending_marks: PendingMarks,
}

impl Actor for Reader {
    type Context = SyncContext<Self>;
}

impl Handler<Page> for Reader {
    type Result = ();

    fn handle(&mut self, page: Page, _: &mut Self::Context) {
        let Page { room, before, range, reader, limit, max_bytes, answer } = page;
        let messages = self.read(&Query { room, before, range, reader, limit, max_bytes });
        answer.give(messages.map_err(|error| LogError::Failed(error.to_string())));
    }
}

impl Handler<CountUnread> for Reader {
    type Result = ();

    fn handle(&mut self, count: CountUnread, _: &mut Self::Context) {
        let CountUnread { identity, nick, room, known, before, answer } = count;
        let unread = self.count_unread(&UnreadQuery { identity, nick, room, known, before });
        answer.give(unread.map_err(|error| LogError::Failed(error.to_string())));
    }
}

impl Reader {
    pub(super) fn new(
        connection: Option<Connection>,
        path: PathBuf,
        pending_marks: PendingMarks,
    ) -> Self {
        Self { connection, path, pending_marks }
    }

    /// Reads messages of a room, as [`Page`] describes.
    pub(super) fn read(&mut self, query: &Query) -> rusqlite::Result<Messages> {
        self.with_connection(|connection| read_page(connection, query))
    }

    /// Counts the unread messages of a user, as [`CountUnread`] describes.
    pub(super) fn count_unread(&mut self, query: &UnreadQuery) -> rusqlite::Result<Option<Unread>> {
        let pending_marks = self.pending_marks.clone();
        self.with_connection(|connection| marks::count_unread(connection, &pending_marks, query))
    }

    fn with_connection<T>(
        &mut self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => schema::open_to_read(&self.path)?,
        };
        let found = read(&connection)?;
        self.connection = Some(connection);
        Ok(found)
    }
}
