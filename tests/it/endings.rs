//! Every way a connection ends: what the client reads, and what the hub is told.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use chinwag::domain::{ClientId, MessageText, RoomName};
use chinwag::hub::{Broadcast, Drain};
use chinwag::protocol::DisconnectReason as Reason;
use chinwag::server::ServerError;
use chinwag::{Config, Hub};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::harness::{
    TestServer, also_on_the_plain_road, also_over_tls, config, eventually, raw_socket, raw_upgrade,
    within,
};
use crate::json::JsonClient;

also_on_the_plain_road! {
    a_client_that_leaves_is_answered_with_its_own_code,
    after_a_close_handshake_the_server_closes_the_connection_at_once,
    a_client_that_vanishes_is_unregistered,
    what_is_not_websocket_ends_in_1002,
    text_that_is_not_utf_8_ends_in_1007,
    a_frame_over_the_limit_is_refused_at_its_header_with_1009,
    a_client_that_does_not_answer_pings_is_told_4002,
    a_client_that_stops_reading_is_evicted_and_the_others_read_on,
    at_shutdown_every_client_reads_1001_and_a_late_one_too,
    a_long_replay_is_told_whole_before_the_end_and_what_was_said_meanwhile_behind_it,
}

also_over_tls! {
    a_client_that_leaves_is_answered_with_its_own_code,
    a_client_that_vanishes_is_unregistered,
    what_is_not_websocket_ends_in_1002,
    text_that_is_not_utf_8_ends_in_1007,
    a_frame_over_the_limit_is_refused_at_its_header_with_1009,
    a_client_that_does_not_answer_pings_is_told_4002,
    a_client_that_stops_reading_is_evicted_and_the_others_read_on,
    at_shutdown_every_client_reads_1001_and_a_late_one_too,
    a_long_replay_is_told_whole_before_the_end_and_what_was_said_meanwhile_behind_it,
    client_that_never_closes_does_not_delay_shutdown,
}

/// Sends bytes and reads the code of the close frame that answers them, then to the end.
async fn answer_to(server: &TestServer, bytes: &[u8]) -> u16 {
    let mut tcp = raw_socket(server.addr(), "/ws").await;
    tcp.write_all(bytes).await.unwrap();
    let mut answer = [0; 4];
    within("a close frame", tcp.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[0], 0x88, "a close frame, whole");
    tcp.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
    let mut rest = Vec::new();
    within("the end", tcp.read_to_end(&mut rest)).await.unwrap();
    u16::from_be_bytes([answer[2], answer[3]])
}

#[actix_web::test]
async fn a_client_that_leaves_is_answered_with_its_own_code() {
    let server = TestServer::start().await;
    let mut client = server.join("").await;
    let frame = CloseFrame { code: 4999.into(), reason: "bye".into() };
    client.stream.close(Some(frame)).await.unwrap();
    assert_eq!(client.expect_close().await.0, 4999);
    server.expect_disconnect(Reason::Left).await;
    assert_eq!(server.client_count().await, 0);
}

/// Without the remedy actix-http lingers for half a second to a second, each time. A busy machine
/// may delay a connection for as long, so one prompt end is enough.
#[actix_web::test]
async fn after_a_close_handshake_the_server_closes_the_connection_at_once() {
    let server = TestServer::start().await;
    eventually("a connection to end at once", async || {
        let mut tcp = raw_socket(server.addr(), "/ws").await;
        let began = std::time::Instant::now();
        tcp.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8]).await.unwrap();
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [0x88, 0x02, 0x03, 0xE8]);
        began.elapsed() < Duration::from_millis(400)
    })
    .await;
}

#[actix_web::test]
async fn a_client_that_vanishes_is_unregistered() {
    let server = TestServer::start().await;
    drop(server.join("").await);
    server.expect_disconnect(Reason::Vanished).await;
    assert_eq!(server.client_count().await, 0);
}

