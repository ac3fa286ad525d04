//! The file: how it is laid out, how it is opened, which log it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};

use super::JournalError;
use crate::config::DbSync;
use crate::domain::{Epoch, Seq};

/// How long one who holds the file's lock is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What marks a SQLite file as ours: "chnw".
const APPLICATION_ID: i32 = 0x6368_6E77;

/// How to get from each version of the layout, `user_version`, to the next.
///
/// A room's messages lie together, so that a page of them is read at one place. `floor` is the
/// last place that was pruned, and `messages` counts those after it. Below the floor stays what is
/// still needed to know a repeated message again.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE rooms (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        messages INTEGER NOT NULL DEFAULT 0,
        floor INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE messages (
        room INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        nick TEXT NOT NULL,
        text TEXT NOT NULL,
        attributed INTEGER NOT NULL,
        author BLOB,
        id TEXT,
        PRIMARY KEY (room, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX messages_by_origin ON messages (room, author, id) WHERE id IS NOT NULL;
"];

/// A journal as its writer finds it.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    pub(super) head: Seq,
}

/// Opens the file to write, and makes it if there is none.
pub(super) fn open(path: &Path, sync: DbSync) -> Result<Opened, JournalError> {
    let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => JournalError::NotOurs(path.to_owned()),
        _ => JournalError::Sqlite(path.to_owned(), error),
    };
    let mut connection = Connection::open(path).map_err(failed)?;
    check(&connection, path).map_err(|error| match error {
        Unfit::Journal(error) => error,
        Unfit::Sqlite(error) => failed(error),
    })?;
    let (epoch, head) = prepare(&mut connection, sync).map_err(failed)?;
    Ok(Opened { connection, epoch, head })
}

/// Opens the file to read.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, existing())?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// The same, to write: it must be there.
pub(super) fn reopen(path: &Path, sync: DbSync) -> rusqlite::Result<(Connection, Option<Epoch>)> {
    let connection = Connection::open_with_flags(path, existing())?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", synchronous(sync))?;
    let epoch = meta::<String>(&connection, "epoch")?.map(|epoch| Epoch::of(&epoch));
    Ok((connection, epoch))
}

fn existing() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

enum Unfit {
    Journal(JournalError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Unfit {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Whether the file is ours, before anything in it is changed.
fn check(connection: &Connection, path: &Path) -> Result<(), Unfit> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let path = || PathBuf::from(path);
    if tables > 0 && id != APPLICATION_ID {
        Err(Unfit::Journal(JournalError::NotOurs(path())))
    } else if version > MIGRATIONS.len() as i64 {
        Err(Unfit::Journal(JournalError::Newer(path())))
    } else {
        Ok(())
    }
}

fn prepare(connection: &mut Connection, sync: DbSync) -> rusqlite::Result<(Epoch, Seq)> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", synchronous(DbSync::Full))?;
    let done: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (version, step) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > done) {
        let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        change.execute_batch(step)?;
        change.pragma_update(None, "user_version", version)?;
        change.commit()?;
    }
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Where the last messages may have been lost with the power, their places will be given again.
    let unclean = meta::<i64>(&change, "unsynced")? == Some(1);
    let epoch = match meta::<String>(&change, "epoch")?.filter(|_| !unclean) {
        Some(epoch) => Epoch::of(&epoch),
        None => Epoch::random(),
    };
    set_meta(&change, "epoch", epoch.as_str())?;
    set_meta(&change, "unsynced", i64::from(sync == DbSync::Normal))?;
    let head = meta::<i64>(&change, "head")?.unwrap_or_default();
    change.commit()?;
    connection.pragma_update(None, "synchronous", synchronous(sync))?;
    Ok((epoch, Seq::new(head.unsigned_abs())))
}

/// Notes that the end was in order.
pub(super) fn close(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", synchronous(DbSync::Full))?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    set_meta(connection, "unsynced", 0)
}

fn synchronous(sync: DbSync) -> &'static str {
    match sync {
        DbSync::Full => "full",
        DbSync::Normal => "normal",
    }
}

fn meta<T: rusqlite::types::FromSql>(
    connection: &Connection,
    name: &str,
) -> rusqlite::Result<Option<T>> {
    let select = "SELECT value FROM meta WHERE name = ?1";
    connection.query_row(select, [name], |row| row.get(0)).optional()
}

pub(super) fn set_meta(
    connection: &Connection,
    name: &str,
    value: impl rusqlite::ToSql,
) -> rusqlite::Result<()> {
    let insert = "INSERT INTO meta (name, value) VALUES (?1, ?2)
                  ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(insert)?.execute((name, value)).map(|_| ())
}
