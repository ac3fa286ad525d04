//! Tests of read marks and of the counts of unread messages.

use super::*;
use crate::domain::Unread;
use crate::log::MarkRead;
use crate::log::sqlite::marks::UnreadQuery;

/// The limits of `marks.rs`, the last two as they are in tests.
const USER_MARKS_MAX: usize = 1000;
const MARKS_MAX: usize = 1500;
const PENDING_MAX: usize = 3000;

fn user(name: &str) -> Identity {
    Identity::of_key(&format!("the secret key of {name}")).expect("a key")
}

fn mark(identity: Identity, name: &str, seq: u64) -> MarkRead {
    MarkRead { identity, room: room(name), seq: Seq::new(seq) }
}

/// Stores a mark at a time.
fn store(writer: &mut Writer, at: Timestamp, mark: MarkRead) {
    writer.add_mark(mark);
    writer.commit_marks(at).expect("a commit");
}

/// Counts the messages that a user named Ben has not read.
fn count(writer: &Writer, identity: Identity, name: &str) -> Option<Unread> {
    count_between(writer, identity, name, 0, u64::MAX)
}

fn count_between(
    writer: &Writer,
    identity: Identity,
    name: &str,
    known: u64,
    before: u64,
) -> Option<Unread> {
    let nick = Nick::parse("Ben").expect("a nick");
    let (room, known, before) = (room(name), Seq::new(known), Seq::new(before));
    let query = UnreadQuery { identity, nick, room, known, before };
    let path = writer.options.path.clone();
    let mut reader = Reader::new(None, path, writer.marks.pending.clone());
    reader.count_unread(&query).expect("a count")
}

fn unread(mark: u64, count: usize, first: u64, mentions: usize) -> Option<Unread> {
    let first = (first > 0).then(|| Seq::new(first));
    Some(Unread { mark: Seq::new(mark), count, first, mentions })
}

fn stored(path: &Path) -> usize {
    let rows = select_number(path, "SELECT count(*) FROM read_marks");
    assert_eq!(select_number(path, "SELECT value FROM meta WHERE name = 'read_marks'"), rows);
    usize::try_from(rows).expect("a number")
}

#[test]
fn messages_of_others_after_the_mark_are_unread() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    let ben = user("ben");
    let by_ben = |words: &str| Draft { author: Some(ben), ..draft("a", words) };
    let by_server = Draft { author: None, ..draft("a", "from the server") };
    let target = Seq::new(4);
    writer
        .append(&[
            draft("a", "read"),
            by_ben("@Ben, note to self"),
            draft("a", "hello @ben!"),
            draft("a", "deleted, @Ben"),
            draft("b", "in another room, @Ben"),
            by_server,
            draft("a", "`@Ben` is code"),
            draft_of("a", Action::Delete { target }),
        ])
        .expect("a commit");
    assert_eq!(count(&writer, ben, "a"), None, "without a mark");
    writer.add_mark(mark(ben, "a", 1));
    for _ in ["pending", "committed"] {
        assert_eq!(count(&writer, ben, "a"), unread(1, 3, 3, 1));
        writer.commit_all_marks(Timestamp::now());
    }
    assert_eq!(stored(&path), 1);
    assert_eq!(count(&writer, user("eve"), "a"), None, "of another user");
    assert_eq!(count(&writer, ben, "b"), None, "of another room");
    assert_eq!(count_between(&writer, ben, "a", 0, 6), unread(1, 1, 3, 1));
    assert_eq!(count_between(&writer, ben, "a", 3, u64::MAX), unread(3, 2, 6, 0));
    assert_eq!(count_between(&writer, user("eve"), "b", 4, u64::MAX), unread(4, 1, 5, 1));
    writer.add_mark(mark(ben, "a", 8));
    assert_eq!(count(&writer, ben, "a"), unread(8, 0, 0, 0));
}

