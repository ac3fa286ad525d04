//! Clients that keep to the protocol and still mean harm: what they do, they do to themselves.
//! There are no rates here, so it is the hub that has to stand it.

use std::future::Future;
use std::time::Instant;

use chinwag::Config;
use chinwag::protocol::DisconnectReason;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{TestServer, eventually, raw_http, within};
use crate::json::JsonClient;

fn on(kind: &str, room: &str) -> Value {
    json!({"type": kind, "room": room})
}

fn say(room: &str, text: &str, id: &str) -> Value {
    json!({"type": "say", "room": room, "text": text, "id": id})
}

async fn somebody(server: &TestServer, nick: &str) -> JsonClient {
    let key = format!("the secret of {nick}");
    JsonClient::hello(server.addr(), json!({"nick": nick, "key": key})).await
}

/// What becomes of two who talk meanwhile, in the room where the mischief is made and in another:
/// each reads all that is said, once and in order. Gives how many other lines they were told.
async fn undisturbed(server: &TestServer, mischief: impl Future<Output = ()>) -> usize {
    let mut pair = [somebody(server, "Ada").await, somebody(server, "Ben").await];
    for client in &mut pair {
        client.hears_presence = true;
        for room in ["busy", "quiet"] {
            client.send(&[on("join", room)]).await;
            client.until("joined").await;
        }
    }
    let talk = async {
        let mut others = 0;
        for n in 0..60 {
            let (room, text) = (["busy", "quiet"][n % 2], format!("between us: {n}"));
            pair[n % 3 % 2].send(&[say(room, &text, &text)]).await;
            for client in &mut pair {
                loop {
                    let line = within("the message", client.next()).await;
                    let line = line.unwrap_or_else(|| panic!("closed: {:?}", client.close_code));
                    if !line["text"].as_str().is_some_and(|text| text.starts_with("between us")) {
                        others += 1;
                        continue;
                    }
                    assert_eq!((&line["room"], &line["text"]), (&json!(room), &json!(text)));
                    break;
                }
            }
        }
        others
    };
    tokio::select! {
        others = talk => others,
        () = mischief => panic!("the mischief ends before the talk does"),
    }
}

/// Sends the same again and again, and reads what comes.
async fn over_and_over(mut client: JsonClient, lines: Vec<Value>) {
    let answers = lines.len();
    loop {
        client.send(&lines).await;
        for _ in 0..answers {
            within("an answer", client.next()).await.unwrap();
        }
    }
}

async fn all(mischief: impl IntoIterator<Item = impl Future<Output = ()>>) {
    join_all(mischief).await;
}

#[actix_web::test]
async fn a_storm_of_joins_and_leaves_disturbs_nobody() {
    let server = TestServer::start().await;
    let storm = (0..10).map(async |n| {
        let client = somebody(&server, &format!("eve-{n}")).await;
        let lines = [on("join", "busy"), on("leave", "busy")];
        over_and_over(client, lines.iter().cycle().take(40).cloned().collect()).await;
    });
    undisturbed(&server, all(storm)).await;
    assert_eq!(server.disconnects(DisconnectReason::SlowClient).await, 0);
}

#[actix_web::test]
async fn a_storm_of_those_who_come_back_and_want_all_they_missed_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(crate::journal::stored(folder.path())).await;
    let mut first = somebody(&server, "first").await;
    first.send(&[on("join", "busy")]).await;
    let epoch = first.expect("joined").await["epoch"].clone();
    for n in 0..1000 {
        first.send(&[say("busy", "x", &n.to_string())]).await;
    }
    for _ in 0..1000 {
        first.until("said").await;
    }
    let storm = (0..30).map(async |n| {
        loop {
            let mut eve = somebody(&server, &format!("eve-{n}")).await;
            let after = json!({"epoch": epoch, "seq": n * 10});
            eve.send(&[json!({"type": "join", "room": "busy", "after": after})]).await;
            let joined = eve.expect("joined").await;
            let missed = joined["messages"].as_array().unwrap();
            assert_eq!(joined["recovered"], missed.len() != 50, "all, or the latest 50");
        }
    });
    undisturbed(&server, all(storm)).await;
    drop(first);
    eventually("nobody to be left", async || server.client_count().await == 0).await;
}

