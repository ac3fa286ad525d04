//! Import: creates a journal from the lines of an export.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::Deserialize;
use thiserror::Error;

use super::line::{MessageLine, RoomLine, is_attributed_by_default};
use super::rows::{self, count};
use super::{absolute, backup, migration, schema, watch};
use crate::domain::{BadNick, Emoji, MessageId, MessageText, Nick, RoomName, Seq, Topic};
use crate::log::rules::{MESSAGE_BYTES, REACTION_BYTES};

/// The number of messages between two calls of `progress`.
const PROGRESS_EVERY: u64 = 1000;

/// The greatest time: 2^53 - 1 milliseconds, which JSON can represent exactly.
const AT_MAX: u64 = (1 << 53) - 1;

/// Why messages cannot be imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The new file exists. An import does not overwrite files.
    #[error("{} exists already; remove it, or choose another name for the new file", .0.display())]
    Exists(PathBuf),
    /// A line is not one of an export.
    #[error("line {0}: {1}")]
    Line(u64, String),
    /// The lines cannot be read.
    #[error("cannot read the export: {0}")]
    Read(io::Error),
    /// The operating system reported an error about the new file.
    #[error("cannot write {}: {}", .0.display(), .1)]
    System(PathBuf, io::Error),
    /// SQLite reported an error about the new file.
    #[error("cannot write {}: {}", .0.display(), .1)]
    Sqlite(PathBuf, rusqlite::Error),
}

/// Creates a journal from the lines of an export. Messages keep their sequence numbers, times and
/// authors. Calls `progress` with the number of messages read so far. Returns their total number.
/// After an error there is no new file.
///
/// The new journal begins a new epoch. A server applies its limits when it opens the file.
///
/// # Errors
/// Returns an error if the file exists or cannot be written, or if a line cannot be read or is
/// invalid.
pub fn import(
    path: &Path,
    input: &mut impl BufRead,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, ImportError> {
    let path = absolute(path);
    for path in [&path, &watch::wal_path(&path)] {
        if path.symlink_metadata().is_ok() {
            return Err(ImportError::Exists(path.clone()));
        }
    }
    let folder = backup::create_folder_beside(&path);
    let folder = folder.map_err(|error| ImportError::System(path.clone(), error))?;
    let part = folder.path().join("new");
    let write_error = |error| ImportError::Sqlite(path.clone(), error);
    let mut connection = schema::create(&part).map_err(write_error)?;
    let transaction = connection.transaction().map_err(write_error)?;
    let mut import = Import::new(&transaction);
    let done = import.read(input, progress).map_err(|error| match error {
        ReadError::Line(number, words) => ImportError::Line(number, words),
        ReadError::Read(error) => ImportError::Read(error),
        ReadError::Sqlite(error) => write_error(error),
    })?;
    import.finish().map_err(write_error)?;
    transaction.commit().map_err(write_error)?;
    connection.close().map_err(|(_, error)| write_error(error))?;
    backup::publish(&part, &path).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            ImportError::Exists(path)
        } else {
            ImportError::System(path, error)
        }
    })?;
    Ok(done)
}

/// Why the lines could not be read completely.
enum ReadError {
    Line(u64, String),
    Read(io::Error),
    Sqlite(rusqlite::Error),
}

/// What is wrong with a line.
enum LineError {
    Invalid(String),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for LineError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl LineError {
    fn new(words: impl ToString) -> Self {
        Self::Invalid(words.to_string())
    }
}

/// The field of a line that says what the line contains.
#[derive(Deserialize)]
struct Kind {
    r#type: Option<String>,
}

/// The state of an import.
struct Import<'a> {
    connection: &'a Connection,
    rooms: HashMap<RoomName, Room>,
    seqs: SeqSet,
    /// The greatest sequence number, and the time of that message.
    head: (u64, u64),
}

/// The imported part of a room.
#[derive(Default)]
struct Room {
    id: i64,
    messages: i64,
    bytes: i64,
    oldest: Option<u64>,
    /// The sequence number and the time of the last message.
    last: (u64, u64),
}