#[test]
fn greatest_mark_wins() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_numbers(&mut writer, "a", 0..9);
    let ben = user("ben");
    for (seq, expected) in [(5, 5), (3, 5), (7, 7), (1, 7)] {
        writer.add_mark(mark(ben, "a", seq));
        assert_eq!(count(&writer, ben, "a").expect("a mark").mark, Seq::new(expected));
    }
    writer.commit_all_marks(later(DAY));
    for (seq, expected) in [(3, 7), (8, 8)] {
        store(&mut writer, later(2 * DAY), mark(ben, "a", seq));
        assert_eq!(count(&writer, ben, "a").expect("a mark").mark, Seq::new(expected));
    }
    assert_eq!(stored(&path), 1);
}

#[test]
fn pruned_messages_are_not_unread() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut first = writer(&options(&path));
    // More than the change of the settings deletes from the file.
    append_numbers(&mut first, "a", 0..100);
    store(&mut first, Timestamp::now(), mark(user("ben"), "a", 2));
    drop(first);
    let options = with_settings(&options(&path), |settings| settings.keep_messages = 4);
    let writer = writer(&options);
    assert_eq!(count(&writer, user("ben"), "a"), unread(2, 4, 97, 0));
}

#[test]
fn count_stops_at_one_thousand_and_the_first_unread_message_is_exact() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    let ben = user("ben");
    let mention = |author| Draft { author: Some(author), ..draft("a", "@Ben") };
    writer.append(&[mention(ben), mention(ben)]).expect("a commit");
    let drafts: Vec<_> = (0..1200).map(|_| mention(identity())).collect();
    writer.append(&drafts).expect("a commit");
    store(&mut writer, Timestamp::now(), mark(ben, "a", 1));
    assert_eq!(count(&writer, ben, "a"), unread(1, 1000, 3, 1000));
    assert_eq!(count_between(&writer, ben, "a", 0, 1002), unread(1, 999, 3, 999));
}

#[test]
fn count_reads_a_limited_number_of_messages() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let options = with_settings(&options(&path), |settings| settings.keep_messages = 50_000);
    let mut writer = writer(&options);
    append_numbers(&mut writer, "a", 0..10);
    let ben = user("ben");
    let own: Vec<_> = (0..3001).map(|_| Draft { author: Some(ben), ..draft("a", "x") }).collect();
    writer.append(&own).expect("a commit");
    store(&mut writer, Timestamp::now(), mark(ben, "a", 1));
    assert_eq!(count(&writer, ben, "a"), unread(1, 0, 0, 0));
}

#[test]
fn mark_of_a_room_without_messages_is_ignored() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_numbers(&mut writer, "a", 0..1);
    writer.add_mark(mark(user("ben"), "nowhere", 1));
    assert_eq!(count(&writer, user("ben"), "nowhere"), None);
    writer.commit_all_marks(Timestamp::now());
    assert!(writer.marks.pending.is_empty());
    assert_eq!(stored(&path), 0);
}

#[test]
fn user_has_at_most_one_thousand_marks() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    let name = |n: usize| format!("r{n}");
    let drafts: Vec<_> = (0..=USER_MARKS_MAX).map(|n| draft(&name(n), "x")).collect();
    writer.append(&drafts).expect("a commit");
    let (ben, eve) = (user("ben"), user("eve"));
    store(&mut writer, Timestamp::now(), mark(eve, "r0", 1));
    for n in 0..USER_MARKS_MAX {
        writer.add_mark(mark(ben, &name(n), 1));
    }
    writer.commit_all_marks(later(DAY));
    // The mark of the first room changes and is the newest then.
    store(&mut writer, later(2 * DAY), mark(ben, "r0", 2));
    assert_eq!(stored(&path), USER_MARKS_MAX + 1);
    store(&mut writer, later(3 * DAY), mark(ben, &name(USER_MARKS_MAX), 2));
    assert_eq!(stored(&path), USER_MARKS_MAX + 1);
    let kept = (0..=USER_MARKS_MAX).filter(|n| count(&writer, ben, &name(*n)).is_some());
    assert_eq!(kept.count(), USER_MARKS_MAX);
    assert!(count(&writer, ben, "r0").is_some() && count(&writer, eve, "r0").is_some());
    assert!(count(&writer, ben, &name(USER_MARKS_MAX)).is_some());
}

