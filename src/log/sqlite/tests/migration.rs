//! Tests of files that older versions wrote, and of the settings in the file.

use super::*;
use crate::log::MarkRead;
use crate::log::sqlite::settings::StoredSettings;

/// The tables of the first version.
const VERSION_1: &str = "
    PRAGMA application_id = 0x63686E77;
    PRAGMA journal_mode = wal;
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
    PRAGMA user_version = 1;
";

/// What the second version added.
const VERSION_2: &str = "
    ALTER TABLE rooms ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE rooms SET bytes = (
        SELECT coalesce(sum(octet_length(text) + 128), 0) FROM messages
        WHERE room = rooms.id AND seq > rooms.floor);
    CREATE INDEX rooms_by_bytes ON rooms (bytes DESC, name);
    PRAGMA user_version = 2;
";

/// Removes what the fourth and the fifth version added.
const UNDO_VERSIONS_4_AND_5: &str = "
    DROP TABLE read_marks;
    DROP TABLE message_rooms;
    DROP TABLE search_parts;
    DROP TABLE search_fill;
    DROP TABLE shared_log;
    DROP TABLE producers;
    PRAGMA user_version = 3;
";

/// Creates a file of an older version. In room `a`, message 1 is a tombstone.
fn create_old_file(path: &Path, version: i64) {
    let connection = Connection::open(path).expect("a database");
    connection.execute_batch(VERSION_1).expect("the first version");
    let now = rows::millis(Timestamp::now());
    let author = identity();
    let author = author.as_bytes().as_slice();
    let messages = [
        (1, 1, "", "", None, Some("x")),
        (1, 2, "Ann", "four", Some(author), Some("y")),
        (2, 3, "Ann", "äöü", None, None),
        (2, 4, "Ann", "x", None, None),
    ];
    for (room, seq, nick, text, by, id) in messages {
        let by = by.or(id.map(|_| author));
        let row = (room, seq, now, nick, text, true, by, id);
        let insert = "INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        connection.execute(insert, row).expect("a message");
    }
    let rest = "INSERT INTO rooms (name, messages, floor) VALUES ('a', 1, 1), ('b', 2, 0);
                INSERT INTO meta VALUES ('head', 4), ('epoch', 'old'), ('unsynced', 0);";
    connection.execute_batch(rest).expect("rows");
    if version > 1 {
        connection.execute_batch(VERSION_2).expect("the second version");
    }
}

#[test]
fn file_of_an_older_version_is_migrated_and_used() {
    for version in [1, 2] {
        let folder = folder();
        let path = folder.path().join("log.db");
        create_old_file(&path, version);
        let mut writer = writer(&options(&path));
        assert_eq!(select_number(&path, "PRAGMA user_version"), 5);
        assert_eq!(select_number(&path, "SELECT bytes FROM rooms WHERE name = 'a'"), 132);
        assert_eq!((writer.epoch.as_str(), writer.kept_bytes), ("old", 132 + 263));
        // The settings entry has a sequence number.
        assert_eq!(writer.head, Seq::new(5));
        let target = Seq::new(2);
        let drafts = [
            draft_with_id("a", "again", "x"),
            draft_with_id("a", "again", "y"),
            draft_of("a", Action::Edit { target, text: text("five5") }),
            draft_of("b", Action::Delete { target: Seq::new(3) }),
            Draft { right: Right::Grant, ..draft_of("b", Action::Delete { target: Seq::new(3) }) },
            draft("b", "new"),
        ];
        let verdicts = writer.append(&drafts).expect("a commit");
        assert_eq!(
            verdicts,
            [
                Verdict::Duplicate(Seq::new(1)),
                Verdict::Duplicate(Seq::new(2)),
                Verdict::Kept(Seq::new(6)),
                // An older version stored no author with a message that has no id.
                Verdict::Refused(Refused::OtherAuthor),
                Verdict::Kept(Seq::new(7)),
                Verdict::Kept(Seq::new(8)),
            ]
        );
        assert_eq!(texts(&read_all(&path, "a").messages), ["five5"]);
        assert_eq!(texts(&read_all(&path, "b").messages), ["", "x", "new"]);
        assert_eq!(writer.kept_bytes, 133 + 128 + 129 + 131);
        prune(&mut writer, later(2 * DAY));
        drop(writer);
        let writer = self::writer(&with_settings(&options(&path), |it| it.keep_for = Some(DAY)));
        assert_eq!((writer.head, writer.kept_bytes), (Seq::new(9), 133 + 128 + 129 + 131));
        let check: String = Connection::open(&path)
            .expect("a database")
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .expect("a result");
        assert_eq!(check, "ok");
    }
}

