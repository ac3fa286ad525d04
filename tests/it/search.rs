//! Full-text search over the JSON protocol.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use chinwag::Config;
use chinwag::config::Rate;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::{TestServer, config, eventually, within};
use crate::journal::{config_with_journal, join_command};
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

/// A server with a history file.
struct Setup {
    server: TestServer,
    folder: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        Self::with(|config| config).await
    }

    async fn with(change: impl Fn(Config) -> Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = change(config_with_journal(folder.path()));
        Self { server: TestServer::start_with(config).await, folder }
    }

    /// Connects a user.
    async fn user(&self, name: &str) -> JsonClient {
        let hello = json!({"nick": name, "key": format!("a secret of {name}'s own")});
        JsonClient::hello(self.server.addr(), hello).await
    }

    /// Connects a user and joins a room.
    async fn member(&self, name: &str, room: &str) -> JsonClient {
        let mut client = self.user(name).await;
        client.send(&[join_command(room)]).await;
        client.expect("joined").await;
        client
    }
}

impl JsonClient {
    /// Sends a message, and returns its sequence number.
    async fn say_in(&mut self, room: &str, text: &str) -> u64 {
        self.send(&[json!({"type": "say", "room": room, "text": text})]).await;
        self.until("said").await["seq"].as_u64().unwrap()
    }

    /// Sends a change of a message.
    async fn change_in(&mut self, kind: &str, room: &str, seq: u64, text: &str) {
        self.send(&[json!({"type": kind, "room": room, "seq": seq, "text": text})]).await;
        self.until("said").await;
    }

    /// Sends many messages to a room.
    async fn fill(&mut self, room: &str, texts: impl Iterator<Item = String>) {
        let say = |text| json!({"type": "say", "room": room, "text": text});
        let lines: Vec<_> = texts.map(say).collect();
        // A frame has at most 28 KiB.
        let longest = lines.iter().map(|line| line.to_string().len()).max().unwrap();
        for lines in lines.chunks(100.min(20_000 / longest)) {
            self.send(lines).await;
            for _ in lines {
                self.until("said").await;
            }
        }
    }

    async fn search(&mut self, fields: Value) -> Value {
        let mut command = json!({"type": "search"});
        command.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.send(&[command]).await;
        self.until("search").await
    }

    /// Returns the texts that a search finds, newest first.
    async fn find(&mut self, text: &str) -> Vec<String> {
        texts(&self.search(json!({"text": text, "limit": 50})).await)
    }
}

fn texts(answer: &Value) -> Vec<String> {
    let text = |result: &Value| {
        let snippet = result["snippet"].as_array().unwrap();
        snippet.iter().map(|part| part.as_str().unwrap()).collect::<String>()
    };
    answer["results"].as_array().unwrap().iter().map(text).collect()
}

/// Waits until all messages up to this one are indexed.
async fn indexed(folder: &Path, seq: u64) {
    let journal = Connection::open(folder.join("chat.db")).unwrap();
    eventually("the messages to be indexed", async || {
        let select = "SELECT coalesce(max(indexed), 0) FROM search_parts";
        journal.query_row(select, [], |row| row.get::<_, i64>(0)).unwrap() >= seq as i64
    })
    .await;
}

