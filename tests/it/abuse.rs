//! Clients that follow the protocol and try to harm others. Rate limits are off, so these tests
//! show that the hub itself protects other clients.

use std::future::Future;
use std::time::Instant;

use chinwag::Config;
use chinwag::protocol::DisconnectReason;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{TestServer, eventually, raw_http, within};
use crate::json::JsonClient;

fn room_command(kind: &str, room: &str) -> Value {
    json!({"type": kind, "room": room})
}

fn say(room: &str, text: &str, id: &str) -> Value {
    json!({"type": "say", "room": room, "text": text, "id": id})
}

/// Connects a client with this name and its own key.
async fn connect_as(server: &TestServer, nick: &str) -> JsonClient {
    let key = format!("the secret of {nick}");
    JsonClient::hello(server.addr(), json!({"nick": nick, "key": key})).await
}

/// Lets two clients talk during an attack, in the attacked room and in another one. Checks that
/// each receives every message once and in order. Returns how many other lines both received.
async fn talk_during(server: &TestServer, attack: impl Future<Output = ()>) -> usize {
    let mut pair = [connect_as(server, "Ada").await, connect_as(server, "Ben").await];
    for client in &mut pair {
        client.receives_presence = true;
        for room in ["busy", "quiet"] {
            client.send(&[room_command("join", room)]).await;
            client.until("joined").await;
        }
    }
    let talk = async {
        let mut other_lines = 0;
        for n in 0..60 {
            let (room, text) = (["busy", "quiet"][n % 2], format!("between us: {n}"));
            pair[n % 3 % 2].send(&[say(room, &text, &text)]).await;
            for client in &mut pair {
                loop {
                    let line = within("the message", client.next()).await;
                    let line = line.unwrap_or_else(|| panic!("closed: {:?}", client.close_code));
                    if !line["text"].as_str().is_some_and(|text| text.starts_with("between us")) {
                        other_lines += 1;
                        continue;
                    }
                    assert_eq!((&line["room"], &line["text"]), (&json!(room), &json!(text)));
                    break;
                }
            }
        }
        other_lines
    };
    tokio::select! {
        other_lines = talk => other_lines,
        () = attack => panic!("the attack ended before the conversation"),
    }
}

/// Sends the same lines repeatedly and reads the answers.
async fn repeat(mut client: JsonClient, lines: Vec<Value>) {
    let answers = lines.len();
    loop {
        client.send(&lines).await;
        for _ in 0..answers {
            within("an answer", client.next()).await.unwrap();
        }
    }
}

async fn run_all(attackers: impl IntoIterator<Item = impl Future<Output = ()>>) {
    join_all(attackers).await;
}

#[actix_web::test]
async fn rapid_joins_and_leaves_do_not_disturb_others() {
    let server = TestServer::start().await;
    let attackers = (0..10).map(async |n| {
        let client = connect_as(&server, &format!("eve-{n}")).await;
        let lines = [room_command("join", "busy"), room_command("leave", "busy")];
        repeat(client, lines.iter().cycle().take(40).cloned().collect()).await;
    });
    talk_during(&server, run_all(attackers)).await;
    assert_eq!(server.disconnects(DisconnectReason::SlowClient).await, 0);
}

#[actix_web::test]
async fn mass_resume_does_not_disturb_others() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(crate::journal::config_with_journal(folder.path())).await;
    let mut first = connect_as(&server, "first").await;
    first.send(&[room_command("join", "busy")]).await;
    let epoch = first.expect("joined").await["epoch"].clone();
    for n in 0..1000 {
        first.send(&[say("busy", "x", &n.to_string())]).await;
    }
    for _ in 0..1000 {
        first.until("said").await;
    }
    let attackers = (0..30).map(async |n| {
        loop {
            let mut eve = connect_as(&server, &format!("eve-{n}")).await;
            let after = json!({"epoch": epoch, "seq": n * 10});
            eve.send(&[json!({"type": "join", "room": "busy", "after": after})]).await;
            let joined = eve.expect("joined").await;
            let missed = joined["messages"].as_array().unwrap();
            assert_eq!(
                joined["recovered"],
                missed.len() != 50,
                "the answer has all missed messages, or the latest 50"
            );
        }
    });
    talk_during(&server, run_all(attackers)).await;
    drop(first);
    eventually("all clients to be unregistered", async || server.member_count().await == 0).await;
}

