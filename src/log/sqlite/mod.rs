//! The log in a SQLite file. All SQL of the crate is in this module. A [`Writer`] on its own thread
//! assigns sequence numbers, and commits messages before it answers. [`Reader`]s on other threads
//! read pages of the history, and count unread messages. `search` on a further thread searches
//! messages. The hub reaches them with the messages of the log, such as
//! [`Append`](crate::log::Append) and [`Page`](crate::log::Page), and knows nothing else of them.

mod append;
#[cfg(feature = "cluster")]
mod apply;
mod backup;
mod checkpoint;
mod clock;
mod export;
mod import;
#[cfg(feature = "cluster")]
mod install;
mod line;
mod lock;
mod marks;
mod migration;
mod page;
mod prune;
mod reader;
mod retention;
mod room;
mod rows;
mod schema;
mod search;
mod settings;
mod unanswered;
mod watch;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::*;
use thiserror::Error;

use crate::config::{Config, DbSync};
use crate::domain::{Durability, Settings};
use crate::log::{Log, ReadMarks, State};
use crate::metrics::Metrics;
#[cfg(feature = "cluster")]
pub(super) use apply::{
    AppliedRecord, Apply, Begin, Describe, JournalState, Origin, Placed, ProducerId,
    SEQS_PER_RECORD, read_state,
};
pub use backup::{BackupError, backup};
pub use export::{ExportError, export};
pub use import::{ImportError, import};
#[cfg(feature = "cluster")]
pub(super) use install::{InstallError, Replaced, install};
#[cfg(feature = "cluster")]
pub(super) use line::HexIdentity;
use lock::Lock;
#[cfg(feature = "cluster")]
pub(super) use lock::canonical;
pub use reader::Reader;
pub use schema::SourceError;
use search::Searcher;
use writer::Close;
pub use writer::Writer;

/// The number of reader threads.
const READERS: usize = 2;

/// The settings of a journal.
#[derive(Clone, Debug)]
pub struct Options {
    /// The SQLite file.
    pub path: PathBuf,
    /// Durability of committed messages.
    pub sync: DbSync,
    /// The settings of the log. If those in the file differ, a settings entry is appended.
    pub settings: Settings,
    /// The number of changes to keep in each room, so that clients can resume. Older ones are
    /// deleted.
    pub resume_buffer: usize,
    /// The pause between two passes that prune all rooms.
    pub prune_interval: Duration,
    /// Maximum size of the file, in bytes. `None` disables the limit.
    pub max_bytes: Option<u64>,
    /// Whether the journal is a replica of a log that it shares with other nodes, or becomes one.
    pub is_replica: bool,
    /// Counts how often an append fails because the file has reached `max_bytes`.
    pub metrics: Metrics,
}

impl Options {
    /// Returns the settings of a configuration, if it names a history file.
    #[must_use]
    pub fn from_config(config: &Config) -> Option<Self> {
        config.db.as_ref().map(|path| Self {
            path: path.clone(),
            sync: config.db_sync,
            settings: config.settings(),
            resume_buffer: config.resume_buffer,
            prune_interval: config.prune_interval,
            max_bytes: config.max_db_bytes,
            is_replica: config.cluster.is_some(),
            metrics: config.metrics.clone(),
        })
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Another server uses the file.
    #[error("{} is in use by another chinwag server", .0.display())]
    InUse(PathBuf),
    /// The operating system reported an error.
    #[error("cannot open {}: {}", .0.display(), .1)]
    System(PathBuf, std::io::Error),
    /// SQLite reported an error.
    #[error("cannot open {}: {}", .0.display(), .1)]
    Sqlite(PathBuf, rusqlite::Error),
    /// Another program has locked the file.
    #[error("{} is locked by another program", .0.display())]
    Locked(PathBuf),
    /// The file belongs to another program, or is damaged.
    #[error("{} is not a chinwag history file, or is damaged", .0.display())]
    NotAJournal(PathBuf),
    /// The file has the format of a newer version of chinwag.
    #[error("{} was written by a newer version of chinwag", .0.display())]
    Newer(PathBuf),
}

/// An open journal. Close it with [`Journal::close`]. Committed messages are also safe if it is
/// dropped, or if the process is killed.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    log: Log,
    writer: Addr<Writer>,
    thread: Arbiter,
    /// Shared with the writer, which may live a little longer than a journal that is dropped.
    _lock: Arc<Lock>,
}

impl Journal {
    /// Opens a journal, or creates it if the file does not exist. Call it on an actix system.
    ///
    /// # Errors
    /// If the file is in use, cannot be read or written, or is not a journal.
    pub fn open(options: &Options) -> Result<Self, JournalError> {
        let path = lock::canonical(&options.path)
            .map_err(|error| JournalError::System(absolute(&options.path), error))?;
        let lock = Arc::new(Lock::acquire(&path)?);
        // A replica reads from the shared log again what a power failure has lost.
        let sync = if options.is_replica { DbSync::Normal } else { options.sync };
        let opened = schema::open(&path, sync, options.max_bytes, options.is_replica)?;
        let epoch = opened.epoch.clone();
        let readers = (0..READERS)
            .map(|_| schema::open_to_read(&path))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| JournalError::Sqlite(path.clone(), error))?;
        let options = Options { path: path.clone(), sync, ..options.clone() };
        let writer = Writer::new(opened, options, Some(Arc::clone(&lock)));
        let writer = writer.map_err(|error| JournalError::Sqlite(path.clone(), error))?;
        // A settings entry may have been appended.
        let (head, state) = (writer.head, State::new(writer.settings.clone()));
        let pending_marks = writer.marks.pending.clone();
        let thread = Arbiter::new();
        let writer = Writer::start_in_arbiter(&thread.handle(), |_| writer);
        let (readers, reader_path) = (Mutex::new(readers), path.clone());
        let readers = SyncArbiter::start(READERS, move || {
            let connection = readers.lock().ok().and_then(|mut readers| readers.pop());
            Reader::new(connection, reader_path.clone(), pending_marks.clone())
        });
        let read_marks =
            ReadMarks { mark: writer.clone().recipient(), count: readers.clone().recipient() };
        let searcher_path = path.clone();
        let searcher = SyncArbiter::start(1, move || Searcher::new(searcher_path.clone()));
        let log = Log {
            epoch,
            head,
            state,
            durability: match sync {
                DbSync::Full => Durability::Disk,
                DbSync::Normal => Durability::File,
            },
            follow: writer.clone().recipient(),
            append: writer.clone().recipient(),
            page: readers.recipient(),
            search: Some(searcher.recipient()),
            probe: writer.clone().recipient(),
            read_marks: Some(read_marks),
            nodes: None,
        };
        Ok(Self { path, log, writer, thread, _lock: lock })
    }

    /// Returns the log to start a hub with.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Returns the canonical path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the writer, to which a program can send actor messages of its own.
    #[must_use]
    pub fn writer(&self) -> &Addr<Writer> {
        &self.writer
    }

    /// Closes the journal, after everything that was sent to it before.
    pub async fn close(self) {
        // The send fails only if the writer has panicked. Then there is nothing to close.
        let _ = self.writer.send(Close).await;
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // The reader threads end when the last copy of their address is dropped.
        self.thread.stop();
    }
}

/// Returns the size of a history file in bytes, including its write-ahead log.
#[must_use]
pub fn file_bytes(path: &Path) -> Option<u64> {
    let wal = std::fs::metadata(watch::wal_path(path)).map_or(0, |wal| wal.len());
    Some(std::fs::metadata(path).ok()?.len() + wal)
}

/// Returns an absolute path for an error message. Its reader may not know the current directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests;
