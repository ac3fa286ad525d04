//! One server to a file. SQLite would let two write by turns, each unaware of what the other tells
//! its clients; and a lock of our own, beside the file, does not keep out those who only read.

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
    _file: File,
}

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self, JournalError> {
        if path.is_dir() {
            let error = io::ErrorKind::IsADirectory.into();
            return Err(JournalError::System(path.to_owned(), error));
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&name);
        let file = file.map_err(|error| JournalError::System(path.to_owned(), error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(JournalError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(JournalError::System(path.to_owned(), error)),
        }
    }
}
