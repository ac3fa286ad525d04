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

/// HubStats as long as it lives; the system takes it back from a process that is killed.
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
    use std::io;
    use std::path::Path;
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

    use crate::log::sqlite::watch::FileId;

    /// All files that this process has ever locked. None is closed before the process ends: that
    /// would drop the locks that SQLite holds on the same file.
    static OPENED: LazyLock<Mutex<HashMap<FileId, Opened>>> = LazyLock::new(Mutex::default);

    struct Opened {
        file: File,
        /// The system gives a lock to whoever has it already.
        taken: bool,
    }

    #[derive(Debug)]
    pub(super) struct Locked(FileId);

    pub(super) fn lock(path: &Path) -> Result<Locked, TryLockError> {
        let mut opened = opened();
        let known = FileId::of(path).filter(|id| opened.contains_key(id));
        let id = match known {
            Some(id) => id,
            None => {
                let file = super::open(path).map_err(TryLockError::Error)?;
                let id = FileId::of(path);
                let id = id.ok_or(TryLockError::Error(io::ErrorKind::NotFound.into()))?;
                opened.entry(id).or_insert(Opened { file, taken: false });
                id
            }
        };
        match opened.get_mut(&id) {
            Some(Opened { file, taken }) if !*taken => {
                file.try_lock()?;
                *taken = true;
                Ok(Locked(id))
            }
            _ => Err(TryLockError::WouldBlock),
        }
    }

    impl Drop for Locked {
        fn drop(&mut self) {
            if let Some(Opened { file, taken }) = opened().get_mut(&self.0) {
                // It fails only for a descriptor that is none.
                let _ = file.unlock();
                *taken = false;
            }
        }
    }

    fn opened() -> MutexGuard<'static, HashMap<FileId, Opened>> {
        OPENED.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
