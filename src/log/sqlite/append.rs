//! The transaction of an append: it applies the [`rules`] to drafts, and changes the tables. After
//! the commit the writer adopts the new state.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::clock::Clock;
use super::room::Room;
use super::rows::{self, count, integer, millis};
use super::settings::StoredSettings;
use super::{prune, schema, search};
use crate::domain::{
    Action, Change, ChangeKind, ChatMessage, Draft, Emoji, Entry, Identity, MessageId, MessageText,
    Nick, Quote, Right, RoomName, Seq, Settings, Timestamp, Topic,
};
use crate::log::Verdict;
use crate::log::rules::{self, REACTION_BYTES, Refused};

/// The state of the log that an append begins with.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) settings: &'a Settings,
    pub(super) head: Seq,
    pub(super) clock: Clock,
    pub(super) kept_bytes: i64,
    /// Whether the file has ids of changes, so that a draft may be a duplicate of a change.
    pub(super) has_change_ids: bool,
    /// Some of the rooms.
    pub(super) rooms: &'a HashMap<RoomName, Room>,
}

/// What an append has changed.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) entries: Vec<Entry>,
    pub(super) verdicts: Vec<Verdict>,
    pub(super) head: Seq,
    pub(super) clock: Clock,
    pub(super) kept_bytes: i64,
    pub(super) has_change_ids: bool,
    /// The rooms that were used.
    pub(super) rooms: HashMap<RoomName, Room>,
    /// Whether a text was removed. Its bytes may still be in the file until the next checkpoint.
    pub(super) removed_text: bool,
    /// Whether pruned messages are still in the file.
    pub(super) has_pruned: bool,
    /// The floors that were raised.
    pub(super) floors: Vec<(RoomName, Seq)>,
}

/// A draft's outcome if it is not a duplicate.
type Outcome = rusqlite::Result<Result<Entry, Refused>>;

/// The transaction of one append.
pub(super) struct AppendTransaction<'a> {
    pub(super) connection: &'a Connection,
    pub(super) before: Before<'a>,
    pub(super) at: Timestamp,
    pub(super) settings: Settings,
    clock: Clock,
    head: Seq,
    /// The sequence number of the next entry, if it is not the one after `head`.
    next: Option<Seq>,
    pub(super) kept_bytes: i64,
    has_change_ids: bool,
    pub(super) rooms: HashMap<RoomName, Room>,
    entries: Vec<Entry>,
    removed_text: bool,
}

/// The part of a draft that all actions have: its room, its author and its id.
struct Heading {
    name: RoomName,
    author: Option<Identity>,
    nick: Nick,
    id: Option<MessageId>,
}

/// The message that a draft changes.
struct Target {
    at: Timestamp,
    author: Option<Identity>,
    text_bytes: i64,
    /// The last edit, if its text was edited.
    edit: Option<i64>,
}

impl<'a> AppendTransaction<'a> {
    /// Begins an append at the time `at`. The caller has begun a transaction of SQLite.
    pub(super) fn new(connection: &'a Connection, before: Before<'a>, at: Timestamp) -> Self {
        Self {
            connection,
            before,
            at,
            settings: before.settings.clone(),
            clock: before.clock.advanced(at),
            head: before.head,
            next: None,
            kept_bytes: before.kept_bytes,
            has_change_ids: before.has_change_ids,
            rooms: HashMap::new(),
            entries: Vec::new(),
            removed_text: false,
        }
    }

    /// Applies drafts. Returns the outcome for each.
    pub(super) fn apply(&mut self, drafts: Vec<Draft>) -> rusqlite::Result<Vec<Verdict>> {
        self.apply_from(None, drafts)
    }

