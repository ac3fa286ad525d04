//! Reads pages of the history.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::append;
use super::rows::{self, count, integer};
use crate::domain::{
    Change, ChangeKind, ChatMessage, Emoji, Identity, MessageId, MessageText, Nick, Reaction,
    ReactionCount, RoomName, Seq, Topic,
};
use crate::log::{Messages, Range, Reader};

/// The maximum number of reactions on a page for the hub, which keeps about as many for a room. A
/// page with more has fewer messages.
const HUB_REACTIONS_MAX: i64 = 150_000;

/// What to read. The fields are those of [`Page`](crate::log::Page).
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) room: RoomName,
    pub(super) before: Seq,
    pub(super) range: Range,
    pub(super) reader: Reader,
    pub(super) limit: usize,
    pub(super) max_bytes: usize,
}

/// A room that is read.
struct Room<'a> {
    connection: &'a Connection,
    name: &'a RoomName,
    id: i64,
    floor: i64,
    /// The last change that was deleted from the file though it had an effect.
    changes_floor: i64,
    topic: Topic,
}

/// Limits of a part of a page.
#[derive(Clone, Copy)]
struct Limits {
    messages: usize,
    bytes: usize,
    /// Whether the first message is returned though it is too long.
    one_in_any_case: bool,
}

pub(super) fn read_page(connection: &Connection, query: &Query) -> rusqlite::Result<Messages> {
    // All queries must see the same snapshot.
    let snapshot = connection.unchecked_transaction()?;
    let Some(room) = Room::find(&snapshot, &query.room)? else { return Ok(Messages::default()) };
    let mut messages = room.select(query)?;
    if query.reader == Reader::Hub {
        room.limit_reactions(&mut messages)?;
    }
    // Everything before this that is not on the page is older than the page.
    let start = match (messages.first(), query.range) {
        (Some(first), _) => first.seq,
        (None, Range::After(seq)) => seq.next().min(query.before),
        (None, Range::Latest | Range::Around(_)) => query.before,
    };
    let older = room.last_before(start)?;
    let mut page = Messages {
        floor: rows::seq(older.unwrap_or(room.floor)),
        more: older.is_some(),
        more_newer: match messages.last() {
            Some(last) => room.has_between(last.seq, query.before)?,
            None => false,
        },
        ..Messages::default()
    };
    if let (Some(first), Some(last)) = (messages.first(), messages.last()) {
        let (first, last) = (integer(first.seq), integer(last.seq));
        match query.reader {
            Reader::Hub => page.reactions = read_reactions(&snapshot, room.id, first, last)?,
            Reader::Client(identity) => page.counts = room.counts(first, last, identity)?,
        }
    }
    if query.reader == Reader::Hub {
        room.add_changes(&mut page, query.before, query.limit)?;
    }
    for mut message in messages {
        if let Some(target) = message.reply_to.filter(|_| !message.deleted)
            && integer(target) > room.floor
        {
            message.quote = append::quote(&snapshot, room.id, target)?.flatten();
        }
        page.messages.push(Arc::new(message));
    }
    page.topic = room.topic;
    Ok(page)
}

impl<'a> Room<'a> {
    fn find(connection: &'a Connection, name: &'a RoomName) -> rusqlite::Result<Option<Self>> {
        let select = "SELECT id, floor, changes_floor, topic FROM rooms WHERE name = ?1";
        let mut select = connection.prepare_cached(select)?;
        let room = select.query_row([name.as_str()], |row| {
            let (id, floor, changes_floor) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let topic = Topic::from_trusted(row.get(3)?);
            Ok(Self { connection, name, id, floor, changes_floor, topic })
        });
        room.optional()
    }

