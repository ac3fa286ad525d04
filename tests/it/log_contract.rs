//! The contract between the hub and its log: the hub delivers the entries that the log hands out,
//! in the order of the log, whether the hub has appended them or not.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use chinwag::domain::{
    ClientId, Entry, Epoch, MessageText, Nick, Position, RoomName, SearchQuery, SearchTerms, Seq,
    Settings, SettingsChange, Timestamp,
};
use chinwag::hub::{
    Broadcast, CatchUp, Deliver, Drain, Edit, Hello, History, Join, ListRooms, Register, Search,
};
use chinwag::log::{FromLog, Own, Probe, Verdict};
use chinwag::protocol::{DisconnectReason, Event, HistoryRange};
use chinwag::{Config, Hub};
use tokio::sync::{Semaphore, mpsc};

use crate::fakes::{
    AnswerAppend, AnswerSearches, Die, FakeClient, FakeLog, HandOut, HoldPages, PendingTicket,
    Received, log_of, message,
};
use crate::harness::{eventually, within};

/// A hub with a fake log.
struct Setup {
    hub: Addr<Hub>,
    log: Addr<FakeLog>,
    thread: Arbiter,
    permits: Arc<Semaphore>,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.thread.stop();
    }
}

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

/// Returns a message that another server published.
fn foreign(seq: u64, text: &str) -> Entry {
    let text = MessageText::parse(text, 100).unwrap();
    Entry::Message(Arc::new(message(room("a"), Seq::new(seq), Nick::parse("eve").unwrap(), text)))
}

/// Returns a commit that is not the hub's own.
fn commit(entries: Vec<Entry>) -> HandOut {
    let head = entries.last().unwrap().seq();
    HandOut(FromLog::Committed { entries, head, floors: Vec::new(), own: None })
}

impl Setup {
    fn new(batch_window: Duration) -> Self {
        let (thread, log) = (Arbiter::new(), FakeLog::default().start());
        // With one worker, the time to write to all members does not exceed the window.
        let config = Config { batch_window, workers: 1, ..Config::default() };
        let hub = Hub::start_with_log(&thread, &config, log_of(&log));
        Self { hub, log, thread, permits: Arc::new(Semaphore::new(1000)) }
    }

    /// Registers a client that is a member of room `a`.
    async fn member(&self) -> (ClientId, Addr<FakeClient>) {
        let (client, actor) = self.registered().await;
        let (catch_up, reference) = (CatchUp::Latest(10), None);
        self.hub.send(Join { client, room: room("a"), catch_up, reference }).await.unwrap();
        self.settle().await;
        (client, actor)
    }

    async fn registered(&self) -> (ClientId, Addr<FakeClient>) {
        let (client, actor) = (ClientId::next(), FakeClient::new(100).start());
        let (nick, to) = (Nick::anonymous(client), actor.clone().recipient().into());
        self.hub.send(Register { client, nick, events: true, to }).await.unwrap();
        (client, actor)
    }

    async fn say(&self, client: ClientId, text: &str) {
        let text = MessageText::parse(text, 100).unwrap();
        let permit = Arc::clone(&self.permits).try_acquire_owned().unwrap();
        let (reply_to, id, reference) = (None, None, None);
        let say = Broadcast { client, room: room("a"), text, reply_to, id, reference, permit };
        self.hub.send(say).await.unwrap().unwrap();
    }

    async fn edit(&self, client: ClientId, target: u64, text: &str) {
        let (target, text) = (Seq::new(target), MessageText::parse(text, 100).unwrap());
        let permit = Arc::clone(&self.permits).try_acquire_owned().unwrap();
        let (id, reference) = (None, None);
        let edit = Edit { client, room: room("a"), target, text, id, reference, permit };
        self.hub.send(edit).await.unwrap().unwrap();
    }

    /// Waits until the hub and the log have processed everything that was sent to them.
    async fn settle(&self) {
        for _ in 0..3 {
            within("the hub", self.hub.send(ListRooms)).await.unwrap();
            within("the log", self.log.send(Probe)).await.unwrap().unwrap();
        }
    }

    /// Returns what a client has received since it joined, except the answer to that.
    async fn received(&self, client: &Addr<FakeClient>) -> Vec<String> {
        self.settle().await;
        let received = within("a client", client.send(Received)).await.unwrap();
        received.into_iter().filter(|line| !line.starts_with("joined")).collect()
    }
}

