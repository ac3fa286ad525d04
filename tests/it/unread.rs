//! Read marks, and the numbers of unread messages in `joined`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use chinwag::config::Rate;
use chinwag::domain::{ClientId, Entry, Epoch, Identity, MessageText, Nick, RoomName, Seq, Unread};
use chinwag::hub::{CatchUp, Hello, Join, ListRooms, Read, Register, Unregister};
use chinwag::log::{CountUnread, FromLog, LogError, Probe};
use chinwag::protocol::DisconnectReason;
use chinwag::{Config, Hub};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::fakes::{
    Die, FakeClient, FakeLog, HandOut, Marks, Received, TakeCounts, log_with_read_marks_of, message,
};
use crate::harness::{TestServer, config, eventually, within};
use crate::journal::{config_with_journal, join_command};
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

/// A room in which nothing is counted.
const OTHER_ROOM: &str = "other";

fn say(room: &str, text: &str) -> Value {
    json!({"type": "say", "room": room, "text": text})
}

fn read(room: &str, seq: u64) -> Value {
    json!({"type": "read", "room": room, "seq": seq, "ref": "read"})
}

/// Connects a client with a key of its own.
async fn connect(server: &TestServer, name: &str) -> JsonClient {
    connect_to(server.addr(), name).await
}

async fn connect_to(addr: SocketAddr, name: &str) -> JsonClient {
    let key = format!("the secret key of {name}");
    JsonClient::hello(addr, json!({"nick": name, "key": key})).await
}

/// Joins a room, and returns the answer.
async fn join(client: &mut JsonClient, room: &str) -> Value {
    client.send(&[join_command(room)]).await;
    client.until("joined").await
}

/// Connects another client of a user, and returns the answer to `join`.
async fn join_again(server: &TestServer, name: &str, room: &str) -> Value {
    join(&mut connect(server, name).await, room).await
}

/// Sends a message, and returns its sequence number.
async fn said(client: &mut JsonClient, room: &str, text: &str) -> u64 {
    client.send(&[say(room, text)]).await;
    client.until("said").await["seq"].as_u64().unwrap()
}

/// Sets the read mark, and waits until the log has it.
async fn mark(client: &mut JsonClient, room: &str, seq: u64) {
    client.send(&[read(room, seq)]).await;
    settle(client).await;
}

/// Waits until the log has everything that a client has sent. The log takes an append after the
/// read marks before it.
async fn settle(client: &mut JsonClient) {
    client.send(&[join_command(OTHER_ROOM), say(OTHER_ROOM, "x")]).await;
    client.until("said").await;
}

/// Returns `read`, `unread`, `first_unread` and `mentions` of `joined`.
fn unread(joined: &Value) -> Value {
    json!([joined["read"], joined["unread"], joined["first_unread"], joined["mentions"]])
}

#[actix_web::test]
async fn messages_of_others_are_counted_after_coming_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut ada = JsonClient::connect(server.addr()).await;
    let key = "the secret key of Ada";
    ada.send(&[json!({"type": "hello", "nick": "Ada", "key": key}), join_command("Tea")]).await;
    assert_eq!(ada.expect("welcome").await["limits"]["unread"], 1000);
    let joined = ada.expect("joined").await;
    assert_eq!(unread(&joined), json!([null, null, null, null]));
    assert!(joined.get("read").is_none() && joined.get("first_unread").is_none());
    let mut ben = connect(&server, "Ben").await;
    join(&mut ben, "tea").await;
    let first = said(&mut ben, "tea", "one").await;
    mark(&mut ada, "Tea", first).await;
    let joined = join_again(&server, "Ada", "tea").await;
    assert_eq!(unread(&joined), json!([first, 0, null, 0]));

    said(&mut ada, "tea", "my own, @Ada").await;
    let deleted = said(&mut ben, "tea", "deleted, @Ada").await;
    let second = said(&mut ben, "tea", "two").await;
    said(&mut ben, "tea", "hello @ADA!").await;
    ben.send(&[json!({"type": "delete", "room": "tea", "seq": deleted})]).await;
    let position = ben.until("said").await["seq"].clone();
    drop(ada);
    let mut text = server.connect("room=tea&nick=Eve").await;
    text.say("of the text protocol, @ada").await;
    ben.until("message").await;
    let joined = join_again(&server, "Ada", "tea").await;
    assert_eq!(unread(&joined), json!([first, 3, second, 2]));
    // A client that resumes receives the same.
    let mut ada = connect(&server, "Ada").await;
    let after = json!({"epoch": joined["epoch"], "seq": position});
    ada.send(&[json!({"type": "join", "room": "tea", "after": after})]).await;
    let resumed = ada.expect("joined").await;
    assert_eq!(
        (&resumed["recovered"], resumed["messages"].as_array().unwrap().len()),
        (&json!(true), 1)
    );
    assert_eq!(unread(&resumed), unread(&joined));
    // The messages are not unread for their author.
    assert_eq!(unread(&join_again(&server, "Ben", "tea").await), json!([null, null, null, null]));
    server.stop().await;
}

