//! Locks that allow only one server for each history file. SQLite would let two servers write in
//! turn, and each would miss the messages of the other. There are two locks, neither of which
//! affects programs that only read. One is on a file beside the history file. The other, on Linux,
//! is on the history file itself: it also holds if the server opens a hard link, or if the file
//! beside it is deleted.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::JournalError;

/// Returns the canonical path of a file, which need not exist yet. Its folder must exist.
pub(in crate::log) fn canonical(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or(error)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new(".")).canonicalize()?;
            // A symbolic link to a file that does not exist yet. A cycle of links does not get
            // here: its error is not `NotFound`.
            match path.read_link() {
                Ok(target) => canonical(&parent.join(target)),
                Err(_) => Ok(parent.join(name)),
            }
        }
        canonical => canonical,
    }
}

/// The locks on a history file. They are released when this value is dropped, or by the system if
/// the process is killed.
#[derive(Debug)]
pub(super) struct Lock {
    _lock_file: File,
    #[cfg(target_os = "linux")]
    _database_file: database_file::Locked,
}

impl Lock {
    /// Locks the file with this canonical path.
    pub(super) fn acquire(path: &Path) -> Result<Self, JournalError> {
        if path.is_dir() {
            let error = io::ErrorKind::IsADirectory.into();
            return Err(JournalError::System(path.to_owned(), error));
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let failed = |error| match error {
            TryLockError::WouldBlock => JournalError::InUse(path.to_owned()),
            TryLockError::Error(error) => JournalError::System(path.to_owned(), error),
        };
        let lock_file = open(Path::new(&name)).map_err(|e| failed(TryLockError::Error(e)))?;
        lock_file.try_lock().map_err(failed)?;
        Ok(Self {
            _lock_file: lock_file,
            #[cfg(target_os = "linux")]
            _database_file: database_file::lock(path).map_err(failed)?,
        })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// A lock on the history file with `flock`. Only on Linux is it independent of SQLite's locks.
#[cfg(target_os = "linux")]
mod database_file {
    use std::collections::HashMap;
    use std::fs::{File, TryLockError};
    use std::io;
    use std::path::Path;
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

    use crate::log::sqlite::watch::FileId;

    /// All files that this process has ever locked. They stay open until the process ends: closing
    /// one would release SQLite's locks on the same file.
    static OPEN_FILES: LazyLock<Mutex<HashMap<FileId, OpenFile>>> = LazyLock::new(Mutex::default);

    struct OpenFile {
        file: File,
        /// Recorded here, because the system grants a lock again to the descriptor that holds it.
        is_locked: bool,
    }

    /// A locked file, until it is dropped.
    #[derive(Debug)]
    pub(super) struct Locked(FileId);

    /// Locks a file, which is created if it does not exist if it does not exist.
    pub(super) fn lock(path: &Path) -> Result<Locked, TryLockError> {
        let mut open_files = open_files();
        let open_id = FileId::of(path).filter(|id| open_files.contains_key(id));
        let id = match open_id {
            Some(id) => id,
            None => {
                let file = super::open(path).map_err(TryLockError::Error)?;
                let id = FileId::of(path);
                let id = id.ok_or(TryLockError::Error(io::ErrorKind::NotFound.into()))?;
                open_files.entry(id).or_insert(OpenFile { file, is_locked: false });
                id
            }
        };
        match open_files.get_mut(&id) {
            Some(OpenFile { file, is_locked }) if !*is_locked => {
                file.try_lock()?;
                *is_locked = true;
                Ok(Locked(id))
            }
            _ => Err(TryLockError::WouldBlock),
        }
    }

    impl Drop for Locked {
        fn drop(&mut self) {
            if let Some(OpenFile { file, is_locked }) = open_files().get_mut(&self.0) {
                // It fails only for an invalid descriptor.
                let _ = file.unlock();
                *is_locked = false;
            }
        }
    }

    fn open_files() -> MutexGuard<'static, HashMap<FileId, OpenFile>> {
        OPEN_FILES.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
