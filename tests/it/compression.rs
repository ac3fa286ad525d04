//! Compressed messages (permessage-deflate, RFC 7692), on raw sockets.

use std::net::SocketAddr;

use chinwag::Config;
use chinwag::protocol::DisconnectReason;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{
    TestServer, also_over_tls, also_with_http_server, config, eventually, frame, raw_handshake,
    raw_http, within,
};
use crate::journal::config_with_journal;
use crate::program::{PROGRAM, Program};

also_with_http_server! {
    offers_are_accepted_or_declined_by_their_parameters,
    long_batches_are_compressed_only_for_clients_that_negotiated_it,
    compressed_messages_are_received_whole_and_in_fragments,
    only_batches_joined_and_history_are_compressed,
    decompressing_beyond_the_limit_closes_the_connection_with_1009,
    invalid_compressed_messages_close_the_connection_with_1002,
}

also_over_tls! {
    long_batches_are_compressed_only_for_clients_that_negotiated_it,
    only_batches_joined_and_history_are_compressed,
}

const OFFER: &str = "permessage-deflate; client_max_window_bits";

const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// First bytes of frames.
const TEXT: u8 = 0x81;
const COMPRESSED: u8 = 0xC1;
const START: u8 = 0x01;
const COMPRESSED_START: u8 = 0x41;
const CONTINUATION: u8 = 0x00;
const LAST: u8 = 0x80;
const CLOSE: u8 = 0x88;

/// Compresses a message.
fn deflate(text: &[u8]) -> Vec<u8> {
    deflate_with(&mut Compress::new(Compression::new(6), false), text)
}

fn deflate_with(deflate: &mut Compress, text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 100);
    deflate.compress_vec(text, &mut bytes, FlushCompress::Sync).unwrap();
    assert!(bytes.ends_with(&[0, 0, 0xFF, 0xFF]), "the output ends with a sync flush");
    bytes.truncate(bytes.len() - 4);
    bytes
}

fn inflate(compressed: &[u8]) -> String {
    let whole = [compressed, &[0, 0, 0xFF, 0xFF]].concat();
    let mut text = Vec::with_capacity(1_000_000);
    let mut inflate = Decompress::new(false);
    inflate.decompress_vec(&whole, &mut text, FlushDecompress::Sync).unwrap();
    assert_eq!(inflate.total_in(), whole.len() as u64, "all input is decompressed");
    String::from_utf8(text).unwrap()
}

/// Encodes a frame with a masking key.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let masked: Vec<_> =
        payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    let mut frame = frame(first, &masked);
    let key = frame.len() - masked.len() - 4;
    frame[key..key + 4].copy_from_slice(&KEY);
    frame
}

/// A client on a raw socket.
struct Peer {
    tcp: TcpStream,
}

impl Peer {
    async fn connect(addr: SocketAddr, path: &str, headers: &str) -> (Self, String) {
        let tcp = TcpStream::connect(addr).await.unwrap();
        let (tcp, head) = within("a handshake", raw_handshake(tcp, addr, path, headers)).await;
        (Self { tcp }, head)
    }

    /// Connects a client of the text protocol that negotiates compression.
    async fn compressed(addr: SocketAddr, path: &str) -> Self {
        let (peer, head) =
            Self::connect(addr, path, &format!("Sec-WebSocket-Extensions: {OFFER}\r\n")).await;
        assert_eq!(extension(&head).as_deref(), Some(ACCEPTED));
        peer
    }

    /// Connects a client of the JSON protocol that negotiates compression.
    async fn json(addr: SocketAddr) -> Self {
        let headers =
            format!("Sec-WebSocket-Protocol: chinwag.v1\r\nSec-WebSocket-Extensions: {OFFER}\r\n");
        Self::connect(addr, "/ws", &headers).await.0
    }

    async fn send(&mut self, first: u8, payload: &[u8]) {
        self.tcp.write_all(&masked(first, payload)).await.unwrap();
    }

