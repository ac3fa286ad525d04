//! The chat mounted in another program: actix's own test server and client.

use actix::Arbiter;
use actix_web::{App, web};
use awc::ws::{Frame, Message};
use chinwag::socket::DisconnectReason;
use chinwag::{Chat, Config, Hub};
use futures_util::{SinkExt, StreamExt};

use crate::harness::{Disconnects, eventually, within};

fn mounted() -> (actix_test::TestServer, actix::Addr<Hub>) {
    let config = Config::default();
    let hub = Hub::start_in(&Arbiter::new(), &config);
    let chat = Chat::new(hub.clone(), config);
    let server = actix_test::start(move || {
        App::new()
            .configure(|app| chat.configure(app))
            .route("/about", web::get().to(|| async { "ours" }))
    });
    (server, hub)
}

#[actix_web::test]
async fn the_routes_of_both_answer() {
    let (server, _) = mounted();
    for (path, expected) in [("/", "chinwag"), ("/r/rust", "chinwag"), ("/about", "ours")] {
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
async fn two_talk() {
    let (mut server, _) = mounted();
    let mut alice = server.ws_at("/ws?nick=alice&room=tea").await.unwrap();
    let mut bob = server.ws_at("/ws?nick=bob&room=tea").await.unwrap();
    // Bob's own line tells that he is registered.
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
async fn a_session_whose_task_is_dropped_is_unregistered() {
    let (mut server, hub) = mounted();
    let _client = server.ws_at("/ws").await.unwrap();
    server.stop().await;
    eventually("the hub to be told", async || {
        hub.send(Disconnects(DisconnectReason::Dropped)).await.unwrap() == 1
    })
    .await;
}
