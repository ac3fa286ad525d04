//! Replaces a journal by a copy of another node's journal. Messages that only the replaced journal
//! has are saved.

use std::fs::{File, remove_file, rename};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::OptionalExtension;
use tempfile::NamedTempFile;
use thiserror::Error;

use super::line::export_line;
use super::schema::{self, Source, SourceError};
use super::{JournalError, lock, rows, watch};
use crate::domain::RoomName;

/// Why a journal cannot be replaced.
#[derive(Debug, Error)]
pub enum InstallError {
    /// The journal cannot be opened or replaced.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The messages that the copy lacks cannot be written.
    #[error("cannot write {}: {}", .0.display(), .1)]
    Write(PathBuf, io::Error),
}

/// What is kept of a replaced journal that has messages which the copy lacks.
#[derive(Debug)]
pub(in crate::log) struct Replaced {
    /// The number of these messages.
    pub(in crate::log) messages: u64,
    /// The file with these messages.
    pub(in crate::log) lost: PathBuf,
    /// The replaced journal.
    pub(in crate::log) file: PathBuf,
}

/// Replaces a journal, which no server uses now, by a copy of another one. If the copy lacks
/// messages of the replaced journal, the replaced journal is kept under another name.
pub(in crate::log) fn install(
    copy: NamedTempFile,
    path: &Path,
) -> Result<Option<Replaced>, InstallError> {
    let failed = |error| JournalError::System(path.to_owned(), error);
    let path = &lock::canonical(path).map_err(failed)?;
    let _lock = lock::Lock::acquire(path)?;
    copy.as_file().sync_all().map_err(failed)?;
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string().replace(':', "-");
    let has_history = path.metadata().is_ok_and(|file| file.len() > 0);
    let lost = with_suffix(path, &format!(".lost-{time}.jsonl"));
    let messages = if has_history { save_lost(path, copy.path(), &lost)? } else { 0 };
    let file = with_suffix(path, &format!(".replaced-{time}"));
    if messages > 0 {
        // The write-ahead log may have messages that the file does not have.
        move_if_exists(&watch::wal_path(path), &watch::wal_path(&file)).map_err(failed)?;
        move_if_exists(path, &file).map_err(failed)?;
    }
    // SQLite would apply the write-ahead log of the replaced file to the copy.
    for other in [watch::wal_path(path), with_suffix(path, "-shm")] {
        match remove_file(other) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error).into()),
            Ok(()) | Err(_) => {}
        }
    }
    copy.persist(path).map_err(|error| failed(error.error))?;
    if let (Some(folder), true) = (path.parent(), cfg!(unix)) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    Ok((messages > 0).then_some(Replaced { messages, lost, file }))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn move_if_exists(from: &Path, to: &Path) -> io::Result<()> {
    match rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        moved @ (Ok(()) | Err(_)) => moved,
    }
}