#[actix_web::test]
async fn words_are_found_in_any_language() {
    let setup = Setup::new().await;
    let mut ada = setup.member("Ada", "tea").await;
    let messages = [
        "The QUICK brown fox, don't you know?",
        "Die Straße in München ist schön",
        "قرأتُ كِتَابًا جديدًا عن أحمد",
        "東京都で日本語を勉強する",
        "コーヒーを飲みます",
        "party tonight 🎉🎉",
        "naïve Ærø café",
    ];
    let mut last = 0;
    for message in messages {
        last = ada.say_in("tea", message).await;
    }
    // First the messages are read one by one, then they are in the index.
    for round in 0..2 {
        for (search, number) in [
            ("quick", 0),
            ("Brown FOX", 0),
            ("\"quick brown\"", 0),
            ("don't", 0),
            ("STRASSE", 1),
            ("munchen SCHÖN", 1),
            ("كتابا", 2),
            ("احمد", 2),
            ("日本", 3),
            ("東京", 3),
            ("コーヒー", 4),
            ("🎉", 5),
            ("naive aero CAFE", 6),
        ] {
            assert_eq!(ada.find(search).await, [messages[number]], "{search}, round {round}");
        }
        for search in ["\"brown quick\"", "quic", "京東", "tonight tomorrow", "x"] {
            assert!(ada.find(search).await.is_empty(), "{search}, round {round}");
        }
        indexed(setup.folder.path(), last).await;
    }
    setup.server.stop().await;
}

#[actix_web::test]
async fn result_has_the_place_the_author_and_a_snippet() {
    let setup = Setup::new().await;
    let mut ada = setup.member("Ada", "tea").await;
    ada.send(&[json!({"type": "hello"})]).await;
    let welcome = ada.expect("welcome").await;
    assert_eq!(welcome["limits"]["search"], 50);
    ada.send(&[json!({"type": "say", "room": "tea", "text": "Black tea or green TEA?"})]).await;
    let message = ada.expect("message").await;
    ada.expect("said").await;
    let answer = ada.search(json!({"text": "tea", "ref": "r"})).await;
    let result = json!({
        "room": "tea", "seq": message["seq"], "at": message["at"], "author": welcome["author"],
        "nick": "Ada", "snippet": ["Black ", "tea", " or green ", "TEA", "?"],
    });
    assert_eq!(answer, json!({"type": "search", "results": [result], "more": false, "ref": "r"}));
    setup.server.stop().await;
}

#[actix_web::test]
async fn room_author_and_position_restrict_a_search() {
    let setup = Setup::new().await;
    let mut ada = setup.member("Ada", "a").await;
    ada.send(&[join_command("b")]).await;
    ada.expect("joined").await;
    let mut ben = setup.member("Ben", "a").await;
    let first = ada.say_in("a", "tea 1").await;
    ada.say_in("b", "tea 2").await;
    let last = ben.say_in("a", "tea 3").await;
    let mut anonymous = JsonClient::hello(setup.server.addr(), json!({})).await;
    anonymous
        .send(&[join_command("a"), json!({"type": "say", "room": "a", "text": "coffee"})])
        .await;
    let name = anonymous.until("message").await["nick"].clone();
    for round in 0..2 {
        for (fields, expected) in [
            (json!({}), vec!["tea 3", "tea 2", "tea 1"]),
            (json!({"room": "A"}), vec!["tea 3", "tea 1"]),
            (json!({"room": "b"}), vec!["tea 2"]),
            (json!({"room": "c"}), vec![]),
            (json!({"from": "ADA"}), vec!["tea 2", "tea 1"]),
            (json!({"from": "ada", "room": "a"}), vec!["tea 1"]),
            (json!({"from": "eve"}), vec![]),
            (json!({"before": last}), vec!["tea 2", "tea 1"]),
            (json!({"before": first}), vec![]),
        ] {
            let mut search = json!({"text": "tea"});
            search.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let answer = ada.search(search).await;
            assert_eq!(texts(&answer), expected, "{fields}, round {round}");
            assert_eq!(answer["more"], false);
        }
        let coffee = ada.search(json!({"text": "coffee", "from": name})).await;
        assert_eq!(texts(&coffee), ["coffee"]);
        indexed(setup.folder.path(), last + 1).await;
    }
    setup.server.stop().await;
}