    /// Sends a compressed command of the JSON protocol.
    async fn send_command(&mut self, command: &Value) {
        self.send(COMPRESSED, &deflate(command.to_string().as_bytes())).await;
    }

    /// Returns the first byte and the payload of the next frame.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        within("a frame", async {
            let (first, short) = (self.tcp.read_u8().await?, self.tcp.read_u8().await?);
            let length = match short {
                126 => usize::from(self.tcp.read_u16().await?),
                127 => usize::try_from(self.tcp.read_u64().await?).unwrap(),
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.tcp.read_exact(&mut payload).await?;
            std::io::Result::Ok((first, payload))
        })
        .await
        .unwrap()
    }

    /// Returns the first bytes of the frames of the next message, and its text.
    async fn message(&mut self) -> (Vec<u8>, String) {
        let (mut first_bytes, mut whole) = (Vec::new(), Vec::new());
        loop {
            let (first, payload) = self.frame().await;
            first_bytes.push(first);
            whole.extend(payload);
            if first & 0x80 != 0 {
                break;
            }
        }
        let is_compressed = first_bytes[0] & 0x40 != 0;
        let text = if is_compressed { inflate(&whole) } else { String::from_utf8(whole).unwrap() };
        (first_bytes, text)
    }

    /// Reads up to the next event of a type. Returns the first bytes of the frames of its message,
    /// and the event.
    async fn until(&mut self, kind: &str) -> (Vec<u8>, Value) {
        loop {
            let (first_bytes, text) = self.message().await;
            for line in text.lines() {
                let event: Value = serde_json::from_str(line).unwrap();
                if event["type"] == kind {
                    return (first_bytes, event);
                }
            }
        }
    }

    async fn expect_close(&mut self, code: u16) {
        let (first, payload) = self.frame().await;
        assert_eq!(first, CLOSE, "{}", String::from_utf8_lossy(&payload));
        assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), code);
    }
}

/// Returns the negotiated extension.
fn extension(head: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-extensions").then(|| value.to_owned())
    })
}

#[actix_web::test]
async fn offers_are_accepted_or_declined_by_their_parameters() {
    let server = TestServer::start().await;
    let with_window = format!("{ACCEPTED}; server_max_window_bits=15");
    let accepted = Some(ACCEPTED);
    let declined = None;
    for (offer, answer) in [
        ("permessage-deflate", accepted),
        ("permessage-deflate; client_max_window_bits", accepted),
        ("permessage-deflate; client_max_window_bits=8", accepted),
        ("permessage-deflate;client_no_context_takeover ; server_no_context_takeover", accepted),
        ("permessage-deflate; server_max_window_bits=15", Some(&*with_window)),
        ("permessage-deflate; server_max_window_bits=\"15\"", Some(&*with_window)),
        ("x-webkit-deflate-frame, permessage-deflate", accepted),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", accepted),
        ("permessage-deflate; server_max_window_bits=10", declined),
        ("permessage-deflate; server_max_window_bits", declined),
        ("permessage-deflate; server_max_window_bits=015", declined),
        ("permessage-deflate; client_max_window_bits=7", declined),
        ("permessage-deflate; client_max_window_bits=16", declined),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", declined),
        ("permessage-deflate; server_no_context_takeover=1", declined),
        ("permessage-deflate; mode=fast", declined),
        ("permessage-deflate;", declined),
        ("permessage-bzip2", declined),
        ("; = , \"", declined),
    ] {
        let headers = format!("Sec-WebSocket-Extensions: {offer}\r\n");
        let (_, head) = Peer::connect(server.addr(), "/ws", &headers).await;
        assert_eq!(extension(&head).as_deref(), answer, "{offer}");
    }
    let both =
        "Sec-WebSocket-Extensions: x-none\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
    let (_, head) = Peer::connect(server.addr(), "/ws", both).await;
    assert_eq!(extension(&head).as_deref(), accepted);
    let (_, head) = Peer::connect(server.addr(), "/ws", "").await;
    assert_eq!(extension(&head), None);
}

