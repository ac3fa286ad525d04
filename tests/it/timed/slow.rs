//! Clients that read slowly, or no more, or have fallen silent.
//!
//! Whether the server has let go of a socket is read from the kernel's table of connections.
#![cfg(target_os = "linux")]

use std::net::SocketAddr;
use std::time::Duration;

use chinwag::Config;
use chinwag::socket::DisconnectReason as Reason;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{
    DEADLINE, TestServer, also_over_tls, also_with_http_server, config, eventually, frame,
    raw_upgrade, within,
};

also_with_http_server! {
    slow_client_is_evicted_within_twice_the_write_timeout,
    stalled_client_in_a_silent_room_is_closed_within_twice_write_timeout,
    slow_reader_that_keeps_up_with_a_quiet_room_stays_connected,
    stalled_http_download_is_closed,
}

also_over_tls! {
    stalled_client_in_a_silent_room_is_closed_within_twice_write_timeout,
    slow_reader_that_keeps_up_with_a_quiet_room_stays_connected,
    stalled_http_download_is_closed,
    slow_reader_that_keeps_sending_receives_the_close_frame,
    slow_reader_receives_everything_queued_before_shutdown,
}

/// Connections that the server still holds a descriptor of: those from its address in the kernel's
/// table that belong to a process.
fn held_by_server(server: &TestServer) -> usize {
    // Other processes may use the same port on another address.
    let addr = format!("0100007F:{:04X}", server.server_addr().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let held = table.lines().skip(1).filter(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listening = fields[3] == "0A";
        fields[1] == addr && !listening && fields[9] != "0"
    });
    held.count()
}

/// A connection with a small window and the segments of an Ethernet, as on a real network.
pub fn narrow(addr: SocketAddr, window_bytes: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(window_bytes).unwrap();
    socket.set_tcp_mss(1400).unwrap();
    socket.connect(&addr.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpStream::from_std(socket.into()).unwrap()
}

pub async fn slow_client(server: &TestServer, window_bytes: usize) -> TcpStream {
    let tcp = narrow(server.addr(), window_bytes);
    within("a handshake", raw_upgrade(tcp, server.addr(), "/ws?room=slow")).await
}

/// A slow client that has read nothing of so many messages, of 4,000 bytes each.
async fn behind(server: &TestServer, messages: usize) -> TcpStream {
    let slow = slow_client(server, 16 * 1024).await;
    let mut talker = server.join("room=slow").await;
    let long = "x".repeat(4000);
    for _ in 0..messages {
        talker.say(&long).await;
        talker.expect(&long).await;
    }
    talker.leave().await;
    slow
}

/// Reads at most so many bytes in a second until the connection ends.
async fn read_slowly(mut tcp: TcpStream, bytes_per_second: usize) {
    let mut taken = vec![0; (bytes_per_second / 10).max(1)];
    loop {
        // The pace is what this is about.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if bytes_per_second > 0 && matches!(tcp.read(&mut taken).await, Ok(0) | Err(_)) {
            return;
        }
    }
}

#[actix_web::test]
async fn slow_client_is_evicted_within_twice_the_write_timeout() {
    const SPEEDS: [usize; 6] = [0, 1, 5_000, 20_000, 50_000, 100_000];
    const WRITE_TIMEOUT: Duration = Duration::from_secs(4);
    let server = TestServer::start_with(Config { write_timeout: WRITE_TIMEOUT, ..config() }).await;
    let mut reader = server.join("room=slow").await;
    let mut writer = raw_upgrade(
        TcpStream::connect(server.addr()).await.unwrap(),
        server.addr(),
        "/ws?room=slow&nick=writer",
    )
    .await;
    let mut slow = Vec::new();
    for speed in SPEEDS {
        let tcp = slow_client(&server, 16 * 1024).await;
        slow.push(actix_web::rt::spawn(read_slowly(tcp, speed)));
    }
    eventually("all to be registered", async || server.client_count().await == 8).await;
    assert_eq!(held_by_server(&server), 8);
    // 4 kB a message, 400 a second: 1.6 MB/s, sixteen times what the fastest of them reads.
    let long = "x".repeat(4000);
    let line = format!("writer: {long}");
    let message = frame(0x81, long.as_bytes());
    let mut echo = vec![0; 64 * 1024];
    let began = Instant::now();
    let mut said = 0;
    while server.disconnects(Reason::SlowClient).await < SPEEDS.len() as u64 {
        assert!(began.elapsed() < DEADLINE, "all are outrun and evicted");
        writer.write_all(&message).await.unwrap();
        said += 1;
        while writer.try_read(&mut echo).is_ok_and(|read| read > 0) {}
        within("the reader's line", async {
            assert_eq!(reader.line().await.as_ref(), Some(&line), "number {said}");
        })
        .await;
        // The pace of the room, that the reader keeps up with.
        tokio::time::sleep(Duration::from_micros(2500)).await;
    }
    // From here on the room is silent.
    let evicted = Instant::now();
    eventually("their sockets to be gone", async || held_by_server(&server) == 2).await;
    assert!(evicted.elapsed() < 2 * WRITE_TIMEOUT, "{:?}", evicted.elapsed());
    assert_eq!(server.client_count().await, 2, "the rest of the room is there");
    for task in slow {
        task.abort();
    }
}

