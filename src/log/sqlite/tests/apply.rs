//! A journal as a replica of a shared log: records that come again, crashes between records, and
//! commits with an unknown outcome change nothing.

use proptest::prelude::*;

use super::*;
use crate::log::sqlite::apply::{AppliedRecord, Apply, Begin, Origin, Placed, SEQS_PER_RECORD};
use crate::log::sqlite::writer::Failpoint;

const NANOS: i64 = 1_000_000;
const START: u64 = 1_700_000_000_000;
const HOUR: u64 = 60 * 60 * 1000;

fn replica(path: &Path) -> Options {
    Options { is_replica: true, sync: DbSync::Normal, ..options(path) }
}

fn placed(position: u64, at: u64) -> Placed {
    let time = i64::try_from(at).expect("a time") * NANOS;
    Placed { position, time, hash: [u8::try_from(position % 251).expect("a byte"); 32] }
}

/// Opens a journal at the beginning of a log.
fn begun(options: &Options) -> Writer {
    let mut writer = writer(options);
    let begin = Begin {
        placed: placed(1, START),
        base: Seq::new(1_000_000),
        epoch: Epoch::of("the log"),
        settings: options.settings.clone(),
    };
    writer.begin(begin).expect("a commit");
    writer
}

fn record(position: u64, at: u64, (producer, n): (u8, u64), texts: &[&str]) -> Apply {
    Apply {
        placed: placed(position, at),
        origin: Some(Origin { producer: [producer; 16], n, made: Timestamp::from_millis(at) }),
        drafts: texts.iter().map(|text| draft("a", text)).collect(),
    }
}

fn seqs(applied: Option<Box<crate::log::sqlite::append::Applied>>) -> Option<Vec<u64>> {
    let entries = AppliedRecord::new(*applied?).entries;
    Some(entries.iter().map(|entry| entry.seq().get()).collect())
}

#[test]
fn sequence_number_is_a_function_of_the_place_in_the_log() {
    let folder = folder();
    let options = replica(&folder.path().join("log.db"));
    let mut writer = begun(&options);
    let first = |position: u64| 1_000_000 + position * SEQS_PER_RECORD;
    let applied = writer.apply(record(2, START, (1, 1), &["a", "b"])).expect("a commit");
    assert_eq!(seqs(applied), Some(vec![first(2), first(2) + 1]));
    // A duplicate leaves a gap.
    let mut twice = record(3, START, (1, 2), &["c", "d"]);
    twice.drafts[0] = draft_with_id("a", "same");
    let mut again = record(4, START, (2, 1), &["c", "e"]);
    again.drafts[0] = draft_with_id("a", "same");
    let applied = writer.apply(twice).expect("a commit");
    assert_eq!(seqs(applied), Some(vec![first(3), first(3) + 1]));
    let applied = writer.apply(again).expect("a commit");
    assert_eq!(seqs(applied), Some(vec![first(4) + 1]));
    assert_eq!(writer.head, Seq::new(first(4) + 1));
    // A record out of order is an error.
    assert!(writer.apply(record(6, START, (1, 3), &["f"])).is_err());
}

fn draft_with_id(room: &str, id: &str) -> Draft {
    Draft {
        id: MessageId::parse(id).ok(),
        author: Identity::of_key(KEY).ok(),
        ..draft(room, "a text")
    }
}

#[test]
fn settings_of_the_log_stay_whatever_the_configuration_is() {
    let folder = folder();
    let options = replica(&folder.path().join("log.db"));
    let writer = begun(&options);
    let of_log = writer.settings.clone();
    drop(writer);
    // The log has no messages yet.
    let other = with_settings(&options, |settings| settings.keep_messages = 5);
    let writer = super::writer(&other);
    assert_eq!((&writer.settings, writer.head), (&of_log, Seq::default()));
}

