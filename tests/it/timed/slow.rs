//! Clients that read slowly, stop reading or vanish.
//!
//! The kernel's table of connections shows whether the server has closed a socket.
#![cfg(target_os = "linux")]

use std::net::SocketAddr;
use std::time::Duration;

use chinwag::Config;
use chinwag::protocol::DisconnectReason as Reason;
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

/// Returns how many connections the server has a descriptor of: those with its address in the
/// kernel's table that belong to a process.
fn sockets_of(server: &TestServer) -> usize {
    // Other processes may use the same port on another address.
    let addr = format!("0100007F:{:04X}", server.server_addr().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let sockets = table.lines().skip(1).filter(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listening = fields[3] == "0A";
        fields[1] == addr && !listening && fields[9] != "0"
    });
    sockets.count()
}

/// Connects with a small receive window and the segment size of Ethernet, as on a real network.
pub fn connect_with_window(addr: SocketAddr, window_bytes: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(window_bytes).unwrap();
    socket.set_tcp_mss(1400).unwrap();
    socket.connect(&addr.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpStream::from_std(socket.into()).unwrap()
}

/// Connects a WebSocket with a small receive window, in room `slow`.
pub async fn slow_client(server: &TestServer, window_bytes: usize) -> TcpStream {
    let tcp = connect_with_window(server.addr(), window_bytes);
    within("a handshake", raw_upgrade(tcp, server.addr(), "/ws?room=slow")).await
}

/// Connects a slow client that has not read this many messages of 4,000 bytes each.
async fn client_behind_by(server: &TestServer, messages: usize) -> TcpStream {
    let slow = slow_client(server, 16 * 1024).await;
    let mut sender = server.join("room=slow").await;
    let long = "x".repeat(4000);
    for _ in 0..messages {
        sender.say(&long).await;
        sender.expect(&long).await;
    }
    sender.leave().await;
    slow
}

/// Reads at a limited speed until the connection ends.
async fn read_slowly(mut tcp: TcpStream, bytes_per_second: usize) {
    let mut chunk = vec![0; (bytes_per_second / 10).max(1)];
    loop {
        // The sleep limits the speed.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if bytes_per_second > 0 && matches!(tcp.read(&mut chunk).await, Ok(0) | Err(_)) {
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
    eventually("all clients to be registered", async || server.member_count().await == 8).await;
    assert_eq!(sockets_of(&server), 8);
    // 400 messages of 4 kB a second: 1.6 MB/s, sixteen times the speed of the fastest slow client.
    let long = "x".repeat(4000);
    let line = format!("writer: {long}");
    let message = frame(0x81, long.as_bytes());
    let mut echo = vec![0; 64 * 1024];
    let began = Instant::now();
    let mut said = 0;
    while server.disconnects(Reason::SlowClient).await < SPEEDS.len() as u64 {
        assert!(began.elapsed() < DEADLINE, "some slow clients are not evicted");
        writer.write_all(&message).await.unwrap();
        said += 1;
        while writer.try_read(&mut echo).is_ok_and(|read| read > 0) {}
        within("the reader's line", async {
            assert_eq!(reader.line().await.as_ref(), Some(&line), "number {said}");
        })
        .await;
        // The reader keeps up with this rate.
        tokio::time::sleep(Duration::from_micros(2500)).await;
    }
    // From here on nobody sends messages.
    let evicted = Instant::now();
    eventually("the sockets of slow clients to be closed", async || sockets_of(&server) == 2).await;
    assert!(evicted.elapsed() < 2 * WRITE_TIMEOUT, "{:?}", evicted.elapsed());
    assert_eq!(server.member_count().await, 2, "the reader and the writer stay connected");
    for task in slow {
        task.abort();
    }
}

#[actix_web::test]
async fn stalled_client_in_a_silent_room_is_closed_within_twice_write_timeout() {
    const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
    let server = TestServer::start_with(Config { write_timeout: WRITE_TIMEOUT, ..config() }).await;
    let mut stalled = slow_client(&server, 16 * 1024).await;
    // This fills the receive window, but not the send queue. Then the room is silent.
    let mut sender = server.join("room=slow").await;
    let long = "x".repeat(4000);
    for _ in 0..150 {
        sender.say(&long).await;
        sender.expect(&long).await;
    }
    sender.leave().await;
    assert_eq!(server.disconnects(Reason::SlowClient).await, 0);
    let silent = Instant::now();
    eventually("its socket to be closed", async || sockets_of(&server) == 0).await;
    assert!(silent.elapsed() < 2 * WRITE_TIMEOUT, "{:?}", silent.elapsed());
    eventually("the client to be unregistered", async || server.member_count().await == 0).await;
    let _ = stalled.read_to_end(&mut Vec::new()).await;
}

#[actix_web::test]
async fn slow_reader_that_keeps_up_with_a_quiet_room_stays_connected() {
    let server =
        TestServer::start_with(Config { write_timeout: Duration::from_secs(1), ..config() }).await;
    let slow = slow_client(&server, 16 * 1024).await;
    let reading = actix_web::rt::spawn(read_slowly(slow, 5_000));
    let mut sender = server.join("room=slow").await;
    // 2 kB a second for 5 seconds, which is five times the write timeout.
    let long = "x".repeat(400);
    for _ in 0..25 {
        sender.say(&long).await;
        sender.expect(&long).await;
        // The sleep makes the room quiet.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(server.member_count().await, 2);
    assert!(!reading.is_finished());
    reading.abort();
}

/// The file is much larger than the kernel's buffers.
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
    let mut start = [0; 1000];
    within("the start of the file", stalled.read_exact(&mut start)).await.unwrap();
    assert_eq!(sockets_of(&server), 1);
    eventually("its socket to be closed", async || sockets_of(&server) == 0).await;
}

/// While a client does not read, the server does not read its pongs.
///
/// This does not hold on an `HttpServer`: there the actor is blocked meanwhile, and may close the
/// client with `no_pong` when it continues.
#[actix_web::test]
async fn client_that_reads_again_after_the_pong_timeout_stays_connected() {
    let server = TestServer::start_with(Config {
        ping_interval: Duration::from_millis(200),
        pong_timeout: Duration::from_secs(1),
        send_queue: 100_000,
        send_queue_bytes: 64 * 1024 * 1024,
        ..config()
    })
    .await;
    let stalled = slow_client(&server, 16 * 1024).await;
    let mut sender = server.join("room=slow").await;
    let (long, began) = ("x".repeat(4000), Instant::now());
    // This takes three times the pong timeout.
    while began.elapsed() < Duration::from_secs(3) {
        sender.say(&long).await;
        sender.expect(&long).await;
    }
    let (mut reader, mut writer) = stalled.into_split();
    let reading = actix_web::rt::spawn(async move {
        let mut chunk = vec![0; 64 * 1024];
        while reader.read(&mut chunk).await.is_ok_and(|bytes| bytes > 0) {}
    });
    writer.write_all(&frame(0x81, b"I am back")).await.unwrap();
    within("its message", async { while sender.line().await.unwrap() != "I am back" {} }).await;
    assert_eq!(server.member_count().await, 2);
    assert!(!reading.is_finished());
    reading.abort();
}

/// The script takes down a network in its own namespace, so that packets are lost without an error.
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
    // The pong timeout is 2 s and the ping interval 1 s. A busy machine may take twice as long. The
    // last pong arrived before the network went down, so it may be a little less than 2 s.
    assert!((1.0..6.0).contains(&seconds), "closed after {seconds} s");
}

/// The close frame is at the end of the kernel's send buffer. Closing a socket that has unread
/// input would discard it.
#[actix_web::test]
async fn slow_reader_that_keeps_sending_receives_the_close_frame() {
    let server = TestServer::start_with(config()).await;
    let mut slow = client_behind_by(&server, 45).await;
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
    let (mut last, mut chunk) = (Vec::new(), vec![0; bytes_per_second / 10]);
    let mut bytes = 0;
    within("the end", async {
        loop {
            // The sleep limits the speed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = slow.write_all(sent).await;
            let read = slow.read(&mut chunk).await.expect("the connection is not reset");
            if read == 0 {
                break;
            }
            bytes += read;
            last = [&last[last.len().saturating_sub(100)..], &chunk[..read]].concat();
        }
    })
    .await;
    let at = last.iter().rposition(|&byte| byte == 0x88).expect("the server sends a close frame");
    assert_eq!(last[at + 2..at + 4], reason.code().unwrap().to_be_bytes());
    bytes
}

/// The queued messages exceed the kernel's buffers, and the client sends before it reads.
#[actix_web::test]
async fn slow_reader_receives_everything_queued_before_shutdown() {
    let hour = Duration::from_secs(3600);
    let config = Config { write_timeout: hour, shutdown_timeout: hour, ..config() };
    let server = TestServer::start_with(config).await;
    let mut slow = client_behind_by(&server, 90).await;
    let stopping = actix_web::rt::spawn(server.stop());
    let began = Instant::now();
    let pings = frame(0x89, b"are you there").repeat(1000);
    within("all pings to be sent", async {
        while began.elapsed() < Duration::from_secs(3) {
            slow.write_all(&pings).await.unwrap();
        }
    })
    .await;
    let bytes = read_to_close(slow, 160_000, b"", Reason::ShuttingDown).await;
    assert!(bytes > 90 * 4000, "{bytes}");
    within("the server to stop", stopping).await.unwrap();
}

/// Endless input must not starve the timers that close the connection.
#[actix_web::test]
async fn flooding_client_is_closed_after_the_write_timeout() {
    const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
    let shutdown_timeout = Duration::from_secs(3600);
    let config = Config { write_timeout: WRITE_TIMEOUT, shutdown_timeout, ..config() };
    let server = TestServer::start_with(config).await;
    let mut flooder = client_behind_by(&server, 90).await;
    let began = Instant::now();
    let stopping = actix_web::rt::spawn(server.stop());
    let flood = frame(0x89, b"").repeat(50_000);
    let sent = async { while flooder.write_all(&flood).await.is_ok() {} };
    within("the connection to be closed", sent).await;
    assert!(began.elapsed() < 2 * WRITE_TIMEOUT, "{:?}", began.elapsed());
    within("the server to stop", stopping).await.unwrap();
}
