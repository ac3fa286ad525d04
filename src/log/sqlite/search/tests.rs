//! Tests of the search index and of searches. In tests a part has at most 64 messages, and a step
//! indexes 8.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rusqlite::Connection;

use super::super::tests::{
    draft, draft_of, folder, options, prune, read_all, room, text, with_settings, writer,
};
use super::super::{Options, Writer, backup, export, import};
use super::*;
use crate::domain::{Action, MessageText, SearchQuery, SearchTerms, Seq, Timestamp};
use crate::log::{Found, Verdict};

const ROOMS: [&str; 3] = ["a", "b", "c"];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn query(search: &str) -> SearchQuery {
    let terms = SearchTerms::parse(search).expect("terms");
    SearchQuery { terms, room: None, from: None, before: Seq::MAX, limit: 1_000_000 }
}

fn search(path: &Path, query: &SearchQuery) -> Found {
    let deadline = Instant::now() + Duration::from_secs(60);
    Searcher::new(path.to_owned()).search(query, deadline).expect("no error")
}

/// Returns the texts that were found.
fn found(path: &Path, words: &str) -> Vec<String> {
    search(path, &query(words)).results.iter().map(|result| result.snippet.concat()).collect()
}

/// Returns the results of a search that reads all messages.
fn scan(path: &Path, query: &SearchQuery) -> Found {
    let mut found = Found::default();
    for name in
        ROOMS.iter().filter(|name| query.room.as_ref().is_none_or(|it| it.as_str() == **name))
    {
        for message in read_all(path, name).messages {
            let is_from = query.from.as_ref().is_none_or(|from| *from == message.nick);
            if let Some(snippet) = query.terms.snippet(message.text.as_str())
                && message.seq < query.before
                && is_from
            {
                found.results.push(crate::domain::SearchResult {
                    room: message.room.clone(),
                    seq: message.seq,
                    at: message.at,
                    author: message.author.map(Into::into),
                    nick: message.nick.clone(),
                    snippet,
                });
            }
        }
    }
    found.results.sort_by_key(|result| std::cmp::Reverse(result.seq));
    found.more = found.results.len() > query.limit;
    found.results.truncate(query.limit);
    found
}

/// Runs all steps that are due at a time.
fn index_at(writer: &mut Writer, now: Timestamp) {
    let mut idle = 0;
    // It must end. A check of a part is an idle step.
    for _ in 0..100_000 {
        idle = if writer.index_step(now).expect("a step") { 0 } else { idle + 1 };
        if idle > 30 {
            return;
        }
    }
    panic!("indexing does not end");
}

fn index_all(writer: &mut Writer) {
    // A writer that is not started as an actor does not count waiting messages.
    writer.indexer.messages_waiting();
    index_at(writer, Timestamp::now());
}

fn later(duration: Duration) -> Timestamp {
    let millis = u64::try_from(duration.as_millis()).expect("not so long");
    Timestamp::from_millis(Timestamp::now().millis() + millis)
}

fn parts(path: &Path) -> Vec<Part> {
    Part::all(&Connection::open(path).expect("a database")).expect("parts")
}

/// Checks the index of every part, and that there is no table without a part.
fn check_integrity(path: &Path) {
    let connection = Connection::open(path).expect("a database");
    let parts = Part::all(&connection).expect("parts");
    for part in parts.iter().filter(|part| part.state != State::Dropping) {
        let table = part.table();
        let check = format!("INSERT INTO {table} ({table}) VALUES ('integrity-check')");
        connection.execute_batch(&check).unwrap_or_else(|error| panic!("{table}: {error}"));
    }
    let select = "SELECT count(*) FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL%'";
    let tables: i64 = connection.query_row(select, [], |row| row.get(0)).expect("a number");
    assert_eq!(tables, crate::log::sqlite::rows::count(parts.len()));
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a result");
    assert_eq!(check, "ok");
}

fn append_texts(
    writer: &mut Writer,
    name: &str,
    texts: impl IntoIterator<Item = String>,
) -> Vec<Seq> {
    let drafts: Vec<_> = texts.into_iter().map(|text| draft(name, &text)).collect();
    let verdicts = writer.append(&drafts).expect("a commit");
    verdicts.into_iter().map(super::super::tests::seq).collect()
}

