//! Names and presence: which names are allowed, and who is informed about members.

use std::collections::HashSet;
use std::time::Instant;

use chinwag::Config;
use chinwag::protocol::DisconnectReason as Reason;
use serde_json::{Value, json};

use crate::harness::{TestServer, config, eventually, raw_http, within};
use crate::json::JsonClient;

fn join(room: &str) -> Value {
    json!({"type": "join", "room": room})
}

fn key(name: &str) -> String {
    format!("the secret of {name}")
}

/// Connects a client with this name and its own key, and joins room `a`.
async fn join_as(server: &TestServer, name: &str) -> JsonClient {
    let mut client =
        JsonClient::hello(server.addr(), json!({"nick": name, "key": key(name)})).await;
    client.receives_presence = true;
    client.send(&[join("a")]).await;
    client.expect("joined").await;
    client
}

#[actix_web::test]
async fn members_receive_presence_and_new_members_receive_the_member_list() {
    let server = TestServer::start().await;
    let mut ada = join_as(&server, "Ada").await;
    let mut ben = JsonClient::hello(server.addr(), json!({"nick": "Ben"})).await;
    ben.send(&[join("a")]).await;
    let joined = ben.expect("joined").await;
    let mut members: Vec<_> = joined["members"].as_array().unwrap().clone();
    members.sort_by_key(Value::to_string);
    assert_eq!((members, &joined["member_count"]), (vec![json!("Ada"), json!("Ben")], &json!(2)));
    let expected =
        json!({"type": "presence", "room": "a", "joined": ["Ben"], "left": [], "member_count": 2});
    assert_eq!(ada.expect("presence").await, expected);
    ben.send(&[json!({"type": "leave", "room": "a"})]).await;
    let expected =
        json!({"type": "presence", "room": "a", "joined": [], "left": ["Ben"], "member_count": 1});
    assert_eq!(ada.expect("presence").await, expected);
    // Presence includes clients of the text protocol, and connections that break.
    let text = server.join("room=a&nick=Cleo").await;
    assert_eq!(ada.expect("presence").await["joined"], json!(["Cleo"]));
    drop(text);
    assert_eq!(ada.expect("presence").await["left"], json!(["Cleo"]));
    ada.send(&[json!({"type": "who", "room": "a", "ref": 1}), json!({"type": "who", "room": "b"})])
        .await;
    let expected =
        json!({"type": "members", "room": "a", "members": ["Ada"], "member_count": 1, "ref": 1});
    assert_eq!(ada.expect("members").await, expected);
    ada.expect_error("not_joined").await;
}

/// "paypaI", with a capital i, equals "paypai" in lower case and looks like "paypal".
#[actix_web::test]
async fn confusable_name_is_refused_even_as_a_case_variant_of_the_own_name() {
    let server = TestServer::start().await;
    let mut paypal = JsonClient::hello(server.addr(), json!({"nick": "paypal"})).await;
    let mut eve = JsonClient::hello(server.addr(), json!({"nick": "paypai"})).await;
    for client in [&mut paypal, &mut eve] {
        client.send(&[json!({"type": "join", "room": "bank"})]).await;
        client.expect("joined").await;
    }
    eve.send(&[json!({"type": "nick", "nick": "paypaI"})]).await;
    eve.expect_error("nick_taken").await;
    eve.send(&[json!({"type": "nick", "nick": "Paypai"})]).await;
    assert_eq!(eve.expect("welcome").await["nick"], "Paypai");
}

