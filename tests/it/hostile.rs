//! Attacks on raw sockets. Another client sends and receives messages before, during or after each
//! attack.

use std::time::Duration;

use chinwag::protocol::DisconnectReason as Reason;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::harness::{
    Client, TestServer, also_over_tls, also_with_http_server, connections_up_to, eventually, frame,
    raw_socket, within,
};

also_with_http_server! {
    endless_handshake_times_out,
    thousands_of_silent_connections_time_out_and_block_nobody,
    ping_flood_with_unread_pongs_is_stopped_by_backpressure,
    ping_flood_is_answered_in_order_while_pongs_are_read,
    one_byte_fragments_are_assembled_into_one_message,
    endless_empty_fragments_close_the_connection_with_1009,
    invalid_close_frames_end_with_1002_and_later_frames_are_ignored,
    oversized_request_heads_are_refused,
    short_lived_connections_are_all_unregistered,
    unexpected_body_is_read_so_that_its_sender_gets_the_response,
}

also_over_tls! {
    ping_flood_with_unread_pongs_is_stopped_by_backpressure,
    ping_flood_is_answered_in_order_while_pongs_are_read,
    one_byte_fragments_are_assembled_into_one_message,
    endless_empty_fragments_close_the_connection_with_1009,
    invalid_close_frames_end_with_1002_and_later_frames_are_ignored,
    oversized_request_heads_are_refused,
    short_lived_connections_are_all_unregistered,
    unexpected_body_is_read_so_that_its_sender_gets_the_response,
}

/// Checks that a client receives a message that it sends.
async fn expect_echo(client: &mut Client) {
    client.say("hello").await;
    client.expect("hello").await;
}

/// Reads until the connection is closed or reset, and returns what was read.
async fn read_to_end(mut tcp: TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = within("the end of a connection", tcp.read_to_end(&mut read)).await;
    read
}

#[actix_web::test]
async fn endless_handshake_times_out() {
    let server = TestServer::start().await;
    let mut bystander = server.join("").await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut tcp = TcpStream::connect(server.addr()).await.unwrap();
        tcp.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.unwrap();
        slow.push(tcp);
    }
    expect_echo(&mut bystander).await;
    // With an async closure here, rustc 1.95 panics in an incremental build.
    let answers = join_all(slow.into_iter().map(|tcp| async move {
        let (mut reader, mut writer) = tcp.into_split();
        let drip = actix_web::rt::spawn(async move {
            // The attack consists of one byte at a time.
            while writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let mut read = Vec::new();
        let _ = within("the end of a connection", reader.read_to_end(&mut read)).await;
        drip.abort();
        read
    }));
    for answer in answers.await {
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    }
    expect_echo(&mut bystander).await;
}

#[actix_web::test]
async fn thousands_of_silent_connections_time_out_and_block_nobody() {
    let server = TestServer::start().await;
    let connect = async |_| TcpStream::connect(server.addr()).await.unwrap();
    let silent = join_all((0..connections_up_to(2000)).map(connect)).await;
    let mut bystander = server.join("").await;
    expect_echo(&mut bystander).await;
    join_all(silent.into_iter().map(read_to_end)).await;
    expect_echo(&mut bystander).await;
}

#[actix_web::test]
async fn ping_flood_with_unread_pongs_is_stopped_by_backpressure() {
    let server = TestServer::start().await;
    let mut bystander = server.join("").await;
    let mut flooder = raw_socket(server.addr(), "/ws").await;
    let pings = frame(0x89, &[0; 125]).repeat(500);
    let mut sent = 0;
    // The connection is blocked if it accepts no byte for a second.
    let blocked = Duration::from_secs(1);
    while let Ok(written) = timeout(blocked, flooder.write(&pings[sent % pings.len()..])).await {
        sent += written.unwrap();
        assert!(sent < 64_000_000, "{sent} bytes exceed all buffers on the way");
    }
    expect_echo(&mut bystander).await;
}

#[actix_web::test]
async fn ping_flood_is_answered_in_order_while_pongs_are_read() {
    const PINGS: u32 = 20_000;
    let server = TestServer::start().await;
    let mut bystander = server.join("").await;
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
            bystander.say("").await;
        }
    }
    flood.await.unwrap();
    drop(reader);
    expect_echo(&mut bystander).await;
}

