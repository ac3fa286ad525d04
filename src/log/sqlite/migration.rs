//! The tables, and the migration of an older file to the current version of the schema. The step
//! from version 1 to 2 visits every message. Later steps do not, so a file of version 2 opens at
//! once, whatever its size.

use std::time::{Duration, Instant};

use log::info;
use rusqlite::{Connection, TransactionBehavior};

/// The current version of the schema, `user_version`.
pub(super) const VERSION: i64 = 5;

/// The minimum time between two log lines about the progress of something that takes long.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// The number of rooms between two reads of the clock.
const PROGRESS_ROOMS: usize = 100;

/// The first version.
///
/// The primary key of `messages` stores the messages of a room together, so a page of them is one
/// range of the file. `floor` is the sequence number of the last message that was pruned, and
/// `messages` is the number of messages after it. A message up to the floor that has an id leaves a
/// tombstone for some time: a row without name and text, to recognize duplicates.
const VERSION_1: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE rooms (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        messages INTEGER NOT NULL DEFAULT 0,
        floor INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE messages (
        room INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        nick TEXT NOT NULL,
        text TEXT NOT NULL,
        attributed INTEGER NOT NULL,
        author BLOB,
        id TEXT,
        PRIMARY KEY (room, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX messages_by_origin ON messages (room, author, id) WHERE id IS NOT NULL;
";

/// What the second version adds. `bytes` is the size of the messages after the floor, as
/// [`MESSAGE_BYTES`](crate::log::rules::MESSAGE_BYTES) describes.
const VERSION_2: &str = "ALTER TABLE rooms ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0";

/// What the third version adds, beside [`MESSAGE_COLUMNS`].
///
/// In `rooms`:
/// - `oldest`: no message after the floor is older than this. 0 if it is not known yet, `NULL` if
///   there are no messages.
/// - `topic`, and `topic_change`, the change that set it.
/// - `changes`: the number of the room's rows in `changes`.
/// - `changes_floor`: the last change that had an effect and was deleted from the file.
/// - `unpruned`: rows after this sequence number and up to the floor are not deleted from the file
///   yet. `NULL` if there are none.
///
/// `changes` has the changes that still have an effect. The text of an edit is only in `messages`,
/// and the topic only in `rooms`, so that deleting it there is complete. `change_ids` has the ids
/// of changes for as long as they are recognized. In `reactions`, an empty author is the server
/// itself. `clock_steps` has the sequence numbers at which the clock was set back: the times of
/// messages increase between two of them.
const VERSION_3: &str = "
    ALTER TABLE rooms ADD COLUMN oldest INTEGER DEFAULT 0;
    ALTER TABLE rooms ADD COLUMN topic TEXT NOT NULL DEFAULT '';
    ALTER TABLE rooms ADD COLUMN topic_change INTEGER;
    ALTER TABLE rooms ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rooms ADD COLUMN changes_floor INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rooms ADD COLUMN unpruned INTEGER;
    CREATE INDEX rooms_by_oldest ON rooms (oldest) WHERE oldest IS NOT NULL;
    CREATE INDEX rooms_unpruned ON rooms (id) WHERE unpruned IS NOT NULL;
    CREATE TABLE changes (
        room INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        author BLOB,
        nick TEXT NOT NULL,
        id TEXT,
        kind TEXT NOT NULL,
        target INTEGER,
        emoji TEXT,
        added INTEGER,
        count INTEGER,
        PRIMARY KEY (room, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE change_ids (
        seq INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        room INTEGER NOT NULL,
        author BLOB NOT NULL,
        id TEXT NOT NULL,
        UNIQUE (room, author, id)
    ) STRICT;
    CREATE TABLE reactions (
        room INTEGER NOT NULL,
        target INTEGER NOT NULL,
        emoji TEXT NOT NULL,
        author BLOB NOT NULL,
        PRIMARY KEY (room, target, emoji, author)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reaction_counts (
        room INTEGER NOT NULL,
        target INTEGER NOT NULL,
        emoji TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (room, target, emoji)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE clock_steps (seq INTEGER PRIMARY KEY) STRICT;
    INSERT INTO clock_steps SELECT value + 1 FROM meta WHERE name = 'head';
";

/// What the fourth version adds.
///
/// - `read_marks` stores up to which entry a user has read a room, and when the mark last changed.
/// - The other tables are for the search index: see [`search`](super::search). `message_rooms`
///   stores the room of each message that is not pruned from the file. `search_parts` lists the
///   parts of the index: the part with the id 1 has the table `search_1`. `search_fill` has a row
///   while messages that an older version stored, those before `top`, are missing in
///   `message_rooms`.
const VERSION_4: &str = "
    CREATE TABLE read_marks (
        identity BLOB NOT NULL,
        room INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (identity, room)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX read_marks_by_time ON read_marks (at);
    CREATE TABLE message_rooms (seq INTEGER PRIMARY KEY, room INTEGER NOT NULL) STRICT;
    CREATE TABLE search_parts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        indexed INTEGER NOT NULL,
        rows INTEGER NOT NULL DEFAULT 0,
        state TEXT NOT NULL,
        merged INTEGER NOT NULL DEFAULT 0,
        pruned_at INTEGER,
        words INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE search_fill (top INTEGER NOT NULL) STRICT;
";

/// What the fifth version adds, for a journal that is a replica of a shared log. `shared_log` has a
/// row if it is. `producers` has the number and the position of the last record of each producer.
const VERSION_5: &str = "
    CREATE TABLE shared_log (
        id INTEGER PRIMARY KEY,
        position INTEGER NOT NULL,
        time INTEGER NOT NULL,
        base INTEGER NOT NULL,
        chain BLOB NOT NULL
    ) STRICT;
    CREATE TABLE producers (
        id BLOB PRIMARY KEY,
        n INTEGER NOT NULL,
        position INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// Records that all messages are missing in `message_rooms`.
pub(super) const FILL_SEARCH: &str =
    "INSERT INTO search_fill SELECT value + 1 FROM meta WHERE name = 'head'";

/// The columns that the third version adds to `messages`. `edit` is the change that set the text.
const MESSAGE_COLUMNS: &str = "
        reply_to INTEGER,
        edited_at INTEGER,
        deleted INTEGER NOT NULL DEFAULT 0,
        edit INTEGER,
        ";

/// Creates the tables of an empty file, or migrates those of an older version, in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let current: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if current == VERSION {
        return Ok(());
    }
    let began = Instant::now();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if current < 1 {
        transaction.execute_batch(VERSION_1)?;
    }
    if current < 2 {
        transaction.execute_batch(VERSION_2)?;
        count_bytes(&transaction)?;
        transaction.execute_batch("CREATE INDEX rooms_by_bytes ON rooms (bytes DESC, name)")?;
    }
    if current < 3 {
        add_message_columns(&transaction)?;
        transaction.execute_batch(VERSION_3)?;
    }
    if current < 4 {
        transaction.execute_batch(VERSION_4)?;
        transaction.execute_batch(FILL_SEARCH)?;
    }
    if current < 5 {
        transaction.execute_batch(VERSION_5)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    if current > 0 {
        let took = began.elapsed().as_secs_f64();
        info!("the history file was converted from version {current} to {VERSION} in {took:.1} s");
    }
    Ok(())
}

/// Computes `bytes` of all rooms. It visits every message.
fn count_bytes(connection: &Connection) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT id FROM rooms")?;
    let rooms = select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    let mut progress = Progress::new("counting the messages of all rooms");
    let mut update = connection.prepare(
        "UPDATE rooms SET bytes = (
             SELECT coalesce(sum(octet_length(text) + 128), 0) FROM messages
             WHERE room = rooms.id AND seq > rooms.floor)
         WHERE id = ?1",
    )?;
    for (done, id) in rooms.iter().enumerate() {
        update.execute([id])?;
        progress.show(done, Some(rooms.len()));
    }
    Ok(())
}

/// Adds [`MESSAGE_COLUMNS`] to `messages`. `ALTER TABLE` would read every row of a `STRICT` table
/// once for each column. So this changes the table's definition as `ALTER TABLE` does: rows that
/// have fewer columns get the defaults.
fn add_message_columns(connection: &Connection) -> rusqlite::Result<()> {
    const END: &str = "PRIMARY KEY (room, seq)";
    connection.pragma_update(None, "writable_schema", "ON")?;
    connection.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, ?1, ?2 || ?1)
         WHERE type = 'table' AND name = 'messages'",
        (END, MESSAGE_COLUMNS),
    )?;
    // This reads the definition again.
    connection.execute_batch("PRAGMA writable_schema = RESET")?;
    connection.prepare("SELECT reply_to, edited_at, deleted, edit FROM messages").map(|_| ())
}

/// Logs the progress of work on all rooms, if it takes long.
pub(super) struct Progress {
    what: &'static str,
    next: Instant,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, next: Instant::now() + PROGRESS_INTERVAL }
    }

    /// Logs that `done` of `all` rooms are done, if the last line is not recent.
    ///
    /// `all` is the number of all rooms, if it is known.
    pub(super) fn show(&mut self, done: usize, all: Option<usize>) {
        if done.is_multiple_of(PROGRESS_ROOMS) && Instant::now() >= self.next {
            self.next = Instant::now() + PROGRESS_INTERVAL;
            let all = all.map(|all| format!(" of {all}")).unwrap_or_default();
            info!("{}: {done}{all} rooms", self.what);
        }
    }
}