#[actix_web::test]
async fn two_connections_of_one_identity_are_one_member() {
    let server = TestServer::start().await;
    let mut ben = join_as(&server, "Ben").await;
    let mut first = join_as(&server, "Ada").await;
    assert_eq!(ben.expect("presence").await["member_count"], 2);
    // A connection without a name has the name of its identity.
    let mut second = JsonClient::connect(server.addr()).await;
    second.send(&[json!({"type": "hello", "key": key("Ada")}), join("a")]).await;
    assert_eq!(second.expect("welcome").await["nick"], "Ada");
    assert_eq!(second.expect("joined").await["member_count"], 2);
    // A new name is for both connections.
    second.send(&[json!({"type": "nick", "nick": "Ada L."})]).await;
    for client in [&mut ben, &mut first, &mut second] {
        let line = client.until("renamed").await;
        assert_eq!((&line["from"], &line["to"]), (&json!("Ada"), &json!("Ada L.")));
    }
    first.send(&[json!({"type": "say", "room": "a", "text": "hello"})]).await;
    assert_eq!(ben.expect("message").await["nick"], "Ada L.");
    // Ada leaves when her last connection ends.
    drop(first);
    eventually("the first connection to be unregistered", async || {
        server.member_count().await == 2
    })
    .await;
    ben.send(&[json!({"type": "who", "room": "a"})]).await;
    assert_eq!(ben.expect("members").await["member_count"], 2);
    drop(second);
    assert_eq!(ben.expect("presence").await["left"], json!(["Ada L."]));
}

#[actix_web::test]
async fn taken_name_is_refused_with_a_free_suggestion() {
    let server = TestServer::start().await;
    let _ada = join_as(&server, "Ada").await;
    let _ada_2 = join_as(&server, "ada-2").await;
    let mut other = JsonClient::hello(server.addr(), json!({"nick": "ADA"})).await;
    other.send(&[json!({"type": "join", "room": "a", "ref": "x"})]).await;
    let error = other.expect_error("nick_taken").await;
    let expected = (&json!("ADA-3"), &json!("x"), &json!(false));
    assert_eq!((&error["suggested"], &error["ref"], &error["temporary"]), expected);
    // In another room the name is free.
    other.send(&[join("b"), json!({"type": "nick", "nick": "Eve"}), join("a")]).await;
    other.expect("joined").await;
    assert_eq!(other.expect("welcome").await["nick"], "Eve");
    other.until("joined").await;
    // As a member of the room, it cannot take the name, either.
    other.send(&[json!({"type": "nick", "nick": "Ada", "ref": 5})]).await;
    assert_eq!(other.until("error").await["ref"], 5);
    other.send(&[json!({"type": "hello", "nick": "Ada"})]).await;
    other.expect_error("nick_taken").await;
    other.send(&[json!({"type": "nick", "nick": "anonymous-1234"})]).await;
    other.expect_error("bad_nick").await;
    other.send(&[json!({"type": "say", "room": "a", "text": "still me"})]).await;
    assert_eq!(other.expect("message").await["nick"], "Eve");
}

#[actix_web::test]
async fn name_is_free_once_the_last_connection_of_its_owner_ends() {
    let server = TestServer::start().await;
    // Ben stays, because an empty room has no names.
    let _ben = join_as(&server, "Ben").await;
    let ada = join_as(&server, "Ada").await;
    // Ada reconnects before the server notices the end of her first connection.
    let again = join_as(&server, "Ada").await;
    let mut other = JsonClient::hello(server.addr(), json!({"nick": "ada"})).await;
    drop(ada);
    eventually("one connection to be unregistered", async || server.member_count().await == 2)
        .await;
    other.send(&[join("a")]).await;
    other.expect_error("nick_taken").await;
    drop(again);
    eventually("the other connection to be unregistered", async || {
        server.member_count().await == 1
    })
    .await;
    other.send(&[join("a")]).await;
    assert_eq!(other.expect("joined").await["member_count"], 2);
}