#[actix_web::test]
async fn stalled_client_in_a_silent_room_is_closed_within_twice_write_timeout() {
    const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
    let server = TestServer::start_with(Config { write_timeout: WRITE_TIMEOUT, ..config() }).await;
    let mut stalled = slow_client(&server, 16 * 1024).await;
    // Enough to shut its window, and not enough to have it evicted: then silence.
    let mut talker = server.join("room=slow").await;
    let long = "x".repeat(4000);
    for _ in 0..150 {
        talker.say(&long).await;
        talker.expect(&long).await;
    }
    talker.leave().await;
    assert_eq!(server.disconnects(Reason::SlowClient).await, 0);
    let silent = Instant::now();
    eventually("its socket to be gone", async || held_by_server(&server) == 0).await;
    assert!(silent.elapsed() < 2 * WRITE_TIMEOUT, "{:?}", silent.elapsed());
    eventually("it to be unregistered", async || server.client_count().await == 0).await;
    let _ = stalled.read_to_end(&mut Vec::new()).await;
}

#[actix_web::test]
async fn slow_reader_that_keeps_up_with_a_quiet_room_stays_connected() {
    let server =
        TestServer::start_with(Config { write_timeout: Duration::from_secs(1), ..config() }).await;
    let slow = slow_client(&server, 16 * 1024).await;
    let reading = actix_web::rt::spawn(read_slowly(slow, 5_000));
    let mut talker = server.join("room=slow").await;
    // 2 kB in a second, for five times the write timeout.
    let long = "x".repeat(400);
    for _ in 0..25 {
        talker.say(&long).await;
        talker.expect(&long).await;
        // The room is quiet: that is what this is about.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(server.client_count().await, 2);
    assert!(!reading.is_finished());
    reading.abort();
}

/// A file is much longer than what the system holds for a connection.
#[cfg(feature = "page")]
#[actix_web::test]
async fn stalled_http_download_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("index.html"), "").unwrap();
    std::fs::write(folder.path().join("long"), vec![b'x'; 50_000_000]).unwrap();
    let static_dir = Some(folder.path().to_owned());
    let write_timeout = Duration::from_secs(2);
    let server = TestServer::start_with(Config { static_dir, write_timeout, ..config() }).await;
    let mut stalled = TcpStream::connect(server.addr()).await.unwrap();
    stalled.write_all(b"GET /static/long HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut some = [0; 1000];
    within("some of the file", stalled.read_exact(&mut some)).await.unwrap();
    assert_eq!(held_by_server(&server), 1);
    eventually("its socket to be gone", async || held_by_server(&server) == 0).await;
}

/// While a client does not read, the pongs behind what it has sent are not read either.
///
/// The plain road is weaker here: its actor stands still meanwhile, and may take the client for
/// dead when it goes on.
#[actix_web::test]
async fn a_client_that_reads_on_after_a_while_is_not_taken_for_dead() {
    let server = TestServer::start_with(Config {
        ping_interval: Duration::from_millis(200),
        pong_timeout: Duration::from_secs(1),
        send_queue: 100_000,
        send_queue_bytes: 64 * 1024 * 1024,
        ..config()
    })
    .await;
    let stalled = slow_client(&server, 16 * 1024).await;
    let mut talker = server.join("room=slow").await;
    let (long, began) = ("x".repeat(4000), Instant::now());
    // Three times as long as it may be silent.
    while began.elapsed() < Duration::from_secs(3) {
        talker.say(&long).await;
        talker.expect(&long).await;
    }
    let (mut reader, mut writer) = stalled.into_split();
    let reading = actix_web::rt::spawn(async move {
        let mut taken = vec![0; 64 * 1024];
        while reader.read(&mut taken).await.is_ok_and(|bytes| bytes > 0) {}
    });
    writer.write_all(&frame(0x81, b"I am back")).await.unwrap();
    within("its words", async { while talker.line().await.unwrap() != "I am back" {} }).await;
    assert_eq!(server.client_count().await, 2);
    assert!(!reading.is_finished());
    reading.abort();
}