#[test]
fn message_is_found_before_and_after_it_is_indexed() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_texts(&mut writer, "a", ["Black tea".into(), "green tea".into(), "coffee".into()]);
    for _ in 0..2 {
        assert_eq!(found(&path, "TEA"), ["green tea", "Black tea"]);
        assert_eq!(found(&path, "\"black tea\""), ["Black tea"]);
        assert!(found(&path, "\"tea black\"").is_empty());
        assert!(found(&path, "tea coffee").is_empty());
        index_all(&mut writer);
    }
    assert_eq!(parts(&path)[0].indexed, 3);
    assert_eq!(parts(&path)[0].rows, 3);
}

#[test]
fn message_that_was_changed_before_it_is_indexed_is_indexed_with_its_new_text() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    index_all(&mut writer);
    let seqs = append_texts(&mut writer, "a", (0..3).map(|n| format!("tea {n}")));
    let edit = Action::Edit { target: seqs[1], text: text("coffee") };
    let delete = Action::Delete { target: seqs[2] };
    writer.append(&[draft_of("a", edit), draft_of("a", delete)]).expect("a commit");
    append_texts(&mut writer, "a", ["more tea".into()]);
    index_all(&mut writer);
    assert_eq!(parts(&path)[0].indexed, 6);
    assert_eq!(found(&path, "coffee"), ["coffee"]);
    assert_eq!(found(&path, "tea"), ["more tea", "tea 0"]);
    let connection = Connection::open(&path).expect("a database");
    let select = format!("SELECT count(*) FROM {0} WHERE {0} MATCH 'tea'", parts(&path)[0].table());
    let indexed: i64 = connection.query_row(&select, [], |row| row.get(0)).expect("a number");
    assert_eq!(indexed, 2);
}

#[test]
fn results_from_several_parts_and_pages_have_no_gap_or_repeat() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    for n in 0..25 {
        append_texts(&mut writer, ROOMS[n % 3], (0..10).map(|m| format!("number {m} tea")));
        if n % 3 == 0 {
            index_all(&mut writer);
        }
    }
    assert!(parts(&path).len() >= 3, "{:?}", parts(&path));
    assert_eq!(found(&path, "tea").len(), 250);
    for (name, limit) in [(None, 1), (None, 7), (Some("b"), 7), (None, 64)] {
        let mut all = Vec::new();
        let mut page = SearchQuery { limit, room: name.map(room), ..query("\"3 tea\"") };
        let expected = scan(&path, &SearchQuery { limit: 1000, ..page.clone() }).results;
        loop {
            let found = search(&path, &page);
            assert!(!found.incomplete && found.results.len() <= limit);
            page.before = found.results.last().map_or(page.before, |last| last.seq);
            all.extend(found.results);
            if !found.more {
                break;
            }
        }
        assert_eq!(all, expected);
    }
    check_integrity(&path);
}

#[test]
fn full_part_is_merged_into_one_segment() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_texts(&mut writer, "a", (0..100).map(|n| format!("tea {n}")));
    index_all(&mut writer);
    let parts = parts(&path);
    assert_eq!(parts.iter().map(|part| part.merged).collect::<Vec<_>>(), [false, true]);
    let connection = Connection::open(&path).expect("a database");
    let segments = format!("SELECT count(DISTINCT segid) FROM {}_idx", parts[1].table());
    let segments: i64 = connection.query_row(&segments, [], |row| row.get(0)).expect("a number");
    assert_eq!(segments, 1);
    assert_eq!(found(&path, "tea").len(), 100);
}

