//! Compares the journal with the replica in memory, which follows the same rules.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::log::replica::Replica;
use crate::log::replica::tests::{
    Question, ROOMS, START, Step, settings, shown_entry, shown_page, steps,
};

/// A writer of its own file.
struct Copy {
    writer: Writer,
    options: Options,
    /// Whether what was pruned is deleted from the file after each step.
    prunes: bool,
}

/// Opens a writer that does not wait for the disk.
fn fast_writer(options: &Options) -> Writer {
    let writer = writer(options);
    writer.connection.pragma_update(None, "synchronous", "off").expect("a pragma");
    writer
}

impl Copy {
    fn new(path: PathBuf, settings: &Settings, prunes: bool) -> Self {
        let options = Options {
            sync: DbSync::Normal,
            settings: settings.clone(),
            resume_buffer: 1000,
            ..options(&path)
        };
        Self { writer: fast_writer(&options), options, prunes }
    }

    /// Appends, and then perhaps prunes and reopens the file.
    fn step(&mut self, n: usize, at: Timestamp, step: Result<Vec<Draft>, Settings>) -> Applied {
        let applied = match step {
            Ok(drafts) => *self.writer.append_at(at, drafts).map_err(|_| ()).expect("a commit"),
            Err(settings) => {
                self.options.settings = settings.clone();
                self.writer.change_settings(at, settings).expect("a commit");
                *self.writer.append_at(at, vec![]).map_err(|_| ()).expect("a commit")
            }
        };
        if self.prunes {
            prune(&mut self.writer, at);
            if n.is_multiple_of(5) {
                self.writer = fast_writer(&self.options);
            }
        }
        let sum: i64 = schema::kept_bytes(&self.writer.connection).expect("a number");
        assert_eq!(self.writer.kept_bytes, sum);
        applied
    }

    fn page(&self, name: &str, question: &Question, head: Seq) -> Messages {
        let (before, range, reader) = question.parts(head);
        let Question { limit, max_bytes, .. } = *question;
        let query = Query { room: room(name), before, range, reader, limit, max_bytes };
        ask(&self.options.path, &query)
    }
}

fn run(steps: &[Step], initial: &Settings) -> Result<(), TestCaseError> {
    let folder = folder();
    let mut replica = Replica::new(initial.clone());
    let mut copies = [("pruned", true), ("not pruned", false)]
        .map(|(name, prunes)| Copy::new(folder.path().join(name), initial, prunes));
    let mut now = START;
    for (n, step) in steps.iter().enumerate() {
        let (Step::Append { later, .. } | Step::Settings { later, .. }) = step;
        now = now.saturating_add_signed(*later);
        let at = Timestamp::from_millis(now);
        let (step, question) = match step {
            Step::Append { drafts, question, .. } => {
                let mut drafts: Vec<_> =
                    drafts.iter().map(|said| said.draft(&replica, n)).collect();
                drafts.sort_by(|a, b| a.room.cmp(&b.room));
                (Ok(drafts), question)
            }
            Step::Settings { settings, .. } => (Err(settings.clone()), &Question::WHOLE),
        };
        let (entries, verdicts) = match step.clone() {
            Ok(drafts) => replica.apply(at, drafts),
            Err(settings) => {
                replica.apply_settings(at, settings);
                replica.apply(at, vec![])
            }
        };
        let entries: Vec<_> = entries.iter().map(shown_entry).collect();
        for copy in &mut copies {
            let applied = copy.step(n, at, step.clone());
            prop_assert_eq!(&applied.verdicts, &verdicts);
            let applied_entries: Vec<_> = applied.entries.iter().map(shown_entry).collect();
            prop_assert_eq!(&applied_entries, &entries);
            prop_assert_eq!(copy.writer.head, replica.head());
            for name in ROOMS {
                for question in [question, &Question::WHOLE] {
                    let (before, range, reader) = question.parts(replica.head());
                    let Question { limit, max_bytes, .. } = *question;
                    let name = &room(name);
                    let expected = replica.page(name, before, range, reader, limit, max_bytes);
                    let page = copy.page(name.as_str(), question, replica.head());
                    prop_assert_eq!(shown_page(&page), shown_page(&expected), "{:?}", question);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn journal_decides_and_answers_like_the_replica_whenever_it_prunes(
        steps in steps(),
        settings in settings(),
    ) {
        run(&steps, &settings)?;
    }
}

#[test]
fn much_lower_limit_of_bytes_prunes_the_same_as_one_message_after_the_other() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..20 {
        let folder = folder();
        let initial = Settings::default();
        let mut copy = Copy::new(folder.path().join("log.db"), &initial, false);
        let mut replica = Replica::new(initial.clone());
        let names: Vec<_> = (0..20).map(|n| format!("room-{n}")).collect();
        let mut drafts = Vec::new();
        for name in &names {
            for _ in 0..random.usize(0..40) {
                drafts.push(draft(name, &"x".repeat(random.usize(1..300))));
            }
        }
        let at = Timestamp::from_millis(START);
        copy.step(0, at, Ok(drafts.clone()));
        replica.apply(at, drafts);
        while copy.writer.kept_bytes > 1000 {
            let kept_bytes = u64::try_from(copy.writer.kept_bytes).expect("not negative");
            let keep_bytes = Some(random.u64(kept_bytes / 3..kept_bytes));
            let settings = Settings { keep_bytes, ..initial.clone() };
            copy.step(0, at, Err(settings.clone()));
            replica.apply_settings(at, settings);
            for name in &names {
                let Question { limit, max_bytes, .. } = Question::WHOLE;
                let (before, range, reader) = Question::WHOLE.parts(replica.head());
                let expected = replica.page(&room(name), before, range, reader, limit, max_bytes);
                let page = copy.page(name, &Question::WHOLE, replica.head());
                assert_eq!(shown_page(&page), shown_page(&expected));
            }
        }
    }
}
