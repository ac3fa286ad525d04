//! Edits, deletions, reactions, replies and topics, with the history in memory and in a file.

use std::time::Duration;

use chinwag::Config;
use serde_json::{Value, json};

use crate::harness::{TestServer, config, within};
use crate::journal::{config_with_journal, join_command};
use crate::json::JsonClient;

/// A server, with the history in memory or in a file.
struct Setup {
    server: TestServer,
    _folder: tempfile::TempDir,
}

/// Runs a test with the history in memory, and again in a file.
async fn on_both_logs(change: impl Fn(Config) -> Config, test: impl AsyncFn(&TestServer)) {
    for in_file in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let base = if in_file { config_with_journal(folder.path()) } else { config() };
        let setup = Setup { server: TestServer::start_with(change(base)).await, _folder: folder };
        test(&setup.server).await;
        setup.server.stop().await;
    }
}

fn key(name: &str) -> Value {
    json!({"nick": name, "key": format!("a secret of {name}'s own")})
}

/// Connects a user and joins room `a`.
async fn member(server: &TestServer, name: &str) -> JsonClient {
    let mut client = JsonClient::hello(server.addr(), key(name)).await;
    client.send(&[join_command("a")]).await;
    client.expect("joined").await;
    client
}

fn command(kind: &str, fields: Value) -> Value {
    let mut command = json!({"type": kind, "room": "a"});
    command.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    command
}

impl JsonClient {
    /// Sends a command to room `a`, and returns the event that the room receives. The receipt
    /// follows.
    async fn change(&mut self, kind: &str, event: &str, fields: Value) -> Value {
        self.send(&[command(kind, fields)]).await;
        let event = self.expect(event).await;
        let said = self.expect("said").await;
        assert_eq!((&said["seq"], &said["duplicate"]), (&event["seq"], &json!(false)));
        event
    }

    /// Sends a message to room `a`, and returns its sequence number.
    async fn post(&mut self, text: &str) -> Value {
        self.change("say", "message", json!({"text": text})).await["seq"].clone()
    }

    /// Returns an answer to `history` of room `a`.
    async fn history(&mut self, fields: Value) -> Value {
        self.send(&[command("history", fields)]).await;
        self.until("history").await
    }
}

/// Returns the values of a field of the messages in an answer.
fn each<'a>(answer: &'a Value, field: &str) -> Vec<&'a Value> {
    answer["messages"].as_array().unwrap().iter().map(|message| &message[field]).collect()
}

#[actix_web::test]
async fn edit_reaches_members_and_later_readers() {
    on_both_logs(std::convert::identity, async |server| {
        let (mut ada, mut ben) = (member(server, "ada").await, member(server, "ben").await);
        let seq = ada.post("helo").await;
        let said = ben.expect("message").await;
        let edit = json!({"seq": seq, "text": "hello"});
        let edited = ada.change("edit", "edited", edit).await;
        assert_eq!((&edited["target"], &edited["text"]), (&seq, &json!("hello")));
        assert_eq!((&edited["nick"], &edited["author"]), (&json!("ada"), &said["author"]));
        assert_eq!(ben.expect("edited").await, edited);

        let page = ben.history(json!({})).await;
        let message = &page["messages"][0];
        assert_eq!((&message["text"], &message["seq"]), (&json!("hello"), &seq));
        assert_eq!((&message["at"], &message["edited_at"]), (&said["at"], &edited["at"]));
        let mut cleo = JsonClient::hello(server.addr(), key("cleo")).await;
        cleo.send(&[join_command("a")]).await;
        let joined = cleo.expect("joined").await;
        assert_eq!(joined["messages"][0], *message);
        assert!(joined["changes"].is_null(), "{joined}");
    })
    .await;
}

