//! Whether the file is still the one that was opened. SQLite goes on writing to a file that was
//! deleted or moved, and nobody would find again what it has written. Only `stat` looks: closing a
//! descriptor of the database file would drop SQLite's locks on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::log::LogError;

/// How long it is believed that nothing has changed.
const INTERVAL: Duration = Duration::from_millis(250);

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// What is known of the file and its write-ahead log.
#[derive(Debug)]
pub(super) struct FileWatch {
    path: PathBuf,
    wal: PathBuf,
    file: Option<FileId>,
    log: Option<FileId>,
    /// The most bytes that the file had: it never shrinks by itself.
    bytes: u64,
    checked: Instant,
}

impl FileWatch {
    /// Watches a file that was just opened.
    pub(super) fn start(path: &Path) -> Self {
        let mut watch = Self {
            path: path.to_owned(),
            wal: wal_path(path),
            file: None,
            log: None,
            bytes: 0,
            checked: Instant::now(),
        };
        watch.begin();
        watch
    }

    /// Takes the files as they are now for the right ones, since they were just opened.
    pub(super) fn begin(&mut self) {
        (self.file, self.log) = (FileId::of(&self.path), FileId::of(&self.wal));
        self.bytes = self.path.metadata().map_or(0, |file| file.len());
    }

    /// Looks now and then, in a stream of calls.
    pub(super) fn check_now_and_then(&mut self) -> Result<(), LogError> {
        if self.checked.elapsed() < INTERVAL { Ok(()) } else { self.check() }
    }

    /// Says what has become of the file, if it is not the one that was opened.
    pub(super) fn check(&mut self) -> Result<(), LogError> {
        let path = self.path.display();
        let failed = |words: String| {
            Err(LogError::Failed(format!(
                "{words} while the server was running; put the file back, or restart the server"
            )))
        };
        let Ok(file) = self.path.metadata() else {
            return failed(format!("{path} was deleted or moved"));
        };
        if FileId::of(&self.path) != self.file {
            return failed(format!("{path} was replaced by another file"));
        }
        if file.len() < self.bytes {
            return failed(format!("{path} was truncated"));
        }
        // It may be made after the file was opened.
        let log = FileId::of(&self.wal);
        if self.log.is_some() && log != self.log {
            return failed(format!("{} was deleted, moved or replaced", self.wal.display()));
        }
        (self.log, self.bytes, self.checked) = (log, file.len(), Instant::now());
        Ok(())
    }
}

/// Returns the path of a file's write-ahead log.
pub(super) fn wal_path(path: &Path) -> PathBuf {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

impl FileId {
    /// The id of the file at a path; none where there is no file, or on a system without ids.
    #[cfg(unix)]
    pub(super) fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let file = path.metadata().ok()?;
        Some(Self { device: file.dev(), inode: file.ino() })
    }

    #[cfg(not(unix))]
    pub(super) fn of(_: &Path) -> Option<Self> {
        None
    }
}
