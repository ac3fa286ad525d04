//! The format of the SQLite file: its tables and migrations, how it is opened, and its epoch. The
//! other files of this module query the tables.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};
use thiserror::Error;

use super::{JournalError, absolute, lock};
use crate::config::DbSync;
use crate::domain::{Epoch, Seq};

/// How long SQLite waits for a lock on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Identifies a SQLite file of chinwag: "chnw".
const APPLICATION_ID: i32 = 0x6368_6E77;

/// The migration from each version of the schema, `user_version`, to the next.
///
/// The primary key of `messages` stores the messages of a room together, so a page of them is one
/// range of the file. `floor` is the last sequence number that was pruned, `messages` is the number
/// of messages after it, and `bytes` is their size: see [`MESSAGE_BYTES`]. Messages up to the floor
/// are tombstones without name and text. They are kept for some time to recognize duplicates.
const MIGRATIONS: [&str; 2] = [
    "
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
",
    "
    ALTER TABLE rooms ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE rooms SET bytes = (
        SELECT coalesce(sum(octet_length(text) + 128), 0) FROM messages
        WHERE room = rooms.id AND seq > rooms.floor);
    CREATE INDEX rooms_by_bytes ON rooms (bytes DESC, name);
",
];

/// What each message counts in addition to its text, in bytes. Its row and its index entry take
/// about as much.
pub(super) const MESSAGE_BYTES: i64 = 128;

/// Returns the size of all messages that are not pruned, in bytes.
pub(super) fn kept_bytes(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(sum(bytes), 0) FROM rooms", [], |row| row.get(0))
}

/// A journal that was opened for writing.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    pub(super) head: Seq,
    pub(super) kept_bytes: i64,
}

/// Opens the file for writing, or creates it if it does not exist. Migrates an older schema.
pub(super) fn open(
    path: &Path,
    sync: DbSync,
    max_bytes: Option<u64>,
) -> Result<Opened, JournalError> {
    let convert = |error: OpenError| match error {
        OpenError::NotAJournal => JournalError::NotAJournal(path.to_owned()),
        OpenError::Newer => JournalError::Newer(path.to_owned()),
        OpenError::Locked => JournalError::Locked(path.to_owned()),
        OpenError::Sqlite(error) => JournalError::Sqlite(path.to_owned(), error),
    };
    let mut connection = Connection::open(path).map_err(|error| convert(error.into()))?;
    schema_version(&connection).map_err(convert)?;
    let (epoch, head) = prepare(&mut connection, sync).map_err(|error| convert(error.into()))?;
    limit_size(&connection, max_bytes).map_err(|error| convert(error.into()))?;
    let kept_bytes = kept_bytes(&connection).map_err(|error| convert(error.into()))?;
    Ok(Opened { connection, epoch, head, kept_bytes })
}

/// Why a journal cannot be exported or backed up.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The file does not exist, or the operating system reported another error.
    #[error("cannot open {}: {}", .0.display(), .1)]
    System(PathBuf, std::io::Error),
    /// SQLite reported an error.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Sqlite(PathBuf, rusqlite::Error),
    /// Another program has locked the file.
    #[error("{} is locked by another program; stop that program, or try again later", .0.display())]
    Locked(PathBuf),
    /// The file belongs to another program, or is damaged.
    #[error("{} is not a chinwag history file, or is damaged", .0.display())]
    NotAJournal(PathBuf),
    /// The file has the format of a newer version of chinwag.
    #[error("{} was written by a newer version of chinwag; use that version", .0.display())]
    Newer(PathBuf),
}

impl SourceError {
    pub(super) fn from_sqlite(path: &Path, error: rusqlite::Error) -> Self {
        Self::from_open_error(path, error.into())
    }

    fn from_open_error(path: &Path, error: OpenError) -> Self {
        let path = path.to_owned();
        match error {
            OpenError::NotAJournal => Self::NotAJournal(path),
            OpenError::Newer => Self::Newer(path),
            OpenError::Locked => Self::Locked(path),
            OpenError::Sqlite(error) => Self::Sqlite(path, error),
        }
    }
}

/// Opens an existing journal to copy or export it, while a server may write it. Returns the
/// connection and the canonical path.
pub(super) fn open_source(path: &Path) -> Result<(Connection, PathBuf), SourceError> {
    let canonical = path.metadata().and_then(|_| lock::canonical(path));
    let path = canonical.map_err(|error| SourceError::System(absolute(path), error))?;
    let connection = open_to_read(&path).map_err(|error| SourceError::from_sqlite(&path, error))?;
    match schema_version(&connection) {
        Ok(0) => Err(SourceError::NotAJournal(path)),
        Ok(_) => Ok((connection, path)),
        Err(error) => Err(SourceError::from_open_error(&path, error)),
    }
}