/// A large room announces presence once a second, however often members come and go.
#[actix_web::test]
async fn presence_in_a_large_room_is_paced_despite_rapid_changes() {
    let server = TestServer::start().await;
    let _members = join_all((0..110).map(|_| server.connect("room=busy"))).await;
    eventually("the members to be registered", async || server.member_count().await == 110).await;
    let attackers = (0..10).map(async |n| {
        let client = connect_as(&server, &format!("eve-{n}")).await;
        let nick = |m: usize| json!({"type": "nick", "nick": format!("eve-{n}-{m}")});
        let mut lines: Vec<_> = (0..10).map(nick).collect();
        lines.extend([
            room_command("join", "busy"),
            room_command("typing", "busy"),
            room_command("leave", "busy"),
        ]);
        // Typing has no answer.
        let mut client = client;
        loop {
            client.send(&lines).await;
            client.until("left").await;
        }
    });
    let began = Instant::now();
    let other_lines = talk_during(&server, run_all(attackers)).await;
    // Each of the two receives its own answers, the presence of the large room once a second, and
    // the presence of the small room for two new members.
    let lines_max = 2 * (began.elapsed().as_secs() as usize + 2) + 2 * 30 + 10;
    assert!(other_lines <= lines_max, "{other_lines} lines in {:?}", began.elapsed());
}

/// Each read mark is sent to the other clients of the user.
#[actix_web::test]
async fn read_marks_do_not_disturb_others() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(crate::journal::config_with_journal(folder.path())).await;
    let attackers = (0..10).map(async |n| {
        let name = format!("eve-{}", n / 5);
        let mut client = connect_as(&server, &name).await;
        let read = |seq| json!({"type": "read", "room": "busy", "seq": seq});
        client.send(&[room_command("join", "busy")]).await;
        client.until("joined").await;
        for id in 0.. {
            client.send(&[say("busy", "x", &format!("{n}-{id}"))]).await;
            let seq = client.until("said").await["seq"].as_u64().unwrap();
            let mut lines: Vec<_> = (seq.saturating_sub(50)..seq + 50).map(read).collect();
            lines.extend([room_command("who", "busy"), room_command("join", "busy")]);
            client.send(&lines).await;
            let joined = client.until("joined").await;
            assert!(joined["read"].as_u64().unwrap() >= seq, "{joined}");
        }
    });
    talk_during(&server, run_all(attackers)).await;
    assert_eq!(server.disconnects(DisconnectReason::SlowClient).await, 0);
}

