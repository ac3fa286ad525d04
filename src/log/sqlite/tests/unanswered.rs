//! Tests of commits that return an error although they may have succeeded.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::log::sqlite::writer::Failpoint;
use crate::log::{Append, Follow, Follower, FromLog, Own, Probe};

/// Receives what the log hands out.
struct Hub(UnboundedSender<FromLog>);

impl Actor for Hub {
    type Context = Context<Self>;
}

impl Handler<FromLog> for Hub {
    type Result = ();

    fn handle(&mut self, from_log: FromLog, _: &mut Self::Context) {
        self.0.send(from_log).expect("the test is running");
    }
}

/// Starts a writer whose next commit fails, and sends it an append.
fn start(options: &Options, failpoint: Failpoint) -> (Addr<Writer>, UnboundedReceiver<FromLog>) {
    let mut writer = writer(options);
    append_numbers(&mut writer, "a", 0..1);
    writer.failpoint = Some(failpoint);
    let (sender, receiver) = unbounded_channel();
    let writer = writer.start();
    writer.do_send(Follow(Follower::new(Hub(sender).start().recipient())));
    let drafts = vec![draft_with_id("a", "first", "1"), draft_with_id("b", "second", "2")];
    writer.do_send(Append { ticket: 7, drafts });
    (writer, receiver)
}

async fn next(receiver: &mut UnboundedReceiver<FromLog>) -> FromLog {
    let next = tokio::time::timeout(Duration::from_secs(10), receiver.recv());
    next.await.expect("in time").expect("the hub is running")
}

/// Repeats the append. Returns the outcome for each draft.
async fn repeat(
    writer: &Addr<Writer>,
    receiver: &mut UnboundedReceiver<FromLog>,
) -> (Vec<Verdict>, Seq) {
    let drafts = vec![draft_with_id("a", "first", "1"), draft_with_id("b", "second", "2")];
    writer.do_send(Append { ticket: 8, drafts });
    let answer = next(receiver).await;
    let FromLog::Committed { head, own: Some(Own { ticket: 8, placed }), .. } = answer else {
        panic!("{answer:?}");
    };
    (placed, head)
}

#[test]
fn append_that_was_committed_despite_an_error_is_answered_as_committed() {
    System::new().block_on(async {
        let folder = folder();
        let path = folder.path().join("log.db");
        let (writer, mut receiver) = start(&options(&path), Failpoint::AfterCommit);
        assert!(matches!(next(&mut receiver).await, FromLog::Stalled(true)));
        let FromLog::Committed { entries, head, own, .. } = next(&mut receiver).await else {
            panic!("not committed");
        };
        let seqs = [Seq::new(2), Seq::new(3)];
        assert_eq!(entries.iter().map(crate::domain::Entry::seq).collect::<Vec<_>>(), seqs);
        let placed = seqs.map(Verdict::Kept).to_vec();
        assert_eq!((head, own), (Seq::new(3), Some(Own { ticket: 7, placed })));
        assert!(matches!(next(&mut receiver).await, FromLog::Stalled(false)));
        let repeated = repeat(&writer, &mut receiver).await;
        assert_eq!(repeated, (seqs.map(Verdict::Duplicate).to_vec(), Seq::new(3)));
        assert_eq!(texts(&read_all(&path, "a").messages), ["0", "first"]);
        // Another commit has overwritten the one that failed in the write-ahead log.
        assert!(select_number(&path, "SELECT value FROM meta WHERE name = 'settled'") > 0);
    });
}

#[test]
fn append_that_was_not_committed_is_rejected_and_can_be_repeated() {
    System::new().block_on(async {
        let folder = folder();
        let path = folder.path().join("log.db");
        let (writer, mut receiver) = start(&options(&path), Failpoint::BeforeCommit);
        assert!(matches!(next(&mut receiver).await, FromLog::Stalled(true)));
        let answer = next(&mut receiver).await;
        assert!(
            matches!(answer, FromLog::Rejected { ticket: 7, error: LogError::Busy(_) }),
            "{answer:?}"
        );
        assert!(matches!(next(&mut receiver).await, FromLog::Stalled(false)));
        assert_eq!(texts(&read_all(&path, "a").messages), ["0"]);
        assert!(select_number(&path, "SELECT value FROM meta WHERE name = 'settled'") > 0);
        let placed = [Seq::new(2), Seq::new(3)].map(Verdict::Kept).to_vec();
        assert_eq!(repeat(&writer, &mut receiver).await, (placed, Seq::new(3)));
    });
}

#[test]
fn append_stays_unanswered_while_the_file_cannot_be_opened() {
    System::new().block_on(async {
        let folder = folder();
        let (path, away) = (folder.path().join("log.db"), folder.path().join("away"));
        let (writer, mut receiver) = start(&options(&path), Failpoint::AfterCommit);
        assert!(matches!(next(&mut receiver).await, FromLog::Stalled(true)));
        fs::rename(&path, &away).expect("a file");
        let probe = writer.send(Probe).await.expect("the writer is running");
        assert!(probe.is_err(), "{probe:?}");
        writer.do_send(Append { ticket: 8, drafts: vec![draft("a", "meanwhile")] });
        let answer = next(&mut receiver).await;
        assert!(matches!(answer, FromLog::Rejected { ticket: 8, .. }), "{answer:?}");
        let early = tokio::time::timeout(Duration::from_millis(600), receiver.recv()).await;
        assert!(early.is_err(), "{early:?}");
        fs::rename(&away, &path).expect("a file");
        let answer = next(&mut receiver).await;
        assert!(matches!(answer, FromLog::Committed { own: Some(Own { ticket: 7, .. }), .. }));
        assert!(matches!(next(&mut receiver).await, FromLog::Stalled(false)));
        assert!(writer.send(Probe).await.expect("the writer is running").is_ok());
        assert_eq!(texts(&read_all(&path, "a").messages), ["0", "first"]);
    });
}

#[test]
fn append_is_answered_before_the_journal_closes() {
    System::new().block_on(async {
        let folder = folder();
        let path = folder.path().join("log.db");
        let (writer, mut receiver) = start(&options(&path), Failpoint::AfterCommit);
        writer.send(Close).await.expect("the writer is running");
        assert!(matches!(next(&mut receiver).await, FromLog::Stalled(true)));
        assert!(matches!(next(&mut receiver).await, FromLog::Committed { .. }));
        assert!(matches!(next(&mut receiver).await, FromLog::Stalled(false)));
        assert!(matches!(next(&mut receiver).await, FromLog::Died));
    });
}

#[test]
fn append_that_fails_before_its_commit_is_rejected_at_once() {
    System::new().block_on(async {
        let folder = folder();
        let path = folder.path().join("log.db");
        let mut writer = writer(&options(&path));
        writer.connection.pragma_update(None, "query_only", true).expect("a pragma");
        let (sender, mut receiver) = unbounded_channel();
        writer.follower = Some(Follower::new(Hub(sender).start().recipient()));
        writer.start().do_send(Append { ticket: 3, drafts: vec![draft("a", "lost")] });
        let answer = next(&mut receiver).await;
        assert!(matches!(answer, FromLog::Rejected { ticket: 3, .. }), "{answer:?}");
    });
}
