//! Every way a connection ends: the close frame that the client receives, and the reason that the
//! hub counts.

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
    TestServer, also_over_tls, also_with_http_server, config, eventually, raw_socket, raw_upgrade,
    within,
};
use crate::json::JsonClient;

also_with_http_server! {
    close_frame_is_answered_with_the_same_code,
    server_closes_the_connection_immediately_after_the_close_handshake,
    vanished_client_is_unregistered,
    invalid_frame_closes_the_connection_with_1002,
    invalid_utf_8_closes_the_connection_with_1007,
    oversized_frame_is_rejected_at_its_header_with_1009,
    client_that_does_not_answer_pings_is_closed_with_4002,
    stalled_client_is_evicted_and_others_keep_receiving,
    shutdown_closes_every_client_with_1001_including_new_ones,
    shutdown_first_delivers_a_pending_replay_and_newer_messages,
}

also_over_tls! {
    close_frame_is_answered_with_the_same_code,
    vanished_client_is_unregistered,
    invalid_frame_closes_the_connection_with_1002,
    invalid_utf_8_closes_the_connection_with_1007,
    oversized_frame_is_rejected_at_its_header_with_1009,
    client_that_does_not_answer_pings_is_closed_with_4002,
    stalled_client_is_evicted_and_others_keep_receiving,
    shutdown_closes_every_client_with_1001_including_new_ones,
    shutdown_first_delivers_a_pending_replay_and_newer_messages,
    client_that_never_closes_does_not_delay_shutdown,
}

/// Sends bytes, reads to the end of the connection and returns the code of the close frame.
async fn close_code_after(server: &TestServer, bytes: &[u8]) -> u16 {
    let mut tcp = raw_socket(server.addr(), "/ws").await;
    tcp.write_all(bytes).await.unwrap();
    let mut answer = [0; 4];
    within("a close frame", tcp.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[0], 0x88, "the first frame is an unfragmented close frame");
    tcp.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
    let mut rest = Vec::new();
    within("the end", tcp.read_to_end(&mut rest)).await.unwrap();
    u16::from_be_bytes([answer[2], answer[3]])
}

#[actix_web::test]
async fn close_frame_is_answered_with_the_same_code() {
    let server = TestServer::start().await;
    let mut client = server.join("").await;
    let frame = CloseFrame { code: 4999.into(), reason: "bye".into() };
    client.stream.close(Some(frame)).await.unwrap();
    assert_eq!(client.expect_close().await.0, 4999);
    server.expect_disconnect(Reason::Left).await;
    assert_eq!(server.member_count().await, 0);
}

