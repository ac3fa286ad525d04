//! Clients that send more than they should: memory stays where it is, and nobody else suffers.

use std::time::Duration;

use actix::prelude::*;
use chinwag::socket::DisconnectReason as Reason;
use chinwag::{Config, Hub};
use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{TestServer, config, eventually, frame, raw_socket, within};

/// The flood is bounded by what the hub accepts, so the sessions keep up.
#[actix_web::test]
async fn a_flood_of_sixty_thousand_messages_reaches_everybody_and_evicts_nobody() {
    const MESSAGES: usize = 60_000;
    let server = TestServer::start().await;
    let mut clients = join_all((0..20).map(|_| server.connect(""))).await;
    eventually("all to be registered", async || server.client_count().await == 20).await;
    // The flooder is one of those who read, on a socket of its own.
    let tcp = raw_socket(server.addr(), "/ws").await;
    eventually("the flooder too", async || server.client_count().await == 21).await;
    let (mut echoes, mut flood) = tcp.into_split();

    let send = async {
        for n in (0..MESSAGES).step_by(100) {
            let frames: Vec<u8> =
                (n..n + 100).flat_map(|n| frame(0x81, n.to_string().as_bytes())).collect();
            flood.write_all(&frames).await.unwrap();
        }
    };
    let read_echoes = async {
        // The last line of the echo is enough: lines come in order.
        let last = (MESSAGES - 1).to_string();
        let mut tail = Vec::new();
        while !tail.ends_with(last.as_bytes()) {
            let drop = tail.len().saturating_sub(16);
            tail.drain(..drop);
            let read = within("an echo", echoes.read_buf(&mut tail)).await.unwrap();
            assert_ne!(read, 0, "the flooder is not cut off");
        }
    };
    let read = join_all(clients.iter_mut().map(async |client| {
        for n in 0..MESSAGES {
            let line = within("the next line", client.line()).await;
            assert_eq!(line, Some(n.to_string()));
        }
    }));
    join(join(send, read_echoes), read).await;
    assert_eq!(server.disconnects(Reason::SlowClient).await, 0);
    assert_eq!(server.client_count().await, 21);
}

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
async fn a_slow_hub_slows_the_flooder_down_who_still_receives_and_is_not_taken_for_dead() {
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
async fn a_client_that_waits_for_a_stalled_hub_is_pinged_and_not_taken_for_dead() {
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

#[actix_web::test]
async fn a_browser_that_sends_fifty_megabytes_reads_1009_every_time() {
    let server = TestServer::start().await;
    let giant = frame(0x82, &vec![0; 50_000_000]);
    for attempt in 0..20 {
        let (mut reader, mut writer) = raw_socket(server.addr(), "/ws").await.into_split();
        // Like a browser it writes all of it before it looks at what has come.
        within("the frame to be sent", writer.write_all(&giant)).await.unwrap();
        // And then answers the close frame that it finds.
        writer.write_all(&frame(0x88, &1009_u16.to_be_bytes())).await.unwrap();
        let mut read = Vec::new();
        let ended = within("the end", reader.read_to_end(&mut read)).await;
        assert!(ended.is_ok(), "attempt {attempt}: {ended:?} after {read:?}");
        let words = Reason::TooBig.words().as_bytes();
        let told = [&[0x88, 2 + words.len() as u8, 0x03, 0xF1], words].concat();
        assert_eq!(read, told, "attempt {attempt}");
    }
    assert_eq!(server.disconnects(Reason::TooBig).await, 20);
}
