//! Tests of the replica. The property tests compare it with [`Model`], which keeps a plain list.

mod model;

use std::fmt::Debug;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::{
    ClientId, Emoji, Identity, MessageId, MessageText, Nick, Right, SettingsChange, Topic,
};
use crate::log::{Messages, Range, Reader};
use model::Model;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The time of the first append.
pub(in crate::log) const START: u64 = 1000 * DAY;

pub(in crate::log) const ROOMS: [&str; 3] = ["a", "b", "c"];

pub(in crate::log) fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a room")
}

fn identity(n: u8) -> Identity {
    Identity::of_key(&format!("the key of author {n}")).expect("a key")
}

fn text(text: &str) -> MessageText {
    MessageText::parse(text, usize::MAX).expect("a text")
}

fn emoji(n: usize) -> Emoji {
    let emoji = emojis::iter().nth(n).expect("there are many");
    Emoji::parse(emoji.as_str()).expect("an emoji")
}

fn draft(name: &str, author: Option<u8>, action: Action) -> Draft {
    let nick = author.map_or("server".into(), |n| format!("author {n}"));
    Draft {
        room: room(name),
        author: author.map(identity),
        nick: Nick::parse(&nick).expect("a name"),
        id: None,
        right: Right::Member,
        action,
    }
}

fn with_id(draft: Draft, id: &str) -> Draft {
    Draft { id: Some(MessageId::parse(id).expect("an id")), ..draft }
}

fn say(name: &str, author: u8, what: &str) -> Draft {
    let action = Action::Message { text: text(what), attributed: false, reply_to: None };
    draft(name, Some(author), action)
}

fn reply(name: &str, target: u64) -> Draft {
    let reply_to = Some(Seq::new(target));
    let action = Action::Message { text: text("a reply"), attributed: false, reply_to };
    draft(name, Some(0), action)
}

fn edit(name: &str, author: u8, target: u64, what: &str) -> Draft {
    draft(name, Some(author), Action::Edit { target: Seq::new(target), text: text(what) })
}

fn delete(name: &str, author: u8, target: u64) -> Draft {
    draft(name, Some(author), Action::Delete { target: Seq::new(target) })
}

fn react(name: &str, author: u8, target: u64, emoji_number: usize, on: bool) -> Draft {
    let (target, emoji) = (Seq::new(target), emoji(emoji_number));
    draft(name, Some(author), Action::React { target, emoji, on })
}

