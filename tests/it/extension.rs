//! Actor messages and bots of another crate, as in the dice example.

use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use chinwag::Hub;
use chinwag::domain::{ChatMessage, ClientId, Entry, MessageText, Nick, RoomName, Seq, Timestamp};
use chinwag::hub::Batch;
use chinwag::hub::{CatchUp, Deliver, Join, Register};

use serde_json::json;

use crate::browser::{Browser, url};
use crate::harness::{TestServer, eventually, within};
use crate::json::JsonClient;

#[allow(dead_code)]
#[path = "../../examples/dice.rs"]
mod dice;

#[actix_web::test]
async fn dice_bot_answers_in_the_room() {
    let server = TestServer::start().await;
    dice::DiceBot::join(server.hub().clone(), RoomName::default()).unwrap();
    eventually("the bot to be registered", async || server.member_count().await == 1).await;
    let mut ada = server.join("nick=ada").await;
    ada.say("!roll 2d6").await;
    ada.expect("ada: !roll 2d6").await;
    let answer = within("the dice", ada.line()).await.unwrap();
    let (rolled, total) = answer.split_once(" = ").unwrap_or_else(|| panic!("{answer}"));
    let dice = rolled.strip_prefix("dice: ada rolls 2d6: ").unwrap_or_else(|| panic!("{answer}"));
    let dice: Vec<u32> = dice.split(" + ").map(|die| die.parse().unwrap()).collect();
    assert_eq!(dice.len(), 2);
    assert!(dice.iter().all(|die| (1..=6).contains(die)), "{answer}");
    assert_eq!(dice.iter().sum::<u32>(), total.parse::<u32>().unwrap());

    for invalid in ["!roll", "!roll 0d6", "!roll 2d0", "!roll 99999d6", "!roll xdy"] {
        ada.say(invalid).await;
        ada.expect(&format!("ada: {invalid}")).await;
    }
    ada.say("no answer to those").await;
    ada.expect("ada: no answer to those").await;
}

/// Follows the example's documentation: open the page and send `!roll 2d6`.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn dice_bot_answers_in_the_page() {
    let server = TestServer::start().await;
    dice::DiceBot::join(server.hub().clone(), RoomName::default()).unwrap();
    let page = Browser::open(&url(&server, "/")).await;
    page.is_called("Ada").await;
    page.say("!roll 2d6").await;
    page.has_line("!roll 2d6").await;
    let answer = r"/^Ada rolls 2d6: [1-6] \+ [1-6] = \d+$/";
    let entries = "[...document.querySelectorAll('#entries article')]";
    page.until(&format!(
        "{entries}.some((entry) => entry.querySelector('b').textContent === 'dice'
            && {answer}.test(entry.querySelector('.text').textContent))"
    ))
    .await;
    page.picture("dice").await;
    page.close().await;
}

/// A client without a session. It records messages.
struct RecordingClient(tokio::sync::mpsc::UnboundedSender<String>);

impl Actor for RecordingClient {
    type Context = Context<Self>;
}

impl Handler<Deliver> for RecordingClient {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        for message in deliver.batches().iter().flat_map(|batch| batch.messages()) {
            let _ = self.0.send(format!("{}|{}", message.nick, message.text.as_str()));
        }
    }
}

fn join(client: ClientId, room: &str) -> Join {
    let room = RoomName::parse(room).unwrap();
    Join { client, room, catch_up: CatchUp::Latest(0), reference: None }
}

#[actix_web::test]
async fn any_actor_that_handles_deliver_can_be_a_client() {
    let server = TestServer::start().await;
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let (client, nick) = (ClientId::next(), Nick::parse("probe").unwrap());
    let to = RecordingClient(sender).start().recipient().into();
    server.hub().send(Register { client, nick, events: false, to }).await.unwrap();
    server.hub().send(join(client, "lobby")).await.unwrap();
    let mut ada = server.join("nick=ada").await;
    ada.say("hello").await;
    assert_eq!(within("the message", received.recv()).await.unwrap(), "ada|hello");
}

#[actix_web::test]
async fn client_id_that_registers_twice_is_one_client() {
    let server = TestServer::start().await;
    let client = ClientId::next();
    for room in ["first", "second"] {
        let to =
            RecordingClient(tokio::sync::mpsc::unbounded_channel().0).start().recipient().into();
        let nick = Nick::anonymous(client);
        server.hub().send(Register { client, nick, events: false, to }).await.unwrap();
        server.hub().send(join(client, room)).await.unwrap();
    }
    let rooms = server.rooms().await;
    assert_eq!(rooms.len(), 1);
    assert_eq!((rooms[0].name.as_str(), rooms[0].member_count), ("second", 1));
}

/// Publishes a message in a room: an actor message of another crate.
#[derive(Message)]
#[rtype(result = "()")]
struct Announce {
    room: RoomName,
    text: MessageText,
}

impl Handler<Announce> for Hub {
    type Result = ();

    fn handle(&mut self, Announce { room, text }: Announce, _: &mut Self::Context) {
        self.broadcast(&room, &Nick::parse("announcer").unwrap(), text);
    }
}

#[actix_web::test]
async fn message_to_a_room_without_members_is_kept_for_those_who_join_later() {
    let server = TestServer::start().await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[json!({"type": "join", "room": "news"}), json!({"type": "leave", "room": "news"})])
        .await;
    ada.until("left").await;
    let (room, text) = (RoomName::parse("news").unwrap(), MessageText::parse("hi", 2).unwrap());
    server.hub().send(Announce { room, text }).await.unwrap();
    ada.send(&[json!({"type": "join", "room": "news"})]).await;
    let joined = ada.until("joined").await;
    assert_eq!(joined["messages"][0]["text"], "hi", "{joined}");
}

/// Delivers a text to the members of the default room with this name. The tests define this
/// message.
#[derive(Message)]
#[rtype(result = "usize")]
struct Whisper {
    to: Nick,
    text: &'static str,
}

impl Handler<Whisper> for Hub {
    type Result = usize;

    fn handle(&mut self, Whisper { to, text }: Whisper, _: &mut Self::Context) -> usize {
        let room = RoomName::default();
        let recipients: Vec<_> =
            self.members(&room).filter(|(_, nick)| **nick == to).map(|(id, _)| id).collect();
        let nick = Nick::parse("whisper").unwrap();
        let text = MessageText::parse(text, 100).unwrap();
        // It is not stored in the log.
        let message = ChatMessage::new(room, Seq::default(), Timestamp::now(), nick, text);
        let entries = vec![Entry::Message(Arc::new(message))];
        let batch = Arc::new(Batch::new(entries, Instant::now()));
        for client in &recipients {
            self.send_to(*client, Deliver::Batch(Arc::clone(&batch)));
        }
        recipients.len()
    }
}

#[actix_web::test]
async fn custom_hub_message_can_deliver_to_a_single_member() {
    let server = TestServer::start().await;
    let mut ada = server.join("nick=ada").await;
    let mut ben = server.join("nick=ben").await;
    let whisper = Whisper { to: Nick::parse("ADA").unwrap(), text: "psst" };
    assert_eq!(server.hub().send(whisper).await, Ok(1));
    ada.expect("whisper: psst").await;
    ben.say("what?").await;
    ben.expect("ben: what?").await;
    ada.expect("ben: what?").await;
}