#[actix_web::test]
async fn devices_of_a_user_share_the_read_mark() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let (mut phone, mut laptop) = (connect(&server, "Ada").await, connect(&server, "Ada").await);
    let (mut elsewhere, mut ben) = (connect(&server, "Ada").await, connect(&server, "Ben").await);
    join(&mut ben, "tea").await;
    let seqs = [said(&mut ben, "tea", "one").await, said(&mut ben, "tea", "two").await];
    for client in [&mut phone, &mut laptop] {
        join(client, "tea").await;
    }
    join(&mut elsewhere, OTHER_ROOM).await;
    phone.send(&[read("tea", seqs[0])]).await;
    assert_eq!(laptop.expect("read").await, json!({"type": "read", "room": "tea", "seq": seqs[0]}));
    // A device that joins later receives the same, even if the log does not have the mark yet.
    assert_eq!(unread(&join_again(&server, "Ada", "tea").await), json!([seqs[0], 1, seqs[1], 0]));
    laptop.send(&[read("tea", seqs[1])]).await;
    assert_eq!(phone.expect("read").await["seq"], seqs[1]);
    assert_eq!(unread(&join_again(&server, "Ada", "tea").await), json!([seqs[1], 0, null, 0]));
    // No other user receives the event: the next line answers the next command.
    for (client, room) in [(&mut laptop, "tea"), (&mut ben, "tea"), (&mut elsewhere, OTHER_ROOM)] {
        client.send(&[json!({"type": "who", "room": room})]).await;
        client.expect("members").await;
    }
    server.stop().await;
}

#[actix_web::test]
async fn mark_never_moves_back_and_ends_at_the_last_entry() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let (mut phone, mut laptop) = (connect(&server, "Ada").await, connect(&server, "Ada").await);
    let mut ben = connect(&server, "Ben").await;
    for client in [&mut phone, &mut laptop, &mut ben] {
        join(client, "tea").await;
    }
    let mut seqs = Vec::new();
    for n in 0..4 {
        seqs.push(said(&mut ben, "tea", &n.to_string()).await);
    }
    phone.send(&[read("tea", seqs[2]), read("tea", seqs[2]), read("tea", seqs[0])]).await;
    phone.send(&[read("tea", 1 << 52)]).await;
    assert_eq!(laptop.until("read").await["seq"], seqs[2]);
    let end = laptop.expect("read").await["seq"].as_u64().unwrap();
    assert_eq!(end, seqs[3]);
    phone.send(&[read("tea", 1)]).await;
    settle(&mut phone).await;
    drop((phone, laptop));
    eventually("only Ben to be in the room", async || {
        server
            .rooms()
            .await
            .iter()
            .any(|room| room.name.as_str() == "tea" && room.member_count == 1)
    })
    .await;
    let next = said(&mut ben, "tea", "next").await;
    assert_eq!(unread(&join_again(&server, "Ada", "tea").await), json!([end, 1, next, 0]));
    server.stop().await;
}

