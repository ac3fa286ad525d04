//! Measures the pure functions on the path of every message: `cargo bench --bench hot`. Criterion
//! keeps the results of the last run and compares them with the new ones.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use std::collections::VecDeque;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use actix_http::ws::{Codec, Frame};
use actix_web::error::PayloadError;
use actix_web_actors::ws::Message;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use chinwag::domain::{ChatMessage, Entry, Identity, MessageText, Nick, RoomName, Seq, Timestamp};
use chinwag::hub::Batch;
use chinwag::protocol::{Protocol, text};
use chinwag::websocket::{EndReason, TextFrame};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures_core::Stream;
use tokio_util::codec::Decoder;

use assembly::{Assembly, Received};
use guard::{FlowControl, Guard};

// These modules are private to the library, so the benchmark compiles them itself.
#[path = "../src/websocket/assembly.rs"]
#[allow(dead_code)]
mod assembly;
#[path = "../src/websocket/deflate.rs"]
#[allow(dead_code, unused_imports)]
mod deflate;
#[path = "../src/websocket/frame.rs"]
#[allow(dead_code)]
mod frame;
#[path = "../src/websocket/guard.rs"]
#[allow(dead_code)]
mod guard;
#[path = "support/sample_text.rs"]
mod sample_text;

/// The size of a batch in the scenario `stadium` of `benches/fanout`.
const MESSAGES: usize = 500;
const TEXT: &str = "It is a truth universally acknowledged, that a single man in pos";

fn message(nick: &str, text: &str) -> Arc<ChatMessage> {
    let (room, nick) = (RoomName::default(), Nick::parse(nick).unwrap());
    let text = MessageText::parse(text, 4096).unwrap();
    Arc::new(ChatMessage::new(room, Seq::new(1), Timestamp::now(), nick, text))
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let with_author = |author| {
        let mut message = (*message("ada", TEXT)).clone();
        message.author = author;
        Entry::Message(Arc::new(message))
    };
    let identity = |n| Identity::of_key(&format!("the secret of number {n}")).ok();
    let anonymous: Vec<_> = (0..MESSAGES).map(|_| with_author(None)).collect();
    let authored: Vec<_> = (0..MESSAGES).map(|n| with_author(identity(n))).collect();
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for (name, entries, protocol) in [
        ("a batch of 500 messages", &anonymous, Protocol::Text),
        ("the same in JSON", &anonymous, Protocol::Json),
        ("the same in JSON, each of another author", &authored, Protocol::Json),
    ] {
        group.bench_function(name, |b| {
            let accepted = Instant::now();
            let batch = || Batch::new(entries.clone(), accepted);
            b.iter_batched_ref(batch, |batch| batch.frames(protocol).len(), BatchSize::SmallInput);
        });
    }
    let waiting: VecDeque<TextFrame> = (0..8).map(|_| TextFrame::new(TEXT)).collect();
    group.throughput(Throughput::Elements(8));
    group.bench_function("8 batches that wait for one client", |b| {
        b.iter_batched_ref(|| waiting.clone(), TextFrame::coalesce, BatchSize::SmallInput);
    });
    group.finish();
}

/// A payload with these chunks, last chunk first. After them it is pending forever.
struct Chunks(Vec<Bytes>);

impl Stream for Chunks {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.pop().map_or(Poll::Pending, |chunk| Poll::Ready(Some(Ok(chunk))))
    }
}

/// Encodes a masked frame.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = vec![first, 0x80 | 126];
    frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Decodes everything in the chunks like the stream decoder of actix-web-actors and the socket, and
/// returns the number of text messages.
fn receive(chunks: Vec<Bytes>) -> Result<usize, EndReason> {
    let mut guard = Guard::new(Chunks(chunks), FlowControl::default(), 28 * 1024, true);
    let mut codec = Codec::new().max_size(28 * 1024);
    let mut assembly = Assembly::default();
    let (mut buffer, mut texts, mut idle) = (BytesMut::new(), 0, false);
    loop {
        let Poll::Ready(Some(Ok(bytes))) =
            Pin::new(&mut guard).poll_next(&mut Context::from_waker(Waker::noop()))
        else {
            // The guard is pending once after each frame.
            if std::mem::replace(&mut idle, true) {
                return Ok(texts);
            }
            continue;
        };
        idle = false;
        buffer.extend_from_slice(&bytes);
        let message = match codec.decode(&mut buffer).unwrap().unwrap() {
            Frame::Text(bytes) => Message::Text(ByteString::try_from(bytes).unwrap()),
            Frame::Continuation(item) => Message::Continuation(item),
            frame => panic!("unexpected frame {frame:?}"),
        };
        texts += usize::from(matches!(assembly.push(message)?, Some(Received::Text(_))));
    }
}

fn guard_and_assembly(c: &mut Criterion) {
    let mut group = c.benchmark_group("guard and assembly");
    let short: Bytes = masked(0x81, TEXT.as_bytes()).repeat(100).into();
    let compressed = deflate::deflate(TEXT.as_bytes());
    let compressed: Bytes = masked(0xC1, &compressed).repeat(100).into();
    let fragments = [0x01, 0x00, 0x00, 0x80].map(|first| masked(first, &[b'x'; 1024]));
    for (name, bytes, texts) in [
        ("100 messages of 64 bytes in one read", vec![short.clone()], 100),
        (
            "the same in reads of 10 bytes",
            short.chunks(10).rev().map(Bytes::copy_from_slice).collect(),
            100,
        ),
        ("4 KiB in 4 fragments", vec![fragments.concat().into()], 1),
        ("100 compressed messages of 64 bytes in one read", vec![compressed], 100),
    ] {
        assert_eq!(receive(bytes.clone()), Ok(texts));
        group.throughput(Throughput::Elements(texts as u64));
        group.bench_function(name, |b| {
            b.iter_batched(|| bytes.clone(), receive, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let long = TEXT.repeat(64);
    for (name, text) in [("64 bytes", TEXT), ("4 KiB", &long)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        let room = RoomName::default();
        group.bench_function(name, |b| {
            b.iter(|| text::decode(black_box(text), &room, 4096).unwrap());
        });
    }
    group.finish();
}

/// Compresses batches of JSON with messages of 20 members, as the page receives them.
fn compress(c: &mut Criterion) {
    let mut group = c.benchmark_group("compress");
    for messages in [2, 20, 80] {
        let message = |n: u64| {
            let text = sample_text::sample_text(n, 20 + n as usize * 13 % 90);
            Entry::Message(message(&format!("member-{}", n * 7 % 20), text.trim()))
        };
        let batch = Batch::new((0..messages).map(message).collect(), Instant::now());
        let frame = &batch.frames(Protocol::Json)[0];
        println!(
            "{messages} messages: {} bytes, {} compressed",
            frame.encoded_len(),
            frame.compressed().encoded_len()
        );
        group.throughput(Throughput::Bytes(frame.encoded_len() as u64));
        group.bench_function(format!("{messages} messages of JSON"), |b| {
            b.iter(|| frame.compressed());
        });
    }
    group.finish();
}

criterion_group!(hot, encode, guard_and_assembly, decode, compress);
criterion_main!(hot);
