//! The text protocol: who receives what.

use chinwag::Config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::harness::{TestServer, config, eventually};

#[actix_web::test]
async fn message_reaches_every_member_verbatim_including_the_sender() {
    let server = TestServer::start().await;
    let mut alice = server.join("").await;
    let mut bob = server.join("").await;
    for text in ["hello", "<script>alert(1)</script>", "naïve 日本語 💬", "a\tb", r#"{"type":"x"}"#]
    {
        alice.say(text).await;
        alice.expect(text).await;
        bob.expect(text).await;
    }
}

#[actix_web::test]
async fn line_breaks_become_spaces_and_outer_spaces_are_trimmed() {
    let server = TestServer::start().await;
    let mut client = server.join("").await;
    client.say("  one\ntwo\r\nthree \n").await;
    client.expect("one two three").await;
}

#[actix_web::test]
async fn empty_message_is_ignored() {
    let server = TestServer::start().await;
    let mut client = server.join("").await;
    for blank in ["", "   ", "\n\n"] {
        client.say(blank).await;
    }
    client.say("something").await;
    client.expect("something").await;
}

#[actix_web::test]
async fn rooms_are_separate_and_their_names_are_case_insensitive() {
    let server = TestServer::start().await;
    let mut rust = server.join("room=Rust").await;
    let mut same = server.join("room=%EF%BC%B2ust").await;
    let mut lobby = server.join("").await;
    let mut named_lobby = server.join("room=lobby&nick=").await;
    rust.say("for rust").await;
    lobby.say("for the lobby").await;
    rust.expect("for rust").await;
    same.expect("for rust").await;
    lobby.expect("for the lobby").await;
    named_lobby.expect("for the lobby").await;
}

#[actix_web::test]
async fn line_of_a_named_author_begins_with_the_name() {
    let server = TestServer::start().await;
    let mut ada = server.join("nick=%20Ada%20%20Lovelace").await;
    let mut other = server.join("").await;
    ada.say("hello").await;
    ada.expect("Ada Lovelace: hello").await;
    other.expect("Ada Lovelace: hello").await;
}

#[actix_web::test]
async fn anonymous_author_cannot_imitate_a_member_but_may_use_colons() {
    let server = TestServer::start().await;
    let _ada = server.join("nick=ada").await;
    let mut mallory = server.join("").await;
    mallory.say("note: a colon").await;
    mallory.expect("note: a colon").await;
    for forged in ["ada: I quit", "ADA : I quit", "ada\u{FF1A} I quit", "a\u{200B}da: I quit"] {
        mallory.say(forged).await;
        let line = mallory.line().await.unwrap();
        assert!(line.starts_with("anonymous-") && line.ends_with(&format!(": {forged}")), "{line}");
    }
    mallory.say("anonymous-0000: me?").await;
    assert!(mallory.line().await.unwrap().ends_with(": anonymous-0000: me?"));
}

#[actix_web::test]
async fn name_prefix_is_allowed_in_rooms_without_its_owner() {
    let server = TestServer::start().await;
    let ada = server.join("nick=ada&room=elsewhere").await;
    let mut other = server.join("").await;
    other.say("ada: is not here").await;
    other.expect("ada: is not here").await;
    drop(ada);
}

#[actix_web::test]
async fn name_prefix_is_allowed_once_its_owner_has_left() {
    let server = TestServer::start().await;
    let ada = server.join("nick=ada").await;
    let mut other = server.join("").await;
    other.say("ada: not me").await;
    assert!(other.line().await.unwrap().ends_with(": ada: not me"));
    ada.leave().await;
    eventually("her to be unregistered", async || server.member_count().await == 1).await;
    other.say("ada: was here").await;
    other.expect("ada: was here").await;
}

#[actix_web::test]
async fn message_at_the_limit_is_delivered_and_a_longer_one_closes_with_1009() {
    let server = TestServer::start().await;
    let mut client = server.join("").await;
    let longest = "é".repeat(2048);
    client.say(&longest).await;
    client.expect(&longest).await;
    client.say(&format!("{longest}!")).await;
    assert_eq!(client.expect_close().await.0, 1009);
}

#[actix_web::test]
async fn binary_message_closes_the_connection_with_1003() {
    let server = TestServer::start().await;
    let mut client = server.join("").await;
    client.send(Message::binary(vec![0])).await;
    assert_eq!(client.expect_close().await.0, 1003);
}

#[actix_web::test]
async fn fragments_are_assembled_into_one_message() {
    let server = TestServer::start().await;
    let mut client = server.join("").await;
    let fragment = |bytes: &[u8], opcode, fin| {
        Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(opcode), fin))
    };
    let euro = "€".as_bytes();
    client.send(fragment(b"five ", Data::Text, false)).await;
    client.send(Message::Ping("in between".into())).await;
    client.send(fragment(&euro[..2], Data::Continue, false)).await;
    client.send(fragment(&euro[2..], Data::Continue, true)).await;
    client.expect("five €").await;
}

#[actix_web::test]
async fn new_client_receives_recent_messages_if_it_requests_history() {
    let server = TestServer::start().await;
    let mut early = server.join("nick=ada").await;
    for text in ["one", "two", "three"] {
        early.say(text).await;
        early.expect(&format!("ada: {text}")).await;
    }
    let mut late = server.join("history=2").await;
    let mut without_history = server.join("").await;
    early.say("four").await;
    for line in ["ada: two", "ada: three", "ada: four"] {
        late.expect(line).await;
    }
    without_history.expect("ada: four").await;
}

#[actix_web::test]
async fn room_remembers_at_most_resume_buffer_messages_even_when_empty() {
    let server = TestServer::start_with(Config { resume_buffer: 2, ..config() }).await;
    let mut early = server.join("").await;
    for text in ["one", "two", "three"] {
        early.say(text).await;
        early.expect(text).await;
    }
    let mut late = server.join("history=100").await;
    late.expect("two").await;
    late.expect("three").await;
    early.leave().await;
    late.leave().await;
    eventually("all clients to be unregistered", async || server.member_count().await == 0).await;
    let mut next = server.join("history=100").await;
    next.expect("two").await;
    next.expect("three").await;
}

#[actix_web::test]
async fn queued_lines_are_coalesced_into_few_frames() {
    let server = TestServer::start().await;
    let mut early = server.join("").await;
    for n in 0..500 {
        early.say(&n.to_string()).await;
        early.expect(&n.to_string()).await;
    }
    let mut late = server.join("history=500").await;
    for n in 0..500 {
        late.expect(&n.to_string()).await;
    }
    assert_eq!(late.messages, 1, "500 short lines fit one message");
}

#[actix_web::test]
async fn messages_of_one_client_arrive_in_the_order_sent() {
    let server = TestServer::start().await;
    let mut client = server.join("").await;
    for n in 0..1000 {
        client.say(&n.to_string()).await;
    }
    for n in 0..1000 {
        client.expect(&n.to_string()).await;
    }
}