#[actix_web::test]
async fn read_needs_a_key_a_membership_and_a_history_file() {
    let folder = tempfile::tempdir().unwrap();
    let with_file = TestServer::start_with(config_with_journal(folder.path())).await;
    let without_file = TestServer::start_with(Config { db: None, ..config() }).await;
    let mut without_key = JsonClient::hello(with_file.addr(), json!({})).await;
    let mut without_marks = connect(&without_file, "Ada").await;
    for client in [&mut without_key, &mut without_marks] {
        join(client, "tea").await;
        said(client, "tea", "hello").await;
        assert_eq!(unread(&join(client, "tea").await), json!([null, null, null, null]));
        client.send(&[read("tea", 1), read("nowhere", 1)]).await;
        assert_eq!(client.expect_error("forbidden").await["ref"], "read");
        assert_eq!(client.expect_error("not_joined").await["ref"], "read");
    }
    without_marks.send(&[json!({"type": "hello"})]).await;
    assert!(without_marks.expect("welcome").await["limits"].get("unread").is_none());
    let mut ada = connect(&with_file, "Ada").await;
    ada.send(&[read("tea", 1)]).await;
    assert_eq!(ada.expect_error("not_joined").await["ref"], "read");
    with_file.stop().await;
    without_file.stop().await;
}

#[actix_web::test]
async fn count_stops_at_one_thousand_but_the_first_unread_message_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let (mut ada, mut ben) = (connect(&server, "Ada").await, connect(&server, "Ben").await);
    for client in [&mut ada, &mut ben] {
        join(client, "tea").await;
    }
    let start = said(&mut ben, "tea", "read").await;
    mark(&mut ada, "tea", start).await;
    drop(ada);
    let mut first = Value::Null;
    for n in 0..11 {
        ben.send(&vec![say("tea", "unread, @Ada"); 100]).await;
        for m in 0..100 {
            let seq = ben.until("said").await["seq"].clone();
            if n == 0 && m == 0 {
                first = seq;
            }
        }
    }
    let joined = join_again(&server, "Ada", "tea").await;
    assert_eq!(unread(&joined), json!([start, 1000, first, 1000]));
    server.stop().await;
}

#[actix_web::test]
async fn pruned_messages_are_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { keep_messages: 5, ..config_with_journal(folder.path()) };
    let server = TestServer::start_with(config).await;
    let (mut ada, mut ben) = (connect(&server, "Ada").await, connect(&server, "Ben").await);
    for client in [&mut ada, &mut ben] {
        join(client, "tea").await;
    }
    let start = said(&mut ben, "tea", "read").await;
    mark(&mut ada, "tea", start).await;
    let mut seqs = Vec::new();
    for n in 0..20 {
        seqs.push(said(&mut ben, "tea", &n.to_string()).await);
    }
    assert_eq!(unread(&join_again(&server, "Ada", "tea").await), json!([start, 5, seqs[15], 0]));
    server.stop().await;
}

/// The count is as of `seq` of `joined`, whatever is delivered while the client joins.
#[actix_web::test]
async fn count_and_live_messages_have_no_gap_while_others_talk() {
    const JOINS: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let (mut ada, mut ben) = (connect(&server, "Ada").await, connect(&server, "Ben").await);
    for client in [&mut ada, &mut ben] {
        join(client, "tea").await;
    }
    let start = said(&mut ben, "tea", "read").await;
    mark(&mut ada, "tea", start).await;
    ada.send(&[json!({"type": "leave", "room": "tea"})]).await;
    ada.until("left").await;
    let joins = async {
        let mut counts = Vec::new();
        for _ in 0..JOINS {
            let mut client = connect(&server, "Ada").await;
            let joined = join(&mut client, "tea").await;
            let next = client.until("message").await;
            counts.push((joined, next["seq"].as_u64().unwrap()));
        }
        counts
    };
    let mut seqs = Vec::new();
    let talk = async {
        loop {
            ben.send(&vec![say("tea", "hello @Ada"); 3]).await;
            for _ in 0..3 {
                seqs.push(ben.until("said").await["seq"].as_u64().unwrap());
            }
        }
    };
    let counts = tokio::select! {
        counts = joins => counts,
        () = talk => unreachable!("it does not end"),
    };
    // The messages of the last burst may not be confirmed yet.
    while seqs.last() < counts.iter().map(|(_, next)| next).max() {
        seqs.push(ben.until("said").await["seq"].as_u64().unwrap());
    }
    for (joined, next) in counts {
        let position = joined["seq"].as_u64().unwrap();
        let (before, after): (Vec<u64>, Vec<u64>) = seqs.iter().partition(|&&seq| seq <= position);
        let count = before.len().min(1000);
        assert_eq!(unread(&joined), json!([start, count, before.first(), count]));
        assert_eq!(after.first(), Some(&next), "the next message after {position}");
    }
    server.stop().await;
}

