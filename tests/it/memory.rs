//! How much memory hostile clients cost the server. `cargo bench --bench memory` measures the
//! release build at full size.
#![cfg(target_os = "linux")]

use std::sync::Arc;

use actix::prelude::*;
use chinwag::Hub;
use chinwag::domain::{
    ChatMessage, ClientId, Durability, Epoch, MessageText, Nick, Position, RoomName, Seq, Timestamp,
};
use chinwag::hub::{CatchUp, Deliver, Join, Register};
use chinwag::log::{Append, Follow, Follower, Log, LogError, Messages, Page, Probe, State};
use chinwag::protocol::{Event, Reply};
use futures_util::future::join;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::harness::{Client, config, eventually, frame, raw_handshake, raw_socket, within};
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

const MB: u64 = 1_000_000;

/// Starts a server and serves some clients, so that it has allocated what it needs only once.
async fn start_warm(flags: &[&str]) -> (Program, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(PROGRAM, folder.path(), flags).await;
    for _ in 0..20 {
        let mut client = Client::connect(program.addr, "nick=first").await;
        for line in ["x".repeat(4000), "warm".to_owned()] {
            client.say(&line).await;
            client.expect(&format!("first: {line}")).await;
        }
        client.leave().await;
    }
    program.reset_peak_memory();
    (program, folder)
}