#[actix_web::test]
async fn deleted_message_stays_in_the_room_without_text_and_reactions() {
    on_both_logs(std::convert::identity, async |server| {
        let mut ada = member(server, "ada").await;
        let seq = ada.post("a secret").await;
        ada.change("react", "reacted", json!({"seq": seq, "emoji": "👍"})).await;
        ada.change("edit", "edited", json!({"seq": seq, "text": "another secret"})).await;
        let reply = json!({"text": "what?", "reply_to": seq});
        ada.change("say", "message", reply).await;
        let deleted = ada.change("delete", "deleted", json!({"seq": seq})).await;
        assert_eq!(deleted["target"], seq);
        assert!(deleted["text"].is_null(), "{deleted}");
        let page = ada.history(json!({})).await;
        assert!(!page.to_string().contains("secret"), "{page}");
        let message = &page["messages"][0];
        assert_eq!((&message["seq"], &message["deleted"]), (&seq, &json!(true)));
        assert_eq!((&message["text"], &message["nick"]), (&json!(""), &json!("ada")));
        assert!(message["reactions"].is_null() && page["mine"].is_null(), "{page}");
        assert_eq!(page["messages"][1]["reply_to"], seq);
        assert!(page["messages"][1]["quote"].is_null(), "{page}");
        for (kind, fields) in [
            ("edit", json!({"seq": seq, "text": "back"})),
            ("delete", json!({"seq": seq})),
            ("react", json!({"seq": seq, "emoji": "👍"})),
        ] {
            ada.send(&[command(kind, fields)]).await;
            ada.expect_error("not_found").await;
        }
    })
    .await;
}

#[actix_web::test]
async fn messages_of_others_cannot_be_changed() {
    on_both_logs(std::convert::identity, async |server| {
        let (mut ada, mut eve) = (member(server, "ada").await, member(server, "eve").await);
        let seq = ada.post("mine").await;
        eve.expect("message").await;
        eve.send(&[command("edit", json!({"seq": seq, "text": "yours"}))]).await;
        eve.expect_error("forbidden").await;
        eve.send(&[command("delete", json!({"seq": seq}))]).await;
        eve.expect_error("forbidden").await;
        // A message of another room is not found, whoever wrote it.
        ada.send(&[join_command("b")]).await;
        ada.expect("joined").await;
        let in_b = json!({"type": "edit", "room": "b", "seq": seq, "text": "elsewhere"});
        ada.send(&[in_b]).await;
        ada.expect_error("not_found").await;
        for seq in [json!(0), json!(99), json!(9_007_199_254_740_993_u64)] {
            ada.send(&[command("delete", json!({"seq": seq}))]).await;
            ada.expect_error("not_found").await;
        }
        let page = ada.history(json!({})).await;
        assert_eq!(each(&page, "text"), ["mine"]);
        // A client that is not a member cannot change anything.
        let mut stranger = JsonClient::hello(server.addr(), key("ada")).await;
        stranger.send(&[command("delete", json!({"seq": seq}))]).await;
        stranger.expect_error("not_joined").await;
    })
    .await;
}

#[actix_web::test]
async fn author_may_edit_from_another_connection_with_the_same_key() {
    on_both_logs(std::convert::identity, async |server| {
        let mut ada = member(server, "ada").await;
        let seq = ada.post("from the phone").await;
        let mut laptop = member(server, "ada").await;
        laptop.change("edit", "edited", json!({"seq": seq, "text": "from the laptop"})).await;
        // Without a key, a client is another author each time it connects.
        let mut guest = JsonClient::hello(server.addr(), json!({})).await;
        guest.send(&[join_command("a")]).await;
        guest.expect("joined").await;
        let seq = guest.post("hello").await;
        guest.change("edit", "edited", json!({"seq": seq, "text": "hello!"})).await;
        drop(guest);
        let mut again = JsonClient::hello(server.addr(), json!({})).await;
        again.send(&[join_command("a")]).await;
        again.expect("joined").await;
        again.send(&[command("delete", json!({"seq": seq}))]).await;
        again.expect_error("forbidden").await;
    })
    .await;
}

