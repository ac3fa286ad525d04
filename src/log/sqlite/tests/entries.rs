//! Tests of edits, deletions, reactions and topics in the file.

use super::*;
use crate::domain::{ChangeKind, Emoji, Topic};
use crate::log::Reader as For;

fn emoji(n: usize) -> Emoji {
    let emoji = emojis::iter().nth(n).expect("there are many");
    Emoji::parse(emoji.as_str()).expect("an emoji")
}

fn react(author: Option<Identity>, n: usize) -> Draft {
    let (target, emoji) = (Seq::new(1), emoji(n));
    Draft { author, ..draft_of("a", Action::React { target, emoji, on: true }) }
}

fn for_hub(path: &Path, limit: usize) -> Messages {
    let (before, range, reader) = (Seq::MAX, Range::Latest, For::Hub);
    ask(path, &Query { room: room("a"), before, range, reader, limit, max_bytes: usize::MAX })
}

#[test]
fn message_has_at_most_20_emoji() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    let mut drafts = vec![draft("a", "hello")];
    drafts.extend((0..20).map(|n| react(Some(identity()), n)));
    drafts.extend([react(Some(identity()), 20), react(Some(identity()), 0), react(None, 0)]);
    let verdicts = writer.append(&drafts).expect("a commit");
    assert_eq!(verdicts[21], Verdict::Refused(Refused::TooManyReactions));
    assert_eq!(verdicts[22..], [Verdict::Kept(Seq::new(22)), Verdict::Kept(Seq::new(23))]);
    let counts = read_all(&path, "a").counts;
    assert_eq!(counts.len(), 20);
    let twice = counts.iter().find(|count| count.emoji == emoji(0)).expect("a count");
    assert_eq!((twice.count, twice.mine), (2, true));
    assert_eq!(writer.kept_bytes, 133 + 21 * 64);
}

#[test]
fn message_has_at_most_65536_reactions() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    writer.append(&[draft("a", "hello"), react(None, 0)]).expect("a commit");
    let many = "UPDATE reaction_counts SET count = 65536";
    writer.connection.execute(many, []).expect("an update");
    let verdicts = writer.append(&[react(Some(identity()), 0), react(None, 0)]).expect("a commit");
    assert_eq!(verdicts, [Verdict::Refused(Refused::TooManyReactions), Verdict::Kept(Seq::new(3))]);
}

#[test]
fn page_for_the_hub_with_very_many_reactions_has_fewer_messages() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    let react = |n| Action::React { target: Seq::new(n), emoji: emoji(0), on: true };
    let mut drafts: Vec<_> = (0..5).map(|n| draft("a", &format!("{n}"))).collect();
    drafts.extend((1..=5).map(|n| draft_of("a", react(n))));
    writer.append(&drafts).expect("a commit");
    let shown = |count| {
        let many = "UPDATE reaction_counts SET count = ?1";
        writer.connection.execute(many, [count]).expect("an update");
        let Messages { messages, reactions, floor, more, .. } = for_hub(&path, 100);
        assert_eq!(reactions.len(), messages.len());
        (texts(&messages).join(" "), floor.get(), more)
    };
    assert_eq!(shown(30_000), ("0 1 2 3 4".to_owned(), 0, false));
    assert_eq!(shown(60_000), ("3 4".to_owned(), 3, true));
    assert_eq!(shown(1_000_000), ("4".to_owned(), 4, true));
}

#[test]
fn changes_beyond_the_resume_buffer_are_forgotten_and_the_floor_says_so() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&Options { resume_buffer: 3, ..options(&path) });
    let mut drafts = vec![draft("a", "hello")];
    drafts.extend((0..10).map(|n| {
        let id = Some(MessageId::parse(&n.to_string()).expect("an id"));
        Draft { id, ..react(Some(identity()), n) }
    }));
    writer.append(&drafts).expect("a commit");
    let before = for_hub(&path, 3);
    prune(&mut writer, Timestamp::now());
    assert_eq!(select_number(&path, "SELECT count(*) FROM changes"), 3);
    let after = for_hub(&path, 100);
    for page in [before, after] {
        let seqs: Vec<_> = page.changes.iter().map(|change| change.seq.get()).collect();
        assert_eq!((seqs, page.floor), (vec![9, 10, 11], Seq::new(8)));
        assert_eq!(page.reactions.len(), 10);
    }
    // Their ids are recognized for a day.
    let repeated = writer.append(&drafts[1..2]).expect("a commit");
    assert_eq!(repeated, [Verdict::Duplicate(Seq::new(2))]);
    let at = later(2 * DAY);
    assert!(writer.append_at(at, vec![]).is_ok());
    prune(&mut writer, at);
    assert_eq!(select_number(&path, "SELECT count(*) FROM change_ids"), 0);
}

#[test]
fn one_pass_deletes_everything_that_is_not_kept() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let options = with_settings(&options(&path), |settings| settings.keep_messages = 1);
    let mut writer = writer(&Options { resume_buffer: 0, ..options });
    let id = |n: usize| Some(MessageId::parse(&format!("id {n}")).expect("an id"));
    for name in ["a", "b"] {
        let topic = Action::Room { topic: Topic::parse("Tea").expect("a topic") };
        let mut drafts: Vec<_> =
            (0..1200).map(|n| Draft { id: id(n), ..draft(name, "hello") }).collect();
        drafts.extend((1200..2400).map(|n| Draft { id: id(n), ..draft_of(name, topic.clone()) }));
        let verdicts = writer.append(&drafts).expect("a commit");
        let target = seq(verdicts[1199]);
        let react = Action::React { target, emoji: emoji(0), on: true };
        writer.append(&vec![draft_of(name, react); 1200]).expect("a commit");
    }
    prune(&mut writer, Timestamp::now());
    let numbers = || {
        ["changes", "messages", "change_ids"]
            .map(|table| select_number(&path, &format!("SELECT count(*) FROM {table}")))
    };
    assert_eq!(numbers(), [0, 2400, 2400]);
    let at = later(2 * DAY);
    assert!(writer.append_at(at, vec![]).is_ok());
    prune(&mut writer, at);
    assert_eq!(numbers(), [0, 2, 0]);
}

