//! The WebSocket without the chat: the echo example on actix's test server.

use actix_web::{App, web};
use awc::ws::{Frame, Message};
use futures_util::{SinkExt, StreamExt};

use crate::harness::within;

#[allow(dead_code)]
#[path = "../../examples/echo.rs"]
mod example;

#[actix_web::test]
async fn echo_example_returns_messages_and_closes_oversized_ones_with_1009() {
    let mut server = actix_test::start(|| {
        let args = example::Args {
            listen: "127.0.0.1:0".parse().unwrap(),
            max_frame_bytes: 1000,
            plain: true,
        };
        App::new().app_data(web::Data::new(args)).service(web::resource("/ws").get(example::echo))
    });
    let mut client = server.ws_at("/ws").await.unwrap();
    client.send(Message::Text("text".into())).await.unwrap();
    client.send(Message::Binary(vec![0xFF; 1000].into())).await.unwrap();
    client.send(Message::Text("x".repeat(1001).into())).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(within("an answer", client.next()).await.unwrap().unwrap());
    }
    assert_eq!(answers[0], Frame::Text("text".into()));
    assert_eq!(answers[1], Frame::Binary(vec![0xFF; 1000].into()));
    assert!(matches!(&answers[2], Frame::Close(Some(reason)) if u16::from(reason.code) == 1009));
}
