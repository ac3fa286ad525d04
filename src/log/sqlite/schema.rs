//! The file: how it is laid out, how it is opened, which log it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};
use thiserror::Error;

use super::{JournalError, absolute, lock};
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
///
/// `bytes` is what those count for that are not pruned: see [`MESSAGE_BYTES`].
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

/// What a message counts for beside its text, in bytes: about what its row and index take.
pub(super) const MESSAGE_BYTES: i64 = 128;

/// What all messages count for that are not pruned, in bytes.
pub(super) fn kept_bytes(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(sum(bytes), 0) FROM rooms", [], |row| row.get(0))
}

/// A journal as its writer finds it.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    pub(super) head: Seq,
    pub(super) kept_bytes: i64,
}

/// Opens the file to write, and makes it if there is none.
pub(super) fn open(
    path: &Path,
    sync: DbSync,
    max_bytes: Option<u64>,
) -> Result<Opened, JournalError> {
    let unfit = |unfit: Unfit| match unfit {
        Unfit::NotOurs => JournalError::NotOurs(path.to_owned()),
        Unfit::Newer => JournalError::Newer(path.to_owned()),
        Unfit::Locked => JournalError::Locked(path.to_owned()),
        Unfit::Sqlite(error) => JournalError::Sqlite(path.to_owned(), error),
    };
    let mut connection = Connection::open(path).map_err(|error| unfit(error.into()))?;
    check(&connection).map_err(unfit)?;
    let (epoch, head) = prepare(&mut connection, sync).map_err(|error| unfit(error.into()))?;
    bound(&connection, max_bytes).map_err(|error| unfit(error.into()))?;
    let kept_bytes = kept_bytes(&connection).map_err(|error| unfit(error.into()))?;
    Ok(Opened { connection, epoch, head, kept_bytes })
}

/// Why a journal cannot be exported or backed up.
#[derive(Debug, Error)]
pub enum SourceError {
    /// There is none, or the system does not let us have it.
    #[error("cannot open {}: {}", .0.display(), .1)]
    System(PathBuf, std::io::Error),
    /// SQLite does not let us have it.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Sqlite(PathBuf, rusqlite::Error),
    /// Another program has locked it.
    #[error("{} is locked by another program; end that one, or try again later", .0.display())]
    Locked(PathBuf),
    /// It is somebody else's, or what is in it cannot be understood.
    #[error("{} is not a chinwag journal, or is damaged", .0.display())]
    NotOurs(PathBuf),
    /// It is from the future.
    #[error("{} was made by a newer chinwag; use that", .0.display())]
    Newer(PathBuf),
}

impl SourceError {
    pub(super) fn of(path: &Path, error: rusqlite::Error) -> Self {
        Self::unfit(path, error.into())
    }

    fn unfit(path: &Path, unfit: Unfit) -> Self {
        let path = path.to_owned();
        match unfit {
            Unfit::NotOurs => Self::NotOurs(path),
            Unfit::Newer => Self::Newer(path),
            Unfit::Locked => Self::Locked(path),
            Unfit::Sqlite(error) => Self::Sqlite(path, error),
        }
    }
}

/// Opens a journal that somebody else may be writing, to read it as a whole. Gives its one name,
/// too.
pub(super) fn open_source(path: &Path) -> Result<(Connection, PathBuf), SourceError> {
    let found = path.metadata().and_then(|_| lock::canonical(path));
    let path = found.map_err(|error| SourceError::System(absolute(path), error))?;
    let connection = open_to_read(&path).map_err(|error| SourceError::of(&path, error))?;
    match check(&connection) {
        Ok(0) => Err(SourceError::NotOurs(path)),
        Ok(_) => Ok((connection, path)),
        Err(unfit) => Err(SourceError::unfit(&path, unfit)),
    }
}

/// Opens the file to read.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, existing())?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Opens the file to write, once more. Gives no epoch where it has none.
pub(super) fn reopen(
    path: &Path,
    sync: DbSync,
    max_bytes: Option<u64>,
) -> rusqlite::Result<(Connection, Option<Epoch>, Seq)> {
    let connection = Connection::open_with_flags(path, existing())?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", synchronous(sync))?;
    bound(&connection, max_bytes)?;
    let epoch = meta::<String>(&connection, "epoch")?.map(|epoch| Epoch::of(&epoch));
    let head = meta::<i64>(&connection, "head")?.unwrap_or_default();
    Ok((connection, epoch, Seq::new(head.unsigned_abs())))
}

/// Bounds the file. One that would outgrow this is full, as a disk is.
fn bound(connection: &Connection, max_bytes: Option<u64>) -> rusqlite::Result<()> {
    let Some(max_bytes) = max_bytes else { return Ok(()) };
    let page: u32 = connection.query_row("PRAGMA page_size", (), |row| row.get(0))?;
    // SQLite answers with what is in force, and takes no less than the file has already.
    let set = format!(
        "PRAGMA max_page_count = {}",
        (max_bytes / u64::from(page)).min(u64::from(u32::MAX) - 1)
    );
    connection.query_row(&set, (), |_| Ok(()))
}

fn existing() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Why a file cannot be used as a journal.
enum Unfit {
    NotOurs,
    Newer,
    Locked,
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Unfit {
    fn from(error: rusqlite::Error) -> Self {
        let among = |codes: [ErrorCode; 2]| {
            error.sqlite_error_code().is_some_and(|code| codes.contains(&code))
        };
        if among([ErrorCode::NotADatabase, ErrorCode::DatabaseCorrupt]) {
            Self::NotOurs
        } else if among([ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked]) {
            Self::Locked
        } else {
            Self::Sqlite(error)
        }
    }
}

/// Whether the file is ours, before anything in it is changed. Gives the version of its layout, 0
/// where nothing is laid out.
fn check(connection: &Connection) -> Result<i64, Unfit> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && id != APPLICATION_ID {
        Err(Unfit::NotOurs)
    } else if version > MIGRATIONS.len() as i64 {
        Err(Unfit::Newer)
    } else {
        Ok(version)
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

/// Makes a copy a log of its own: it begins an epoch when it is first opened, since its places and
/// those of the log it was copied from go apart. It is one file afterwards.
pub(super) fn detach(copy: &Connection) -> rusqlite::Result<()> {
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
