//! Edits, deletions, reactions, replies and topics in the page.

use chinwag::Config;
use serde_json::{Value, json};

use crate::browser::{Browser, Look, url};
use crate::harness::{TestServer, config};
use crate::json::JsonClient;

/// Connects a client without a browser, which joins a room.
pub async fn join(server: &TestServer, room: &str, hello: Value) -> JsonClient {
    let mut client = JsonClient::hello(server.addr(), hello).await;
    client.send(&[json!({"type": "join", "room": room})]).await;
    client.expect("joined").await;
    client
}

/// Sends a command whose answer is `said`, and returns the sequence number.
pub async fn send(client: &mut JsonClient, command: Value) -> u64 {
    client.send(&[command]).await;
    client.until("said").await["seq"].as_u64().unwrap()
}

/// Sends a message to the room `tea`, and returns its sequence number.
pub async fn say(client: &mut JsonClient, text: &str) -> u64 {
    send(client, json!({"type": "say", "room": "tea", "text": text})).await
}

pub async fn reply(client: &mut JsonClient, seq: u64, text: &str) -> u64 {
    send(client, json!({"type": "say", "room": "tea", "text": text, "reply_to": seq})).await
}

pub async fn edit(client: &mut JsonClient, seq: u64, text: &str) -> u64 {
    send(client, json!({"type": "edit", "room": "tea", "seq": seq, "text": text})).await
}

pub async fn delete(client: &mut JsonClient, seq: u64) -> u64 {
    send(client, json!({"type": "delete", "room": "tea", "seq": seq})).await
}

pub async fn react(client: &mut JsonClient, seq: u64, emoji: &str, on: bool) -> u64 {
    let command = json!({"type": "react", "room": "tea", "seq": seq, "emoji": emoji, "on": on});
    send(client, command).await
}

pub async fn set_topic(client: &mut JsonClient, topic: &str) -> u64 {
    send(client, json!({"type": "set_room", "room": "tea", "topic": topic})).await
}

/// Waits until the page shows this topic and these messages. A message is an array: its quote, its
/// text, and each reaction with its title.
async fn shows(ada: &Browser, topic: &str, messages: Value) {
    let shown = "[...document.querySelectorAll('#entries [data-seq] article')].map((article) => [
          article.querySelector('.quote')?.textContent ?? '',
          article.querySelector('.text, .deleted').textContent,
          ...[...article.querySelectorAll('.reactions button')].map((button) => {
            const mine = button.ariaPressed === 'true' ? ', mine' : '';
            return `${button.textContent} (${button.title}${mine})`;
          }),
        ])";
    let topic = json!(topic);
    let script = format!("[document.querySelector('#topic').textContent, ...{shown}]");
    let mut expected = vec![topic];
    expected.extend(messages.as_array().unwrap().iter().cloned());
    let expected = json!(expected);
    let is_shown = format!("JSON.stringify({script}) === JSON.stringify({expected})");
    let check = ada.until(&is_shown);
    tokio::select! {
        () = check => {}
        // Fails with the difference before the deadline of `until`.
        () = tokio::time::sleep(std::time::Duration::from_secs(15)) => {
            assert_eq!(ada.run(&format!("return {script}")).await, expected);
        }
    }
}

/// Remembers the element of each message, and records whether screen readers announce changes.
async fn watch(ada: &Browser) {
    ada.run(
        "window.watched = [...document.querySelectorAll('#entries article')];
         window.live = new Set();
         const record = ({ target }) => live.add(target.closest('[aria-live]').ariaLive);
         new MutationObserver((records) => records.forEach(record)).observe(
           document.querySelector('#entries'),
           { childList: true, characterData: true, subtree: true },
         )",
    )
    .await;
}

pub const OFFLINE: &str = "window.Real = WebSocket;
    window.WebSocket = class { constructor() { throw new Error('no network'); } };
    dispatchEvent(new Event('offline'));";
