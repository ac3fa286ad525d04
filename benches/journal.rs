//! Measures the release build with a large journal: `cargo bench --bench journal`. Linux only.
//!
//! Clients send 10 million messages to 10,000 rooms. The first run takes minutes and 3 GB of disk;
//! the journal stays in `target/tmp` for later runs. Arguments after `--`: `--messages N`, and
//! `--rooms N`, at most 10,000.
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

/// How many rooms a connection may be in.
const ROOMS_PER_CLIENT: usize = 1000;

/// How many lines a client sends in a frame.
const LINES_PER_FRAME: usize = 100;

/// How many messages a client sends before it waits for an answer.
const WINDOW: usize = 1000;

/// How many joins are measured.
const MEASURED_JOINS: usize = 300;

type Socket = WebSocketStream<TcpStream>;

/// Connects and sends `hello`.
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

fn room_name(n: usize) -> String {
    format!("room-{n}")
}

/// Fills rooms from one client, which sends one message to each room in each round.
async fn fill(server: &Process, rooms: std::ops::Range<usize>, rounds: usize) {
    let (mut sink, mut stream) = connect(server).await;
    let messages = rooms.len() * rounds;
    let joins: Vec<_> =
        rooms.clone().map(|n| json!({"type": "join", "room": room_name(n)})).collect();
    let joins = joins.chunks(LINES_PER_FRAME).map(|lines| lines.iter().map(Value::to_string));
    for lines in joins {
        let frame: Vec<_> = lines.collect();
        sink.send(Message::text(frame.join("\n"))).await.unwrap();
    }
    let text = "a message of sixty-four bytes, as people write them to each othe";
    let mut lines = (0..rounds).flat_map(|round| {
        rooms.clone().map(move |n| {
            let id = format!("{round}-{n}");
            json!({"type": "say", "room": room_name(n), "text": text, "id": id}).to_string()
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
        while said < messages {
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

/// Starts a server on this journal, and returns it and how long it took until it listened.
fn start(db: &Path) -> (Process, Duration) {
    let start = Instant::now();
    let server = Process::chinwag(&["--db", db.to_str().unwrap()]);
    (server, start.elapsed())
}

/// Returns the path of a journal of this size, which is created if it does not exist.
async fn journal(messages: usize, rooms: usize) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = format!("journal-{messages}-{rooms}");
    let db = folder.join(&name).join("chinwag.db");
    if db.exists() {
        return db;
    }
    let temporary = tempfile::tempdir_in(folder).unwrap();
    let server = start(&temporary.path().join("chinwag.db")).0;
    let began = Instant::now();
    let clients = (0..rooms).step_by(ROOMS_PER_CLIENT).map(|first| {
        let range = first..rooms.min(first + ROOMS_PER_CLIENT);
        fill(&server, range, messages / rooms)
    });
    futures_util::future::join_all(clients).await;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{messages} messages sent in {seconds:.0} s: {:.0} a second",
        messages as f64 / seconds
    );
    println!("peak memory {:.1} MB", server.peak_memory() as f64 / 1e6);
    server.stop();
    std::fs::rename(temporary.keep(), folder.join(&name)).unwrap();
    db
}

/// Joins some rooms, and returns how long each join took in milliseconds, sorted.
async fn join_rooms(server: &Process, rooms: usize) -> Vec<f64> {
    let (mut sink, mut stream) = connect(server).await;
    stream.next().await.unwrap().unwrap();
    let mut took = Vec::new();
    for n in 0..MEASURED_JOINS.min(rooms) {
        // The rooms are spread over the file.
        let room = room_name(n * 7919 % rooms);
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

/// Removes a file from the page cache.
fn evict_from_cache(db: &Path) {
    let file = std::fs::File::open(db).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Prints a result and its limit.
fn print_result(what: &str, measured: f64, limit: f64) {
    let verdict = if measured <= limit { "met" } else { "NOT MET" };
    println!("{what:<44} {measured:>9.2}  at most {limit:<8.2} {verdict}");
}

async fn measure(messages: usize, rooms: usize) {
    // The small journal has the same rooms, so that only the length of the history differs.
    let small = journal(rooms * 60, rooms).await;
    let large = journal(messages, rooms).await;
    let bytes = std::fs::metadata(&large).unwrap().len();
    println!("{messages} messages in {rooms} rooms: {:.0} MB", bytes as f64 / 1e6);
    let (server, _) = start(&small);
    let idle_small = server.memory();
    server.stop();
    for cache in ["cold", "warm"] {
        if cache == "cold" {
            evict_from_cache(&large);
        }
        let (server, took) = start(&large);
        print_result(&format!("start-up, {cache}, s"), took.as_secs_f64(), 1.0);
        if cache == "warm" {
            let ratio = server.memory() as f64 / idle_small as f64;
            print_result("memory after it, x that of 60 a room", ratio, 1.05);
        }
        let took = join_rooms(&server, rooms).await;
        let [p50, p99] = [0.5, 0.99].map(|part| took[(took.len() as f64 * part) as usize]);
        print_result(&format!("first page of a room, {cache}, p50, ms"), p50, 5.0);
        print_result(&format!("first page of a room, {cache}, p99, ms"), p99, 5.0);
        println!("  longest of {}: {:.2}", took.len(), took[took.len() - 1]);
        // The rings of all rooms take at most 64 MiB.
        print_result("memory then, MB", server.peak_memory() as f64 / 1e6, 128.0);
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
            // Cargo passes this to every benchmark.
            "--bench" => {}
            "--messages" => messages = number(),
            "--rooms" => rooms = number(),
            _ => panic!("unknown argument {argument}"),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(messages, rooms));
}
