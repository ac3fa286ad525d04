//! Tests of the writer and the readers on real files.

#[cfg(feature = "cluster")]
mod apply;
mod entries;
mod marks;
mod migration;
mod replica;
mod unanswered;

use std::fs;
use std::path::Path;
use std::time::Duration;

use actix::System;
use rusqlite::Connection;
use tempfile::TempDir;

use super::append::Applied;
use super::marks::PendingMarks;
use super::page::Query;
use super::writer::AppendError;
use super::*;
use crate::domain::{
    Action, ChatMessage, Draft, Epoch, Identity, MessageId, MessageText, Nick, Right, RoomName,
    Seq, Settings, Timestamp,
};
use crate::log::{LogError, Messages, Range, Refused, Verdict};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const KEY: &str = "a key of sixteen or more";

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

pub(super) fn options(path: &Path) -> Options {
    let config = Config { db: Some(path.to_owned()), ..Config::default() };
    let options = Options::from_config(&config).expect("it names a file");
    let settings = Settings { keep_bytes: None, ..options.settings };
    Options { settings, prune_interval: DAY, max_bytes: None, ..options }
}

/// Opens a writer that is not started as an actor. Dropping it without `close` simulates a crash.
pub(super) fn writer(options: &Options) -> Writer {
    let path = lock::canonical(&options.path).expect("a path");
    let opened = schema::open(&path, options.sync, None, options.is_replica).expect("a journal");
    Writer::new(opened, Options { path, ..options.clone() }, None).expect("no error")
}

/// Returns options with other settings.
pub(super) fn with_settings(options: &Options, change: impl FnOnce(&mut Settings)) -> Options {
    let mut options = options.clone();
    change(&mut options.settings);
    options
}

impl Writer {
    /// Appends drafts now.
    pub(super) fn append(&mut self, drafts: &[Draft]) -> Result<Vec<Verdict>, LogError> {
        match self.append_at(Timestamp::now(), drafts.to_vec()) {
            Ok(applied) => Ok(applied.verdicts),
            Err(AppendError::Failed(error) | AppendError::Unknown(_, error)) => Err(error),
        }
    }
}

pub(super) fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a room")
}

pub(super) fn text(text: &str) -> MessageText {
    MessageText::parse(text, usize::MAX).expect("a text")
}

pub(super) fn identity() -> Identity {
    Identity::of_key(KEY).expect("a key")
}

pub(super) fn draft_of(name: &str, action: Action) -> Draft {
    Draft {
        room: room(name),
        author: Some(identity()),
        nick: Nick::parse("Ann").expect("a nick"),
        id: None,
        right: Right::Member,
        action,
    }
}

pub(super) fn draft(name: &str, words: &str) -> Draft {
    let text = text(words);
    draft_of(name, Action::Message { text, attributed: true, reply_to: None })
}

pub(super) fn draft_with_id(name: &str, words: &str, id: &str) -> Draft {
    Draft { id: Some(MessageId::parse(id).expect("an id")), ..draft(name, words) }
}

pub(super) fn ask(path: &Path, query: &Query) -> Messages {
    Reader::new(None, path.to_owned(), PendingMarks::default()).read(query).expect("a page")
}

fn read_page(path: &Path, name: &str, before: Seq, limit: usize, max_bytes: usize) -> Messages {
    let (range, reader) = (Range::Latest, crate::log::Reader::Client(identity()));
    ask(path, &Query { room: room(name), before, range, reader, limit, max_bytes })
}

pub(super) fn read_all(path: &Path, name: &str) -> Messages {
    read_page(path, name, Seq::MAX, 1_000_000, usize::MAX)
}

pub(super) fn texts(messages: &[Arc<ChatMessage>]) -> Vec<&str> {
    messages.iter().map(|message| message.text.as_str()).collect()
}

