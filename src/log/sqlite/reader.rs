//! The readers of the journal, on threads of their own. They answer the hub's requests for pages of
//! the history. In SQLite's write-ahead log mode they do not block the writer.

use std::path::PathBuf;

use actix::prelude::*;
use rusqlite::Connection;

use super::page::{Query, read_page};
use super::schema;
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
        let Page { room, before, range, reader, limit, max_bytes, answer } = page;
        let messages = self.read(&Query { room, before, range, reader, limit, max_bytes });
        answer.give(messages.map_err(|error| LogError::Failed(error.to_string())));
    }
}

impl Reader {
    pub(super) fn new(connection: Option<Connection>, path: PathBuf) -> Self {
        Self { connection, path }
    }

    /// Reads messages of a room, as [`Page`] describes.
    pub(super) fn read(&mut self, query: &Query) -> rusqlite::Result<Messages> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => schema::open_to_read(&self.path)?,
        };
        let messages = read_page(&connection, query)?;
        self.connection = Some(connection);
        Ok(messages)
    }
}
