//! Measures the release build with a large journal: `cargo bench --bench journal`. Linux only.
//!
//! Clients send 10 million messages to 10,000 rooms. The first run takes minutes and 5 GB of disk;
//! the journal stays in `target/tmp` for later runs. Arguments after `--`:
//!
//! - `--messages N`, and `--rooms N`, at most 10,000
//! - `--search`: measure only searches
//! - `--reindex`: first delete the search index, as if an older version had written the journal,
//!   and measure how long the server takes to rebuild it
//! - `--baseline PATH`: compare the CPU time of publishing with that of another executable, for
//!   example one of a version without searches
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
use rusqlite::Connection;
use words::Words;

#[path = "support/process.rs"]
mod process;
#[path = "support/words.rs"]
mod words;

/// How many rooms a connection may be in.
const ROOMS_PER_CLIENT: usize = 1000;

/// How many lines a client sends in a frame.
const LINES_PER_FRAME: usize = 100;

/// How many messages a client sends before it waits for an answer.
const WINDOW: usize = 1000;

/// How many searches of each kind are measured.
const MEASURED_SEARCHES: usize = 300;

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
async fn fill(server: &Process, words: &Words, rooms: std::ops::Range<usize>, rounds: usize) {
    let (mut sink, mut stream) = connect(server).await;
    let messages = rooms.len() * rounds;
    let joins: Vec<_> =
        rooms.clone().map(|n| json!({"type": "join", "room": room_name(n)})).collect();
    let joins = joins.chunks(LINES_PER_FRAME).map(|lines| lines.iter().map(Value::to_string));
    for lines in joins {
        let frame: Vec<_> = lines.collect();
        sink.send(Message::text(frame.join("\n"))).await.unwrap();
    }
    let mut random = fastrand::Rng::with_seed(rooms.start as u64);
    let mut lines = (0..rounds).flat_map(|round| rooms.clone().map(move |n| (round, n)));
    let mut line = || {
        let (round, n) = lines.next()?;
        let (id, text) = (format!("{round}-{n}"), words.text(&mut random));
        Some(json!({"type": "say", "room": room_name(n), "text": text, "id": id}).to_string())
    };
    let window = Semaphore::new(WINDOW);
    let send = async {
        loop {
            let frame: Vec<_> = std::iter::from_fn(&mut line).take(LINES_PER_FRAME).collect();
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

/// Sends messages to a server. Returns the server's CPU time for each message, in microseconds.
async fn fill_all(server: &Process, messages: usize, rooms: usize) -> f64 {
    let words = Words::new();
    let (began, cpu) = (Instant::now(), server.cpu());
    let clients = (0..rooms).step_by(ROOMS_PER_CLIENT).map(|first| {
        let range = first..rooms.min(first + ROOMS_PER_CLIENT);
        fill(server, &words, range, messages / rooms)
    });
    futures_util::future::join_all(clients).await;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{messages} messages sent in {seconds:.0} s: {:.0} a second",
        messages as f64 / seconds
    );
    (server.cpu() - cpu).as_secs_f64() * 1e6 / messages as f64
}

/// Returns the CPU time of another executable for each message, in microseconds.
async fn measure_baseline(path: &str, messages: usize, rooms: usize) -> f64 {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let db = folder.path().join("chinwag.db");
    let server = Process::other(path, &["--db", db.to_str().unwrap()]);
    let cost = fill_all(&server, messages, rooms).await;
    println!("CPU of the baseline for each message: {cost:.1} us");
    server.stop();
    cost
}

/// Waits until all messages are indexed, and the parts of the index are merged. Prints how long
/// both take.
async fn wait_for_index(db: &Path) {
    let began = Instant::now();
    let journal = Connection::open(db).unwrap();
    let waits_for = async |what: &str, condition: &str| {
        let select = format!("SELECT {condition}");
        while !journal.query_row(&select, [], |row| row.get::<_, bool>(0)).unwrap() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!("{what} after {:.1} s", began.elapsed().as_secs_f64());
    };
    let indexed = "NOT EXISTS (SELECT 1 FROM search_fill)
         AND NOT EXISTS (SELECT 1 FROM search_parts WHERE indexed < last AND last < 1 << 60)
         AND (SELECT max(indexed) FROM search_parts) >= (SELECT max(seq) FROM message_rooms)
         AND NOT EXISTS (SELECT 1 FROM message_rooms
                         WHERE seq < (SELECT min(first) FROM search_parts))";
    waits_for("all messages are indexed", indexed).await;
    let merged = "NOT EXISTS (SELECT 1 FROM search_parts WHERE merged = 0 AND last < 1 << 60)";
    waits_for("all parts are merged", merged).await;
}

/// Prints the size of the search index as a multiple of the size of the texts.
fn measure_index_size(db: &Path) {
    let journal = Connection::open(db).unwrap();
    let select = "SELECT sum(bytes - 128 * messages) FROM rooms";
    let text: i64 = journal.query_row(select, [], |row| row.get(0)).unwrap();
    let mut select =
        journal.prepare("SELECT name, pgsize FROM dbstat WHERE aggregate = 1").unwrap();
    let sizes = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let sizes: Vec<(String, i64)> = sizes.map(Result::unwrap).collect();
    let size_of = |is_counted: fn(&str) -> bool| -> i64 {
        sizes.iter().filter(|(name, _)| is_counted(name)).map(|(_, size)| size).sum()
    };
    let rooms = size_of(|name| name == "message_rooms");
    let all = rooms + size_of(|name| name.starts_with("search_"));
    println!(
        "texts {:.0} MB, index {:.0} MB, of which message_rooms {:.0} MB",
        text as f64 / 1e6,
        all as f64 / 1e6,
        rooms as f64 / 1e6
    );
    print_result("size of the index, x the texts", all as f64 / text as f64, 1.2);
}

/// Deletes the search index, so that the journal is like one of a version without search.
fn delete_index(db: &Path) {
    let journal = Connection::open(db).unwrap();
    let select = "SELECT 'DROP TABLE search_' || id FROM search_parts";
    let mut select = journal.prepare(select).unwrap();
    let drops = select.query_map([], |row| row.get(0)).unwrap();
    let drops: Vec<String> = drops.map(Result::unwrap).collect();
    drop(select);
    drops.iter().for_each(|drop| journal.execute_batch(drop).unwrap());
    let rest = "DROP TABLE message_rooms; DROP TABLE search_parts; DROP TABLE search_fill;
                DROP TABLE read_marks; PRAGMA user_version = 3; PRAGMA wal_checkpoint(TRUNCATE);";
    journal.execute_batch(rest).unwrap();
}

/// Measures searches of each kind over one connection.
async fn measure_searches(server: &Process, rooms: usize) {
    let words = Words::new();
    let (mut sink, mut stream) = connect(server).await;
    stream.next().await.unwrap().unwrap();
    let word = |n: usize| words.get(n).to_owned();
    let two = |a: usize, b: usize| format!("{} {}", words.get(a), words.get(b));
    let kinds: [(&str, &dyn Fn(usize) -> Value); 8] = [
        ("a common word", &|n| json!({"text": word(n % 10)})),
        ("two common words", &|n| json!({"text": two(n % 10, 10 + n % 13)})),
        ("a rare word", &|n| json!({"text": word(30_000 + n)})),
        ("two rare words", &|n| json!({"text": two(30_000 + n, 40_000 + n)})),
        ("a word that does not occur", &|n| json!({"text": format!("absent{n}")})),
        (
            "a common word in a room",
            &|n| json!({"text": word(n % 10), "room": room_name(n * 7919 % rooms)}),
        ),
        ("a phrase", &|n| json!({"text": format!("\"{} {}\"", word(n % 10), word(n % 13))})),
        ("a common and a rare word", &|n| json!({"text": two(n % 10, 20_000 + n)})),
    ];
    for (kind, fields) in kinds {
        let (mut took, mut results) = (Vec::new(), 0);
        for n in 0..MEASURED_SEARCHES {
            let mut command = json!({"type": "search"});
            command.as_object_mut().unwrap().extend(fields(n).as_object().unwrap().clone());
            let start = Instant::now();
            sink.send(Message::text(command.to_string())).await.unwrap();
            let answer = stream.next().await.unwrap().unwrap().into_text().unwrap();
            took.push(start.elapsed().as_secs_f64() * 1e3);
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["type"], "search", "{answer}");
            assert_eq!(answer.get("incomplete"), None, "{command}");
            results += answer["results"].as_array().unwrap().len();
        }
        took.sort_by(f64::total_cmp);
        let [p50, p99] = [0.5, 0.99].map(|part| took[(took.len() as f64 * part) as usize]);
        print_result(&format!("search for {kind}, p50, ms"), p50, 100.0);
        print_result(&format!("search for {kind}, p99, ms"), p99, 100.0);
        println!(
            "  longest: {:.1}; {:.1} results",
            took[took.len() - 1],
            results as f64 / took.len() as f64
        );
    }
}

/// Returns the path of a journal of this size, which is created if it does not exist.
async fn journal(messages: usize, rooms: usize) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = format!("journal-words-{messages}-{rooms}");
    let db = folder.join(&name).join("chinwag.db");
    if db.exists() {
        return db;
    }
    let temporary = tempfile::tempdir_in(folder).unwrap();
    let server = start(&temporary.path().join("chinwag.db")).0;
    let cpu = server.cpu();
    let cost = fill_all(&server, messages, rooms).await;
    println!("CPU of the server for each message: {cost:.1} us");
    wait_for_index(&temporary.path().join("chinwag.db")).await;
    let cost = (server.cpu() - cpu).as_secs_f64() * 1e6 / messages as f64;
    println!("CPU of the server for each message until the index is complete: {cost:.1} us");
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

async fn measure_search(messages: usize, rooms: usize, reindexes: bool) {
    let db = journal(messages, rooms).await;
    if reindexes {
        delete_index(&db);
    }
    let (server, took) = start(&db);
    if reindexes {
        print_result("start-up with an older file, s", took.as_secs_f64(), 1.0);
    }
    wait_for_index(&db).await;
    measure_searches(&server, rooms).await;
    println!("peak memory {:.1} MB", server.peak_memory() as f64 / 1e6);
    server.stop();
    measure_index_size(&db);
}

/// Compares the CPU time of publishing with that of another executable.
async fn compare(baseline: &str, messages: usize, rooms: usize) {
    let without = measure_baseline(baseline, messages, rooms).await;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let db = folder.path().join("chinwag.db");
    let server = start(&db).0;
    let cpu = server.cpu();
    let with = fill_all(&server, messages, rooms).await;
    println!("CPU for each message: {with:.1} us");
    wait_for_index(&db).await;
    let whole = (server.cpu() - cpu).as_secs_f64() * 1e6 / messages as f64;
    server.stop();
    print_result("CPU of publishing, x the baseline", with / without, 1.15);
    print_result("until all is indexed and merged, x", whole / without, 1.15);
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
    let (mut only_search, mut reindexes, mut baseline) = (false, false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number =
            || arguments.next().and_then(|value| value.parse().ok()).expect("a number");
        match argument.as_str() {
            // Cargo passes this to every benchmark.
            "--bench" => {}
            "--messages" => messages = number(),
            "--rooms" => rooms = number(),
            "--search" => only_search = true,
            "--reindex" => reindexes = true,
            "--baseline" => baseline = arguments.next(),
            _ => panic!("unknown argument {argument}"),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if let Some(baseline) = baseline {
            return compare(&baseline, messages, rooms).await;
        }
        if !only_search {
            measure(messages, rooms).await;
        }
        measure_search(messages, rooms, reindexes).await;
    });
}