#[actix_web::test]
async fn server_without_compression_declines_every_offer() {
    let server = TestServer::start_with(Config { compression: false, ..config() }).await;
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(PROGRAM, folder.path(), &["--no-compression"]).await;
    for addr in [server.addr(), program.addr] {
        let headers = format!("Sec-WebSocket-Extensions: {OFFER}\r\n");
        let (mut peer, head) = Peer::connect(addr, "/ws", &headers).await;
        assert_eq!(extension(&head), None);
        peer.send(COMPRESSED, &deflate(b"hello")).await;
        peer.expect_close(1002).await;
    }
}

#[actix_web::test]
async fn long_batches_are_compressed_only_for_clients_that_negotiated_it() {
    let server = TestServer::start().await;
    let mut other = server.join("").await;
    let mut peer = Peer::compressed(server.addr(), "/ws").await;
    let long = "the same words again and again ".repeat(20).trim_end().to_owned();
    other.say(&long).await;
    other.expect(&long).await;
    let (first, payload) = peer.frame().await;
    assert_eq!(first, COMPRESSED);
    assert!(payload.len() < long.len() / 5, "{} bytes", payload.len());
    assert_eq!(inflate(&payload), long);
    // The threshold is 200 bytes.
    for (length, first_byte) in [(199, TEXT), (200, COMPRESSED)] {
        let text = "x".repeat(length);
        other.say(&text).await;
        let message = peer.message().await;
        assert_eq!(message, (vec![first_byte], text));
    }
}

#[actix_web::test]
async fn compressed_messages_are_received_whole_and_in_fragments() {
    let server = TestServer::start().await;
    let mut reader = server.join("").await;
    let mut peer = Peer::compressed(server.addr(), "/ws").await;
    let long = "é".repeat(2000);
    peer.send(COMPRESSED, &deflate(long.as_bytes())).await;
    reader.expect(&long).await;
    // One-byte fragments, some empty ones, and pings between them.
    let compressed = deflate(b"in fragments");
    peer.send(COMPRESSED_START, &[]).await;
    for byte in &compressed {
        peer.send(CONTINUATION, &[*byte]).await;
        peer.send(0x89, b"ping").await;
    }
    peer.send(LAST, &[]).await;
    reader.expect("in fragments").await;
    // Plain messages are allowed at any time, also in fragments.
    peer.send(TEXT, b"plain").await;
    reader.expect("plain").await;
    peer.send(0x01, b"plain ").await;
    peer.send(LAST, b"fragments").await;
    reader.expect("plain fragments").await;
    // A message whose last block is final, with the byte that RFC 7692 section 7.2.3.4 adds.
    let mut last = Vec::with_capacity(100);
    let mut deflate_once = Compress::new(Compression::new(6), false);
    deflate_once.compress_vec(b"final block", &mut last, FlushCompress::Finish).unwrap();
    last.push(0);
    peer.send(COMPRESSED, &last).await;
    reader.expect("final block").await;
    // Stored blocks make a message longer than its text.
    let stored = deflate_with(&mut Compress::new(Compression::none(), false), b"stored");
    assert!(stored.len() > 6);
    peer.send(COMPRESSED, &stored).await;
    reader.expect("stored").await;
}

