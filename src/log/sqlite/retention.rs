//! Retention: an append moves the floors of rooms over the messages that exceed a limit. The
//! [`rules`](crate::log::rules) say which. `prune` deletes these messages from the file later.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension};

use super::append::AppendTransaction;
use super::migration::Progress;
use super::room::{Kept, Room};
use super::rows::{count, millis};
use crate::domain::RoomName;
use crate::log::rules::{MESSAGE_BYTES, REACTION_BYTES};

/// Up to this excess over `keep_bytes`, messages are pruned one by one.
const EXCESS_MAX: i64 = if cfg!(test) { 300 } else { 4 * 1024 * 1024 };

impl AppendTransaction<'_> {
    /// Prunes the messages of at most `rooms_max` rooms that are older than `keep_for`.
    pub(super) fn prune_by_age(&mut self, rooms_max: usize) -> rusqlite::Result<()> {
        let Some(keep_for) = self.settings.keep_for else { return Ok(()) };
        let cutoff = millis(self.at.minus(keep_for));
        let mut progress = Progress::new("pruning old messages");
        for done in 0..rooms_max {
            let Some(name) = room_with_message_before(self.connection, cutoff)? else { break };
            let Some(mut room) = self.find(&name)? else { break };
            let bytes = room.kept.bytes;
            prune_before(self.connection, &mut room, cutoff)?;
            self.kept_bytes += room.kept.bytes - bytes;
            room.save(self.connection)?;
            self.put(Some(&name), Some(room));
            progress.show(done, None);
        }
        Ok(())
    }

    /// Prunes the oldest messages of a room beyond `keep_messages`.
    pub(super) fn prune_by_number(&mut self, name: &RoomName) -> rusqlite::Result<()> {
        let most = count(self.settings.keep_messages);
        let Some(mut room) = self.find(name)?.filter(|room| room.kept.messages > most) else {
            return Ok(());
        };
        let bytes = room.kept.bytes;
        prune_to(self.connection, &mut room, most)?;
        self.kept_bytes += room.kept.bytes - bytes;
        self.put(Some(name), Some(room));
        Ok(())
    }

    /// Prunes the oldest messages of all rooms beyond `keep_messages`.
    pub(super) fn prune_all_by_number(&mut self) -> rusqlite::Result<()> {
        self.save_rooms()?;
        let select = "SELECT name FROM rooms WHERE messages > ?1";
        let mut select = self.connection.prepare(select)?;
        let names = select.query_map([count(self.settings.keep_messages)], |row| row.get(0))?;
        let names = names.collect::<rusqlite::Result<Vec<String>>>()?;
        let mut progress = Progress::new("pruning messages beyond the number to keep");
        let all = names.len();
        for (done, name) in names.into_iter().enumerate() {
            self.prune_by_number(&RoomName::from_trusted(name))?;
            progress.show(done, Some(all));
        }
        self.save_rooms()
    }

    /// Prunes the oldest messages of the largest rooms while all exceed `keep_bytes`.
    pub(super) fn prune_by_bytes(&mut self) -> rusqlite::Result<()> {
        let Some(most) = self.settings.keep_bytes.map(count) else { return Ok(()) };
        if self.kept_bytes <= most {
            return Ok(());
        }
        self.save_rooms()?;
        let mut progress = Progress::new("pruning messages beyond the bytes to keep");
        if self.kept_bytes - most > EXCESS_MAX {
            self.prune_to_level(most, &mut progress)?;
        }
        let mut done = 0;
        while self.kept_bytes > most
            && let Some(Largest { name, next }) = Largest::find(self.connection)?
            && let Some(mut room) = self.find(&name)?.filter(|room| room.kept.messages > 0)
        {
            let Kept { messages, bytes, .. } = room.kept;
            let is_largest = |bytes: i64| {
                next.as_ref().is_none_or(|(next_name, next_bytes)| {
                    bytes > *next_bytes || bytes == *next_bytes && name < *next_name
                })
            };
            prune_bytes(self.connection, &mut room, self.kept_bytes - most, is_largest)?;
            self.kept_bytes += room.kept.bytes - bytes;
            room.save(self.connection)?;
            self.put(Some(&name), Some(room));
            if room.kept.messages == messages {
                break;
            }
            done += 1;
            progress.show(done, None);
        }
        Ok(())
    }

    /// Prunes all large rooms to about the same size, as long as all of that would be pruned one by
    /// one, too. This reads each room once. It is for settings with a much lower limit.
    fn prune_to_level(&mut self, most: i64, progress: &mut Progress) -> rusqlite::Result<()> {
        let select = "SELECT name, bytes FROM rooms WHERE bytes > 0 ORDER BY bytes DESC";
        let mut select = self.connection.prepare(select)?;
        let sizes = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let sizes = sizes.collect::<rusqlite::Result<Vec<(String, i64)>>>()?;
        let level = level(sizes.iter().map(|(_, bytes)| *bytes), self.kept_bytes, most);
        // Each room becomes smaller than the level by a part of a message.
        let mut slack = count(MESSAGE_BYTES);
        loop {
            let large = sizes.iter().take_while(|(_, bytes)| *bytes > level + slack);
            let (mut pruned, mut kept_bytes) = (Vec::new(), self.kept_bytes);
            for (name, bytes) in large {
                let name = RoomName::from_trusted(name.clone());
                let Some(mut room) = self.find(&name)? else { continue };
                prune_bytes(self.connection, &mut room, bytes - level - slack, |_| true)?;
                kept_bytes += room.kept.bytes - bytes;
                pruned.push((name, room));
                progress.show(pruned.len(), Some(sizes.len()));
            }
            if kept_bytes >= most {
                self.kept_bytes = kept_bytes;
                self.rooms.extend(pruned);
                return self.save_rooms();
            }
            slack *= 4;
        }
    }
}

