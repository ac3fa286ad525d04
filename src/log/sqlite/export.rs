//! Export: writes the messages of a journal as lines of JSON. It reads a snapshot of the journal,
//! also while a server writes it.

use std::io::{self, Write};
use std::path::Path;

use rusqlite::Connection;
use thiserror::Error;

use super::reader::message_from_row;
use super::schema::{self, SourceError};
use crate::domain::RoomName;
use crate::protocol::json;

/// The number of messages between two calls of `progress`.
const PROGRESS_EVERY: u64 = 1000;

/// Why messages cannot be exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The journal cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The journal has no messages of this room.
    #[error("there are no messages of the room '{0}'")]
    UnknownRoom(RoomName),
    /// The lines cannot be written.
    #[error("cannot write the export: {0}")]
    Write(#[from] io::Error),
}

/// Writes every message of a journal, or of one room, as a line of JSON. The lines are ordered by
/// the name of the room, then by sequence number. Calls `progress` with the number of messages that
/// are written. Returns their total number.
///
/// # Errors
/// If the journal or the room does not exist, or the lines cannot be written.
pub fn export(
    path: &Path,
    room: Option<&RoomName>,
    out: &mut impl Write,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ExportError> {
    let (connection, path) = schema::open_source(path)?;
    let read_error = |error| ExportError::Source(SourceError::from_sqlite(&path, error));
    let snapshot = connection.unchecked_transaction().map_err(read_error)?;
    let rooms = rooms(&snapshot, room).map_err(read_error)?;
    if let (Some(room), true) = (room, rooms.is_empty()) {
        return Err(ExportError::UnknownRoom(room.clone()));
    }
    let mut select = snapshot
        .prepare(
            "SELECT seq, at, nick, text, attributed, id FROM messages
             WHERE room = ?1 AND seq > ?2 ORDER BY seq",
        )
        .map_err(read_error)?;
    let mut done = 0;
    for (id, floor, name) in rooms {
        let mut rows = select.query((id, floor)).map_err(read_error)?;
        while let Some(row) = rows.next().map_err(read_error)? {
            let message = message_from_row(&name, row).map_err(read_error)?;
            writeln!(out, "{}", json::object(&message))?;
            done += 1;
            if done % PROGRESS_EVERY == 0 {
                progress(done);
            }
        }
    }
    out.flush()?;
    progress(done);
    Ok(done)
}

/// Returns the id, floor and name of one room or of all rooms, ordered by name.
fn rooms(
    snapshot: &Connection,
    only: Option<&RoomName>,
) -> rusqlite::Result<Vec<(i64, i64, RoomName)>> {
    let mut select = snapshot
        .prepare("SELECT id, floor, name FROM rooms WHERE ?1 IS NULL OR name = ?1 ORDER BY name")?;
    let rooms = select.query_map([only.map(RoomName::as_str)], |row| {
        Ok((row.get(0)?, row.get(1)?, RoomName::from_trusted(row.get(2)?)))
    })?;
    rooms.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::super::tests::{draft, draft_with_id, folder, options, prune, room, writer};
    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn export_has_one_line_for_each_message_that_is_not_pruned() {
        let folder = folder();
        let path = folder.path().join("log.db");
        let mut writer = writer(&Options { keep_messages: 2, ..options(&path) });
        writer.append(&[draft("b", "b1"), draft_with_id("a", "a1", "id")]).expect("a commit");
        writer
            .append(&[draft("b", "b2"), draft("b", "b3\n"), draft_with_id("a", "a2", "x")])
            .expect("a commit");
        prune(&mut writer, Timestamp::now());
        let lines = |room: Option<&RoomName>| {
            let mut out = Vec::new();
            let mut progress = 0;
            let done =
                export(&path, room, &mut out, &mut |done| progress = done).expect("an export");
            assert_eq!(done, progress);
            let out = String::from_utf8(out).expect("text");
            assert_eq!(out.lines().count() as u64, done);
            out.lines()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .map(|line: serde_json::Value| line["text"].as_str().expect("a text").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(None), ["a1", "a2", "b2", "b3\n"]);
        assert_eq!(lines(Some(&room("b"))), ["b2", "b3\n"]);
        let error = export(&path, Some(&room("c")), &mut Vec::new(), &mut |_| {});
        assert!(matches!(error, Err(ExportError::UnknownRoom(_))), "{error:?}");
    }
}