#[actix_web::test]
async fn only_batches_joined_and_history_are_compressed() {
    let server = TestServer::start().await;
    let mut peer = Peer::json(server.addr()).await;
    let text = "the same words again and again ".repeat(20).trim_end().to_owned();
    let long_ref = "r".repeat(64);
    let nick = |n: usize| format!("a-member-with-a-long-name-{n}");
    peer.send_command(&json!({"type": "hello", "nick": nick(0), "ref": long_ref})).await;
    let (first_bytes, welcome) = peer.until("welcome").await;
    assert!(welcome.to_string().len() > 200, "{welcome}");
    assert_eq!(first_bytes, [TEXT]);
    peer.send_command(&json!({"type": "join", "room": "tea"})).await;
    peer.until("joined").await;
    for n in 0..20 {
        peer.send_command(&json!({"type": "say", "room": "tea", "text": format!("{n} {text}")}))
            .await;
        let (first_bytes, message) = peer.until("message").await;
        assert_eq!(message["text"], format!("{n} {text}"));
        assert_eq!(first_bytes, [COMPRESSED]);
    }
    let mut others = Vec::new();
    for n in 1..13 {
        let mut other = Peer::json(server.addr()).await;
        other.send_command(&json!({"type": "hello", "nick": nick(n)})).await;
        other.until("welcome").await;
        other.send_command(&json!({"type": "join", "room": "tea"})).await;
        let (first_bytes, joined) = other.until("joined").await;
        assert_eq!(first_bytes, [COMPRESSED]);
        assert_eq!(joined["messages"].as_array().unwrap().len(), 20);
        others.push(other);
    }
    peer.send_command(&json!({"type": "who", "room": "tea"})).await;
    let (first_bytes, members) = peer.until("members").await;
    assert!(members.to_string().len() > 200, "{members}");
    assert_eq!(first_bytes, [TEXT]);
    peer.send_command(&json!({"type": "history", "room": "tea", "limit": 20})).await;
    let (first_bytes, history) = peer.until("history").await;
    assert_eq!(first_bytes, [COMPRESSED]);
    assert_eq!(history["messages"].as_array().unwrap().len(), 20);
    peer.send_command(&json!({"type": "x".repeat(300), "ref": long_ref})).await;
    let (first_bytes, error) = peer.until("error").await;
    assert!(error.to_string().len() > 150, "{error}");
    assert_eq!(first_bytes, [TEXT]);
    for other in &mut others {
        other.send_command(&json!({"type": "leave", "room": "tea"})).await;
    }
    let mut left = 0;
    while left < others.len() {
        let (first_bytes, lines) = peer.message().await;
        assert_eq!(first_bytes, [TEXT], "{lines}");
        let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let names = events.filter_map(|event| Some(event["left"].as_array()?.len()));
        left += names.sum::<usize>();
    }
}

/// Search results contain text of other users.
#[actix_web::test]
async fn answer_to_a_search_is_not_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut peer = Peer::json(server.addr()).await;
    peer.send_command(&json!({"type": "hello"})).await;
    peer.send_command(&json!({"type": "join", "room": "tea"})).await;
    for _ in 0..10 {
        let text = "the same words again and again ".repeat(60);
        peer.send_command(&json!({"type": "say", "room": "tea", "text": text})).await;
        peer.until("said").await;
    }
    peer.send_command(&json!({"type": "search", "text": "words"})).await;
    let (first_bytes, answer) = peer.until("search").await;
    assert_eq!(first_bytes, [TEXT]);
    assert_eq!(answer["results"].as_array().unwrap().len(), 10);
    server.stop().await;
}

/// Safari cannot read compressed fragments (nats-server#2613).
#[actix_web::test]
async fn fragmented_answer_is_not_compressed() {
    let server = TestServer::start().await;
    let mut peer = Peer::json(server.addr()).await;
    let text = "the same words again and again ".repeat(60).trim_end().to_owned();
    peer.send_command(&json!({"type": "hello"})).await;
    peer.send_command(&json!({"type": "join", "room": "tea"})).await;
    for _ in 0..10 {
        peer.send_command(&json!({"type": "say", "room": "tea", "text": text})).await;
        peer.until("said").await;
    }
    peer.send_command(&json!({"type": "history", "room": "tea", "limit": 10})).await;
    let (first_bytes, history) = peer.until("history").await;
    assert_eq!(first_bytes, [START, LAST]);
    assert_eq!(history["messages"].as_array().unwrap().len(), 10);
    peer.send_command(&json!({"type": "history", "room": "tea", "limit": 5})).await;
    let (first_bytes, history) = peer.until("history").await;
    assert_eq!(first_bytes, [COMPRESSED]);
    assert_eq!(history["messages"].as_array().unwrap().len(), 5);
}