    /// Applies drafts. With `first`, the first one has this sequence number, and each further one
    /// the next, also after a draft that becomes no entry. Returns the outcome for each.
    pub(super) fn apply_from(
        &mut self,
        first: Option<Seq>,
        drafts: Vec<Draft>,
    ) -> rusqlite::Result<Vec<Verdict>> {
        self.prune_by_age(usize::MAX)?;
        let mut verdicts = Vec::with_capacity(drafts.len());
        let mut names: Vec<RoomName> = Vec::new();
        let mut room = None;
        let mut next = first;
        for draft in drafts {
            if names.last() != Some(&draft.room) {
                self.put(names.last(), room);
                room = self.find(&draft.room)?;
                names.push(draft.room.clone());
            }
            self.next = next;
            verdicts.push(self.place(&mut room, draft)?);
            next = next.map(Seq::next);
        }
        self.put(names.last(), room);
        for name in &names {
            self.prune_by_number(name)?;
        }
        self.prune_by_bytes()?;
        Ok(verdicts)
    }

    /// Appends a settings entry.
    pub(super) fn apply_settings(&mut self, settings: Settings) -> rusqlite::Result<()> {
        let seq = self.next_seq();
        self.settings = settings.clone();
        StoredSettings { seq, settings }.store(self.connection)?;
        self.prune_by_age(usize::MAX)?;
        self.prune_all_by_number()?;
        self.prune_by_bytes()
    }

    /// Writes the remaining changes before the commit.
    pub(super) fn finish(mut self, verdicts: Vec<Verdict>) -> rusqlite::Result<Applied> {
        self.save_rooms()?;
        let floors = self.raised_floors();
        // An append deletes more pruned rows than it adds, so that a file of limited size does not
        // fill up.
        let rows_max = count(2 * verdicts.len() + 8);
        let deleted = prune::delete_pruned(self.connection, prune::cutoff(self.clock), rows_max)?;
        self.removed_text |= deleted > 0;
        let select = "SELECT 1 FROM rooms WHERE unpruned IS NOT NULL";
        let has_pruned = self.connection.prepare_cached(select)?.exists([])?;
        schema::set_meta(self.connection, "head", integer(self.head))?;
        self.clock.store(self.connection, self.before.clock, self.before.head.next())?;
        Ok(Applied {
            entries: self.entries,
            verdicts,
            head: self.head,
            clock: self.clock,
            kept_bytes: self.kept_bytes,
            has_change_ids: self.has_change_ids,
            rooms: self.rooms,
            removed_text: self.removed_text,
            has_pruned,
            floors,
        })
    }

    /// Returns the floors that were raised so far.
    pub(super) fn raised_floors(&self) -> Vec<(RoomName, Seq)> {
        let raised = |(name, room): (&RoomName, &Room)| Some((name.clone(), room.raised_floor()?));
        self.rooms.iter().filter_map(raised).collect()
    }

    fn next_seq(&mut self) -> Seq {
        self.head = self.next.unwrap_or_else(|| self.head.next());
        self.head
    }

    /// Returns a room, if it exists.
    pub(super) fn find(&self, name: &RoomName) -> rusqlite::Result<Option<Room>> {
        if let Some(room) = self.rooms.get(name) {
            return Ok(Some(*room));
        }
        match self.before.rooms.get(name) {
            Some(room) => Ok(Some(room.at_start_of_append())),
            None => Room::load(self.connection, name),
        }
    }

    /// Stores a room after it was changed.
    pub(super) fn put(&mut self, name: Option<&RoomName>, room: Option<Room>) {
        if let (Some(name), Some(room)) = (name, room) {
            self.rooms.insert(name.clone(), room);
        }
    }

    pub(super) fn save_rooms(&mut self) -> rusqlite::Result<()> {
        self.rooms.values_mut().try_for_each(|room| room.save(self.connection))
    }

