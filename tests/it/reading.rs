//! The page over time: scrolling back, long histories, lost connections.

use std::net::SocketAddr;

use chinwag::Config;
use fantoccini::Locator;
use fantoccini::key::Key;
use serde_json::json;

use crate::browser::{Browser, url};
use crate::harness::{TestServer, config, eventually};
use crate::journal::history;
use crate::json::JsonClient;
use crate::program::{PROGRAM, Program};

const AT_END: &str = "(log => log.scrollHeight - log.scrollTop - log.clientHeight < 4)\
                      (document.querySelector('#log'))";

/// Connects a client that joins the lobby.
pub async fn talker(addr: SocketAddr) -> JsonClient {
    let mut ben = JsonClient::hello(addr, json!({"nick": "Ben"})).await;
    ben.send(&[json!({"type": "join", "room": "lobby"})]).await;
    ben.expect("joined").await;
    ben
}

/// Sends `line N` for each number, and waits until the server has confirmed all.
pub async fn talk(ben: &mut JsonClient, numbers: std::ops::Range<usize>) {
    for chunk in numbers.collect::<Vec<_>>().chunks(100) {
        let command = |n: &usize| {
            let text = format!("line {n} {}", "word ".repeat(n % 40));
            json!({"type": "say", "room": "lobby", "text": text})
        };
        ben.send(&chunk.iter().map(command).collect::<Vec<_>>()).await;
        for _ in chunk {
            ben.until("said").await;
        }
    }
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn message_list_follows_new_messages_only_at_its_end() {
    let server = TestServer::start().await;
    let mut ben = talker(server.addr()).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    talk(&mut ben, 0..50).await;
    ada.until("document.querySelector('#entries').textContent.includes('line 49')").await;
    ada.until(AT_END).await;
    ada.until("document.querySelector('#newer').hidden").await;

    ada.run("document.querySelector('#log').scrollTop -= 700").await;
    ada.painted().await;
    let place = ada.run("return document.querySelector('#log').scrollTop").await;
    talk(&mut ben, 50..53).await;
    ada.until("document.querySelector('#newer').textContent === '3 new messages ↓'").await;
    assert_eq!(ada.run("return document.querySelector('#log').scrollTop").await, place);
    ada.until("document.title.startsWith('(3) ')").await;
    ada.picture("reading-further-up").await;
    ada.is_accessible("reading further up").await;
    ada.click("#newer").await;
    ada.until(AT_END).await;
    ada.until("document.querySelector('#newer').hidden").await;
    ada.until("document.title === '#lobby · chinwag'").await;
    talk(&mut ben, 53..54).await;
    ada.until("document.querySelector('#entries').textContent.includes('line 53')").await;
    ada.until(AT_END).await;
    ada.close().await;
}

/// Returns the vertical position of the message that starts with a text.
async fn position_of(ada: &Browser, line: &str) -> Option<f64> {
    let script = format!(
        "return [...document.querySelectorAll('#entries .text')]
           .find((found) => found.textContent.startsWith({}))?.getBoundingClientRect().top",
        json!(line)
    );
    ada.run(&script).await.as_f64()
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn older_history_loads_without_moving_visible_messages() {
    let server = TestServer::start().await;
    let mut ben = talker(server.addr()).await;
    talk(&mut ben, 0..400).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    ada.until("document.querySelector('#entries').textContent.includes('line 399')").await;
    // Records whether screen readers announce each change of the list.
    ada.run(
        "window.live = new Set();
         new MutationObserver(() => live.add(document.querySelector('#log').ariaLive))
           .observe(document.querySelector('#entries'), { childList: true })",
    )
    .await;
    // Scrolls up to the first message.
    for _ in 0..60 {
        let first = "return document.querySelector('#entries .text').textContent";
        let line = ada.run(first).await.as_str().unwrap().to_owned();
        let words: Vec<_> = line.split(' ').take(2).collect();
        let line = format!("{} ", words.join(" "));
        if line == "line 0 " {
            break;
        }
        ada.run("document.querySelector('#log').scrollTop = 5").await;
        let before = position_of(&ada, &line).await;
        ada.until(&format!(
            "!document.querySelector('#entries .text').textContent.startsWith('{line}')"
        ))
        .await;
        ada.painted().await;
        let after = position_of(&ada, &line).await;
        assert!((before.unwrap() - after.unwrap()).abs() < 1.0, "{line}: {before:?}, {after:?}");
    }
    assert!(position_of(&ada, "line 0 ").await.is_some(), "the first message is not loaded");
    ada.until("document.querySelectorAll('#entries .day').length === 1").await;
    assert_eq!(ada.run("return [...live]").await, json!(["off"]), "old messages are announced");
    ada.click("#newer").await;
    ada.until(AT_END).await;
    ada.painted().await;
    ada.run("live.clear()").await;
    talk(&mut ben, 400..401).await;
    ada.until("document.querySelector('#entries').textContent.includes('line 400')").await;
    assert_eq!(
        ada.run("return [...live]").await,
        json!(["polite"]),
        "new messages are not announced"
    );
    ada.until("document.querySelectorAll('#entries > *').length <= 240").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn messages_sent_while_the_server_is_killed_are_neither_lost_nor_duplicated() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start(PROGRAM, folder.path(), &[]).await;
    let addr = program.addr;
    let ada = Browser::open(&format!("http://localhost:{}/", addr.port())).await;
    ada.is_called("Ada").await;
    let mut sent = Vec::new();
    for round in 0..3 {
        for n in 0..5 {
            let text = format!("round {round}, {n}");
            ada.say(&text).await;
            sent.push(text);
        }
        // Some of the messages are not confirmed yet.
        program.kill().await;
        ada.until("document.querySelector('#status').textContent.includes('Reconnecting in')")
            .await;
        let text = format!("round {round}, while disconnected");
        ada.say(&text).await;
        sent.push(text);
        ada.until("document.querySelector('#pending .pending')").await;
        if round == 0 {
            ada.picture("disconnected").await;
            ada.is_accessible("disconnected").await;
        }
        let listen = addr.to_string();
        program = Program::start(PROGRAM, folder.path(), &["--listen", &listen]).await;
        ada.run("window.dispatchEvent(new Event('online'))").await;
        ada.until("document.querySelector('#banner').hidden").await;
        ada.until("!document.querySelector('#pending article')").await;
    }
    let stored = history(addr, "lobby").await;
    let texts: Vec<_> = stored.iter().map(|message| message["text"].as_str().unwrap()).collect();
    assert_eq!(texts, sent);
    let shown = "return [...document.querySelectorAll('#entries .text')].map((p) => p.textContent)";
    assert_eq!(ada.run(shown).await, json!(sent));
    ada.close().await;
    program.kill().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn banner_shows_the_countdown_and_a_note_tells_of_the_reset_history() {
    let server = TestServer::start_with(Config { resume_buffer: 60, ..config() }).await;
    let addr = server.addr();
    let mut ben = talker(addr).await;
    talk(&mut ben, 0..3).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    ada.until("document.querySelector('#entries').textContent.includes('line 2')").await;
    ada.type_into("#text", "typed before").await;
    server.stop().await;
    let countdown = "/Connection lost.*Reconnecting in \\d+ seconds?\\./
        .test(document.querySelector('#status').textContent)";
    ada.until(countdown).await;
    // Without a database the server has a new history.
    let server = TestServer::start_with(Config { listen: vec![addr], ..config() }).await;
    ada.run("window.dispatchEvent(new Event('online'))").await;
    ada.until("document.querySelector('#banner').hidden").await;
    ada.until("document.querySelector('#empty').textContent.includes('history was reset')").await;
    ada.until("document.querySelector('#text').value === 'typed before'").await;
    ada.press(Key::Enter).await;
    ada.has_line("typed before").await;
    ada.until("document.querySelector('.note').textContent.includes('history was reset')").await;

    // Without timers, the page reconnects when it becomes visible.
    ada.run("window.setTimeout = () => 1").await;
    server.stop().await;
    ada.until(countdown).await;
    let server = TestServer::start_with(Config { listen: vec![addr], ..config() }).await;
    ada.run("document.dispatchEvent(new Event('visibilitychange'))").await;
    ada.until("document.querySelector('#banner').hidden").await;
    ada.close().await;
    server.stop().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn note_about_missed_messages_disappears_when_they_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let db = Some(folder.path().join("chat.db"));
    let server = TestServer::start_with(Config { db, resume_buffer: 60, ..config() }).await;
    let mut ben = talker(server.addr()).await;
    talk(&mut ben, 0..3).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    ada.until("document.querySelector('#entries').textContent.includes('line 2')").await;
    ada.run(
        "window.Real = WebSocket;
         window.WebSocket = class { constructor() { throw new Error('no network'); } };
         dispatchEvent(new Event('offline'));",
    )
    .await;
    ada.until("!document.querySelector('#banner').hidden").await;
    talk(&mut ben, 3..100).await;
    ada.run("window.WebSocket = Real; dispatchEvent(new Event('online'));").await;
    ada.until("document.querySelector('#entries').textContent.includes('line 99')").await;
    let note_is_shown = "[...document.querySelectorAll('.note')]
        .some((note) => note.textContent.includes('not shown here'))";
    ada.until(note_is_shown).await;
    let top = "document.querySelector('#log').scrollTop = 0";
    ada.run(top).await;
    ada.until(&format!(
        "({top}, document.querySelector('#entries').textContent.includes('line 3'))"
    ))
    .await;
    ada.until(&format!("!{note_is_shown}")).await;
    ada.close().await;
    server.stop().await;
}

/// Notes, such as who joined, do not count.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn button_for_new_messages_counts_only_messages() {
    let server = TestServer::start().await;
    let mut ben = talker(server.addr()).await;
    talk(&mut ben, 0..100).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    ada.until("document.querySelector('#entries').textContent.includes('line 99')").await;
    ada.run("document.querySelector('#log').scrollTop = 300").await;
    ada.painted().await;
    let mut cleo = JsonClient::hello(server.addr(), json!({"nick": "Cleo"})).await;
    cleo.send(&[json!({"type": "join", "room": "lobby"})]).await;
    cleo.send(&[json!({"type": "nick", "nick": "Cleopatra"})]).await;
    ada.until("document.querySelector('#member-list').textContent.includes('Cleopatra')").await;
    talk(&mut ben, 100..101).await;
    ada.until("document.querySelector('#newer').textContent === '1 new message ↓'").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn rejected_message_is_shown_as_not_sent_and_can_be_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("chat.db");
    let server = TestServer::start_with(Config { db: Some(db.clone()), ..config() }).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    let lock = rusqlite::Connection::open(&db).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    ada.say("keep me").await;
    ada.until("document.querySelector('.pending .text')?.textContent === 'keep me'").await;
    ada.until(
        "document.querySelector('.failed .problem')?.textContent.includes('try again later')",
    )
    .await;
    ada.is_accessible("not sent").await;
    lock.execute_batch("ROLLBACK").unwrap();
    // Screen readers would announce the alert again if its element were replaced.
    ada.run("window.problem = document.querySelector('.problem')").await;
    ada.run("window.member = document.querySelector('#member-list li')").await;
    let mut ben = JsonClient::hello(server.addr(), json!({"nick": "Ben"})).await;
    ben.send(&[json!({"type": "join", "room": "lobby"})]).await;
    ben.send(&[json!({"type": "say", "room": "lobby", "text": "meanwhile"})]).await;
    ada.has_line("meanwhile").await;
    ada.until("document.querySelectorAll('#member-list li').length === 2").await;
    ada.until("window.problem.isConnected && window.member.isConnected").await;
    ada.click(".failed button").await;
    ada.has_line("keep me").await;
    ada.until("!document.querySelector('#pending article')").await;
    ada.close().await;
    server.stop().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn terminal_close_shows_its_reason_and_does_not_reconnect() {
    let server = TestServer::start_with(Config { max_frame_bytes: Some(5000), ..config() }).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    // Each of the 900 control characters takes six bytes in JSON, so the frame exceeds its limit.
    ada.run("document.querySelector('#text').value = '\\u0001'.repeat(900) + 'x'").await;
    ada.page.find(Locator::Css("#send")).await.unwrap().click().await.unwrap();
    ada.until("document.querySelector('#status').textContent.includes('too big')").await;
    ada.until("!document.querySelector('#status').textContent.includes('Reconnecting')").await;
    eventually("the client to be removed", async || server.member_count().await == 0).await;
    ada.is_accessible("ended").await;
    // The message may be the cause, so it is not sent again automatically.
    ada.until("document.querySelector('.failed .problem').textContent.includes('too big')").await;
    ada.click("#retry").await;
    ada.until("document.querySelector('#banner').hidden").await;
    ada.click(".failed button:last-child").await;
    ada.say("short").await;
    ada.has_line("short").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn browser_without_websocket_shows_an_error() {
    let server = TestServer::start().await;
    let window = Browser::open(&url(&server, "/")).await;
    window.connected().await;
    // Runs the page's script again, without WebSocket.
    let script = "delete window.WebSocket; import('/static/chat.js?again').then(arguments[0])";
    window.page.execute_async(script, vec![]).await.unwrap();
    let shows_error = "document.querySelector('#status').textContent.includes('does not support')";
    window.until(shows_error).await;
    window.until("!document.querySelector('#banner').hidden").await;
    window.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn windows_in_different_rooms_show_only_their_room() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    let ben = Browser::open(&url(&server, "/r/kaffee")).await;
    ben.is_called("Ben").await;
    ada.say("for tea").await;
    ben.say("for kaffee").await;
    ada.has_line("for tea").await;
    ben.has_line("for kaffee").await;
    ben.say("/join tea").await;
    ben.has_line("for tea").await;
    ben.until("!document.querySelector('#entries').textContent.includes('for kaffee')").await;
    ben.say("Ben, now in tea").await;
    ada.has_line("Ben, now in tea").await;
    ada.until("!document.querySelector('#entries').textContent.includes('for kaffee')").await;
    ada.close().await;
    ben.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn missed_messages_of_another_room_are_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let with_db = Config { db: Some(folder.path().join("chat.db")), ..config() };
    let server = TestServer::start_with(with_db.clone()).await;
    let addr = server.addr();
    let mut ben = talker(addr).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    ada.say("/join other").await;
    ada.until("location.pathname === '/r/other'").await;
    ada.until("document.querySelector('#member-count').textContent === '1 online'").await;
    talk(&mut ben, 0..2).await;
    let badge = "document.querySelector('.badge [aria-hidden]')?.textContent";
    ada.until(&format!("{badge} === '2'")).await;
    // Without timers it reconnects only on the event below, and misses messages until then.
    ada.run("window.setTimeout = () => 1").await;
    server.stop().await;
    ada.until("!document.querySelector('#banner').hidden").await;
    let server = TestServer::start_with(Config { listen: vec![addr], ..with_db }).await;
    let mut ben = talker(addr).await;
    talk(&mut ben, 2..5).await;
    ada.run("window.dispatchEvent(new Event('online'))").await;
    ada.until(&format!("{badge} === '5'")).await;
    ada.until("document.title === '(5) #other · chinwag'").await;

    // A rename in another window of the same user applies to this one, also after a reload.
    let key = ada.run("return JSON.parse(localStorage.getItem('chinwag.key'))").await;
    JsonClient::hello(addr, json!({"key": key, "nick": "Ada L."})).await;
    ada.until("document.querySelector('#me').textContent === 'Ada L.'").await;
    ada.page.refresh().await.unwrap();
    ada.until("document.querySelector('#me').textContent === 'Ada L.'").await;
    ada.until(&format!("{badge} === '5'")).await;
    ada.close().await;
    server.stop().await;
}