fn set_topic(name: &str, topic: &str) -> Draft {
    draft(name, Some(0), Action::Room { topic: Topic::parse(topic).expect("a topic") })
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

fn apply(replica: &mut Replica, millis: u64, drafts: &[Draft]) -> Vec<Verdict> {
    replica.apply(at(millis), drafts.to_vec()).1
}

fn kept(seq: u64) -> Verdict {
    Verdict::Kept(Seq::new(seq))
}

fn latest(replica: &Replica, name: &str) -> Messages {
    let reader = Reader::Client(identity(0));
    replica.page(&room(name), Seq::MAX, Range::Latest, reader, usize::MAX, usize::MAX)
}

fn for_hub(replica: &Replica, name: &str) -> Messages {
    replica.page(&room(name), Seq::MAX, Range::Latest, Reader::Hub, 100, usize::MAX)
}

fn seqs(page: &Messages) -> Vec<u64> {
    page.messages.iter().map(|message| message.seq.get()).collect()
}

fn change_seqs(page: &Messages) -> Vec<u64> {
    page.changes.iter().map(|change| change.seq.get()).collect()
}

/// Returns the debug text of a value, with the bytes of identities, which `Debug` hides.
fn shown(value: &impl Debug, identities: impl IntoIterator<Item = Option<Identity>>) -> String {
    let bytes: Vec<_> =
        identities.into_iter().map(|identity| identity.map(|it| *it.as_bytes())).collect();
    format!("{value:?} by {bytes:?}")
}

pub(in crate::log) fn shown_entry(entry: &Entry) -> String {
    let author = match entry {
        Entry::Message(message) => message.author,
        Entry::Change(change) => change.author,
        Entry::Settings(_) => None,
    };
    shown(entry, [author])
}

pub(in crate::log) fn shown_page(page: &Messages) -> String {
    let messages = page.messages.iter().map(|message| message.author);
    let changes = page.changes.iter().map(|change| change.author);
    let reactions = page.reactions.iter().map(|reaction| reaction.author);
    shown(page, messages.chain(changes).chain(reactions))
}

/// What a draft in a property test does. `back` selects the target: see [`PlannedDraft::target`].
#[derive(Clone, Debug)]
pub(in crate::log) enum DraftKind {
    Say { length: usize, reply: Option<u64> },
    Edit { back: u64, length: usize },
    Delete { back: u64 },
    React { back: u64, emoji: usize, on: bool },
    Topic(u8),
}

#[derive(Clone, Debug)]
pub(in crate::log) struct PlannedDraft {
    room: usize,
    author: Option<u8>,
    id: Option<u8>,
    grant: bool,
    kind: DraftKind,
}

/// A page to read after a step.
#[derive(Clone, Debug)]
pub(in crate::log) struct Question {
    before: u64,
    range: u8,
    around: u64,
    reader: Option<u8>,
    pub(in crate::log) limit: usize,
    pub(in crate::log) max_bytes: usize,
}

#[derive(Clone, Debug)]
pub(in crate::log) enum Step {
    Append { later: i64, drafts: Vec<PlannedDraft>, question: Question },
    Settings { later: i64, settings: Settings },
}

fn draft_kind() -> impl Strategy<Value = DraftKind> {
    let back = || 0..14u64;
    let length = || prop_oneof![3 => 1..40usize, 1 => 90..110usize, 1 => 300..400usize];
    prop_oneof![
        6 => (length(), proptest::option::weighted(0.4, back()))
            .prop_map(|(length, reply)| DraftKind::Say { length, reply }),
        3 => (back(), length()).prop_map(|(back, length)| DraftKind::Edit { back, length }),
        2 => back().prop_map(|back| DraftKind::Delete { back }),
        4 => (back(), 0..3usize, proptest::bool::weighted(0.7))
            .prop_map(|(back, emoji, on)| DraftKind::React { back, emoji, on }),
        1 => (0..3u8).prop_map(DraftKind::Topic),
    ]
}

fn planned_draft() -> impl Strategy<Value = PlannedDraft> {
    let author = proptest::option::weighted(0.9, 0..3u8);
    let id = proptest::option::of(0..4u8);
    (0..ROOMS.len(), author, id, proptest::bool::weighted(0.2), draft_kind())
        .prop_map(|(room, author, id, grant, kind)| PlannedDraft { room, author, id, grant, kind })
}

fn question() -> impl Strategy<Value = Question> {
    let reader = proptest::option::of(0..3u8);
    let before = prop_oneof![2 => Just(0), 1 => 0..20u64];
    let max_bytes = prop_oneof![1 => 0..200usize, 1 => Just(usize::MAX)];
    (before, 0..3u8, 0..20u64, reader, 0..6usize, max_bytes).prop_map(
        |(before, range, around, reader, limit, max_bytes)| Question {
            before,
            range,
            around,
            reader,
            limit,
            max_bytes,
        },
    )
}

pub(in crate::log) fn settings() -> impl Strategy<Value = Settings> {
    let millis = |millis: u64| Some(Duration::from_millis(millis));
    let keep_messages = prop_oneof![1 => Just(u64::MAX), 3 => 1..7u64, 1 => Just(0)];
    let keep_bytes = proptest::option::of(200..2500u64);
    let keep_for = prop_oneof![Just(None), Just(millis(HOUR))];
    let edit_window = prop_oneof![Just(None), Just(millis(10 * MINUTE))];
    (keep_messages, keep_bytes, keep_for, proptest::bool::weighted(0.8), edit_window).prop_map(
        |(keep_messages, keep_bytes, keep_for, edits, edit_window)| Settings {
            rules: Settings::RULES,
            keep_messages,
            keep_bytes,
            keep_for,
            edits,
            edit_window,
        },
    )
}

/// Returns how much later the next step is, in milliseconds. Sometimes the clock is set back.
fn later(back: u32) -> impl Strategy<Value = i64> {
    let hours = |hours: i64| hours * 60 * 60 * 1000;
    prop_oneof![
        20 => Just(0),
        20 => 1..2000i64,
        15 => Just(10 * 60 * 1000),
        5 => Just(hours(1)),
        3 => (hours(1)..hours(48)).boxed(),
        2 => Just(hours(24)),
        back => Just(-1),
        back => Just(hours(-1)),
        back => Just(hours(-30)),
    ]
}

fn append(back: u32) -> impl Strategy<Value = Step> {
    (later(back), proptest::collection::vec(planned_draft(), 0..5), question())
        .prop_map(|(later, drafts, question)| Step::Append { later, drafts, question })
}

pub(in crate::log) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let settings =
        (later(1), settings()).prop_map(|(later, to)| Step::Settings { later, settings: to });
    proptest::collection::vec(prop_oneof![12 => append(1), 1 => settings], 1..40)
}