/// Appends messages whose texts are these numbers.
pub(super) fn append_numbers(writer: &mut Writer, name: &str, numbers: std::ops::Range<u64>) {
    let drafts: Vec<_> = numbers.map(|n| draft(name, &n.to_string())).collect();
    writer.append(&drafts).expect("a commit");
}

pub(super) fn prune(writer: &mut Writer, now: Timestamp) {
    // Whatever it does, a pass ends.
    for _ in 0..10_000 {
        if !writer.prune_slice(now).expect("a slice") {
            return;
        }
    }
    panic!("pruning does not end");
}

pub(super) fn seq(verdict: Verdict) -> Seq {
    match verdict {
        Verdict::Kept(seq) | Verdict::Duplicate(seq) => seq,
        Verdict::Refused(refused) => panic!("refused: {refused}"),
    }
}

fn later(duration: Duration) -> Timestamp {
    let millis = u64::try_from(duration.as_millis()).expect("not so long");
    Timestamp::from_millis(Timestamp::now().millis() + millis)
}

/// Returns the first column of the first row.
fn select_number(path: &Path, select: &str) -> i64 {
    let connection = Connection::open(path).expect("a database");
    connection.query_row(select, [], |row| row.get(0)).expect("a number")
}

#[test]
fn pages_return_appended_messages() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    let drafts = [draft("a", "one"), draft("a", "two"), draft("b", "three"), draft("a", "four")];
    let placed = writer.append(&drafts).expect("a commit");
    let seqs: Vec<_> = placed.into_iter().map(|placed| seq(placed).get()).collect();
    assert_eq!(seqs, [1, 2, 3, 4]);

    let last = read_page(&path, "a", Seq::MAX, 2, 1000);
    assert_eq!(
        (texts(&last.messages), last.floor, last.more),
        (vec!["two", "four"], Seq::new(1), true)
    );
    assert!(last.messages[0].attributed);
    assert_eq!(last.messages[0].nick.as_str(), "Ann");
    let first = read_page(&path, "a", Seq::new(2), 2, 1000);
    assert_eq!(
        (texts(&first.messages), first.floor, first.more),
        (vec!["one"], Seq::new(0), false)
    );
    let nothing = read_all(&path, "nowhere");
    assert!(nothing.messages.is_empty() && !nothing.more && nothing.floor == Seq::new(0));
}

#[test]
fn page_is_limited_in_bytes_but_has_at_least_one_message() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    writer.append(&[draft("a", "12345"), draft("a", "123"), draft("a", "45")]).expect("a commit");
    assert_eq!(texts(&read_page(&path, "a", Seq::MAX, 9, 5).messages), ["123", "45"]);
    let one = read_page(&path, "a", Seq::MAX, 9, 1);
    assert_eq!((texts(&one.messages), one.more, one.floor), (vec!["45"], true, Seq::new(2)));
}

#[test]
fn repeated_message_is_a_duplicate() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut first = writer(&options(&path));
    let twice = [draft_with_id("a", "x", "1"), draft_with_id("a", "x", "1")];
    let placed = first.append(&twice).expect("a commit");
    assert_eq!(placed, [Verdict::Kept(Seq::new(1)), Verdict::Duplicate(Seq::new(1))]);
    drop(first);

    let mut again = writer(&options(&path));
    let drafts =
        [draft_with_id("a", "x", "1"), draft_with_id("b", "x", "1"), draft_with_id("a", "y", "2")];
    let placed = again.append(&drafts).expect("a commit");
    let (two, three) = (Verdict::Kept(Seq::new(2)), Verdict::Kept(Seq::new(3)));
    assert_eq!(placed, [Verdict::Duplicate(Seq::new(1)), two, three]);
    assert_eq!(texts(&read_all(&path, "a").messages), ["x", "y"]);
    assert_eq!(select_number(&path, "SELECT messages FROM rooms WHERE name = 'a'"), 2);
}

