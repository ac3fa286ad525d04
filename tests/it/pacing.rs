//! When a room is flushed, as a member sees it: by the batches that are delivered.

use std::time::Duration;

use actix::prelude::*;
use chinwag::Config;
use chinwag::domain::{ClientId, Nick, RoomName};
use chinwag::hub::{CatchUp, Deliver, Join, Register};
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

/// Floods a room of many members; gives the batches that one of them was delivered.
async fn batches_of_a_flood(messages: usize, config: Config) -> Vec<Vec<String>> {
    const MEMBERS: usize = 200;
    let server = TestServer::start_with(config).await;
    let (sender, mut batches) = mpsc::unbounded_channel();
    for n in 0..MEMBERS {
        let probe = Probe(if n == 0 { sender.clone() } else { mpsc::unbounded_channel().0 });
        let to = Probe::create(|ctx| {
            ctx.set_mailbox_capacity(messages);
            probe
        });
        let client = ClientId::next();
        let room = RoomName::default();
        let nick = Nick::anonymous(client);
        let to = to.recipient().into();
        server.hub().send(Register { client, nick, events: false, to }).await.unwrap();
        let join = Join { client, room, catch_up: CatchUp::Latest(0), reference: None };
        server.hub().send(join).await.unwrap();
    }
    let mut flooder = server.connect("").await;
    eventually("all", async || server.client_count().await == MEMBERS + 1).await;
    for n in 0..messages {
        flooder.say(&n.to_string()).await;
    }
    let mut delivered = Vec::new();
    while delivered.iter().map(Vec::len).sum::<usize>() < messages {
        delivered.push(within("the next batch", batches.recv()).await.unwrap());
    }
    let said: Vec<_> = (0..messages).map(|n| n.to_string()).collect();
    assert_eq!(delivered.concat(), said, "each once, in order");
    delivered
}

#[actix_web::test]
async fn a_busy_room_is_flushed_in_batches_and_its_first_message_at_once() {
    let batches = batches_of_a_flood(2000, config()).await;
    assert!(batches.len() <= 1000, "{} batches of 2000 messages", batches.len());
    assert_eq!(batches[0], ["0"], "nobody waits in an idle room");
}

#[actix_web::test]
async fn without_a_window_every_message_is_flushed_at_once() {
    let config = Config { batch_window: Duration::ZERO, ..config() };
    assert_eq!(batches_of_a_flood(200, config).await.len(), 200);
}

#[actix_web::test]
async fn several_busy_rooms_are_flushed_each_in_its_time() {
    let server = TestServer::start().await;
    let mut rooms = Vec::new();
    for n in 0..20 {
        rooms.push(server.join(&format!("room=r{n}")).await);
    }
    for n in 0..50 {
        for client in &mut rooms {
            client.say(&n.to_string()).await;
        }
    }
    for client in &mut rooms {
        for n in 0..50 {
            client.expect(&n.to_string()).await;
        }
    }
}