#[actix_web::test]
async fn entries_of_others_are_delivered_in_the_order_of_the_log() {
    let setup = Setup::new(Duration::ZERO);
    let (ada, to_ada) = setup.member().await;
    setup.say(ada, "own").await;
    setup.settle().await;
    let ticket = setup.log.send(PendingTicket).await.unwrap().unwrap();
    // One commit with an entry of another server and the hub's own.
    setup.log.do_send(commit(vec![foreign(1, "one"), foreign(2, "two")]));
    let own = Some(Own { ticket, placed: vec![Verdict::Kept(Seq::new(4))] });
    let entries = vec![foreign(3, "three"), foreign(4, "own")];
    setup.log.do_send(HandOut(FromLog::Committed {
        entries,
        head: Seq::new(4),
        floors: Vec::new(),
        own,
    }));
    let expected = ["a 1 one", "a 2 two", "a 3 three", "a 4 own", "said a 4 new"];
    assert_eq!(setup.received(&to_ada).await, expected);
}

/// Counts deliveries.
struct CountingClient(mpsc::UnboundedSender<usize>);

impl Actor for CountingClient {
    type Context = Context<Self>;
}

impl Handler<Deliver> for CountingClient {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        for batch in deliver.batches() {
            let _ = self.0.send(batch.entries().len());
        }
    }
}

/// Several servers may append to the same room. Its members receive as few deliveries as from one
/// server.
#[actix_web::test]
async fn deliveries_of_a_busy_room_are_paced_whoever_appends() {
    const MEMBERS: usize = 200;
    const COMMITS: u64 = 1000;
    // The wait between two deliveries grows with the members: 200 x 50 µs.
    let setup = Setup::new(Duration::from_secs(1));
    let (counter, mut deliveries) = mpsc::unbounded_channel();
    for n in 0..MEMBERS {
        let client = ClientId::next();
        let nick = Nick::anonymous(client);
        let counter = if n == 0 { counter.clone() } else { mpsc::unbounded_channel().0 };
        let to = CountingClient(counter).start().recipient().into();
        setup.hub.send(Register { client, nick, events: false, to }).await.unwrap();
        let (catch_up, reference) = (CatchUp::Latest(0), None);
        setup.hub.send(Join { client, room: room("a"), catch_up, reference }).await.unwrap();
    }
    let began = std::time::Instant::now();
    for seq in 1..=COMMITS {
        setup.log.do_send(commit(vec![foreign(seq, "x")]));
        if seq % 100 == 0 {
            setup.settle().await;
        }
    }
    let (mut entries, mut count) = (0, 0);
    while entries < COMMITS as usize {
        entries += within("all deliveries", deliveries.recv()).await.unwrap();
        count += 1;
    }
    let most = 2 + began.elapsed().as_millis() / 10;
    assert!(count <= most, "{count} deliveries, at most {most} fit");
}

#[actix_web::test]
async fn new_member_is_at_the_position_up_to_which_its_room_was_delivered() {
    // Another delivery follows 5 ms after the first one.
    let setup = Setup::new(Duration::from_secs(1));
    for _ in 0..100 {
        setup.member().await;
    }
    setup.log.do_send(commit(vec![foreign(1, "delivered")]));
    setup.log.do_send(commit((2..=40).map(|seq| foreign(seq, "held back")).collect()));
    setup.log.send(Probe).await.unwrap().unwrap();
    let (sender, mut answers) = mpsc::unbounded_channel();
    let listener = ClientId::next();
    let to = AnsweredClient(sender).start().recipient().into();
    let nick = Nick::anonymous(listener);
    setup.hub.send(Register { client: listener, nick, events: true, to }).await.unwrap();
    let (catch_up, reference) = (CatchUp::Latest(100), None);
    let join = Join { client: listener, room: room("a"), catch_up, reference };
    setup.hub.send(join).await.unwrap();
    let mut seen = Vec::new();
    let mut position = None;
    while seen.len() < 40 {
        match within("everything", answers.recv()).await.unwrap() {
            Answered::Joined { seq, messages } => {
                assert_eq!(messages.last().copied(), Some(seq));
                seen.extend(messages);
                position = Some(seq);
            }
            Answered::Message(seq) => {
                assert!(
                    position.is_some_and(|position| seq > position),
                    "{seq} after {position:?}"
                );
                seen.push(seq);
            }
        }
    }
    assert_eq!(seen, (1..=40).map(Seq::new).collect::<Vec<_>>());
}

