//! The times of appends. They increase, except where the system clock was set back while no server
//! was running.

use rusqlite::Connection;

use super::{rows, schema};
use crate::domain::{Seq, Timestamp};

/// The times of the appends so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// The time of the last one.
    last: Timestamp,
    /// The greatest time.
    latest: Timestamp,
}

impl Clock {
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let read = |name| {
            let millis = schema::meta::<i64>(connection, name);
            millis.map(|millis| rows::time(millis.unwrap_or_default()))
        };
        let last = read("at")?;
        Ok(Self { last, latest: last.max(read("latest")?) })
    }

    /// Returns the greatest time of all appends.
    pub(super) fn latest(self) -> Timestamp {
        self.latest
    }

    /// Returns the clock after another append.
    pub(super) fn advanced(self, at: Timestamp) -> Self {
        Self { last: at, latest: self.latest.max(at) }
    }

    /// Stores the time of an append. `before` is the clock before it, and `next` the first sequence
    /// number that it could assign.
    pub(super) fn store(
        self,
        connection: &Connection,
        before: Self,
        next: Seq,
    ) -> rusqlite::Result<()> {
        schema::set_meta(connection, "at", rows::millis(self.last))?;
        if self.last < before.last {
            schema::set_meta(connection, "latest", rows::millis(self.latest))?;
            connection
                .prepare_cached("INSERT OR IGNORE INTO clock_steps VALUES (?1)")?
                .execute([rows::integer(next)])?;
        }
        Ok(())
    }
}
