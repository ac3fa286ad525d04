//! Export: writes the messages of a journal as lines of JSON. A server may use the journal at the
//! same time. The export reads slices of messages, each in a short transaction, so it does not
//! prevent the server from removing deleted texts. Each message has the state in which its slice
//! was read.

use std::io::{self, Write};
use std::path::Path;

use thiserror::Error;

use super::line::{export_line, room_line};
use super::schema::{self, Source, SourceError};
use super::{page, rows};
use crate::domain::{ChatMessage, Reaction, RoomName, Topic};

/// The number of messages that are read in one transaction, and between two calls of `progress`.
const SLICE_MESSAGES: i64 = 1000;

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

/// Writes every message of a journal, or of one room, as a line of JSON, and a line for every room
/// that has a topic. The lines are ordered by the name of the room, then by sequence number. Calls
/// `progress` with the number of messages written so far. Returns their total number.
///
/// # Errors
/// If the journal or the room does not exist, or the lines cannot be written.
pub fn export(
    path: &Path,
    room: Option<&RoomName>,
    out: &mut impl Write,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ExportError> {
    let source = schema::open_source(path)?;
    let read_error = |error| ExportError::Source(SourceError::from_sqlite(&source.path, error));
    let rooms = rooms(&source, room).map_err(read_error)?;
    if let (Some(room), true) = (room, rooms.is_empty()) {
        return Err(ExportError::UnknownRoom(room.clone()));
    }
    let mut done = 0;
    for room in rooms {
        if !room.topic.is_empty() {
            writeln!(out, "{}", room_line(&room.name, &room.topic))?;
        }
        let mut last = 0;
        loop {
            let (messages, reactions) = read_slice(&source, &room, last).map_err(read_error)?;
            let Some(newest) = messages.last() else { break };
            last = rows::integer(newest.seq);
            for message in &messages {
                let start = reactions.partition_point(|one| one.target < message.seq);
                let end = reactions.partition_point(|one| one.target <= message.seq);
                writeln!(out, "{}", export_line(message, &reactions[start..end]))?;
                done += 1;
            }
            progress(done);
        }
    }
    out.flush()?;
    progress(done);
    Ok(done)
}

struct Room {
    id: i64,
    name: RoomName,
    topic: Topic,
}

/// Returns one room or all rooms, ordered by name.
fn rooms(source: &Source, only: Option<&RoomName>) -> rusqlite::Result<Vec<Room>> {
    let topic = if source.version < 3 { "''" } else { "topic" };
    let mut select = source.connection.prepare(&format!(
        "SELECT id, name, {topic} FROM rooms WHERE ?1 IS NULL OR name = ?1 ORDER BY name"
    ))?;
    let rooms = select.query_map([only.map(RoomName::as_str)], |row| {
        let (name, topic) = (RoomName::from_trusted(row.get(1)?), Topic::from_trusted(row.get(2)?));
        Ok(Room { id: row.get(0)?, name, topic })
    })?;
    rooms.collect()
}

/// Reads the next messages of a room after a sequence number, and the reactions to them.
fn read_slice(
    source: &Source,
    room: &Room,
    after: i64,
) -> rusqlite::Result<(Vec<ChatMessage>, Vec<Reaction>)> {
    let snapshot = source.connection.unchecked_transaction()?;
    let columns = if source.version < 3 { "NULL, NULL, 0" } else { "reply_to, edited_at, deleted" };
    let mut select = snapshot.prepare_cached(&format!(
        "SELECT seq, at, nick, text, attributed, id, author, {columns} FROM messages
         WHERE room = ?1 AND seq > ?2 AND seq > (SELECT floor FROM rooms WHERE id = ?1)
         ORDER BY seq LIMIT ?3"
    ))?;
    let messages =
        select.query_map((room.id, after, SLICE_MESSAGES), |row| rows::message(&room.name, row))?;
    let messages = messages.collect::<rusqlite::Result<Vec<_>>>()?;
    let reactions = match (messages.first(), messages.last()) {
        (Some(first), Some(last)) if source.version >= 3 => page::read_reactions(
            &snapshot,
            room.id,
            rows::integer(first.seq),
            rows::integer(last.seq),
        )?,
        _ => Vec::new(),
    };
    Ok((messages, reactions))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{
        draft, draft_with_id, folder, options, prune, room, with_settings, writer,
    };
    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn export_has_one_line_for_each_message_that_is_not_pruned() {
        let folder = folder();
        let path = folder.path().join("log.db");
        let mut writer =
            writer(&with_settings(&options(&path), |settings| settings.keep_messages = 2));
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