#[actix_web::test]
async fn one_byte_fragments_are_assembled_into_one_message() {
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
async fn endless_empty_fragments_close_the_connection_with_1009() {
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
async fn invalid_close_frames_end_with_1002_and_later_frames_are_ignored() {
    let server = TestServer::start().await;
    let mut reader = server.join("").await;
    let invalid: [&[u8]; 8] = [
        b"\x03",         // half a code
        b"\x00\x00",     // 0
        b"\x03\xE7",     // 999
        b"\x03\xEC",     // 1004
        b"\x03\xED",     // 1005
        b"\x03\xEE",     // 1006
        b"\x0B\xB7",     // 2999
        b"\x03\xE8\xFF", // a reason that is not UTF-8
    ];
    let began = Instant::now();
    for payload in invalid {
        let mut tcp = raw_socket(server.addr(), "/ws").await;
        let after_close = frame(0x81, b"after the close");
        tcp.write_all(&[frame(0x88, payload), after_close].concat()).await.unwrap();
        let answer = read_to_end(tcp).await;
        assert_eq!(answer[2..4], 1002_u16.to_be_bytes(), "{payload:?}");
    }
    // The server does not wait for a peer that has sent a close frame, which would take 2 s each.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let mut tcp = raw_socket(server.addr(), "/ws").await;
    let frames = [frame(0x88, b"\x03\xE8"), frame(0x81, b"after the close")].concat();
    tcp.write_all(&frames).await.unwrap();
    assert_eq!(read_to_end(tcp).await, [0x88, 2, 0x03, 0xE8]);
    eventually("all to be unregistered", async || server.member_count().await == 1).await;
    expect_echo(&mut reader).await;
}

#[actix_web::test]
async fn oversized_request_heads_are_refused() {
    let server = TestServer::start().await;
    let mut bystander = server.join("").await;
    let host = format!("Host: {}\r\n", server.addr());
    let long = "x".repeat(1_000_000);
    let requests = [
        format!("GET /ws HTTP/1.1\r\n{host}X: {long}\r\n\r\n"),
        format!("GET /ws?nick={long} HTTP/1.1\r\n{host}\r\n"),
        format!("GET /{long} HTTP/1.1\r\n{host}\r\n"),
        format!("GET /ws HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(10_000)),
        format!("{long} / HTTP/1.1\r\n{host}\r\n"),
        format!("GET /{} HTTP/1.1\r\n{host}Connection: close\r\n\r\n", "../".repeat(1000)),
        "\0\u{1}\u{2}\r\n\r\n".to_owned(),
    ];
    for request in requests {
        let mut tcp = TcpStream::connect(server.addr()).await.unwrap();
        // The server may close the connection before it has received everything.
        let _ = within("the request", tcp.write_all(request.as_bytes())).await;
        let answer = read_to_end(tcp).await;
        let answer = String::from_utf8_lossy(&answer);
        let start = &request[..request.len().min(20)];
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{start}: {answer}");
    }
    expect_echo(&mut bystander).await;
}

#[actix_web::test]
async fn short_lived_connections_are_all_unregistered() {
    let server = TestServer::start().await;
    let mut bystander = server.join("").await;
    let began = Instant::now();
    for _ in 0..10 {
        join_all((0..50).map(async |n| {
            let mut tcp = raw_socket(server.addr(), "/ws?room=storm").await;
            // Half of them send only a part of a frame.
            let length = if n % 2 == 0 { 3 } else { 9 };
            let _ = tcp.write_all(&frame(0x81, b"bye")[..length]).await;
        }))
        .await;
    }
    eventually("all to be unregistered", async || server.member_count().await == 1).await;
    expect_echo(&mut bystander).await;
    let disconnects =
        server.disconnects(Reason::Vanished).await + server.disconnects(Reason::Dropped).await;
    assert_eq!(disconnects, 500, "in {:?}", began.elapsed());
}

#[actix_web::test]
async fn unexpected_body_is_read_so_that_its_sender_gets_the_response() {
    let server = TestServer::start().await;
    let body = vec![0; 5_000_000];
    for path in ["/", "/nope", "/ws", "/static/chat.js", "/healthz"] {
        for _ in 0..2 {
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n");
            let mut tcp = TcpStream::connect(server.addr()).await.unwrap();
            tcp.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
            // Like a simple client, it writes the whole body before it reads.
            within("the body", tcp.write_all(&body)).await.unwrap();
            let answer = read_to_end(tcp).await;
            assert!(answer.starts_with(b"HTTP/1.1 40"), "{path}: {answer:?}");
        }
    }
}