#[actix_web::test]
async fn reactions_are_counted_once_for_each_user_and_emoji() {
    on_both_logs(std::convert::identity, async |server| {
        let (mut ada, mut ben) = (member(server, "ada").await, member(server, "ben").await);
        let seq = ada.post("a cake").await;
        ben.expect("message").await;
        let react = |emoji: &str, on: bool| json!({"seq": seq, "emoji": emoji, "on": on});
        // A heart is the same with and without a variation selector.
        let hearts = ["❤\u{FE0F}", "❤", "❤"];
        let mut counts = Vec::new();
        for emoji in hearts {
            counts.push(ada.change("react", "reacted", react(emoji, true)).await["count"].clone());
            ben.expect("reacted").await;
        }
        counts.push(ben.change("react", "reacted", react("❤", true)).await["count"].clone());
        counts.push(ben.change("react", "reacted", react("🎂", true)).await["count"].clone());
        assert_eq!(counts, [1, 1, 1, 2, 1]);
        for _ in 0..2 {
            ada.expect("reacted").await;
        }
        let page = ada.history(json!({})).await;
        let expected = json!({"❤\u{FE0F}": 2, "🎂": 1});
        assert_eq!(page["messages"][0]["reactions"], expected);
        assert_eq!(page["mine"], json!([{"seq": seq, "emoji": "❤\u{FE0F}"}]));
        let off = ada.change("react", "reacted", react("❤", false)).await;
        assert_eq!((&off["on"], &off["count"]), (&json!(false), &json!(1)));
        ben.expect("reacted").await;
        let page = ada.history(json!({})).await;
        let expected = json!({"❤\u{FE0F}": 1, "🎂": 1});
        assert_eq!(page["messages"][0]["reactions"], expected);
        assert!(page["mine"].is_null(), "{page}");
        for bad in ["", "a", "👍👍", "👍 ", "<b>"] {
            ada.send(&[command("react", react(bad, true))]).await;
            ada.expect_error("bad_json").await;
        }
    })
    .await;
}

#[actix_web::test]
async fn message_has_at_most_20_different_reactions() {
    const EMOJIS: [&str; 21] = [
        "😀", "😁", "😂", "😃", "😄", "😅", "😆", "😇", "😈", "😉", "😊", "😋", "😌", "😍", "😎",
        "😏", "😐", "😑", "😒", "😓", "😔",
    ];
    on_both_logs(std::convert::identity, async |server| {
        let mut ada = member(server, "ada").await;
        let seq = ada.post("a cake").await;
        for emoji in &EMOJIS[..20] {
            ada.change("react", "reacted", json!({"seq": seq, "emoji": emoji})).await;
        }
        ada.send(&[command("react", json!({"seq": seq, "emoji": EMOJIS[20]}))]).await;
        ada.expect_error("forbidden").await;
        let off = json!({"seq": seq, "emoji": EMOJIS[0], "on": false});
        ada.change("react", "reacted", off).await;
        ada.change("react", "reacted", json!({"seq": seq, "emoji": EMOJIS[20]})).await;
    })
    .await;
}

#[actix_web::test]
async fn reply_quotes_the_message_as_it_is_now() {
    on_both_logs(std::convert::identity, async |server| {
        let mut ada = member(server, "ada").await;
        let long = "é".repeat(150);
        let seq = ada.post("first").await;
        let reply = json!({"text": "answer", "reply_to": seq});
        let event = ada.change("say", "message", reply).await;
        assert_eq!(event["reply_to"], seq);
        assert!(event["quote"].is_null(), "events carry no quotes: {event}");
        ada.change("edit", "edited", json!({"seq": seq, "text": long})).await;
        for answer in [ada.history(json!({})).await, {
            ada.send(&[join_command("a")]).await;
            ada.expect("joined").await
        }] {
            let quote = json!({"nick": "ada", "text": "é".repeat(100)});
            assert_eq!(answer["messages"][1]["quote"], quote);
        }
        // The message must be in the room, and the text is not lost silently.
        for reply_to in [json!(99), json!(0)] {
            ada.send(&[command("say", json!({"text": "x", "reply_to": reply_to}))]).await;
            ada.expect_error("not_found").await;
        }
    })
    .await;
}