#[actix_web::test]
async fn stalled_client_that_negotiated_compression_is_evicted() {
    let server = TestServer::start_with(Config { send_queue_bytes: 100_000, ..config() }).await;
    let mut other = server.join("").await;
    let peer = Peer::compressed(server.addr(), "/ws").await;
    eventually("two clients", async || server.member_count().await == 2).await;
    // The queue counts decompressed bytes. The socket takes some 4 MB of compressed text.
    let mut number = 0_u32;
    while server.member_count().await == 2 {
        assert!(number < 50_000, "{number} messages");
        for _ in 0..50 {
            let text: String = (0..900).map(|_| char::from(fastrand::u8(b' '..b'~'))).collect();
            other.say(&format!("<{text}>")).await;
            number += 1;
            within("an echo", other.line()).await.unwrap();
        }
    }
    server.expect_disconnect(DisconnectReason::SlowClient).await;
    drop(peer);
}

#[actix_web::test]
async fn messages_of_several_rooms_at_once_arrive_compressed_and_in_order() {
    const MESSAGES: usize = 20;
    let server = TestServer::start().await;
    let mut peer = Peer::json(server.addr()).await;
    peer.send_command(&json!({"type": "hello", "nick": "ada"})).await;
    let rooms = ["tea", "coffee", "milk"];
    for room in rooms {
        peer.send_command(&json!({"type": "join", "room": room})).await;
        peer.until("joined").await;
    }
    let text = "the same words again and again ".repeat(10).trim_end().to_owned();
    let commands: Vec<_> = (0..MESSAGES * rooms.len())
        .map(|n| {
            let text = format!("{:02} {text}", n / rooms.len());
            json!({"type": "say", "room": rooms[n % rooms.len()], "text": text}).to_string()
        })
        .collect();
    // All commands arrive at once, so that several rooms are due together.
    peer.send(COMPRESSED, &deflate(commands.join("\n").as_bytes())).await;
    let (mut numbers, mut compressed) = ([0; 3], 0);
    while numbers != [MESSAGES; 3] {
        let (first_bytes, lines) = peer.message().await;
        compressed += usize::from(first_bytes[0] == COMPRESSED);
        let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        for message in events.filter(|event| event["type"] == "message") {
            let number =
                &mut numbers[rooms.iter().position(|&room| message["room"] == room).unwrap()];
            assert_eq!(message["text"], format!("{number:02} {text}"));
            *number += 1;
        }
    }
    assert!(compressed > 0);
}

#[actix_web::test]
async fn decompressing_beyond_the_limit_closes_the_connection_with_1009() {
    let server = TestServer::start().await;
    let limit = Config::default().frame_limit();
    let bomb = deflate(&vec![b' '; limit + 1]);
    assert!(bomb.len() < limit / 500, "{} bytes", bomb.len());
    let mut whole = Peer::compressed(server.addr(), "/ws").await;
    whole.send(COMPRESSED, &bomb).await;
    whole.expect_close(1009).await;
    let mut fragments = Peer::compressed(server.addr(), "/ws").await;
    let (start, end) = bomb.split_at(bomb.len() / 2);
    fragments.send(COMPRESSED_START, start).await;
    fragments.send(LAST, end).await;
    fragments.expect_close(1009).await;
    // The compressed size is limited, too, to slightly more than the limit.
    let mut endless = Peer::compressed(server.addr(), "/ws").await;
    endless.send(COMPRESSED_START, &[]).await;
    for _ in 0..limit / 1000 + 10 {
        endless.send(CONTINUATION, &[0; 1000]).await;
    }
    for _ in 0..limit / 8000 {
        endless.send(CONTINUATION, &[0; 1000]).await;
    }
    endless.expect_close(1009).await;
    // A message at the limit is accepted. It is blank, so the server does not answer it.
    let mut longest = Peer::compressed(server.addr(), "/ws").await;
    longest.send(COMPRESSED, &deflate(&vec![b' '; limit])).await;
    let mut store = Compress::new(Compression::none(), false);
    let stored = deflate_with(&mut store, &vec![b' '; limit]);
    assert!(stored.len() > limit);
    longest.send(COMPRESSED, &stored).await;
    longest.send(COMPRESSED, &deflate(b"still here")).await;
    assert_eq!(longest.message().await.1, "still here");
}