    /// Removes the oldest messages while there are too many reactions. One message stays in any case.
    fn limit_reactions(&self, messages: &mut Vec<ChatMessage>) -> rusqlite::Result<()> {
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return Ok(()) };
        let select = "SELECT target, sum(count) FROM reaction_counts
                      WHERE room = ?1 AND target BETWEEN ?2 AND ?3
                      GROUP BY target ORDER BY target DESC";
        let mut select = self.connection.prepare_cached(select)?;
        let mut rows = select.query((self.id, integer(first.seq), integer(last.seq)))?;
        let mut reactions = 0;
        while let Some(row) = rows.next()? {
            reactions += row.get::<_, i64>(1)?;
            if reactions > HUB_REACTIONS_MAX {
                let target = rows::seq(row.get(0)?);
                let surplus = messages.partition_point(|message| message.seq <= target);
                messages.drain(..surplus.min(messages.len() - 1));
                break;
            }
        }
        Ok(())
    }

    /// Returns the messages of a page, oldest first.
    fn select(&self, query: &Query) -> rusqlite::Result<Vec<ChatMessage>> {
        let Query { before, range, limit, max_bytes, .. } = *query;
        let all = Limits { messages: limit.max(1), bytes: max_bytes, one_in_any_case: true };
        match range {
            Range::Latest => self.newest_before(before, all),
            Range::After(seq) => self.oldest_between(seq, before, all),
            Range::Around(seq) => {
                let older_limits = Limits {
                    messages: all.messages.div_ceil(2),
                    bytes: max_bytes.div_ceil(2),
                    one_in_any_case: true,
                };
                let mut messages = self.newest_before(seq.next().min(before), older_limits)?;
                let bytes: usize = messages.iter().map(|message| message.text.as_str().len()).sum();
                let is_first = messages.is_empty();
                let newer_limits = Limits {
                    messages: (all.messages / 2).max(usize::from(is_first)),
                    bytes: max_bytes.saturating_sub(bytes),
                    one_in_any_case: is_first,
                };
                messages.extend(self.oldest_between(seq, before, newer_limits)?);
                Ok(messages)
            }
        }
    }

    /// Returns the last messages before a sequence number, oldest first.
    fn newest_before(&self, before: Seq, limits: Limits) -> rusqlite::Result<Vec<ChatMessage>> {
        let select = "SELECT seq, at, nick, text, attributed, id, author, reply_to, edited_at,
                          deleted
                      FROM messages WHERE room = ?1 AND seq > ?2 AND seq < ?3
                      ORDER BY seq DESC LIMIT ?4";
        let mut messages = self.read(select, self.floor, before, limits)?;
        messages.reverse();
        Ok(messages)
    }

    /// Returns the first messages between two sequence numbers.
    fn oldest_between(
        &self,
        after: Seq,
        before: Seq,
        limits: Limits,
    ) -> rusqlite::Result<Vec<ChatMessage>> {
        let select = "SELECT seq, at, nick, text, attributed, id, author, reply_to, edited_at,
                          deleted
                      FROM messages WHERE room = ?1 AND seq > ?2 AND seq < ?3
                      ORDER BY seq LIMIT ?4";
        self.read(select, self.floor.max(integer(after)), before, limits)
    }

    fn read(
        &self,
        select: &str,
        after: i64,
        before: Seq,
        limits: Limits,
    ) -> rusqlite::Result<Vec<ChatMessage>> {
        let mut select = self.connection.prepare_cached(select)?;
        let mut rows = select.query((self.id, after, integer(before), count(limits.messages)))?;
        let (mut messages, mut bytes) = (Vec::new(), 0_usize);
        while let Some(row) = rows.next()? {
            let message = rows::message(self.name, row)?;
            bytes = bytes.saturating_add(message.text.as_str().len());
            let is_needed = limits.one_in_any_case && messages.is_empty();
            if bytes > limits.bytes && !is_needed {
                break;
            }
            messages.push(message);
        }
        Ok(messages)
    }

    /// Returns the sequence number of the last message before another.
    fn last_before(&self, seq: Seq) -> rusqlite::Result<Option<i64>> {
        let select = "SELECT seq FROM messages WHERE room = ?1 AND seq > ?2 AND seq < ?3
                      ORDER BY seq DESC LIMIT 1";
        let mut select = self.connection.prepare_cached(select)?;
        select.query_row((self.id, self.floor, integer(seq)), |row| row.get(0)).optional()
    }

    fn has_between(&self, after: Seq, before: Seq) -> rusqlite::Result<bool> {
        let select = "SELECT 1 FROM messages WHERE room = ?1 AND seq > ?2 AND seq < ?3";
        let mut select = self.connection.prepare_cached(select)?;
        select.exists((self.id, integer(after), integer(before)))
    }

    /// Returns the counted reactions to a range of messages.
    fn counts(
        &self,
        first: i64,
        last: i64,
        reader: Identity,
    ) -> rusqlite::Result<Vec<ReactionCount>> {
        let select = "SELECT target, emoji, count, EXISTS (
                          SELECT 1 FROM reactions
                          WHERE room = ?1 AND target = reaction_counts.target
                          AND emoji = reaction_counts.emoji AND author = ?4)
                      FROM reaction_counts
                      WHERE room = ?1 AND target BETWEEN ?2 AND ?3 ORDER BY target, emoji";
        let mut select = self.connection.prepare_cached(select)?;
        let key = (self.id, first, last, reader.as_bytes().as_slice());
        let counts = select.query_map(key, |row| {
            Ok(ReactionCount {
                target: rows::seq(row.get(0)?),
                emoji: Emoji::from_trusted(row.get_ref(1)?.as_str()?),
                count: row.get(2)?,
                mine: row.get(3)?,
            })
        })?;
        counts.collect()
    }

    /// Adds the last changes to a page, and raises its floor to the last one that is left out.
    fn add_changes(&self, page: &mut Messages, before: Seq, limit: usize) -> rusqlite::Result<()> {
        let select = "SELECT change.seq, change.at, change.author, change.nick, change.id,
                          change.kind, change.target, change.emoji, change.added, change.count,
                          message.text
                      FROM changes change LEFT JOIN messages message
                      ON change.kind = 'edit' AND message.room = change.room
                          AND message.seq = change.target
                      WHERE change.room = ?1 AND change.seq > ?2 AND change.seq < ?3
                          AND (change.kind <> 'edit' OR change.target > ?2)
                      ORDER BY change.seq DESC LIMIT ?4";
        let mut select = self.connection.prepare_cached(select)?;
        let most = count(limit).saturating_add(1);
        let mut rows = select.query((self.id, self.floor, integer(before), most))?;
        let mut left_out = self.changes_floor;
        while let Some(row) = rows.next()? {
            if page.changes.len() == limit {
                left_out = row.get(0)?;
                break;
            }
            page.changes.push(Arc::new(self.change(row)?));
        }
        page.changes.reverse();
        page.floor = page.floor.max(rows::seq(left_out));
        Ok(())
    }

    fn change(&self, row: &rusqlite::Row<'_>) -> rusqlite::Result<Change> {
        let target = row.get::<_, Option<i64>>(6)?.map(rows::seq).unwrap_or_default();
        let kind = match row.get_ref(5)?.as_str()? {
            "edit" => {
                let text: Option<String> = row.get(10)?;
                let text = text.map_or_else(MessageText::deleted, MessageText::from_trusted);
                ChangeKind::Edit { target, text }
            }
            "delete" => ChangeKind::Delete { target },
            "react" => ChangeKind::React {
                target,
                emoji: Emoji::from_trusted(row.get_ref(7)?.as_str()?),
                on: row.get(8)?,
                count: row.get(9)?,
            },
            _ => ChangeKind::Room { topic: self.topic.clone() },
        };
        let author: Option<[u8; 16]> = row.get(2)?;
        let id: Option<String> = row.get(4)?;
        Ok(Change {
            room: self.name.clone(),
            seq: rows::seq(row.get(0)?),
            at: rows::time(row.get(1)?),
            author: author.map(Identity::from_trusted),
            nick: Nick::from_trusted(row.get(3)?),
            id: id.and_then(|id| MessageId::parse(&id).ok()),
            kind,
        })
    }
}

/// Returns all reactions to a range of messages of a room, sorted by message, emoji and author.
pub(super) fn read_reactions(
    connection: &Connection,
    room: i64,
    first: i64,
    last: i64,
) -> rusqlite::Result<Vec<Reaction>> {
    let select = "SELECT target, emoji, author FROM reactions
                  WHERE room = ?1 AND target BETWEEN ?2 AND ?3 ORDER BY target, emoji, author";
    let mut select = connection.prepare_cached(select)?;
    let reactions = select.query_map((room, first, last), |row| {
        Ok(Reaction {
            target: rows::seq(row.get(0)?),
            emoji: Emoji::from_trusted(row.get_ref(1)?.as_str()?),
            author: rows::identity(row.get_ref(2)?.as_blob()?),
        })
    })?;
    reactions.collect()
}
