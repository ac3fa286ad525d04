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

impl Copy {
    fn new(path: PathBuf, settings: &Settings, prunes: bool) -> Self {
        let options = Options {
            sync: DbSync::Normal,
            settings: settings.clone(),
            resume_buffer: 1000,
            ..options(&path)
        };
        Self { writer: writer(&options), options, prunes }
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
                self.writer = writer(&self.options);
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
        cases: 60,
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