    /// Commits a draft, if it is not a duplicate and the rules permit it.
    fn place(&mut self, room: &mut Option<Room>, draft: Draft) -> rusqlite::Result<Verdict> {
        if let (Some(room), Some(author), Some(id)) = (&room, &draft.author, &draft.id)
            && let Some(seq) = self.find_duplicate(room, author, id)?
        {
            return Ok(Verdict::Duplicate(seq));
        }
        let bytes = room.map_or(0, |room| room.kept.bytes);
        let Draft { room: name, author, nick, id, right, action } = draft;
        let heading = Heading { name, author, nick, id };
        let outcome = match action {
            Action::Message { text, attributed, reply_to } => {
                self.add_message(room, heading, text, attributed, reply_to)?
            }
            Action::Edit { target, text } => self.edit(room, heading, right, target, text)?,
            Action::Delete { target } => self.delete(room, heading, right, target)?,
            Action::React { target, emoji, on } => self.react(room, heading, target, emoji, on)?,
            Action::Room { topic } => self.set_topic(room, heading, topic)?,
        };
        Ok(match outcome {
            Ok(entry) => {
                self.kept_bytes += room.map_or(0, |room| room.kept.bytes) - bytes;
                let seq = entry.seq();
                self.entries.push(entry);
                Verdict::Kept(seq)
            }
            Err(refused) => Verdict::Refused(refused),
        })
    }

