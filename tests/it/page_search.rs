//! Search and read marks in the page. Some tests answer in place of the server, to control when the
//! answers arrive.

use chinwag::Config;
use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::browser::{Browser, Look, url};
use crate::harness::{TestServer, config};
use crate::page_changes::{join, say};

/// Makes the page believe that the server has the limits `search` and `unread`, and answers
/// `search` with what `answers` in the page returns. `sent` has the commands, without `typing`.
const STUB: &str = "
    window.sent = [];
    window.answers = () => ({ type: 'search', results: [], more: false });
    window.marks = {};
    const parse = JSON.parse;
    JSON.parse = (text) => {
        const event = parse(text);
        if (event?.type === 'welcome') Object.assign(event.limits, { search: 50, unread: 1000 });
        if (event?.type === 'joined') Object.assign(event, window.marks[event.room] ?? {});
        return event;
    };
    window.receive = (socket, event) =>
        socket.dispatchEvent(new MessageEvent('message', { data: JSON.stringify(event) }));
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (data) {
        window.socket = this;
        const rest = data.split('\\n').filter((line) => {
            const command = parse(line);
            command.type === 'typing' || sent.push(command);
            if (command.type === 'search') {
                window.reply = () => {
                    const event = window.answers(command);
                    receive(this, { ...event, ref: command.ref });
                };
                window.isSlow || setTimeout(window.reply, 0);
            }
            return command.type !== 'search' && command.type !== 'read';
        });
        rest.length > 0 && send.call(this, rest.join('\\n'));
    };
    dispatchEvent(new Event('offline'));
    dispatchEvent(new Event('online'));";

/// Returns an expression for the commands of a type that the page has sent.
fn sent(kind: &str) -> String {
    format!("sent.filter(({{ type }}) => type === '{kind}')")
}

