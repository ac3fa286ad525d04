//! Each limit is exceeded by one: the client that exceeds it receives an error and may try again,
//! and other clients are not affected.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use chinwag::Config;
use chinwag::config::Rate;
use chinwag::hub::HubStats;
use futures_util::future::select_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderName;

use crate::browser::Browser;
use crate::harness::{
    Client, TestServer, also_with_http_server, config, eventually, frame, raw_handshake, raw_http,
    raw_socket, within,
};
use crate::json::JsonClient;

also_with_http_server! {
    long_answers_count_as_several_commands,
    blank_frames_count_as_commands,
}

fn join(room: &str) -> Value {
    json!({"type": "join", "room": room})
}

fn leave(room: &str) -> Value {
    json!({"type": "leave", "room": room})
}

#[actix_web::test]
async fn room_over_max_rooms_is_refused() {
    let server = TestServer::start_with(Config { max_rooms: Some(2), ..config() }).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    ada.send(&[join("a"), join("b"), join("c"), join("a"), leave("b"), join("c")]).await;
    ada.expect("joined").await;
    ada.expect("joined").await;
    let error = ada.expect_error("busy").await;
    assert_eq!(error["temporary"], true);
    assert_eq!(ada.expect("joined").await["room"], "a", "a room that exists");
    ada.expect("left").await;
    assert_eq!(ada.expect("joined").await["room"], "c", "a room was removed");
    // The text protocol has no errors, so the connection is closed.
    let mut text = server.connect("room=d").await;
    assert_eq!(text.expect_close().await.0, 1013);
    assert_eq!(limit_hits(&server, "max_rooms").await, 2);
    let mut ben = server.join("room=a").await;
    ben.say("hello").await;
    ben.expect("hello").await;
}

/// All connections of an address share its limit, other addresses can still create rooms, and the
/// default room is exempt.
#[actix_web::test]
async fn address_over_max_rooms_per_address_may_still_join_the_default_room() {
    let limited = Config {
        max_rooms: Some(4),
        max_rooms_per_address: Some(2),
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        ..config()
    };
    let server = TestServer::start_with(limited).await;
    let mut first = JsonClient::hello(server.addr(), json!({})).await;
    let mut second = JsonClient::hello(server.addr(), json!({})).await;
    first.send(&[join("a")]).await;
    first.expect("joined").await;
    second.send(&[join("b"), join("c"), join("a"), join("lobby"), leave("b"), join("c")]).await;
    assert_eq!(second.expect("joined").await["room"], "b");
    assert_eq!(second.expect_error("busy").await["temporary"], true);
    assert_eq!(second.expect("joined").await["room"], "a", "a room that exists");
    assert_eq!(second.expect("joined").await["room"], "lobby");
    second.expect("left").await;
    second.expect_error("busy").await;
    assert_eq!(limit_hits(&server, "max_rooms_per_address").await, 2);
    second.send(&[leave("lobby"), join("c")]).await;
    second.expect("left").await;
    assert_eq!(second.expect("joined").await["room"], "c", "one of its rooms was removed");
    // Another address creates rooms up to max_rooms. Then only the default room can be created.
    let elsewhere = "X-Forwarded-For: 198.51.100.7\r\n";
    let mut rooms = Vec::new();
    for room in ["d", "e"] {
        rooms.push(connect_with_query(&server, &format!("?room={room}"), elsewhere).await);
    }
    eventually("four rooms to exist", async || server.rooms().await.len() == 4).await;
    let mut refused =
        connect_with_query(&server, "?room=f", "X-Forwarded-For: 198.51.100.8\r\n").await;
    assert_eq!(refused.expect_close().await.0, 1013);
    let mut visitor = connect_with_query(&server, "", "X-Forwarded-For: 198.51.100.8\r\n").await;
    visitor.say("hello").await;
    visitor.expect("hello").await;
}