/// Returns the size to which all larger rooms must be pruned so that all together have `most`
/// bytes. The sizes are sorted, largest first, and their sum is `sum`.
fn level(sizes: impl Iterator<Item = i64>, sum: i64, most: i64) -> i64 {
    let (mut rest, mut level) = (sum, i64::MAX);
    for (larger, size) in (0..).zip(sizes) {
        // Without this room, the larger ones must be pruned below its size.
        if larger > 0 && level >= size {
            break;
        }
        rest -= size;
        level = (most - rest) / (larger + 1);
    }
    level
}

/// Returns a room that may have a message from before `cutoff`.
fn room_with_message_before(
    connection: &Connection,
    cutoff: i64,
) -> rusqlite::Result<Option<RoomName>> {
    let select = "SELECT name FROM rooms WHERE oldest < ?1 ORDER BY oldest LIMIT 1";
    let mut select = connection.prepare_cached(select)?;
    select.query_row([cutoff], |row| Ok(RoomName::from_trusted(row.get(0)?))).optional()
}

/// The largest room. Of equally large rooms it is the first by name.
struct Largest {
    name: RoomName,
    /// The name and size of the next one.
    next: Option<(RoomName, i64)>,
}

impl Largest {
    fn find(connection: &Connection) -> rusqlite::Result<Option<Self>> {
        let select = "SELECT name, bytes FROM rooms ORDER BY bytes DESC, name LIMIT 2";
        let mut select = connection.prepare_cached(select)?;
        let rooms =
            select.query_map([], |row| Ok((RoomName::from_trusted(row.get(0)?), row.get(1)?)))?;
        let mut rooms = rooms.collect::<rusqlite::Result<Vec<_>>>()?.into_iter();
        Ok(rooms.next().map(|(name, _)| Self { name, next: rooms.next() }))
    }
}