#[test]
fn edited_and_deleted_texts_are_no_longer_found_and_their_words_are_in_no_file() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    append_texts(&mut writer, "a", (0..100).map(|n| format!("tea {n}")));
    let seqs = append_texts(&mut writer, "a", ["qxvanilla tea".into(), "qzjasmine tea".into()]);
    append_texts(&mut writer, "a", (0..20).map(|n| format!("tea {n}")));
    index_all(&mut writer);
    let in_file = |word: &str| {
        let files = std::fs::read_dir(folder.path()).expect("a folder");
        let files = files.map(|file| std::fs::read(file.expect("a file").path()).expect("a file"));
        // The index stores only the end of a word that begins like the one before it.
        let (all, end) = (word.as_bytes(), &word.as_bytes()[2..]);
        files.into_iter().any(|bytes| {
            bytes.windows(all.len()).any(|it| it == all)
                || bytes.windows(end.len()).any(|it| it == end)
        })
    };
    assert!(in_file("qxvanilla") && in_file("qzjasmine"));
    let drafts = [
        draft_of("a", Action::Delete { target: seqs[0] }),
        draft_of("a", Action::Edit { target: seqs[1], text: text("another tea") }),
    ];
    writer.append(&drafts).expect("a commit");
    assert!(writer.truncate_wal().expect("a checkpoint"));
    assert!(!in_file("qxvanilla") && !in_file("qzjasmine"));
    assert!(found(&path, "qxvanilla").is_empty() && found(&path, "qzjasmine").is_empty());
    assert_eq!(found(&path, "another"), ["another tea"]);
    assert_eq!(found(&path, "tea").len(), 121);
    check_integrity(&path);
    index_all(&mut writer);
    assert_eq!(found(&path, "another"), ["another tea"]);
}

#[test]
fn pruned_texts_are_no_longer_found_and_their_words_are_erased_within_a_day() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let options = with_settings(&options(&path), |settings| settings.keep_messages = 100);
    let mut writer = writer(&options);
    append_texts(&mut writer, "a", ["qxpruned tea".into()]);
    append_texts(&mut writer, "a", (0..99).map(|n| format!("tea {n}")));
    index_all(&mut writer);
    append_texts(&mut writer, "a", ["new tea".into()]);
    assert!(found(&path, "qxpruned").is_empty());
    assert_eq!(found(&path, "tea").len(), 100);
    prune(&mut writer, Timestamp::now());
    index_all(&mut writer);
    let in_index = || {
        let connection = Connection::open(&path).expect("a database");
        let table = |part: &Part| part.table();
        let tables: Vec<_> = Part::all(&connection).expect("parts").iter().map(table).collect();
        tables.iter().any(|table| {
            let select = format!("SELECT 1 FROM {table} WHERE {table} MATCH 'qxpruned'");
            connection.prepare(&select).and_then(|mut it| it.exists([])).expect("a search")
        })
    };
    // One pruned message of 64 does not yet cause a rebuild.
    assert!(in_index());
    index_at(&mut writer, later(DAY));
    assert!(!in_index());
    assert!(found(&path, "qxpruned").is_empty());
    assert_eq!(found(&path, "tea").len(), 100);
    check_integrity(&path);
}

#[test]
fn part_without_messages_is_deleted_and_small_parts_are_merged() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&with_settings(&options(&path), |it| it.keep_messages = 10));
    for _ in 0..30 {
        append_texts(&mut writer, "a", (0..20).map(|n| format!("tea {n}")));
        append_texts(&mut writer, "b", (0..2).map(|n| format!("tea {n}")));
        prune(&mut writer, Timestamp::now());
        index_all(&mut writer);
        check_integrity(&path);
    }
    let parts = parts(&path);
    assert!(parts.len() <= 3, "{parts:?}");
    assert_eq!(found(&path, "tea").len(), 20);
    let rows = "SELECT count(*) FROM message_rooms";
    let connection = Connection::open(&path).expect("a database");
    let rows: i64 = connection.query_row(rows, [], |row| row.get(0)).expect("a number");
    assert_eq!(rows, 20);
}

#[test]
fn damaged_part_does_not_prevent_a_deletion_and_is_rebuilt() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = self::writer(&options(&path));
    let seqs = append_texts(&mut writer, "a", (0..100).map(|n| format!("tea {n}")));
    index_all(&mut writer);
    let table = parts(&path)[1].table();
    let damage = format!("UPDATE {table}_data SET block = x'ffffffffff' WHERE id > 10");
    Connection::open(&path).expect("a database").execute_batch(&damage).expect("an update");
    drop(writer);
    let mut writer = self::writer(&options(&path));
    let verdict = writer.append(&[draft_of("a", Action::Delete { target: seqs[0] })]);
    assert!(matches!(verdict.expect("a commit")[..], [Verdict::Kept(_)]));
    index_all(&mut writer);
    assert_eq!(found(&path, "tea").len(), 99);
    check_integrity(&path);
}