    /// Returns the entry of the same author with the same id, if it is still recognized. Deletes an
    /// entry's id that is not recognized any more.
    fn find_duplicate(
        &self,
        room: &Room,
        author: &Identity,
        id: &MessageId,
    ) -> rusqlite::Result<Option<Seq>> {
        let key = (room.id, author.as_bytes().as_slice(), id.as_str());
        let is_recent = |at| rules::is_recent(rows::time(at), self.clock.latest());
        let read = |row: &rusqlite::Row<'_>| Ok((rows::seq(row.get(0)?), row.get::<_, i64>(1)?));
        let select = "SELECT seq, at FROM messages WHERE room = ?1 AND author = ?2 AND id = ?3";
        let message = self.connection.prepare_cached(select)?.query_row(key, read).optional()?;
        if let Some((seq, at)) = message {
            if room.keeps(seq) || is_recent(at) {
                return Ok(Some(seq));
            }
            self.connection
                .prepare_cached("DELETE FROM messages WHERE room = ?1 AND seq = ?2")?
                .execute((room.id, integer(seq)))?;
            self.connection
                .prepare_cached("DELETE FROM message_rooms WHERE seq = ?1")?
                .execute([integer(seq)])?;
        }
        if !self.has_change_ids {
            return Ok(None);
        }
        let select = "SELECT seq, at FROM change_ids WHERE room = ?1 AND author = ?2 AND id = ?3";
        let change = self.connection.prepare_cached(select)?.query_row(key, read).optional()?;
        match change {
            Some((seq, at)) if is_recent(at) => Ok(Some(seq)),
            Some((seq, _)) => {
                self.connection
                    .prepare_cached("DELETE FROM change_ids WHERE seq = ?1")?
                    .execute([integer(seq)])?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn add_message(
        &mut self,
        room: &mut Option<Room>,
        heading: Heading,
        text: MessageText,
        attributed: bool,
        reply_to: Option<Seq>,
    ) -> Outcome {
        let quote = match reply_to.map(|target| self.find_quote(room.as_ref(), target)) {
            Some(found) => match found? {
                Ok(quote) => quote,
                Err(refused) => return Ok(Err(refused)),
            },
            None => None,
        };
        let Heading { name, author, nick, id } = heading;
        let room = self.create_if_missing(room, &name)?;
        let seq = self.next_seq();
        self.connection
            .prepare_cached(
                "INSERT INTO messages
                     (room, seq, at, nick, text, attributed, author, id, reply_to)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute((
                room.id,
                integer(seq),
                millis(self.at),
                nick.as_str(),
                text.as_str(),
                attributed,
                author.as_ref().map(|author| author.as_bytes().as_slice()),
                id.as_ref().map(MessageId::as_str),
                reply_to.map(integer),
            ))?;
        self.connection
            .prepare_cached("INSERT INTO message_rooms VALUES (?1, ?2)")?
            .execute((integer(seq), room.id))?;
        room.add_message(self.at, text.as_str().len());
        Ok(Ok(Entry::Message(Arc::new(ChatMessage {
            room: name,
            seq,
            at: self.at,
            author,
            nick,
            text,
            id,
            attributed,
            reply_to,
            quote,
            edited_at: None,
            deleted: false,
            counted: None,
        }))))
    }

    fn edit(
        &mut self,
        room: &mut Option<Room>,
        heading: Heading,
        right: Right,
        target: Seq,
        text: MessageText,
    ) -> Outcome {
        let (room, found) = match self.find_changeable(room, &heading, right, target)? {
            Ok(found) => found,
            Err(refused) => return Ok(Err(refused)),
        };
        let seq = self.next_seq();
        search::reindex(self.connection, room.id, integer(target), Some(text.as_str()))?;
        self.connection
            .prepare_cached(
                "UPDATE messages SET text = ?3, edited_at = ?4, edit = ?5
                 WHERE room = ?1 AND seq = ?2",
            )?
            .execute((room.id, integer(target), text.as_str(), millis(self.at), integer(seq)))?;
        self.removed_text = true;
        room.kept.bytes += count(text.as_str().len()) - found.text_bytes;
        self.remove_change(room, found.edit)?;
        self.add_change(room, seq, heading, ChangeKind::Edit { target, text })
    }

    fn delete(
        &mut self,
        room: &mut Option<Room>,
        heading: Heading,
        right: Right,
        target: Seq,
    ) -> Outcome {
        let (room, found) = match self.find_changeable(room, &heading, right, target)? {
            Ok(found) => found,
            Err(refused) => return Ok(Err(refused)),
        };
        let seq = self.next_seq();
        let key = (room.id, integer(target));
        search::reindex(self.connection, room.id, integer(target), None)?;
        self.connection
            .prepare_cached(
                "UPDATE messages SET text = '', edited_at = NULL, deleted = 1, edit = NULL
                 WHERE room = ?1 AND seq = ?2",
            )?
            .execute(key)?;
        self.removed_text = true;
        let reactions = self
            .connection
            .prepare_cached("DELETE FROM reactions WHERE room = ?1 AND target = ?2")?
            .execute(key)?;
        self.connection
            .prepare_cached("DELETE FROM reaction_counts WHERE room = ?1 AND target = ?2")?
            .execute(key)?;
        room.kept.bytes -= found.text_bytes + count(reactions) * count(REACTION_BYTES);
        self.remove_change(room, found.edit)?;
        self.add_change(room, seq, heading, ChangeKind::Delete { target })
    }

    fn react(
        &mut self,
        room: &mut Option<Room>,
        heading: Heading,
        target: Seq,
        emoji: Emoji,
        on: bool,
    ) -> Outcome {
        let Some(room) = room else { return Ok(Err(Refused::NotFound)) };
        if self.find_target(room, target)?.is_none() {
            return Ok(Err(Refused::NotFound));
        }
        let author = rows::reaction_author(heading.author.as_ref());
        let key = (room.id, integer(target), emoji.as_str(), author);
        let select = "SELECT 1 FROM reactions
                      WHERE room = ?1 AND target = ?2 AND emoji = ?3 AND author = ?4";
        let exists = self.connection.prepare_cached(select)?.exists(key)?;
        if on && !exists {
            let (emojis, reactions, has_emoji): (u32, u32, bool) = self
                .connection
                .prepare_cached(
                    "SELECT count(*), coalesce(sum(count), 0), coalesce(max(emoji = ?3), 0)
                     FROM reaction_counts WHERE room = ?1 AND target = ?2",
                )?
                .query_row((room.id, integer(target), emoji.as_str()), |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?;
            if let Err(refused) = rules::may_react(has_emoji, emojis as usize, reactions as usize) {
                return Ok(Err(refused));
            }
            self.connection
                .prepare_cached("INSERT INTO reactions VALUES (?1, ?2, ?3, ?4)")?
                .execute(key)?;
            self.change_count(room, target, &emoji, 1)?;
        } else if !on && exists {
            self.connection
                .prepare_cached(
                    "DELETE FROM reactions
                     WHERE room = ?1 AND target = ?2 AND emoji = ?3 AND author = ?4",
                )?
                .execute(key)?;
            self.change_count(room, target, &emoji, -1)?;
        }
        let select = "SELECT count FROM reaction_counts
                      WHERE room = ?1 AND target = ?2 AND emoji = ?3";
        let counted = self
            .connection
            .prepare_cached(select)?
            .query_row((room.id, integer(target), emoji.as_str()), |row| row.get(0))
            .optional()?;
        let seq = self.next_seq();
        let kind = ChangeKind::React { target, emoji, on, count: counted.unwrap_or_default() };
        self.add_change(room, seq, heading, kind)
    }

    /// Adds `by`, which is 1 or -1, to the number of reactions with an emoji.
    fn change_count(
        &self,
        room: &mut Room,
        target: Seq,
        emoji: &Emoji,
        by: i64,
    ) -> rusqlite::Result<()> {
        let key = (room.id, integer(target), emoji.as_str());
        self.connection
            .prepare_cached(
                "INSERT INTO reaction_counts VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET count = count + ?4",
            )?
            .execute((key.0, key.1, key.2, by))?;
        if by < 0 {
            self.connection
                .prepare_cached(
                    "DELETE FROM reaction_counts
                     WHERE room = ?1 AND target = ?2 AND emoji = ?3 AND count <= 0",
                )?
                .execute(key)?;
        }
        room.kept.bytes += by * count(REACTION_BYTES);
        Ok(())
    }

    fn set_topic(&mut self, room: &mut Option<Room>, heading: Heading, topic: Topic) -> Outcome {
        let room = self.create_if_missing(room, &heading.name)?;
        let seq = self.next_seq();
        let select = "SELECT topic_change FROM rooms WHERE id = ?1";
        let superseded =
            self.connection.prepare_cached(select)?.query_row([room.id], |row| row.get(0))?;
        self.connection
            .prepare_cached("UPDATE rooms SET topic = ?2, topic_change = ?3 WHERE id = ?1")?
            .execute((room.id, topic.as_str(), integer(seq)))?;
        self.remove_change(room, superseded)?;
        self.add_change(room, seq, heading, ChangeKind::Room { topic })
    }

    fn create_if_missing<'r>(
        &self,
        room: &'r mut Option<Room>,
        name: &RoomName,
    ) -> rusqlite::Result<&'r mut Room> {
        match room {
            Some(room) => Ok(room),
            None => Ok(room.insert(Room::create(self.connection, name)?)),
        }
    }

    /// Returns the quote of a message that may be replied to.
    fn find_quote(
        &self,
        room: Option<&Room>,
        target: Seq,
    ) -> rusqlite::Result<Result<Option<Arc<Quote>>, Refused>> {
        let Some(room) = room.filter(|room| room.keeps(target)) else {
            return Ok(Err(Refused::NotFound));
        };
        quote(self.connection, room.id, target).map(|found| found.ok_or(Refused::NotFound))
    }

    /// Returns a kept message that is not deleted.
    fn find_target(&self, room: &Room, seq: Seq) -> rusqlite::Result<Option<Target>> {
        if !room.keeps(seq) {
            return Ok(None);
        }
        let select = "SELECT at, author, octet_length(text), edit FROM messages
                      WHERE room = ?1 AND seq = ?2 AND deleted = 0";
        let mut select = self.connection.prepare_cached(select)?;
        let target = select.query_row((room.id, integer(seq)), |row| {
            let author: Option<[u8; 16]> = row.get(1)?;
            Ok(Target {
                at: rows::time(row.get(0)?),
                author: author.map(Identity::from_trusted),
                text_bytes: row.get(2)?,
                edit: row.get(3)?,
            })
        });
        target.optional()
    }

    /// Returns the room and a message that the author may change.
    fn find_changeable<'r>(
        &self,
        room: &'r mut Option<Room>,
        heading: &Heading,
        right: Right,
        target: Seq,
    ) -> rusqlite::Result<Result<(&'r mut Room, Target), Refused>> {
        let Some(room) = room else { return Ok(Err(Refused::NotFound)) };
        let Some(found) = self.find_target(room, target)? else {
            return Ok(Err(Refused::NotFound));
        };
        let (settings, at) = (&self.settings, self.at);
        let permitted =
            rules::may_change(right, heading.author, found.author, found.at, at, settings);
        Ok(permitted.map(|()| (room, found)))
    }

    /// Deletes a change that has no effect any more.
    fn remove_change(&self, room: &mut Room, seq: Option<i64>) -> rusqlite::Result<()> {
        let Some(seq) = seq else { return Ok(()) };
        let removed = self
            .connection
            .prepare_cached("DELETE FROM changes WHERE room = ?1 AND seq = ?2")?
            .execute((room.id, seq))?;
        room.new_changes -= count(removed);
        Ok(())
    }

    fn add_change(
        &mut self,
        room: &mut Room,
        seq: Seq,
        heading: Heading,
        kind: ChangeKind,
    ) -> Outcome {
        let Heading { name, author, nick, id } = heading;
        let (word, emoji, added, counted) = match &kind {
            ChangeKind::Edit { .. } => ("edit", None, None, None),
            ChangeKind::Delete { .. } => ("delete", None, None, None),
            ChangeKind::React { emoji, on, count, .. } => {
                ("react", Some(emoji.as_str()), Some(*on), Some(*count))
            }
            ChangeKind::Room { .. } => ("room", None, None, None),
        };
        let author_bytes = author.as_ref().map(|author| author.as_bytes().as_slice());
        let id_text = id.as_ref().map(MessageId::as_str);
        self.connection
            .prepare_cached(
                "INSERT INTO changes
                     (room, seq, at, author, nick, id, kind, target, emoji, added, count)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute((
                room.id,
                integer(seq),
                millis(self.at),
                author_bytes,
                nick.as_str(),
                id_text,
                word,
                kind.target().map(integer),
                emoji,
                added,
                counted,
            ))?;
        room.new_changes += 1;
        if let (Some(author), Some(id)) = (author_bytes, id_text) {
            self.has_change_ids = true;
            self.connection
                .prepare_cached(
                    "INSERT INTO change_ids (seq, at, room, author, id)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute((integer(seq), millis(self.at), room.id, author, id))?;
        }
        let change = Change { room: name, seq, at: self.at, author, nick, id, kind };
        Ok(Ok(Entry::Change(Arc::new(change))))
    }
}

/// Returns the quote of a message. The outer `None` means that there is no such message, the inner
/// one that it is deleted.
pub(super) fn quote(
    connection: &Connection,
    room: i64,
    seq: Seq,
) -> rusqlite::Result<Option<Option<Arc<Quote>>>> {
    let select = format!(
        "SELECT nick, substr(text, 1, {}), deleted FROM messages WHERE room = ?1 AND seq = ?2",
        Quote::MAX_CHARS
    );
    let mut select = connection.prepare_cached(&select)?;
    let quote = select.query_row((room, integer(seq)), |row| {
        let (nick, text): (_, String) = (Nick::from_trusted(row.get(0)?), row.get(1)?);
        let is_deleted: bool = row.get(2)?;
        Ok((!is_deleted).then(|| Arc::new(Quote::new(nick, &text))))
    });
    quote.optional()
}
