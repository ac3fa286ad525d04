//! Maintains the search index. The writer does it in steps between appends, each a short
//! transaction:
//!
//! - New messages are indexed together, some seconds after an append or as soon as there are
//!   enough. Indexing them in the append would double its cost.
//! - Messages that an older version stored are indexed part by part, newest first.
//! - A part without messages is deleted. If some of a part's messages were pruned, it is rebuilt
//!   without them, because removing each message from the index would cost a hundred times as much.
//!
//! Edits and deletions by users change the index at once: see [`reindex`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use log::{info, warn};
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, TransactionBehavior};

use super::recent::Recent;
use super::window::Window;
use super::{Document, Part, State};
use crate::domain::{ChatMessage, Seq, Timestamp, WORDS_VERSION};
use crate::log::LogError;
use crate::log::sqlite::Writer;
use crate::log::sqlite::append::Applied;
use crate::log::sqlite::rows::{self, count, integer, millis};

/// The maximum number of messages in a part.
const PART_ROWS: i64 = if cfg!(test) { 64 } else { 1 << 18 };

/// The maximum number of messages that one step indexes.
const SLICE_ROWS: i64 = if cfg!(test) { 8 } else { 3000 };

/// If more messages than this wait to be indexed, every append is followed by a step. A search
/// reads waiting messages one by one.
const WAITING_MAX: i64 = 4 * SLICE_ROWS;

/// How long a message waits for others, to be indexed together.
const DELAY: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 5000 });

/// The pause between two steps, in which the writer handles appends.
const STEP_PAUSE: Duration = Duration::from_millis(10);

/// The pause after an error.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// The pause between two checks of parts for messages that were pruned.
const CHECK_INTERVAL: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 30 });

/// A part is rebuilt this long after the first of its messages was pruned, or as soon as a quarter
/// of them are pruned. So the words of a pruned message remain in the file for about a day.
const REBUILD_AFTER: Duration = Duration::from_secs(22 * 60 * 60);

/// The maximum number of pages of the index that one step merges or deletes.
const STEP_PAGES: i64 = 64;

/// The space that the index leaves for messages if the size of the file is limited, in bytes.
const RESERVE_BYTES: u64 = 4 * 1024 * 1024;

/// What the writer remembers between two steps. The state of the index is in the file.
#[derive(Debug)]
pub(in crate::log::sqlite) struct Indexer {
    /// The timer of the next step, and its time.
    next: Option<(SpawnHandle, Instant)>,
    recent: Recent,
    /// About how many messages of the open part wait to be indexed.
    waiting: i64,
    /// When the first of them was appended.
    waiting_since: Option<Instant>,
    /// Whether there was nothing to do but to index new messages.
    is_idle: bool,
    window: Option<Window>,
    next_check: Instant,
    /// The first sequence number of the last part that was checked.
    checked: i64,
    /// Whether the last step failed.
    failing: bool,
    /// The part that the current step changes.
    part: Option<i64>,
    /// A part that was found to be damaged.
    damaged: Option<i64>,
    /// Whether messages that an older version stored are being indexed, which is logged.
    fills: bool,
}

impl Default for Indexer {
    fn default() -> Self {
        Self {
            next: None,
            recent: Recent::default(),
            // Messages that the previous process appended may wait.
            waiting: SLICE_ROWS,
            waiting_since: None,
            is_idle: false,
            window: None,
            next_check: Instant::now(),
            checked: i64::MAX,
            failing: false,
            part: None,
            damaged: None,
            fills: false,
        }
    }
}

impl Writer {
    /// Counts messages that were appended. Schedules a step, or does some now if too many wait.
    pub(in crate::log::sqlite) fn messages_appended(
        &mut self,
        messages: usize,
        ctx: &mut Context<Self>,
    ) {
        self.indexer.waiting += count(messages);
        if messages == 0 || self.indexer.failing {
            return;
        }
        self.indexer.waiting_since.get_or_insert_with(Instant::now);
        if self.indexer.waiting > WAITING_MAX {
            // A large append is followed by several steps.
            for _ in 0..=count(messages) / SLICE_ROWS {
                self.index(ctx);
            }
        } else {
            self.schedule_index(if self.indexer.is_due() { STEP_PAUSE } else { DELAY }, ctx);
        }
    }