#[actix_web::test]
async fn history_scraping_does_not_disturb_others() {
    let folder = tempfile::tempdir().unwrap();
    let stored = Config { resume_buffer: 10, ..crate::journal::config_with_journal(folder.path()) };
    let server = TestServer::start_with(stored).await;
    let mut first = connect_as(&server, "first").await;
    first.send(&[room_command("join", "busy")]).await;
    let commands: Vec<_> =
        (0..500).map(|n| say("busy", &"x".repeat(200), &n.to_string())).collect();
    for chunk in commands.chunks(50) {
        first.send(chunk).await;
    }
    for _ in &commands {
        first.until("said").await;
    }
    let attackers = (0..10).map(async |n| {
        let mut client = connect_as(&server, &format!("eve-{n}")).await;
        client.send(&[room_command("join", "busy")]).await;
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
    talk_during(&server, run_all(attackers)).await;
}

#[actix_web::test]
async fn room_flood_does_not_disturb_others_and_leaves_no_rooms() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(crate::journal::config_with_journal(folder.path())).await;
    let attackers = (0..10).map(async |n| {
        for round in 0.. {
            let mut client = connect_as(&server, &format!("eve-{n}")).await;
            let rooms = (0..1010).map(|room| format!("flood-{n}-{round}-{room}"));
            let rooms: Vec<_> = rooms.map(|room| room_command("join", &room)).collect();
            for chunk in rooms.chunks(101) {
                client.send(chunk).await;
            }
            // The default of max_rooms_per_client is 1,000.
            assert_eq!(client.until("error").await["code"], "forbidden");
        }
    });
    talk_during(&server, run_all(attackers)).await;
    eventually("all rooms to be removed", async || server.rooms().await.is_empty()).await;
    let stats = server.hub().send(chinwag::hub::GetStats).await.unwrap();
    assert!(stats.ring_bytes < 50_000, "only messages of the two clients are left: {stats:?}");
}

/// A client that uses the id of another client's message sends a message of its own, and does not
/// learn that the id exists.
#[actix_web::test]
async fn message_ids_are_scoped_to_their_author() {
    let server = TestServer::start().await;
    let mut ada = connect_as(&server, "Ada").await;
    let mut eve = connect_as(&server, "Eve").await;
    for client in [&mut ada, &mut eve] {
        client.send(&[room_command("join", "a")]).await;
        client.expect("joined").await;
    }
    eve.send(&[say("a", "before her", "1")]).await;
    eve.until("said").await;
    ada.send(&[say("a", "hello", "1"), say("a", "hello", "1")]).await;
    assert_eq!(
        ada.until("said").await["duplicate"],
        false,
        "Eve's message with this id is another message"
    );
    assert_eq!(ada.until("said").await["duplicate"], true);
    eve.send(&[say("a", "after her", "1")]).await;
    assert_eq!(eve.until("said").await["duplicate"], true, "Eve has used this id before");
    ada.send(&[json!({"type": "history", "room": "a"})]).await;
    let history = ada.until("history").await;
    let messages = history["messages"].as_array().unwrap().iter();
    let messages: Vec<_> = messages.map(|message| (&message["nick"], &message["text"])).collect();
    assert_eq!(messages, [(&json!("Eve"), &json!("before her")), (&json!("Ada"), &json!("hello"))]);
}

/// Eve owns an identity that is called Ada in another room. She takes this identity, under another
/// name, in Ada's room.
#[actix_web::test]
async fn changing_identity_in_a_room_cannot_take_a_name_there() {
    let server = TestServer::start().await;
    let mut ada = connect_as(&server, "Ada").await;
    ada.send(&[room_command("join", "x")]).await;
    ada.expect("joined").await;
    let key = "the secret of Eve";
    let mut elsewhere = JsonClient::hello(server.addr(), json!({"nick": "Ada", "key": key})).await;
    elsewhere.send(&[room_command("join", "y")]).await;
    elsewhere.expect("joined").await;
    let mut eve = JsonClient::hello(server.addr(), json!({})).await;
    eve.send(&[room_command("join", "x"), json!({"type": "hello", "key": key, "nick": "m"})]).await;
    eve.expect("joined").await;
    assert_eq!(eve.until("welcome").await["nick"], "m");
    eve.send(&[json!({"type": "nick", "nick": "Ada"})]).await;
    assert_eq!(eve.until("error").await["code"], "nick_taken");
    let upgrade = format!(
        "GET /ws?room=x&nick=ada HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.addr()
    );
    assert!(raw_http(server.addr(), &upgrade).await.starts_with("HTTP/1.1 409 "));
    ada.send(&[say("x", "it is me", "1")]).await;
    assert_eq!(eve.until("message").await["nick"], "Ada");
}

#[actix_web::test]
async fn confusable_or_invisible_letters_cannot_imitate_a_name() {
    let server = TestServer::start().await;
    let mut ada = connect_as(&server, "Ada").await;
    ada.send(&[room_command("join", "lobby")]).await;
    ada.expect("joined").await;
    let mut eve = JsonClient::hello(server.addr(), json!({})).await;
    eve.send(&[room_command("join", "lobby")]).await;
    eve.expect("joined").await;
    // Cyrillic letters, and then an invisible one.
    eve.send(&[json!({"type": "nick", "nick": "Аdа"})]).await;
    let error = eve.expect_error("nick_taken").await;
    eve.send(&[json!({"type": "nick", "nick": "A\u{200B}da"})]).await;
    eve.expect_error("bad_nick").await;
    eve.send(&[json!({"type": "nick", "nick": "anоnymous-1234"})]).await;
    eve.expect_error("bad_nick").await;
    let suggested = error["suggested"].clone();
    eve.send(&[json!({"type": "nick", "nick": suggested}), room_command("join", "lоbby")]).await;
    assert_eq!(eve.until("welcome").await["nick"], suggested);
    assert_eq!(eve.until("error").await["code"], "bad_room");
    let request = format!(
        "GET /ws?nick=%D0%90d%D0%B0 HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.addr()
    );
    assert!(raw_http(server.addr(), &request).await.starts_with("HTTP/1.1 409 "));
    // In the text protocol the name is part of the line.
    let mut text = server.join("").await;
    text.say("Аdа꞉ I owe Eve money").await;
    let line = ada.until("message").await;
    assert!(line["nick"].as_str().unwrap().starts_with("anonymous-"), "{line}");
    let line = within("the line", text.line()).await.unwrap();
    assert!(line.starts_with("anonymous-"), "{line}");
    // Ada may write her own name in any letters.
    ada.send(&[json!({"type": "nick", "nick": "Аdа"})]).await;
    assert_eq!(ada.until("welcome").await["nick"], "Аdа");
}
