//! Measures how much memory idle and hostile clients cost the release build:
//! `cargo bench --bench memory`. Linux only. It fails if a result exceeds its limit.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use process::Process;

#[path = "support/process.rs"]
mod process;

const KB: u64 = 1024;
const MB: u64 = 1024 * KB;

const IDLE_CLIENTS_MAX: u64 = 15_000;
const PONGS: usize = 2_000;
const FLOOD: Duration = Duration::from_secs(20);
const STALLED: u64 = 20;

/// Connects a WebSocket with this query string.
async fn connect(server: &Process, query: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(server.addr).await.unwrap();
    let request = format!(
        "GET /ws?{query} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.addr
    );
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(tcp.read_buf(&mut head).await.unwrap(), 0);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    tcp
}

/// Encodes a frame with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut frame = if length < 126 { vec![first, 0x80 | length as u8] } else { vec![first, 0xFE] };
    if length >= 126 {
        frame.extend(length.to_be_bytes());
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Prints a result and its limit, and returns whether it is within the limit.
fn check(what: &str, bytes: u64, limit: u64) -> bool {
    let verdict = if bytes <= limit { "" } else { "  OVER" };
    println!("{what:<62} {:>9.1} kB of {:>6} kB{verdict}", bytes as f64 / 1024.0, limit / KB);
    bytes <= limit
}

async fn idle() -> bool {
    let clients = IDLE_CLIENTS_MAX.min(rlimit::increase_nofile_limit(u64::MAX).unwrap() - 1_000);
    let server = Process::chinwag(&[]);
    drop(connect(&server, "").await);
    let before = server.memory();
    let mut all = Vec::new();
    for n in 0..clients {
        all.push(connect(&server, &format!("room=r{}", n % 100)).await);
    }
    let just_connected = (server.memory() - before) / clients;
    // Each client sends a few pongs at a time, as it would over a day.
    let pongs = frame(0x8A, b"").repeat(PONGS / 100);
    for _ in 0..100 {
        for tcp in &mut all {
            tcp.write_all(&pongs).await.unwrap();
        }
    }
    let ping = frame(0x89, b"");
    for tcp in &mut all {
        tcp.write_all(&ping).await.unwrap();
    }
    for tcp in &mut all {
        // After the pong, the server has read all frames before the ping.
        let mut answer = [0; 2];
        tcp.read_exact(&mut answer).await.unwrap();
    }
    let after_pongs = (server.memory() - before) / clients;
    let is_ok =
        check(&format!("{clients} idle clients, each, just connected"), just_connected, 4 * KB);
    check(&format!("the same after {PONGS} pongs"), after_pongs, 4 * KB) && is_ok
}

async fn giant_frame() -> bool {
    let server = Process::chinwag(&[]);
    drop(connect(&server, "").await);
    let before = server.memory();
    let mut tcp = connect(&server, "").await;
    tcp.write_all(&[0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let chunk = vec![0; MB as usize];
    let mut sent = 0;
    while sent < 300 && tcp.write_all(&chunk).await.is_ok() {
        sent += 1;
    }
    check(&format!("one giant frame, {sent} MB of it sent"), server.peak_memory() - before, MB)
}

async fn flood() -> bool {
    let server = Process::chinwag(&[]);
    drop(connect(&server, "").await);
    let before = server.memory();
    let (mut reader, mut writer) = connect(&server, "").await.into_split();
    let echoes = tokio::spawn(async move {
        let mut chunk = vec![0; 256 * 1024];
        let mut read = 0;
        while let Ok(bytes @ 1..) = reader.read(&mut chunk).await {
            read += bytes as u64;
        }
        read
    });
    let message = frame(0x81, &[b'x'; 4000]);
    let end = Instant::now() + FLOOD;
    let mut sent = 0;
    while Instant::now() < end {
        writer.write_all(&message).await.unwrap();
        sent += message.len() as u64;
    }
    let grown = server.peak_memory().saturating_sub(before);
    drop(writer);
    drop(server);
    let read = echoes.await.unwrap();
    let (sent, read) = (sent / 1_000_000, read / 1_000_000);
    let what = format!("a flood of {sent} MB in 20 s, {read} MB of echoes");
    check(&what, grown, 4 * MB)
}

async fn stalled() -> bool {
    let server = Process::chinwag(&[]);
    drop(connect(&server, "").await);
    let before = server.memory();
    let long = "x".repeat(4000);
    let message = frame(0x81, long.as_bytes());
    let mut kernel_max = 0;
    let mut all = Vec::new();
    for n in 0..STALLED {
        // The worst case: each client is in its own room, so that clients share no batch.
        let query = format!("room=r{n}");
        all.push(connect(&server, &query).await);
        let mut sender = connect(&server, &query).await;
        let mut echo = vec![0; 4004];
        for _ in 0..1000 {
            sender.write_all(&message).await.unwrap();
            sender.read_exact(&mut echo).await.unwrap();
        }
        kernel_max = kernel_max.max(send_queue_max(server.addr));
    }
    let each = server.peak_memory().saturating_sub(before) / STALLED;
    let is_ok = check("memory per client that stops reading, until it is evicted", each, 3 * MB);
    check("longest kernel send queue of any socket of the server", kernel_max, 256 * KB) && is_ok
}

/// Returns the longest send queue of the server's sockets from the kernel's table.
fn send_queue_max(server: SocketAddr) -> u64 {
    let port = format!(":{:04X}", server.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let queues = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let queue = fields[4].split(':').next()?;
        fields[1].ends_with(&port).then(|| u64::from_str_radix(queue, 16).unwrap())
    });
    queues.max().unwrap_or(0)
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let results = runtime
        .block_on(async { [idle().await, giant_frame().await, flood().await, stalled().await] });
    if results.iter().all(|&is_ok| is_ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