/// Prunes all messages of a room up to the last one from before `cutoff`, and determines the time
/// of the oldest one.
fn prune_before(connection: &Connection, room: &mut Room, cutoff: i64) -> rusqlite::Result<()> {
    let everything = room.kept.floor + 1..i64::MAX;
    let Some((last, last_at)) = last_message(connection, room, everything)? else {
        room.kept.oldest = None;
        return Ok(());
    };
    if last_at < cutoff {
        room.raise_floor(last, room.kept.messages, room.kept.bytes);
        return Ok(());
    }
    let mut runs = runs(connection, room)?;
    if !is_sorted(connection, room, &runs)? {
        find_clock_steps(connection, room)?;
        runs = self::runs(connection, room)?;
    }
    // The times increase within a run. So the last run that begins with an expired message has the
    // last expired message.
    let mut expired = None;
    for run in &runs {
        expired = last_expired(connection, room, run.clone(), cutoff)?;
        if expired.is_some() {
            break;
        }
    }
    if let Some(floor) = expired {
        let (messages, bytes) = measure(connection, room, room.kept.floor, floor)?;
        room.raise_floor(floor, messages, bytes);
    }
    let mut oldest = None;
    for run in runs {
        let run = run.start.max(room.kept.floor + 1)..run.end;
        let first = first_time(connection, room, run)?;
        oldest = oldest.into_iter().chain(first).min();
    }
    room.kept.oldest = oldest;
    Ok(())
}

/// Returns the ranges of sequence numbers in which the times of a room's messages increase, newest
/// first.
fn runs(connection: &Connection, room: &Room) -> rusqlite::Result<Vec<Range<i64>>> {
    let first = room.kept.floor + 1;
    let select = "SELECT seq FROM clock_steps WHERE seq > ?1 ORDER BY seq DESC";
    let mut select = connection.prepare_cached(select)?;
    let steps = select.query_map([first], |row| row.get(0))?;
    let mut end = i64::MAX;
    let mut runs = Vec::new();
    for start in steps.chain([Ok(first)]) {
        let start = start?;
        runs.push(start..end);
        end = start;
    }
    Ok(runs)
}

/// Returns whether the first run begins with an older message than it ends with. Only in a file of
/// an older version it may not.
fn is_sorted(connection: &Connection, room: &Room, runs: &[Range<i64>]) -> rusqlite::Result<bool> {
    let Some(run) = runs.last() else { return Ok(true) };
    let first = first_time(connection, room, run.clone())?;
    let last = last_message(connection, room, run.clone())?;
    Ok(first <= last.map(|(_, at)| at))
}

/// Returns the time of the first message of a room in a range of sequence numbers.
fn first_time(
    connection: &Connection,
    room: &Room,
    range: Range<i64>,
) -> rusqlite::Result<Option<i64>> {
    let select = "SELECT at FROM messages WHERE room = ?1 AND seq >= ?2 AND seq < ?3
                  ORDER BY seq LIMIT 1";
    let mut select = connection.prepare_cached(select)?;
    select.query_row((room.id, range.start, range.end), |row| row.get(0)).optional()
}