#[test]
fn pruned_message_takes_its_reactions_and_edits_along() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&with_settings(&options(&path), |settings| settings.keep_messages = 1));
    let edit = draft_of("a", Action::Edit { target: Seq::new(1), text: text("edited") });
    writer.append(&[draft("a", "hello"), react(None, 0), edit]).expect("a commit");
    writer.append(&[draft("a", "the next")]).expect("a commit");
    prune(&mut writer, Timestamp::now());
    for table in ["reactions", "reaction_counts"] {
        assert_eq!(select_number(&path, &format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    // The floor is below the changes. A reaction is handed out again, an edit has no text.
    assert_eq!(select_number(&path, "SELECT count(*) FROM changes WHERE kind = 'react'"), 1);
    assert_eq!(select_number(&path, "SELECT changes FROM rooms"), 1);
    writer.append(&[draft("a", "another")]).expect("a commit");
    prune(&mut writer, Timestamp::now());
    assert_eq!(select_number(&path, "SELECT count(*) FROM changes"), 0);
    assert_eq!(writer.kept_bytes, 135);
}

#[test]
fn topic_survives_a_restart_and_the_pruning_of_messages() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let options = with_settings(&options(&path), |settings| settings.keep_messages = 0);
    let mut first = writer(&options);
    let topic =
        |words| draft_of("a", Action::Room { topic: Topic::parse(words).expect("a topic") });
    let drafts = [topic("Which tea?"), topic("Which coffee?"), draft("a", "gone")];
    first.append(&drafts).expect("a commit");
    prune(&mut first, Timestamp::now());
    drop(first);
    let mut second = writer(&options);
    let page = for_hub(&path, 100);
    assert_eq!((page.topic.as_str(), page.changes.len()), ("Which coffee?", 0));
    second.append(&[topic("")]).expect("a commit");
    let page = for_hub(&path, 100);
    assert!(page.topic.is_empty());
    assert_eq!(page.changes[0].kind, ChangeKind::Room { topic: Topic::default() });
}

/// Returns the files in a folder that contain some bytes.
fn files_with(folder: &Path, bytes: &str) -> Vec<String> {
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let contains = |path: &Path| {
        let content = fs::read(path).expect("a file");
        content.windows(bytes.len()).any(|window| window == bytes.as_bytes())
    };
    let found = files.filter(|file| contains(&file.path()));
    found.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn deleted_and_edited_text_is_in_no_file_after_a_checkpoint() {
    let folder = folder();
    let path = folder.path().join("log.db");
    let mut writer = writer(&options(&path));
    let long = |words: &str| format!("{words} {}", "and so on ".repeat(1000));
    for n in 0..100 {
        writer.append(&[draft("a", &long(&n.to_string())), draft("a", "short")]).expect("a commit");
    }
    let (deleted, edited) = (long("the deleted text"), long("the edited text"));
    let seqs = writer.append(&[draft("a", &deleted), draft("a", &edited)]).expect("a commit");
    for n in 0..100 {
        writer.append(&[draft("a", &long(&n.to_string())), draft("a", "short")]).expect("a commit");
    }
    assert!(writer.truncate_wal().expect("a checkpoint"));
    assert_eq!(files_with(folder.path(), "the deleted text"), ["log.db"]);
    assert_eq!(files_with(folder.path(), "the edited text"), ["log.db"]);
    let [target, target_of_edit] = [seq(seqs[0]), seq(seqs[1])];
    let drafts = [
        draft_of("a", Action::Delete { target }),
        draft_of("a", Action::Edit { target: target_of_edit, text: text("the new text") }),
    ];
    writer.append(&drafts).expect("a commit");
    assert!(writer.checkpoint.removed_text);
    // A reader needs the write-ahead log.
    let reader = Connection::open(&path).expect("a database");
    reader.execute_batch("BEGIN; SELECT count(*) FROM messages").expect("a snapshot");
    assert!(!writer.truncate_wal().expect("no error"));
    reader.execute_batch("COMMIT").expect("the end of the snapshot");
    assert!(writer.truncate_wal().expect("a checkpoint"));

    backup(&path, &folder.path().join("copy.db"), &mut |_, _| {}).expect("a backup");
    for text in ["the deleted text", "the edited text"] {
        assert_eq!(files_with(folder.path(), text), Vec::<String>::new(), "{text}");
    }
    let page = read_all(&path, "a");
    let place = page.messages.iter().find(|message| message.seq == target).expect("the place");
    assert!(place.deleted && place.text.as_str().is_empty());
    assert_eq!(files_with(folder.path(), "the new text").len(), 2);
}

#[test]
fn checkpoint_follows_a_deletion() {
    System::new().block_on(async {
        let folder = folder();
        let path = folder.path().join("log.db");
        let mut writer = writer(&options(&path));
        writer.append(&[draft("a", "the deleted text")]).expect("a commit");
        let writer = writer.start();
        let delete = draft_of("a", Action::Delete { target: Seq::new(1) });
        writer.do_send(crate::log::Append { ticket: 1, drafts: vec![delete] });
        // In tests the writer waits only a moment.
        let began = std::time::Instant::now();
        while !files_with(folder.path(), "the deleted text").is_empty() {
            assert!(began.elapsed() < Duration::from_secs(10), "it is still in a file");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
