//! What was said, as lines of JSON: for people who want to take it elsewhere. It is read beside a
//! running server, as of one moment.

use std::io::{self, Write};
use std::path::Path;

use rusqlite::Connection;
use thiserror::Error;

use super::reader::message;
use super::schema::{self, SourceError};
use crate::domain::RoomName;
use crate::protocol::json;

/// After how many messages the progress is told.
const PROGRESS_EVERY: u64 = 1000;

/// Why messages cannot be exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The journal cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Nobody ever said anything in this room.
    #[error("nothing was ever said in the room '{0}'")]
    UnknownRoom(RoomName),
    /// The lines cannot be written.
    #[error("cannot write the export: {0}")]
    Write(#[from] io::Error),
}

/// Writes every message of a journal, or of one of its rooms, as a line of JSON: by the name of
/// the room, then in the order in which they were said. Tells the number of messages so far now
/// and then, and gives the number of all.
///
/// # Errors
/// When there is no such journal or room, or the lines cannot be written.
pub fn export(
    path: &Path,
    room: Option<&RoomName>,
    out: &mut impl Write,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ExportError> {
    let (connection, path) = schema::open_source(path)?;
    let unread = |error| ExportError::Source(SourceError::of(&path, error));
    let moment = connection.unchecked_transaction().map_err(unread)?;
    let rooms = rooms(&moment, room).map_err(unread)?;
    if let (Some(room), true) = (room, rooms.is_empty()) {
        return Err(ExportError::UnknownRoom(room.clone()));
    }
    let mut select = moment
        .prepare(
            "SELECT seq, at, nick, text, attributed, id FROM messages
             WHERE room = ?1 AND seq > ?2 ORDER BY seq",
        )
        .map_err(unread)?;
    let mut done = 0;
    for (id, floor, name) in rooms {
        let mut rows = select.query((id, floor)).map_err(unread)?;
        while let Some(row) = rows.next().map_err(unread)? {
            let message = message(&name, row).map_err(unread)?;
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

/// The number, floor and name of one room or of all, by name.
fn rooms(
    moment: &Connection,
    only: Option<&RoomName>,
) -> rusqlite::Result<Vec<(i64, i64, RoomName)>> {
    let mut select = moment
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
    fn an_export_has_each_visible_message_on_a_line() {
        let folder = folder();
        let path = folder.path().join("log.db");
        let mut writer = writer(&Options { keep_messages: 2, ..options(&path) });
        writer.append(&[draft("b", "b1"), draft_with_id("a", "a1", "id")]).expect("places");
        writer
            .append(&[draft("b", "b2"), draft("b", "b3\n"), draft_with_id("a", "a2", "x")])
            .expect("places");
        prune(&mut writer, Timestamp::now());
        let lines = |room: Option<&RoomName>| {
            let mut out = Vec::new();
            let mut told = 0;
            let done = export(&path, room, &mut out, &mut |done| told = done).expect("an export");
            assert_eq!(done, told);
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
