//! A copy of a journal, made while a server goes on writing it. It is a log of its own, with
//! another epoch: what is said after a restore takes places that others had had.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use thiserror::Error;

use super::absolute;
use super::schema::{self, SourceError};

/// How many pages, of 4 KiB as a rule, are copied at once.
const PAGES_PER_STEP: i32 = 256;

/// How long one who holds the file's lock is given before the next try, and how often.
const PAUSE: Duration = Duration::from_millis(50);
const TRIES_MAX: u32 = 100;

/// Why a journal cannot be backed up.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The journal cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A backup overwrites nothing.
    #[error("{} exists already; remove it, or choose another name for the backup", .0.display())]
    Exists(PathBuf),
    /// The system does not let us make the copy.
    #[error("cannot write the backup {}: {}", .0.display(), .1)]
    System(PathBuf, io::Error),
    /// SQLite cannot make the copy.
    #[error("cannot write the backup {}: {}", .0.display(), .1)]
    Sqlite(PathBuf, rusqlite::Error),
}

/// Copies a journal to a file that does not exist yet, as of the moment when it is called. Tells
/// how many pages are done, and of how many.
///
/// # Errors
/// When there is no such journal, or the copy exists or cannot be made.
pub fn backup(
    path: &Path,
    dest: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), BackupError> {
    let (source, path) = schema::open_source(path)?;
    let dest = absolute(dest);
    if dest.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(dest));
    }
    let unread = |error| BackupError::Source(SourceError::of(&path, error));
    // While this transaction is open the copy sees none of what others write, which would
    // else make it begin again with every commit. It begins with the first read.
    let moment = source.unchecked_transaction().map_err(unread)?;
    moment.query_row("SELECT count(*) FROM meta", [], |_| Ok(())).map_err(unread)?;

    let part = Part::create(&dest)?;
    let unwritten = |error| BackupError::Sqlite(part.path.clone(), error);
    let mut copy = Connection::open(&part.path).map_err(unwritten)?;
    copy_pages(&moment, &mut copy, progress).map_err(unwritten)?;
    schema::detach(&copy).map_err(unwritten)?;
    copy.close().map_err(|(_, error)| unwritten(error))?;
    part.finish(&dest)
}

fn copy_pages(
    source: &Connection,
    copy: &mut Connection,
    progress: &mut dyn FnMut(u64, u64),
) -> rusqlite::Result<()> {
    let backup = Backup::new(source, copy)?;
    let mut tries = 0;
    loop {
        let step = backup.step(PAGES_PER_STEP)?;
        let pages = backup.progress();
        let done = pages.pagecount.saturating_sub(pages.remaining);
        progress(done.unsigned_abs().into(), pages.pagecount.unsigned_abs().into());
        if step == StepResult::Done {
            return Ok(());
        }
        if step == StepResult::More {
            tries = 0;
            continue;
        }
        tries += 1;
        if tries == TRIES_MAX {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            return Err(rusqlite::Error::SqliteFailure(busy, None));
        }
        std::thread::sleep(PAUSE);
    }
}

/// The copy while it is not whole: it goes unless it is finished.
struct Part {
    path: PathBuf,
}

impl Part {
    fn create(dest: &Path) -> Result<Self, BackupError> {
        let path = beside(dest, ".part");
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => Ok(Self { path }),
            // Another backup is under way, or one was cut short; we cannot know which.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(BackupError::Exists(path))
            }
            Err(error) => Err(BackupError::System(path, error)),
        }
    }

    /// Gives the copy its name, once it is safe on the disk.
    fn finish(self, dest: &Path) -> Result<(), BackupError> {
        let finished = || {
            // Some systems sync only what is open to be written.
            OpenOptions::new().write(true).open(&self.path)?.sync_all()?;
            // One who made the file meanwhile is found out as late as we can; std has no rename
            // that refuses to overwrite.
            if dest.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(&self.path, dest)?;
            match dest.parent() {
                Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
                _ => Ok(()),
            }
        };
        finished().map_err(|error: io::Error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                BackupError::Exists(dest.to_owned())
            } else {
                BackupError::System(dest.to_owned(), error)
            }
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is nothing there; and what cannot be removed is named by the next
        // backup.
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let _ = fs::remove_file(beside(&self.path, suffix));
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{all, folder, options, say, texts, writer};
    use super::*;

    #[test]
    fn a_backup_is_whole_while_the_server_goes_on_and_has_an_epoch_of_its_own() {
        let folder = folder();
        let (path, copy) = (folder.path().join("log.db"), folder.path().join("copy.db"));
        let mut server = writer(&options(&path));
        for n in 0..40 {
            say(&mut server, "a", n * 1000..(n + 1) * 1000);
        }
        let mut steps = 0;
        backup(&path, &copy, &mut |done, all| {
            assert!(done <= all);
            steps += 1;
            say(&mut server, "a", 0..10);
        })
        .expect("a backup");
        assert!(steps > 1 && steps < 100, "{steps} steps");
        let names: Vec<_> = fs::read_dir(folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .filter(|name| name.to_string_lossy().starts_with("copy"))
            .collect();
        assert_eq!(names, ["copy.db"]);

        let restored = writer(&options(&copy));
        assert_ne!(restored.epoch, server.epoch);
        let (kept, all) = (all(&copy, "a").messages, all(&path, "a").messages);
        assert_eq!(kept.len(), 40_000);
        assert_eq!(texts(&kept), texts(&all)[..40_000]);
    }

    #[test]
    fn a_backup_overwrites_nothing_and_leaves_nothing_half_done() {
        let folder = folder();
        let (path, copy) = (folder.path().join("log.db"), folder.path().join("copy.db"));
        drop(writer(&options(&path)));
        fs::write(&copy, "precious").expect("a file");
        let error = backup(&path, &copy, &mut |_, _| {}).expect_err("it exists");
        assert!(matches!(error, BackupError::Exists(_)), "{error}");
        fs::remove_file(&copy).expect("a file");
        // Somebody is quicker.
        let error = backup(&path, &copy, &mut |_, _| fs::write(&copy, "precious").expect("a file"));
        assert!(matches!(error, Err(BackupError::Exists(_))), "{error:?}");
        assert_eq!(fs::read_to_string(&copy).expect("a file"), "precious");
        assert!(!folder.path().join("copy.db.part").exists());
    }
}
