//! Which handshakes are accepted, and how the others are refused.

use chinwag::Config;
use futures_util::future::{join, join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{
    TestServer, also_over_tls, also_with_http_server, config, frame, raw_http, within,
};

also_with_http_server! {
    frames_sent_with_the_handshake_are_received,
}

also_over_tls! {
    frames_sent_with_the_handshake_are_received,
}

/// Sends a handshake and returns the response. `headers` replace the default ones, and an empty
/// value removes a header.
async fn handshake(server: &TestServer, line: &str, headers: &[(&str, &str)]) -> String {
    let host = server.addr().to_string();
    let mut all = vec![
        ("Host", host.as_str()),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    all.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
    all.extend(headers.iter().filter(|(_, value)| !value.is_empty()));
    let headers: String = all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    raw_http(server.addr(), &format!("{line} HTTP/1.1\r\n{headers}\r\n")).await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[actix_web::test]
async fn handshake_answer_matches_the_rfc_example() {
    let server = TestServer::start().await;
    let answer = handshake(&server, "GET /ws", &[]).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    // The key and its answer are the example of RFC 6455 section 1.3.
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
}

#[actix_web::test]
async fn only_get_requests_with_upgrade_headers_are_upgraded() {
    let server = TestServer::start().await;
    let methods = ["POST", "PUT", "DELETE", "OPTIONS"].map(async |method| {
        let answer = handshake(&server, &format!("{method} /ws"), &[("Connection", "close")]).await;
        assert_eq!(status(&answer), "405", "{answer}");
        assert!(answer.to_lowercase().contains("\r\nallow: get\r\n"), "{answer}");
    });
    let incomplete = [
        (("Upgrade", ""), "400"),
        (("Connection", "close"), "400"),
        (("Sec-WebSocket-Key", ""), "400"),
        (("Sec-WebSocket-Version", ""), "400"),
        (("Sec-WebSocket-Version", "12"), "426"),
    ];
    let incomplete = incomplete.map(async |(header, expected)| {
        let answer = handshake(&server, "GET /ws", &[header]).await;
        assert_eq!(status(&answer), expected, "{header:?}: {answer}");
    });
    // They run concurrently, because the server waits 5 s for the bodies that it expects of some.
    join(join_all(methods), join_all(incomplete)).await;
}

#[actix_web::test]
async fn foreign_origins_and_rebound_hosts_are_refused() {
    let server = TestServer::start().await;
    let port = server.addr().port();
    let own = format!("http://127.0.0.1:{port}");
    let rebound = format!("rebound.example:{port}");
    let rebound_origin = format!("http://{rebound}");
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("Origin", &own)], "101"),
        (&[("Origin", "https://evil.example")], "403"),
        (&[("Origin", "null")], "403"),
        (&[("Origin", "http://127.0.0.1:1")], "403"),
        (&[("Host", &rebound), ("Origin", &rebound_origin)], "403"),
        (&[("Host", &rebound)], "403"),
    ];
    for (headers, expected) in cases {
        let answer = handshake(&server, "GET /ws", headers).await;
        assert_eq!(status(&answer), expected, "{headers:?}: {answer}");
    }
}

#[actix_web::test]
async fn public_hosts_and_allowed_origins_are_accepted() {
    let server = TestServer::start_with(Config {
        public_hosts: vec!["chat.example".parse().unwrap()],
        allowed_origins: vec!["https://friend.example".parse().unwrap()],
        ..config()
    })
    .await;
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("Host", "chat.example"), ("Origin", "https://chat.example")], "101"),
        (&[("Origin", "https://chat.example")], "101"),
        (&[("Origin", "https://friend.example")], "101"),
        (&[("Origin", "https://friend.example:8443")], "403"),
    ];
    for (headers, expected) in cases {
        let answer = handshake(&server, "GET /ws", headers).await;
        assert_eq!(status(&answer), expected, "{headers:?}: {answer}");
    }
}

#[actix_web::test]
async fn invalid_query_parameter_is_refused_with_an_explanation() {
    let server = TestServer::start().await;
    let invalid = [
        ("room=a%20b", "a room name must have 1 to 64 letters"),
        ("room=..%2Fetc", "a room name must have 1 to 64 letters"),
        ("nick=a%3Ab", "a name must not contain colons"),
        ("nick=a%0Ab", "a name must not contain colons, control"),
        ("nick=%E2%80%AEada", "invisible characters"),
        ("nick=anonymous-1234", "must not begin with 'anonymous-'"),
        ("history=-1", "history must be a number"),
        ("history=all", "history must be a number"),
        ("room=a&room=b", "each once"),
    ];
    for (query, words) in invalid {
        let answer = handshake(&server, &format!("GET /ws?{query}"), &[]).await;
        assert_eq!(status(&answer), "400", "{query}: {answer}");
        assert!(answer.contains(words), "{query}: {answer}");
    }
    assert_eq!(server.member_count().await, 0);
}

#[actix_web::test]
async fn frames_sent_with_the_handshake_are_received() {
    let server = TestServer::start().await;
    let mut tcp = TcpStream::connect(server.addr()).await.unwrap();
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n\
        GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let frames = [frame(0x81, b"one"), frame(0x81, b"two")].concat();
    let early = &frames[..frames.len() - 2];
    tcp.write_all(&[request.as_bytes(), early].concat()).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"\x81\x03one") {
            answer.push(tcp.read_u8().await.unwrap());
        }
    };
    within("the answers", read).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 101 "), "{answer}");
    tcp.write_all(&frames[frames.len() - 2..]).await.unwrap();
    let mut answer = [0; 5];
    within("the second message", tcp.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, *b"\x81\x03two");
}
