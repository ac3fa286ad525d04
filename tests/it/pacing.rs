//! When a room is flushed, as a member sees it: by the batches that are delivered.

use std::time::{Duration, Instant};

use actix::prelude::*;
use chinwag::Config;
use chinwag::domain::{ClientId, Nick, RoomName};
use chinwag::hub::{CatchUp, Deliver, Join, Register, RoomInfo};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use crate::harness::{TestServer, config, eventually, within};

/// A member that passes on each batch as the texts in it.
struct Probe(mpsc::UnboundedSender<Vec<String>>);

impl Actor for Probe {
    type Context = Context<Self>;
}

impl Handler<Deliver> for Probe {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        for batch in deliver.batches() {
            let texts = batch.messages().iter().map(|message| message.text.as_str().to_owned());
            let _ = self.0.send(texts.collect());
        }
    }
}

/// What one member of a room was delivered while the room was flooded.
struct Flood {
    batches: Vec<Vec<String>>,
    /// From before the first message was sent until after the last batch was delivered.
    took: Duration,
}

impl Flood {
    /// Fails if the flushes were closer together than this. A busy machine cannot make it fail:
    /// whatever comes late makes the whole take longer.
    #[track_caller]
    fn was_paced_by(&self, wait: Duration) {
        let waits = self.batches.len() - 1;
        let least = wait * u32::try_from(waits).unwrap();
        assert!(self.took >= least, "{waits} waits of {wait:?} in {:?}", self.took);
    }
}

/// Floods a room of so many members, and records what one of them is delivered.
async fn flood(server: &TestServer, room: &str, members: usize, messages: usize) -> Flood {
    let room = RoomName::parse(room).unwrap();
    let (sender, mut delivered) = mpsc::unbounded_channel();
    // The flooder is a member, too.
    for n in 1..members {
        let probe = Probe(if n == 1 { sender.clone() } else { mpsc::unbounded_channel().0 });
        let to = Probe::create(|ctx| {
            ctx.set_mailbox_capacity(messages);
            probe
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
    eventually("all members", async || server.rooms().await.iter().any(is_full)).await;
    let began = Instant::now();
    for n in 0..messages {
        flooder.say(&n.to_string()).await;
    }
    let mut batches = Vec::new();
    while batches.iter().map(Vec::len).sum::<usize>() < messages {
        batches.push(within("the next batch", delivered.recv()).await.unwrap());
    }
    let said: Vec<_> = (0..messages).map(|n| n.to_string()).collect();
    assert_eq!(batches.concat(), said, "each once, in order");
    Flood { batches, took: began.elapsed() }
}

#[actix_web::test]
async fn busy_room_is_flushed_in_batches_after_an_immediate_first_message() {
    let server = TestServer::start().await;
    let flood = flood(&server, "busy", 200, 2000).await;
    flood.was_paced_by(Duration::from_millis(10));
    assert_eq!(flood.batches[0], ["0"], "nobody waits in an idle room");
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
        flood.was_paced_by(Duration::from_micros(50) * members as u32);
        assert_eq!(flood.batches[0], ["0"], "no room waits for another");
    }
}