/// Removes what version 4 of the schema added to a file.
fn make_older(path: &Path) {
    let connection = Connection::open(path).expect("a database");
    for part in Part::all(&connection).expect("parts") {
        connection.execute_batch(&format!("DROP TABLE {}", part.table())).expect("a table");
    }
    connection
        .execute_batch(
            "DROP TABLE message_rooms; DROP TABLE search_parts; DROP TABLE search_fill;
             DROP TABLE read_marks; DROP TABLE shared_log; DROP TABLE producers;
             PRAGMA user_version = 3;",
        )
        .expect("an older file");
}

fn fill_rooms(writer: &mut Writer, messages: usize) {
    for n in 0..messages / 10 {
        append_texts(writer, ROOMS[n % 3], (0..10).map(|m| format!("tea {}", n * 10 + m)));
    }
}

#[test]
fn messages_of_an_older_version_are_indexed_newest_first() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut first = writer(&options(&path));
    fill_rooms(&mut first, 500);
    let edit = Action::Edit { target: Seq::new(7), text: text("coffee") };
    first.append(&[draft_of("a", edit)]).expect("a commit");
    drop(first);
    make_older(&path);
    let mut second = writer(&options(&path));
    let before = search(&path, &query("tea"));
    assert!(before.incomplete && before.results.is_empty() && !before.more);
    append_texts(&mut second, "b", ["new tea".into()]);
    second.indexer = Indexer::default();
    let mut last = 0;
    for step in 0.. {
        let has_more = second.index_step(Timestamp::now()).expect("a step");
        if step == 20 {
            // The process is killed and starts again.
            drop(second);
            second = writer(&options(&path));
        }
        let now = search(&path, &query("tea"));
        assert!(now.results.len() >= last.min(1));
        assert_eq!(now.results[0].snippet.concat(), "new tea");
        assert!(now.incomplete || now == scan(&path, &query("tea")));
        last = now.results.len();
        if !has_more {
            break;
        }
    }
    index_all(&mut second);
    assert_eq!(search(&path, &query("tea")), scan(&path, &query("tea")));
    assert_eq!(found(&path, "tea").len(), 500);
    assert_eq!(found(&path, "coffee"), ["coffee"]);
    check_integrity(&path);
}

#[test]
fn index_with_words_of_another_version_is_rebuilt() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = self::writer(&options(&path));
    fill_rooms(&mut writer, 200);
    index_all(&mut writer);
    let connection = Connection::open(&path).expect("a database");
    connection.execute_batch("UPDATE search_parts SET words = words - 1").expect("an update");
    drop(writer);
    let mut writer = self::writer(&options(&path));
    assert!(search(&path, &query("tea")).incomplete);
    let delete = Action::Delete { target: Seq::new(1) };
    writer.append(&[draft_of("a", delete)]).expect("a commit");
    index_all(&mut writer);
    let found = search(&path, &query("tea"));
    assert!(!found.incomplete);
    assert_eq!(found.results.len(), 199);
    check_integrity(&path);
}

#[test]
fn backup_and_import_are_searched() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let mut writer = self::writer(&options(&path("log.db")));
    fill_rooms(&mut writer, 200);
    index_all(&mut writer);
    backup(&path("log.db"), &path("copy.db"), &mut |_, _| {}).expect("a backup");
    assert_eq!(found(&path("copy.db"), "tea").len(), 200);
    check_integrity(&path("copy.db"));
    let mut lines = Vec::new();
    export(&path("log.db"), None, &mut lines, &mut |_| {}).expect("an export");
    import(&path("new.db"), &mut &lines[..], &mut |_| {}).expect("an import");
    let mut imported = self::writer(&options(&path("new.db")));
    assert!(search(&path("new.db"), &query("tea")).incomplete);
    index_all(&mut imported);
    assert_eq!(found(&path("new.db"), "tea"), found(&path("log.db"), "tea"));
}