impl PlannedDraft {
    /// Returns one of the last six messages of the room, or else any sequence number up to two
    /// after the head. Its entry may be in the same append or in another room, be a change, or not
    /// exist.
    fn target(&self, replica: &Replica, back: u64) -> Seq {
        let last = seqs(&latest(replica, ROOMS[self.room]));
        let target = last.iter().rev().nth(back as usize).filter(|_| back < 6);
        Seq::new(target.map_or((replica.head().get() + 8).saturating_sub(back), |seq| *seq))
    }

    pub(in crate::log) fn draft(&self, replica: &Replica, n: usize) -> Draft {
        let target = |back: u64| self.target(replica, back);
        let text = |length| text(&format!("{n}:{}", "ä".repeat(length)));
        let action = match &self.kind {
            DraftKind::Say { length, reply } => Action::Message {
                text: text(*length),
                attributed: n.is_multiple_of(2),
                reply_to: reply.map(target),
            },
            DraftKind::Edit { back, length } => {
                Action::Edit { target: target(*back), text: text(*length) }
            }
            DraftKind::Delete { back } => Action::Delete { target: target(*back) },
            DraftKind::React { back, emoji: n, on } => {
                Action::React { target: target(*back), emoji: emoji(*n), on: *on }
            }
            DraftKind::Topic(n) => {
                let topic = ["", "Which tea?", "Which coffee?"][usize::from(*n)];
                Action::Room { topic: Topic::parse(topic).expect("a topic") }
            }
        };
        let id = self.id.map(|id| MessageId::parse(&id.to_string()).expect("an id"));
        let right = if self.grant { Right::Grant } else { Right::Member };
        Draft { id, right, ..draft(ROOMS[self.room], self.author, action) }
    }
}

impl Question {
    /// A question for everything that the hub can ask for.
    pub(in crate::log) const WHOLE: Self = Self {
        before: 0,
        range: 0,
        around: 0,
        reader: None,
        limit: usize::MAX,
        max_bytes: usize::MAX,
    };

    /// Returns before which sequence number to read, which messages, and for whom.
    pub(in crate::log) fn parts(&self, head: Seq) -> (Seq, Range, Reader) {
        let place = |back| Seq::new((head.get() + 1).saturating_sub(back));
        let around = place(self.around);
        let range = [Range::Latest, Range::After(around), Range::Around(around)];
        let reader = self.reader.map_or(Reader::Hub, |n| Reader::Client(identity(n)));
        (place(self.before), range[usize::from(self.range)], reader)
    }

    /// Reads the page from the replica and from the model.
    fn ask(&self, replica: &Replica, model: &Model, name: &RoomName) -> [Messages; 2] {
        let (before, range, reader) = self.parts(replica.head());
        let (limit, max_bytes) = (self.limit, self.max_bytes);
        [
            replica.page(name, before, range, reader, limit, max_bytes),
            model.page(name, before, range, reader, limit, max_bytes),
        ]
    }
}