async fn status(window: &Browser, words: &str) {
    let shown = "document.querySelector('#search-status').textContent";
    window.until(&format!("{shown} === {}", json!(words))).await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn search_panel_shows_results_and_leads_to_them() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let mut seqs = Vec::new();
    for n in 0..120 {
        seqs.push(say(&mut ben, &format!("line {n} of the green tea")).await);
    }
    for (look, nick) in [(Look::Light, "Ada"), (Look::Dark, "Eve"), (Look::Phone, "Kim")] {
        let ada = Browser::open_as(look, &url(&server, "/r/tea")).await;
        ada.is_called(nick).await;
        ada.connected().await;
        ada.run(STUB).await;
        ada.connected().await;
        ada.until("!document.querySelector('#search').hidden").await;
        let answers = format!(
            "const seqs = {};
            window.answers = ({{ before = Infinity, text, from }}) => {{
                if (from === 'Nobody') return {{ type: 'search', results: [], more: false }};
                const found = seqs.map((seq, n) => [seq, n]).reverse()
                    .filter(([seq]) => seq < before);
                const results = found.slice(0, 20).map(([seq, n]) => ({{
                    room: 'tea', seq, at: 1795435316805 + n, nick: 'Ben',
                    snippet: [`line ${{n}} of the `, 'green', ' ', 'tea', ''],
                }}));
                return {{ type: 'search', results, more: found.length > 20, incomplete: true }};
            }}",
            json!(seqs)
        );
        ada.run(&answers).await;
        ada.click("#search").await;
        ada.until("document.querySelector('#search-panel')?.open").await;
        ada.until("document.activeElement.id === 'search-text'").await;
        ada.is_accessible(&format!("search, {look:?}")).await;
        ada.type_into("#search-text", "green tea").await;
        let more = "20 results so far. Not all messages were searched: there may be more.";
        status(&ada, more).await;
        ada.until("document.querySelectorAll('#search-results mark').length === 40").await;
        ada.until("document.querySelector('#search-results').textContent.includes('# tea')").await;
        ada.is_accessible(&format!("results, {look:?}")).await;
        ada.picture(&format!("search-{look:?}").to_lowercase()).await;
        // A pause in the typing, not each key, starts a search.
        let searches = ada.run(&format!("return {}.length", sent("search"))).await;
        assert!(searches.as_u64().unwrap() < 5, "{searches}");
        let last = format!("return {}.at(-1)", sent("search"));
        let command: Value = ada.run(&last).await;
        assert_eq!([&command["text"], &command["room"]], ["green tea", "tea"]);

        ada.click("#search-more").await;
        ada.until("document.querySelectorAll('#search-results li').length === 40").await;
        assert_eq!(ada.run(&last).await["before"], json!(seqs[100]));
        ada.run("document.querySelector('#search-scope').selectedIndex = 1").await;
        ada.type_into("#search-from", "Nobody").await;
        status(&ada, "No results.").await;
        let command = ada.run(&last).await;
        assert_eq!([&command["room"], &command["from"]], [&Value::Null, &json!("Nobody")]);
        ada.run("document.querySelector('#search-from').value = ''").await;
        ada.run("document.querySelector('#search-text').focus()").await;
        ada.press(Key::Enter).await;
        status(&ada, more).await;

        // Escape closes the panel, and the focus returns.
        ada.press(Key::Escape).await;
        ada.until("!document.querySelector('#search-panel').open").await;
        ada.until("document.activeElement.id === 'search'").await;
        ada.press(Key::Enter).await;
        ada.until("document.querySelector('#search-panel').open").await;
        ada.until("document.querySelectorAll('#search-results li').length === 20").await;
        ada.click("#search-more").await;
        ada.until("document.querySelectorAll('#search-results li').length === 40").await;
        ada.run("document.querySelector('#search-text').focus()").await;
        // The arrow keys lead to a result, and Enter to its message.
        ada.press(Key::Down).await;
        for _ in 0..19 {
            ada.press(Key::Down).await;
        }
        ada.press(Key::Enter).await;
        let target = format!("document.activeElement.closest('[data-seq=\"{}\"]')", seqs[100]);
        ada.until(&target).await;
        ada.until("!document.querySelector('#search-panel').open").await;
        ada.until("document.documentElement.scrollWidth <= innerWidth").await;
        ada.close().await;
    }
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn search_has_one_request_at_a_time_and_ignores_late_answers() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    ada.run(STUB).await;
    ada.connected().await;
    ada.run(
        "window.isSlow = true;
         window.answers = ({ text }) => ({ type: 'search', more: false, results: [
             { room: 'tea', seq: 1, at: 0, nick: text, snippet: ['', text] }] })",
    )
    .await;
    // `/` opens the panel, unless the focus is in a field.
    ada.type_into("#text", "/").await;
    ada.until("document.querySelector('#text').value === '/'").await;
    ada.run("document.querySelector('#text').value = ''").await;
    ada.run("document.querySelector('#log').focus()").await;
    ada.page.perform_actions(slash()).await.unwrap();
    ada.until("document.querySelector('#search-panel')?.open").await;
    ada.type_into("#search-text", "one").await;
    ada.until(&format!("{}.length === 1", sent("search"))).await;
    ada.run("window.first = window.reply").await;
    ada.press(Key::End).await;
    ada.type_into("#search-text", " two").await;
    status(&ada, "Searching…").await;
    // Longer than the pause after which a search starts.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    ada.until(&format!("{}.length === 1", sent("search"))).await;
    ada.run("window.first()").await;
    ada.until(&format!("{}.length === 2", sent("search"))).await;
    assert_eq!(ada.run("return document.querySelectorAll('#search-results li').length").await, 0);
    ada.run("window.reply()").await;
    ada.until("document.querySelector('#search-results b')?.textContent === 'one two'").await;
    // An error is shown.
    ada.run(
        "window.isSlow = false;
         window.answers = () => ({ type: 'error', code: 'busy', temporary: true,
             message: 'too many searches; try again later' })",
    )
    .await;
    ada.press(Key::Enter).await;
    status(&ada, "Too many searches; try again later.").await;
    ada.is_accessible("an error of a search").await;
    ada.close().await;
}