#[test]
fn file_of_the_third_version_is_migrated_and_keeps_read_marks() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut first = writer(&options(&path));
    append_numbers(&mut first, "a", 0..3);
    drop(first);
    let connection = Connection::open(&path).expect("a database");
    connection.execute_batch(UNDO_VERSIONS_4_AND_5).expect("the third version");
    drop(connection);
    let mut writer = writer(&options(&path));
    assert_eq!(select_number(&path, "PRAGMA user_version"), 5);
    assert_eq!((writer.head, texts(&read_all(&path, "a").messages).len()), (Seq::new(3), 3));
    writer.add_mark(MarkRead { identity: identity(), room: room("a"), seq: Seq::new(2) });
    writer.commit_marks(Timestamp::now()).expect("a commit");
    assert_eq!(select_number(&path, "SELECT seq FROM read_marks"), 2);
}

#[test]
fn expired_messages_of_an_older_version_are_pruned() {
    let folder = folder();
    let path = folder.path().join("log.db");
    create_old_file(&path, 2);
    let options = with_settings(&options(&path), |settings| settings.keep_for = Some(DAY));
    let mut writer = writer(&options);
    assert_eq!(texts(&read_all(&path, "b").messages), ["äöü", "x"]);
    assert_eq!(select_number(&path, "SELECT count(*) FROM rooms WHERE oldest = 0"), 0);
    prune(&mut writer, later(DAY + Duration::from_secs(60)));
    assert!(read_all(&path, "b").messages.is_empty());
    assert_eq!(select_number(&path, "SELECT count(*) FROM messages"), 0);
}

#[test]
fn failed_migration_leaves_the_file_as_it_was() {
    for version in [1, 2] {
        let folder = folder();
        let path = folder.path().join("log.db");
        create_old_file(&path, version);
        let other = Connection::open(&path).expect("a database");
        // The migration fails at one of its last steps.
        other.execute_batch("CREATE TABLE clock_steps (other)").expect("a table");
        let error = Journal::open(&options(&path)).expect_err("the table exists");
        assert!(matches!(error, JournalError::Sqlite(..)), "{error}");
        assert_eq!(select_number(&path, "PRAGMA user_version"), version);
        let columns = "SELECT count(*) FROM pragma_table_info('messages')";
        assert_eq!(select_number(&path, columns), 8);
        let insert = "INSERT INTO messages VALUES (2, 5, 1, 'Ann', 'old', 1, NULL, NULL)";
        other.execute_batch(insert).expect("an insertion");
        other.execute_batch("DROP TABLE clock_steps").expect("a deletion");
        drop(other);
        drop(writer(&options(&path)));
        assert_eq!(texts(&read_all(&path, "b").messages), ["äöü", "x", "old"]);
    }
}

#[test]
fn file_of_an_older_version_is_exported_without_migrating_it() {
    let folder = folder();
    let path = folder.path().join("log.db");
    create_old_file(&path, 2);
    let mut out = Vec::new();
    export(&path, None, &mut out, &mut |_| {}).expect("an export");
    let out = String::from_utf8(out).expect("text");
    assert_eq!(out.lines().count(), 3, "{out}");
    assert_eq!(select_number(&path, "PRAGMA user_version"), 2);
}

#[test]
fn other_settings_are_appended_before_the_log_is_used() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut first = writer(&options(&path));
    append_numbers(&mut first, "a", 0..10);
    append_numbers(&mut first, "b", 0..3);
    drop(first);
    // The same settings take no sequence number.
    assert_eq!(writer(&options(&path)).head, Seq::new(13));
    let changed = with_settings(&options(&path), |settings| settings.keep_messages = 2);
    let second = writer(&changed);
    assert_eq!(second.head, Seq::new(14));
    assert_eq!(texts(&read_all(&path, "a").messages), ["8", "9"]);
    assert_eq!(texts(&read_all(&path, "b").messages), ["1", "2"]);
    assert_eq!(second.kept_bytes, 4 * 129);
    let stored = StoredSettings::load(&second.connection).map_err(|_| ()).expect("settings");
    assert_eq!(stored, Some(StoredSettings { seq: second.head, settings: changed.settings }));
}

#[test]
fn journal_tells_the_hub_its_settings() {
    System::new().block_on(async {
        let folder = folder();
        let options = options(&folder.path().join("log.db"));
        Journal::open(&options).expect("a journal").close().await;
        let options = with_settings(&options, |settings| settings.edits = false);
        let journal = Journal::open(&options).expect("a journal");
        let log = journal.log();
        assert_eq!((log.head, log.state.settings), (Seq::default(), options.settings));
        journal.close().await;
    });
}

#[test]
fn file_with_newer_rules_is_an_error() {
    let folder = folder();
    let path = folder.path().join("log.db");
    drop(writer(&options(&path)));
    let connection = Connection::open(&path).expect("a database");
    // Newer settings may have other fields, too.
    let settings = r#"{"seq":0,"settings":{"rules":2,"keep":{"messages":1}}}"#;
    schema::set_meta(&connection, "settings", settings).expect("settings");
    let error = Journal::open(&options(&path)).expect_err("it is newer");
    assert!(matches!(error, JournalError::Newer(_)), "{error}");
}