/// The first byte and the payload of each frame.
type Frames<'a> = Vec<(u8, &'a [u8])>;

#[actix_web::test]
async fn invalid_compressed_messages_close_the_connection_with_1002() {
    let server = TestServer::start().await;
    let mut context = Compress::new(Compression::new(6), false);
    let text = "words that are said twice, and then referred to";
    deflate_with(&mut context, text.as_bytes());
    let refers_back = deflate_with(&mut context, text.as_bytes());
    assert!(refers_back.len() < text.len() / 2);
    let whole = deflate("some words, and some more words than that".repeat(3).as_bytes());
    let ends_early = &whole[..whole.len() / 2];
    let stored = deflate_with(&mut Compress::new(Compression::none(), false), text.as_bytes());
    let stored_ends_early = &stored[..stored.len() / 2];
    let two_ends = [0x03, 0x00, 0x03, 0x00, 0x00];
    let frames: [(&str, Frames<'_>); 11] = [
        ("a reference to an earlier message", vec![(COMPRESSED, &refers_back)]),
        ("a block that ends early", vec![(COMPRESSED, ends_early)]),
        ("a stored block that ends early", vec![(COMPRESSED, stored_ends_early)]),
        ("invalid deflate data", vec![(COMPRESSED, b"\xFF\xFF\xFF\xFF\xFF")]),
        ("an empty payload", vec![(COMPRESSED, b"")]),
        ("two final blocks", vec![(COMPRESSED, &two_ends)]),
        ("a compressed fragment in a plain message", vec![(0x01, b"x"), (0xC0, &whole)]),
        ("the compression bit in a continuation", vec![(COMPRESSED_START, b""), (0xC0, &whole)]),
        ("a compressed ping", vec![(0xC9, &whole)]),
        ("another reserved bit", vec![(0xA1, b"x")]),
        ("both bits", vec![(0xE1, &whole)]),
    ];
    for (what, frames) in frames {
        let mut peer = Peer::compressed(server.addr(), "/ws").await;
        for (first, payload) in frames {
            peer.send(first, payload).await;
        }
        let (first, close) = peer.frame().await;
        assert_eq!((first, u16::from_be_bytes([close[0], close[1]])), (CLOSE, 1002), "{what}");
    }
    let mut peer = Peer::compressed(server.addr(), "/ws").await;
    peer.send(COMPRESSED, &deflate(b"not \xFF UTF-8")).await;
    peer.expect_close(1007).await;
    let mut peer = Peer::compressed(server.addr(), "/ws").await;
    peer.send(0xC2, &deflate(b"binary")).await;
    peer.expect_close(1003).await;
    // Without an offer, a compressed message is invalid.
    let (mut peer, _) = Peer::connect(server.addr(), "/ws", "").await;
    peer.send(COMPRESSED, &whole).await;
    peer.expect_close(1002).await;
    // Other connections are unaffected.
    let mut peer = Peer::compressed(server.addr(), "/ws").await;
    peer.send(COMPRESSED, &deflate(b"hello")).await;
    assert_eq!(peer.message().await.1, "hello");
    let answer = raw_http(server.addr(), "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