#[test]
fn repetitions_and_late_records_are_skipped() {
    let folder = folder();
    let options = replica(&folder.path().join("log.db"));
    let mut writer = begun(&options);
    let applied = writer.apply(record(2, START, (1, 1), &["a"])).expect("a commit");
    assert!(applied.is_some());
    for (position, origin) in [(3, (1, 1)), (4, (1, 1))] {
        let applied = writer.apply(record(position, START, origin, &["a"])).expect("a commit");
        assert!(applied.is_none(), "a repetition");
    }
    // Number 2 was given up: 3 is seen first.
    assert!(writer.apply(record(5, START, (1, 3), &[])).expect("a commit").is_some());
    assert!(writer.apply(record(6, START, (1, 2), &["late"])).expect("a commit").is_none());
    // A copy that was on the way for a day, whose producer is forgotten.
    let at = START + 25 * HOUR;
    for (position, producer) in (7..).zip(2..8) {
        let record = record(position, at, (producer, 1), &["b"]);
        assert!(writer.apply(record).expect("a commit").is_some());
    }
    let mut late = record(13, at, (1, 1), &["a"]);
    let made = Timestamp::from_millis(START);
    late.origin = Some(Origin { producer: [1; 16], n: 1, made });
    assert!(writer.apply(late).expect("a commit").is_none());
    // The clock of NATS was wrong for a moment.
    let record = record(14, START + HOUR, (8, 1), &["c"]);
    assert!(writer.apply(record).expect("a commit").is_some());
    let texts: Vec<_> =
        read_all(&options.path, "a").messages.iter().map(|it| it.text.clone()).collect();
    assert_eq!(texts.len(), 8);
    assert_eq!((&texts[0], &texts[7]), (&text("a"), &text("c")));
}

#[test]
fn commit_with_an_unknown_outcome_is_handed_out_once() {
    let folder = folder();
    let options = replica(&folder.path().join("log.db"));
    let mut writer = begun(&options);
    for (position, failpoint) in [(2, Failpoint::BeforeCommit), (3, Failpoint::AfterCommit)] {
        writer.failpoint = Some(failpoint);
        let record = || record(position, START, (1, position), &["a"]);
        assert!(writer.apply(record()).is_err());
        let applied = writer.apply(record()).expect("a commit");
        assert_eq!(seqs(applied), Some(vec![1_000_000 + position * SEQS_PER_RECORD]));
        assert!(writer.apply(record()).expect("no error").is_none());
    }
    assert_eq!(read_all(&options.path, "a").messages.len(), 2);
}

#[derive(Clone, Debug)]
struct Step {
    producer: u8,
    /// How much the number of the record differs from the next one of its producer.
    back: u64,
    texts: Vec<String>,
    later: u64,
    /// What happens to one of the journals before the record.
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Crash,
    Fail(Failpoint),
    /// The record is applied twice.
    Repeat,
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Crash),
        1 => Just(Fault::Fail(Failpoint::BeforeCommit)),
        1 => Just(Fault::Fail(Failpoint::AfterCommit)),
        1 => Just(Fault::Repeat),
    ];
    let texts = proptest::collection::vec("[a-c]{1,3}", 0..4);
    (0..3u8, 0..3u64, texts, 0..3 * HOUR, fault).prop_map(
        |(producer, back, texts, later, fault)| Step { producer, back, texts, later, fault },
    )
}

/// Applies records to a journal with faults and to one without. Both must be the same.
fn run(steps: Vec<Step>) {
    let folder = folder();
    let keep = |settings: &mut Settings| {
        (settings.keep_messages, settings.keep_for) = (5, Some(Duration::from_secs(8 * 3600)));
    };
    let options = ["plain.db", "faulty.db"]
        .map(|name| with_settings(&replica(&folder.path().join(name)), keep));
    let [mut plain, mut faulty] = options.each_ref().map(begun);
    let (mut at, mut numbers) = (START, [0u64; 3]);
    let mut handed_out: [Vec<Option<Vec<u64>>>; 2] = Default::default();
    for (position, step) in (2..).zip(steps) {
        at += step.later;
        let number = &mut numbers[usize::from(step.producer)];
        let n = (*number + 1).saturating_sub(step.back).max(1);
        *number = n.max(*number);
        let texts: Vec<_> = step.texts.iter().map(String::as_str).collect();
        let record = || record(position, at, (step.producer, n), &texts);
        handed_out[0].push(seqs(plain.apply(record()).expect("a commit")));
        match step.fault {
            Fault::None => {}
            Fault::Crash => faulty = writer(&options[1]),
            Fault::Fail(failpoint) => {
                faulty.failpoint = Some(failpoint);
                assert!(faulty.apply(record()).is_err());
            }
            Fault::Repeat => {}
        }
        handed_out[1].push(seqs(faulty.apply(record()).expect("a commit")));
        if let Fault::Repeat = step.fault {
            assert!(faulty.apply(record()).expect("no error").is_none());
        }
    }
    assert_eq!(handed_out[0], handed_out[1]);
    let state = |writer: &Writer| (writer.replica.clone_place(), writer.head);
    assert_eq!(state(&plain), state(&faulty));
    let all = |options: &Options| format!("{:?}", read_all(&options.path, "a").messages);
    assert_eq!(all(&options[0]), all(&options[1]));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn faults_do_not_change_what_a_journal_becomes(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        run(steps);
    }
}
