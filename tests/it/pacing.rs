//! When a room is flushed, as seen in the batches that a member receives.

use std::time::{Duration, Instant};

use actix::prelude::*;
use chinwag::Config;
use chinwag::domain::{ClientId, Nick, RoomName};
use chinwag::hub::{CatchUp, Deliver, Join, Register, RoomInfo};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use crate::harness::{TestServer, config, eventually, within};

/// A member that forwards the texts of each batch to a channel.
struct ForwardingClient(mpsc::UnboundedSender<Vec<String>>);

impl Actor for ForwardingClient {
    type Context = Context<Self>;
}

impl Handler<Deliver> for ForwardingClient {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        for batch in deliver.batches() {
            let texts = batch.messages().map(|message| message.text.as_str().to_owned());
            let _ = self.0.send(texts.collect());
        }
    }
}

/// What one member of a flooded room received.
struct FloodResult {
    batches: Vec<Vec<String>>,
    /// The time from the first message sent to the last batch received.
    elapsed: Duration,
}

impl FloodResult {
    /// Checks that the average interval between flushes is at least `interval`. A busy machine
    /// cannot make this fail, because delays only increase the elapsed time.
    #[track_caller]
    fn assert_paced_by(&self, interval: Duration) {
        let intervals = self.batches.len() - 1;
        let minimum = interval * u32::try_from(intervals).unwrap();
        assert!(
            self.elapsed >= minimum,
            "{intervals} intervals of {interval:?} in {:?}",
            self.elapsed
        );
    }
}

/// Creates a room with this number of members, floods it, and returns what one of them received.
async fn flood(server: &TestServer, room: &str, members: usize, messages: usize) -> FloodResult {
    let room = RoomName::parse(room).unwrap();
    let (sender, mut received) = mpsc::unbounded_channel();
    // The flooder is the last member.
    for n in 1..members {
        let member =
            ForwardingClient(if n == 1 { sender.clone() } else { mpsc::unbounded_channel().0 });
        let to = ForwardingClient::create(|ctx| {
            ctx.set_mailbox_capacity(messages);
            member
        });
        let client = ClientId::next();
        let nick = Nick::anonymous(client);
        let to = to.recipient().into();
        server.hub().send(Register { client, nick, events: false, to }).await.unwrap();
        let join =
            Join { client, room: room.clone(), catch_up: CatchUp::Latest(0), reference: None };
        server.hub().send(join).await.unwrap();
    }
    let mut flooder = server.connect(&format!("room={room}")).await;
    let is_full = |info: &RoomInfo| info.name == room && info.member_count == members;
    eventually("all members to be registered", async || server.rooms().await.iter().any(is_full))
        .await;
    let began = Instant::now();
    for n in 0..messages {
        flooder.say(&n.to_string()).await;
    }
    let mut batches = Vec::new();
    while batches.iter().map(Vec::len).sum::<usize>() < messages {
        batches.push(within("the next batch", received.recv()).await.unwrap());
    }
    let sent: Vec<_> = (0..messages).map(|n| n.to_string()).collect();
    assert_eq!(batches.concat(), sent, "each message arrives once, in order");
    FloodResult { batches, elapsed: began.elapsed() }
}

#[actix_web::test]
async fn busy_room_is_flushed_in_batches_after_an_immediate_first_message() {
    let server = TestServer::start().await;
    let flood = flood(&server, "busy", 200, 2000).await;
    flood.assert_paced_by(Duration::from_millis(10));
    assert_eq!(flood.batches[0], ["0"], "an idle room flushes immediately");
}

#[actix_web::test]
async fn every_message_is_flushed_immediately_without_a_batch_window() {
    let config = Config { batch_window: Duration::ZERO, ..config() };
    let server = TestServer::start_with(config).await;
    assert_eq!(flood(&server, "busy", 200, 200).await.batches.len(), 200);
}

#[actix_web::test]
async fn each_busy_room_is_paced_by_its_own_size() {
    let server = TestServer::start().await;
    let rooms = [("small", 20), ("larger", 100), ("large", 200)];
    let floods = rooms.map(|(room, members)| flood(&server, room, members, 500));
    for (flood, (_, members)) in join_all(floods).await.iter().zip(rooms) {
        flood.assert_paced_by(Duration::from_micros(50) * members as u32);
        assert_eq!(flood.batches[0], ["0"], "rooms do not wait for each other");
    }
}
