//! Hostile clients on raw sockets. Each attacks while somebody else talks, and nobody is harmed.

use std::time::Duration;

use chinwag::protocol::DisconnectReason as Reason;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::harness::{
    Client, TestServer, also_on_the_plain_road, also_over_tls, connections_up_to, eventually,
    frame, raw_socket, within,
};

also_on_the_plain_road! {
    a_handshake_that_never_comes_to_an_end_is_ended,
    thousands_of_connections_that_say_nothing_keep_nobody_out_and_are_ended,
    a_flood_of_pings_whose_answers_nobody_reads_stops_in_the_flooders_tcp,
    a_flood_of_pings_whose_answers_are_read_is_answered_in_order,
    a_message_in_fragments_of_one_byte_is_one_message,
    endless_empty_fragments_are_refused,
    close_frames_that_are_no_close_frames_end_in_1002_and_nothing_is_said_after_a_close,
    bombs_in_the_head_of_a_request_are_refused_and_the_server_lives,
    hundreds_that_come_and_go_at_once_leave_nothing_behind,
    an_unwanted_body_is_read_so_that_its_sender_reads_the_answer,
}

also_over_tls! {
    a_flood_of_pings_whose_answers_nobody_reads_stops_in_the_flooders_tcp,
    a_flood_of_pings_whose_answers_are_read_is_answered_in_order,
    a_message_in_fragments_of_one_byte_is_one_message,
    endless_empty_fragments_are_refused,
    close_frames_that_are_no_close_frames_end_in_1002_and_nothing_is_said_after_a_close,
    bombs_in_the_head_of_a_request_are_refused_and_the_server_lives,
    hundreds_that_come_and_go_at_once_leave_nothing_behind,
    an_unwanted_body_is_read_so_that_its_sender_reads_the_answer,
}

/// Somebody talks and is heard.
async fn talk(talker: &mut Client) {
    talker.say("hello").await;
    talker.expect("hello").await;
}

/// Reads to the end of a connection, whether it is closed or reset.
async fn ended(mut tcp: TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = within("the end of a connection", tcp.read_to_end(&mut read)).await;
    read
}

#[actix_web::test]
async fn a_handshake_that_never_comes_to_an_end_is_ended() {
    let server = TestServer::start().await;
    let mut talker = server.join("").await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut tcp = TcpStream::connect(server.addr()).await.unwrap();
        tcp.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.unwrap();
        slow.push(tcp);
    }
    talk(&mut talker).await;
    // No async closure: on this one rustc 1.95 panics when it builds incrementally.
    let dripping = join_all(slow.into_iter().map(|tcp| async move {
        let (mut reader, mut writer) = tcp.into_split();
        let drip = actix_web::rt::spawn(async move {
            // A byte now and then is what the attack is.
            while writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let mut read = Vec::new();
        let _ = within("the end of a connection", reader.read_to_end(&mut read)).await;
        drip.abort();
        read
    }));
    for answer in dripping.await {
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    }
    talk(&mut talker).await;
}

#[actix_web::test]
async fn thousands_of_connections_that_say_nothing_keep_nobody_out_and_are_ended() {
    let server = TestServer::start().await;
    let connect = async |_| TcpStream::connect(server.addr()).await.unwrap();
    let silent = join_all((0..connections_up_to(2000)).map(connect)).await;
    let mut talker = server.join("").await;
    talk(&mut talker).await;
    join_all(silent.into_iter().map(ended)).await;
    talk(&mut talker).await;
}

#[actix_web::test]
async fn a_flood_of_pings_whose_answers_nobody_reads_stops_in_the_flooders_tcp() {
    let server = TestServer::start().await;
    let mut talker = server.join("").await;
    let mut flooder = raw_socket(server.addr(), "/ws").await;
    let pings = frame(0x89, &[0; 125]).repeat(500);
    let mut sent = 0;
    // It is stuck when for a whole second not a byte more is taken.
    let stuck = Duration::from_secs(1);
    while let Ok(written) = timeout(stuck, flooder.write(&pings[sent % pings.len()..])).await {
        sent += written.unwrap();
        assert!(sent < 64_000_000, "{sent} bytes are in no buffers on the way");
    }
    talk(&mut talker).await;
}

#[actix_web::test]
async fn a_flood_of_pings_whose_answers_are_read_is_answered_in_order() {
    const PINGS: u32 = 20_000;
    let server = TestServer::start().await;
    let mut talker = server.join("").await;
    let (mut reader, mut writer) = raw_socket(server.addr(), "/ws").await.into_split();
    let flood = actix_web::rt::spawn(async move {
        for n in 0..PINGS {
            let payload = [&n.to_be_bytes()[..], &[0; 121]].concat();
            writer.write_all(&frame(0x89, &payload)).await.unwrap();
        }
        writer
    });
    let mut pong = [0; 127];
    for n in 0..PINGS {
        within("a pong", reader.read_exact(&mut pong)).await.unwrap();
        assert_eq!((pong[0], pong[1]), (0x8A, 125));
        assert_eq!(pong[2..6], n.to_be_bytes());
        if n % 5000 == 0 {
            talker.say("").await;
        }
    }
    flood.await.unwrap();
    drop(reader);
    talk(&mut talker).await;
}

#[actix_web::test]
async fn a_message_in_fragments_of_one_byte_is_one_message() {
    let server = TestServer::start().await;
    let mut reader = server.join("").await;
    let mut sender = raw_socket(server.addr(), "/ws").await;
    let long = "é".repeat(2048);
    let mut frames = frame(0x01, &[]);
    for byte in long.as_bytes() {
        frames.extend(frame(0x00, &[*byte]));
    }
    frames.extend(frame(0x80, &[]));
    sender.write_all(&frames).await.unwrap();
    reader.expect(&long).await;
}

#[actix_web::test]
async fn endless_empty_fragments_are_refused() {
    let server = TestServer::start().await;
    let mut sender = raw_socket(server.addr(), "/ws").await;
    let mut frames = frame(0x01, &[]);
    frames.extend(frame(0x00, &[]).repeat(1000));
    sender.write_all(&frames).await.unwrap();
    let mut answer = [0; 4];
    within("a close frame", sender.read_exact(&mut answer)).await.unwrap();
    assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), 1009);
}

