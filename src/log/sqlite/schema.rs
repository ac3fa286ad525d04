//! Opens and closes the SQLite file, and manages its epoch. `migration` defines the tables, and the
//! other files of this module query them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use log::info;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};
use thiserror::Error;

use super::clock::Clock;
use super::migration::{self, migrate};
use super::settings::StoredSettings;
use super::{JournalError, absolute, lock, rows};
use crate::config::DbSync;
use crate::domain::{Epoch, Seq};

/// How long SQLite waits for a lock on the file.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a checkpoint waits for readers.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_millis(100);

/// Identifies a SQLite file of chinwag: "chnw".
const APPLICATION_ID: i32 = 0x6368_6E77;

/// The number of prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 64;

/// Returns the size of all messages that are not pruned, in bytes.
pub(super) fn kept_bytes(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(sum(bytes), 0) FROM rooms", [], |row| row.get(0))
}

/// Returns whether the id of any change is in the file.
pub(super) fn has_change_ids(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM change_ids")?.exists([])
}

/// A journal that was opened for writing.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    pub(super) head: Seq,
    pub(super) clock: Clock,
    /// `None` if the file is new, or of a version that stored no settings.
    pub(super) settings: Option<StoredSettings>,
    pub(super) kept_bytes: i64,
    pub(super) has_change_ids: bool,
}

/// Opens the file for writing, or creates it if it does not exist. Migrates an older schema.
pub(super) fn open(
    path: &Path,
    sync: DbSync,
    max_bytes: Option<u64>,
    is_replica: bool,
) -> Result<Opened, JournalError> {
    open_or_create(path, sync, max_bytes, is_replica).map_err(|error| match error {
        OpenError::NotAJournal => JournalError::NotAJournal(path.to_owned()),
        OpenError::Newer => JournalError::Newer(path.to_owned()),
        OpenError::Locked => JournalError::Locked(path.to_owned()),
        OpenError::Sqlite(error) => JournalError::Sqlite(path.to_owned(), error),
    })
}

fn open_or_create(
    path: &Path,
    sync: DbSync,
    max_bytes: Option<u64>,
    is_replica: bool,
) -> Result<Opened, OpenError> {
    let mut connection = Connection::open(path)?;
    schema_version(&connection)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    configure(&connection, DbSync::Full)?;
    migrate(&mut connection)?;
    let settings = StoredSettings::load(&connection)?;
    let epoch = begin(&mut connection, sync, is_replica)?;
    let head = head(&connection)?;
    let clock = Clock::load(&connection)?;
    let kept_bytes = kept_bytes(&connection)?;
    let has_change_ids = has_change_ids(&connection)?;
    limit_size(&connection, max_bytes)?;
    connection.pragma_update(None, "synchronous", synchronous(sync))?;
    Ok(Opened { connection, epoch, head, clock, settings, kept_bytes, has_change_ids })
}