#[test]
fn number_of_all_marks_is_limited() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_numbers(&mut writer, "a", 0..1);
    store(&mut writer, Timestamp::now(), mark(user("oldest"), "a", 1));
    store(&mut writer, later(DAY), mark(user("old"), "a", 1));
    for n in 0..MARKS_MAX - 1 {
        writer.add_mark(mark(user(&n.to_string()), "a", 1));
    }
    writer.commit_all_marks(later(2 * DAY));
    assert_eq!(stored(&path), MARKS_MAX);
    assert_eq!(count(&writer, user("oldest"), "a"), None);
    assert!(count(&writer, user("old"), "a").is_some());
}

#[test]
fn mark_expires_ninety_days_after_its_last_change() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_numbers(&mut writer, "a", 0..3);
    let (ben, eve) = (user("ben"), user("eve"));
    for reader in [ben, eve] {
        store(&mut writer, Timestamp::now(), mark(reader, "a", 1));
    }
    store(&mut writer, later(10 * DAY), mark(eve, "a", 2));
    prune(&mut writer, later(89 * DAY));
    assert_eq!(stored(&path), 2);
    prune(&mut writer, later(91 * DAY));
    assert_eq!(stored(&path), 1);
    assert_eq!((count(&writer, ben, "a"), count(&writer, eve, "a")), (None, unread(2, 1, 3, 0)));
    prune(&mut writer, later(101 * DAY));
    assert_eq!(stored(&path), 0);
}

#[test]
fn marks_expire_in_slices() {
    const MARKS: usize = 1200;
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_numbers(&mut writer, "a", 0..1);
    for n in 0..MARKS {
        writer.add_mark(mark(user(&n.to_string()), "a", 1));
    }
    writer.commit_all_marks(Timestamp::now());
    assert_eq!(stored(&path), MARKS);
    for rest in [MARKS - 500, MARKS - 1000, 0] {
        let has_more = writer.prune_slice(later(91 * DAY)).expect("a slice");
        assert_eq!((stored(&path), has_more), (rest, rest > 0));
    }
}

#[test]
fn number_of_pending_marks_is_limited() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_numbers(&mut writer, "a", 0..2);
    for n in 0..PENDING_MAX {
        writer.add_mark(mark(user(&n.to_string()), "a", 1));
    }
    writer.add_mark(mark(user("late"), "a", 1));
    writer.add_mark(mark(user("0"), "a", 2));
    assert_eq!(count(&writer, user("late"), "a"), None);
    assert_eq!(count(&writer, user("0"), "a"), unread(2, 0, 0, 0));
}

#[test]
fn failed_commit_of_marks_keeps_them_pending_and_does_not_affect_appends() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_numbers(&mut writer, "a", 0..1);
    writer.add_mark(mark(user("ben"), "a", 1));
    let other = Connection::open(&path).expect("a database");
    other.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let error = writer.commit_marks(Timestamp::now()).expect_err("the file is locked");
    assert!(matches!(error, LogError::Busy(_)), "{error}");
    assert_eq!(count(&writer, user("ben"), "a"), unread(1, 0, 0, 0));
    other.execute_batch("ROLLBACK").expect("the lock is released");
    append_numbers(&mut writer, "a", 1..2);
    assert_eq!(count(&writer, user("ben"), "a"), unread(1, 1, 2, 0));
    // An error that makes the writer open the file again.
    other.execute_batch("ALTER TABLE read_marks RENAME TO away").expect("a change");
    writer.commit_marks(Timestamp::now()).expect_err("there is no table");
    append_numbers(&mut writer, "a", 2..3);
    other.execute_batch("ALTER TABLE away RENAME TO read_marks").expect("a change");
    writer.commit_marks(Timestamp::now()).expect("a commit");
    assert_eq!(stored(&path), 1);
    assert_eq!(count(&writer, user("ben"), "a"), unread(1, 2, 2, 0));
}

#[test]
fn closing_the_journal_stores_all_pending_marks() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_numbers(&mut writer, "a", 0..1);
    for n in 0..1200 {
        writer.add_mark(mark(user(&n.to_string()), "a", 1));
    }
    writer.close().expect("a clean end");
    assert_eq!(stored(&path), 1200);
}