    /// Schedules the next step after a pause, unless one is scheduled for an earlier time.
    pub(in crate::log::sqlite) fn schedule_index(
        &mut self,
        pause: Duration,
        ctx: &mut Context<Self>,
    ) {
        let at = Instant::now() + pause;
        match self.indexer.next {
            Some((_, scheduled)) if scheduled <= at => return,
            Some((timer, _)) => {
                ctx.cancel_future(timer);
            }
            None => {}
        }
        let step = |writer: &mut Self, ctx: &mut Context<Self>| {
            writer.indexer.next = None;
            writer.index(ctx);
        };
        self.indexer.next = Some((ctx.run_later(pause, step), at));
    }

    /// Does one step and schedules the next.
    fn index(&mut self, ctx: &mut Context<Self>) {
        let stepped = self.index_step(Timestamp::now());
        let has_failed = stepped.is_err();
        let pause = match stepped {
            Ok(true) => STEP_PAUSE,
            Ok(false) if self.indexer.waiting > 0 => DELAY,
            Ok(false) => CHECK_INTERVAL,
            Err(error) => {
                if !self.indexer.failing {
                    warn!("cannot update the search index: {error}; trying again later");
                }
                RETRY_PAUSE
            }
        };
        self.indexer.failing = has_failed;
        self.schedule_checkpoint(ctx);
        self.schedule_index(pause, ctx);
    }

    /// Does one step at the time `now`. Returns whether there is more to do.
    pub(in crate::log::sqlite) fn index_step(&mut self, now: Timestamp) -> Result<bool, LogError> {
        self.ensure_usable()?;
        self.try_step(now).map_err(|error| {
            self.indexer.damaged = self.indexer.part.take().filter(|_| is_damage(&error));
            self.indexer.window = None;
            self.indexer.is_idle = false;
            self.indexer.waiting = self.indexer.waiting.max(SLICE_ROWS);
            self.record_error(&error)
        })
    }

    fn try_step(&mut self, now: Timestamp) -> rusqlite::Result<bool> {
        let may_grow = self.has_space_for_index()?;
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.indexer.part = None;
        if let Some(part) = self.indexer.damaged {
            drop_damaged(&transaction, part)?;
        }
        let parts = Part::all(&transaction)?;
        let step =
            Step { connection: &transaction, parts, head: self.head, now: millis(now), may_grow };
        let done = step.run(&mut self.indexer)?;
        transaction.commit()?;
        self.indexer.damaged = None;
        // The words of pruned messages are also in the write-ahead log.
        self.checkpoint.removed_text |= done == Done::Dropped;
        Ok(self.indexer.has_more_after(done))
    }

    /// Returns whether the index may grow. It leaves some space for messages if the size of the
    /// file is limited.
    fn has_space_for_index(&self) -> rusqlite::Result<bool> {
        let Some(max_bytes) = self.options.max_bytes else { return Ok(true) };
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get(0));
        let (page, pages, free): (i64, i64, i64) =
            (pragma("page_size")?, pragma("page_count")?, pragma("freelist_count")?);
        let used = u64::try_from((pages - free) * page).unwrap_or_default();
        Ok(max_bytes.saturating_sub(used) >= RESERVE_BYTES.min(max_bytes / 8))
    }
}

impl Indexer {
    /// Assumes that messages wait, for a writer that is not started as an actor.
    #[cfg(test)]
    pub(super) fn messages_waiting(&mut self) {
        self.waiting = SLICE_ROWS;
    }

    /// Remembers the messages of an append, before which the log ended at `head`.
    pub(in crate::log::sqlite) fn remember(&mut self, head: Seq, applied: &Applied) {
        self.recent.add(head, applied);
    }

