//! Detects that the history file was deleted, moved, replaced or truncated while it is open. SQLite
//! continues to write to such a file, and its messages would be lost. The writer calls this module.
//! It only calls `stat`: opening and closing the file would release SQLite's locks on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::log::LogError;

/// The minimum time between two checks of [`FileWatch::check_if_due`].
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Identifies a file independently of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// The state of the file and its write-ahead log at the last check.
#[derive(Debug)]
pub(super) struct FileWatch {
    path: PathBuf,
    wal: PathBuf,
    file_id: Option<FileId>,
    wal_id: Option<FileId>,
    /// The size of the file. SQLite never makes it smaller.
    bytes: u64,
    checked: Instant,
}

impl FileWatch {
    /// Creates a watch for a file that was just opened.
    pub(super) fn new(path: &Path) -> Self {
        let mut watch = Self {
            path: path.to_owned(),
            wal: wal_path(path),
            file_id: None,
            wal_id: None,
            bytes: 0,
            checked: Instant::now(),
        };
        watch.reset();
        watch
    }

    /// Starts again with the current files, which were just opened.
    pub(super) fn reset(&mut self) {
        (self.file_id, self.wal_id) = (FileId::of(&self.path), FileId::of(&self.wal));
        self.bytes = self.path.metadata().map_or(0, |file| file.len());
    }

    /// Calls [`FileWatch::check`], unless the last check was very recent.
    pub(super) fn check_if_due(&mut self) -> Result<(), LogError> {
        if self.checked.elapsed() < CHECK_INTERVAL { Ok(()) } else { self.check() }
    }

    /// Returns an error if the files are no longer those that were opened.
    pub(super) fn check(&mut self) -> Result<(), LogError> {
        let path = self.path.display();
        let failed = |what: String| {
            Err(LogError::Failed(format!(
                "{what} while the server was running; put the file back, or restart the server"
            )))
        };
        let Ok(file) = self.path.metadata() else {
            return failed(format!("{path} was deleted or moved"));
        };
        if FileId::of(&self.path) != self.file_id {
            return failed(format!("{path} was replaced by another file"));
        }
        if file.len() < self.bytes {
            return failed(format!("{path} was truncated"));
        }
        // SQLite may create the write-ahead log some time after it opens the file.
        let wal_id = FileId::of(&self.wal);
        if self.wal_id.is_some() && wal_id != self.wal_id {
            return failed(format!("{} was deleted, moved or replaced", self.wal.display()));
        }
        (self.wal_id, self.bytes, self.checked) = (wal_id, file.len(), Instant::now());
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
    /// Returns the id of the file at a path. Returns `None` if there is no file, or on a system
    /// other than Unix.
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