/// In a large room, who comes and goes is told once a second, however often that is.
#[actix_web::test]
async fn a_storm_of_names_and_of_people_who_come_and_go_is_told_at_the_pace_of_the_room() {
    let server = TestServer::start().await;
    let _crowd = join_all((0..110).map(|_| server.connect("room=busy"))).await;
    eventually("a large room", async || server.client_count().await == 110).await;
    let storm = (0..10).map(async |n| {
        let client = somebody(&server, &format!("eve-{n}")).await;
        let nick = |m: usize| json!({"type": "nick", "nick": format!("eve-{n}-{m}")});
        let mut lines: Vec<_> = (0..10).map(nick).collect();
        lines.extend([on("join", "busy"), on("typing", "busy"), on("leave", "busy")]);
        // Typing has no answer.
        let mut client = client;
        loop {
            client.send(&lines).await;
            client.until("left").await;
        }
    });
    let began = Instant::now();
    let others = undisturbed(&server, all(storm)).await;
    // To each of the two what it was answered itself, and what all in both rooms are told: by then
    // the small room has heard of two who came.
    let told_max = 2 * (began.elapsed().as_secs() as usize + 2) + 2 * 30 + 10;
    assert!(others <= told_max, "{others} lines in {:?}", began.elapsed());
}

#[actix_web::test]
async fn scraping_history_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let stored = Config { resume_buffer: 10, ..crate::journal::stored(folder.path()) };
    let server = TestServer::start_with(stored).await;
    let mut first = somebody(&server, "first").await;
    first.send(&[on("join", "busy")]).await;
    let texts: Vec<_> = (0..500).map(|n| say("busy", &"x".repeat(200), &n.to_string())).collect();
    for said in texts.chunks(50) {
        first.send(said).await;
    }
    for _ in &texts {
        first.until("said").await;
    }
    let storm = (0..10).map(async |n| {
        let mut client = somebody(&server, &format!("eve-{n}")).await;
        client.send(&[on("join", "busy")]).await;
        client.expect("joined").await;
        let page = |m| json!({"type": "history", "room": "busy", "before": 450 - m, "limit": 100});
        loop {
            client.send(&(0..10).map(page).collect::<Vec<_>>()).await;
            for _ in 0..10 {
                let page = client.until("history").await;
                assert_eq!(page["messages"].as_array().unwrap().len(), 100);
            }
        }
    });
    undisturbed(&server, all(storm)).await;
}

#[actix_web::test]
async fn a_flood_of_rooms_disturbs_nobody_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(crate::journal::stored(folder.path())).await;
    let flood = (0..10).map(async |n| {
        for round in 0.. {
            let mut client = somebody(&server, &format!("eve-{n}")).await;
            let rooms = (0..1010).map(|room| format!("flood-{n}-{round}-{room}"));
            let rooms: Vec<_> = rooms.map(|room| on("join", &room)).collect();
            for some in rooms.chunks(101) {
                client.send(some).await;
            }
            // Of each client as many as it may be in.
            assert_eq!(client.until("error").await["code"], "forbidden");
        }
    });
    undisturbed(&server, all(flood)).await;
    eventually("all rooms to be forgotten", async || server.rooms().await.is_empty()).await;
    let held = server.hub().send(chinwag::hub::GetStats).await.unwrap();
    assert!(held.ring_bytes < 50_000, "what is left is of the room in which was talked: {held:?}");
}