#[actix_web::test]
async fn giant_frame_costs_less_than_1_mb() {
    let (program, _folder) = start_warm(&[]).await;
    let before = program.memory();
    let mut tcp = raw_socket(program.addr, "/ws").await;
    // The header announces 2^40 bytes, and the client sends 300 MB.
    tcp.write_all(&[0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let (mut reader, mut writer) = tcp.into_split();
    let chunk = vec![0; MB as usize];
    let write = async {
        for _ in 0..300 {
            // The server closes the socket after 2 seconds.
            if within("a megabyte", writer.write_all(&chunk)).await.is_err() {
                break;
            }
        }
    };
    let mut close = [0; 4];
    let (read, ()) = join(within("a close frame", reader.read_exact(&mut close)), write).await;
    read.unwrap();
    assert_eq!(u16::from_be_bytes([close[2], close[3]]), 1009);
    let grown = program.peak_memory().saturating_sub(before);
    assert!(grown < MB, "grown by {grown} bytes");
}

#[actix_web::test]
async fn compression_bombs_cost_less_than_1_mb() {
    let (program, _folder) = start_warm(&[]).await;
    let mut bomb = Vec::with_capacity(200_000);
    let mut deflate = flate2::Compress::new(flate2::Compression::best(), false);
    // The compressed message has the size limit of a frame, and decompresses to 1,000 times that.
    let blanks = vec![b' '; 28 * MB as usize];
    deflate.compress_vec(&blanks, &mut bomb, flate2::FlushCompress::Sync).unwrap();
    bomb.truncate(bomb.len() - 4);
    assert!(blanks.len() > 1000 * bomb.len(), "{} bytes", bomb.len());
    assert!(bomb.len() <= chinwag::Config::default().frame_limit(), "{} bytes", bomb.len());
    let frame = frame(0xC1, &bomb);
    let before = program.memory();
    for _ in 0..20 {
        let tcp = TcpStream::connect(program.addr).await.unwrap();
        let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        let (mut tcp, _) = raw_handshake(tcp, program.addr, "/ws", offer).await;
        tcp.write_all(&frame).await.unwrap();
        let mut close = [0; 4];
        within("a close frame", tcp.read_exact(&mut close)).await.unwrap();
        assert_eq!(u16::from_be_bytes([close[2], close[3]]), 1009);
    }
    let grown = program.peak_memory().saturating_sub(before);
    assert!(grown < MB, "grown by {grown} bytes");
}

#[actix_web::test]
async fn flood_whose_echoes_are_read_costs_less_than_4_mb() {
    // The messages that rooms keep in memory have a limit of their own.
    let (program, _folder) = start_warm(&["--resume-buffer", "10"]).await;
    let before = program.memory();
    let (mut reader, mut writer) = raw_socket(program.addr, "/ws").await.into_split();
    let message = frame(0x81, &[b'x'; 4000]);
    let total = 20 * MB as usize;
    let write = async {
        for _ in 0..total / message.len() {
            within("a message to be sent", writer.write_all(&message)).await.unwrap();
        }
    };
    let read = async {
        let mut chunk = vec![0; 256 * 1024];
        let mut echoed = 0;
        while echoed < total / message.len() * 4000 {
            let read = within("an echo", reader.read(&mut chunk)).await.unwrap();
            assert_ne!(read, 0, "the client stays connected");
            echoed += read;
        }
    };
    join(write, read).await;
    let grown = program.peak_memory().saturating_sub(before);
    assert!(grown < 4 * MB, "grown by {grown} bytes");
}

/// There was a bug: each client cost as much as its whole answer.
#[actix_web::test]
async fn unread_long_replay_costs_less_than_250_kb() {
    const STALLED: u64 = 60;
    let (program, _folder) = start_warm(&[]).await;
    let mut sender = Client::connect(program.addr, "room=long&nick=t").await;
    let long = "x".repeat(1000);
    for _ in 0..100 {
        for _ in 0..10 {
            sender.say(&long).await;
        }
        for _ in 0..10 {
            sender.expect(&format!("t: {long}")).await;
        }
    }
    sender.leave().await;
    let before = program.memory();
    let (mut plain, mut json) = (Vec::new(), Vec::new());
    for _ in 0..STALLED / 2 {
        let client = raw_socket(program.addr, "/ws?room=long&history=1000").await;
        within("the start of the answer", client.readable()).await.unwrap();
        plain.push(client);
        let mut client = JsonClient::hello(program.addr, json!({})).await;
        client.send(&[json!({"type": "join", "room": "other"})]).await;
        let after = json!({"epoch": client.expect("joined").await["epoch"], "seq": 0});
        client.send(&[json!({"type": "join", "room": "long", "after": after})]).await;
        within("the start of the answer", client.stream.get_ref().readable()).await.unwrap();
        json.push(client);
    }
    let each = program.peak_memory().saturating_sub(before) / STALLED;
    // The buffers of the connection and the next part of the answer.
    assert!(each < MB / 4, "{each} bytes per client");
}

/// A log with 1 MiB of messages in every room.
#[derive(Default)]
struct FullLog(Option<Follower>);

impl Actor for FullLog {
    type Context = Context<Self>;
}

impl Handler<Page> for FullLog {
    type Result = ();

    fn handle(&mut self, page: Page, _: &mut Self::Context) {
        let Page { room, max_bytes, answer, .. } = page;
        let text = MessageText::parse("x".repeat(4096), 4096).unwrap();
        let (nick, at) = (Nick::parse("ada").unwrap(), Timestamp::default());
        let count = (max_bytes / 4096).clamp(1, 256);
        let seqs = (257 - count as u64..).take(count).map(Seq::new);
        let message = |seq| ChatMessage::new(room.clone(), seq, at, nick.clone(), text.clone());
        let messages: Vec<_> = seqs.map(|seq| Arc::new(message(seq))).collect();
        let (floor, more) = (Seq::new(256 - count as u64), count < 256);
        answer.give(Ok(Messages { messages, floor, more, ..Messages::default() }));
    }
}

impl Handler<Follow> for FullLog {
    type Result = ();

    fn handle(&mut self, Follow(follower): Follow, _: &mut Self::Context) {
        self.0 = Some(follower);
    }
}

impl Handler<Append> for FullLog {
    type Result = ();

    fn handle(&mut self, _: Append, _: &mut Self::Context) {
        unreachable!("no client sends messages");
    }
}

impl Handler<Probe> for FullLog {
    type Result = Result<(), LogError>;

    fn handle(&mut self, _: Probe, _: &mut Self::Context) -> Self::Result {
        Ok(())
    }
}

/// A client that forwards its answers to a channel.
struct ForwardingClient(mpsc::UnboundedSender<Reply>);

impl Actor for ForwardingClient {
    type Context = Context<Self>;
}

impl Handler<Deliver> for ForwardingClient {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        if let Deliver::Answer(reply) = deliver {
            let _ = self.0.send(*reply);
        }
    }
}

/// Rings have 64 MiB in total. Answers that were read from the log and that clients have not
/// received have at most 32 MiB.
#[actix_web::test]
async fn unread_answers_are_bounded_in_total_and_later_answers_get_shorter() {
    const MIB: usize = 1024 * 1024;
    let full = FullLog::default().start();
    let log = Log {
        epoch: Epoch::of("full"),
        head: Seq::new(256),
        state: State::default(),
        durability: Durability::default(),
        follow: full.clone().recipient(),
        append: full.clone().recipient(),
        page: full.clone().recipient(),
        search: None,
        probe: full.recipient(),
        read_marks: None,
        nodes: None,
    };
    let hub = Hub::start_with_log(&Arbiter::new(), &config(), log);
    let (replies, mut answers) = mpsc::unbounded_channel();
    let forwarding = ForwardingClient(replies).start();
    let client = ClientId::next();
    let (nick, to) = (Nick::anonymous(client), forwarding.recipient().into());
    hub.do_send(Register { client, nick, events: true, to });
    let join = |n: usize| {
        let room = RoomName::parse(&format!("r{n}")).unwrap();
        let after = Position { epoch: Epoch::of("full"), seq: Seq::default() };
        hub.do_send(Join { client, room, catch_up: CatchUp::After(after), reference: None });
    };
    let mut next = async || {
        let reply = within("an answer", answers.recv()).await.unwrap();
        let Event::Joined { messages, recovered, .. } = reply.event else { panic!("{reply:?}") };
        (messages, recovered)
    };
    let mut unread = Vec::new();
    for n in 0..150 {
        if n % 10 == 0 {
            (n..n + 10).for_each(join);
        }
        let (messages, recovered) = next().await;
        assert!(!messages.is_empty(), "answer {n} has no messages");
        assert_eq!(recovered, messages.len() == 256, "answer {n}");
        unread.push(messages);
    }
    let bytes: usize = unread.iter().flatten().map(|message| message.text.as_str().len()).sum();
    assert!(bytes < 100 * MIB, "{} MiB", bytes / MIB);
    assert!(
        unread[..60].iter().all(|messages| messages.len() == 256),
        "the first 60 answers are complete"
    );
    drop(unread);
    join(150);
    let (messages, recovered) = next().await;
    assert_eq!(
        (messages.len(), recovered),
        (256, true),
        "answers are complete again once clients have read them"
    );
}

#[actix_web::test]
async fn stalled_client_costs_less_than_3_mb() {
    const STALLED: u64 = 10;
    // The messages that rooms keep in memory have a limit of their own.
    let (program, _folder) = start_warm(&["--resume-buffer", "10"]).await;
    let before = program.memory();
    let mut stalled = Vec::new();
    // The worst case: each client is in its own room, so that clients share no batch.
    for n in 0..STALLED {
        stalled.push(raw_socket(program.addr, &format!("/ws?room=r{n}")).await);
        let mut sender = Client::connect(program.addr, &format!("room=r{n}&nick=t")).await;
        // More messages than its queue holds, so that it is evicted.
        let long = "x".repeat(4000);
        for _ in 0..100 {
            for _ in 0..10 {
                sender.say(&long).await;
            }
            for _ in 0..10 {
                sender.expect(&format!("t: {long}")).await;
            }
        }
        sender.leave().await;
    }
    let each = program.peak_memory().saturating_sub(before) / STALLED;
    // The queue of 1 MiB, both as messages and as frames, and the buffers of the connection.
    assert!(each < 3 * MB, "{each} bytes per client");
}

#[actix_web::test]
async fn each_connection_uses_one_file_descriptor() {
    let (program, _folder) = start_warm(&[]).await;
    let before = program.descriptors();
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = Client::connect(program.addr, "nick=ada").await;
        client.say("hello").await;
        client.expect("ada: hello").await;
        client.leave().await;
        clients.push(Client::connect(program.addr, "").await);
    }
    // The last client of the warm-up may still be counted in `before`.
    let expected = before + 49..=before + 50;
    eventually("50 more descriptors", async || expected.contains(&program.descriptors())).await;
}