#[actix_web::test]
async fn topic_is_sent_to_members_and_to_clients_that_join() {
    on_both_logs(std::convert::identity, async |server| {
        let (mut ada, mut ben) = (member(server, "ada").await, member(server, "ben").await);
        let set = |topic: &str| json!({"topic": topic});
        let room = ada.change("set_room", "room", set("  tea, and cake ")).await;
        assert_eq!((&room["topic"], &room["nick"]), (&json!("tea, and cake"), &json!("ada")));
        assert_eq!(ben.expect("room").await, room);
        ben.send(&[join_command("a")]).await;
        assert_eq!(ben.expect("joined").await["topic"], "tea, and cake");
        // After everybody has left, the room still has its topic.
        drop((ada, ben));
        crate::harness::eventually("the room to be empty", async || {
            server.member_count().await == 0
        })
        .await;
        let mut cleo = JsonClient::hello(server.addr(), key("cleo")).await;
        cleo.send(&[join_command("a")]).await;
        assert_eq!(cleo.expect("joined").await["topic"], "tea, and cake");
        cleo.change("set_room", "room", set("")).await;
        cleo.send(&[join_command("a")]).await;
        assert!(cleo.expect("joined").await["topic"].is_null());
        for bad in ["a\nb".to_owned(), "x".repeat(251)] {
            cleo.send(&[command("set_room", set(&bad))]).await;
            cleo.expect_error("bad_json").await;
        }
    })
    .await;
}

#[actix_web::test]
async fn repeated_command_with_the_same_id_is_a_duplicate() {
    on_both_logs(std::convert::identity, async |server| {
        let mut ada = member(server, "ada").await;
        let seq = ada.post("hello").await;
        let commands = [
            ("edit", "edited", json!({"seq": seq, "text": "hello!", "id": "e"})),
            ("react", "reacted", json!({"seq": seq, "emoji": "👍", "id": "r"})),
            ("set_room", "room", json!({"topic": "tea", "id": "t"})),
            ("delete", "deleted", json!({"seq": seq, "id": "d"})),
        ];
        for (kind, event, fields) in commands {
            let id = fields["id"].clone();
            let event = ada.change(kind, event, fields.clone()).await;
            assert_eq!(event["id"], id);
            ada.send(&[command(kind, fields)]).await;
            let said = ada.expect("said").await;
            assert_eq!((&said["seq"], &said["duplicate"]), (&event["seq"], &json!(true)));
            assert_eq!(said["id"], id);
        }
    })
    .await;
}

#[actix_web::test]
async fn resume_replays_changes_of_messages_that_the_client_has() {
    on_both_logs(std::convert::identity, async |server| {
        let mut ada = member(server, "ada").await;
        let seq = ada.post("helo").await;
        let gone = ada.post("gone").await;
        let mut ben = JsonClient::hello(server.addr(), key("ben")).await;
        ben.send(&[join_command("a")]).await;
        let joined = ben.expect("joined").await;
        let after = json!({"epoch": joined["epoch"], "seq": joined["seq"]});
        drop(ben);
        ada.change("edit", "edited", json!({"seq": seq, "text": "hell"})).await;
        ada.change("edit", "edited", json!({"seq": seq, "text": "hello"})).await;
        ada.change("delete", "deleted", json!({"seq": gone})).await;
        ada.change("react", "reacted", json!({"seq": seq, "emoji": "👍"})).await;
        let new = ada.post("new").await;
        ada.change("react", "reacted", json!({"seq": new, "emoji": "👍"})).await;
        let mut ben = JsonClient::hello(server.addr(), key("ben")).await;
        let mut join = join_command("a");
        join["after"] = after;
        ben.send(&[join]).await;
        let joined = ben.expect("joined").await;
        assert_eq!(joined["recovered"], true);
        assert_eq!(each(&joined, "text"), ["new"]);
        assert_eq!(each(&joined, "reactions"), [&Value::Null], "they come as changes");
        let changes = joined["changes"].as_array().unwrap();
        let brief: Vec<_> = changes
            .iter()
            .map(|change| (change["type"].as_str().unwrap(), &change["target"], &change["text"]))
            .collect();
        let expected = [
            ("edited", &seq, &json!("hello")),
            ("deleted", &gone, &Value::Null),
            ("reacted", &seq, &Value::Null),
            ("reacted", &new, &Value::Null),
        ];
        assert_eq!(brief, expected);
    })
    .await;
}