#[actix_web::test]
async fn what_is_not_websocket_ends_in_1002() {
    let server = TestServer::start().await;
    let not_websocket: [&[u8]; 4] = [
        &[0x81, 0x01, b'x'],             // not masked
        &[0xC1, 0x81, 0, 0, 0, 0, b'x'], // a reserved bit
        &[0x83, 0x81, 0, 0, 0, 0, b'x'], // an unknown type of frame
        &[0x80, 0x81, 0, 0, 0, 0, b'x'], // goes on with what never began
    ];
    for (n, bytes) in not_websocket.into_iter().enumerate() {
        assert_eq!(answer_to(&server, bytes).await, 1002, "{bytes:x?}");
        let count = n as u64 + 1;
        eventually("the reason to be known", async || {
            server.disconnects(Reason::Protocol).await == count
        })
        .await;
    }
}

#[actix_web::test]
async fn text_that_is_not_utf_8_ends_in_1007() {
    let server = TestServer::start().await;
    assert_eq!(answer_to(&server, &[0x81, 0x81, 0, 0, 0, 0, 0xFF]).await, 1007);
    server.expect_disconnect(Reason::InvalidText).await;
}

#[actix_web::test]
async fn a_frame_over_the_limit_is_refused_at_its_header_with_1009() {
    let server = TestServer::start().await;
    // The header announces a terabyte, and not one byte of it is ever sent.
    let header = [0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tcp = raw_socket(server.addr(), "/ws").await;
    tcp.write_all(&header).await.unwrap();
    let mut answer = [0; 4];
    within("a close frame", tcp.read_exact(&mut answer)).await.unwrap();
    assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), 1009);
    server.expect_disconnect(Reason::TooBig).await;
}

#[actix_web::test]
async fn a_client_that_does_not_answer_pings_is_told_4002() {
    let server = TestServer::start_with(Config {
        ping_interval: Duration::from_millis(50),
        pong_timeout: Duration::from_millis(200),
        ..config()
    })
    .await;
    // A client that does not read does not answer.
    let mut client = server.connect("").await;
    server.expect_disconnect(Reason::NoPong).await;
    assert_eq!(client.expect_close().await.0, 4002);
}

#[actix_web::test]
async fn a_client_that_stops_reading_is_evicted_and_the_others_read_on() {
    // Bounded in batches here; in bytes it is in the tests of slow readers.
    let server =
        TestServer::start_with(Config { send_queue: 16, send_queue_bytes: 1 << 30, ..config() })
            .await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let tcp = socket.connect(server.addr()).await.unwrap();
    let mut stalled = raw_upgrade(tcp, server.addr(), "/ws").await;
    let mut talker = server.connect("").await;
    eventually("both", async || server.client_count().await == 2).await;

    let long = "x".repeat(4096);
    let mut said = 0;
    while server.disconnects(Reason::SlowClient).await == 0 {
        talker.say(&long).await;
        talker.expect(&long).await;
        said += 1;
        assert!(said < 5_000, "20 MB are in no socket's buffers");
    }
    assert_eq!(server.client_count().await, 1);
    talker.say("the show goes on").await;
    talker.expect("the show goes on").await;

    // When it reads again, it is told why, and that is the last it is told. It was blocked when it
    // was evicted, so none of the sixteen that were queued has been written.
    let mut read = Vec::new();
    within("the end", stalled.read_to_end(&mut read)).await.unwrap();
    let words = Reason::SlowClient.words().as_bytes();
    let told = [&[0x88, 2 + words.len() as u8, 0x0F, 0xA1], words].concat();
    assert!(read.ends_with(&told), "{:?}", &read[read.len() - 40..]);
    assert!(read.len() <= (said - 16) * (4096 + 4) + told.len(), "{} of {said}", read.len());
}

#[actix_web::test]
async fn at_shutdown_every_client_reads_1001_and_a_late_one_too() {
    let server = TestServer::start().await;
    let mut clients = [server.join("").await, server.join("room=other").await];
    let drained = server.hub().send(Drain { wait: true }).await.unwrap();
    within("the hub to drain", drained).await.unwrap_err();
    for client in &mut clients {
        assert_eq!(client.expect_close().await.0, 1001);
    }
    let mut late = server.connect("").await;
    assert_eq!(late.expect_close().await.0, 1001);
    assert_eq!(server.disconnects(Reason::ShuttingDown).await, 2);
    server.stop().await;
}

