//! The chat mounted in another program, with actix's own test server and client.

use std::time::Duration;

use actix::Arbiter;
use actix_web::{App, web};
use awc::ws::{Frame, Message};
use chinwag::protocol::DisconnectReason;
use chinwag::{Chat, Config, Hub};
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncReadExt;

use crate::harness::{
    Client, Disconnects, config, eventually, frame, raw_http, raw_socket, within,
};

#[allow(dead_code)]
#[path = "../../examples/mount.rs"]
mod mount;

fn start_mounted() -> (actix_test::TestServer, actix::Addr<Hub>) {
    let config = Config::default();
    let hub = Hub::start_in(&Arbiter::new(), &config);
    let chat = Chat::new(hub.clone(), config);
    let server = actix_test::start(move || {
        App::new()
            .configure(|app| chat.configure(app))
            .route("/about", web::get().to(|| async { "about us" }))
    });
    (server, hub)
}

#[actix_web::test]
async fn routes_of_the_chat_and_of_the_host_program_answer() {
    let (server, _) = start_mounted();
    for (path, expected) in [("/", "chinwag"), ("/r/rust", "chinwag"), ("/about", "about us")] {
        let mut response = server.get(path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let body = response.body().await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains(expected), "{path}");
    }
    assert_eq!(server.get("/nope").send().await.unwrap().status(), 404);
    let posted = server.post("/ws").send().await.unwrap();
    assert_eq!(posted.status(), 405);
    assert_eq!(posted.headers().get("allow").unwrap(), "GET");
    assert_eq!(server.get("/ws").send().await.unwrap().status(), 400);
}

#[actix_web::test]
async fn two_clients_exchange_messages() {
    let (mut server, _) = start_mounted();
    let mut alice = server.ws_at("/ws?nick=alice&room=tea").await.unwrap();
    let mut bob = server.ws_at("/ws?nick=bob&room=tea").await.unwrap();
    // Bob receives his own line once he is registered.
    bob.send(Message::Text("tea?".into())).await.unwrap();
    let line = |frame: Option<Result<Frame, _>>| match frame {
        Some(Ok(Frame::Text(text))) => String::from_utf8_lossy(&text).into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(line(within("a line", bob.next()).await), "bob: tea?");
    assert_eq!(line(within("a line", alice.next()).await), "bob: tea?");
    alice.send(Message::Text("tea!".into())).await.unwrap();
    assert_eq!(line(within("a line", bob.next()).await), "alice: tea!");
}

#[actix_web::test]
async fn session_is_unregistered_when_its_task_is_dropped() {
    let (mut server, hub) = start_mounted();
    let _client = server.ws_at("/ws").await.unwrap();
    server.stop().await;
    eventually("the session to be unregistered", async || {
        hub.send(Disconnects(DisconnectReason::Dropped)).await.unwrap() == 1
    })
    .await;
}

/// Runs the example from the crate's documentation.
#[actix_web::test]
async fn mount_example_closes_a_stalled_client_and_shuts_down_gracefully() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stop_requested) = tokio::sync::oneshot::channel::<()>();
    let limits = Config {
        write_timeout: Duration::from_secs(1),
        send_queue_bytes: 16 * 1024,
        shutdown_timeout: Duration::from_secs(3600),
        ..config()
    };
    let serving = actix_web::rt::spawn(mount::serve(listener, limits, async {
        let _ = stop_requested.await;
    }));
    let about = format!("GET /about HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    assert!(raw_http(addr, &about).await.ends_with("A chat of our own."));
    let mut sender = Client::connect(addr, "nick=ada").await;
    // It reads nothing until the end of the test.
    let mut stalled = raw_socket(addr, "/ws").await;
    let long = "x".repeat(4000);
    let reset = async {
        let mut probe = [0];
        loop {
            sender.say(&long).await;
            sender.expect(&format!("ada: {long}")).await;
            // A write fails after a reset, even though unread data came before it.
            if let Err(error) = stalled.try_write(&frame(0x8A, b"")) {
                break error;
            }
            let _ = stalled.peek(&mut probe).await;
        }
    };
    within("the stalled socket to be reset", reset).await;
    stop.send(()).unwrap();
    assert_eq!(sender.expect_close().await.0, 1001);
    sender.leave().await;
    within("the program to end", serving).await.unwrap().unwrap();
    let _ = stalled.read(&mut [0; 1]).await;
}