/// Records what a client receives.
enum Answered {
    Joined { seq: Seq, messages: Vec<Seq> },
    Message(Seq),
}

struct AnsweredClient(mpsc::UnboundedSender<Answered>);

impl Actor for AnsweredClient {
    type Context = Context<Self>;
}

impl Handler<Deliver> for AnsweredClient {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        for entry in deliver.batches().iter().flat_map(|batch| batch.entries()) {
            let _ = self.0.send(Answered::Message(entry.seq()));
        }
        if let Deliver::Answer(reply) = deliver
            && let Event::Joined { seq, messages, .. } = reply.event
        {
            let messages = messages.iter().map(|message| message.seq).collect();
            let _ = self.0.send(Answered::Joined { seq, messages });
        }
    }
}

#[actix_web::test]
async fn stalled_log_rejects_new_messages_at_once_and_leaves_the_one_in_flight_unanswered() {
    let setup = Setup::new(Duration::ZERO);
    let (ada, to_ada) = setup.member().await;
    setup.say(ada, "in flight").await;
    setup.say(ada, "waits").await;
    setup.log.do_send(HandOut(FromLog::Stalled(true)));
    assert_eq!(setup.received(&to_ada).await, ["error busy"], "the message that waits");
    setup.say(ada, "new").await;
    assert_eq!(setup.received(&to_ada).await, ["error busy", "error busy"]);
    // The log finds that the append was committed.
    setup.log.do_send(AnswerAppend { success: true });
    setup.log.do_send(HandOut(FromLog::Stalled(false)));
    let expected = ["error busy", "error busy", "a 1 in flight", "said a 1 new"];
    assert_eq!(setup.received(&to_ada).await, expected);
    setup.say(ada, "later").await;
    setup.settle().await;
    setup.log.do_send(AnswerAppend { success: true });
    assert_eq!(setup.received(&to_ada).await[4..], ["a 2 later", "said a 2 new"]);
}

#[actix_web::test]
async fn rejected_append_is_definite_and_the_next_one_follows() {
    let setup = Setup::new(Duration::ZERO);
    let (ada, to_ada) = setup.member().await;
    setup.say(ada, "one").await;
    setup.say(ada, "two").await;
    setup.settle().await;
    setup.log.do_send(AnswerAppend { success: false });
    setup.settle().await;
    setup.log.do_send(AnswerAppend { success: true });
    let expected = ["error busy", "a 1 two", "said a 1 new"];
    assert_eq!(setup.received(&to_ada).await, expected);
}

/// The hub appends at most every 5 ms. A shutdown waits for messages that wait for the next append,
/// before, at and after the time at which it is due.
#[actix_web::test]
async fn drain_waits_for_messages_that_wait_for_the_next_append() {
    for wait in 0..16 {
        let setup = Setup::new(Duration::from_secs(3600));
        let (ada, to_ada) = setup.member().await;
        setup.say(ada, "one").await;
        setup.settle().await;
        setup.log.do_send(AnswerAppend { success: true });
        setup.log.send(Probe).await.unwrap().unwrap();
        setup.say(ada, "two").await;
        // Varies when the shutdown begins. The test passes whatever the actual duration is.
        tokio::time::sleep(Duration::from_micros(500) * wait).await;
        let drained = setup.hub.send(Drain { wait: true }).await.unwrap();
        let second = async || setup.log.send(PendingTicket).await.unwrap() == Some(2);
        eventually("the second append", second).await;
        setup.log.do_send(AnswerAppend { success: true });
        let _ = within("the hub to be drained", drained).await;
        let expected =
            ["a 1 one", "said a 1 new", "a 2 two", "said a 2 new", "close shutting_down"];
        assert_eq!(setup.received(&to_ada).await, expected);
    }
}