#[actix_web::test]
async fn a_long_replay_is_told_whole_before_the_end_and_what_was_said_meanwhile_behind_it() {
    let server = TestServer::start().await;
    let long = "x".repeat(4000);
    let mut talker = server.join("nick=t").await;
    for _ in 0..200 {
        talker.say(&long).await;
        talker.expect(&format!("t: {long}")).await;
    }
    let mut late = JsonClient::hello(server.addr(), json!({})).await;
    late.send(&[json!({"type": "join", "room": "other"})]).await;
    let after = json!({"epoch": late.expect("joined").await["epoch"], "seq": 0});
    late.send(&[json!({"type": "join", "room": "lobby", "after": after})]).await;
    within("the replay to begin", late.stream.get_ref().readable()).await.unwrap();
    talker.say("and this").await;
    talker.expect("t: and this").await;
    let stopped = actix_web::rt::spawn(server.stop());
    assert_eq!(talker.expect_close().await.0, 1001);
    let joined = late.expect("joined").await;
    assert_eq!(joined["messages"].as_array().unwrap().len(), 200);
    assert_eq!(late.expect("message").await["text"], "and this");
    assert_eq!(within("the end", late.next()).await, None);
    assert_eq!(late.close_code, Some(1001));
    within("the server to stop", stopped).await.unwrap();
}

#[actix_web::test]
async fn stopping_waits_for_the_clients_and_then_nobody_listens() {
    let shutdown_timeout = Duration::from_secs(3600);
    let server = TestServer::start_with(Config { shutdown_timeout, ..config() }).await;
    let addr = server.addr();
    let mut clients = [server.join("").await, server.join("").await];
    // A page that was loaded and whose connection is kept alive holds nothing up.
    let mut idle = TcpStream::connect(addr).await.unwrap();
    idle.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {addr}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    within("an answer", idle.read_u8()).await.unwrap();

    let (codes, ()) = futures_util::future::join(
        async { [clients[0].expect_close().await.0, clients[1].expect_close().await.0] },
        server.stop(),
    )
    .await;
    assert_eq!(codes, [1001, 1001]);
    assert!(TcpStream::connect(addr).await.is_err());
}

/// The socket stays until the write timeout; the shutdown does not wait for that.
#[actix_web::test]
async fn client_that_never_closes_does_not_delay_shutdown() {
    let hour = Duration::from_secs(3600);
    let config = Config { write_timeout: hour, shutdown_timeout: hour, ..config() };
    let server = TestServer::start_with(config).await;
    let mut idle = raw_socket(server.addr(), "/ws").await;
    within("the server to stop", server.stop()).await;
    let mut last = Vec::new();
    within("the end", idle.read_to_end(&mut last)).await.unwrap();
    let is_close = |frame: &[u8]| frame[0] == 0x88 && frame[2..] == 1001_u16.to_be_bytes();
    assert!(last.windows(4).any(is_close), "{last:?}");
}

/// A message of another crate's that goes wrong.
#[derive(Message)]
#[rtype(result = "()")]
struct Stumble;

impl Handler<Stumble> for Hub {
    type Result = ();

    fn handle(&mut self, _: Stumble, _: &mut Self::Context) {
        panic!("the test makes the hub panic");
    }
}

#[actix_web::test]
async fn when_the_hub_dies_every_client_reads_1011_and_the_server_fails() {
    let server = TestServer::start().await;
    let mut clients = [server.join("").await, server.join("room=other").await];
    let hub = server.hub().clone();
    let running = actix_web::rt::spawn(server.into_server().run());
    // `run` watches the hub from its first turn on.
    tokio::task::yield_now().await;
    hub.do_send(Stumble);
    for client in &mut clients {
        assert_eq!(client.expect_close().await.0, 1011);
    }
    let outcome = within("the server to end", running).await.unwrap();
    assert!(matches!(outcome, Err(ServerError::HubDied)), "{outcome:?}");
}

#[actix_web::test]
async fn a_client_that_the_hub_does_not_know_cannot_broadcast() {
    let server = TestServer::start().await;
    let text = MessageText::parse("boo", 8).unwrap();
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let (client, room) = (ClientId::next(), RoomName::default());
    let ghost = Broadcast { client, room, text, id: None, reference: None, permit };
    assert!(server.hub().send(ghost).await.unwrap().is_err());
}