#[actix_web::test]
async fn pages_of_results_have_neither_gap_nor_repeat() {
    let setup = Setup::new().await;
    let mut ada = setup.member("Ada", "a").await;
    ada.fill("a", (0..1300).map(|n| format!("number {n} tea"))).await;
    indexed(setup.folder.path(), 1000).await;
    for limit in [50, 49] {
        let (mut all, mut before) = (Vec::new(), Value::Null);
        loop {
            let page = json!({"text": "tea", "before": before, "limit": limit, "room": "a"});
            let answer = ada.search(page).await;
            assert_eq!(answer.get("incomplete"), None);
            let results = answer["results"].as_array().unwrap();
            assert_eq!(results.len() == limit, answer["more"] == true || all.len() + limit == 1300);
            before = results.last().unwrap()["seq"].clone();
            all.extend(texts(&answer));
            if answer["more"] == false {
                break;
            }
        }
        let expected: Vec<_> = (0..1300).rev().map(|n| format!("number {n} tea")).collect();
        assert_eq!(all, expected);
    }
    setup.server.stop().await;
}

#[actix_web::test]
async fn edited_and_deleted_messages_are_found_with_their_current_text() {
    let setup = Setup::new().await;
    let mut ada = setup.member("Ada", "a").await;
    for round in 0..2 {
        let edited = ada.say_in("a", "the first text").await;
        let deleted = ada.say_in("a", "the deleted text").await;
        if round == 1 {
            indexed(setup.folder.path(), deleted).await;
        }
        ada.change_in("edit", "a", edited, "the second text").await;
        ada.change_in("delete", "a", deleted, "").await;
        assert!(ada.find("first").await.is_empty());
        assert!(ada.find("deleted").await.is_empty());
        assert_eq!(ada.find("second").await.len(), round + 1);
    }
    setup.server.stop().await;
}

#[actix_web::test]
async fn pruned_messages_are_not_found() {
    let setup = Setup::with(|config| Config { keep_messages: 10, ..config }).await;
    let mut ada = setup.member("Ada", "a").await;
    let mut last = 0;
    for n in 0..30 {
        last = ada.say_in("a", &format!("tea {n}")).await;
        if n == 20 {
            indexed(setup.folder.path(), last).await;
        }
        let kept: Vec<_> = (0..=n).rev().take(10).map(|n| format!("tea {n}")).collect();
        assert_eq!(ada.find("tea").await, kept);
    }
    indexed(setup.folder.path(), last).await;
    assert!(ada.find("\"tea 19\"").await.is_empty());
    assert_eq!(ada.find("\"tea 20\"").await, ["tea 20"]);
    setup.server.stop().await;
}

#[actix_web::test]
async fn invalid_searches_are_errors() {
    let setup = Setup::new().await;
    let mut ada = setup.user("Ada").await;
    for (fields, code) in [
        (json!({}), "bad_json"),
        (json!({"text": 1}), "bad_json"),
        (json!({"text": "tea", "limit": 0}), "bad_json"),
        (json!({"text": "tea", "limit": 51}), "bad_json"),
        (json!({"text": "tea", "before": -1}), "bad_json"),
        (json!({"text": ""}), "empty"),
        (json!({"text": "\"\" * - ..."}), "empty"),
        (json!({"text": "x".repeat(201)}), "too_long"),
        (json!({"text": "a b c d e f g h i j k l m n o p q"}), "too_long"),
        (json!({"text": "tea", "room": "no room"}), "bad_room"),
        (json!({"text": "tea", "from": "a:b"}), "bad_nick"),
    ] {
        let mut command = json!({"type": "search", "ref": 1});
        command.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        ada.send(&[command]).await;
        let error = ada.expect_error(code).await;
        assert_eq!((&error["ref"], &error["temporary"]), (&json!(1), &json!(false)), "{fields}");
    }
    setup.server.stop().await;
}

#[actix_web::test]
async fn server_without_a_history_file_cannot_search() {
    let server = TestServer::start_with(config()).await;
    let mut ada = JsonClient::connect(server.addr()).await;
    ada.send(&[json!({"type": "hello"}), json!({"type": "search", "text": "tea"})]).await;
    assert_eq!(ada.expect("welcome").await["limits"].get("search"), None);
    let error = ada.expect_error("forbidden").await;
    assert!(error["message"].as_str().unwrap().contains("history file"), "{error}");
}