#[test]
fn index_leaves_space_for_messages_in_a_file_of_limited_size() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = self::writer(&options(&path));
    fill_rooms(&mut writer, 200);
    let select = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    let size = |writer: &Writer| -> i64 {
        writer.connection.query_row(select, [], |row| row.get(0)).expect("a number")
    };
    let before = size(&writer);
    writer.options.max_bytes = Some(before.unsigned_abs());
    index_all(&mut writer);
    // The tables of the first part, and maybe another page of the schema.
    assert!(size(&writer) <= before + 5 * 4096);
    assert_eq!(parts(&path)[0].rows, 0);
    writer.options.max_bytes = None;
    index_all(&mut writer);
    assert_eq!(found(&path, "tea").len(), 200);
}

#[test]
fn search_ends_at_its_deadline_with_what_it_has_found() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = self::writer(&options(&path));
    fill_rooms(&mut writer, 200);
    index_all(&mut writer);
    let found = Searcher::new(path).search(&query("tea"), Instant::now()).expect("no error");
    assert!(found.incomplete && found.more);
    assert_eq!(found.results.len(), 1);
}

#[test]
fn search_without_results_ends_at_its_deadline() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = self::writer(&options(&path));
    // Each part has messages with either word, so the index has to compare them all.
    let texts = (0..200).map(|n| if n % 2 == 0 { "tea".into() } else { "milk".into() });
    append_texts(&mut writer, "a", texts);
    index_all(&mut writer);
    assert!(parts(&path).len() > 2);
    let query = query("tea milk");
    let found = Searcher::new(path.clone()).search(&query, Instant::now()).expect("no error");
    assert!(found.incomplete && !found.more && found.results.is_empty());
    assert!(!search(&path, &query).incomplete);
}

#[test]
fn no_search_leaves_a_transaction_open() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = self::writer(&options(&path));
    fill_rooms(&mut writer, 200);
    let mut searcher = Searcher::new(path);
    let deadline = Instant::now() + Duration::from_secs(60);
    for limit in [1, 1000] {
        searcher.search(&SearchQuery { limit, ..query("tea") }, deadline).expect("no error");
        assert!(writer.truncate_wal().expect("a checkpoint"));
        append_texts(&mut writer, "a", ["more".into()]);
    }
}

/// A step of the model.
#[derive(Clone, Debug)]
enum ModelStep {
    /// Appends texts to a room.
    Say(usize, Vec<String>),
    /// Changes a message: the number of the message from the end, and the new text.
    Change(usize, Option<String>),
    /// Runs some steps of the index.
    Index(usize),
    /// Runs all steps of the index, this many hours later.
    IndexAll(u64),
    /// Limits the messages of each room to this number, and prunes.
    Keep(u64),
    /// Kills and reopens the writer.
    Reopen,
    /// Makes the file one of an older version.
    MakeOlder,
}

fn words_text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[ab]",
        Just("tea".to_owned()),
        Just("Straße".to_owned()),
        Just("東京".to_owned()),
        Just("كِتَاب".to_owned()),
        Just("🎉".to_owned()),
        Just("\"NEAR(x* OR -y) ^z:".to_owned()),
    ];
    prop::collection::vec(word, 1..6).prop_map(|words| words.join(" "))
}

fn model_step() -> impl Strategy<Value = ModelStep> {
    prop_oneof![
        4 => (0..3_usize, prop::collection::vec(words_text(), 1..20))
            .prop_map(|(room, texts)| ModelStep::Say(room, texts)),
        3 => (0..80_usize, prop::option::of(words_text()))
            .prop_map(|(n, text)| ModelStep::Change(n, text)),
        3 => (1..20_usize).prop_map(ModelStep::Index),
        2 => (0..30_u64).prop_map(ModelStep::IndexAll),
        1 => (1..60_u64).prop_map(ModelStep::Keep),
        1 => Just(ModelStep::Reopen),
        1 => Just(ModelStep::MakeOlder),
    ]
}

fn fast_writer(options: &Options) -> Writer {
    let writer = writer(options);
    writer.connection.pragma_update(None, "synchronous", "off").expect("a pragma");
    writer
}