#[test]
fn failed_append_leaves_nothing_behind_and_the_next_one_succeeds() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_numbers(&mut writer, "a", 0..2);
    writer.connection.pragma_update(None, "query_only", true).expect("a pragma");
    let failed = writer.append(&[draft("new", "lost")]);
    assert!(matches!(failed, Err(crate::log::LogError::Failed(_))), "{failed:?}");
    let placed = writer.append(&[draft("new", "kept")]).expect("a commit");
    assert_eq!(seq(placed[0]), Seq::new(3));
    assert_eq!(texts(&read_all(&path, "new").messages), ["kept"]);
}

/// Regression test: an append was committed and then failed, and its numbers were assigned again.
#[test]
fn sequence_numbers_committed_despite_an_error_are_not_assigned_again() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut stale = writer(&options(&path));
    append_numbers(&mut writer(&options(&path)), "a", 0..3);
    stale.connection.pragma_update(None, "query_only", true).expect("a pragma");
    stale.append(&[draft("b", "lost")]).expect_err("it cannot write");
    let placed = stale.append(&[draft("b", "kept")]).expect("a commit");
    assert_eq!(seq(placed[0]), Seq::new(4));
}

#[test]
fn replaced_database_rejects_messages() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_numbers(&mut writer, "a", 0..1);
    let other = Connection::open(&path).expect("a database");
    schema::set_meta(&other, "epoch", "another").expect("an epoch");
    writer.connection.pragma_update(None, "query_only", true).expect("a pragma");
    for _ in 0..3 {
        writer.append(&[draft("a", "lost")]).expect_err("it cannot write");
    }
    let error = writer.append(&[draft("a", "lost")]).expect_err("it must not write");
    assert_eq!(error.to_string(), "the history file was replaced; restart the server");
}

#[test]
fn oldest_messages_beyond_keep_messages_are_pruned() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&with_settings(&options(&path), |settings| settings.keep_messages = 3));
    append_numbers(&mut writer, "a", 0..1700);
    append_numbers(&mut writer, "b", 0..2);
    prune(&mut writer, Timestamp::now());
    let a = read_all(&path, "a");
    assert_eq!((texts(&a.messages), a.floor), (vec!["1697", "1698", "1699"], Seq::new(1697)));
    assert!(!a.more);
    assert_eq!(read_all(&path, "b").messages.len(), 2);
    assert_eq!(select_number(&path, "SELECT count(*) FROM messages"), 5);
    assert_eq!(select_number(&path, "SELECT messages FROM rooms WHERE name = 'a'"), 3);
}

#[test]
fn messages_older_than_keep_for_are_pruned_in_every_room() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer =
        writer(&with_settings(&options(&path), |settings| settings.keep_for = Some(DAY)));
    for n in 0..250 {
        append_numbers(&mut writer, &format!("room-{n}"), 0..2);
    }
    prune(&mut writer, later(DAY / 2));
    assert_eq!(select_number(&path, "SELECT count(*) FROM messages"), 500);
    prune(&mut writer, later(DAY + DAY / 2));
    assert_eq!(select_number(&path, "SELECT count(*) FROM messages"), 0);
    assert_eq!(select_number(&path, "SELECT sum(messages) FROM rooms"), 0);
    let placed = writer.append(&[draft("room-0", "new")]).expect("a commit");
    assert_eq!(seq(placed[0]), Seq::new(501));
    assert_eq!(texts(&read_all(&path, "room-0").messages), ["new"]);
}