#[actix_web::test]
async fn member_over_max_members_per_room_is_refused() {
    let limited = Config { max_members_per_room: Some(2), ..config() };
    let server = TestServer::start_with(limited).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    ada.send(&[join("a")]).await;
    ada.expect("joined").await;
    let mut ben = server.join("room=a").await;
    let mut eve = JsonClient::hello(server.addr(), json!({"nick": "Eve"})).await;
    eve.send(&[join("a"), join("b")]).await;
    assert_eq!(eve.expect_error("busy").await["temporary"], true);
    assert_eq!(eve.expect("joined").await["room"], "b", "another room is not full");
    let mut text = server.connect("room=a").await;
    assert_eq!(text.expect_close().await.0, 1013);
    assert_eq!(limit_hits(&server, "max_members_per_room").await, 2);
    // A member may join again, and a new client may join after a member has left.
    ada.send(&[join("a"), leave("a")]).await;
    ada.expect("joined").await;
    ada.expect("left").await;
    eve.send(&[join("a"), json!({"type": "say", "room": "a", "text": "in"})]).await;
    assert_eq!(eve.expect("joined").await["member_count"], 2);
    ben.expect("Eve: in").await;
}

/// Old messages are deleted long before the file reaches its limit.
#[cfg(feature = "journal")]
#[actix_web::test]
async fn old_messages_make_space_in_a_journal_of_limited_size() {
    const LIMIT: u64 = 1280 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("log.db");
    let server = TestServer::start_with(Config {
        db: Some(db.clone()),
        max_db_bytes: Some(LIMIT),
        ..config()
    })
    .await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[join("a"), join("b")]).await;
    ada.expect("joined").await;
    ada.expect("joined").await;
    let say = |room: &str, n: usize| {
        let (text, id) = ("x".repeat([1, 4000][n % 2]), format!("{room}{n}"));
        json!({"type": "say", "room": room, "text": text, "id": id})
    };
    for n in 0..2000 {
        ada.send(&[say(["a", "b"][usize::from(n % 10 == 0)], n)]).await;
        loop {
            let answer = within("an answer", ada.next()).await.unwrap();
            assert_ne!(answer["type"], "error", "number {n}: {answer}");
            if answer["type"] == "said" {
                break;
            }
        }
    }
    // The messages were three times as large as the file may be.
    ada.send(&[json!({"type": "history", "room": "a", "limit": 3})]).await;
    assert_eq!(ada.until("history").await["messages"].as_array().unwrap().len(), 3);
    server.stop().await;
    let size = db.metadata().unwrap().len();
    assert!(size < LIMIT, "{size} bytes");
}

#[cfg(feature = "journal")]
#[actix_web::test]
async fn journal_at_max_db_bytes_rejects_messages() {
    const LIMIT: u64 = 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let db = Some(folder.path().join("log.db"));
    let limited = Config { db, max_db_bytes: Some(LIMIT), keep_bytes: Some(u64::MAX), ..config() };
    let server = TestServer::start_with(limited.clone()).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    ada.send(&[join("a")]).await;
    ada.expect("joined").await;
    let say = json!({"type": "say", "room": "a", "text": "x".repeat(4000)});
    let mut stored = 0;
    let error = loop {
        ada.send(std::slice::from_ref(&say)).await;
        let answer = ada.next().await.unwrap();
        if answer["type"] == "error" {
            break answer;
        }
        stored += 1;
        assert!(stored * 4000 < LIMIT, "the file exceeds its limit");
        ada.expect("said").await;
    };
    assert_eq!((&error["code"], &error["temporary"]), (&json!("busy"), &json!(true)));
    assert!(stored * 4000 > LIMIT / 2, "only {stored} messages are stored");
    assert_eq!(limit_hits(&server, "max_db_bytes").await, 1);
    ada.send(&[json!({"type": "history", "room": "a", "limit": 5})]).await;
    let history = ada.expect("history").await;
    assert_eq!(history["messages"].as_array().unwrap().len(), 5, "reading still works");
    server.stop().await;
    let size = limited.db.as_ref().unwrap().metadata().unwrap().len();
    assert!(size <= LIMIT, "{size} bytes");

    let server = TestServer::start_with(Config { max_db_bytes: None, ..limited }).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    ada.send(&[join("a"), say]).await;
    ada.expect("joined").await;
    ada.expect("message").await;
}