/// Returns the sequence number of the only read mark in a history file.
fn stored_mark(folder: &Path) -> Option<u64> {
    let journal = Connection::open(folder.join("chinwag.db")).unwrap();
    let select = "SELECT seq FROM read_marks";
    journal.query_row(select, [], |row| row.get::<_, i64>(0)).ok().map(i64::unsigned_abs)
}

#[actix_web::test]
async fn mark_survives_a_kill_once_it_is_stored_and_a_clean_shutdown_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut seqs = Vec::new();
    {
        let mut ben = connect_to(program.addr, "Ben").await;
        join(&mut ben, "tea").await;
        for n in 0..4 {
            seqs.push(said(&mut ben, "tea", &n.to_string()).await);
        }
    }
    let mut ada = connect_to(program.addr, "Ada").await;
    join(&mut ada, "tea").await;
    ada.send(&[read("tea", seqs[0])]).await;
    eventually("the mark to be stored", async || stored_mark(folder.path()) == Some(seqs[0])).await;
    program.kill().await;

    program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut ada = connect_to(program.addr, "Ada").await;
    assert_eq!(unread(&join(&mut ada, "tea").await), json!([seqs[0], 3, seqs[1], 0]));
    ada.send(&[read("tea", seqs[2]), json!({"type": "who", "room": "tea"})]).await;
    ada.expect("members").await;
    program.signal("-TERM");
    assert_eq!(program.exit_code().await, Some(0));
    assert_eq!(stored_mark(folder.path()), Some(seqs[2]));

    program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut ada = connect_to(program.addr, "Ada").await;
    assert_eq!(unread(&join(&mut ada, "tea").await), json!([seqs[2], 1, seqs[3], 0]));
}

/// A locked file does not delay counts. Marks are stored once it is unlocked.
#[actix_web::test]
async fn marks_of_a_locked_file_are_stored_once_it_is_unlocked() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut ada = connect_to(program.addr, "Ada").await;
    join(&mut ada, "tea").await;
    let seq = said(&mut ada, "tea", "hello").await;
    let lock = Connection::open(folder.path().join("chinwag.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    ada.send(&[read("tea", seq)]).await;
    let warned = async {
        while !program.log.next_line().await.unwrap().unwrap().contains("cannot store read marks") {
        }
    };
    within("a warning", warned).await;
    assert_eq!(unread(&join(&mut ada, "tea").await), json!([seq, 0, null, 0]));
    lock.execute_batch("ROLLBACK").unwrap();
    eventually("the mark to be stored", async || stored_mark(folder.path()) == Some(seq)).await;
}

#[actix_web::test]
async fn read_counts_toward_command_rate() {
    const PER_SECOND: u32 = 5;
    const BURST: u32 = 3;
    const READS: u32 = 10;
    let folder = tempfile::tempdir().unwrap();
    let [per_second, burst] = [PER_SECOND, BURST].map(|number| NonZeroU32::new(number).unwrap());
    let rate = Some(Rate { per_second, burst });
    let limited = Config { command_rate: rate, ..config_with_journal(folder.path()) };
    let server = TestServer::start_with(limited).await;
    let mut ada = connect(&server, "Ada").await;
    let began = Instant::now();
    let mut lines = vec![join_command("tea")];
    lines.extend((0..READS).map(|_| read("tea", 1)));
    lines.push(json!({"type": "who", "room": "tea"}));
    ada.send(&lines).await;
    ada.until("members").await;
    assert!(began.elapsed() >= Duration::from_secs(1) * (READS - BURST) / PER_SECOND);
    server.stop().await;
}

/// A hub with a fake log that keeps read marks.
struct Setup {
    hub: Addr<Hub>,
    log: Addr<FakeLog>,
    thread: Arbiter,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.thread.stop();
    }
}

fn tea() -> RoomName {
    RoomName::parse("tea").unwrap()
}