#[test]
fn append_beyond_keep_bytes_prunes_the_largest_room() {
    let folder = folder();
    let path = folder.path().join("log.db");
    // Each of these counts as 228 bytes.
    let text = |n: usize| format!("{n:0100}");
    let options = with_settings(&options(&path), |settings| settings.keep_bytes = Some(2280));
    let mut writer = writer(&options);
    let kept = |name: &str| {
        let numbers = read_all(&path, name).messages;
        texts(&numbers)
            .iter()
            .map(|text| text.parse::<usize>().expect("a number"))
            .collect::<Vec<_>>()
    };
    let append = |writer: &mut Writer, name: &str, n: usize| {
        let id = format!("{name}{n}");
        let placed = writer.append(&[draft_with_id(name, &text(n), &id)]).expect("a commit");
        assert!(matches!(placed[..], [Verdict::Kept(_)]));
    };
    for n in 0..7 {
        append(&mut writer, "large", n);
    }
    for n in 0..3 {
        append(&mut writer, "small", n);
    }
    assert_eq!((kept("large"), kept("small")), ((0..7).collect(), (0..3).collect()));
    append(&mut writer, "small", 3);
    append(&mut writer, "new", 0);
    assert_eq!(
        (kept("large"), kept("small"), kept("new")),
        ((2..7).collect(), (0..4).collect(), vec![0])
    );
    // The rooms have five, four and one messages, then five, five and one. Of rooms with the same
    // size the first by name is pruned.
    append(&mut writer, "small", 4);
    assert_eq!((kept("large"), kept("small")), ((3..7).collect(), (0..5).collect()));
    append(&mut writer, "large", 7);
    assert_eq!((kept("large"), kept("small")), ((4..8).collect(), (0..5).collect()));
    // A pruned message is still recognized, and no longer counts.
    let again = writer.append(&[draft_with_id("large", &text(0), "large0")]).expect("a commit");
    assert!(matches!(again[..], [Verdict::Duplicate(_)]));
    prune(&mut writer, Timestamp::now());
    let counted = "SELECT sum(octet_length(text) + 128) FROM messages WHERE text <> ''";
    assert_eq!(select_number(&path, counted), 2280);
    assert_eq!(select_number(&path, "SELECT sum(bytes) FROM rooms"), 2280);
    drop(writer);
    // After a restart with a lower limit, that applies at once.
    let options = with_settings(&options, |settings| settings.keep_bytes = Some(228 * 4));
    let writer = self::writer(&options);
    assert_eq!(select_number(&path, "SELECT sum(bytes) FROM rooms"), 228 * 4);
    assert_eq!(writer.kept_bytes, 228 * 4);
}

/// Some messages have a time a year ahead, because the system clock was wrong.
#[test]
fn message_from_the_future_does_not_prevent_pruning() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    let numbers = |name, numbers: std::ops::Range<u64>| -> Vec<_> {
        numbers.map(|n| draft(name, &n.to_string())).collect()
    };
    let append = |writer: &mut Writer, at, drafts| writer.append_at(at, drafts).map_err(|_| ());
    let (now, ahead) = (Timestamp::now(), later(365 * DAY));
    append(&mut writer, now, numbers("b", 0..1)).expect("a commit");
    append(&mut writer, ahead, numbers("a", 0..700)).expect("a commit");
    append(&mut writer, ahead, numbers("b", 1..2)).expect("a commit");
    append(&mut writer, now, numbers("a", 700..1300)).expect("a commit");
    append(&mut writer, now, numbers("b", 2..3)).expect("a commit");
    // What an older version wrote does not say where the clock was set back.
    for steps in ["kept", "unknown"] {
        let copy = folder.path().join(steps);
        backup(&path, &copy, &mut |_, _| {}).expect("a backup");
        if steps == "unknown" {
            let other = Connection::open(&copy).expect("a database");
            other.execute_batch("DELETE FROM clock_steps").expect("a deletion");
        }
        let keep_a_day = |settings: &mut Settings| settings.keep_for = Some(DAY);
        let mut writer = self::writer(&with_settings(&options(&copy), keep_a_day));
        prune(&mut writer, later(DAY / 2));
        assert_eq!(select_number(&copy, "SELECT count(*) FROM messages"), 1303, "nothing is old");
        prune(&mut writer, later(DAY + DAY / 2));
        assert_eq!(select_number(&copy, "SELECT count(*) FROM messages"), 0);
        assert_eq!(select_number(&copy, "SELECT sum(messages) FROM rooms"), 0);
    }
}

