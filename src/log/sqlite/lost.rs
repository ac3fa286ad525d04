//! Saves the messages of a journal that another journal does not have, before that one replaces it.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;

use super::line::export_line;
use super::rows;
use super::schema::{self, Source, SourceError};
use crate::domain::RoomName;

/// Why the messages cannot be saved.
#[derive(Debug, Error)]
pub enum LostError {
    /// A journal cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The file cannot be written.
    #[error("cannot write {}: {}", .0.display(), .1)]
    Write(PathBuf, io::Error),
}

/// Writes the messages of a journal that another one lacks, or that were edited or deleted only in
/// the first one, to a new file beside the journal, in the format of an export. Returns their
/// number and the file, unless there are none.
pub(in crate::log) fn save_lost(
    path: &Path,
    other: &Path,
) -> Result<Option<(u64, PathBuf)>, LostError> {
    let Source { connection, path, .. } = schema::open_source(path)?;
    let failed = |error| LostError::Source(SourceError::from_sqlite(&path, error));
    let other = other.to_string_lossy();
    connection.execute("ATTACH ?1 AS other", [other]).map_err(failed)?;
    // Below a floor, messages were pruned. Deleted messages are removed after some time.
    let select = connection.prepare(
        "SELECT own.seq, own.at, own.nick, own.text, own.attributed, own.id, own.author,
                own.reply_to, own.edited_at, own.deleted, room.name
         FROM main.rooms room
         JOIN main.messages own ON own.room = room.id AND own.seq > room.floor
         LEFT JOIN other.rooms other_room ON other_room.name = room.name
         LEFT JOIN other.messages other
             ON other.room = other_room.id AND other.seq = own.seq AND other.at = own.at
             AND other.nick = own.nick AND other.author IS own.author AND other.id IS own.id
         WHERE own.seq > coalesce(other_room.floor, 0)
             AND ((other.seq IS NULL AND NOT own.deleted)
                  OR other.deleted < own.deleted
                  OR coalesce(other.edited_at, 0) < coalesce(own.edited_at, 0))
         ORDER BY room.name, own.seq",
    );
    let mut select = select.map_err(failed)?;
    let messages = select.query_map([], |row| {
        let room = RoomName::from_trusted(row.get(10)?);
        rows::message(&room, row)
    });
    let mut messages = messages.map_err(failed)?.peekable();
    if messages.peek().is_none() {
        return Ok(None);
    }
    let lost = lost_path(&path);
    let write_error = |error| LostError::Write(lost.clone(), error);
    let file = OpenOptions::new().write(true).create_new(true).open(&lost).map_err(write_error)?;
    let mut file = BufWriter::new(file);
    let mut count = 0;
    for message in messages {
        let message = message.map_err(failed)?;
        writeln!(file, "{}", export_line(&message, &[])).map_err(write_error)?;
        count += 1;
    }
    let file = file.into_inner().map_err(|error| write_error(error.into_error()))?;
    file.sync_all().map_err(write_error)?;
    Ok(Some((count, lost)))
}

/// Returns the path of a new file beside the journal: its path, `.lost-` and the time.
fn lost_path(path: &Path) -> PathBuf {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let mut lost = path.as_os_str().to_owned();
    lost.push(format!(".lost-{}.jsonl", time.replace(':', "-")));
    lost.into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{
        draft, draft_of, folder, options, prune, seq, text, with_settings, writer,
    };
    use super::*;
    use crate::domain::{Action, Timestamp};

    #[test]
    fn messages_that_only_one_journal_has_are_saved() {
        let folder = folder();
        let (path, other) = (folder.path().join("log.db"), folder.path().join("it's other.db"));
        let small = with_settings(&options(&other), |settings| settings.keep_messages = 4);
        let mut own = writer(&options(&path));
        let drafts = ["pruned", "pruned too", "same", "edited", "deleted", "deleted there"];
        let drafts = drafts.map(|words| draft("a", words));
        let seqs: Vec<_> = own.append(&drafts).expect("a commit").into_iter().map(seq).collect();
        super::super::backup(&path, &other, &mut |_, _| {}).expect("a copy");
        assert!(save_lost(&path, &other).expect("no error").is_none());

        let new = text("new");
        own.append(&[
            draft_of("a", Action::Edit { target: seqs[3], text: new.clone() }),
            draft_of("a", Action::Delete { target: seqs[4] }),
            draft("b", "of a room of its own"),
            draft("a", "more"),
        ])
        .expect("a commit");
        let mut of_other = writer(&small);
        let delete = draft_of("a", Action::Delete { target: seqs[5] });
        of_other.append(&[delete]).expect("a commit");
        // It takes the place of the edit.
        of_other.append(&[draft("a", "other")]).expect("a commit");
        prune(&mut of_other, Timestamp::now());
        drop(of_other);
        let (count, file) = save_lost(&path, &other).expect("no error").expect("a file");
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name.starts_with("log.db.lost-2") && name.ends_with("Z.jsonl"), "{name}");
        let lines = std::fs::read_to_string(&file).expect("a file");
        let lines: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let saved: Vec<_> = lines.iter().map(|line| line["text"].as_str()).collect();
        assert_eq!(saved, ["new", "", "more", "of a room of its own"].map(Some));
        assert_eq!(lines[1]["deleted"], true);
        assert_eq!(count, 4);
    }
}