#[actix_web::test]
async fn history_is_read_before_after_and_around_a_message() {
    on_both_logs(std::convert::identity, async |server| {
        let mut ada = member(server, "ada").await;
        let mut seqs = Vec::new();
        for n in 1..=9 {
            seqs.push(ada.post(&format!("t{n}")).await);
        }
        let cases = [
            (json!({"before": seqs[4], "limit": 2}), vec!["t3", "t4"], true, false),
            (json!({"after": seqs[4], "limit": 2}), vec!["t6", "t7"], true, true),
            (json!({"after": seqs[6], "limit": 5}), vec!["t8", "t9"], true, false),
            (json!({"after": 0, "limit": 3}), vec!["t1", "t2", "t3"], false, true),
            (json!({"around": seqs[4], "limit": 4}), vec!["t4", "t5", "t6", "t7"], true, true),
            (json!({"around": seqs[0], "limit": 4}), vec!["t1", "t2", "t3"], false, true),
            (json!({"around": seqs[8], "limit": 3}), vec!["t8", "t9"], true, false),
            (
                json!({"limit": 100}),
                (1..=9)
                    .map(|n| ["t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"][n - 1])
                    .collect(),
                false,
                false,
            ),
        ];
        for (fields, texts, more, more_newer) in cases {
            let page = ada.history(fields.clone()).await;
            assert_eq!(each(&page, "text"), texts, "{fields}");
            assert_eq!(page["more"], more, "{fields}");
            assert_eq!(page["more_newer"].as_bool().unwrap_or(false), more_newer, "{fields}");
        }
        ada.send(&[command("history", json!({"before": 1, "after": 1}))]).await;
        ada.expect_error("bad_json").await;
    })
    .await;
}

#[actix_web::test]
async fn text_clients_receive_messages_only() {
    on_both_logs(std::convert::identity, async |server| {
        let mut text = server.join("room=a").await;
        let mut ada = member(server, "ada").await;
        let seq = ada.post("hello").await;
        text.expect("ada: hello").await;
        let gone = ada.post("gone").await;
        text.expect("ada: gone").await;
        ada.change("edit", "edited", json!({"seq": seq, "text": "hello!"})).await;
        ada.change("delete", "deleted", json!({"seq": gone})).await;
        ada.change("react", "reacted", json!({"seq": seq, "emoji": "👍"})).await;
        ada.change("set_room", "room", json!({"topic": "tea"})).await;
        ada.change("say", "message", json!({"text": "end", "reply_to": seq})).await;
        text.expect("ada: end").await;
        let mut late = server.join("room=a&history=9").await;
        late.expect("ada: hello!").await;
        late.expect("ada: end").await;
    })
    .await;
}

