//! History on disk: restarts, file errors, locking and retention.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use actix::{Handler, Message as ActorMessage};
use chinwag::Config;
use chinwag::log::sqlite::Writer;
use chinwag::server::ServerError;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{TestServer, config, eventually, raw_http, within};
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

/// Returns a configuration with a history file `chat.db` in a folder.
pub fn config_with_journal(folder: &Path) -> Config {
    Config { db: Some(folder.join("chat.db")), ..config() }
}

pub fn join_command(room: &str) -> Value {
    json!({"type": "join", "room": room})
}

/// Reads all messages of a room page by page and returns them, oldest first.
pub async fn history(addr: SocketAddr, room: &str) -> Vec<Value> {
    let mut reader = JsonClient::hello(addr, json!({})).await;
    reader.send(&[join_command(room)]).await;
    reader.expect("joined").await;
    let (mut messages, mut before) = (Vec::new(), Value::Null);
    loop {
        let page = json!({"type": "history", "room": room, "before": before, "limit": 100});
        reader.send(&[page]).await;
        let page = reader.expect("history").await;
        before = page["messages"][0]["seq"].clone();
        messages.splice(0..0, page["messages"].as_array().unwrap().iter().cloned());
        if page["more"] == false {
            return messages;
        }
    }
}

#[actix_web::test]
async fn messages_and_their_ids_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let hello = json!({"nick": "ada", "key": "a secret of ada's own"});
    let say = json!({"type": "say", "room": "a", "text": "hello", "id": "1"});
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut ada = JsonClient::hello(server.addr(), hello.clone()).await;
    ada.send(&[join_command("a"), say.clone()]).await;
    let epoch = ada.expect("joined").await["epoch"].clone();
    let seq = ada.expect("message").await["seq"].clone();
    ada.expect("said").await;
    server.stop().await;

    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut text = server.join("room=a&history=5").await;
    text.expect("ada: hello").await;
    let mut ada = JsonClient::hello(server.addr(), hello).await;
    let after = json!({"epoch": epoch, "seq": 0});
    ada.send(&[json!({"type": "join", "room": "a", "after": after}), say]).await;
    let joined = ada.expect("joined").await;
    assert_eq!((&joined["recovered"], &joined["epoch"]), (&json!(true), &epoch));
    assert_eq!((&joined["seq"], &joined["messages"][0]["seq"]), (&seq, &seq));
    let said = ada.expect("said").await;
    assert_eq!((&said["seq"], &said["duplicate"]), (&seq, &json!(true)));
    server.stop().await;
}

/// Starts the program with a history file that it cannot use, and returns its error.
async fn startup_error(folder: &Path, db: &Path) -> String {
    let mut program = Command::new(PROGRAM);
    program.args(["--listen", "127.0.0.1:0", "--db"]).arg(db).current_dir(folder);
    let output = within("the program to end", program.kill_on_drop(true).output()).await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("--db none"), "{error}");
    error
}

#[actix_web::test]
async fn unusable_journal_is_a_one_line_error_and_stays_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let program = Program::start(PROGRAM, folder.path(), &[]).await;
    std::os::unix::fs::symlink(path("chinwag.db"), path("alias.db")).unwrap();
    for name in ["chinwag.db", "./alias.db"] {
        let error = startup_error(folder.path(), Path::new(name)).await;
        assert!(error.contains("in use by another chinwag server"), "{error}");
    }
    drop(program);

    std::fs::write(path("letter.db"), "Dear Ada, this is no database.".repeat(100)).unwrap();
    let error = startup_error(folder.path(), Path::new("letter.db")).await;
    assert!(error.contains("is not a chinwag history file"), "{error}");
    assert!(std::fs::read(path("letter.db")).unwrap().starts_with(b"Dear Ada"));

    let other = Connection::open(path("other.db")).unwrap();
    other.execute_batch("CREATE TABLE mine (a); PRAGMA user_version = 9").unwrap();
    let error = startup_error(folder.path(), Path::new("other.db")).await;
    assert!(error.contains("is not a chinwag history file"), "{error}");

    Program::start(PROGRAM, folder.path(), &["--db", "new.db"]).await.kill().await;
    let new = Connection::open(path("new.db")).unwrap();
    new.execute_batch("PRAGMA user_version = 99").unwrap();
    let error = startup_error(folder.path(), Path::new("new.db")).await;
    assert!(error.contains("newer"), "{error}");

    for path in ["nowhere/chat.db", ".", "/proc/chat.db"] {
        let error = startup_error(folder.path(), Path::new(path)).await;
        assert!(error.contains("cannot open"), "{error}");
    }
}