pub const ONLINE: &str = "window.WebSocket = Real; dispatchEvent(new Event('online'));";

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn changes_are_shown_at_once_after_a_reload_and_after_a_resume() {
    changes_are_shown(&TestServer::start().await).await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn changes_in_a_database_are_shown_at_once_after_a_reload_and_after_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let db = Some(folder.path().join("chat.db"));
    let server = TestServer::start_with(Config { db, ..config() }).await;
    changes_are_shown(&server).await;
    server.stop().await;
}

async fn changes_are_shown(server: &TestServer) {
    let mut ben = join(server, "tea", json!({"nick": "Ben"})).await;
    let one = say(&mut ben, "one").await;
    let two = say(&mut ben, "two").await;
    let three = say(&mut ben, "a secret").await;
    let ada = Browser::open(&url(server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("a secret").await;
    let key = ada.run("return JSON.parse(localStorage.getItem('chinwag.key'))").await;
    let mut other_ada = join(server, "tea", json!({"key": key})).await;
    ada.painted().await;
    watch(&ada).await;

    edit(&mut ben, two, "`two`, @Ada, see https://x.example/").await;
    delete(&mut ben, three).await;
    react(&mut ben, one, "👍", true).await;
    react(&mut ben, one, "🎉", true).await;
    react(&mut other_ada, one, "🎉", true).await;
    let edited = json!(["", "two, @Ada, see https://x.example/ (edited)"]);
    let deleted = json!(["", "message deleted"]);
    let reacted = json!(["", "one", "🎉 2 (2 people, including you, mine)", "👍 1 (1 person)"]);
    shows(&ada, "", json!([reacted, edited, deleted])).await;
    assert_eq!(ada.run("return [...live]").await, json!(["off"]), "changes are announced");
    ada.until("watched.length === 3 && watched.every((article) => article.isConnected)").await;
    ada.until("document.title === '#tea · chinwag'").await;
    ada.until("!document.documentElement.outerHTML.includes('a secret')").await;
    let mark = "document.querySelector('.text time')";
    ada.until(&format!("{mark}.closest('.entry:not(.first)')")).await;
    ada.until(&format!("{mark}.title.length > 10 && !isNaN(new Date({mark}.dateTime))")).await;
    ada.until("document.querySelector('.text .mention.me').textContent === '@Ada'").await;
    ada.until("document.querySelector('.text a').href === 'https://x.example/'").await;

    let four = reply(&mut ben, one, "four").await;
    reply(&mut ben, three, "five").await;
    set_topic(&mut ben, "Green or black?").await;
    let replies = json!(["Reply to Ben one", "four"]);
    let orphan = json!(["Reply to an earlier message", "five"]);
    let all = json!([reacted, edited, deleted, replies, orphan]);
    shows(&ada, "Green or black?", all.clone()).await;
    let note = "[...document.querySelectorAll('.note')].at(-1)?.textContent";
    ada.until(&format!("{note} === 'Ben changed the topic to: Green or black?'")).await;
    ada.is_accessible("changes").await;

    ada.page.refresh().await.unwrap();
    shows(&ada, "Green or black?", all).await;
    ada.until("!document.documentElement.outerHTML.includes('a secret')").await;
    watch(&ada).await;

    ada.run(OFFLINE).await;
    ada.until("!document.querySelector('#banner').hidden").await;
    edit(&mut ben, one, "ONE").await;
    delete(&mut ben, two).await;
    react(&mut ben, one, "👍", false).await;
    react(&mut other_ada, one, "🎉", false).await;
    react(&mut other_ada, four, "🫖", true).await;
    set_topic(&mut ben, "").await;
    say(&mut ben, "six").await;
    ada.run(ONLINE).await;
    let one_again = json!(["", "ONE (edited)", "🎉 1 (1 person)"]);
    let four_again = json!(["Reply to Ben ONE", "four", "🫖 1 (You, mine)"]);
    let all = json!([one_again, deleted, deleted, four_again, orphan, ["", "six"]]);
    shows(&ada, "", all).await;
    ada.until(&format!("{note} === 'Ben removed the topic.'")).await;
    ada.until("watched.length === 5 && watched.every((article) => article.isConnected)").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn changes_in_another_room_do_not_count_as_unread() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let one = say(&mut ben, "one").await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("one").await;
    ada.say("/join milk").await;
    ada.until("location.pathname === '/r/milk'").await;
    edit(&mut ben, one, "@Ada").await;
    react(&mut ben, one, "👍", true).await;
    set_topic(&mut ben, "Tea for @Ada").await;
    say(&mut ben, "two").await;
    let badge = "document.querySelector('#room-list .badge:not([hidden]) [aria-hidden]')";
    ada.until(&format!("{badge}?.textContent === '1'")).await;
    ada.say("/join tea").await;
    let edited = json!(["", "@Ada (edited)", "👍 1 (1 person)"]);
    shows(&ada, "Tea for @Ada", json!([edited, ["", "two"]])).await;
    ada.until("document.querySelector('.unread').closest('.entry').textContent.includes('two')")
        .await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn changes_above_do_not_move_the_visible_messages() {
    let server = TestServer::start_with(Config { resume_buffer: 500, ..config() }).await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let mut messages = Vec::new();
    for n in 0..80 {
        messages.push(say(&mut ben, &format!("line {n}.")).await);
    }
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("line 79.").await;
    let element = |n: usize| format!("document.querySelector('[data-seq=\"{}\"]')", messages[n]);
    let top = format!("return {}.getBoundingClientRect().top", element(30));
    ada.run(&format!("{}.scrollIntoView()", element(30))).await;
    ada.painted().await;
    let to_end = "(log => log.scrollHeight - log.scrollTop - log.clientHeight)(
        document.querySelector('#log'))";
    ada.until(&format!("{to_end} > 100")).await;
    let before = ada.run(&top).await.as_f64().unwrap();
    edit(&mut ben, messages[10], &"many words ".repeat(60)).await;
    react(&mut ben, messages[11], "👍", true).await;
    delete(&mut ben, messages[12]).await;
    react(&mut ben, messages[40], "👍", true).await;
    ada.until(&format!("{}.querySelector('.reactions')", element(40))).await;
    ada.until(&format!("{}.querySelector('.text').clientHeight > 60", element(10))).await;
    let after = ada.run(&top).await.as_f64().unwrap();
    assert!((before - after).abs() < 1.0, "{before}, {after}");
    // At its end the list stays at its end.
    ada.run("document.querySelector('#log').scrollTop = 1e6").await;
    ada.painted().await;
    edit(&mut ben, messages[79], &"many words ".repeat(60)).await;
    ada.until(&format!("{}.querySelector('.text').clientHeight > 60", element(79))).await;
    ada.until(&format!("{to_end} < 4")).await;
    ada.until("document.querySelector('#newer').hidden").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn changes_are_accessible_on_desktop_and_phone_in_both_themes() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let mut cleo = join(&server, "tea", json!({"nick": "Cleo"})).await;
    set_topic(&mut ben, "Green or black? Bring your own cup, and something sweet for all.").await;
    let question = say(&mut ben, "Has anybody tried the new build?").await;
    let edited = say(&mut ben, "It starts in no tme, @Cleo.").await;
    edit(&mut ben, edited, "It starts in no time, @Cleo.").await;
    let mistake = say(&mut cleo, "What?").await;
    delete(&mut cleo, mistake).await;
    let answer = reply(&mut cleo, question, "Yes! Tea at four?").await;
    react(&mut ben, question, "👍", true).await;
    react(&mut ben, answer, "🫖", true).await;
    let looks = [Look::Light, Look::Dark, Look::Phone];
    for (look, nick) in looks.into_iter().zip(["Ada", "Eve", "Kim"]) {
        let window = Browser::open_as(look, &url(&server, "/r/tea")).await;
        window.is_called(nick).await;
        window.has_line("Yes! Tea at four?").await;
        let key = window.run("return JSON.parse(localStorage.getItem('chinwag.key'))").await;
        react(&mut join(&server, "tea", json!({"key": key})).await, answer, "🫖", true).await;
        window.until("document.querySelector('.reactions [aria-pressed=true]')").await;
        window.is_accessible(&format!("changes, {look:?}")).await;
        window.until("document.documentElement.scrollWidth <= innerWidth").await;
        window.picture(&format!("changes-{look:?}").to_lowercase()).await;
        window.close().await;
    }
}