/// Writes messages of the journal `path` to the new file `lost`, in the format of an export: those
/// that the journal `other` lacks, and those that were edited or deleted only in `path`. Returns
/// their number. Makes no file if there are none.
fn save_lost(path: &Path, other: &Path, lost: &Path) -> Result<u64, InstallError> {
    let Source { connection, path, .. } = schema::open_source(path)?;
    let failed = |error| InstallError::Source(SourceError::from_sqlite(&path, error));
    connection.execute("ATTACH ?1 AS other", [other.to_string_lossy()]).map_err(failed)?;
    // Messages up to the floor of a room are not lost, because the other journal has pruned them.
    // But if its epoch is another one, it never had the messages after the last one that both have.
    let common = "SELECT coalesce(max(own.seq), 0)
         FROM main.rooms room
         JOIN other.rooms other_room ON other_room.name = room.name
         JOIN main.messages own ON own.room = room.id
         JOIN other.messages other
             ON other.room = other_room.id AND other.seq = own.seq AND other.at = own.at
             AND other.nick = own.nick AND other.author IS own.author AND other.id IS own.id";
    let epoch = schema::meta::<String>(&connection, "epoch").map_err(failed)?;
    let select = "SELECT value FROM other.meta WHERE name = 'epoch'";
    let other_epoch = connection.query_row(select, [], |row| row.get(0)).optional();
    let common: i64 = if epoch == other_epoch.map_err(failed)? {
        i64::MAX
    } else {
        connection.query_row(common, [], |row| row.get(0)).map_err(failed)?
    };
    // A deleted message that the other journal lacks is not lost: deleted messages are removed
    // after some time.
    let select = connection.prepare(
        "SELECT own.seq, own.at, own.nick, own.text, own.attributed, own.id, own.author,
                own.reply_to, own.edited_at, own.deleted, room.name
         FROM main.rooms room
         JOIN main.messages own ON own.room = room.id AND own.seq > room.floor
         LEFT JOIN other.rooms other_room ON other_room.name = room.name
         LEFT JOIN other.messages other
             ON other.room = other_room.id AND other.seq = own.seq AND other.at = own.at
             AND other.nick = own.nick AND other.author IS own.author AND other.id IS own.id
         WHERE (own.seq > coalesce(other_room.floor, 0) OR own.seq > ?1)
             AND ((other.seq IS NULL AND NOT own.deleted)
                  OR other.deleted < own.deleted
                  OR (NOT other.deleted
                      AND coalesce(other.edited_at, 0) < coalesce(own.edited_at, 0)))
         ORDER BY room.name, own.seq",
    );
    let mut select = select.map_err(failed)?;
    let messages = select.query_map([common], |row| {
        let room = RoomName::from_trusted(row.get(10)?);
        rows::message(&room, row)
    });
    let mut messages = messages.map_err(failed)?.peekable();
    if messages.peek().is_none() {
        return Ok(0);
    }
    let write_error = |error| InstallError::Write(lost.to_owned(), error);
    // The temporary file is deleted after an error.
    let file = NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")));
    let mut file = BufWriter::new(file.map_err(write_error)?);
    let mut count = 0;
    for message in messages {
        writeln!(file, "{}", export_line(&message.map_err(failed)?, &[])).map_err(write_error)?;
        count += 1;
    }
    let file = file.into_inner().map_err(|error| write_error(error.into_error()))?;
    file.as_file().sync_all().map_err(write_error)?;
    file.persist_noclobber(lost).map_err(|error| write_error(error.error))?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{
        draft, draft_of, folder, options, prune, read_all, seq, text, texts, with_settings, writer,
    };
    use super::*;
    use crate::domain::{Action, Timestamp};

    /// Copies a journal, as another node sends it.
    fn copy(path: &Path) -> NamedTempFile {
        let folder = folder();
        let dest = folder.path().join("it's a copy.db");
        super::super::backup(path, &dest, &mut |_, _| {}).expect("a copy");
        let mut copy = NamedTempFile::new_in(path.parent().expect("a folder")).expect("a file");
        io::copy(&mut File::open(&dest).expect("a file"), &mut copy).expect("a copy");
        copy
    }

    #[test]
    fn messages_that_the_copy_lacks_are_saved_with_the_replaced_file() {
        let folder = folder();
        let (path, other) = (folder.path().join("log.db"), folder.path().join("other.db"));
        let mut own = writer(&options(&path));
        let all = ["pruned", "pruned too", "same", "edited", "deleted", "edited and deleted there"];
        let drafts = all.map(|words| draft("a", words));
        let seqs: Vec<_> = own.append(&drafts).expect("a commit").into_iter().map(seq).collect();
        copy(&path).persist(&other).expect("a copy");
        let edit = |target, words| draft_of("a", Action::Edit { target, text: text(words) });
        let changes = [
            edit(seqs[3], "new"),
            draft_of("a", Action::Delete { target: seqs[4] }),
            draft("b", "of a room of its own"),
            draft("a", "more"),
            edit(seqs[5], "deleted there"),
        ];
        own.append(&changes).expect("a commit");
        drop(own);

        let few = with_settings(&options(&other), |settings| settings.keep_messages = 4);
        let mut of_other = writer(&few);
        let delete = draft_of("a", Action::Delete { target: seqs[5] });
        of_other.append(&[delete]).expect("a commit");
        // It takes the place of another entry.
        of_other.append(&[draft("a", "other")]).expect("a commit");
        prune(&mut of_other, Timestamp::now());
        drop(of_other);

        let replaced = install(copy(&other), &path).expect("no error").expect("a file");
        let lines = std::fs::read_to_string(&replaced.lost).expect("a file");
        let lines: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let saved: Vec<_> = lines.iter().map(|line| line["text"].as_str()).collect();
        assert_eq!(saved, ["new", "", "more", "of a room of its own"].map(Some));
        assert_eq!(lines[1]["deleted"], true);
        assert_eq!(replaced.messages, 4);
        assert_eq!(texts(&read_all(&path, "a").messages).last(), Some(&"other"));
        assert_eq!(texts(&read_all(&replaced.file, "b").messages), ["of a room of its own"]);
    }

    #[test]
    fn nothing_is_saved_if_the_copy_has_everything() {
        let folder = folder();
        let path = folder.path().join("log.db");
        let mut own = writer(&options(&path));
        own.append(&["a", "b"].map(|words| draft("a", words))).expect("a commit");
        let copy = copy(&path);
        drop(own);
        assert!(install(copy, &path).expect("no error").is_none());
        assert_eq!(texts(&read_all(&path, "a").messages), ["a", "b"]);
        let left = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert!(left <= 2, "the file and its lock");
    }
}