/// Opens the file for reading.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags_for_existing_file())?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Opens the file for writing again. Returns the connection, the epoch if the file has one, and the
/// last sequence number.
pub(super) fn reopen(
    path: &Path,
    sync: DbSync,
    max_bytes: Option<u64>,
) -> rusqlite::Result<(Connection, Option<Epoch>, Seq)> {
    let connection = Connection::open_with_flags(path, flags_for_existing_file())?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", synchronous(sync))?;
    limit_size(&connection, max_bytes)?;
    let epoch = meta::<String>(&connection, "epoch")?.map(|epoch| Epoch::of(&epoch));
    let head = meta::<i64>(&connection, "head")?.unwrap_or_default();
    Ok((connection, epoch, Seq::new(head.unsigned_abs())))
}

/// Limits the size of the file. SQLite reports a write beyond it like a full disk.
fn limit_size(connection: &Connection, max_bytes: Option<u64>) -> rusqlite::Result<()> {
    let Some(max_bytes) = max_bytes else { return Ok(()) };
    let page: u32 = connection.query_row("PRAGMA page_size", (), |row| row.get(0))?;
    // A row is returned: the limit in effect, which is never below the current size of the file.
    let set = format!(
        "PRAGMA max_page_count = {}",
        (max_bytes / u64::from(page)).min(u64::from(u32::MAX) - 1)
    );
    connection.query_row(&set, (), |_| Ok(()))
}

/// Returns flags without `SQLITE_OPEN_CREATE`, which would create a missing file.
fn flags_for_existing_file() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Why a file cannot be used as a journal.
enum OpenError {
    NotAJournal,
    Newer,
    Locked,
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        let is_one_of = |codes: [ErrorCode; 2]| {
            error.sqlite_error_code().is_some_and(|code| codes.contains(&code))
        };
        if is_one_of([ErrorCode::NotADatabase, ErrorCode::DatabaseCorrupt]) {
            Self::NotAJournal
        } else if is_one_of([ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked]) {
            Self::Locked
        } else {
            Self::Sqlite(error)
        }
    }
}

/// Returns the version of the file's schema, or 0 if the file is empty. Changes nothing, since the
/// file may belong to another program.
fn schema_version(connection: &Connection) -> Result<i64, OpenError> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && id != APPLICATION_ID {
        Err(OpenError::NotAJournal)
    } else if version > MIGRATIONS.len() as i64 {
        Err(OpenError::Newer)
    } else {
        Ok(version)
    }
}

/// Configures the connection and migrates the schema. Returns the epoch and the last sequence
/// number.
fn prepare(connection: &mut Connection, sync: DbSync) -> rusqlite::Result<(Epoch, Seq)> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", synchronous(DbSync::Full))?;
    let current: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > current) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // A power failure may have lost the last messages. Then their sequence numbers are assigned
    // again, which only a new epoch permits.
    let may_have_lost_messages = meta::<i64>(&transaction, "unsynced")? == Some(1);
    let epoch = match meta::<String>(&transaction, "epoch")?.filter(|_| !may_have_lost_messages) {
        Some(epoch) => Epoch::of(&epoch),
        None => Epoch::random(),
    };
    set_meta(&transaction, "epoch", epoch.as_str())?;
    set_meta(&transaction, "unsynced", i64::from(sync == DbSync::Normal))?;
    let head = meta::<i64>(&transaction, "head")?.unwrap_or_default();
    transaction.commit()?;
    connection.pragma_update(None, "synchronous", synchronous(sync))?;
    Ok((epoch, Seq::new(head.unsigned_abs())))
}

/// Syncs the file to disk and marks it as cleanly closed.
pub(super) fn close(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", synchronous(DbSync::Full))?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    set_meta(connection, "unsynced", 0)
}

/// Removes the epoch of a backup copy, so that the copy begins a new epoch when it is first opened:
/// from then on it assigns the same sequence numbers as the original to other messages. Also turns
/// off the write-ahead log, so that the copy is one file.
pub(super) fn remove_epoch(copy: &Connection) -> rusqlite::Result<()> {
    copy.pragma_update(None, "synchronous", synchronous(DbSync::Full))?;
    copy.execute("DELETE FROM meta WHERE name = 'epoch'", [])?;
    set_meta(copy, "unsynced", 0)?;
    copy.pragma_update(None, "journal_mode", "delete")
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
