//! Clients that resume after an entry that the hub has not delivered yet, because they come from a
//! faster node of the cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use chinwag::domain::{
    ClientId, Durability, Entry, Epoch, MessageText, Nick, Position, RoomName, Seq,
};
use chinwag::hub::{CatchUp, Join, ListRooms, Register, RoomInfo, Unregister};
use chinwag::log::{FromLog, Log, Probe};
use chinwag::protocol::DisconnectReason;
use chinwag::{Config, Hub};

use crate::fakes::{FakeClient, FakeLog, HandOut, Received, log_of, message};
use crate::harness::{eventually, within};

/// A hub with a fake log.
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

const SHARED: Durability = Durability::Stream { replicas: Some(3) };

fn room() -> RoomName {
    RoomName::parse("tea").unwrap()
}

fn epoch() -> Epoch {
    Epoch::of("epoch")
}

impl Setup {
    /// Starts a hub, and hands out the messages 1 and 2.
    async fn new(durability: Durability, batch_window: Duration) -> Self {
        let (thread, log) = (Arbiter::new(), FakeLog::default().start());
        let config = Config { batch_window, workers: 1, ..Config::default() };
        let fake = Log { durability, epoch: epoch(), ..log_of(&log) };
        let hub = Hub::start_with_log(&thread, &config, fake);
        let setup = Self { hub, log, thread };
        // A member keeps the room open.
        let (client, _) = setup.register().await;
        setup.join(client, CatchUp::Latest(0));
        setup.settle().await;
        setup.commit(1);
        setup.commit(2);
        setup.settle().await;
        setup
    }

    async fn register(&self) -> (ClientId, Addr<FakeClient>) {
        let (client, actor) = (ClientId::next(), FakeClient::new(100).start());
        let (nick, to) = (Nick::anonymous(client), actor.clone().recipient().into());
        self.hub.send(Register { client, nick, events: true, to }).await.unwrap();
        (client, actor)
    }

    fn join(&self, client: ClientId, catch_up: CatchUp) {
        self.hub.do_send(Join { client, room: room(), catch_up, reference: None });
    }

    /// Registers a client that resumes after an entry.
    async fn resume(&self, epoch: Epoch, seq: Seq) -> (ClientId, Addr<FakeClient>) {
        let (client, actor) = self.register().await;
        self.join(client, CatchUp::After(Position { epoch, seq }));
        (client, actor)
    }

    /// Hands out a message of another node.
    fn commit(&self, seq: u64) {
        let text = MessageText::parse(format!("m{seq}"), 100).unwrap();
        let (nick, head) = (Nick::parse("eve").unwrap(), Seq::new(seq));
        let entries = vec![Entry::Message(Arc::new(message(room(), head, nick, text)))];
        self.log.do_send(HandOut(FromLog::Committed { entries, head, floors: vec![], own: None }));
    }

    /// Waits until the hub and the log have processed everything that was sent to them.
    async fn settle(&self) {
        for _ in 0..3 {
            within("the hub", self.hub.send(ListRooms)).await.unwrap();
            within("the log", self.log.send(Probe)).await.unwrap().unwrap();
        }
    }

    async fn member_count(&self) -> usize {
        let rooms = within("the rooms", self.hub.send(ListRooms)).await.unwrap();
        rooms.iter().map(|RoomInfo { member_count, .. }| member_count).sum()
    }

    async fn received(&self, client: &Addr<FakeClient>) -> Vec<String> {
        self.settle().await;
        within("a client", client.send(Received)).await.unwrap()
    }
}

