//! One server to a file. SQLite would let two write by turns, each unaware of what the other tells
//! its clients. Two locks of our own keep a second server out, and nobody who only reads: one on a
//! file beside it, and on Linux one on the file itself, which a hard link or the removal of the
//! file beside it does not evade.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::JournalError;

/// The file's one name, whatever it is called by.
pub(super) fn canonical(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or(error)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new(".")).canonicalize()?;
            // A link to a file that is yet to be made; links in a circle are another error.
            match path.read_link() {
                Ok(target) => canonical(&parent.join(target)),
                Err(_) => Ok(parent.join(name)),
            }
        }
        found => found,
    }
}

/// Held as long as it lives; the system takes it back from a process that is killed.
#[derive(Debug)]
pub(super) struct Lock {
    _beside: File,
    #[cfg(target_os = "linux")]
    _itself: itself::Locked,
}

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self, JournalError> {
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
        let beside = open(Path::new(&name)).map_err(|error| failed(TryLockError::Error(error)))?;
        beside.try_lock().map_err(failed)?;
        Ok(Self {
            _beside: beside,
            #[cfg(target_os = "linux")]
            _itself: itself::lock(path).map_err(failed)?,
        })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// A lock on the database file, by `flock`. Only Linux keeps it apart from the locks of SQLite.
#[cfg(target_os = "linux")]
mod itself {
    use std::collections::HashMap;
    use std::fs::{File, TryLockError};
    use std::path::Path;
    use std::sync::{Arc, LazyLock, Mutex, PoisonError};

    use crate::journal::watch::FileId;

    /// All files that this process has ever locked. None is closed before the process ends: that
    /// would drop the locks that SQLite holds on the same file.
    static OPENED: LazyLock<Mutex<HashMap<FileId, Arc<File>>>> = LazyLock::new(Mutex::default);

    #[derive(Debug)]
    pub(super) struct Locked(Arc<File>);

    pub(super) fn lock(path: &Path) -> Result<Locked, TryLockError> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        let known = FileId::of(path).and_then(|id| opened.get(&id).cloned());
        let file = match known {
            Some(file) => file,
            None => Arc::new(super::open(path).map_err(TryLockError::Error)?),
        };
        if let Some(id) = FileId::of(path) {
            opened.insert(id, Arc::clone(&file));
        }
        // Who has it in this process has locked the file beside it, too.
        file.try_lock()?;
        Ok(Locked(file))
    }

    impl Drop for Locked {
        fn drop(&mut self) {
            // It fails only for a descriptor that is none.
            let _ = self.0.unlock();
        }
    }
}