/// A half-open connection: nothing that is sent arrives any more, and nobody says so. It takes a
/// network of our own to switch off.
#[ignore = "needs to make a network namespace; scripts/test runs it"]
#[actix_web::test]
async fn client_behind_a_dead_network_is_closed_after_the_pong_timeout() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/timed/half_open.sh");
    let output = tokio::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "bash", script])
        .arg(crate::program::PROGRAM)
        .kill_on_drop(true)
        .output();
    let output = within("the namespace", output).await.unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}{errors}");
    let seconds: f64 = log.trim().parse().unwrap_or_else(|_| panic!("{log}{errors}"));
    // At most 2 s and 1 s, and as much again for a busy machine. The last that was heard of the
    // client was before the network went, so it may be a little less than 2 s.
    assert!((1.0..6.0).contains(&seconds), "gone after {seconds} s");
}

/// The close frame is last in the kernel's send buffer. Closing the socket with unread input would
/// discard it.
#[actix_web::test]
async fn slow_reader_that_keeps_sending_receives_the_close_frame() {
    let server = TestServer::start_with(config()).await;
    let mut slow = behind(&server, 45).await;
    slow.write_all(&frame(0x82, b"no text")).await.unwrap();
    let unsupported = async || server.disconnects(Reason::Unsupported).await == 1;
    eventually("the close to begin", unsupported).await;
    let began = Instant::now();
    let pings = frame(0x89, b"are you there");
    read_to_close(slow, 40_000, &pings, Reason::Unsupported).await;
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
}

/// Reads to the close frame at a limited speed, sending `sent` after every read. Returns the number
/// of bytes read.
async fn read_to_close(
    mut slow: TcpStream,
    bytes_per_second: usize,
    sent: &[u8],
    reason: Reason,
) -> usize {
    let (mut last, mut taken) = (Vec::new(), vec![0; bytes_per_second / 10]);
    let mut bytes = 0;
    within("the end", async {
        loop {
            // The pace is what this is about.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = slow.write_all(sent).await;
            let read = slow.read(&mut taken).await.expect("the connection is not reset");
            if read == 0 {
                break;
            }
            bytes += read;
            last = [&last[last.len().saturating_sub(100)..], &taken[..read]].concat();
        }
    })
    .await;
    let at = last.iter().rposition(|&byte| byte == 0x88).expect("a close frame");
    assert_eq!(last[at + 2..at + 4], reason.code().unwrap().to_be_bytes());
    bytes
}

/// The queue is larger than the kernel's buffers, and the client sends before it reads.
#[actix_web::test]
async fn slow_reader_receives_everything_queued_before_shutdown() {
    let hour = Duration::from_secs(3600);
    let config = Config { write_timeout: hour, shutdown_timeout: hour, ..config() };
    let server = TestServer::start_with(config).await;
    let mut slow = behind(&server, 90).await;
    let stopping = actix_web::rt::spawn(server.stop());
    let began = Instant::now();
    let pings = frame(0x89, b"are you there").repeat(1000);
    within("all to be sent", async {
        while began.elapsed() < Duration::from_secs(3) {
            slow.write_all(&pings).await.unwrap();
        }
    })
    .await;
    let bytes = read_to_close(slow, 160_000, b"", Reason::ShuttingDown).await;
    assert!(bytes > 90 * 4000, "{bytes}");
    within("the server to stop", stopping).await.unwrap();
}

/// Input without end must not starve the timers that end the connection.
#[actix_web::test]
async fn flooding_client_is_closed_after_the_write_timeout() {
    const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
    let shutdown_timeout = Duration::from_secs(3600);
    let config = Config { write_timeout: WRITE_TIMEOUT, shutdown_timeout, ..config() };
    let server = TestServer::start_with(config).await;
    let mut flooder = behind(&server, 90).await;
    let began = Instant::now();
    let stopping = actix_web::rt::spawn(server.stop());
    let flood = frame(0x89, b"").repeat(50_000);
    let sent = async { while flooder.write_all(&flood).await.is_ok() {} };
    within("it to be cut off", sent).await;
    assert!(began.elapsed() < 2 * WRITE_TIMEOUT, "{:?}", began.elapsed());
    within("the server to stop", stopping).await.unwrap();
}