/// The words of a search are never read as operators of FTS5.
#[actix_web::test]
async fn syntax_of_the_index_has_no_meaning_in_a_search() {
    let setup = Setup::new().await;
    let mut ada = setup.member("Ada", "a").await;
    let odd =
        ["NEAR tea", "tea OR coffee", "NOT tea", "text : tea", "{a b} : tea", "tea* ^tea -tea"];
    let mut last = 0;
    for text in odd.into_iter().chain(["plain tea"]) {
        last = ada.say_in("a", text).await;
    }
    for _ in 0..2 {
        assert_eq!(ada.find("NEAR(tea)").await, ["NEAR tea"]);
        assert_eq!(ada.find("tea OR coffee").await, ["tea OR coffee"]);
        assert_eq!(ada.find("NOT tea").await, ["NOT tea"]);
        assert_eq!(ada.find("text:tea").await, ["text : tea"]);
        assert_eq!(ada.find("room:r1").await, [""; 0]);
        for search in ["te*", "t\"e\"a", "'; DROP TABLE messages; --", "a\u{1}c", "\\"] {
            let search = json!({"type": "search", "text": search});
            ada.send(&[search, json!({"type": "who", "room": "a"})]).await;
            let answer = ada.next().await.unwrap();
            assert!(answer["type"] == "error" || texts(&answer).is_empty(), "{answer}");
            ada.expect("members").await;
        }
        for search in ["tea*", "^tea", "-tea", "\"tea", "tea)", "(tea", "+tea", "text:\"tea\""] {
            let found = ada.find(search).await.len();
            assert!(found == 7 || search.starts_with("text") && found == 1, "{search}: {found}");
        }
        indexed(setup.folder.path(), last).await;
    }
    setup.server.stop().await;
}

#[actix_web::test]
async fn search_counts_as_ten_commands() {
    let rate =
        Rate { per_second: NonZeroU32::new(5).unwrap(), burst: NonZeroU32::new(25).unwrap() };
    let setup = Setup::with(|config| Config { command_rate: Some(rate), ..config }).await;
    let mut ada = setup.user("Ada").await;
    let began = Instant::now();
    for _ in 0..3 {
        ada.find("tea").await;
    }
    // 31 commands with `hello`, of which 25 need not wait.
    assert!(began.elapsed() >= Duration::from_millis(1100), "{:?}", began.elapsed());
    setup.server.stop().await;
}

#[actix_web::test]
async fn searches_with_many_common_words_do_not_delay_others() {
    let setup = Setup::new().await;
    let mut ada = setup.member("Ada", "a").await;
    let words: Vec<_> = "a b c d e f g h i j k l m n o p q r s t u v w x y z".split(' ').collect();
    let text = words.repeat(20).join(" ");
    ada.fill("a", (0..1000).map(|_| text.clone())).await;
    indexed(setup.folder.path(), 500).await;
    let mut searchers = Vec::new();
    let phrase = format!("\"{}\"", words.repeat(3)[..60].join(" "));
    for search in
        [phrase.clone(), words[..16].join(" "), format!("\"{} a\"", words[..25].join(" "))]
    {
        let mut searcher = setup.user("Eve").await;
        searcher.send(&vec![json!({"type": "search", "text": search}); 20]).await;
        searchers.push(searcher);
    }
    // Messages and pages of the history do not wait for the searches.
    for n in 0..5 {
        ada.say_in("a", &format!("hello {n}")).await;
        ada.send(&[json!({"type": "history", "room": "a"})]).await;
        ada.until("history").await;
    }
    for searcher in &mut searchers {
        for _ in 0..20 {
            searcher.until("search").await;
        }
    }
    setup.server.stop().await;
}