/// Runs steps in a replica and in the model. Calls `compare` after each.
fn run(
    steps: &[Step],
    initial: &Settings,
    replica: &mut Replica,
    mut compare: impl FnMut(&Replica, &Model, &Question) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut model = Model::new(initial.clone());
    let mut now = START;
    for (n, step) in steps.iter().enumerate() {
        match step {
            Step::Append { later, drafts, question } => {
                now = now.saturating_add_signed(*later);
                let at = Timestamp::from_millis(now);
                let mut drafts: Vec<_> = drafts.iter().map(|said| said.draft(replica, n)).collect();
                drafts.sort_by(|a, b| a.room.cmp(&b.room));
                let (entries, verdicts) = replica.apply(at, drafts.clone());
                let (expected_entries, expected_verdicts) = model.apply(at, drafts);
                prop_assert_eq!(verdicts, expected_verdicts);
                let entries: Vec<_> = entries.iter().map(shown_entry).collect();
                let expected: Vec<_> = expected_entries.iter().map(shown_entry).collect();
                prop_assert_eq!(entries, expected);
                compare(replica, &model, question)?;
            }
            Step::Settings { later, settings } => {
                now = now.saturating_add_signed(*later);
                let at = Timestamp::from_millis(now);
                let entry = replica.apply_settings(at, settings.clone());
                model.apply_settings(at, settings.clone());
                let expected = SettingsChange { seq: model.head(), at, settings: settings.clone() };
                let expected = Entry::Settings(Arc::new(expected));
                prop_assert_eq!(shown_entry(&entry), shown_entry(&expected));
            }
        }
        compare(replica, &model, &Question::WHOLE)?;
    }
    Ok(())
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn replica_decides_and_answers_like_a_plain_list(steps in steps(), settings in settings()) {
        let mut replica = Replica::new(settings.clone());
        run(&steps, &settings, &mut replica, |replica, model, question| {
            prop_assert_eq!(replica.index.bytes(), model.bytes());
            for name in ROOMS {
                let [page, expected] = question.ask(replica, model, &room(name));
                prop_assert_eq!(shown_page(&page), shown_page(&expected), "{:?}", question);
            }
            Ok(())
        })?;
    }

    /// With bounds of changes and rooms, pages may leave out changes and topics. Their floor is
    /// then higher.
    #[test]
    fn bounded_replica_decides_the_same_and_its_floor_covers_what_it_has_forgotten(
        steps in steps(),
        settings in settings(),
        changes in 0..4usize,
        rooms in 0..2usize,
    ) {
        let bounds =
            Bounds { changes_per_room: changes, changes: 2 * changes, ids: usize::MAX, rooms };
        let mut replica = Replica::bounded(settings.clone(), bounds);
        run(&steps, &settings, &mut replica, |replica, model, question| {
            prop_assert!(replica.recent.changes.len() <= 2 * changes);
            prop_assert!(replica.rooms.values().filter(|room| room.len() == 0).count() <= rooms);
            for name in ROOMS {
                let [page, expected] = question.ask(replica, model, &room(name));
                prop_assert!(page.floor >= expected.floor);
                let is_after_floor = |seq: u64| seq > page.floor.get();
                let mut missing = change_seqs(&expected);
                missing.retain(|seq| !change_seqs(&page).contains(seq));
                prop_assert!(!missing.into_iter().any(is_after_floor));
                let comparable = |page: Messages| Messages {
                    floor: Seq::default(),
                    changes: Vec::new(),
                    topic: Topic::default(),
                    ..page
                };
                prop_assert!(page.topic == expected.topic || page.topic.is_empty());
                prop_assert_eq!(
                    shown_page(&comparable(page)),
                    shown_page(&comparable(expected))
                );
            }
            Ok(())
        })?;
    }

    /// An append without drafts has no effect on later appends, unless the clock is set back: it
    /// prunes earlier what the next append would prune.
    #[test]
    fn reading_and_pruning_in_between_change_no_verdict(
        appends in proptest::collection::vec((append(0), 0..HOUR), 1..40),
        settings in settings(),
    ) {
        let (mut replica, mut other) =
            (Replica::new(settings.clone()), Replica::new(settings));
        let mut now = START;
        for (n, (step, early)) in appends.iter().enumerate() {
            let Step::Append { later, drafts, .. } = step else { continue };
            let then = now.saturating_add_signed(*later);
            other.apply(Timestamp::from_millis((now + early).min(then)), Vec::new());
            for name in ROOMS {
                latest(&other, name);
                for_hub(&other, name);
            }
            now = then;
            let drafts: Vec<_> = drafts.iter().map(|said| said.draft(&replica, n)).collect();
            let verdicts = replica.apply(Timestamp::from_millis(now), drafts.clone()).1;
            prop_assert_eq!(other.apply(Timestamp::from_millis(now), drafts).1, verdicts);
            for name in ROOMS {
                let pages = [for_hub(&replica, name), for_hub(&other, name)];
                let [page, expected] = pages.map(|page| shown_page(&page));
                prop_assert_eq!(page, expected);
            }
        }
    }
}