/// Returns the sequence number and time of the last message of a room in a range.
fn last_message(
    connection: &Connection,
    room: &Room,
    range: Range<i64>,
) -> rusqlite::Result<Option<(i64, i64)>> {
    let select = "SELECT seq, at FROM messages WHERE room = ?1 AND seq >= ?2 AND seq < ?3
                  ORDER BY seq DESC LIMIT 1";
    let mut select = connection.prepare_cached(select)?;
    let key = (room.id, range.start, range.end);
    select.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// Returns the last message from before `cutoff` in a run.
fn last_expired(
    connection: &Connection,
    room: &Room,
    run: Range<i64>,
    cutoff: i64,
) -> rusqlite::Result<Option<i64>> {
    let select = "SELECT seq FROM messages
                  WHERE room = ?1 AND seq >= ?2 AND seq < ?3 AND at >= ?4 ORDER BY seq LIMIT 1";
    let kept = connection
        .prepare_cached(select)?
        .query_row((room.id, run.start, run.end, cutoff), |row| row.get(0))
        .optional()?;
    let expired = last_message(connection, room, run.start..kept.unwrap_or(run.end))?;
    Ok(expired.map(|(seq, _)| seq))
}

/// Finds where the clock was set back while an older version wrote the file, which did not note it.
/// Reads all messages of a room.
fn find_clock_steps(connection: &Connection, room: &Room) -> rusqlite::Result<()> {
    let mut select = connection
        .prepare_cached("SELECT seq, at FROM messages WHERE room = ?1 AND seq > ?2 ORDER BY seq")?;
    let mut rows = select.query((room.id, room.kept.floor))?;
    let mut previous = i64::MIN;
    let mut steps = Vec::new();
    while let Some(row) = rows.next()? {
        let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
        if at < previous {
            steps.push(seq);
        }
        previous = at;
    }
    let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO clock_steps VALUES (?1)")?;
    steps.iter().try_for_each(|seq| insert.execute([seq]).map(|_| ()))
}

/// Returns the number and size of the messages of a room after one sequence number and up to
/// another.
fn measure(
    connection: &Connection,
    room: &Room,
    after: i64,
    last: i64,
) -> rusqlite::Result<(i64, i64)> {
    let select = "SELECT count(*), coalesce(sum(octet_length(text)), 0) FROM messages
                  WHERE room = ?1 AND seq > ?2 AND seq <= ?3";
    let (messages, text): (i64, i64) = connection
        .prepare_cached(select)?
        .query_row((room.id, after, last), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let select = "SELECT coalesce(sum(count), 0) FROM reaction_counts
                  WHERE room = ?1 AND target > ?2 AND target <= ?3";
    let reactions: i64 =
        connection.prepare_cached(select)?.query_row((room.id, after, last), |row| row.get(0))?;
    Ok((messages, text + messages * count(MESSAGE_BYTES) + reactions * count(REACTION_BYTES)))
}

/// Prunes the oldest messages of a room until it has `most`. Reads the pruned messages or the
/// remaining ones, whichever are fewer.
fn prune_to(connection: &Connection, room: &mut Room, most: i64) -> rusqlite::Result<()> {
    let surplus = room.kept.messages - most;
    if surplus <= most {
        let select = "SELECT seq FROM messages WHERE room = ?1 AND seq > ?2
                      ORDER BY seq LIMIT 1 OFFSET ?3";
        let floor = connection
            .prepare_cached(select)?
            .query_row((room.id, room.kept.floor, surplus - 1), |row| row.get(0))?;
        let (messages, bytes) = measure(connection, room, room.kept.floor, floor)?;
        room.raise_floor(floor, messages, bytes);
    } else {
        let select = "SELECT seq FROM messages WHERE room = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2";
        let floor =
            connection.prepare_cached(select)?.query_row((room.id, most), |row| row.get(0))?;
        let (messages, bytes) = measure(connection, room, floor, i64::MAX)?;
        room.raise_floor(floor, room.kept.messages - messages, room.kept.bytes - bytes);
    }
    Ok(())
}

/// Prunes the oldest messages of a room until at least `excess` bytes are pruned, or the room is
/// not the largest any more.
fn prune_bytes(
    connection: &Connection,
    room: &mut Room,
    excess: i64,
    is_largest: impl Fn(i64) -> bool,
) -> rusqlite::Result<()> {
    let mut oldest = connection.prepare_cached(
        "SELECT seq, octet_length(text), (
             SELECT coalesce(sum(count), 0) FROM reaction_counts
             WHERE room = ?1 AND target = messages.seq)
         FROM messages WHERE room = ?1 AND seq > ?2 ORDER BY seq",
    )?;
    let mut rows = oldest.query((room.id, room.kept.floor))?;
    let least = room.kept.bytes - excess;
    while room.kept.bytes > least
        && is_largest(room.kept.bytes)
        && let Some(row) = rows.next()?
    {
        let (text, reactions): (i64, i64) = (row.get(1)?, row.get(2)?);
        let bytes = text + count(MESSAGE_BYTES) + reactions * count(REACTION_BYTES);
        room.raise_floor(row.get(0)?, 1, bytes);
    }
    Ok(())
}