/// A set of sequence numbers, which takes little memory if they are dense.
#[derive(Default)]
struct SeqSet(HashMap<u64, u64>);

impl SeqSet {
    /// Adds a number. Returns whether it is new.
    fn insert(&mut self, seq: u64) -> bool {
        let bits = self.0.entry(seq / 64).or_default();
        let bit = 1 << (seq % 64);
        let is_new = *bits & bit == 0;
        *bits |= bit;
        is_new
    }
}

impl<'a> Import<'a> {
    fn new(connection: &'a Connection) -> Self {
        Self { connection, rooms: HashMap::new(), seqs: SeqSet::default(), head: (0, 0) }
    }

    /// Imports all lines. Returns the number of messages.
    fn read(
        &mut self,
        input: &mut impl BufRead,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, ReadError> {
        let mut done = 0;
        for (number, line) in (1..).zip(input.lines()) {
            let line = line.map_err(|error| {
                if error.kind() == io::ErrorKind::InvalidData {
                    return ReadError::Line(number, error.to_string());
                }
                ReadError::Read(error)
            })?;
            let is_message = self.add_line(&line).map_err(|error| match error {
                LineError::Invalid(words) => ReadError::Line(number, words),
                LineError::Sqlite(error) => ReadError::Sqlite(error),
            })?;
            if is_message {
                done += 1;
                if done % PROGRESS_EVERY == 0 {
                    progress(done);
                }
            }
        }
        progress(done);
        Ok(done)
    }

    /// Imports a line. Returns whether it is a message.
    fn add_line(&mut self, line: &str) -> Result<bool, LineError> {
        if line.trim().is_empty() {
            return Ok(false);
        }
        let Kind { r#type } = serde_json::from_str(line).map_err(LineError::new)?;
        match r#type.as_deref() {
            None => {
                let message = serde_json::from_str(line).map_err(LineError::new)?;
                self.add_message(message)?;
                Ok(true)
            }
            Some("room") => {
                let room = serde_json::from_str(line).map_err(LineError::new)?;
                self.add_room(&room)?;
                Ok(false)
            }
            Some(kind) => {
                let words =
                    format!("unknown type '{kind}'; a topic has the type 'room', a message none");
                Err(LineError::Invalid(words))
            }
        }
    }

    fn room(&mut self, name: &str) -> Result<&mut Room, LineError> {
        let name = RoomName::parse(name).map_err(LineError::new)?;
        if !self.rooms.contains_key(&name) {
            self.connection
                .prepare_cached("INSERT INTO rooms (name, oldest) VALUES (?1, NULL)")?
                .execute([name.as_str()])?;
            let id = self.connection.last_insert_rowid();
            self.rooms.insert(name.clone(), Room { id, ..Room::default() });
        }
        self.rooms.get_mut(&name).ok_or_else(|| LineError::new("the room is missing"))
    }

    fn add_room(&mut self, RoomLine { room, topic, .. }: &RoomLine) -> Result<(), LineError> {
        let topic = Topic::parse(topic).map_err(LineError::new)?;
        let id = self.room(room)?.id;
        self.connection
            .prepare_cached("UPDATE rooms SET topic = ?2 WHERE id = ?1")?
            .execute((id, topic.as_str()))?;
        Ok(())
    }

    fn add_message(&mut self, line: MessageLine) -> Result<(), LineError> {
        let MessageLine { seq, at, .. } = line;
        if seq == 0 || seq > Seq::MAX.get() {
            return Err(LineError::new(format!("seq must be between 1 and 2^53 - 1, not {seq}")));
        }
        if at.max(line.edited_at.unwrap_or_default()) > AT_MAX {
            return Err(LineError::new("a time (at or edited_at) must be less than 2^53"));
        }
        if line.reply_to.is_some_and(|target| target >= seq) {
            return Err(LineError::new(format!("reply_to must be less than seq ({seq})")));
        }
        let nick = nick(&line.nick).map_err(LineError::new)?;
        let text = if line.deleted {
            Some(MessageText::deleted()).filter(|_| line.text.is_empty())
        } else {
            Some(MessageText::parse(line.text, usize::MAX).map_err(LineError::new)?)
        };
        let text = text.ok_or_else(|| LineError::new("a deleted message must not have a text"))?;
        let id = line.id.as_deref().map(MessageId::parse).transpose().map_err(LineError::new)?;
        let attributed = line.attributed.unwrap_or_else(|| is_attributed_by_default(&nick));
        if !self.seqs.insert(seq) {
            return Err(LineError::Invalid(format!("an earlier line has the same seq {seq}")));
        }
        let connection = self.connection;
        let room = self.room(&line.room)?;
        if seq < room.last.0 {
            return Err(LineError::new("the messages of a room must be sorted by seq"));
        }
        connection
            .prepare_cached(
                "INSERT OR IGNORE INTO messages
                     (room, seq, at, nick, text, attributed, author, id, reply_to, edited_at,
                      deleted)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute((
                room.id,
                count(seq),
                count(at),
                nick.as_str(),
                text.as_str(),
                attributed,
                line.identity.as_ref().map(|identity| identity.0.as_bytes().as_slice()),
                id.as_ref().map(MessageId::as_str),
                line.reply_to.map(count),
                line.edited_at.map(count),
                line.deleted,
            ))
            .map_err(LineError::from)
            .and_then(|added| match added {
                0 => {
                    Err(LineError::new("an earlier line of the room has the same identity and id"))
                }
                _ => Ok(()),
            })?;
        let mut reactions = 0;
        for reaction in line.reactions {
            let emoji = Emoji::from_trusted(&reaction.emoji);
            let mut added = 0;
            for identity in &reaction.identities {
                let identity = identity.as_ref().map(|identity| &identity.0);
                added += connection
                    .prepare_cached("INSERT OR IGNORE INTO reactions VALUES (?1, ?2, ?3, ?4)")?
                    .execute((
                        room.id,
                        count(seq),
                        emoji.as_str(),
                        rows::reaction_author(identity),
                    ))?;
            }
            let is_new = connection
                .prepare_cached("INSERT OR IGNORE INTO reaction_counts VALUES (?1, ?2, ?3, ?4)")?
                .execute((room.id, count(seq), emoji.as_str(), count(added)))?;
            if line.deleted || is_new == 0 || added == 0 || added < reaction.identities.len() {
                let words = "list each emoji and identity once, and none for a deleted message";
                return Err(LineError::Invalid(format!("invalid reactions with {emoji}: {words}")));
            }
            reactions += count(added);
        }
        if at < room.last.1 {
            connection
                .prepare_cached("INSERT OR IGNORE INTO clock_steps VALUES (?1)")?
                .execute([count(seq)])?;
        }
        room.messages += 1;
        room.bytes +=
            count(text.as_str().len()) + count(MESSAGE_BYTES) + reactions * count(REACTION_BYTES);
        room.oldest = Some(room.oldest.map_or(at, |oldest| oldest.min(at)));
        room.last = (seq, at);
        self.head = self.head.max((seq, at));
        Ok(())
    }

    /// Stores the values that depend on all lines.
    fn finish(self) -> rusqlite::Result<()> {
        let mut update = self
            .connection
            .prepare("UPDATE rooms SET messages = ?2, bytes = ?3, oldest = ?4 WHERE id = ?1")?;
        for room in self.rooms.values() {
            update.execute((room.id, room.messages, room.bytes, room.oldest.map(count)))?;
        }
        let (head, at) = self.head;
        schema::set_meta(self.connection, "head", count(head))?;
        schema::set_meta(self.connection, "at", count(at))?;
        // The last message of another room may have a later time than that of the head.
        self.connection
            .execute("INSERT OR IGNORE INTO clock_steps VALUES (?1)", [count(head) + 1])?;
        // The server indexes the messages after it has opened the file.
        self.connection.execute_batch(migration::FILL_SEARCH)
    }
}

/// Parses a name. Users cannot choose a generated name, but an import accepts it.
fn nick(text: &str) -> Result<Nick, BadNick> {
    match Nick::parse(text) {
        Err(BadNick::Reserved) => Ok(Nick::from_trusted(text.into())),
        nick => nick,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{
        draft, draft_of, draft_with_id, folder, options, read_all, room, texts, writer,
    };
    use super::super::{export, page::Query, tests::ask};
    use super::*;
    use crate::domain::{Action, Draft, Timestamp};
    use crate::log::{Messages, Range, Reader, Verdict};

    fn export_text(path: &Path) -> String {
        let mut out = Vec::new();
        export(path, None, &mut out, &mut |_| {}).expect("an export");
        String::from_utf8(out).expect("text")
    }

    fn import_text(path: &Path, text: &str) -> Result<u64, ImportError> {
        import(path, &mut text.as_bytes(), &mut |_| {})
    }

    fn whole(path: &Path, name: &str) -> Messages {
        let (before, range, reader) = (Seq::MAX, Range::Latest, Reader::Hub);
        let (limit, max_bytes) = (usize::MAX, usize::MAX);
        ask(path, &Query { room: room(name), before, range, reader, limit, max_bytes })
    }

    #[test]
    fn import_of_an_export_has_the_same_state() {
        let folder = folder();
        let (path, copy) = (folder.path().join("log.db"), folder.path().join("copy.db"));
        let mut server = writer(&options(&path));
        let emoji = |text| Emoji::parse(text).expect("an emoji");
        let react = |name, target, text, author| {
            let action = Action::React { target: Seq::new(target), emoji: emoji(text), on: true };
            Draft { author, ..draft_of(name, action) }
        };
        let text = |words| MessageText::parse(words, 100).expect("a text");
        let reply_to = Some(Seq::new(2));
        let reply = Action::Message { text: text("a reply"), attributed: true, reply_to };
        let anonymous = Nick::anonymous(crate::domain::ClientId::next());
        let ann = draft("a", "x").author;
        let drafts = [
            draft("b", "one"),
            draft_with_id("a", "two", "id"),
            draft_with_id("a", "three\n", "another"),
            draft_of("a", reply),
            Draft { author: None, nick: anonymous.clone(), ..draft("a", "shown") },
            Draft {
                nick: anonymous,
                ..draft_of(
                    "a",
                    Action::Message { text: text("not shown"), attributed: false, reply_to: None },
                )
            },
            react("a", 2, "👍", ann),
            react("a", 2, "👍", None),
            react("a", 2, "🎉", ann),
            draft_of("a", Action::Edit { target: Seq::new(2), text: text("edited") }),
            draft_of("a", Action::Delete { target: Seq::new(3) }),
            draft_of("b", Action::Room { topic: Topic::parse("Which tea?").expect("a topic") }),
        ];
        server.append(&drafts).expect("a commit");
        let text = export_text(&path);
        let mut progress = 0;
        let done = import(&copy, &mut text.as_bytes(), &mut |done| progress = done);
        assert_eq!((done.expect("an import"), progress), (6, 6));
        assert_eq!(export_text(&copy), text);
        let names = std::fs::read_dir(folder.path()).expect("a folder");
        let names = names.map(|entry| entry.expect("an entry").file_name());
        assert!(!names.into_iter().any(|name| name.to_string_lossy().contains(".part-")));

        let mut restored = writer(&options(&copy));
        assert_ne!(restored.epoch, server.epoch);
        assert_eq!(restored.kept_bytes, server.kept_bytes);
        for name in ["a", "b"] {
            let [page, expected] = [&copy, &path].map(|path| {
                let page = whole(path, name);
                let authors: Vec<_> = page.messages.iter().map(|one| one.author).collect();
                (format!("{:?}", page.messages), authors, page.reactions, page.topic)
            });
            assert_eq!(page, expected);
        }
        // The last message has the sequence number 6, the settings entry 7.
        let verdicts = restored.append(&[drafts[1].clone(), draft("a", "new")]).expect("a commit");
        assert_eq!(verdicts, [Verdict::Duplicate(Seq::new(2)), Verdict::Kept(Seq::new(8))]);
    }

    #[test]
    fn export_of_an_older_version_is_imported() {
        let folder = folder();
        let path = folder.path().join("log.db");
        let lines = concat!(
            r#"{"room":"a","seq":1,"at":1000,"nick":"Ann","text":"hello","id":"x"}"#,
            "\n\n",
            r#"{"room":"a","seq":3,"at":900,"nick":"anonymous-1a2b","text":"hi"}"#,
        );
        assert_eq!(import_text(&path, lines).expect("an import"), 2);
        let page = read_all(&path, "a");
        assert_eq!(texts(&page.messages), ["hello", "hi"]);
        assert_eq!(page.messages[0].at, Timestamp::from_millis(1000));
        assert!(page.messages[0].attributed && !page.messages[1].attributed);
        // Both are expired, even though the clock was set back between them.
        let keep_an_hour = |settings: &mut crate::domain::Settings| {
            settings.keep_for = Some(std::time::Duration::from_secs(3600));
        };
        writer(&super::super::tests::with_settings(&options(&path), keep_an_hour));
        assert!(read_all(&path, "a").messages.is_empty());
    }

    #[test]
    fn error_has_the_number_of_the_bad_line_and_no_file_remains() {
        let good = r#"{"room":"a","seq":5,"at":1,"nick":"Ann","text":"hello","id":"x"}"#;
        let with = |from: &str, to: &str| good.replace(from, to);
        let by_ann = r#""nick":"Ann","identity":"000102030405060708090a0b0c0d0e0f""#;
        let same_id = with(r#""nick":"Ann""#, by_ann);
        let reactions = |list: &str| with("{", &format!("{{\"reactions\":{list},"));
        let twice = r#"[{"emoji":"👍","identities":[null,null]}]"#;
        let two_spellings = format!(
            r#"[{{"emoji":"❤","identities":["{:032}"]}},{{"emoji":"❤️","identities":[null]}}]"#,
            1
        );
        for (first, second, words) in [
            (good, "{".into(), "EOF"),
            (good, "[]".into(), "expected struct"),
            (good, with("room", "rom"), "unknown field `rom`"),
            (good, with(r#""seq":5,"#, ""), "missing field `seq`"),
            (good, with(":5", ":0"), "seq must be between"),
            (good, with(":5", ":9007199254740992"), "seq must be between"),
            (good, with(":5", ":4"), "sorted"),
            (good, good.into(), "seq 5"),
            (good, with(r#""a""#, r#""b""#), "seq 5"),
            (good, with(r#""a""#, r#""a b""#).replace(":5", ":6"), "room name"),
            (good, with("Ann", "A:n").replace(":5", ":6"), "a name"),
            (good, with("hello", ""), "empty"),
            (good, with("{", r#"{"deleted":true,"#), "deleted"),
            (good, with("{", r#"{"type":"user","#), "unknown type 'user'"),
            (good, with("{", r#"{"identity":"xyz","#), "32 hexadecimal"),
            (good, with("{", r#"{"reply_to":5,"#), "reply_to"),
            (good, with(":5", ":6").replace(r#""at":1"#, r#""at":9007199254740992"#), "time"),
            (&same_id, same_id.replace(":5", ":6"), "same identity and id"),
            (good, reactions(twice).replace(":5", ":6"), "invalid reactions"),
            (good, reactions(&two_spellings).replace(":5", ":6"), "invalid reactions"),
        ] {
            let folder = folder();
            let path = folder.path().join("log.db");
            let text = format!("{first}\n{second}\n");
            let error = import_text(&path, &text).expect_err(&second);
            assert!(matches!(error, ImportError::Line(2, _)), "{error}: {second}");
            assert!(error.to_string().contains(words), "{error}: {second}");
            assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
        }
    }

    #[test]
    fn import_does_not_overwrite_a_file() {
        let folder = folder();
        let path = folder.path().join("log.db");
        for name in ["log.db", "log.db-wal"] {
            let existing = folder.path().join(name);
            std::fs::write(&existing, "precious").expect("a file");
            let error = import_text(&path, "").expect_err("it exists");
            assert!(matches!(error, ImportError::Exists(_)), "{error}");
            assert_eq!(std::fs::read_to_string(&existing).expect("a file"), "precious");
            std::fs::remove_file(&existing).expect("a file");
        }
    }
}
