//! Pings keep clients that answer them connected, and are spread over time.

use std::time::Duration;

use chinwag::Config;
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{TestServer, config, within};

#[actix_web::test]
async fn client_that_answers_pings_stays_connected() {
    let server = TestServer::start_with(Config {
        ping_interval: Duration::from_millis(100),
        pong_timeout: Duration::from_secs(2),
        ..config()
    })
    .await;
    let mut client = server.join("").await;
    let mut pings = 0;
    while pings < 30 {
        let message = within("a ping", client.stream.next()).await.unwrap().unwrap();
        pings += usize::from(matches!(message, Message::Ping(_)));
    }
    client.say("still here").await;
    client.expect("still here").await;
}

/// Otherwise each heartbeat would block a server after all its clients have reconnected at once.
#[actix_web::test]
async fn pings_to_clients_that_connected_together_are_spread() {
    let ping_interval = Duration::from_secs(3);
    let server = TestServer::start_with(Config { ping_interval, ..config() }).await;
    let mut clients = join_all((0..50).map(|_| server.connect(""))).await;
    let pinged = join_all(clients.iter_mut().map(async |client| {
        let message = within("a ping", client.stream.next()).await.unwrap().unwrap();
        assert!(matches!(message, Message::Ping(_)), "{message:?}");
        Instant::now()
    }));
    let pinged = pinged.await;
    let spread = *pinged.iter().max().unwrap() - *pinged.iter().min().unwrap();
    assert!(spread > ping_interval / 2, "the pings were sent within {spread:?}");
}