fn run_model(steps: Vec<ModelStep>, searches: &[(String, Option<usize>, bool, usize)]) {
    let folder = folder();
    let mut options = with_settings(&options(&folder.path().join("log.db")), |it| it.edits = true);
    let path = options.path.clone();
    let mut writer = fast_writer(&options);
    let mut messages: Vec<(usize, Seq)> = Vec::new();
    let mut hours = 0;
    for step in steps {
        match step {
            ModelStep::Say(room, texts) => {
                let seqs = append_texts(&mut writer, ROOMS[room], texts);
                messages.extend(seqs.into_iter().map(|seq| (room, seq)));
                writer.indexer.messages_waiting();
            }
            ModelStep::Change(n, new) => {
                let Some((room, target)) = messages.iter().rev().nth(n).copied() else { continue };
                let action = match new {
                    Some(new) => Action::Edit { target, text: text(&new) },
                    None => Action::Delete { target },
                };
                // It may have been pruned or deleted.
                let _ = writer.append(&[draft_of(ROOMS[room], action)]).expect("a commit");
            }
            ModelStep::Index(steps) => {
                for _ in 0..steps {
                    writer.index_step(later(DAY * hours / 24)).expect("a step");
                }
            }
            ModelStep::IndexAll(more) => {
                hours += u32::try_from(more).expect("a small number");
                index_at(&mut writer, later(DAY * hours / 24));
            }
            ModelStep::Keep(most) => {
                options.settings.keep_messages = most;
                let now = Timestamp::now();
                writer.change_settings(now, options.settings.clone()).expect("a commit");
                prune(&mut writer, now);
            }
            ModelStep::Reopen => {
                drop(writer);
                writer = fast_writer(&options);
            }
            ModelStep::MakeOlder => {
                drop(writer);
                make_older(&path);
                writer = fast_writer(&options);
            }
        }
        for (words, room_number, from, limit) in searches {
            let Ok(terms) = SearchTerms::parse(words) else { continue };
            let query = SearchQuery {
                terms,
                room: room_number.map(|n| room(ROOMS[n])),
                from: from.then(|| Nick::from_trusted("ANN".into())),
                before: Seq::MAX,
                limit: *limit,
            };
            let (found, expected) = (search(&path, &query), scan(&path, &query));
            if found.incomplete {
                let all = scan(&path, &SearchQuery { limit: usize::MAX, ..query });
                assert!(found.results.iter().all(|result| all.results.contains(result)));
                assert!(found.results.is_sorted_by_key(|result| std::cmp::Reverse(result.seq)));
            } else {
                assert_eq!(found, expected);
            }
        }
    }
    index_all(&mut writer);
    check_integrity(&path);
    for (words, ..) in searches {
        let Ok(terms) = SearchTerms::parse(words) else { continue };
        let query = SearchQuery { terms, ..query("x") };
        assert_eq!(search(&path, &query), scan(&path, &query));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn search_finds_the_same_as_reading_all_messages(
        steps in prop::collection::vec(model_step(), 1..30),
        searches in prop::collection::vec(
            (words_text(), prop::option::of(0..3_usize), any::<bool>(), 1..40_usize), 3),
    ) {
        run_model(steps, &searches);
    }

    #[test]
    fn any_text_is_searched_without_an_error(searches in prop::collection::vec("\\PC{1,20}", 20)) {
        let folder = folder();
        let path = folder.path().join("log.db");
        let mut writer = fast_writer(&options(&path));
        let is_valid = |text: &&String| MessageText::parse(text.as_str(), 1000).is_ok();
        append_texts(&mut writer, "a", searches.iter().filter(is_valid).cloned());
        append_texts(&mut writer, "a", (0..20).map(|n| n.to_string()));
        index_all(&mut writer);
        for search in &searches {
            let Ok(terms) = SearchTerms::parse(search) else { continue };
            let query = SearchQuery { terms, ..query("x") };
            let found = self::search(&path, &query);
            prop_assert!(!found.incomplete);
            prop_assert_eq!(found, scan(&path, &query), "{}", search);
        }
    }
}

/// If FTS5 found no token in a key, a search for it would find nothing.
#[test]
fn every_character_that_is_a_word_is_a_token() {
    for c in (0..=0x10_FFFF).filter_map(char::from_u32) {
        for key in joined_keys(c.encode_utf8(&mut [0; 4])).split_whitespace() {
            let is_token = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii();
            assert!(key.contains(is_token), "{c:?} {key:?}");
        }
    }
}