#[actix_web::test]
async fn commands_over_command_rate_delay_only_their_sender() {
    let server = TestServer::start_with(Config { command_rate: rate(4, 3), ..config() }).await;
    let began = Instant::now();
    // `hello` counts as the first command.
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    let who = json!({"type": "who", "room": "a"});
    ada.send(&[join("a"), who.clone()]).await;
    ada.expect("joined").await;
    ada.expect("members").await;
    ada.send(&[who.clone(), who.clone(), who.clone(), who.clone(), say("hello"), who.clone()])
        .await;
    ada.send(&[who]).await;
    let mut ben = JsonClient::hello(server.addr(), json!({})).await;
    ben.send(&[join("a")]).await;
    ben.expect("joined").await;
    // All commands are answered in order.
    for _ in 0..4 {
        ada.expect("members").await;
    }
    ada.until("said").await;
    for _ in 0..2 {
        ada.expect("members").await;
    }
    // Six commands had to wait for a quarter of a second each, or less on a slow machine.
    assert!(began.elapsed() >= Duration::from_millis(1450), "{:?}", began.elapsed());
    let delayed = limit_hits(&server, "command_rate").await;
    assert!((1..=6).contains(&delayed), "{delayed} commands were delayed");
}

#[actix_web::test]
async fn clients_of_one_address_share_command_rate_per_address() {
    let limited = Config { command_rate_per_address: rate(4, 3), ..config() };
    let server = TestServer::start_with(limited).await;
    let began = Instant::now();
    for _ in 0..9 {
        JsonClient::hello(server.addr(), json!({})).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(1450), "{:?}", began.elapsed());
    let delayed = limit_hits(&server, "command_rate_per_address").await;
    assert!((1..=6).contains(&delayed), "{delayed} commands were delayed");
}

/// Errors are answers, too, so a client that only causes errors is not read faster.
#[actix_web::test]
async fn invalid_and_rejected_commands_count_toward_command_rate() {
    let limited = Config { command_rate: rate(4, 3), publish_rate: rate(1, 1), ..config() };
    let server = TestServer::start_with(limited).await;
    let began = Instant::now();
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send_text("{\n{\n{\n{\n{").await;
    for _ in 0..5 {
        ada.expect_error("bad_json").await;
    }
    // The third, fourth and fifth error have each waited for a quarter of a second.
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
    let sent = Instant::now();
    let texts = ["1", "2", "3", "4", "5", "6", "7", "8"];
    ada.send(&[vec![join("a")], texts.map(say).to_vec()].concat()).await;
    let mut commands = 1;
    let mut answer = ada.expect("joined").await;
    while answer["ref"] != "8" {
        answer = within("an answer", ada.next()).await.unwrap();
        commands += u32::from(answer["code"] == "rate_limited");
    }
    assert!(commands > 3, "only {} messages exceeded publish_rate", commands - 1);
    let waited = Duration::from_millis(250) * (commands - 3);
    let took = sent.elapsed();
    assert!(took + Duration::from_millis(50) >= waited, "{commands} commands in {took:?}");
}

/// Returns how often the server says that a limit was reached.
async fn limit_hits(server: &TestServer, limit: &str) -> u64 {
    let name = format!("chinwag_limit_hits_total{{limit=\"{limit}\"}}");
    crate::metrics::metric(server, &name).await as u64
}

/// Requests a WebSocket, and returns the status and the seconds of `Retry-After`, if any.
async fn attempt_upgrade(server: &TestServer, headers: &str) -> (u16, Option<u64>) {
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    let answer = raw_http(server.addr(), &request).await.to_lowercase();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let retry = answer.split("retry-after: ").nth(1);
    (status, retry.map(|rest| rest.split("\r\n").next().unwrap().parse().unwrap()))
}