    /// Returns whether there is more to do after a step, which was committed.
    fn has_more_after(&mut self, done: Done) -> bool {
        self.is_idle = match done {
            Done::Nothing => true,
            Done::Indexed(last) => {
                self.recent.remove_until(last);
                self.is_idle
            }
            Done::Something | Done::Dropped => false,
        };
        let is_due = || self.waiting > 0 || self.next_check <= Instant::now();
        done != Done::Nothing && (!self.is_idle || is_due())
    }

    /// Returns whether enough messages wait, or one has waited long enough.
    fn is_due(&self) -> bool {
        let has_waited = || self.waiting_since.is_none_or(|since| since.elapsed() >= DELAY);
        self.waiting >= SLICE_ROWS || self.waiting > 0 && has_waited()
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// There is nothing to do.
    Nothing,
    /// It indexed new messages, up to a sequence number.
    Indexed(Seq),
    /// There may be more to do.
    Something,
    /// It deleted a part.
    Dropped,
}

/// Messages that a step added to a part.
#[derive(Clone, Copy)]
struct Slice {
    /// How many they are, including those without words.
    rows: i64,
    /// The sequence number of the last one.
    last: i64,
}

/// One step, in a transaction.
struct Step<'a> {
    connection: &'a Connection,
    parts: Vec<Part>,
    /// The sequence number of the log's last entry.
    head: Seq,
    now: i64,
    /// Whether the index may grow.
    may_grow: bool,
}

