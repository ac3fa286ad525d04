//! A slow hub: senders wait, still receive messages and pings, and stay connected.

use std::time::Duration;

use actix::prelude::*;
use chinwag::protocol::DisconnectReason as Reason;
use chinwag::{Config, Hub};
use futures_util::StreamExt;
use futures_util::future::join;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{TestServer, config, frame, raw_socket, within};

/// Blocks the hub's thread for this long.
#[derive(Message)]
#[rtype(result = "()")]
struct BlockThread(Duration);

impl Handler<BlockThread> for Hub {
    type Result = ();

    fn handle(&mut self, BlockThread(duration): BlockThread, _: &mut Self::Context) {
        // The blocked thread is what the test is about.
        std::thread::sleep(duration);
    }
}

#[actix_web::test]
async fn slow_hub_applies_backpressure_without_closing_the_sender() {
    let server = TestServer::start_with(Config {
        ping_interval: Duration::from_millis(200),
        pong_timeout: Duration::from_secs(1),
        ..config()
    })
    .await;
    // The hub is blocked for 10 ms before each message that it accepts.
    let hub = server.hub().clone();
    let blocking = actix_web::rt::spawn(async move {
        while hub.send(BlockThread(Duration::from_millis(10))).await.is_ok() {}
    });

    let (mut echoes, mut flood) = raw_socket(server.addr(), "/ws").await.into_split();
    let mut sent = 0;
    let flooding = async {
        let frames = frame(0x81, &[b'x'; 1000]).repeat(10);
        let end = Instant::now() + Duration::from_secs(4);
        while let Ok(written) = timeout(end - Instant::now(), flood.write(&frames)).await {
            sent += written.unwrap();
        }
    };
    let receiving = async {
        // The flooder receives echoes and pings. The test counts the pings.
        let mut received = vec![0; 64 * 1024];
        let (mut bytes, mut pings) = (0, 0);
        let end = Instant::now() + Duration::from_secs(4);
        while let Ok(read) = timeout(end - Instant::now(), echoes.read(&mut received)).await {
            let read = read.unwrap();
            assert_ne!(read, 0, "the client stays connected");
            bytes += read;
            pings += received[..read].windows(2).filter(|pair| *pair == [0x89, 0x00]).count();
        }
        (bytes, pings)
    };
    let ((), (received, pings)) = join(flooding, receiving).await;
    blocking.abort();
    // In 4 s the hub accepts 400 messages of 1 kB. The rest is in buffers on the way.
    assert!(sent < 8_000_000, "its socket accepted {sent} bytes");
    assert!(received > 10_000, "it received only {received} bytes");
    assert!(pings >= 5, "only {pings} pings");
    assert_eq!(server.disconnects(Reason::NoPong).await, 0);
    assert_eq!(server.member_count().await, 1);
}

#[actix_web::test]
async fn client_that_waits_for_a_stalled_hub_is_pinged_and_stays_connected() {
    let server = TestServer::start_with(Config {
        ping_interval: Duration::from_millis(100),
        pong_timeout: Duration::from_millis(600),
        ..config()
    })
    .await;
    let mut client = server.join("").await;
    // While the hub is blocked, for five times the pong timeout, the session does not read.
    server.hub().do_send(BlockThread(Duration::from_secs(3)));
    client.say("hello").await;
    let mut pings = 0;
    within("the echo, after pings", async {
        while let Some(Ok(message)) = client.stream.next().await {
            if !matches!(message, Message::Ping(_)) {
                return assert_eq!(message, Message::text("hello"));
            }
            pings += 1;
        }
        panic!("the connection ended");
    })
    .await;
    assert!(pings >= 5, "only {pings} pings in 3 s");
    assert_eq!(server.disconnects(Reason::NoPong).await, 0);
}