#[test]
fn repeated_message_is_a_duplicate_only_in_its_room() {
    let mut replica = Replica::new(Settings::default());
    let drafts = [
        with_id(say("a", 0, "hello"), "x"),
        say("a", 0, "hello"),
        with_id(say("b", 0, "hello"), "x"),
        with_id(say("a", 0, "hello"), "x"),
        with_id(say("a", 1, "hello"), "x"),
    ];
    let duplicate = Verdict::Duplicate(Seq::new(1));
    let verdicts = apply(&mut replica, 0, &drafts);
    assert_eq!(verdicts, [kept(1), kept(2), kept(3), duplicate, kept(4)]);
}

#[test]
fn id_of_a_pruned_message_is_recognized_for_a_day() {
    let settings = Settings { keep_messages: 1, ..Settings::default() };
    let mut replica = Replica::new(settings);
    let repeated = with_id(say("a", 0, "hello"), "x");
    apply(&mut replica, 0, &[repeated.clone(), say("a", 1, "the only one that is kept")]);
    let duplicate = Verdict::Duplicate(Seq::new(1));
    assert_eq!(apply(&mut replica, DAY - 1, std::slice::from_ref(&repeated)), [duplicate]);
    assert_eq!(apply(&mut replica, DAY, std::slice::from_ref(&repeated)), [kept(3)]);
    // It is kept in this replica, so its id is recognized at any age.
    let duplicate = Verdict::Duplicate(Seq::new(3));
    assert_eq!(apply(&mut replica, 9 * DAY, &[repeated]), [duplicate]);
}

#[test]
fn forgotten_id_is_not_recognized_again_when_the_clock_is_set_back() {
    let mut replica = Replica::new(Settings { keep_messages: 1, ..Settings::default() });
    let repeated = with_id(say("a", 0, "hello"), "x");
    apply(&mut replica, 0, &[repeated.clone(), say("a", 1, "the only one that is kept")]);
    apply(&mut replica, DAY, &[]);
    assert_eq!(apply(&mut replica, 0, &[repeated]), [kept(3)]);
}

#[test]
fn change_with_an_id_is_a_duplicate_for_a_day() {
    let mut replica = Replica::new(Settings::default());
    let repeated = with_id(edit("a", 0, 1, "edited"), "x");
    let drafts = [say("a", 0, "hello"), repeated.clone()];
    assert_eq!(apply(&mut replica, 0, &drafts), [kept(1), kept(2)]);
    let duplicate = Verdict::Duplicate(Seq::new(2));
    assert_eq!(apply(&mut replica, DAY - 1, std::slice::from_ref(&repeated)), [duplicate]);
    assert_eq!(apply(&mut replica, DAY, &[repeated]), [kept(3)]);
}

#[test]
fn messages_dated_in_the_future_do_not_keep_expired_ones() {
    let keep_for = Some(Duration::from_secs(60 * 60));
    let mut replica = Replica::new(Settings { keep_for, ..Settings::default() });
    apply(&mut replica, 300 * DAY, &[say("a", 0, "the clock is ahead")]);
    apply(&mut replica, 0, &[say("a", 0, "the clock is right")]);
    apply(&mut replica, HOUR, &[say("a", 0, "later")]);
    assert_eq!(seqs(&latest(&replica, "a")), [1, 2, 3]);
    apply(&mut replica, HOUR + 1, &[]);
    assert_eq!(seqs(&latest(&replica, "a")), [3]);
    assert_eq!(latest(&replica, "a").floor, Seq::new(2));
}

#[test]
fn bytes_are_pruned_from_the_largest_room_first_by_name() {
    let bytes = 4 * rules::counted_bytes(10, 0);
    let mut replica = Replica::new(Settings { keep_bytes: Some(bytes), ..Settings::default() });
    let said = |name| say(name, 0, "ten bytes.");
    apply(&mut replica, 0, &[said("a"), said("b"), said("b"), said("c")]);
    apply(&mut replica, 0, &[said("c")]);
    // Rooms `b` and `c` were equally large.
    assert_eq!(seqs(&latest(&replica, "b")), [3]);
    assert_eq!(seqs(&latest(&replica, "c")), [4, 5]);
    // A reaction counts, too.
    apply(&mut replica, 0, &[react("a", 1, 1, 0, true)]);
    assert_eq!(seqs(&latest(&replica, "c")), [5]);
    apply(&mut replica, 0, &[say("d", 0, &"x".repeat(4 * 138))]);
    assert_eq!(seqs(&latest(&replica, "d")), [0; 0], "it does not fit");
    assert_eq!(seqs(&latest(&replica, "a")), [1]);
}

