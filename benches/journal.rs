//! What a large journal costs the release build: 10 million messages in 10,000 rooms, said by
//! clients and kept as any other. `cargo bench --bench journal`; Linux only. The first time takes
//! minutes and 3 GB of disk; the journal stays in `target/tmp` for the next. After `--`:
//! `--messages N`, and `--rooms N`, at most 10,000.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use process::Process;

#[path = "support/process.rs"]
mod process;

/// Rooms that one connection may be in.
const ROOMS_PER_CLIENT: usize = 1000;

/// Lines that fit a frame.
const LINES_PER_FRAME: usize = 100;

/// How many messages a client says before it waits for an answer.
const WINDOW: usize = 1000;

/// How many rooms are opened to see how long that takes.
const OPENED: usize = 300;

type Socket = WebSocketStream<TcpStream>;

async fn connect(server: &Process) -> (SplitSink<Socket, Message>, SplitStream<Socket>) {
    let mut request = format!("ws://{}/ws", server.addr).into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "chinwag.v1".parse().unwrap());
    let tcp = TcpStream::connect(server.addr).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (socket, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
    let (mut sink, stream) = socket.split();
    sink.send(Message::text(json!({"type": "hello"}).to_string())).await.unwrap();
    (sink, stream)
}

fn room(n: usize) -> String {
    format!("room-{n}")
}

/// Fills rooms of one client's own, in turn: as many messages to each as it has rounds.
async fn fill(server: &Process, rooms: std::ops::Range<usize>, rounds: usize) {
    let (mut sink, mut stream) = connect(server).await;
    let says = rooms.len() * rounds;
    let joins: Vec<_> = rooms.clone().map(|n| json!({"type": "join", "room": room(n)})).collect();
    let joins = joins.chunks(LINES_PER_FRAME).map(|lines| lines.iter().map(Value::to_string));
    for lines in joins {
        let frame: Vec<_> = lines.collect();
        sink.send(Message::text(frame.join("\n"))).await.unwrap();
    }
    let text = "a message of sixty-four bytes, as people write them to each othe";
    let mut lines = (0..rounds).flat_map(|round| {
        rooms.clone().map(move |n| {
            let id = format!("{round}-{n}");
            json!({"type": "say", "room": room(n), "text": text, "id": id}).to_string()
        })
    });
    let window = Semaphore::new(WINDOW);
    let send = async {
        loop {
            let frame: Vec<_> = lines.by_ref().take(LINES_PER_FRAME).collect();
            if frame.is_empty() {
                break;
            }
            window.acquire_many(frame.len() as u32).await.unwrap().forget();
            sink.send(Message::text(frame.join("\n"))).await.unwrap();
        }
    };
    let receive = async {
        let mut said = 0;
        while said < says {
            let Message::Text(text) = stream.next().await.unwrap().unwrap() else { continue };
            let answers =
                |kind: &str| text.split('\n').filter(|line| line.starts_with(kind)).count();
            assert_eq!(answers(r#"{"type":"error""#), 0, "{text}");
            let answered = answers(r#"{"type":"said""#);
            window.add_permits(answered);
            said += answered;
        }
    };
    tokio::join!(send, receive);
}

/// A server on this journal, and how long it took to listen.
fn start(db: &Path) -> (Process, Duration) {
    let start = Instant::now();
    let server = Process::chinwag(&["--db", db.to_str().unwrap()]);
    (server, start.elapsed())
}

/// The journal, made if it is not there.
async fn journal(messages: usize, rooms: usize) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = format!("journal-{messages}-{rooms}");
    let db = folder.join(&name).join("chinwag.db");
    if db.exists() {
        return db;
    }
    let part = tempfile::tempdir_in(folder).unwrap();
    let server = start(&part.path().join("chinwag.db")).0;
    let began = Instant::now();
    let clients = (0..rooms).step_by(ROOMS_PER_CLIENT).map(|first| {
        let its = first..rooms.min(first + ROOMS_PER_CLIENT);
        fill(&server, its, messages / rooms)
    });
    futures_util::future::join_all(clients).await;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{messages} messages said in {seconds:.0} s: {:.0} a second",
        messages as f64 / seconds
    );
    println!("peak memory meanwhile {:.1} MB", server.peak() as f64 / 1e6);
    server.stop();
    std::fs::rename(part.keep(), folder.join(&name)).unwrap();
    db
}

/// Opens rooms here and there, and gives how long each took to show its latest messages, in
/// milliseconds, shortest first.
async fn open_rooms(server: &Process, rooms: usize) -> Vec<f64> {
    let (mut sink, mut stream) = connect(server).await;
    stream.next().await.unwrap().unwrap();
    let mut took = Vec::new();
    for n in 0..OPENED.min(rooms) {
        // Spread over all of them, in no order of theirs.
        let room = room(n * 7919 % rooms);
        let start = Instant::now();
        sink.send(Message::text(json!({"type": "join", "room": room}).to_string())).await.unwrap();
        let joined = stream.next().await.unwrap().unwrap().into_text().unwrap();
        took.push(start.elapsed().as_secs_f64() * 1e3);
        let joined: Value = serde_json::from_str(&joined).unwrap();
        assert_eq!(joined["messages"].as_array().unwrap().len(), 50, "{joined}");
    }
    took.sort_by(f64::total_cmp);
    took
}

/// Takes a file out of the system's cache.
fn forget(db: &Path) {
    let file = std::fs::File::open(db).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Prints a figure beside what it should be.
fn figure(what: &str, seen: f64, limit: f64) {
    let verdict = if seen <= limit { "met" } else { "NOT MET" };
    println!("{what:<44} {seen:>9.2}  at most {limit:<8.2} {verdict}");
}

async fn measure(messages: usize, rooms: usize) {
    // Of the same rooms, so that only the length of the history differs.
    let small = journal(rooms * 60, rooms).await;
    let large = journal(messages, rooms).await;
    let bytes = std::fs::metadata(&large).unwrap().len();
    println!("{messages} messages in {rooms} rooms: {:.0} MB", bytes as f64 / 1e6);
    let (server, _) = start(&small);
    let idle_small = server.memory();
    server.stop();
    for cache in ["cold", "warm"] {
        if cache == "cold" {
            forget(&large);
        }
        let (server, took) = start(&large);
        figure(&format!("start-up, {cache}, s"), took.as_secs_f64(), 1.0);
        if cache == "warm" {
            let ratio = server.memory() as f64 / idle_small as f64;
            figure("memory after it, x that of 60 a room", ratio, 1.05);
        }
        let took = open_rooms(&server, rooms).await;
        let [p50, p99] = [0.5, 0.99].map(|part| took[(took.len() as f64 * part) as usize]);
        figure(&format!("first page of a room, {cache}, p50, ms"), p50, 5.0);
        figure(&format!("first page of a room, {cache}, p99, ms"), p99, 5.0);
        println!("  and the longest of {} {:.2}", took.len(), took[took.len() - 1]);
        // The rings of the rooms are 64 MiB in all, whatever the journal.
        figure("memory then, MB", server.peak() as f64 / 1e6, 128.0);
        server.stop();
    }
}

fn main() {
    let (mut messages, mut rooms) = (10_000_000, 10_000);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number =
            || arguments.next().and_then(|value| value.parse().ok()).expect("a number");
        match argument.as_str() {
            // Cargo says so to every benchmark.
            "--bench" => {}
            "--messages" => messages = number(),
            "--rooms" => rooms = number(),
            _ => panic!("there is no argument {argument}"),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(messages, rooms));
}