#[actix_web::test]
async fn close_frames_that_are_no_close_frames_end_in_1002_and_nothing_is_said_after_a_close() {
    let server = TestServer::start().await;
    let mut reader = server.join("").await;
    let bad: [&[u8]; 8] = [
        b"\x03",         // half a code
        b"\x00\x00",     // 0
        b"\x03\xE7",     // 999
        b"\x03\xEC",     // 1004
        b"\x03\xED",     // 1005
        b"\x03\xEE",     // 1006
        b"\x0B\xB7",     // 2999
        b"\x03\xE8\xFF", // words that are not UTF-8
    ];
    let began = Instant::now();
    for payload in bad {
        let mut tcp = raw_socket(server.addr(), "/ws").await;
        let said_after = frame(0x81, b"from beyond");
        tcp.write_all(&[frame(0x88, payload), said_after].concat()).await.unwrap();
        let answer = ended(tcp).await;
        assert_eq!(answer[2..4], 1002_u16.to_be_bytes(), "{payload:?}");
    }
    // A peer that has closed, badly or not, is not waited for: that would be 2 s each.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let mut tcp = raw_socket(server.addr(), "/ws").await;
    let frames = [frame(0x88, b"\x03\xE8"), frame(0x81, b"from beyond")].concat();
    tcp.write_all(&frames).await.unwrap();
    assert_eq!(ended(tcp).await, [0x88, 2, 0x03, 0xE8]);
    eventually("all to be gone", async || server.client_count().await == 1).await;
    talk(&mut reader).await;
}

#[actix_web::test]
async fn bombs_in_the_head_of_a_request_are_refused_and_the_server_lives() {
    let server = TestServer::start().await;
    let mut talker = server.join("").await;
    let host = format!("Host: {}\r\n", server.addr());
    let long = "x".repeat(1_000_000);
    let bombs = [
        format!("GET /ws HTTP/1.1\r\n{host}X: {long}\r\n\r\n"),
        format!("GET /ws?nick={long} HTTP/1.1\r\n{host}\r\n"),
        format!("GET /{long} HTTP/1.1\r\n{host}\r\n"),
        format!("GET /ws HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(10_000)),
        format!("{long} / HTTP/1.1\r\n{host}\r\n"),
        format!("GET /{} HTTP/1.1\r\n{host}Connection: close\r\n\r\n", "../".repeat(1000)),
        "\0\u{1}\u{2}\r\n\r\n".to_owned(),
    ];
    for bomb in bombs {
        let mut tcp = TcpStream::connect(server.addr()).await.unwrap();
        // It may be cut off while it is still sending.
        let _ = within("the bomb", tcp.write_all(bomb.as_bytes())).await;
        let answer = ended(tcp).await;
        let answer = String::from_utf8_lossy(&answer);
        let begins = &bomb[..bomb.len().min(20)];
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{begins}: {answer}");
    }
    talk(&mut talker).await;
}

#[actix_web::test]
async fn hundreds_that_come_and_go_at_once_leave_nothing_behind() {
    let server = TestServer::start().await;
    let mut talker = server.join("").await;
    let began = Instant::now();
    for _ in 0..10 {
        join_all((0..50).map(async |n| {
            let mut tcp = raw_socket(server.addr(), "/ws?room=storm").await;
            // Half of them break off in the middle of a frame.
            let part = if n % 2 == 0 { 3 } else { 9 };
            let _ = tcp.write_all(&frame(0x81, b"bye")[..part]).await;
        }))
        .await;
    }
    eventually("all to be gone", async || server.client_count().await == 1).await;
    talk(&mut talker).await;
    let gone =
        server.disconnects(Reason::Vanished).await + server.disconnects(Reason::Dropped).await;
    assert_eq!(gone, 500, "in {:?}", began.elapsed());
}

#[actix_web::test]
async fn an_unwanted_body_is_read_so_that_its_sender_reads_the_answer() {
    let server = TestServer::start().await;
    let body = vec![0; 5_000_000];
    for path in ["/", "/nope", "/ws", "/static/chat.js", "/healthz"] {
        for _ in 0..2 {
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n");
            let mut tcp = TcpStream::connect(server.addr()).await.unwrap();
            tcp.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
            // Like a simple client it writes all of it before it reads.
            within("the body", tcp.write_all(&body)).await.unwrap();
            let answer = ended(tcp).await;
            assert!(answer.starts_with(b"HTTP/1.1 40"), "{path}: {answer:?}");
        }
    }
}