/// Creates a journal in a new file that nothing else uses yet. It has no epoch, so it begins one
/// when it is first opened.
pub(super) fn create(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // The file is deleted after an error, so it need not survive a crash.
    connection.pragma_update(None, "journal_mode", "off")?;
    connection.pragma_update(None, "synchronous", "off")?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Configures a connection for writing.
fn configure(connection: &Connection, sync: DbSync) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.pragma_update(None, "synchronous", synchronous(sync))?;
    // Overwrites what is deleted with zeros.
    connection.pragma_update(None, "secure_delete", true)
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

/// An existing journal to copy or export, while a server may write it.
pub(super) struct Source {
    pub(super) connection: Connection,
    /// The canonical path.
    pub(super) path: PathBuf,
    /// The version of its schema.
    pub(super) version: i64,
}

/// Opens an existing journal to copy or export it.
pub(super) fn open_source(path: &Path) -> Result<Source, SourceError> {
    let canonical = path.metadata().and_then(|_| lock::canonical(path));
    let path = canonical.map_err(|error| SourceError::System(absolute(path), error))?;
    let connection = open_to_read(&path).map_err(|error| SourceError::from_sqlite(&path, error))?;
    match schema_version(&connection) {
        Ok(0) => Err(SourceError::NotAJournal(path)),
        Ok(version) => Ok(Source { connection, path, version }),
        Err(error) => Err(SourceError::from_open_error(&path, error)),
    }
}

/// Opens the file for reading.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags_for_existing_file())?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Opens the file for writing again. Returns the connection and the epoch, if the file has one.
pub(super) fn reopen(
    path: &Path,
    sync: DbSync,
    max_bytes: Option<u64>,
) -> rusqlite::Result<(Connection, Option<Epoch>)> {
    let connection = Connection::open_with_flags(path, flags_for_existing_file())?;
    configure(&connection, sync)?;
    limit_size(&connection, max_bytes)?;
    let epoch = meta::<String>(&connection, "epoch")?.map(|epoch| Epoch::of(&epoch));
    Ok((connection, epoch))
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
pub(super) enum OpenError {
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
    } else if version > migration::VERSION {
        Err(OpenError::Newer)
    } else {
        Ok(version)
    }
}

/// Marks the file as open. Returns its epoch.
fn begin(connection: &mut Connection, sync: DbSync, is_replica: bool) -> rusqlite::Result<Epoch> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // A power failure may have lost the last messages. Then their sequence numbers are assigned
    // again, which only a new epoch permits.
    let may_have_lost_messages = meta::<i64>(&transaction, "unsynced")? == Some(1);
    let is_in_shared_log = is_in_shared_log(&transaction)?;
    // A replica reads what it has lost from the shared log again. A server without the shared log
    // assigns the sequence numbers that the other nodes assign to other messages.
    let needs_new_epoch = if is_in_shared_log { !is_replica } else { may_have_lost_messages };
    if is_in_shared_log && !is_replica {
        info!("the history file was part of a cluster, and is the file of a single server now");
        transaction.execute_batch("DELETE FROM shared_log; DELETE FROM producers")?;
    }
    let epoch = match meta::<String>(&transaction, "epoch")?.filter(|_| !needs_new_epoch) {
        Some(epoch) => Epoch::of(&epoch),
        None => Epoch::random(),
    };
    set_meta(&transaction, "epoch", epoch.as_str())?;
    set_meta(&transaction, "unsynced", i64::from(sync == DbSync::Normal))?;
    transaction.commit()?;
    Ok(epoch)
}

/// Returns whether the journal is a replica of a log that it shares with other nodes.
pub(super) fn is_in_shared_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM shared_log")?.exists([])
}

/// Returns the sequence number of the last entry.
pub(super) fn head(connection: &Connection) -> rusqlite::Result<Seq> {
    Ok(rows::seq(meta(connection, "head")?.unwrap_or_default()))
}

/// Copies the write-ahead log to the database file and truncates it. Returns false if a reader
/// still needs the write-ahead log.
pub(super) fn truncate_wal(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(CHECKPOINT_TIMEOUT)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(!busy?)
}

/// Syncs the file to disk and marks it as cleanly closed.
pub(super) fn close(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", synchronous(DbSync::Full))?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    set_meta(connection, "unsynced", 0)
}

/// Removes the epoch of a backup copy, so that the copy begins a new epoch when it is first opened:
/// from then on it assigns the same sequence numbers as the original to other messages. A copy of a
/// replica keeps the epoch, because it continues with the same log. Also turns off the write-ahead
/// log, so that the copy is one file.
pub(super) fn remove_epoch(copy: &Connection) -> rusqlite::Result<()> {
    copy.pragma_update(None, "synchronous", synchronous(DbSync::Full))?;
    if !is_in_shared_log(copy)? {
        copy.execute("DELETE FROM meta WHERE name = 'epoch'", [])?;
    }
    set_meta(copy, "unsynced", 0)?;
    copy.pragma_update(None, "journal_mode", "delete")
}

fn synchronous(sync: DbSync) -> &'static str {
    match sync {
        DbSync::Full => "full",
        DbSync::Normal => "normal",
    }
}

pub(super) fn meta<T: rusqlite::types::FromSql>(
    connection: &Connection,
    name: &str,
) -> rusqlite::Result<Option<T>> {
    let select = "SELECT value FROM meta WHERE name = ?1";
    connection.prepare_cached(select)?.query_row([name], |row| row.get(0)).optional()
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