fn identity(name: &str) -> Identity {
    Identity::of_key(&format!("the secret key of {name}")).unwrap()
}

impl Setup {
    fn new() -> Self {
        let (thread, log) = (Arbiter::new(), FakeLog::default().start());
        let config = Config { batch_window: Duration::ZERO, ..Config::default() };
        let hub = Hub::start_with_log(&thread, &config, log_with_read_marks_of(&log));
        Self { hub, log, thread }
    }

    /// Registers a client with the key of a user.
    fn register(&self, name: &str, events: bool) -> (ClientId, Addr<FakeClient>) {
        let (client, actor) = (ClientId::next(), FakeClient::new(100).start());
        let to = actor.clone().recipient().into();
        self.hub.do_send(Register { client, nick: Nick::anonymous(client), events, to });
        self.hello(client, name);
        (client, actor)
    }

    fn hello(&self, client: ClientId, name: &str) {
        let (nick, identity) = (Some(Nick::parse(name).unwrap()), Some(identity(name)));
        self.hub.do_send(Hello { client, nick, identity, reference: None });
    }

    fn join(&self, client: ClientId) {
        let (catch_up, reference) = (CatchUp::Latest(10), None);
        self.hub.do_send(Join { client, room: tea(), catch_up, reference });
    }

    /// Waits until the hub and the log have processed everything that was sent to them.
    async fn settle(&self) {
        for _ in 0..4 {
            within("the hub", self.hub.send(ListRooms)).await.unwrap();
            within("the log", self.log.send(Probe)).await.unwrap().unwrap();
        }
    }

    /// Returns the request for a count that the log has received.
    async fn count(&self) -> CountUnread {
        self.settle().await;
        let mut counts = self.log.send(TakeCounts).await.unwrap();
        assert_eq!(counts.len(), 1);
        counts.remove(0)
    }

    /// Hands out a message of another user.
    fn commit(&self, seq: u64, text: &str) {
        let text = MessageText::parse(text, 100).unwrap();
        let message = message(tea(), Seq::new(seq), Nick::parse("eve").unwrap(), text);
        let entries = vec![Entry::Message(message.into())];
        let head = Seq::new(seq);
        self.log.do_send(HandOut(FromLog::Committed { entries, head, floors: vec![], own: None }));
    }

    /// Returns what a client has received after its `welcome`.
    async fn received(&self, client: &Addr<FakeClient>) -> Vec<String> {
        self.settle().await;
        let received = within("a client", client.send(Received)).await.unwrap();
        received.into_iter().filter(|line| !line.starts_with("welcome")).collect()
    }
}

/// The second message is unread.
const ONE_UNREAD: Unread =
    Unread { mark: Seq::new(1), count: 1, first: Some(Seq::new(2)), mentions: 0 };

#[actix_web::test]
async fn messages_that_are_delivered_while_a_join_waits_are_counted() {
    let setup = Setup::new();
    setup.settle().await;
    setup.commit(2, "old");
    setup.settle().await;
    let (ada, to_ada) = setup.register("Ada", true);
    setup.join(ada);
    let count = setup.count().await;
    assert_eq!((count.room.as_str(), count.known, count.before), ("tea", Seq::new(0), Seq::new(3)));
    assert_eq!((count.nick.as_str(), count.identity), ("Ada", identity("Ada")));
    assert!(setup.hub.send(ListRooms).await.unwrap().is_empty(), "the room is not open yet");
    // The ring has both, since the fake log has no messages.
    let (ben, _) = setup.register("Ben", false);
    setup.join(ben);
    setup.settle().await;
    setup.commit(3, "new");
    setup.commit(4, "new, @ada");
    assert_eq!(setup.received(&to_ada).await, [""; 0]);
    count.answer.give(Ok(Some(ONE_UNREAD)));
    let joined = "joined tea [\"new\", \"new, @ada\"] [\"Ada\", \"Ben\"] 2 \
                  unread 3 from Some(Seq(2)), 1 mentions";
    assert_eq!(setup.received(&to_ada).await, [joined]);
    setup.commit(5, "later");
    assert_eq!(setup.received(&to_ada).await[1..], ["tea 5 later"]);
    // The hub knows the mark while the user is in the room.
    setup.join(ada);
    assert_eq!(setup.count().await.known, Seq::new(1));
}

