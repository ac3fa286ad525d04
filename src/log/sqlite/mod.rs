//! The log on disk: one SQLite file, and the only place that knows SQL. A [`Writer`] on a thread
//! of its own gives messages their places, and commits before it answers; [`Reader`]s beside it
//! tell what was said. The hub reaches both by [`Append`](crate::log::Append) and
//! [`Page`](crate::log::Page), and knows nothing else of them.

mod backup;
mod export;
mod lock;
mod reader;
mod retention;
mod schema;
mod watch;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::*;
use thiserror::Error;

use crate::config::{Config, DbSync};
use crate::log::Log;
use crate::metrics::Metrics;
pub use backup::{BackupError, backup};
pub use export::{ExportError, export};
use lock::Lock;
pub use reader::Reader;
pub use schema::SourceError;
use writer::Close;
pub use writer::Writer;

/// How many threads read.
const READERS: usize = 2;

/// What a journal is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file.
    pub path: PathBuf,
    /// How surely a message is on disk once it is committed.
    pub sync: DbSync,
    /// How many messages are kept of each room.
    pub keep_messages: usize,
    /// How many bytes of messages are kept in all, if that is limited. Each counts as its text
    /// and 128 bytes.
    pub keep_bytes: Option<u64>,
    /// How long a message is kept.
    pub keep_for: Option<Duration>,
    /// How long after a look at all rooms the next one begins.
    pub prune_interval: Duration,
    /// Largest size of the file, in bytes.
    pub max_bytes: Option<u64>,
    /// Counts how often that is reached.
    pub metrics: Metrics,
}

impl Options {
    /// What a configuration says, if it names a file.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        config.db.as_ref().map(|path| Self {
            path: path.clone(),
            sync: config.db_sync,
            keep_messages: config.keep_messages,
            keep_bytes: config.kept_bytes(),
            keep_for: config.keep_for,
            prune_interval: config.prune_interval,
            max_bytes: config.max_db_bytes,
            metrics: config.metrics.clone(),
        })
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Another server has it.
    #[error("{} is in use by another chinwag server", .0.display())]
    InUse(PathBuf),
    /// The system does not let us have it.
    #[error("cannot open {}: {}", .0.display(), .1)]
    System(PathBuf, std::io::Error),
    /// SQLite does not let us have it.
    #[error("cannot open {}: {}", .0.display(), .1)]
    Sqlite(PathBuf, rusqlite::Error),
    /// Another program has locked it.
    #[error("{} is locked by another program", .0.display())]
    Locked(PathBuf),
    /// It is somebody else's, or what is in it cannot be understood.
    #[error("{} is not a chinwag journal, or is damaged", .0.display())]
    NotOurs(PathBuf),
    /// It is from the future.
    #[error("{} was made by a newer chinwag", .0.display())]
    Newer(PathBuf),
}

/// A journal that is open. It is closed in order by [`Journal::close`]; one that is dropped, or
/// whose process is killed, has lost nothing that was committed.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    log: Log,
    writer: Addr<Writer>,
    thread: Arbiter,
    /// Shared with the writer, which may outlive a journal that is not closed by a little.
    _lock: Arc<Lock>,
}

impl Journal {
    /// Opens a journal, and makes it if there is none. Call it on an actix system.
    ///
    /// # Errors
    /// When the file is in use, cannot be read or written, or is not ours.
    pub fn open(options: &Options) -> Result<Self, JournalError> {
        let path = lock::canonical(&options.path)
            .map_err(|error| JournalError::System(absolute(&options.path), error))?;
        let lock = Arc::new(Lock::take(&path)?);
        let opened = schema::open(&path, options.sync, options.max_bytes)?;
        let (epoch, head) = (opened.epoch.clone(), opened.head);
        let readers = (0..READERS)
            .map(|_| schema::open_to_read(&path))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| JournalError::Sqlite(path.clone(), error))?;
        let options = Options { path: path.clone(), ..options.clone() };
        let writer = Writer::new(opened, options, Some(Arc::clone(&lock)));
        let thread = Arbiter::new();
        let writer = Writer::start_in_arbiter(&thread.handle(), |_| writer);
        let (readers, read) = (Mutex::new(readers), path.clone());
        let readers = SyncArbiter::start(READERS, move || {
            let connection = readers.lock().ok().and_then(|mut readers| readers.pop());
            Reader::new(connection, read.clone())
        });
        let (append, page) = (writer.clone().recipient(), readers.recipient());
        let probe = writer.clone().recipient();
        let log = Log { epoch, head, append, page, probe };
        Ok(Self { path, log, writer, thread, _lock: lock })
    }

    /// What a hub is started with.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The writer, for messages of your own.
    #[must_use]
    pub fn writer(&self) -> &Addr<Writer> {
        &self.writer
    }

    /// Ends in order, after all that it was given before.
    pub async fn close(self) {
        // A writer that has died has nothing more to close.
        let _ = self.writer.send(Close).await;
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // The threads that read end when nobody has their address any more.
        self.thread.stop();
    }
}

/// Returns the size of a history file in bytes, including its write-ahead log.
#[must_use]
pub fn file_bytes(path: &Path) -> Option<u64> {
    let wal = std::fs::metadata(watch::wal_path(path)).map_or(0, |wal| wal.len());
    Some(std::fs::metadata(path).ok()?.len() + wal)
}

/// A name to tell a person, who may not know what it is relative to.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests;