impl Step<'_> {
    fn run(&self, indexer: &mut Indexer) -> rusqlite::Result<Done> {
        let Some(open) = self.parts.iter().find(|part| part.is_open()) else {
            // Messages that an older version stored, and those of a damaged part, are indexed
            // later, in closed parts.
            let select = "SELECT 1 FROM search_fill";
            let is_new = self.parts.is_empty() && !self.connection.prepare(select)?.exists([])?;
            let first = if is_new { 1 } else { integer(self.head) + 1 };
            create_part(self.connection, first, i64::MAX, State::Live)?;
            return Ok(Done::Something);
        };
        if self.may_grow && indexer.is_due() {
            return self.index_new(open, indexer);
        }
        if let Some(part) = self.parts.iter().find(|part| part.state == State::Dropping) {
            return self.drop_slice(part);
        }
        if indexer.next_check <= Instant::now() && self.check_next(indexer)? {
            return Ok(Done::Something);
        }
        if !self.may_grow {
            return Ok(Done::Nothing);
        }
        let is_unfinished = |part: &&Part| !part.is_open() && !part.is_complete();
        if let Some(part) = self.parts.iter().find(is_unfinished) {
            indexer.part = Some(part.id);
            self.index_slice(part)?;
            return Ok(Done::Something);
        }
        let is_unmerged = |part: &&Part| !part.merged && part.is_complete();
        if let Some(part) = self.parts.iter().find(is_unmerged) {
            indexer.part = Some(part.id);
            self.merge_slice(part)?;
            return Ok(Done::Something);
        }
        if self.fill(indexer)? {
            return Ok(Done::Something);
        }
        if std::mem::take(&mut indexer.fills) {
            info!("the search index of the history file is complete");
        }
        Ok(Done::Nothing)
    }

    /// Indexes new messages in the open part. Closes the part if it is full.
    fn index_new(&self, open: &Part, indexer: &mut Indexer) -> rusqlite::Result<Done> {
        indexer.part = Some(open.id);
        let head = integer(self.head);
        let slice = match indexer.recent.after(rows::seq(open.indexed), self.head) {
            Some(messages) => self.add_recent(open, messages)?,
            None => self.add_stored(open, head)?,
        };
        let indexed = self.finish_slice(open, head, slice)?;
        // After a full slice there may be more messages, which are due at once.
        let is_last = slice.rows < SLICE_ROWS;
        indexer.waiting = if is_last { 0 } else { (indexer.waiting - slice.rows).max(1) };
        indexer.waiting_since = None;
        // A full part is merged next.
        indexer.is_idle &= open.rows + slice.rows < PART_ROWS;
        Ok(Done::Indexed(rows::seq(indexed)))
    }

    /// Indexes the next messages of a closed part.
    fn index_slice(&self, part: &Part) -> rusqlite::Result<()> {
        let slice = self.add_stored(part, part.last)?;
        self.finish_slice(part, part.last, slice).map(|_| ())
    }

    /// Adds messages that are in memory to a part.
    fn add_recent<'b>(
        &self,
        part: &Part,
        messages: impl Iterator<Item = &'b (i64, Arc<ChatMessage>)>,
    ) -> rusqlite::Result<Slice> {
        let mut insert = Insert::new(self.connection, part.id)?;
        let mut slice = Slice { rows: 0, last: part.indexed };
        for (room, message) in messages.take(SLICE_ROWS as usize) {
            slice = Slice { rows: slice.rows + 1, last: integer(message.seq) };
            insert.add(slice.last, *room, message.nick.as_str(), message.text.as_str())?;
        }
        Ok(slice)
    }

    /// Adds messages from the file to a part, up to a sequence number.
    fn add_stored(&self, part: &Part, last: i64) -> rusqlite::Result<Slice> {
        let mut insert = Insert::new(self.connection, part.id)?;
        let mut select = self.connection.prepare_cached(
            "SELECT placed.seq, placed.room, message.nick, message.text
             FROM message_rooms placed LEFT JOIN messages message
                 ON message.room = placed.room AND message.seq = placed.seq
             WHERE placed.seq > ?1 AND placed.seq <= ?2 ORDER BY placed.seq LIMIT ?3",
        )?;
        let mut rows = select.query((part.indexed, last, SLICE_ROWS))?;
        let mut slice = Slice { rows: 0, last: part.indexed };
        while let Some(row) = rows.next()? {
            slice = Slice { rows: slice.rows + 1, last: row.get(0)? };
            // The message may have been pruned, while its row in `message_rooms` remains.
            let nick = row.get_ref(2)?.as_str_or_null()?;
            if let (Some(nick), Some(text)) = (nick, row.get_ref(3)?.as_str_or_null()?) {
                insert.add(slice.last, row.get(1)?, nick, text)?;
            }
        }
        Ok(slice)
    }

    /// Records that a slice was added to a part, whose messages up to `last` are to be indexed.
    /// Returns the sequence number up to which they are. Closes the open part if it is full. A
    /// rebuilt part that is complete replaces the former ones.
    fn finish_slice(&self, part: &Part, last: i64, slice: Slice) -> rusqlite::Result<i64> {
        let rows = part.rows + slice.rows;
        let indexed = if slice.rows < SLICE_ROWS { last } else { slice.last };
        let is_full = part.is_open() && rows >= PART_ROWS;
        self.connection
            .prepare_cached("UPDATE search_parts SET indexed = ?2, rows = ?3 WHERE id = ?1")?
            .execute((part.id, indexed, rows))?;
        if is_full {
            self.close_open(part, indexed)?;
        }
        if part.state == State::Building && indexed >= part.last {
            self.connection
                .prepare_cached(
                    "UPDATE search_parts SET state = ?4
                     WHERE state = ?3 AND first >= ?1 AND last <= ?2",
                )?
                .execute((part.first, part.last, State::Live, State::Dropping))?;
            self.connection
                .prepare_cached("UPDATE search_parts SET state = ?2 WHERE id = ?1")?
                .execute((part.id, State::Live))?;
        }
        Ok(indexed)
    }

    /// Ends the range of the open part, and begins another one.
    fn close_open(&self, open: &Part, last: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("UPDATE search_parts SET last = ?2 WHERE id = ?1")?
            .execute((open.id, last))?;
        create_part(self.connection, last + 1, i64::MAX, State::Live)
    }

    /// Merges some segments of a part.
    fn merge_slice(&self, part: &Part) -> rusqlite::Result<()> {
        let changes = || -> rusqlite::Result<i64> {
            self.connection.query_row("SELECT total_changes()", [], |row| row.get(0))
        };
        let before = changes()?;
        let table = part.table();
        // With a negative number, FTS5 also merges segments that it would otherwise leave.
        self.connection
            .prepare_cached(&format!("INSERT INTO {table} ({table}, rank) VALUES ('merge', ?1)"))?
            .execute([-STEP_PAGES])?;
        // Fewer than two changes mean that nothing was merged (FTS5 documentation, `merge`).
        if changes()? - before < 2 {
            self.connection
                .prepare_cached("UPDATE search_parts SET merged = 1 WHERE id = ?1")?
                .execute([part.id])?;
        }
        Ok(())
    }

    /// Deletes some pages of a part, and its table when no page is left. Deleting the table at once
    /// would delay appends.
    fn drop_slice(&self, part: &Part) -> rusqlite::Result<Done> {
        let table = part.table();
        let deleted = self.connection.execute(
            &format!("DELETE FROM {table}_data WHERE id IN (SELECT id FROM {table}_data LIMIT ?1)"),
            [STEP_PAGES],
        )?;
        if count(deleted) == STEP_PAGES {
            return Ok(Done::Something);
        }
        self.connection.execute_batch(&format!("DROP TABLE {table}"))?;
        self.connection.execute("DELETE FROM search_parts WHERE id = ?1", [part.id])?;
        Ok(Done::Dropped)
    }

    /// Checks the next part for messages that were pruned. Returns whether it changed something:
    /// the part is closed, deleted or rebuilt.
    fn check_next(&self, indexer: &mut Indexer) -> rusqlite::Result<bool> {
        let mut live = self.parts.iter().filter(|part| part.state == State::Live);
        let Some(part) = live.find(|part| part.first < indexer.checked) else {
            // The next round begins with the newest part.
            indexer.checked = i64::MAX;
            indexer.next_check = Instant::now() + CHECK_INTERVAL;
            return Ok(false);
        };
        indexer.checked = part.first;
        indexer.next_check = Instant::now() + CHECK_INTERVAL;
        let select = "SELECT count(*) FROM message_rooms WHERE seq BETWEEN ?1 AND ?2";
        let remaining: i64 = self
            .connection
            .prepare_cached(select)?
            .query_row((part.first, part.indexed), |row| row.get(0))?;
        let pruned = part.rows - remaining;
        if pruned <= 0 {
            return Ok(false);
        }
        let since = part.pruned_at.unwrap_or(self.now);
        if part.pruned_at.is_none() {
            self.connection
                .prepare_cached("UPDATE search_parts SET pruned_at = ?2 WHERE id = ?1")?
                .execute((part.id, self.now))?;
        }
        let is_old = self.now.saturating_sub(since) >= count(REBUILD_AFTER.as_millis());
        if remaining > 0 && pruned < part.rows / 4 && !is_old {
            return Ok(false);
        }
        if part.is_open() {
            // It is checked again as a closed part.
            self.close_open(part, part.indexed)?;
            indexer.checked = part.first + 1;
            indexer.next_check = Instant::now();
        } else if remaining == 0 && part.is_complete() {
            self.connection
                .prepare_cached("UPDATE search_parts SET state = ?2 WHERE id = ?1")?
                .execute((part.id, State::Dropping))?;
        } else if self.may_grow && part.is_complete() {
            return self.rebuild(part, remaining);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Begins to rebuild a part, together with small ones before it. Only one part is rebuilt at a
    /// time. Returns whether it began.
    fn rebuild(&self, part: &Part, remaining: i64) -> rusqlite::Result<bool> {
        if self.parts.iter().any(|part| part.state == State::Building) {
            return Ok(false);
        }
        let (mut first, mut rows) = (part.first, remaining);
        for older in self.parts.iter().filter(|older| older.last < part.first) {
            let is_mergeable = older.state == State::Live && older.is_complete();
            if !is_mergeable || older.last != first - 1 || rows + older.rows > PART_ROWS / 2 {
                break;
            }
            (first, rows) = (older.first, rows + older.rows);
        }
        create_part(self.connection, first, part.last, State::Building)?;
        Ok(true)
    }

    /// Creates a part for messages that are in none, or adds messages that an older version stored
    /// to `message_rooms`. Returns whether there was something to do.
    fn fill(&self, indexer: &mut Indexer) -> rusqlite::Result<bool> {
        let select = "SELECT top FROM search_fill";
        let mut select = self.connection.prepare_cached(select)?;
        let top: Option<i64> = select.query_row([], |row| row.get(0)).optional()?;
        if let Some((first, last)) = self.gap(top.unwrap_or(0))? {
            create_part(self.connection, first, last, State::Live)?;
            return Ok(true);
        }
        let Some(top) = top else { return Ok(false) };
        if !std::mem::replace(&mut indexer.fills, true) {
            info!("building the search index of the history file");
        }
        let window = indexer.window.take().filter(|window| window.top == top);
        let mut window = window.unwrap_or_else(|| Window::below(top));
        if !window.step(self.connection)? {
            return self.finish_window(&window);
        }
        indexer.window = Some(window);
        Ok(true)
    }

    /// Returns the range of the next part: the newest messages that are in no part, and not before
    /// `bottom`.
    fn gap(&self, bottom: i64) -> rusqlite::Result<Option<(i64, i64)>> {
        let mut upper = i64::MAX;
        for part in self.parts.iter().filter(|part| part.state == State::Live) {
            if let Some(gap) = self.gap_between(part.last.saturating_add(1).max(bottom), upper)? {
                return Ok(Some(gap));
            }
            upper = part.first - 1;
        }
        self.gap_between(bottom, upper)
    }

    fn gap_between(&self, first: i64, last: i64) -> rusqlite::Result<Option<(i64, i64)>> {
        if first > last {
            return Ok(None);
        }
        let select = "SELECT 1 FROM message_rooms WHERE seq BETWEEN ?1 AND ?2";
        if !self.connection.prepare_cached(select)?.exists((first, last))? {
            return Ok(None);
        }
        let select = "SELECT seq FROM message_rooms WHERE seq BETWEEN ?1 AND ?2
                      ORDER BY seq DESC LIMIT 1 OFFSET ?3";
        let mut select = self.connection.prepare_cached(select)?;
        let full = select.query_row((first, last, PART_ROWS - 1), |row| row.get(0)).optional()?;
        Ok(Some((full.unwrap_or(first), last)))
    }

    fn finish_window(&self, window: &Window) -> rusqlite::Result<bool> {
        if window.bottom == 0 {
            self.connection.execute("DELETE FROM search_fill", [])?;
        } else {
            self.connection.execute("UPDATE search_fill SET top = ?1", [window.bottom])?;
        }
        Ok(true)
    }
}

/// Creates a part, with its table.
fn create_part(
    connection: &Connection,
    first: i64,
    last: i64,
    state: State,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO search_parts (first, last, indexed, state, words)
             VALUES (?1, ?2, ?1 - 1, ?3, ?4)",
        )?
        .execute((first, last, state, WORDS_VERSION))?;
    let table = format!("search_{}", connection.last_insert_rowid());
    // A contentless table: the texts are only in `messages`. The words are already split, so the
    // tokenizer only has to find the spaces between them.
    connection.execute_batch(&format!(
        "CREATE VIRTUAL TABLE {table} USING fts5(
             text, room, nick, content = '', columnsize = 0, tokenize = 'ascii');
         INSERT INTO {table} ({table}, rank) VALUES ('secure-delete', 1);
         -- Fewer merges take a quarter less CPU time. A full part is merged completely later.
         INSERT INTO {table} ({table}, rank) VALUES ('automerge', 16);
         INSERT INTO {table} ({table}, rank) VALUES ('crisismerge', 64);"
    ))
}