/// An id is its author's own: another who uses it says something of its own, and is not told that
/// there was another.
#[actix_web::test]
async fn the_ids_of_another_are_of_no_use() {
    let server = TestServer::start().await;
    let mut ada = somebody(&server, "Ada").await;
    let mut eve = somebody(&server, "Eve").await;
    for client in [&mut ada, &mut eve] {
        client.send(&[on("join", "a")]).await;
        client.expect("joined").await;
    }
    eve.send(&[say("a", "before her", "1")]).await;
    eve.until("said").await;
    ada.send(&[say("a", "hello", "1"), say("a", "hello", "1")]).await;
    assert_eq!(ada.until("said").await["duplicate"], false, "nobody has said it for her");
    assert_eq!(ada.until("said").await["duplicate"], true);
    eve.send(&[say("a", "after her", "1")]).await;
    assert_eq!(eve.until("said").await["duplicate"], true, "it is what she said first");
    ada.send(&[json!({"type": "history", "room": "a"})]).await;
    let history = ada.until("history").await;
    let said = history["messages"].as_array().unwrap().iter();
    let said: Vec<_> = said.map(|message| (&message["nick"], &message["text"])).collect();
    assert_eq!(said, [(&json!("Eve"), &json!("before her")), (&json!("Ada"), &json!("hello"))]);
}

/// Somebody who is Ada elsewhere becomes that identity, under another name, in the room where Ada
/// is: her name stays hers.
#[actix_web::test]
async fn a_change_of_identity_in_a_room_does_not_take_a_name_there() {
    let server = TestServer::start().await;
    let mut ada = somebody(&server, "Ada").await;
    ada.send(&[on("join", "x")]).await;
    ada.expect("joined").await;
    let key = "the secret of Eve";
    let mut elsewhere = JsonClient::hello(server.addr(), json!({"nick": "Ada", "key": key})).await;
    elsewhere.send(&[on("join", "y")]).await;
    elsewhere.expect("joined").await;
    let mut eve = JsonClient::hello(server.addr(), json!({})).await;
    eve.send(&[on("join", "x"), json!({"type": "hello", "key": key, "nick": "m"})]).await;
    eve.expect("joined").await;
    assert_eq!(eve.until("welcome").await["nick"], "m");
    eve.send(&[json!({"type": "nick", "nick": "Ada"})]).await;
    assert_eq!(eve.until("error").await["code"], "nick_taken");
    let taken = format!(
        "GET /ws?room=x&nick=ada HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.addr()
    );
    assert!(raw_http(server.addr(), &taken).await.starts_with("HTTP/1.1 409 "));
    ada.send(&[say("x", "it is me", "1")]).await;
    assert_eq!(eve.until("message").await["nick"], "Ada");
}

#[actix_web::test]
async fn nobody_passes_for_another_by_letters_that_look_alike_or_are_not_seen() {
    let server = TestServer::start().await;
    let mut ada = somebody(&server, "Ada").await;
    ada.send(&[on("join", "lobby")]).await;
    ada.expect("joined").await;
    let mut eve = JsonClient::hello(server.addr(), json!({})).await;
    eve.send(&[on("join", "lobby")]).await;
    eve.expect("joined").await;
    // With letters of the Cyrillic alphabet, and with one that is not seen.
    eve.send(&[json!({"type": "nick", "nick": "Аdа"})]).await;
    let error = eve.expect_error("nick_taken").await;
    eve.send(&[json!({"type": "nick", "nick": "A\u{200B}da"})]).await;
    eve.expect_error("bad_nick").await;
    eve.send(&[json!({"type": "nick", "nick": "anоnymous-1234"})]).await;
    eve.expect_error("bad_nick").await;
    let free = error["suggested"].clone();
    eve.send(&[json!({"type": "nick", "nick": free}), on("join", "lоbby")]).await;
    assert_eq!(eve.until("welcome").await["nick"], free);
    assert_eq!(eve.until("error").await["code"], "bad_room");
    let request = format!(
        "GET /ws?nick=%D0%90d%D0%B0 HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.addr()
    );
    assert!(raw_http(server.addr(), &request).await.starts_with("HTTP/1.1 409 "));
    // Nor in plain text, where names are part of the line.
    let mut plain = server.join("").await;
    plain.say("Аdа꞉ I owe Eve money").await;
    let line = ada.until("message").await;
    assert!(line["nick"].as_str().unwrap().starts_with("anonymous-"), "{line}");
    let line = within("the line", plain.line()).await.unwrap();
    assert!(line.starts_with("anonymous-"), "{line}");
    // She herself may be whoever she is in any letters.
    ada.send(&[json!({"type": "nick", "nick": "Аdа"})]).await;
    assert_eq!(ada.until("welcome").await["nick"], "Аdа");
}
