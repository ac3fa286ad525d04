//! The searcher answers searches on a thread of its own, so that no page of the history waits for a
//! search.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use actix::prelude::*;
use rusqlite::Connection;

use super::query;
use crate::domain::SearchQuery;
use crate::log::sqlite::schema;
use crate::log::{Found, LogError, Search};

/// The maximum time of a search, without the time that it waits.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(1);

/// A search that has waited longer than this is rejected, so that the queue becomes shorter.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The maximum number of prepared statements. There is one for each part of the index.
const STATEMENTS_MAX: usize = 256;

/// An actor that searches the journal.
pub(in crate::log::sqlite) struct Searcher {
    /// `None` after an error. The next search reopens the file.
    connection: Option<Connection>,
    path: PathBuf,
}

impl Actor for Searcher {
    type Context = SyncContext<Self>;
}

impl Handler<Search> for Searcher {
    type Result = ();

    fn handle(&mut self, search: Search, _: &mut Self::Context) {
        let Search { query, asked, answer } = search;
        if asked.elapsed() > WAIT_MAX {
            return answer.give(Err(LogError::Busy("too many searches".into())));
        }
        let found = self.search(&query, Instant::now() + SEARCH_TIME_MAX);
        answer.give(found.map_err(|error| LogError::Failed(error.to_string())));
    }
}

impl Searcher {
    pub(in crate::log::sqlite) fn new(path: PathBuf) -> Self {
        Self { connection: None, path }
    }

    pub(super) fn search(
        &mut self,
        query: &SearchQuery,
        deadline: Instant,
    ) -> rusqlite::Result<Found> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = schema::open_to_read(&self.path)?;
                connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
                connection
            }
        };
        let found = query::search(&connection, query, deadline)?;
        self.connection = Some(connection);
        Ok(found)
    }
}