#[test]
fn slice_prunes_at_most_500_messages() {
    let folder = folder();
    let path = folder.path().join("log.db");
    append_numbers(&mut writer(&options(&path)), "a", 0..1200);
    // The change of the settings itself deletes few messages.
    let mut writer = writer(&with_settings(&options(&path), |settings| settings.keep_messages = 0));
    let before = select_number(&path, "SELECT count(*) FROM messages");
    assert!((1150..1200).contains(&before), "{before}");
    let mut left = vec![];
    while writer.prune_slice(Timestamp::now()).expect("a slice") {
        left.push(select_number(&path, "SELECT count(*) FROM messages"));
    }
    assert_eq!(left, [before - 500, before - 1000]);
    assert_eq!(select_number(&path, "SELECT count(*) FROM messages"), 0);
}

#[test]
fn pruned_message_is_recognized_as_duplicate_for_a_day() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&with_settings(&options(&path), |settings| settings.keep_messages = 1));
    let repeated = draft_with_id("a", "x", "1");
    writer.append(&[repeated.clone(), draft("a", "y"), draft("a", "z")]).expect("a commit");
    prune(&mut writer, Timestamp::now());
    assert_eq!(texts(&read_all(&path, "a").messages), ["z"]);
    assert_eq!(
        select_number(&path, "SELECT count(*) FROM messages WHERE text = '' AND nick = ''"),
        1
    );
    let again = writer.append(std::slice::from_ref(&repeated)).expect("a commit");
    assert_eq!(again, [Verdict::Duplicate(Seq::new(1))]);

    let at = later(DAY + Duration::from_secs(60));
    assert!(writer.append_at(at, vec![]).is_ok());
    prune(&mut writer, at);
    assert_eq!(select_number(&path, "SELECT count(*) FROM messages"), 1);
    let new = writer.append_at(at, vec![repeated]).map_err(|_| ()).expect("a commit");
    assert_eq!(new.verdicts, [Verdict::Kept(Seq::new(4))]);
    assert_eq!(texts(&read_all(&path, "a").messages), ["x"]);
}

#[test]
fn second_server_cannot_open_the_same_file_by_any_path() {
    System::new().block_on(async {
        let folder = folder();
        let path = folder.path().join("log.db");
        let journal = Journal::open(&options(&path)).expect("a journal");
        let mut names = vec![path.clone(), folder.path().join(".").join("log.db")];
        #[cfg(unix)]
        {
            let link = folder.path().join("link.db");
            std::os::unix::fs::symlink("log.db", &link).expect("a link");
            names.push(link);
        }
        for name in names {
            let error = Journal::open(&options(&name)).expect_err("it is in use");
            assert!(matches!(error, JournalError::InUse(_)), "{error}");
            let words = error.to_string();
            assert!(words.contains(&*journal.path().to_string_lossy()), "{words}");
        }
        #[cfg(target_os = "linux")]
        {
            let twin = folder.path().join("twin.db");
            std::fs::hard_link(&path, &twin).expect("a hard link");
            let error = Journal::open(&options(&twin)).expect_err("it is the same file");
            assert!(matches!(error, JournalError::InUse(_)), "{error}");
        }
        journal.close().await;
        Journal::open(&options(&path)).expect("it is free again").close().await;
    });
}

#[cfg(unix)]
#[test]
fn link_to_a_missing_file_has_the_canonical_path_of_that_file() {
    let folder = folder();
    let (path, link) = (folder.path().join("log.db"), folder.path().join("link.db"));
    std::os::unix::fs::symlink("log.db", &link).expect("a link");
    assert_eq!(lock::canonical(&link).expect("a name"), lock::canonical(&path).expect("a name"));
}

#[test]
fn opening_a_folder_is_an_error() {
    let folder = folder();
    let error = Journal::open(&options(folder.path())).expect_err("it is a folder");
    assert!(matches!(error, JournalError::System(..)), "{error}");
}