#[test]
fn message_has_at_most_20_different_emoji() {
    let mut replica = Replica::new(Settings::default());
    apply(&mut replica, 0, &[say("a", 0, "hello")]);
    let reactions: Vec<_> = (0..21).map(|n| react("a", 1, 1, n, true)).collect();
    let verdicts = apply(&mut replica, 0, &reactions);
    let refused = Verdict::Refused(Refused::TooManyReactions);
    assert_eq!((verdicts[19], verdicts[20]), (kept(21), refused));
    // Another author may add an emoji that the message has. Removing one that it does not have is
    // permitted, too.
    let more = [react("a", 2, 1, 5, true), react("a", 1, 1, 5, true), react("a", 1, 1, 20, false)];
    assert_eq!(apply(&mut replica, 0, &more), [kept(22), kept(23), kept(24)]);
    let replacement = [react("a", 1, 1, 0, false), react("a", 1, 1, 20, true)];
    assert_eq!(apply(&mut replica, 0, &replacement), [kept(25), kept(26)]);
}

#[test]
fn message_has_at_most_65536_reactions() {
    let mut replica = Replica::new(Settings::default());
    apply(&mut replica, 0, &[say("a", 0, "hello")]);
    let by_new_author = |_| Draft {
        author: Some(Identity::of_client(ClientId::next())),
        ..react("a", 1, 1, 0, true)
    };
    let mut reactions: Vec<_> = (0..65_537).map(by_new_author).collect();
    let repeated = reactions[0].clone();
    reactions.push(repeated);
    let verdicts = apply(&mut replica, 0, &reactions);
    let refused = Verdict::Refused(Refused::TooManyReactions);
    assert_eq!(verdicts[65_535..], [kept(65_537), refused, kept(65_538)]);
    let counts = latest(&replica, "a").counts;
    assert_eq!(counts.iter().map(|count| count.count).collect::<Vec<_>>(), [65_536]);
}

#[test]
fn refusals_are_checked_in_order() {
    let window = Some(Duration::from_secs(60));
    let settings = |edits| Settings { edits, edit_window: window, ..Settings::default() };
    let mut replica = Replica::new(settings(true));
    apply(&mut replica, 0, &[say("a", 0, "hello"), say("a", 0, "deleted"), delete("a", 0, 2)]);
    let verdict = |replica: &mut Replica, millis, draft: Draft| {
        let [verdict] = apply(replica, millis, &[draft])[..] else { panic!("one draft") };
        verdict
    };
    let refused = Verdict::Refused;
    assert_eq!(verdict(&mut replica, 1, edit("a", 1, 9, "new")), refused(Refused::NotFound));
    assert_eq!(verdict(&mut replica, 1, edit("a", 0, 2, "new")), refused(Refused::NotFound));
    assert_eq!(verdict(&mut replica, 1, edit("b", 0, 1, "new")), refused(Refused::NotFound));
    assert_eq!(verdict(&mut replica, MINUTE, edit("a", 0, 1, "new")), kept(4));
    let too_late = MINUTE + 1;
    assert_eq!(verdict(&mut replica, too_late, delete("a", 0, 1)), refused(Refused::TooLate));
    assert_eq!(verdict(&mut replica, too_late, delete("a", 1, 1)), refused(Refused::OtherAuthor));
    replica.apply_settings(at(DAY), settings(false));
    assert_eq!(verdict(&mut replica, DAY, edit("a", 1, 1, "new")), refused(Refused::EditsDisabled));
    let granted = Draft { right: Right::Grant, ..edit("a", 1, 1, "new") };
    assert_eq!(verdict(&mut replica, DAY, granted), kept(6));
    assert_eq!(verdict(&mut replica, DAY, reply("a", 2)), kept(7), "a reply to a deleted message");
    assert_eq!(verdict(&mut replica, DAY, reply("a", 3)), refused(Refused::NotFound), "a change");
}

#[test]
fn replica_does_not_contain_a_deleted_text() {
    let mut replica = Replica::new(Settings::default());
    apply(&mut replica, 0, &[say("a", 0, "secret one"), reply("a", 1), react("a", 1, 1, 0, true)]);
    apply(&mut replica, 0, &[edit("a", 0, 1, "secret two"), reply("a", 1)]);
    let memory = |replica: &Replica| {
        let room = &replica.rooms[&room("a")];
        let messages: Vec<_> = room.messages().iter().map(|stored| &stored.message).collect();
        format!("{messages:?} {:?}", room.changes())
    };
    assert!(memory(&replica).contains("secret one") && memory(&replica).contains("secret two"));
    apply(&mut replica, 0, &[delete("a", 0, 1)]);
    assert!(!memory(&replica).contains("secret"), "{}", memory(&replica));
    assert_eq!(latest(&replica, "a").counts, []);
    assert_eq!(replica.index.bytes(), 2 * rules::counted_bytes(7, 0) + rules::MESSAGE_BYTES);
}

