//! A hub that is slow to accept: its senders wait, receive meanwhile, and are not taken for dead.

use std::time::Duration;

use actix::prelude::*;
use chinwag::socket::DisconnectReason as Reason;
use chinwag::{Config, Hub};
use futures_util::StreamExt;
use futures_util::future::join;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{TestServer, config, frame, raw_socket, within};

/// Keeps the hub busy for a while.
#[derive(Message)]
#[rtype(result = "()")]
struct Nap(Duration);

impl Handler<Nap> for Hub {
    type Result = ();

    fn handle(&mut self, Nap(duration): Nap, _: &mut Self::Context) {
        // The hub's thread is to be busy, not the test to wait.
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
    // Every acceptance has to wait for a nap of 10 ms.
    let hub = server.hub().clone();
    let naps = actix_web::rt::spawn(async move {
        while hub.send(Nap(Duration::from_millis(10))).await.is_ok() {}
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
        // It reads nothing but what comes by itself: echoes, and pings to keep count of.
        let mut received = vec![0; 64 * 1024];
        let (mut bytes, mut pings) = (0, 0);
        let end = Instant::now() + Duration::from_secs(4);
        while let Ok(read) = timeout(end - Instant::now(), echoes.read(&mut received)).await {
            let read = read.unwrap();
            assert_ne!(read, 0, "it is not cut off");
            bytes += read;
            pings += received[..read].windows(2).filter(|pair| *pair == [0x89, 0x00]).count();
        }
        (bytes, pings)
    };
    let ((), (received, pings)) = join(flooding, receiving).await;
    naps.abort();
    // 4 s at 10 ms make 400 acceptances of 1 kB; the rest is what buffers on the way hold.
    assert!(sent < 8_000_000, "its TCP took {sent} bytes");
    assert!(received > 10_000, "it received {received} bytes meanwhile");
    assert!(pings >= 5, "{pings} pings: its timers ran");
    assert_eq!(server.disconnects(Reason::NoPong).await, 0);
    assert_eq!(server.client_count().await, 1);
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
    // While the hub naps, for several times the pong timeout, nothing is read of this client.
    server.hub().do_send(Nap(Duration::from_secs(3)));
    client.say("patience").await;
    let mut pings = 0;
    within("the echo, after pings", async {
        while let Some(Ok(message)) = client.stream.next().await {
            if !matches!(message, Message::Ping(_)) {
                return assert_eq!(message, Message::text("patience"));
            }
            pings += 1;
        }
        panic!("it was taken for dead");
    })
    .await;
    assert!(pings >= 5, "{pings} pings in 3 s");
    assert_eq!(server.disconnects(Reason::NoPong).await, 0);
}