#[test]
fn journal_of_a_newer_version_is_an_error() {
    let folder = folder();
    let path = folder.path().join("log.db");
    drop(writer(&options(&path)));
    let connection = Connection::open(&path).expect("a database");
    connection.pragma_update(None, "user_version", 1000).expect("a pragma");
    drop(connection);
    let error = Journal::open(&options(&path)).expect_err("it is newer");
    assert!(matches!(error, JournalError::Newer(_)), "{error}");
}

#[test]
fn file_that_is_not_a_journal_is_an_error_and_stays_unchanged() {
    let folder = folder();
    let garbage = folder.path().join("garbage.db");
    let text = "something else entirely\n".repeat(1000);
    fs::write(&garbage, &text).expect("a file");
    let foreign = folder.path().join("foreign.db");
    let connection = Connection::open(&foreign).expect("a database");
    connection.execute_batch("CREATE TABLE theirs (x)").expect("a table");
    drop(connection);
    for path in [&garbage, &foreign] {
        let error = Journal::open(&options(path)).expect_err("it is not a journal");
        assert!(matches!(error, JournalError::NotAJournal(_)), "{error}");
        let error =
            export(path, None, &mut Vec::new(), &mut |_| {}).expect_err("it is not a journal");
        assert!(matches!(error, ExportError::Source(SourceError::NotAJournal(_))), "{error}");
        let copy = folder.path().join("copy.db");
        let error = backup(path, &copy, &mut |_, _| {}).expect_err("it is not a journal");
        assert!(matches!(error, BackupError::Source(SourceError::NotAJournal(_))), "{error}");
    }
    assert_eq!(fs::read_to_string(&garbage).expect("a file"), text);
}

#[test]
fn database_locked_by_another_program_is_an_error() {
    let folder = folder();
    let path = folder.path().join("log.db");
    drop(writer(&options(&path)));
    let other = Connection::open(&path).expect("a database");
    other.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
    let error = Journal::open(&options(&path)).expect_err("it is locked");
    assert!(matches!(error, JournalError::Locked(_)), "{error}");
}

#[test]
fn new_epoch_begins_only_after_messages_may_be_lost() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let opened = |sync, clean: bool| {
        let mut writer = writer(&Options { sync, ..options(&path) });
        if clean {
            writer.close().expect("a clean close");
        }
        writer.epoch.clone()
    };
    let first: Epoch = opened(DbSync::Full, true);
    assert_eq!(opened(DbSync::Full, false), first, "after a clean close");
    assert_eq!(opened(DbSync::Normal, true), first, "after a crash under full sync");
    assert_eq!(opened(DbSync::Normal, false), first, "after a clean close under normal sync");
    let second = opened(DbSync::Full, false);
    assert_ne!(second, first, "after a crash under normal sync");
    assert_eq!(opened(DbSync::Full, false), second, "after the new epoch has begun");
}

#[test]
fn closed_journal_keeps_its_epoch() {
    System::new().block_on(async {
        let folder = folder();
        let options = Options { sync: DbSync::Normal, ..options(&folder.path().join("log.db")) };
        let journal = Journal::open(&options).expect("a journal");
        let epoch = journal.log().epoch;
        journal.close().await;
        let journal = Journal::open(&options).expect("a journal");
        assert_eq!(journal.log().epoch, epoch);
        journal.close().await;
    });
}

#[test]
fn export_and_backup_do_not_create_a_missing_file() {
    let folder = folder();
    let path = folder.path().join("none.db");
    let error = export(&path, None, &mut Vec::new(), &mut |_| {}).expect_err("there is none");
    assert!(matches!(error, ExportError::Source(SourceError::System(..))), "{error}");
    let error = backup(&path, &folder.path().join("copy.db"), &mut |_, _| {});
    assert!(matches!(error, Err(BackupError::Source(SourceError::System(..)))), "{error:?}");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}