#[test]
fn quote_follows_its_message_until_that_is_pruned() {
    let mut replica = Replica::new(Settings { keep_messages: 2, ..Settings::default() });
    apply(&mut replica, 0, &[say("a", 0, "first text"), reply("a", 1)]);
    let quote = |replica: &Replica| {
        let page = latest(replica, "a");
        let reply = page.messages.into_iter().find(|message| message.seq == Seq::new(2));
        reply.expect("it is kept").quote.as_ref().map(|quote| quote.text.to_string())
    };
    assert_eq!(quote(&replica).as_deref(), Some("first text"));
    apply(&mut replica, 0, &[edit("a", 0, 1, "second text")]);
    assert_eq!(quote(&replica).as_deref(), Some("second text"));
    apply(&mut replica, 0, &[say("a", 0, "the first one is pruned")]);
    assert_eq!(quote(&replica), None);
}

#[test]
fn page_for_the_hub_leaves_out_edits_without_effect() {
    let mut replica = Replica::new(Settings { keep_messages: 3, ..Settings::default() });
    let said = [say("a", 0, "one"), say("a", 0, "two"), say("a", 0, "three")];
    apply(&mut replica, 0, &said);
    let changed = [
        edit("a", 0, 2, "superseded"),
        edit("a", 0, 2, "final"),
        edit("a", 0, 3, "deleted later"),
        delete("a", 0, 3),
        edit("a", 0, 1, "pruned later"),
        set_topic("a", "superseded"),
        set_topic("a", "tea"),
    ];
    apply(&mut replica, 0, &changed);
    assert_eq!(change_seqs(&for_hub(&replica, "a")), [5, 7, 8, 10]);
    apply(&mut replica, 0, &[say("a", 0, "four")]);
    let page = for_hub(&replica, "a");
    assert_eq!((change_seqs(&page), page.floor), (vec![5, 7, 10], Seq::new(1)));
    // Changes that are left out because of the limit raise the floor.
    let page = replica.page(&room("a"), Seq::MAX, Range::Latest, Reader::Hub, 2, usize::MAX);
    assert_eq!((change_seqs(&page), seqs(&page)), (vec![7, 10], vec![3, 11]));
    assert_eq!(page.floor, Seq::new(5));
}

#[test]
fn bounded_replica_forgets_the_oldest() {
    let settings = Settings { keep_messages: 1, ..Settings::default() };
    let bounds = Bounds { changes_per_room: 2, changes: 3, ids: 2, rooms: 1 };
    let mut replica = Replica::bounded(settings, bounds);
    let ids = ["w", "x", "y", "z"].map(|id| with_id(say("a", 0, "hello"), id));
    apply(&mut replica, 0, &ids);
    // The last one is kept, and two more ids are remembered.
    let verdicts = apply(&mut replica, 0, &ids[1..]);
    assert_eq!(verdicts, [2, 3, 4].map(|seq| Verdict::Duplicate(Seq::new(seq))));
    assert_eq!(apply(&mut replica, 0, &ids[..1]), [kept(5)]);
    // Of the rooms without messages only the last one is remembered.
    apply(&mut replica, 0, &[set_topic("b", "bees"), set_topic("c", "cats")]);
    assert_eq!(latest(&replica, "b").topic.as_str(), "");
    assert_eq!(latest(&replica, "c").topic.as_str(), "cats");
    assert_eq!(latest(&replica, "b").floor, Seq::new(6));
    // Four reactions, of which a room remembers two.
    let reactions: Vec<_> = (0..4).map(|n| react("a", 0, 5, n, true)).collect();
    apply(&mut replica, 0, &reactions);
    assert_eq!(change_seqs(&for_hub(&replica, "a")), [10, 11]);
    assert_eq!(for_hub(&replica, "a").floor, Seq::new(9));
    assert_eq!(for_hub(&replica, "a").reactions.len(), 4);
    assert_eq!(replica.recent.changes.len(), 3);
}