#[actix_web::test]
async fn taken_name_is_refused_at_the_handshake_of_a_text_client() {
    let server = TestServer::start().await;
    let _ada = join_as(&server, "Ada").await;
    let request = |query: &str| {
        format!(
            "GET /ws?{query} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            server.addr()
        )
    };
    let answer = raw_http(server.addr(), &request("room=a&nick=ada")).await;
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
    assert!(answer.contains("another user has the name 'ada'"), "{answer}");
    let answer = raw_http(server.addr(), &request("room=b&nick=ada")).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

/// Concurrent handshakes with one name all succeed, and then all but one connection are closed.
#[actix_web::test]
async fn one_of_many_text_clients_that_claim_a_name_at_once_stays() {
    let server = TestServer::start().await;
    let mut others = Vec::new();
    for _ in 0..50 {
        let upgrade = format!("ws://{}/ws?nick=ada", server.addr());
        others.push(actix_web::rt::spawn(async move {
            tokio_tungstenite::connect_async(upgrade).await.ok().map(|(stream, _)| stream)
        }));
    }
    let mut streams = Vec::new();
    for other in others {
        streams.extend(within("a handshake", other).await.unwrap());
    }
    eventually("one client to remain", async || {
        let closed = server.disconnects(Reason::NameTaken).await;
        server.member_count().await == 1 && closed as usize == streams.len() - 1
    })
    .await;
}

#[actix_web::test]
async fn typing_is_announced_at_most_once_in_three_seconds() {
    let server = TestServer::start().await;
    let mut ada = join_as(&server, "Ada").await;
    let mut ben = join_as(&server, "Ben").await;
    ada.expect("presence").await;
    let typing = json!({"type": "typing", "room": "a"});
    let say = json!({"type": "say", "room": "a", "text": "done"});
    ada.send(&[typing.clone(), typing.clone(), typing, say]).await;
    assert_eq!(ben.expect("typing").await, json!({"type": "typing", "room": "a", "nick": "Ada"}));
    ben.expect("message").await;
    // The author does not receive `typing`.
    ada.expect("message").await;
}

/// The notices of one event to one client are one delivery, even in more rooms than its queue
/// holds.
#[actix_web::test]
async fn events_from_hundreds_of_shared_rooms_do_not_evict_a_client() {
    const ROOMS: usize = 600;
    let server = TestServer::start().await;
    let mut pair = [join_as(&server, "Ada").await, join_as(&server, "Ben").await];
    for client in &mut pair {
        for n in 0..ROOMS {
            client.send(&[join(&format!("r{n}"))]).await;
            client.until("joined").await;
        }
    }
    pair[0].send(&[json!({"type": "nick", "nick": "Ada L."})]).await;
    for client in &mut pair {
        for _ in 0..=ROOMS {
            assert_eq!(client.until("renamed").await["to"], "Ada L.");
        }
    }
    let [mut ada, ben] = pair;
    drop(ben);
    let mut left = 0;
    while left <= ROOMS {
        left += usize::from(ada.until("presence").await["left"] == json!(["Ben"]));
    }
    assert_eq!(server.disconnects(Reason::SlowClient).await, 0);
}

#[actix_web::test]
async fn presence_in_a_large_room_is_batched() {
    let server = TestServer::start_with(Config { workers: 1, ..config() }).await;
    let mut watcher = join_as(&server, "watcher").await;
    let began = Instant::now();
    let mut members = Vec::new();
    for n in 0..150 {
        members.push(server.connect(&format!("room=a&nick=n{n}")).await);
    }
    let (mut seen, mut events_while_large) = (HashSet::new(), 0);
    while seen.len() < 150 {
        let line = watcher.expect("presence").await;
        let joined = line["joined"].as_array().unwrap();
        assert!(joined.len() <= 100);
        seen.extend(joined.iter().map(Value::to_string));
        events_while_large += u64::from(line["member_count"].as_u64().unwrap() > 101);
    }
    let seconds = began.elapsed().as_secs();
    assert!(events_while_large <= seconds + 2, "{events_while_large} events in {seconds} s");
    // A large room does not announce typing.
    let mut other = join_as(&server, "other").await;
    other.send(&[json!({"type": "typing", "room": "a"})]).await;
    other.send(&[json!({"type": "say", "room": "a", "text": "done"})]).await;
    let mut line = watcher.next().await.unwrap();
    while line["type"] == "presence" {
        line = within("the message", watcher.next()).await.unwrap();
    }
    assert_eq!(line["text"], "done");
    drop(members);
    while watcher.expect("presence").await["member_count"] != 2 {}
}