#[actix_web::test]
async fn locked_journal_rejects_messages_until_it_is_unlocked() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut json = JsonClient::hello(server.addr(), json!({"nick": "ada"})).await;
    json.send(&[join_command("lobby")]).await;
    json.expect("joined").await;
    let mut text = server.join("nick=ben").await;
    let mut reader = server.join("").await;
    let other = Connection::open(folder.path().join("chat.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let say = json!({"type": "say", "room": "lobby", "text": "anybody?", "id": "1", "ref": 5});
    json.send(std::slice::from_ref(&say)).await;
    let error = json.expect_error("busy").await;
    assert_eq!((&error["ref"], &error["temporary"]), (&json!(5), &json!(true)));
    text.say("me neither").await;
    assert_eq!(text.expect_close().await.0, 1013);
    // Reading still works.
    let mut late = JsonClient::hello(server.addr(), json!({})).await;
    late.send(&[join_command("lobby"), json!({"type": "history", "room": "lobby"})]).await;
    late.expect("joined").await;
    late.expect("history").await;
    other.execute_batch("ROLLBACK").unwrap();
    json.send(&[say]).await;
    json.expect("message").await;
    assert_eq!(json.expect("said").await["duplicate"], false);
    reader.expect("ada: anybody?").await;
    server.stop().await;
}

/// Makes the writer panic.
#[derive(ActorMessage)]
#[rtype(result = "()")]
struct Panic;

impl Handler<Panic> for Writer {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut actix::Context<Self>) {
        panic!("the test makes the journal panic");
    }
}

#[actix_web::test]
async fn journal_panic_closes_every_client_with_1011_and_fails_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut clients = [server.join("").await, server.join("room=other").await];
    let server = server.into_server();
    let writer = server.journal().unwrap().writer().clone();
    let running = actix_web::rt::spawn(server.run());
    // `run` watches the hub once it has been polled.
    tokio::task::yield_now().await;
    writer.do_send(Panic);
    clients[0].say("anybody?").await;
    for client in &mut clients {
        assert_eq!(client.expect_close().await.0, 1011);
    }
    let outcome = within("the server to end", running).await.unwrap();
    assert!(matches!(outcome, Err(ServerError::HubFailed)), "{outcome:?}");
}

/// Only a moved file can be put back; the server then accepts messages again.
#[cfg(unix)]
#[actix_web::test]
async fn moved_deleted_replaced_or_truncated_journal_rejects_messages() {
    type Change = fn(&Path);
    let moved: Change = |db| std::fs::rename(db, db.with_extension("away")).unwrap();
    let deleted: Change = |db| std::fs::remove_file(db).unwrap();
    let replaced: Change = |db| {
        std::fs::copy(db, db.with_extension("copy")).unwrap();
        std::fs::rename(db.with_extension("copy"), db).unwrap();
    };
    let truncated: Change =
        |db| std::fs::File::options().write(true).open(db).unwrap().set_len(0).unwrap();
    let log_deleted: Change = |db| std::fs::remove_file(db.with_extension("db-wal")).unwrap();
    for (change, words) in [
        (moved, "chat.db was deleted or moved"),
        (deleted, "chat.db was deleted or moved"),
        (replaced, "chat.db was replaced"),
        (truncated, "chat.db was truncated"),
        (log_deleted, "chat.db-wal was deleted"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("chat.db");
        let server = TestServer::start_with(config_with_journal(folder.path())).await;
        let mut ada = JsonClient::hello(server.addr(), json!({})).await;
        let say = json!({"type": "say", "room": "a", "text": "before"});
        ada.send(&[join_command("a"), say.clone()]).await;
        ada.until("said").await;
        change(&db);
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", server.addr());
        let answer = raw_http(server.addr(), &request).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains(words), "{answer}");
        eventually("messages to be rejected", async || {
            ada.send(std::slice::from_ref(&say)).await;
            loop {
                let line = within("an answer", ada.next()).await.unwrap();
                if line["type"] != "message" {
                    break line["code"] == "internal";
                }
            }
        })
        .await;
        if std::fs::rename(db.with_extension("away"), &db).is_ok() {
            ada.send(&[say]).await;
            ada.until("said").await;
            eventually("the server to be ready again", async || {
                raw_http(server.addr(), &request).await.starts_with("HTTP/1.1 200 ")
            })
            .await;
        }
        server.stop().await;
    }
}

