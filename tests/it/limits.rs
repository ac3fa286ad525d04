//! Limits, each crossed by one: who is refused is told so and may try again, and nobody else
//! notices.

use chinwag::Config;
use serde_json::{Value, json};

use crate::harness::{TestServer, config};
use crate::json::JsonClient;

fn join(room: &str) -> Value {
    json!({"type": "join", "room": room})
}

fn leave(room: &str) -> Value {
    json!({"type": "leave", "room": room})
}

#[actix_web::test]
async fn there_are_as_many_rooms_as_allowed_and_not_one_more() {
    let server = TestServer::start_with(Config { max_rooms: Some(2), ..config() }).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    ada.send(&[join("a"), join("b"), join("c"), join("a"), leave("b"), join("c")]).await;
    ada.expect("joined").await;
    ada.expect("joined").await;
    let error = ada.expect_error("busy").await;
    assert_eq!(error["temporary"], true);
    assert_eq!(ada.expect("joined").await["room"], "a", "a room that is there");
    ada.expect("left").await;
    assert_eq!(ada.expect("joined").await["room"], "c", "there is a place again");
    // Plain text cannot say so otherwise.
    let mut plain = server.connect("room=d").await;
    assert_eq!(plain.expect_close().await.0, 1013);
    let mut ben = server.join("room=a").await;
    ben.say("hello").await;
    ben.expect("hello").await;
}

#[actix_web::test]
async fn a_room_takes_as_many_members_as_allowed_and_not_one_more() {
    let limited = Config { max_members_per_room: Some(2), ..config() };
    let server = TestServer::start_with(limited).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    ada.send(&[join("a")]).await;
    ada.expect("joined").await;
    let mut ben = server.join("room=a").await;
    let mut eve = JsonClient::hello(server.addr(), json!({"nick": "Eve"})).await;
    eve.send(&[join("a"), join("b")]).await;
    assert_eq!(eve.expect_error("busy").await["temporary"], true);
    assert_eq!(eve.expect("joined").await["room"], "b", "another room has places");
    let mut plain = server.connect("room=a").await;
    assert_eq!(plain.expect_close().await.0, 1013);
    // Who is in may join again, and whoever leaves makes room.
    ada.send(&[join("a"), leave("a")]).await;
    ada.expect("joined").await;
    ada.expect("left").await;
    eve.send(&[join("a"), json!({"type": "say", "room": "a", "text": "in"})]).await;
    assert_eq!(eve.expect("joined").await["member_count"], 2);
    ben.expect("Eve: in").await;
}

#[cfg(feature = "journal")]
#[actix_web::test]
async fn a_journal_grows_to_its_limit_and_no_further() {
    const LIMIT: u64 = 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let db = Some(folder.path().join("log.db"));
    let limited = Config { db, max_db_bytes: Some(LIMIT), ..config() };
    let server = TestServer::start_with(limited.clone()).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    ada.send(&[join("a")]).await;
    ada.expect("joined").await;
    let say = json!({"type": "say", "room": "a", "text": "x".repeat(4000)});
    let mut kept = 0;
    let refused = loop {
        ada.send(std::slice::from_ref(&say)).await;
        let answer = ada.next().await.unwrap();
        if answer["type"] == "error" {
            break answer;
        }
        kept += 1;
        assert!(kept * 4000 < LIMIT, "more is kept than fits");
        ada.expect("said").await;
    };
    assert_eq!((&refused["code"], &refused["temporary"]), (&json!("busy"), &json!(true)));
    assert!(kept * 4000 > LIMIT / 2, "{kept} are kept");
    ada.send(&[json!({"type": "history", "room": "a", "limit": 5})]).await;
    let history = ada.expect("history").await;
    assert_eq!(history["messages"].as_array().unwrap().len(), 5, "reading goes on");
    server.stop().await;
    let size = limited.db.as_ref().unwrap().metadata().unwrap().len();
    assert!(size <= LIMIT, "{size} bytes");

    let server = TestServer::start_with(Config { max_db_bytes: None, ..limited }).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    ada.send(&[join("a"), say]).await;
    ada.expect("joined").await;
    ada.expect("message").await;
}