fn slash() -> fantoccini::actions::KeyActions {
    use fantoccini::actions::{InputSource, KeyAction, KeyActions};
    KeyActions::new("keys".into())
        .then(KeyAction::Down { value: '/' })
        .then(KeyAction::Up { value: '/' })
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn search_is_hidden_if_the_server_cannot_search() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    ada.until("document.querySelector('#search').hidden").await;
    ada.say("/search tea").await;
    ada.until("document.querySelector('#status').textContent === 'This server cannot search.'")
        .await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn unread_line_and_badges_come_from_the_server() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let mut seqs = Vec::new();
    for n in 0..10 {
        seqs.push(say(&mut ben, &format!("line {n}")).await);
    }
    let ada = Browser::open(&url(&server, "/r/milk")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    ada.run("localStorage.setItem('chinwag.rooms', '[\"milk\", \"cocoa\"]')").await;
    ada.run(STUB).await;
    ada.connected().await;
    let marks = json!({"tea": {
        "read": seqs[6], "unread": 1000, "first_unread": seqs[7], "mentions": 2,
    }});
    ada.run(&format!("window.marks = {marks}")).await;
    ada.run(
        "document.querySelector('#room-name').value = 'tea';
         document.querySelector('#join-form').requestSubmit()",
    )
    .await;
    ada.until("location.pathname === '/r/tea'").await;
    let line = "document.querySelector('.unread')?.closest('[data-seq]').dataset.seq";
    ada.until(&format!("{line} === '{}'", seqs[7])).await;
    // The end was shown, so the page tells the server.
    ada.until(&format!("{}.at(-1)?.seq === {}", sent("read"), seqs[9])).await;
    ada.until("document.title === '#tea · chinwag'").await;
    // The next messages are read, too; the page tells it at most every three seconds.
    for n in 10..20 {
        say(&mut ben, &format!("line {n}")).await;
    }
    ada.has_line("line 19").await;
    let reads = format!("return {}.length", sent("read"));
    assert!(ada.run(&reads).await.as_u64().unwrap() <= 2);
    ada.until(&format!("{line} === '{}'", seqs[7])).await;
    // It tells it at once when the room is left.
    let before = ada.run(&reads).await.as_u64().unwrap();
    ada.say("/join milk").await;
    ada.until("location.pathname === '/r/milk'").await;
    ada.until(&format!("{}.length > {before} || {before} === 2", sent("read"))).await;

    // Messages in another room are unread, until another device has read them.
    let last = say(&mut ben, "for @Ada").await;
    ada.until("document.querySelector('.badge.mention')?.textContent.startsWith('@ 1')").await;
    ada.run(&format!("receive(socket, {{ type: 'read', room: 'tea', seq: {last} }})")).await;
    ada.until("!document.querySelector('.badge:not([hidden])')").await;
    ada.until("document.title === '#milk · chinwag'").await;

    // After a reconnection the server's counts are shown.
    let next = say(&mut ben, "unread").await;
    let marks = json!({"tea": {
        "read": last, "unread": 1000, "first_unread": next, "mentions": 1,
    }});
    ada.run(&format!("window.marks = {marks}")).await;
    ada.run("dispatchEvent(new Event('offline')); dispatchEvent(new Event('online'))").await;
    ada.until("document.querySelector('.badge.mention')?.textContent.startsWith('@ 1000+')").await;
    ada.close().await;
}

/// The reply to `join` has only the latest messages.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn room_opens_at_the_first_unread_message_even_if_it_is_old() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let mut seqs = Vec::new();
    for n in 0..200 {
        seqs.push(say(&mut ben, &format!("line {n}")).await);
    }
    let ada = Browser::open(&url(&server, "/r/milk")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    ada.run(STUB).await;
    ada.connected().await;
    let marks = json!({"tea": {"read": seqs[49], "unread": 150, "first_unread": seqs[50]}});
    ada.run(&format!("window.marks = {marks}")).await;
    ada.say("/join tea").await;
    let line = "document.querySelector('.unread')?.closest('[data-seq]').dataset.seq";
    ada.until(&format!("{line} === '{}'", seqs[50])).await;
    ada.until("document.querySelector('.unread').getBoundingClientRect().top > 0").await;
    ada.until("document.title === '(150) #tea · chinwag'").await;
    ada.until("document.activeElement.id === 'text'").await;
    // What is below is not read yet.
    let reads = "sent.filter(({ type, room }) => type === 'read' && room === 'tea')";
    assert_eq!(ada.run(&format!("return {reads}.length")).await, 0);
    ada.click("#newer").await;
    ada.has_line("line 199").await;
    ada.until(&format!("{reads}.at(-1)?.seq === {}", seqs[199])).await;
    ada.until("document.title === '#tea · chinwag'").await;
    ada.close().await;
}

/// The page of an older version cannot load the history around the first unread message.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn room_opens_at_its_end_if_the_page_cannot_load_the_first_unread_message() {
    let folder = tempfile::tempdir().unwrap();
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("static");
    for file in std::fs::read_dir(page).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    std::fs::remove_file(folder.path().join("jump.js")).unwrap();
    let static_dir = Some(folder.path().to_owned());
    let server = TestServer::start_with(Config { static_dir, ..config() }).await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let first = say(&mut ben, "line 0").await;
    for n in 1..100 {
        say(&mut ben, &format!("line {n}")).await;
    }
    let ada = Browser::open(&url(&server, "/r/milk")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    ada.run(STUB).await;
    ada.connected().await;
    let marks = json!({"tea": {"read": first, "unread": 99, "first_unread": first + 1}});
    ada.run(&format!("window.marks = {marks}")).await;
    ada.say("/join tea").await;
    ada.has_line("line 99").await;
    say(&mut ben, "line 100").await;
    ada.has_line("line 100").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn nothing_is_marked_as_read_while_the_window_is_hidden() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    say(&mut ben, "one").await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("one").await;
    ada.run(STUB).await;
    ada.connected().await;
    ada.run(
        "Object.defineProperty(document, 'hidden', { get: () => true, configurable: true });
         document.dispatchEvent(new Event('visibilitychange')); sent.length = 0",
    )
    .await;
    let two = say(&mut ben, "two").await;
    ada.has_line("two").await;
    ada.until("document.title.startsWith('(1)')").await;
    assert_eq!(ada.run(&format!("return {}.length", sent("read"))).await, 0);
    ada.run(
        "Object.defineProperty(document, 'hidden', { get: () => false });
         document.dispatchEvent(new Event('visibilitychange'))",
    )
    .await;
    ada.until(&format!("{}.at(-1)?.seq === {two}", sent("read"))).await;
    ada.until("document.title === '#tea · chinwag'").await;
    ada.close().await;
}

/// Starts a server with a history file, which search and read marks need.
async fn start_with_file(folder: &tempfile::TempDir) -> TestServer {
    let db = Some(folder.path().join("chat.db"));
    TestServer::start_with(Config { db, ..config() }).await
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn search_of_the_server_finds_an_old_message_in_another_room() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_with_file(&folder).await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let needle = say(&mut ben, "A needle in the haystack").await;
    for n in 0..200 {
        say(&mut ben, &format!("hay {n}")).await;
    }
    let ada = Browser::open(&url(&server, "/r/milk")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    ada.say("/search NEEDLE").await;
    ada.until("document.querySelector('#search-panel')?.open").await;
    ada.run(
        "const scope = document.querySelector('#search-scope');
         scope.selectedIndex = 1;
         scope.dispatchEvent(new Event('input', { bubbles: true }))",
    )
    .await;
    status(&ada, "1 result.").await;
    ada.until("document.querySelector('#search-results mark').textContent === 'needle'").await;
    ada.click("#search-results a").await;
    ada.until("location.pathname === '/r/tea'").await;
    ada.until(&format!("document.activeElement.closest('[data-seq=\"{needle}\"]')")).await;
    ada.close().await;
    server.stop().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn reading_on_one_device_clears_the_badge_on_another() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_with_file(&folder).await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let laptop = Browser::open(&url(&server, "/r/tea")).await;
    laptop.is_called("Ada").await;
    laptop.connected().await;
    // The server keeps marks of rooms that have messages.
    say(&mut ben, "zero").await;
    laptop.has_line("zero").await;
    laptop.say("/join milk").await;
    laptop.until("location.pathname === '/r/milk'").await;
    let key = laptop.run("return localStorage.getItem('chinwag.key')").await;
    say(&mut ben, "one").await;
    say(&mut ben, "two for @Ada").await;
    let badge = "document.querySelector('.badge.mention:not([hidden])')?.textContent";
    laptop.until(&format!("{badge}?.startsWith('@ 2')")).await;
    let phone = Browser::open_as(Look::Phone, &url(&server, "/r/milk")).await;
    let script = format!(
        "localStorage.setItem('chinwag.key', {key});
         localStorage.setItem('chinwag.asked', 'true');
         localStorage.setItem('chinwag.rooms', '[\"milk\", \"tea\"]')"
    );
    phone.run(&script).await;
    phone.page.refresh().await.unwrap();
    phone.connected().await;
    // The phone never saw the room, so the server tells it what is unread.
    phone.until(&format!("{badge}?.startsWith('@ 2')")).await;
    phone.say("/join tea").await;
    phone.has_line("two for @Ada").await;
    let line = "document.querySelector('.unread')?.closest('.entry').textContent";
    phone.until(&format!("{line}?.includes('one')")).await;
    laptop.until("!document.querySelector('.badge:not([hidden])')").await;
    laptop.until("document.title === '#milk · chinwag'").await;
    laptop.close().await;
    phone.close().await;
    server.stop().await;
}