#[actix_web::test]
async fn edits_can_be_forbidden_and_limited_in_time() {
    let forbid = |config: Config| Config { edits: false, ..config };
    on_both_logs(forbid, async |server| {
        let mut ada = JsonClient::connect(server.addr()).await;
        let mut hello = key("ada");
        hello["type"] = json!("hello");
        ada.send(&[hello, join_command("a")]).await;
        assert_eq!(ada.expect("welcome").await["limits"]["edits"], false);
        ada.expect("joined").await;
        let seq = ada.post("for ever").await;
        ada.send(&[command("edit", json!({"seq": seq, "text": "x"}))]).await;
        ada.expect_error("forbidden").await;
        ada.send(&[command("delete", json!({"seq": seq}))]).await;
        ada.expect_error("forbidden").await;
        ada.change("react", "reacted", json!({"seq": seq, "emoji": "👍"})).await;
    })
    .await;
    let window = Duration::from_millis(300);
    let limit = |config: Config| Config { edit_window: Some(window), ..config };
    on_both_logs(limit, async |server| {
        let mut ada = member(server, "ada").await;
        let seq = ada.post("quickly").await;
        // The message can be edited at first, and some time later it cannot.
        let edited = within("the window to close", async {
            let mut edits = 0;
            loop {
                ada.send(&[command("edit", json!({"seq": seq, "text": "quicker"}))]).await;
                match ada.next().await.unwrap() {
                    line if line["type"] == "edited" => {
                        ada.expect("said").await;
                        edits += 1;
                    }
                    line => {
                        assert_eq!(line["code"], "forbidden", "{line}");
                        return edits;
                    }
                }
                // Each edit counts against the rates.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(edited.await > 0);
    })
    .await;
}

#[actix_web::test]
async fn pruned_message_is_not_found() {
    let keep_two = |config: Config| Config { keep_messages: 2, ..config };
    on_both_logs(keep_two, async |server| {
        let mut ada = member(server, "ada").await;
        let first = ada.post("one").await;
        let second = ada.post("two").await;
        ada.post("three").await;
        for (kind, fields) in [
            ("edit", json!({"seq": first, "text": "x"})),
            ("delete", json!({"seq": first})),
            ("react", json!({"seq": first, "emoji": "👍"})),
            ("say", json!({"text": "x", "reply_to": first})),
        ] {
            ada.send(&[command(kind, fields)]).await;
            ada.expect_error("not_found").await;
        }
        ada.change("edit", "edited", json!({"seq": second, "text": "two!"})).await;
        let page = ada.history(json!({})).await;
        assert_eq!(each(&page, "text"), ["two!", "three"]);
    })
    .await;
}

/// Messages also expire while nobody writes.
#[actix_web::test]
async fn expired_message_is_in_no_answer() {
    let keep_for = Some(Duration::from_millis(500));
    let prune_interval = Duration::from_millis(100);
    let keep_short = |config: Config| Config { keep_for, prune_interval, ..config };
    on_both_logs(keep_short, async |server| {
        let mut ada = member(server, "ada").await;
        ada.post("soon gone").await;
        within("the message to expire", async {
            while !each(&ada.history(json!({})).await, "text").is_empty() {
                // Each request counts against the rates.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    })
    .await;
}

/// The hub removes messages that the log has pruned from its ring, because they cannot be changed
/// any more.
#[actix_web::test]
async fn message_that_is_pruned_by_bytes_is_in_no_answer() {
    // Five messages of 200 bytes and some short ones.
    let keep_little = |config: Config| Config { keep_bytes: Some(1800), ..config };
    on_both_logs(keep_little, async |server| {
        let mut ada = member(server, "ada").await;
        let first = ada.post("first").await;
        ada.change("edit", "edited", json!({"seq": first, "text": "the first"})).await;
        let reply = json!({"text": "answer", "reply_to": first});
        ada.change("say", "message", reply).await;
        assert_eq!(ada.history(json!({})).await["messages"][1]["quote"]["text"], "the first");
        for _ in 0..5 {
            ada.post(&"x".repeat(200)).await;
        }
        let mut ben = JsonClient::hello(server.addr(), key("ben")).await;
        ben.send(&[join_command("a")]).await;
        let joined = ben.expect("joined").await;
        for answer in [joined, ada.history(json!({})).await] {
            assert!(!answer.to_string().contains("first"), "{answer}");
            assert_eq!(answer["messages"][0]["text"], "answer");
            assert_eq!(answer["messages"][0]["reply_to"], first);
        }
        ada.send(&[command("delete", json!({"seq": first}))]).await;
        ada.expect_error("not_found").await;
    })
    .await;
}

/// Changes count as messages for the rates.
#[actix_web::test]
async fn changes_are_limited_like_messages() {
    let slow = |config: Config| Config {
        publish_rate: Some(chinwag::config::Rate {
            per_second: std::num::NonZeroU32::MIN,
            burst: std::num::NonZeroU32::new(3).unwrap(),
        }),
        ..config
    };
    on_both_logs(slow, async |server| {
        let mut ada = member(server, "ada").await;
        let seq = ada.post("hello").await;
        let react = |on: bool| json!({"seq": seq, "emoji": "👍", "on": on});
        ada.change("react", "reacted", react(true)).await;
        ada.change("edit", "edited", json!({"seq": seq, "text": "hello!"})).await;
        for (kind, fields) in [
            ("react", react(false)),
            ("edit", json!({"seq": seq, "text": "x"})),
            ("delete", json!({"seq": seq})),
            ("set_room", json!({"topic": "x"})),
        ] {
            ada.send(&[command(kind, fields)]).await;
            let error = ada.expect_error("rate_limited").await;
            assert!(error["retry_after_ms"].as_u64().unwrap() > 0, "{error}");
        }
    })
    .await;
}