#[actix_web::test]
async fn change_that_the_rules_refuse_is_answered_with_its_reason() {
    let setup = Setup::new(Duration::ZERO);
    let ((ada, to_ada), (eve, to_eve)) = (setup.member().await, setup.member().await);
    setup.say(ada, "mine").await;
    setup.settle().await;
    setup.log.do_send(AnswerAppend { success: true });
    setup.settle().await;
    setup.edit(eve, 1, "yours").await;
    setup.edit(eve, 9, "nothing").await;
    setup.edit(ada, 1, "mine again").await;
    for _ in 0..3 {
        setup.settle().await;
        setup.log.do_send(AnswerAppend { success: true });
    }
    // The second and the third edit wait for the first, and are in one append.
    let expected = ["a 1 mine", "error forbidden", "a 2 edits 1 mine again", "error not_found"];
    assert_eq!(setup.received(&to_eve).await, expected);
    let expected = ["a 1 mine", "said a 1 new", "a 2 edits 1 mine again", "said a 2 new"];
    assert_eq!(setup.received(&to_ada).await, expected);
}

/// The log answers with the state at the time of the read. Changes that were delivered since are
/// newer.
#[actix_web::test]
async fn history_that_is_read_while_a_message_is_edited_shows_the_edit() {
    let setup = Setup::new(Duration::ZERO);
    let (ada, to_ada) = setup.member().await;
    setup.say(ada, "before").await;
    setup.settle().await;
    setup.log.do_send(AnswerAppend { success: true });
    setup.settle().await;
    setup.log.do_send(HoldPages(true));
    let (range, limit, reference) = (HistoryRange::After(Seq::default()), 10, None);
    let history = History { client: ada, room: room("a"), range, limit, reference };
    setup.hub.send(history).await.unwrap();
    setup.edit(ada, 1, "after").await;
    setup.settle().await;
    setup.log.do_send(AnswerAppend { success: true });
    setup.settle().await;
    setup.log.do_send(HoldPages(false));
    let received = setup.received(&to_ada).await;
    let expected = ["a 2 edits 1 after", "said a 2 new", r#"history a ["after"] false"#];
    assert_eq!(received[2..], expected);
}

fn search(client: ClientId) -> Search {
    let terms = SearchTerms::parse("tea").unwrap();
    let query = SearchQuery { terms, room: None, from: None, before: Seq::MAX, limit: 10 };
    Search { client, query, reference: None }
}

#[actix_web::test]
async fn searches_that_wait_are_limited_and_others_get_busy() {
    let setup = Setup::new(Duration::ZERO);
    let (ada, to_ada) = setup.registered().await;
    for _ in 0..65 {
        setup.hub.send(search(ada)).await.unwrap();
    }
    assert_eq!(setup.received(&to_ada).await, ["error busy"]);
    assert_eq!(within("the searches", setup.log.send(AnswerSearches)).await.unwrap().len(), 64);
    let received = setup.received(&to_ada).await;
    assert_eq!(received.len(), 65);
    assert!(received[1..].iter().all(|line| line == "search [] false"), "{received:?}");
    setup.hub.send(search(ada)).await.unwrap();
    assert_eq!(within("the search", setup.log.send(AnswerSearches)).await.unwrap().len(), 1);
}

#[actix_web::test]
async fn search_finds_only_what_the_hub_has_delivered() {
    let setup = Setup::new(Duration::ZERO);
    let (ada, to_ada) = setup.member().await;
    setup.say(ada, "tea").await;
    setup.hub.send(search(ada)).await.unwrap();
    setup.log.do_send(AnswerAppend { success: true });
    setup.settle().await;
    setup.hub.send(search(ada)).await.unwrap();
    let before = within("the searches", setup.log.send(AnswerSearches)).await.unwrap();
    assert_eq!(before, [Seq::new(1), Seq::new(2)]);
    assert_eq!(setup.received(&to_ada).await.len(), 4);
}

#[actix_web::test]
async fn messages_up_to_a_floor_are_in_no_answer_any_more() {
    let setup = Setup::new(Duration::ZERO);
    let (ada, to_ada) = setup.member().await;
    setup.log.do_send(commit((1..=5).map(|seq| foreign(seq, &format!("t{seq}"))).collect()));
    let (entries, head, own) = (vec![foreign(6, "t6")], Seq::new(6), None);
    let floors = vec![(room("a"), Seq::new(4)), (room("elsewhere"), Seq::new(5))];
    setup.log.do_send(HandOut(FromLog::Committed { entries, head, floors, own }));
    setup.settle().await;
    let (range, limit, reference) = (HistoryRange::Latest, 10, None);
    let history = History { client: ada, room: room("a"), range, limit, reference };
    setup.hub.send(history).await.unwrap();
    let received = setup.received(&to_ada).await;
    assert_eq!(received.last().map(String::as_str), Some(r#"history a ["t5", "t6"] false"#));
}

#[actix_web::test]
async fn new_epoch_closes_all_clients_and_nobody_resumes_from_the_old_one() {
    let setup = Setup::new(Duration::ZERO);
    let (ada, to_ada) = setup.member().await;
    setup.log.do_send(commit(vec![foreign(1, "lost")]));
    assert_eq!(setup.received(&to_ada).await, ["a 1 lost"]);
    // A waiting draft may refer to a message by a sequence number of the former epoch.
    setup.say(ada, "in flight").await;
    setup.edit(ada, 1, "never").await;
    let (epoch, head) = (Epoch::of("new"), Seq::default());
    setup.log.do_send(HandOut(FromLog::NewEpoch { epoch, head }));
    let expected = ["a 1 lost", "error busy", "close new_epoch"];
    assert_eq!(setup.received(&to_ada).await, expected);
    setup.log.do_send(AnswerAppend { success: false });
    setup.settle().await;
    assert_eq!(setup.log.send(PendingTicket).await.unwrap(), None);
    assert_eq!(DisconnectReason::NewEpoch.code(), Some(1012));

    let (client, actor) = setup.registered().await;
    let catch_up = CatchUp::After(Position { epoch: Epoch::of("new"), seq: Seq::default() });
    let join = Join { client, room: room("a"), catch_up, reference: None };
    setup.hub.send(join).await.unwrap();
    setup.settle().await;
    let received = actor.send(Received).await.unwrap();
    assert!(received[0].starts_with("joined a []"), "{received:?}");
}

#[actix_web::test]
async fn log_that_dies_closes_all_clients() {
    let setup = Setup::new(Duration::ZERO);
    let (_, to_ada) = setup.member().await;
    setup.log.send(Die).await.unwrap();
    eventually("the hub to stop", async || !setup.hub.connected()).await;
    let received = within("the client", to_ada.send(Received)).await.unwrap();
    assert_eq!(received.last().map(String::as_str), Some("close internal"));
}

/// At the end of a shutdown the log closes, but the workers may still accept connections.
#[actix_web::test]
async fn client_that_registers_after_a_drained_hub_has_lost_its_log_is_told_of_the_shutdown() {
    let setup = Setup::new(Duration::ZERO);
    let drained = setup.hub.send(Drain { wait: true }).await.unwrap();
    within("the drain", drained).await.unwrap_err();
    setup.log.send(Die).await.unwrap();
    let (_, late) = setup.registered().await;
    let received = within("a close", late.send(Received)).await.unwrap();
    assert_eq!(received, ["close shutting_down"]);
}

#[actix_web::test]
async fn settings_entry_changes_welcome_and_is_delivered_to_nobody() {
    let setup = Setup::new(Duration::ZERO);
    let (_, to_ada) = setup.member().await;
    let settings = Settings { edits: false, ..Settings::default() };
    let change = SettingsChange { seq: Seq::new(1), at: Timestamp::default(), settings };
    setup.log.do_send(commit(vec![Entry::Settings(Arc::new(change))]));
    assert_eq!(setup.received(&to_ada).await, [""; 0]);
    let (sender, mut welcomes) = mpsc::unbounded_channel();
    let client = ClientId::next();
    let to = WelcomedClient(sender).start().recipient().into();
    let nick = Nick::anonymous(client);
    setup.hub.send(Register { client, nick: nick.clone(), events: true, to }).await.unwrap();
    let hello = Hello { client, nick: Some(nick), identity: None, reference: None };
    setup.hub.send(hello).await.unwrap();
    assert_eq!(within("welcome", welcomes.recv()).await, Some(false));
}

/// Tells whether authors may edit messages, as `welcome` says.
struct WelcomedClient(mpsc::UnboundedSender<bool>);

impl Actor for WelcomedClient {
    type Context = Context<Self>;
}

impl Handler<Deliver> for WelcomedClient {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        if let Deliver::Answer(reply) = deliver
            && let Event::Welcome { limits, .. } = reply.event
        {
            let _ = self.0.send(limits.edits);
        }
    }
}