/// actix-http alone keeps the connection open for half a second to a second, every time. A busy
/// machine may delay a connection for as long, so one fast close is enough.
#[actix_web::test]
async fn server_closes_the_connection_immediately_after_the_close_handshake() {
    let server = TestServer::start().await;
    eventually("a connection to be closed fast", async || {
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
async fn vanished_client_is_unregistered() {
    let server = TestServer::start().await;
    drop(server.join("").await);
    server.expect_disconnect(Reason::Vanished).await;
    assert_eq!(server.member_count().await, 0);
}

#[actix_web::test]
async fn invalid_frame_closes_the_connection_with_1002() {
    let server = TestServer::start().await;
    let invalid_frames: [&[u8]; 4] = [
        &[0x81, 0x01, b'x'],             // not masked
        &[0xC1, 0x81, 0, 0, 0, 0, b'x'], // a reserved bit is set
        &[0x83, 0x81, 0, 0, 0, 0, b'x'], // an unknown opcode
        &[0x80, 0x81, 0, 0, 0, 0, b'x'], // a continuation without a start
    ];
    for (n, bytes) in invalid_frames.into_iter().enumerate() {
        assert_eq!(close_code_after(&server, bytes).await, 1002, "{bytes:x?}");
        let count = n as u64 + 1;
        eventually("the disconnect to be counted", async || {
            server.disconnects(Reason::Protocol).await == count
        })
        .await;
    }
}

#[actix_web::test]
async fn invalid_utf_8_closes_the_connection_with_1007() {
    let server = TestServer::start().await;
    assert_eq!(close_code_after(&server, &[0x81, 0x81, 0, 0, 0, 0, 0xFF]).await, 1007);
    server.expect_disconnect(Reason::InvalidText).await;
}

#[actix_web::test]
async fn oversized_frame_is_rejected_at_its_header_with_1009() {
    let server = TestServer::start().await;
    // The header announces 1 TiB, and no payload is sent.
    let header = [0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tcp = raw_socket(server.addr(), "/ws").await;
    tcp.write_all(&header).await.unwrap();
    let mut answer = [0; 4];
    within("a close frame", tcp.read_exact(&mut answer)).await.unwrap();
    assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), 1009);
    server.expect_disconnect(Reason::TooBig).await;
}

#[actix_web::test]
async fn client_that_does_not_answer_pings_is_closed_with_4002() {
    let server = TestServer::start_with(Config {
        ping_interval: Duration::from_millis(50),
        pong_timeout: Duration::from_millis(200),
        ..config()
    })
    .await;
    // tungstenite answers pings only while the client reads.
    let mut client = server.connect("").await;
    server.expect_disconnect(Reason::NoPong).await;
    assert_eq!(client.expect_close().await.0, 4002);
}

#[actix_web::test]
async fn stalled_client_is_evicted_and_others_keep_receiving() {
    // Here the limit is `send_queue`; `timed::slow` tests `send_queue_bytes`.
    let server =
        TestServer::start_with(Config { send_queue: 16, send_queue_bytes: 1 << 30, ..config() })
            .await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let tcp = socket.connect(server.addr()).await.unwrap();
    let mut stalled = raw_upgrade(tcp, server.addr(), "/ws").await;
    let mut sender = server.connect("").await;
    eventually("both clients to be registered", async || server.member_count().await == 2).await;

    let long = "x".repeat(4096);
    let mut said = 0;
    while server.disconnects(Reason::SlowClient).await == 0 {
        sender.say(&long).await;
        sender.expect(&long).await;
        said += 1;
        assert!(said < 5_000, "5,000 messages exceed the buffers of a socket");
    }
    assert_eq!(server.member_count().await, 1);
    sender.say("still here").await;
    sender.expect("still here").await;

    // The last frame that it reads is the close frame. None of the 16 queued messages has been
    // written, because its socket was blocked when it was evicted.
    let mut read = Vec::new();
    within("the end", stalled.read_to_end(&mut read)).await.unwrap();
    let words = Reason::SlowClient.words().as_bytes();
    let close = [&[0x88, 2 + words.len() as u8, 0x0F, 0xA1], words].concat();
    assert!(read.ends_with(&close), "{:?}", &read[read.len() - 40..]);
    assert!(read.len() <= (said - 16) * (4096 + 4) + close.len(), "{} of {said}", read.len());
}

#[actix_web::test]
async fn shutdown_closes_every_client_with_1001_including_new_ones() {
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
async fn shutdown_first_delivers_a_pending_replay_and_newer_messages() {
    let server = TestServer::start().await;
    let long = "x".repeat(4000);
    let mut sender = server.join("nick=t").await;
    for _ in 0..200 {
        sender.say(&long).await;
        sender.expect(&format!("t: {long}")).await;
    }
    let mut late = JsonClient::hello(server.addr(), json!({})).await;
    late.send(&[json!({"type": "join", "room": "other"})]).await;
    let after = json!({"epoch": late.expect("joined").await["epoch"], "seq": 0});
    late.send(&[json!({"type": "join", "room": "lobby", "after": after})]).await;
    within("the replay to begin", late.stream.get_ref().readable()).await.unwrap();
    sender.say("and this").await;
    sender.expect("t: and this").await;
    let stopped = actix_web::rt::spawn(server.stop());
    assert_eq!(sender.expect_close().await.0, 1001);
    let joined = late.expect("joined").await;
    assert_eq!(joined["messages"].as_array().unwrap().len(), 200);
    assert_eq!(late.expect("message").await["text"], "and this");
    assert_eq!(within("the end", late.next()).await, None);
    assert_eq!(late.close_code, Some(1001));
    within("the server to stop", stopped).await.unwrap();
}

#[actix_web::test]
async fn stop_closes_all_clients_and_the_listening_socket() {
    let shutdown_timeout = Duration::from_secs(3600);
    // With one worker, the hub runs on its thread.
    for workers in [1, 2] {
        let server = TestServer::start_with(Config { workers, shutdown_timeout, ..config() }).await;
        let addr = server.addr();
        let mut clients = [server.join("").await, server.join("").await];
        // An idle keep-alive connection does not delay the shutdown.
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
}

/// The socket stays open until the write timeout. The shutdown does not wait for it.
#[actix_web::test]
async fn client_that_never_closes_does_not_delay_shutdown() {
    let hour = Duration::from_secs(3600);
    let config = Config { write_timeout: hour, shutdown_timeout: hour, ..config() };
    let server = TestServer::start_with(config).await;
    let mut idle = raw_socket(server.addr(), "/ws").await;
    within("the server to stop", server.stop()).await;
    let mut received = Vec::new();
    within("the end", idle.read_to_end(&mut received)).await.unwrap();
    let is_close = |frame: &[u8]| frame[0] == 0x88 && frame[2..] == 1001_u16.to_be_bytes();
    assert!(received.windows(4).any(is_close), "{received:?}");
}

/// Makes the hub panic.
#[derive(Message)]
#[rtype(result = "()")]
struct Panic;

impl Handler<Panic> for Hub {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut Self::Context) {
        panic!("the test makes the hub panic");
    }
}

#[actix_web::test]
async fn hub_panic_closes_every_client_with_1011_and_fails_the_server() {
    // With one worker, the hub runs on its thread.
    for workers in [1, 2] {
        let server = TestServer::start_with(Config { workers, ..config() }).await;
        let mut clients = [server.join("").await, server.join("room=other").await];
        let hub = server.hub().clone();
        let running = actix_web::rt::spawn(server.into_server().run());
        // `run` watches the hub once it has been polled.
        tokio::task::yield_now().await;
        hub.do_send(Panic);
        for client in &mut clients {
            assert_eq!(client.expect_close().await.0, 1011);
        }
        let outcome = within("the server to end", running).await.unwrap();
        assert!(matches!(outcome, Err(ServerError::HubFailed)), "{outcome:?}");
    }
}

#[actix_web::test]
async fn unregistered_client_cannot_broadcast() {
    let server = TestServer::start().await;
    let text = MessageText::parse("boo", 8).unwrap();
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let (client, room) = (ClientId::next(), RoomName::default());
    let (reply_to, id, reference) = (None, None, None);
    let broadcast = Broadcast { client, room, text, reply_to, id, reference, permit };
    assert!(server.hub().send(broadcast).await.unwrap().is_err());
}
