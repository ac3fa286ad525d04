//! A journal that does not commit for a while: clients wait, and none is disconnected.

use std::collections::HashSet;
use std::time::Duration;

use chinwag::hub::Drain;
use futures_util::future::join_all;
use rusqlite::Connection;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::harness::{TestServer, frame, raw_upgrade, within};
use crate::journal::{config_with_journal, history, join_command};
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

const FLOODERS: usize = 100;

/// Together the clients try to send 2 GB.
#[cfg(target_os = "linux")]
#[actix_web::test]
async fn stalled_journal_applies_backpressure_and_memory_stays_bounded() {
    const MB: usize = 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(PROGRAM, folder.path(), &[]).await;
    let lock = Connection::open(folder.path().join("chinwag.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = program.memory();
    let flood = frame(0x81, &[b'x'; 4000]).repeat(16);
    let flooders = join_all((0..FLOODERS).map(async |n| {
        let socket = TcpSocket::new_v4().unwrap();
        // A small buffer, so that the kernel does not accept what the server does not read.
        socket.set_send_buffer_size(64 * 1024).unwrap();
        let tcp = socket.connect(program.addr).await.unwrap();
        let mut tcp = raw_upgrade(tcp, program.addr, &format!("/ws?room=r{}", n / 2)).await;
        let mut written = 0;
        // A flooder stops when its socket accepts nothing for a second.
        let blocked = Duration::from_secs(1);
        while written < 20 * MB
            && let Ok(Ok(more)) = timeout(blocked, tcp.write(&flood[written % flood.len()..])).await
        {
            written += more;
        }
        (tcp, written)
    }));
    let flooders = within("all flooders to be blocked", flooders).await;
    let written: Vec<_> = flooders.iter().map(|(_, written)| written / 1024).collect();
    let grown = program.memory().saturating_sub(before) / MB as u64;
    assert!(written.iter().all(|&kb| kb < 20 * 1024), "{written:?} kB");
    // Less than 1 MB each. The buffers for received messages grow by doubling.
    assert!(grown < FLOODERS as u64, "grown by {grown} MB for {written:?} kB");
}

/// There was a bug: a client was evicted if one commit had messages of more rooms than its queue
/// held.
#[actix_web::test]
async fn member_of_600_rooms_receives_one_commit_for_all_of_them() {
    const ROOMS: usize = 600;
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    for n in 0..ROOMS {
        ada.send(&[join_command(&format!("r{n}"))]).await;
        ada.expect("joined").await;
    }
    let lock = Connection::open(folder.path().join("chat.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for n in 0..ROOMS {
        ada.send(&[json!({"type": "say", "room": format!("r{n}"), "text": "x"})]).await;
    }
    // The error arrives once the hub has received all commands before it.
    ada.send(&[json!({"type": "dance"})]).await;
    ada.expect_error("unknown_type").await;
    lock.execute_batch("ROLLBACK").unwrap();
    let (mut rooms, mut said) = (HashSet::new(), 0);
    while rooms.len() < ROOMS || said < ROOMS {
        let line = within("all to be delivered", ada.next()).await;
        let line = line.unwrap_or_else(|| panic!("closed with {:?}", ada.close_code));
        match line["type"].as_str().unwrap() {
            "message" => assert!(rooms.insert(line["room"].to_string()), "{line} came twice"),
            "said" => said += 1,
            _ => panic!("{line}"),
        }
    }
    server.stop().await;
}

/// Before the server ends, all messages that the hub has accepted are on disk and delivered.
#[actix_web::test]
async fn messages_sent_before_shutdown_are_stored_and_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(PROGRAM, folder.path(), &[]).await;
    let mut ada = JsonClient::hello(program.addr, json!({})).await;
    ada.send(&[join_command("a"), join_command("b")]).await;
    ada.expect("joined").await;
    ada.expect("joined").await;
    let lock = Connection::open(folder.path().join("chinwag.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The first message is in the journal's transaction, and the others wait for it.
    let say = |room: &str, text: &str| json!({"type": "say", "room": room, "text": text});
    ada.send(&[say("a", "last"), say("a", "words"), say("b", "and these")]).await;
    // The error arrives once the hub has received all commands before it.
    ada.send(&[json!({"type": "dance"})]).await;
    ada.expect_error("unknown_type").await;
    program.signal("-TERM");
    let line = within("the log", program.log.next_line()).await.unwrap().unwrap();
    assert!(line.contains("shutting down"), "{line}");
    lock.execute_batch("ROLLBACK").unwrap();
    let mut texts = Vec::new();
    while let Some(line) = within("the end", ada.next()).await {
        texts.extend(line["text"].as_str().map(str::to_owned));
    }
    assert_eq!(ada.close_code, Some(1001));
    drop(ada);
    texts.sort();
    assert_eq!(texts, ["and these", "last", "words"]);
    assert_eq!(program.exit_code().await, Some(0));
    let program = Program::start(PROGRAM, folder.path(), &[]).await;
    for (room, expected) in [("a", &["last", "words"][..]), ("b", &["and these"])] {
        let messages = history(program.addr, room).await;
        let texts: Vec<_> =
            messages.iter().map(|message| message["text"].as_str().unwrap()).collect();
        assert_eq!(texts, expected);
    }
}

/// The sender of a message that is not stored receives an error.
#[actix_web::test]
async fn message_sent_during_shutdown_is_rejected_with_shutting_down() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(config_with_journal(folder.path())).await;
    let mut ada = JsonClient::hello(server.addr(), json!({})).await;
    ada.send(&[join_command("a")]).await;
    ada.expect("joined").await;
    let lock = Connection::open(folder.path().join("chat.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let say = |text: &str| json!({"type": "say", "room": "a", "text": text, "ref": text});
    ada.send(&[say("in time"), json!({"type": "dance"})]).await;
    ada.expect_error("unknown_type").await;
    let drained = server.hub().send(Drain { wait: true }).await.unwrap();
    ada.send(&[say("too late")]).await;
    let error = ada.expect_error("shutting_down").await;
    assert_eq!((&error["ref"], &error["temporary"]), (&json!("too late"), &json!(true)));
    lock.execute_batch("ROLLBACK").unwrap();
    assert_eq!(ada.until("said").await["ref"], "in time");
    within("the hub to drain", drained).await.unwrap_err();
    server.stop().await;
}