#[actix_web::test]
async fn join_is_answered_once_even_if_nothing_can_be_counted() {
    let setup = Setup::new();
    let (ada, to_ada) = setup.register("Ada", true);
    setup.join(ada);
    setup.count().await.answer.give(Err(LogError::Failed("the test makes it fail".into())));
    setup.join(ada);
    setup.count().await.answer.give(Ok(None));
    setup.join(ada);
    // The thread that counts dies.
    drop(setup.count().await);
    assert_eq!(setup.received(&to_ada).await, ["joined tea [] [\"Ada\"] 1"; 3]);
}

#[actix_web::test]
async fn count_of_a_client_that_left_or_became_another_user_is_discarded() {
    let setup = Setup::new();
    // The former user is still there.
    setup.register("Ada", true);
    let (ada, to_ada) = setup.register("Ada", true);
    setup.join(ada);
    let count = setup.count().await;
    setup.hello(ada, "Eve");
    count.answer.give(Ok(Some(ONE_UNREAD)));
    assert_eq!(setup.received(&to_ada).await, ["joined tea [] [\"Eve\"] 1"]);
    setup.join(ada);
    let count = setup.count().await;
    let reason = DisconnectReason::Left;
    setup.hub.do_send(Unregister { client: ada, reason });
    setup.settle().await;
    count.answer.give(Ok(Some(ONE_UNREAD)));
    assert_eq!(setup.received(&to_ada).await.len(), 1);
    assert!(setup.hub.send(ListRooms).await.unwrap().is_empty());
}

#[actix_web::test]
async fn clients_without_a_key_or_without_events_do_not_wait_for_a_count() {
    let setup = Setup::new();
    let (client, actor) = (ClientId::next(), FakeClient::new(100).start());
    let to = actor.clone().recipient().into();
    let nick = Nick::anonymous(client);
    setup.hub.do_send(Register { client, nick, events: true, to });
    setup.join(client);
    let (bot, to_bot) = setup.register("Bot", false);
    setup.join(bot);
    assert_eq!(setup.received(&actor).await.len(), 1);
    assert_eq!(setup.received(&to_bot).await.len(), 1);
    assert!(setup.log.send(TakeCounts).await.unwrap().is_empty());
}

#[actix_web::test]
async fn client_whose_join_waits_is_closed_if_the_log_dies_or_begins_a_new_epoch() {
    for dies in [true, false] {
        let setup = Setup::new();
        let (ada, to_ada) = setup.register("Ada", true);
        setup.join(ada);
        let count = setup.count().await;
        let expected = if dies {
            setup.log.do_send(Die);
            "close internal"
        } else {
            let (epoch, head) = (Epoch::random(), Seq::default());
            setup.log.do_send(HandOut(FromLog::NewEpoch { epoch, head }));
            "close new_epoch"
        };
        let received = async || within("a client", to_ada.send(Received)).await.unwrap();
        eventually("the client to be closed", async || received().await.len() > 1).await;
        count.answer.give(Ok(Some(ONE_UNREAD)));
        if !dies {
            setup.settle().await;
        }
        assert_eq!(received().await[1..], [expected]);
    }
}

#[actix_web::test]
async fn log_receives_a_mark_only_if_it_has_moved() {
    let setup = Setup::new();
    let (ada, to_ada) = setup.register("Ada", true);
    setup.join(ada);
    setup.count().await.answer.give(Ok(Some(ONE_UNREAD)));
    for seq in 2..=5 {
        setup.commit(seq, "x");
    }
    setup.settle().await;
    let permits = Arc::new(Semaphore::new(100));
    for seq in [1, 3, 3, 2, 9, 5] {
        let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
        let (room, seq) = (tea(), Seq::new(seq));
        setup.hub.do_send(Read { client: ada, room, seq, reference: None, permit });
    }
    setup.settle().await;
    assert_eq!(setup.log.send(Marks).await.unwrap(), [3, 5]);
    assert_eq!(permits.available_permits(), 100);
    assert!(!setup.received(&to_ada).await.iter().any(|line| line.starts_with("error")));
}
