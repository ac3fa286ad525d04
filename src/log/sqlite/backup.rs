//! Backup: copies a journal, also while a server writes it. The copy gets an epoch of its own: a
//! server that is started with it assigns sequence numbers again that the original has assigned to
//! other messages.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use tempfile::{TempDir, TempPath};
use thiserror::Error;

use super::absolute;
use super::schema::{self, Source, SourceError};

/// The number of pages, usually of 4 KiB, that are copied in one step.
const PAGES_PER_STEP: i32 = 256;

/// The pause before another attempt when another program has locked the file.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The maximum number of attempts for one step.
const ATTEMPTS_MAX: u32 = 100;

/// Why a journal cannot be backed up.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The journal cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The file for the copy exists. A backup does not overwrite files.
    #[error("{} exists already; remove it, or choose another name for the backup", .0.display())]
    Exists(PathBuf),
    /// The operating system reported an error about the copy.
    #[error("cannot write the backup {}: {}", .0.display(), .1)]
    System(PathBuf, io::Error),
    /// SQLite reported an error about the copy.
    #[error("cannot write the backup {}: {}", .0.display(), .1)]
    Sqlite(PathBuf, rusqlite::Error),
}

/// Copies a journal to a new file. The copy is a snapshot of the time of the call. Calls `progress`
/// with the number of copied pages and the number of all pages.
///
/// The copy is read in one transaction, however long that takes. Meanwhile a server can write, but
/// cannot remove deleted texts from its write-ahead log. It removes them within seconds after the
/// backup has ended.
///
/// # Errors
/// If the journal does not exist, or the copy exists or cannot be written.
pub fn backup(
    path: &Path,
    dest: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), BackupError> {
    let Source { connection: source, path, .. } = schema::open_source(path)?;
    let dest = absolute(dest);
    if dest.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(dest));
    }
    let read_error = |error| BackupError::Source(SourceError::from_sqlite(&path, error));
    // This transaction hides later commits from the backup, which would otherwise start over at
    // each of them. A transaction begins at its first read.
    let snapshot = source.unchecked_transaction().map_err(read_error)?;
    snapshot.query_row("SELECT count(*) FROM meta", [], |_| Ok(())).map_err(read_error)?;

    let folder = create_folder_beside(&dest);
    let folder = folder.map_err(|error| BackupError::System(dest.clone(), error))?;
    let part = folder.path().join("copy");
    let write_error = |error| BackupError::Sqlite(dest.clone(), error);
    let mut copy = Connection::open(&part).map_err(write_error)?;
    copy_pages(&snapshot, &mut copy, progress).map_err(write_error)?;
    schema::remove_epoch(&copy).map_err(write_error)?;
    // SQLite leaves old bytes in unused parts of pages, which may be of deleted texts.
    copy.execute_batch("VACUUM").map_err(write_error)?;
    copy.close().map_err(|(_, error)| write_error(error))?;
    publish(&part, &dest).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            BackupError::Exists(dest)
        } else {
            BackupError::System(dest, error)
        }
    })
}

fn copy_pages(
    source: &Connection,
    copy: &mut Connection,
    progress: &mut dyn FnMut(u64, u64),
) -> rusqlite::Result<()> {
    let backup = Backup::new(source, copy)?;
    let mut attempts = 0;
    loop {
        let step = backup.step(PAGES_PER_STEP)?;
        let pages = backup.progress();
        let done = pages.pagecount.saturating_sub(pages.remaining);
        progress(done.unsigned_abs().into(), pages.pagecount.unsigned_abs().into());
        if step == StepResult::Done {
            return Ok(());
        }
        if step == StepResult::More {
            attempts = 0;
            continue;
        }
        attempts += 1;
        if attempts == ATTEMPTS_MAX {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            return Err(rusqlite::Error::SqliteFailure(busy, None));
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

/// Creates a folder beside the destination for a new file and SQLite's temporary files. The folder
/// and its contents are deleted on drop.
pub(super) fn create_folder_beside(dest: &Path) -> io::Result<TempDir> {
    let mut prefix = dest.file_name().unwrap_or_default().to_owned();
    prefix.push(".part-");
    tempfile::Builder::new().prefix(&prefix).tempdir_in(dest.parent().unwrap_or(Path::new(".")))
}

/// Syncs a new file to disk and renames it to `dest`, unless that exists.
pub(super) fn publish(part: &Path, dest: &Path) -> io::Result<()> {
    // Some systems sync only files that are open for writing.
    OpenOptions::new().write(true).open(part)?.sync_all()?;
    TempPath::try_from_path(part)?.persist_noclobber(dest).map_err(|error| error.error)?;
    match dest.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{append_numbers, folder, options, read_all, texts, writer};
    use super::*;
    use std::fs;

    #[test]
    fn backup_of_a_running_server_is_a_snapshot_with_its_own_epoch() {
        let folder = folder();
        let (path, copy) = (folder.path().join("log.db"), folder.path().join("copy.db"));
        let mut server = writer(&options(&path));
        for n in 0..40 {
            append_numbers(&mut server, "a", n * 1000..(n + 1) * 1000);
        }
        let mut steps = 0;
        backup(&path, &copy, &mut |done, all| {
            assert!(done <= all);
            steps += 1;
            append_numbers(&mut server, "a", 0..10);
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
        let (kept, all) = (read_all(&copy, "a").messages, read_all(&path, "a").messages);
        assert_eq!(kept.len(), 40_000);
        assert_eq!(texts(&kept), texts(&all)[..40_000]);
    }

    #[test]
    fn backup_does_not_overwrite_a_file_and_leaves_no_partial_copy() {
        let folder = folder();
        let (path, copy) = (folder.path().join("log.db"), folder.path().join("copy.db"));
        drop(writer(&options(&path)));
        fs::write(&copy, "precious").expect("a file");
        let error = backup(&path, &copy, &mut |_, _| {}).expect_err("it exists");
        assert!(matches!(error, BackupError::Exists(_)), "{error}");
        fs::remove_file(&copy).expect("a file");
        // Another program creates the file during the backup.
        let error = backup(&path, &copy, &mut |_, _| fs::write(&copy, "precious").expect("a file"));
        assert!(matches!(error, Err(BackupError::Exists(_))), "{error:?}");
        assert_eq!(fs::read_to_string(&copy).expect("a file"), "precious");
        let names = fs::read_dir(folder.path()).expect("a folder");
        let names = names.map(|entry| entry.expect("an entry").file_name());
        let mut parts = names.filter(|name| name.to_string_lossy().contains(".part-"));
        assert_eq!(parts.next(), None);
    }
}