/// Adds messages to a part.
struct Insert<'a>(CachedStatement<'a>);

impl<'a> Insert<'a> {
    fn new(connection: &'a Connection, part: i64) -> rusqlite::Result<Self> {
        let insert =
            format!("INSERT INTO search_{part} (rowid, text, room, nick) VALUES (?1, ?2, ?3, ?4)");
        connection.prepare_cached(&insert).map(Self)
    }

    /// Adds a message, if it has words.
    fn add(&mut self, seq: i64, room: i64, nick: &str, text: &str) -> rusqlite::Result<()> {
        let document = Document::new(room, nick, text);
        document.map_or(Ok(()), |document| self.add_document(seq, &document))
    }

    fn add_document(&mut self, seq: i64, document: &Document) -> rusqlite::Result<()> {
        self.0.execute((seq, &document.text, &document.room, &document.nick)).map(|_| ())
    }
}

/// Removes the words of a message from the index, and adds those of its new text, if there is one.
/// Call it before the message is changed, in the same transaction.
pub(in crate::log::sqlite) fn reindex(
    connection: &Connection,
    room: i64,
    seq: i64,
    new_text: Option<&str>,
) -> rusqlite::Result<()> {
    let select = "SELECT id FROM search_parts
                  WHERE first <= ?1 AND indexed >= ?1 AND state <> ?2 AND words = ?3";
    let mut select = connection.prepare_cached(select)?;
    let parts = select.query_map((seq, State::Dropping, WORDS_VERSION), |row| row.get(0))?;
    let parts = parts.collect::<rusqlite::Result<Vec<i64>>>()?;
    if parts.is_empty() {
        return Ok(());
    }
    let select = "SELECT nick, text FROM messages WHERE room = ?1 AND seq = ?2";
    let (nick, text): (String, String) = connection
        .prepare_cached(select)?
        .query_row((room, seq), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let old = Document::new(room, &nick, &text);
    let new = new_text.and_then(|text| Document::new(room, &nick, text));
    for part in parts {
        connection.execute_batch("SAVEPOINT reindex")?;
        match replace(connection, part, seq, old.as_ref(), new.as_ref()) {
            Err(error) if is_damage(&error) => {
                // A user must be able to delete a text even if the index is damaged.
                connection.execute_batch("ROLLBACK TO reindex")?;
                drop_damaged(connection, part)?;
            }
            replaced => replaced?,
        }
        connection.execute_batch("RELEASE reindex")?;
    }
    Ok(())
}

fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

/// Begins to delete a damaged part. Its messages are indexed again in another part.
fn drop_damaged(connection: &Connection, part: i64) -> rusqlite::Result<()> {
    warn!("a part of the search index is damaged; rebuilding it");
    connection
        .prepare_cached("UPDATE search_parts SET state = ?2 WHERE id = ?1")?
        .execute((part, State::Dropping))
        .map(|_| ())
}

fn replace(
    connection: &Connection,
    part: i64,
    seq: i64,
    old: Option<&Document>,
    new: Option<&Document>,
) -> rusqlite::Result<()> {
    if let Some(Document { text, room, nick }) = old {
        // A contentless FTS5 table does not store the texts of its rows, so it needs them again.
        connection
            .prepare_cached(&format!(
                "INSERT INTO search_{part} (search_{part}, rowid, text, room, nick)
                 VALUES ('delete', ?1, ?2, ?3, ?4)"
            ))?
            .execute((seq, text, room, nick))?;
    }
    if let Some(new) = new {
        Insert::new(connection, part)?.add_document(seq, new)?;
    }
    // Otherwise FTS5 would write the change, and report an error, only at the commit.
    connection
        .prepare_cached(&format!("INSERT INTO search_{part} (search_{part}) VALUES ('flush')"))?
        .execute([])
        .map(|_| ())
}