#[actix_web::test]
async fn connection_over_max_connections_is_refused() {
    let server = TestServer::start_with(Config { max_connections: Some(2), ..config() }).await;
    let mut first = server.join("").await;
    let second = server.join("").await;
    assert_eq!(attempt_upgrade(&server, "").await, (503, Some(5)));
    assert_eq!(limit_hits(&server, "max_connections").await, 1);
    let page = raw_http(server.addr(), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(page.starts_with("HTTP/1.1 200 "), "HTTP requests are still answered");
    second.leave().await;
    eventually("the slot to be free", async || attempt_upgrade(&server, "").await.0 == 101).await;
    first.say("still here").await;
    first.expect("still here").await;
}

#[actix_web::test]
async fn closed_client_frees_its_slot_before_its_socket_is_gone() {
    let write_timeout = Duration::from_secs(3600);
    let one = Config { max_connections: Some(1), write_timeout, ..config() };
    let server = TestServer::start_with(one).await;
    let mut idle = raw_socket(server.addr(), "/ws").await;
    idle.write_all(&frame(0x82, b"no text")).await.unwrap();
    eventually("the slot to be free", async || attempt_upgrade(&server, "").await.0 == 101).await;
}

#[actix_web::test]
async fn max_connections_per_address_applies_to_the_forwarded_address() {
    let limited = Config {
        max_connections_per_address: Some(1),
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        ..config()
    };
    let server = TestServer::start_with(limited).await;
    let mut clients = Vec::new();
    for address in ["198.51.100.7", "198.51.100.8", "[2001:db8::1]"] {
        let forwarded = format!("X-Forwarded-For: 10.1.1.1, {address}\r\n");
        clients.push(connect_with_headers(&server, &forwarded).await);
        assert_eq!(attempt_upgrade(&server, &forwarded).await, (429, Some(5)), "{address}");
    }
    let same_network = "X-Forwarded-For: 2001:db8::2\r\n";
    assert_eq!(attempt_upgrade(&server, same_network).await.0, 429);
    assert_eq!(limit_hits(&server, "max_connections_per_address").await, 4);
    // The origin is compared with the forwarded host.
    let named = "X-Forwarded-For: 198.51.100.9\r\nX-Forwarded-Host: chat.example\r\n\
                 Origin: https://chat.example\r\n";
    assert_eq!(attempt_upgrade(&server, named).await.0, 101);
}

/// Sockets without a complete request count, too.
#[actix_web::test]
async fn idle_sockets_of_one_address_are_limited() {
    let limited = Config { max_connections_per_address: Some(1), ..config() };
    let metrics = limited.metrics.clone();
    let server = TestServer::start_with(limited).await;
    let mut other = server.join("").await;
    let mut idle = Vec::new();
    while idle.len() < 2 + 16 {
        idle.push(TcpStream::connect(server.addr()).await.unwrap());
    }
    // The last socket to reach its worker exceeds the limit and is closed without a response. The
    // others time out later with a 408.
    let reads = idle.iter_mut().map(|tcp| {
        Box::pin(async {
            let mut answer = Vec::new();
            let ended = tcp.read_to_end(&mut answer).await;
            (ended, answer)
        })
    });
    let ((ended, answer), ..) = within("an end", select_all(reads)).await;
    assert!(ended.is_err() || answer.is_empty(), "{answer:?}");
    other.say("still here").await;
    other.expect("still here").await;
    drop(idle);
    let page = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let served = async || raw_http(server.addr(), page).await.starts_with("HTTP/1.1 200 ");
    eventually("a free slot", served).await;
    // A request for the metrics would take a socket of the address.
    let text = metrics.encode(&HubStats::default(), Duration::ZERO, None);
    let hits = "chinwag_limit_hits_total{limit=\"max_connections_per_address\"} ";
    let hits = text.split_once(hits).unwrap().1.lines().next().unwrap();
    assert!(hits.parse::<u64>().unwrap() >= 1, "{text}");
}

#[actix_web::test]
async fn forwarded_address_from_an_untrusted_peer_is_ignored() {
    let limited = Config { max_connections_per_address: Some(1), ..config() };
    let server = TestServer::start_with(limited).await;
    let _client = connect_with_headers(&server, "X-Forwarded-For: 198.51.100.7\r\n").await;
    assert_eq!(attempt_upgrade(&server, "X-Forwarded-For: 198.51.100.8\r\n").await.0, 429);
    let server = TestServer::start().await;
    let rebound = "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Host: rebound.example\r\n\
                   Origin: http://rebound.example\r\n";
    assert_eq!(attempt_upgrade(&server, rebound).await.0, 403);
}

/// Connects a WebSocket with additional headers.
async fn connect_with_headers(server: &TestServer, headers: &str) -> Client {
    connect_with_query(server, "", headers).await
}

async fn connect_with_query(server: &TestServer, query: &str, headers: &str) -> Client {
    let url = format!("ws://{}/ws{query}", server.addr());
    let mut request = url.into_client_request().unwrap();
    for header in headers.split_terminator("\r\n") {
        let (name, value) = header.split_once(": ").unwrap();
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    within("a handshake", async {
        let tcp = TcpStream::connect(server.addr()).await.unwrap();
        Client::handshake(tcp, request).await
    })
    .await
}

#[actix_web::test]
async fn connection_attempts_over_connect_rate_are_refused() {
    let server =
        TestServer::start_with(Config { connect_rate: NonZeroU32::new(1), ..config() }).await;
    let began = Instant::now();
    let mut attempts = 0;
    let refused = within("an attempt to be refused", async {
        loop {
            // Requests from pages of other sites do not count, since the user did not make them.
            let evil = "Origin: http://evil.example\r\n";
            assert_eq!(attempt_upgrade(&server, evil).await, (403, None));
            match attempt_upgrade(&server, "").await {
                (101, None) => attempts += 1,
                refused => break refused,
            }
        }
    });
    assert_eq!(refused.await, (429, Some(1)));
    // One attempt is allowed immediately, and one more for each second that the test takes.
    let allowed = 1..=1 + began.elapsed().as_secs();
    assert!(allowed.contains(&attempts), "{attempts} attempts, not {allowed:?}");
    assert_eq!(limit_hits(&server, "connect_rate").await, 1);
    eventually("another attempt to be allowed", async || {
        attempt_upgrade(&server, "").await.0 == 101
    })
    .await;
}

fn rate(per_second: u32, burst: u32) -> Option<Rate> {
    let [per_second, burst] = [per_second, burst].map(|number| NonZeroU32::new(number).unwrap());
    Some(Rate { per_second, burst })
}

fn say(text: &str) -> Value {
    json!({"type": "say", "room": "a", "text": text, "id": text, "ref": text})
}

#[actix_web::test]
async fn messages_over_publish_rate_are_rejected_with_a_retry_time() {
    let server = TestServer::start_with(Config { publish_rate: rate(1, 2), ..config() }).await;
    let hello = json!({"nick": "Ada", "key": "the secret of Ada's windows"});
    let mut ada = JsonClient::hello(server.addr(), hello.clone()).await;
    let mut second = JsonClient::hello(server.addr(), hello).await;
    let mut ben = JsonClient::hello(server.addr(), json!({"nick": "Ben"})).await;
    for client in [&mut ada, &mut second, &mut ben] {
        client.send(&[join("a")]).await;
        client.expect("joined").await;
    }
    ada.send(&[say("one")]).await;
    ada.until("said").await;
    // The second connection has the same identity. It sends so many messages that some exceed the
    // rate on a slow machine, too.
    let texts = ["2", "3", "4", "5", "6", "7", "8"];
    second.send(&texts.map(say)).await;
    let refused = second.until("error").await;
    assert_eq!((&refused["code"], &refused["temporary"]), (&json!("rate_limited"), &json!(true)));
    let wait = refused["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1000).contains(&wait), "{wait}");
    assert!(limit_hits(&server, "publish_rate").await >= 1);
    // Other identities are not affected, and no connection is closed.
    ben.send(&[say("hello")]).await;
    ben.until("said").await;
    // The sleep is part of the test: the message is accepted after `retry_after_ms`.
    tokio::time::sleep(Duration::from_millis(wait)).await;
    second.send(&[say(refused["ref"].as_str().unwrap())]).await;
    while second.until("said").await["ref"] != refused["ref"] {}
}

/// One connection changes to a new identity before each message.
/// A topic takes more permits of the backlog than the backlog has.
#[actix_web::test]
async fn topic_may_be_longer_than_the_longest_message() {
    let server = TestServer::start_with(Config { max_message_bytes: 100, ..config() }).await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    let topic = "ä".repeat(250);
    let set_room = json!({"type": "set_room", "room": "a", "topic": topic});
    ada.send(&[json!({"type": "join", "room": "a"}), set_room]).await;
    ada.expect("joined").await;
    assert_eq!(ada.expect("room").await["topic"], topic);
    ada.expect("said").await;
}

#[actix_web::test]
async fn changing_identity_does_not_raise_the_publish_rate() {
    let server = TestServer::start_with(Config { publish_rate: rate(1, 2), ..config() }).await;
    let began = Instant::now();
    let mut eve = JsonClient::hello(server.addr(), json!({})).await;
    let mut lines = vec![join("a")];
    for n in 0..10 {
        lines.push(json!({"type": "hello", "key": format!("a secret of Eve's, number {n}")}));
        lines.push(say(&n.to_string()));
    }
    eve.send(&lines).await;
    let (mut said, mut refused) = (0, 0);
    while said + refused < 10 {
        let line = within("an answer", eve.next()).await.unwrap();
        said += u64::from(line["type"] == "said");
        refused += u64::from(line["code"] == "rate_limited");
    }
    assert!(said <= 2 + began.elapsed().as_secs(), "{said} in {:?}", began.elapsed());
}

/// Frames that contain only line breaks cost the server time, too.
#[actix_web::test]
async fn blank_frames_count_as_commands() {
    let limited = Config { command_rate: rate(4, 3), ..config() };
    let server = TestServer::start_with(limited).await;
    let began = Instant::now();
    let mut eve = JsonClient::hello(server.addr(), json!({})).await;
    let mut text = server.connect("").await;
    for blank in ["\n".repeat(20_000), " \r\n".to_owned(), "\t".to_owned()] {
        for _ in 0..3 {
            eve.send_text(&blank).await;
            text.say(&blank).await;
        }
    }
    eve.send(&[json!({"type": "who", "room": "a"})]).await;
    text.say("at last").await;
    eve.expect_error("not_joined").await;
    text.expect("at last").await;
    // The JSON client has sent eleven commands, with its hello, and the text client nine blank
    // ones.
    let (minimum, took) = (Duration::from_millis((9 - 3) * 250), began.elapsed());
    assert!(took + Duration::from_millis(50) >= minimum, "in {took:?}");
}

/// There was a bug: 20 connections that sent only pings used both cores.
#[actix_web::test]
async fn pings_pongs_and_fragments_count_as_commands() {
    let server = TestServer::start_with(Config { command_rate: rate(4, 3), ..config() }).await;
    let began = Instant::now();
    let mut eve = raw_socket(server.addr(), "/ws").await;
    let fragments = [frame(0x01, b"at"), frame(0x00, b" "), frame(0x80, b"last")];
    let sent = [frame(0x89, b"").repeat(6), frame(0x8A, b"").repeat(2), fragments.concat()];
    eve.write_all(&sent.concat()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"at last") {
        assert_ne!(within("an answer", eve.read_buf(&mut read)).await.unwrap(), 0);
    }
    assert_eq!(read.iter().filter(|&&byte| byte == 0x8A).count(), 6, "each ping is answered");
    let (minimum, took) = (Duration::from_millis((10 - 3) * 250), began.elapsed());
    assert!(took + Duration::from_millis(50) >= minimum, "in {took:?}");
}

#[actix_web::test]
async fn fragments_of_a_compressed_message_count_as_commands() {
    let server = TestServer::start_with(Config { command_rate: rate(4, 3), ..config() }).await;
    let began = Instant::now();
    let tcp = TcpStream::connect(server.addr()).await.unwrap();
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let (mut eve, _) = raw_handshake(tcp, server.addr(), "/ws", offer).await;
    // "hi" in a block of fixed Huffman codes.
    let fragments = [0xCA, 0xC8, 0x04, 0x00].map(|byte| frame(0x00, &[byte])).concat();
    let empty = frame(0x00, b"").repeat(5);
    let sent = [frame(0x41, b""), empty, fragments, frame(0x80, b"")].concat();
    eve.write_all(&sent).await.unwrap();
    let mut answer = [0; 4];
    within("an answer", eve.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"\x81\x02hi");
    let (minimum, took) = (Duration::from_millis((10 - 3) * 250), began.elapsed());
    assert!(took + Duration::from_millis(50) >= minimum, "in {took:?}");
}

/// A room counts for the address of a client that is still in it.
#[actix_web::test]
async fn rooms_are_charged_to_remaining_members_when_their_opener_leaves() {
    let limited = Config {
        max_rooms_per_address: Some(2),
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        ..config()
    };
    let server = TestServer::start_with(limited).await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[join("a"), join("b"), join("c")]).await;
    ada.expect("joined").await;
    ada.expect("joined").await;
    ada.expect_error("busy").await;
    let elsewhere = "X-Forwarded-For: 198.51.100.7\r\n";
    let mut others = Vec::new();
    for room in ["a", "b"] {
        others.push(connect_with_query(&server, &format!("?room={room}"), elsewhere).await);
    }
    eventually("the other address to join both rooms", async || server.member_count().await == 4)
        .await;
    ada.send(&[leave("a"), leave("b"), join("c"), join("d")]).await;
    ada.expect("left").await;
    ada.expect("left").await;
    assert_eq!(ada.expect("joined").await["room"], "c");
    assert_eq!(ada.expect("joined").await["room"], "d");
    // Rooms `a` and `b` now count for the other address.
    let mut third = connect_with_query(&server, "?room=e", elsewhere).await;
    assert_eq!(third.expect_close().await.0, 1013);
}

/// Only the hub knows the rooms of the other connections of an identity.
#[actix_web::test]
async fn name_change_cost_includes_rooms_of_all_connections_of_the_identity() {
    let server = TestServer::start_with(Config { command_rate: rate(20, 130), ..config() }).await;
    let key = json!({"key": "the key of one with two connections"});
    let mut member = JsonClient::hello(server.addr(), key.clone()).await;
    let rooms: Vec<_> = (0..100).map(|n| join(&format!("r{n}"))).collect();
    member.send(&rooms).await;
    for _ in 0..100 {
        member.expect("joined").await;
    }
    let mut eve = JsonClient::hello(server.addr(), key).await;
    let began = Instant::now();
    let nick = |n: usize| json!({"type": "nick", "nick": format!("eve-{n}")});
    let names: Vec<_> = (0..20).map(nick).collect();
    eve.send(&names).await;
    while eve.until("welcome").await["nick"] != "eve-19" {}
    // 20 changes and the hello cost 11 commands each. The burst covers 130 of them.
    assert!(began.elapsed() >= Duration::from_secs(4), "in {:?}", began.elapsed());
}

/// The more rooms a client is in, the more a change of its name costs.
#[actix_web::test]
async fn name_change_in_a_hundred_rooms_counts_as_eleven_commands() {
    let server = TestServer::start_with(Config { command_rate: rate(20, 130), ..config() }).await;
    let mut eve = JsonClient::hello(server.addr(), json!({})).await;
    let rooms: Vec<_> = (0..100).map(|n| join(&format!("r{n}"))).collect();
    eve.send(&rooms).await;
    for _ in 0..100 {
        eve.expect("joined").await;
    }
    let began = Instant::now();
    let nick = |n: usize| json!({"type": "nick", "nick": format!("eve-{n}")});
    let names: Vec<_> = (0..20).map(nick).collect();
    eve.send(&names).await;
    while eve.until("welcome").await["nick"] != "eve-19" {}
    // 20 changes cost 11 commands each, 220 in total. The burst covers at most 130 of them, and the
    // rest takes place at 20 a second.
    assert!(began.elapsed() >= Duration::from_secs(4), "in {:?}", began.elapsed());
}

/// One address cannot fill the disk, however slowly it sends.
#[actix_web::test]
async fn publish_bytes_per_address_are_limited_per_hour_and_per_day() {
    for limit in ["hour", "day"] {
        let max_bytes = NonZeroU32::new(10_000);
        let mut limited = config();
        match limit {
            "hour" => limited.publish_bytes_per_hour_per_address = max_bytes,
            _ => limited.publish_bytes_per_day_per_address = max_bytes,
        }
        let server = TestServer::start_with(limited).await;
        let mut accepted = 0;
        for client in 0..2 {
            let mut eve = JsonClient::hello(server.addr(), json!({})).await;
            let line =
                |n: usize| json!({"type": "say", "room": "a", "text": "x".repeat(1000), "ref": n});
            eve.send(&[vec![join("a")], (0..8).map(line).collect()].concat()).await;
            let mut wait = 0;
            for _ in 0..8 {
                let answer = loop {
                    let line = within("an answer", eve.next()).await.unwrap();
                    if line.get("ref").is_some() {
                        break line;
                    }
                };
                accepted += usize::from(answer["type"] == "said");
                wait = wait.max(answer["retry_after_ms"].as_u64().unwrap_or_default());
            }
            assert_eq!(wait > 60_000, client == 1, "{wait}");
        }
        // Ten messages fit, and one more if the test takes six minutes.
        assert!((10..=11).contains(&accepted), "{accepted} in the {limit}");
        let hits = limit_hits(&server, &format!("publish_bytes_per_{limit}_per_address")).await;
        assert_eq!(hits, 16 - accepted as u64);
    }
}

/// A command of 80 bytes that requests 1 MB costs more than others.
#[actix_web::test]
async fn long_answers_count_as_several_commands() {
    let server = TestServer::start_with(Config { command_rate: rate(100, 130), ..config() }).await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[join("a")]).await;
    let epoch = ada.expect("joined").await["epoch"].clone();
    for n in 0..256 {
        ada.send(&[
            json!({"type": "say", "room": "a", "text": "x".repeat(4000), "id": n.to_string()}),
        ])
        .await;
        ada.until("said").await;
    }
    let mut eve = JsonClient::hello(server.addr(), json!({})).await;
    let began = Instant::now();
    let again = json!({"type": "join", "room": "a", "after": {"epoch": epoch, "seq": 0}});
    eve.send(&vec![again; 6]).await;
    for _ in 0..6 {
        assert_eq!(eve.expect("joined").await["messages"].as_array().unwrap().len(), 256);
    }
    // The five answers before the last one cost 62 commands each, 310 in total. The burst covers at
    // most 130 of them, and the rest takes place at 100 a second.
    assert!(began.elapsed() >= Duration::from_millis(1750), "in {:?}", began.elapsed());
}

#[actix_web::test]
async fn clients_of_one_address_share_publish_rate_per_address() {
    let limited = Config { publish_rate_per_address: rate(1, 2), ..config() };
    let server = TestServer::start_with(limited).await;
    let mut first = JsonClient::hello(server.addr(), json!({})).await;
    first.send(&[join("a"), say("1")]).await;
    first.until("said").await;
    let mut second = JsonClient::hello(server.addr(), json!({})).await;
    second.send(&[join("a"), say("2"), say("3"), say("4"), say("5"), say("6"), say("7")]).await;
    second.expect("joined").await;
    assert_eq!(second.until("error").await["code"], "rate_limited");
    assert!(limit_hits(&server, "publish_rate_per_address").await >= 1);
}

#[actix_web::test]
async fn text_client_over_publish_rate_is_delayed_without_loss() {
    let server = TestServer::start_with(Config { publish_rate: rate(20, 2), ..config() }).await;
    let mut ada = server.join("").await;
    let started = Instant::now();
    for n in 0..12 {
        ada.say(&n.to_string()).await;
    }
    for n in 0..12 {
        ada.expect(&n.to_string()).await;
    }
    // Two messages pass immediately, and ten at 20 a second.
    assert!(started.elapsed() >= Duration::from_millis(450), "{:?}", started.elapsed());
    ada.leave().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn page_resends_rate_limited_messages_automatically() {
    let server = TestServer::start_with(Config { publish_rate: rate(1, 1), ..config() }).await;
    let mut ben = server.join("").await;
    let page = Browser::open(&format!("http://localhost:{}/", server.addr().port())).await;
    page.is_called("Ada").await;
    for text in ["one", "two", "three"] {
        page.say(text).await;
    }
    let mut lines = BTreeSet::new();
    while lines.len() < 3 {
        let line = within("all messages", ben.line()).await.unwrap();
        assert!(lines.insert(line), "no message arrives twice");
    }
    page.until("!document.querySelector('#pending article')").await;
    page.close().await;
}