#[actix_web::test]
async fn client_that_is_ahead_of_the_node_resumes_as_soon_as_its_position_is_delivered() {
    let setup = Setup::new(SHARED, Duration::ZERO).await;
    let (_, first) = setup.resume(epoch(), Seq::new(4)).await;
    let (_, second) = setup.resume(epoch(), Seq::new(5)).await;
    setup.commit(3);
    assert_eq!(setup.received(&first).await, [""; 0]);
    setup.commit(4);
    // It would receive the latest messages if it did not resume.
    assert_eq!(setup.received(&first).await, ["joined tea [] [] 2"]);
    setup.commit(6);
    assert_eq!(setup.received(&first).await, ["joined tea [] [] 2", "tea 6 m6"]);
    assert_eq!(setup.received(&second).await, [r#"joined tea ["m6"] [] 3"#]);
}

#[actix_web::test]
async fn join_waits_for_a_position_that_the_room_has_not_delivered_yet() {
    const MEMBERS: usize = 2000;
    // Another delivery follows 100 ms after the first one.
    let setup = Setup::new(SHARED, Duration::from_secs(1)).await;
    for _ in 1..MEMBERS {
        let (client, actor) = (ClientId::next(), FakeClient::new(1000).start());
        let (nick, to) = (Nick::anonymous(client), actor.recipient().into());
        setup.hub.do_send(Register { client, nick, events: false, to });
        setup.join(client, CatchUp::Latest(0));
    }
    setup.settle().await;
    setup.commit(3);
    setup.settle().await;
    setup.commit(4);
    let (_, client) = setup.resume(epoch(), Seq::new(4)).await;
    eventually("the delivery", async || !setup.received(&client).await.is_empty()).await;
    assert_eq!(setup.received(&client).await, [format!("joined tea [] [] {}", MEMBERS + 1)]);
}

#[actix_web::test]
async fn join_after_a_position_that_is_never_delivered_is_answered_after_two_seconds() {
    let setup = Setup::new(SHARED, Duration::ZERO).await;
    let began = Instant::now();
    let (_, client) = setup.resume(epoch(), Seq::new(u64::MAX)).await;
    let (_, other) = setup.resume(epoch(), Seq::new(9)).await;
    setup.commit(3);
    setup.commit(9);
    assert_eq!(setup.received(&client).await, [""; 0]);
    assert_eq!(setup.received(&other).await, ["joined tea [] [] 2"]);
    eventually("an answer", async || !setup.received(&client).await.is_empty()).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    let latest = r#"joined tea ["m1", "m2", "m3", "m9"] [] 3"#;
    assert_eq!(setup.received(&client).await, [latest]);
}

#[actix_web::test]
async fn client_that_left_while_it_waited_does_not_join() {
    let setup = Setup::new(SHARED, Duration::ZERO).await;
    let (client, actor) = setup.resume(epoch(), Seq::new(3)).await;
    assert_eq!(setup.received(&actor).await, [""; 0]);
    setup.hub.do_send(Unregister { client, reason: DisconnectReason::Left });
    setup.commit(3);
    assert_eq!(setup.received(&actor).await, [""; 0]);
    assert_eq!(setup.member_count().await, 1);
}

#[actix_web::test]
async fn new_epoch_closes_clients_that_wait() {
    let setup = Setup::new(SHARED, Duration::ZERO).await;
    let (_, actor) = setup.resume(epoch(), Seq::new(3)).await;
    let (epoch, head) = (Epoch::of("new"), Seq::new(3));
    setup.log.do_send(HandOut(FromLog::NewEpoch { epoch, head }));
    assert_eq!(setup.received(&actor).await, ["close new_epoch"]);
}

#[actix_web::test]
async fn client_waits_only_for_entries_of_the_same_log_that_other_nodes_share() {
    let latest = r#"joined tea ["m1", "m2"] [] 2"#;
    for durability in [Durability::Memory, Durability::File, Durability::Disk] {
        let setup = Setup::new(durability, Duration::ZERO).await;
        let (_, client) = setup.resume(epoch(), Seq::new(3)).await;
        assert_eq!(setup.received(&client).await, [latest]);
    }
    let setup = Setup::new(SHARED, Duration::ZERO).await;
    let (_, client) = setup.resume(Epoch::of("another"), Seq::new(3)).await;
    assert_eq!(setup.received(&client).await, [latest]);
}