#[cfg(target_os = "linux")]
#[actix_web::test]
async fn hard_link_or_deleted_lock_file_does_not_admit_a_second_server() {
    let folder = tempfile::tempdir().unwrap();
    let first = Program::start(PROGRAM, folder.path(), &[]).await;
    let second = async |db: &str| {
        let program = Command::new(PROGRAM)
            .args(["--listen", "127.0.0.1:0", "--db", db])
            .current_dir(folder.path())
            .kill_on_drop(true)
            .output();
        let output = within("the second server to end", program).await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    std::fs::hard_link(folder.path().join("chinwag.db"), folder.path().join("link.db")).unwrap();
    let (code, error) = second("link.db").await;
    assert!(code == Some(1) && error.contains("in use by another"), "{error}");
    std::fs::remove_file(folder.path().join("chinwag.db.lock")).unwrap();
    let (code, error) = second("chinwag.db").await;
    assert!(code == Some(1) && error.contains("in use by another"), "{error}");
    first.kill().await;
    let again = Program::start(PROGRAM, folder.path(), &[]).await;
    again.kill().await;
}

#[actix_web::test]
async fn dropped_server_handle_keeps_the_journal_running() {
    let folder = tempfile::tempdir().unwrap();
    let server = chinwag::server::start(config_with_journal(folder.path())).await.unwrap();
    let addr = server.addrs()[0];
    drop(server);
    let mut ada = JsonClient::hello(addr, json!({})).await;
    ada.send(&[join_command("a"), json!({"type": "say", "room": "a", "text": "still here"})]).await;
    ada.until("said").await;
    assert_eq!(history(addr, "a").await[0]["text"], "still here");
}

/// Only delays can make this take longer.
#[actix_web::test]
async fn appends_are_at_least_five_milliseconds_apart() {
    const MESSAGES: u32 = 20;
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[join_command("a"), join_command("b")]).await;
    ada.until("joined").await;
    ada.until("joined").await;
    let began = Instant::now();
    for n in 0..MESSAGES {
        let room = ["a", "b"][(n % 2) as usize];
        ada.send(&[json!({"type": "say", "room": room, "text": "hello"})]).await;
        ada.until("said").await;
    }
    let elapsed = began.elapsed();
    assert!(elapsed >= Duration::from_millis(5) * (MESSAGES - 1), "{elapsed:?}");
    server.stop().await;
}

#[actix_web::test]
async fn surplus_messages_are_pruned_and_cannot_be_resumed_from() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(Config {
        keep_messages: 20,
        prune_interval: Duration::from_millis(50),
        ..config_with_journal(folder.path())
    })
    .await;
    let mut ada = JsonClient::hello(server.addr(), json!({"key": "a secret of ada's own"})).await;
    ada.send(&[join_command("a")]).await;
    let epoch = ada.expect("joined").await["epoch"].clone();
    let mut seqs = Vec::new();
    for n in 0..50 {
        let say = json!({"type": "say", "room": "a", "text": n.to_string(), "id": n.to_string()});
        ada.send(&[say]).await;
        seqs.push(ada.expect("message").await["seq"].clone());
        ada.expect("said").await;
    }
    eventually("the surplus messages to be pruned", async || {
        let messages = history(server.addr(), "a").await;
        messages.len() == 20 && messages[0]["text"] == "30"
    })
    .await;
    for (after, recovered) in [(10, false), (28, false), (29, true), (40, true)] {
        let after = json!({"epoch": epoch, "seq": seqs[after]});
        ada.send(&[json!({"type": "join", "room": "a", "after": after})]).await;
        assert_eq!(ada.expect("joined").await["recovered"], recovered, "{after}");
    }
    // The ids of pruned messages are still known.
    ada.send(&[json!({"type": "say", "room": "a", "text": "0", "id": "0"})]).await;
    let said = ada.expect("said").await;
    assert_eq!((&said["seq"], &said["duplicate"]), (&seqs[0], &json!(true)));
    server.stop().await;
}

#[actix_web::test]
async fn expired_messages_are_deleted_for_everyone() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(Config {
        keep_for: Some(Duration::from_millis(300)),
        prune_interval: Duration::from_millis(50),
        ..config_with_journal(folder.path())
    })
    .await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[join_command("a"), json!({"type": "say", "room": "a", "text": "for now"})]).await;
    let epoch = ada.expect("joined").await["epoch"].clone();
    ada.expect("message").await;
    ada.expect("said").await;
    let journal = Connection::open(folder.path().join("chat.db")).unwrap();
    eventually("the message to be deleted", async || {
        let count = "SELECT count(*) FROM messages";
        journal.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() == 0
    })
    .await;
    assert_eq!(history(server.addr(), "a").await, [] as [Value; 0]);
    let after = json!({"epoch": epoch, "seq": 0});
    ada.send(&[json!({"type": "join", "room": "a", "after": after})]).await;
    assert_eq!(ada.expect("joined").await["recovered"], false);
    server.stop().await;
}

#[actix_web::test]
async fn crash_begins_a_new_epoch_only_if_messages_may_be_lost() {
    for (sync, keeps_epoch) in [("full", true), ("normal", false)] {
        let folder = tempfile::tempdir().unwrap();
        let mut epochs = Vec::new();
        for end in ["-KILL", "-TERM", "-TERM"] {
            let mut program = Program::start(PROGRAM, folder.path(), &["--db-sync", sync]).await;
            let mut client = JsonClient::hello(program.addr, json!({})).await;
            client.send(&[join_command("a")]).await;
            epochs.push(client.expect("joined").await["epoch"].clone());
            program.signal(end);
            program.exit_code().await;
        }
        assert_eq!(epochs[0] == epochs[1], keeps_epoch, "{sync}");
        assert_eq!(epochs[1], epochs[2], "{sync}");
    }
}