#[actix_web::test]
async fn message_is_found_at_once_and_after_a_crash_and_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--db", "chat.db"];
    let mut said = Vec::new();
    for round in 0..6 {
        let program = Program::start(PROGRAM, folder.path(), &flags).await;
        let mut ada = JsonClient::hello(program.addr, json!({"nick": "Ada"})).await;
        ada.send(&[join_command("a")]).await;
        ada.expect("joined").await;
        assert_eq!(ada.find("tea").await, said.iter().rev().cloned().collect::<Vec<_>>());
        let text = format!("tea {round}");
        ada.say_in("a", &text).await;
        said.push(text);
        assert_eq!(ada.find("tea").await[0], said[round]);
        // The server is killed while it indexes these.
        ada.fill("a", (0..700).map(|n| format!("{round} filler {n}"))).await;
        assert_eq!(ada.find(&format!("\"{round} filler\"")).await.len(), 50);
        program.kill().await;
    }
    let program = Program::start(PROGRAM, folder.path(), &flags).await;
    let mut ada = JsonClient::hello(program.addr, json!({"nick": "Ada"})).await;
    let (mut count, mut before) = (0, Value::Null);
    loop {
        let answer = ada.search(json!({"text": "filler", "before": before, "limit": 50})).await;
        assert_eq!(answer.get("incomplete"), None);
        let results = answer["results"].as_array().unwrap();
        count += results.len();
        before = results.last().unwrap()["seq"].clone();
        if answer["more"] == false {
            break;
        }
    }
    assert_eq!(count, 6 * 700);
    program.kill().await;
    let journal = Connection::open(folder.path().join("chat.db")).unwrap();
    let mut tables = journal.prepare("SELECT id FROM search_parts").unwrap();
    let tables = tables.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    for table in tables.map(|id| format!("search_{}", id.unwrap())) {
        let check = format!("INSERT INTO {table} ({table}) VALUES ('integrity-check')");
        journal.execute_batch(&check).unwrap();
    }
}

#[actix_web::test]
async fn messages_of_an_older_file_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    ada.send(&[join_command("a")]).await;
    ada.expect("joined").await;
    ada.fill("a", (0..3000).map(|n| format!("tea {n}"))).await;
    server.stop().await;
    let journal = Connection::open(folder.path().join("chat.db")).unwrap();
    let mut tables = journal.prepare("SELECT id FROM search_parts").unwrap();
    let ids: Vec<i64> =
        tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(tables);
    for id in ids {
        journal.execute_batch(&format!("DROP TABLE search_{id}")).unwrap();
    }
    let make_older = "DROP TABLE message_rooms; DROP TABLE search_parts; DROP TABLE search_fill;
                      DROP TABLE read_marks; DROP TABLE shared_log; DROP TABLE producers;
                      PRAGMA user_version = 3;";
    journal.execute_batch(make_older).unwrap();
    drop(journal);
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    eventually("all messages to be found", async || {
        let answer = ada.search(json!({"text": "\"tea 0\""})).await;
        let is_found = texts(&answer) == ["tea 0"];
        assert!(is_found || answer["incomplete"] == true, "{answer}");
        is_found && answer.get("incomplete").is_none()
    })
    .await;
    assert_eq!(ada.find("tea").await[0], "tea 2999");
    within("the server to stop", server.stop()).await;
}

/// An answer of more than 16 KiB is sent in fragments.
#[actix_web::test]
async fn long_answer_is_sent_whole() {
    let setup = Setup::new().await;
    let mut ada = setup.member("Ada", "a").await;
    ada.fill("a", (0..60).map(|n| format!("{n} tea {}", "\"東京\" ".repeat(100)))).await;
    let answer = ada.search(json!({"text": "tea", "limit": 50})).await;
    assert!(answer.to_string().len() > 20_000);
    assert_eq!(answer["results"].as_array().unwrap().len(), 50);
    setup.server.stop().await;
}
