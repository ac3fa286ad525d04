//! The page in a real browser: rooms, names, messages and appearance.

use std::time::Duration;

use chinwag::Config;
use fantoccini::key::Key;
use serde_json::json;
use tokio::time::sleep;

use crate::browser::{Browser, Look, url};
use crate::harness::{TestServer, config, eventually, within};
use crate::json::JsonClient;

/// Connects a client without a browser, which joins a room and sends messages, one at a time.
async fn join_and_say(server: &TestServer, room: &str, name: &str, lines: &[&str]) -> JsonClient {
    let mut client = JsonClient::hello(server.addr(), json!({"nick": name})).await;
    client.send(&[json!({"type": "join", "room": room})]).await;
    client.expect("joined").await;
    for line in lines {
        say(&mut client, room, line).await;
    }
    client
}

async fn say(client: &mut JsonClient, room: &str, text: &str) {
    client.send(&[json!({"type": "say", "room": room, "text": text})]).await;
    client.until("said").await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn browser_and_server_exchange_compressed_messages() {
    let server = TestServer::start().await;
    let words = "some words that many people say in many rooms ".repeat(20);
    let said: Vec<_> = (0..12).map(|n| format!("{n} {}", words.trim_end())).collect();
    let lines: Vec<_> = said.iter().map(String::as_str).collect();
    let mut ben = join_and_say(&server, "lobby", "Ben", &lines).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    ada.has_line(&said[0]).await;
    ada.has_line(&said[11]).await;
    ada.run(
        "window.probe = new WebSocket(location.origin.replace('http', 'ws') + '/ws', 'chinwag.v1')",
    )
    .await;
    ada.until("window.probe.extensions.includes('permessage-deflate')").await;
    say(&mut ben, "lobby", &said[7].replace('7', "seven")).await;
    ada.has_line(&said[7].replace('7', "seven")).await;
    ada.say(&said[8].replace('8', "eight")).await;
    let message = ben.until("message").await;
    assert_eq!(message["text"], said[8].replace('8', "eight"));
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn messages_never_become_markup() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("<b>Ada</b>").await;
    let ben = Browser::open(&url(&server, "/r/lobby")).await;
    ben.is_called("Ben").await;
    ada.say("hello, ben").await;
    ben.has_line("hello, ben").await;
    ada.has_line("hello, ben").await;
    ada.until("document.querySelector('#text').value === ''").await;
    let hostile = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>";
    ben.say(hostile).await;
    ben.say("javascript:alert(1) https://x.example/\"onclick=alert(1)").await;
    ben.say("/join <img src=x onerror='window.harmed=1'>").await;
    ben.until("document.querySelector('#status').textContent.includes('room name')").await;
    for window in [&ada, &ben] {
        window.has_line(hostile).await;
        window.until("!document.querySelector('main script, main img, #entries [onclick]')").await;
        window.until("!document.querySelector('#log b b')").await;
        window.until("window.harmed === undefined").await;
        window
            .until("[...document.links].every(({ protocol }) => /^https?:/.test(protocol))")
            .await;
    }
    ada.close().await;
    ben.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn rooms_and_unread_counts_survive_a_reload_and_keys_switch_rooms() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/r/Tea")).await;
    ada.is_called("Ada").await;
    ada.until("document.querySelector('#room').textContent === '# tea'").await;
    ada.type_into("#room-name", "Kaffee").await;
    ada.press(Key::Enter).await;
    ada.until("location.pathname === '/r/kaffee'").await;
    let mut ben = join_and_say(&server, "tea", "Ben", &["one", "two"]).await;
    ada.until("document.querySelector('#room-list .badge [aria-hidden]')?.textContent === '2'")
        .await;
    ada.until("document.title === '(2) #kaffee · chinwag'").await;
    say(&mut ben, "tea", "three for @ada").await;
    ada.until("document.querySelector('#room-list .badge.mention')?.textContent.startsWith('@ 3')")
        .await;

    ada.page.refresh().await.unwrap();
    ada.until("document.querySelectorAll('#room-list li').length === 2").await;
    ada.until("document.title === '(3) #kaffee · chinwag'").await;
    ada.press_with(Key::Alt, Key::Up).await;
    ada.until("location.pathname === '/r/tea'").await;
    ada.has_line("three for @ada").await;
    ada.until("document.querySelector('.unread').closest('.entry').textContent.includes('one')")
        .await;
    ada.until("document.querySelector('.mention.me').textContent === '@ada'").await;
    ada.until("document.title === '#tea · chinwag'").await;
    ada.run("history.back()").await;
    ada.until("location.pathname === '/r/kaffee'").await;
    ada.say("/leave").await;
    ada.until("location.pathname === '/r/tea'").await;
    ada.until("document.querySelectorAll('#room-list li').length === 1").await;
    eventually("the server to remove the member", async || server.rooms().await.len() == 1).await;
    ada.close().await;
}

/// If the list were rebuilt with each message, a click would be lost: the element under the pointer
/// would be replaced between the press and the release of the button.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn clicks_on_rooms_are_not_lost_while_messages_arrive() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    ada.type_into("#room-name", "coffee").await;
    ada.press(Key::Enter).await;
    ada.until("location.pathname === '/r/coffee'").await;
    let mut ben = join_and_say(&server, "tea", "Ben", &["hello"]).await;
    ben.send(&[json!({"type": "join", "room": "coffee"})]).await;
    let send_messages = async {
        for n in 0.. {
            say(&mut ben, ["tea", "coffee"][n % 2], &format!("message {n}")).await;
            // 20 messages a second.
            sleep(Duration::from_millis(50)).await;
        }
    };
    let click_rooms = async {
        for n in 0..30 {
            let room = ["tea", "coffee"][n % 2];
            ada.click_slowly(&format!("#room-list a[href$='/r/{room}']")).await;
            let is_open = format!("return location.pathname === '/r/{room}'");
            assert_eq!(ada.run(&is_open).await, true, "click {n} on {room} was lost");
        }
    };
    tokio::select! {
        () = send_messages => unreachable!("the loop is endless"),
        () = click_rooms => {}
    }
    // The room is open at its first unread message.
    ada.run("document.querySelector('#newer').hidden || document.querySelector('#newer').click()")
        .await;
    // The focus stays, too.
    ada.run("document.querySelector('#room-list a').focus()").await;
    for n in 0..5 {
        say(&mut ben, "coffee", &format!("while focused {n}")).await;
        ada.has_line(&format!("while focused {n}")).await;
    }
    ada.until("document.activeElement === document.querySelector('#room-list a')").await;
    ada.close().await;
}

/// The rate limit rejects some of the messages; sending them again must not reorder them.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn eighty_quick_messages_at_the_default_limits_arrive_in_order() {
    let limits = Config::default();
    let (publish_rate, command_rate) = (limits.publish_rate, limits.command_rate);
    let server = TestServer::start_with(Config { publish_rate, command_rate, ..config() }).await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    let mut ben = join_and_say(&server, "tea", "Ben", &[]).await;
    let say = "const text = document.querySelector('#text');
        for (let n = 0; n < 80; n++) {
            text.value = `message ${n}`;
            document.querySelector('#message-form').requestSubmit();
        }";
    ada.run(say).await;
    for n in 0..80 {
        let message = ben.until("message").await;
        assert_eq!(message["text"], format!("message {n}"));
    }
    ada.until("!document.querySelector('#pending article')").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn room_with_the_longest_name_is_joined_and_rejected_room_is_removed() {
    let server = TestServer::start_with(Config { max_rooms_per_client: Some(2), ..config() }).await;
    let long = "x".repeat(64);
    let ada = Browser::open(&url(&server, &format!("/r/{long}"))).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    ada.say("hello").await;
    ada.has_line("hello").await;
    ada.say("/join tea").await;
    ada.until("location.pathname === '/r/tea'").await;
    ada.connected().await;
    // A third room exceeds the limit: the page shows an error for a while and returns to a room.
    ada.say("/join milk").await;
    ada.until("document.querySelector('#status').textContent.startsWith('Cannot join #milk')")
        .await;
    ada.until("document.querySelectorAll('#room-list li').length === 2").await;
    ada.until("location.pathname !== '/r/milk'").await;
    ada.until("document.querySelector('#banner').hidden").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn commands_ignore_case_and_an_unknown_command_stays_in_the_field() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    for text in ["/constructor", "/toString x", "/dance"] {
        ada.type_into("#text", text).await;
        ada.press(Key::Enter).await;
        let note = format!("Unknown command: {}", text.split(' ').next().unwrap());
        let notes = "[...document.querySelectorAll('.note')].at(-1)?.textContent";
        ada.until(&format!("{notes}?.startsWith({})", json!(note))).await;
        ada.until(&format!("document.querySelector('#text').value === {}", json!(text))).await;
        ada.run("document.querySelector('#text').value = ''").await;
    }
    ada.say("/join").await;
    ada.until("[...document.querySelectorAll('.note')].at(-1).textContent.includes('/join ROOM')")
        .await;
    ada.say("/JOIN milk").await;
    ada.until("location.pathname === '/r/milk'").await;
    ada.say("/Nick Adele").await;
    ada.until("document.querySelector('#me').textContent === 'Adele'").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn name_is_chosen_and_stored_and_rejected_names_are_explained() {
    let server = TestServer::start().await;
    let _ada = join_and_say(&server, "lobby", "Ada", &[]).await;
    let window = Browser::open(&url(&server, "/")).await;
    window.connected().await;
    window.until("document.querySelector('#name-dialog')?.open").await;
    window.type_into("#name", "a: b").await;
    window.press(Key::Enter).await;
    window.until("document.querySelector('#name-problem').textContent.includes('colon')").await;
    window.run("document.querySelector('#name').value = ''").await;
    window.type_into("#name", "ada").await;
    window.press(Key::Enter).await;
    let suggests =
        "document.querySelector('#name-problem').textContent.includes('“ada-2” is available')";
    window.until(suggests).await;
    window.until("document.querySelector('#name').value === 'ada-2'").await;
    window.is_accessible("a name that is taken").await;
    window.press(Key::Enter).await;
    window.until("document.querySelector('#me').textContent === 'ada-2'").await;
    // In another room somebody has the name. Without another name the user cannot join it.
    let _other = join_and_say(&server, "tea", "Ada-2", &[]).await;
    window.say("/join tea").await;
    window.until("document.querySelector('#name-problem').textContent.includes('“ada-2-2”')").await;
    window.press(Key::Escape).await;
    window.until("document.querySelector('#status').textContent.includes('not in #tea')").await;
    window.say("/nick ada-3").await;
    window.until("document.querySelector('#member-count').textContent === '2 online'").await;
    window.until("document.querySelector('#banner').hidden").await;
    window.page.refresh().await.unwrap();
    window.until("document.querySelector('#me').textContent === 'ada-3'").await;
    window.until("!document.querySelector('#name-dialog')?.open").await;
    window.say("/nick Eve").await;
    window.until("document.querySelector('#me').textContent === 'Eve'").await;
    window.until("document.querySelector('#member-list').textContent.includes('Eve (you)')").await;
    window.say("/help").await;
    window.until("document.querySelector('#entries').textContent.includes('/join ROOM')").await;
    // An unknown command stays in the field.
    window.say("/nik Ada").await;
    window
        .until("document.querySelector('#entries').textContent.includes('Unknown command: /nik')")
        .await;
    window.until("document.querySelector('#text').value === '/nik Ada'").await;
    window.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn messages_are_grouped_dated_and_formatted() {
    let server = TestServer::start().await;
    let mut ben = join_and_say(&server, "lobby", "Ben", &["first", "second\nline"]).await;
    say(&mut ben, "lobby", "see (https://example.org/a_(b)), and `x < y` for @Ada.").await;
    say(&mut ben, "lobby", "```rust\nfn main() {}\n```").await;
    let _cleo = join_and_say(&server, "lobby", "Cleo", &["hello @ben"]).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    ada.has_line("hello @ben").await;
    ada.until("document.querySelectorAll('#entries .first').length === 2").await;
    ada.until("document.querySelectorAll('#entries .day').length === 1").await;
    ada.until("document.querySelector('.day').textContent === 'Today'").await;
    ada.until("document.querySelector('.text a').href === 'https://example.org/a_(b)'").await;
    ada.until("document.querySelector('.text a').rel.includes('noopener')").await;
    ada.until("document.querySelector('.text code').textContent === 'x < y'").await;
    ada.until("document.querySelector('.text pre').textContent === 'fn main() {}'").await;
    ada.until("document.querySelector('.mention.me').textContent === '@Ada'").await;
    ada.until("document.querySelector('.mention:not(.me)').textContent === '@ben'").await;
    ada.until("/\\d\\d:\\d\\d/.test(document.querySelector('time').textContent)").await;
    let height = "document.querySelectorAll('.text')[1].getBoundingClientRect().height";
    ada.until(&format!("{height} > 40")).await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn messages_are_grouped_within_a_day_and_five_minutes() {
    let folder = tempfile::tempdir().unwrap();
    let with_db = Config { db: Some(folder.path().join("chat.db")), ..config() };
    let server = TestServer::start_with(with_db.clone()).await;
    join_and_say(&server, "lobby", "Ben", &["long ago", "yesterday", "now", "soon after", "late"])
        .await;
    server.stop().await;
    let database = rusqlite::Connection::open(folder.path().join("chat.db")).unwrap();
    let minute = 60_000_i64;
    let ages = [40 * 24 * 60 * minute, 24 * 60 * minute, 10 * minute, 9 * minute, 3 * minute];
    for (seq, age) in (1..).zip(ages) {
        let update = "UPDATE messages SET at = at - ?1 WHERE seq = ?2";
        database.execute(update, (age, seq)).unwrap();
    }
    drop(database);
    let server = TestServer::start_with(with_db).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    ada.has_line("late").await;
    let days = ada.run("return [...document.querySelectorAll('.day')].map((p) => p.textContent)");
    let days = days.await;
    // More than three, if midnight was within the last ten minutes.
    assert!(days.as_array().unwrap().len() >= 3, "{days}");
    assert_eq!(days.as_array().unwrap().last().unwrap(), "Today");
    let first =
        "[...document.querySelectorAll('.entry')].map((e) => e.classList.contains('first'))";
    let firsts = ada.run(&format!("return {first}")).await;
    let firsts = firsts.as_array().unwrap();
    assert_eq!(firsts[..3], [json!(true), json!(true), json!(true)]);
    assert_eq!(firsts[4], json!(true), "a message six minutes later starts a group");
    ada.close().await;
    server.stop().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn day_line_is_shown_once_and_updated_after_midnight() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    let mut ben = join_and_say(&server, "lobby", "Ben", &["one"]).await;
    for n in 0..25 {
        ben.send(&[json!({"type": "nick", "nick": format!("Ben {n}")})]).await;
        ben.until("welcome").await;
    }
    say(&mut ben, "lobby", "two").await;
    ada.has_line("two").await;
    ada.until("document.querySelectorAll('.day').length === 1").await;
    ada.until("document.querySelector('.day').textContent === 'Today'").await;
    ada.run(
        "const Real = Date;
         window.Date = class extends Real {
           constructor(...at) {
             super(...(at.length > 0 ? at : [Real.now() + 24 * 60 * 60 * 1000]));
           }
         };
         document.dispatchEvent(new Event('visibilitychange'))",
    )
    .await;
    ada.until("document.querySelector('.day').textContent === 'Yesterday'").await;
    ada.close().await;
}

/// Windows of one browser share its local storage.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn two_windows_share_rooms_and_read_positions() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    let first = ada.page.window().await.unwrap();
    let second = ada.page.new_window(false).await.unwrap().handle;
    ada.page.switch_to_window(second.clone()).await.unwrap();
    ada.page.goto(&url(&server, "/r/milk")).await.unwrap();
    ada.connected().await;
    ada.say("/join cocoa").await;
    ada.until("location.pathname === '/r/cocoa'").await;
    ada.connected().await;
    ada.page.switch_to_window(first.clone()).await.unwrap();
    ada.say("/join coffee").await;
    ada.until("location.pathname === '/r/coffee'").await;
    ada.connected().await;
    let _ben = join_and_say(&server, "tea", "Ben", &["for both"]).await;
    ada.until("document.title.startsWith('(1)')").await;
    ada.page.switch_to_window(second).await.unwrap();
    ada.until("document.title.startsWith('(1)')").await;
    ada.say("/join tea").await;
    ada.has_line("for both").await;
    ada.page.switch_to_window(first).await.unwrap();
    ada.until("document.title.startsWith('#coffee')").await;
    ada.page.refresh().await.unwrap();
    ada.connected().await;
    let rooms = "return [...document.querySelectorAll('.room-name')].map((e) => e.textContent)";
    assert_eq!(ada.run(rooms).await, json!(["# tea", "# milk", "# cocoa", "# coffee"]));
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn tap_beside_a_drawer_only_closes_it() {
    let server = TestServer::start().await;
    let kim = Browser::open_as(Look::Phone, &url(&server, "/r/tea")).await;
    kim.is_called("Kim").await;
    kim.connected().await;
    kim.say("/join milk").await;
    kim.until("location.pathname === '/r/milk'").await;
    kim.connected().await;
    let _ben = join_and_say(&server, "tea", "Ben", &["hello"]).await;
    kim.until("document.querySelector('#show-rooms').textContent === '☰ 1'").await;
    kim.until("document.querySelector('#show-rooms').ariaLabel === 'Rooms, 1 unread'").await;
    kim.type_into("#text", "a draft").await;
    let is_open = "document.querySelector('#rooms').classList.contains('open')";
    kim.click("#show-rooms").await;
    kim.until(is_open).await;
    kim.is_accessible("drawer").await;
    kim.picture("drawer").await;
    // A tap where the send button is hits the backdrop.
    let tap = "const { left, top, width, height } =
          document.querySelector('#send').getBoundingClientRect();
        const hit = document.elementFromPoint(left + width / 2, top + height / 2);
        hit.click();
        return hit.id;";
    assert_eq!(kim.run(tap).await, "backdrop");
    kim.until(&format!("!{is_open}")).await;
    kim.until("document.querySelector('#text').value === 'a draft'").await;
    kim.until("document.querySelectorAll('#log article').length === 0").await;
    // Choosing the current room closes the drawer, too.
    kim.click("#show-rooms").await;
    kim.until(is_open).await;
    kim.click("#room-list a[aria-current]").await;
    kim.until(&format!("!{is_open}")).await;
    kim.close().await;
}

/// The size of the page on a phone with its keyboard open, or zoomed to 400%.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn page_is_usable_at_320_by_256_pixels() {
    let server = TestServer::start().await;
    let mut ben = join_and_say(&server, "lobby", "Ben", &["hello"]).await;
    let kim = Browser::open_as(Look::Short, &url(&server, "/")).await;
    kim.until("innerWidth === 320 && innerHeight === 256").await;
    kim.is_called("Kim").await;
    kim.connected().await;
    kim.has_line("hello").await;
    kim.say("here I am").await;
    kim.has_line("here I am").await;
    ben.until("message").await;
    kim.until("document.documentElement.scrollWidth <= innerWidth").await;
    kim.until("document.querySelector('#log').clientHeight >= 96").await;
    kim.picture("short").await;
    // The whole drawer is reachable by scrolling.
    kim.click("#show-rooms").await;
    kim.run("document.querySelector('#theme').scrollIntoView()").await;
    kim.until("document.querySelector('#theme').getBoundingClientRect().bottom <= innerHeight")
        .await;
    kim.until("document.querySelector('#theme').getBoundingClientRect().top >= 0").await;
    kim.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn keys_for_a_menu_or_a_dialog_do_not_switch_rooms() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.say("/join milk").await;
    ada.until("location.pathname === '/r/milk'").await;
    ada.run("document.querySelector('#theme').focus()").await;
    ada.press_with(Key::Alt, Key::Down).await;
    ada.press(Key::Escape).await;
    ada.painted().await;
    ada.until("location.pathname === '/r/milk'").await;
    ada.run("document.querySelector('#text').focus()").await;
    ada.click("#me").await;
    ada.until("document.querySelector('#name-dialog')?.open").await;
    ada.press_with(Key::Alt, Key::Down).await;
    ada.until("location.pathname === '/r/milk'").await;
    ada.press(Key::Escape).await;
    ada.until("!document.querySelector('#name-dialog')?.open").await;
    ada.press_with(Key::Alt, Key::Down).await;
    ada.until("location.pathname === '/r/tea'").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn text_field_grows_and_shows_remaining_bytes() {
    let server = TestServer::start_with(Config { max_message_bytes: 40, ..config() }).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    let height = "return document.querySelector('#text').clientHeight";
    let before = ada.run(height).await.as_u64().unwrap();
    ada.type_into("#text", "one").await;
    ada.press_with(Key::Shift, Key::Enter).await;
    ada.type_into("#text", "two").await;
    ada.until("document.querySelector('#text').value === 'one\\ntwo'").await;
    assert!(ada.run(height).await.as_u64().unwrap() > before);
    ada.press(Key::Enter).await;
    ada.has_line("one\ntwo").await;
    ada.until("document.querySelector('#text').value === ''").await;
    ada.type_into("#text", &"é".repeat(18)).await;
    ada.until("document.querySelector('#bytes-left').textContent === '4 bytes left'").await;
    ada.type_into("#text", "ééé").await;
    ada.until("document.querySelector('#bytes-left').textContent === '2 bytes too long'").await;
    ada.until("document.querySelector('#send').disabled").await;
    ada.is_accessible("a text that is too long").await;
    ada.press(Key::Enter).await;
    ada.until("document.querySelector('#text').value.length === 21").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn members_joins_leaves_and_typing_are_shown() {
    let server = TestServer::start().await;
    let ada = Browser::open_as(Look::Phone, &url(&server, "/")).await;
    ada.is_called("Ada").await;
    let mut ben = join_and_say(&server, "lobby", "Ben", &[]).await;
    let cleo = join_and_say(&server, "lobby", "Cleo", &[]).await;
    let note = "[...document.querySelectorAll('.note')].at(-1).textContent";
    ada.until(&format!("{note} === 'Ben and Cleo joined.'")).await;
    drop(cleo);
    ada.until(&format!("{note} === 'Ben joined.'")).await;
    ada.until("document.querySelector('#show-members').textContent === '2 online'").await;
    ada.click("#show-members").await;
    ada.until("getComputedStyle(document.querySelector('#members')).visibility === 'visible'")
        .await;
    ada.until("document.querySelector('#member-list').textContent === 'Ada (you)Ben'").await;
    ada.is_accessible("the members drawer").await;
    ada.until("document.activeElement.id === 'member-list'").await;
    ada.press(Key::Escape).await;
    ada.until("document.activeElement.id === 'show-members'").await;
    ada.until("getComputedStyle(document.querySelector('#members')).visibility === 'hidden'").await;
    ben.send(&[json!({"type": "typing", "room": "lobby"})]).await;
    ada.until("document.querySelector('#typing').textContent === 'Ben is typing…'").await;
    say(&mut ben, "lobby", "done").await;
    ada.until("document.querySelector('#typing').textContent === ''").await;
    // The server sends her own `typing` to the others.
    ada.type_into("#text", "h").await;
    assert_eq!(within("typing", ben.until("typing")).await["nick"], "Ada");
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn mention_in_another_room_shows_a_notification() {
    let server = TestServer::start().await;
    let mut ben = join_and_say(&server, "tea", "Ben", &[]).await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    // A headless browser shows no notifications.
    ada.run(
        "window.shown = []; window.Notification = class { static permission = 'granted';
         static requestPermission = async () => 'granted';
         constructor(title, { body }) { shown.push([title, body]); }
         addEventListener() {} }",
    )
    .await;
    ada.click("#notify").await;
    ada.say("/join other").await;
    ada.until("location.pathname === '/r/other'").await;
    say(&mut ben, "tea", "nothing of note").await;
    say(&mut ben, "tea", "@ada, there you are").await;
    ada.until("document.querySelector('.badge.mention')").await;
    let shown = ada.run("return window.shown").await;
    assert_eq!(shown, json!([["Ben in #tea", "@ada, there you are"]]));
    ada.until("localStorage.getItem('chinwag.notify') === 'true'").await;
    // On Android, Chromium has the constructor, but it throws. The messages must still be counted.
    ada.run(
        "window.Notification = class { static permission = 'granted';
         constructor() { throw new TypeError('Illegal constructor'); } }",
    )
    .await;
    let mention = json!({"type": "say", "room": "tea", "text": "@ada, again"});
    ben.send(&[mention.clone(), mention]).await;
    ada.until("document.querySelector('.badge').textContent.startsWith('@ 4')").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn page_is_accessible_on_desktop_and_phone_in_both_themes() {
    let server = TestServer::start().await;
    let mut ben = join_and_say(
        &server,
        "lobby",
        "Ben",
        &[
            "Has anybody tried the new build?",
            "It starts in no time. See https://example.org/notes, and `cargo run`.",
        ],
    )
    .await;
    let mut cleo = join_and_say(&server, "lobby", "Cleo", &["Just now, @ben!"]).await;
    say(&mut ben, "lobby", "```\ncargo install --path .\nchinwag --listen 0.0.0.0:8080\n```").await;
    say(&mut cleo, "lobby", "مرحبا بكم في الدردشة").await;
    let long = "A word as long as pneumonoultramicroscopicsilicovolcanoconiosis stays inside.";
    say(&mut ben, "lobby", long).await;
    say(&mut cleo, "lobby", "Then it is ready. Tea at four?").await;
    for (look, name, nick) in
        [(Look::Light, "light", "Ada"), (Look::Dark, "dark", "Eve"), (Look::Phone, "phone", "Kim")]
    {
        let window = Browser::open_as(look, &url(&server, "/")).await;
        window.is_accessible(&format!("{name}, first visit")).await;
        window.is_called(nick).await;
        window.has_line("Then it is ready. Tea at four?").await;
        window.say("/join tea").await;
        window.until("document.querySelectorAll('#room-list li').length === 2").await;
        window.is_accessible(&format!("{name}, empty room")).await;
        window.picture(&format!("empty-{name}")).await;
        window.press_with(Key::Alt, Key::Up).await;
        window.has_line("Then it is ready. Tea at four?").await;
        window.is_accessible(&format!("{name}, thread")).await;
        // The colors of names, on both backgrounds.
        window
            .run(
                "for (const place of ['entries', 'pending']) for (let n = 0; n < 12; n++) {
                   const p = document.createElement('p');
                   p.className = `probe name color-${n}`;
                   p.textContent = 'A name';
                   if (place === 'pending') p.style.background = 'var(--raised)';
                   document.getElementById(place).append(p);
                 }",
            )
            .await;
        window.is_accessible(&format!("{name}, names")).await;
        window.run("document.querySelectorAll('.probe').forEach((p) => p.remove())").await;
        window.picture(name).await;
        window.until("document.documentElement.scrollWidth <= innerWidth").await;
        let arabic =
            "[...document.querySelectorAll('.text')].find((p) => /مرحبا/.test(p.textContent))";
        window.until(&format!("getComputedStyle({arabic}).direction === 'rtl'")).await;
        // All resources come from the server.
        let resources = "performance.getEntriesByType('resource')";
        window
            .until(&format!("{resources}.every(({{ name }}) => name.startsWith(location.origin))"))
            .await;
        let color = window.run("return getComputedStyle(document.body).backgroundColor").await;
        assert_eq!(color == "rgb(22, 25, 29)", look == Look::Dark, "{color}");
        window.until("document.activeElement.id === 'text'").await;
        if look != Look::Phone {
            let mut reached = Vec::new();
            for _ in 0..20 {
                window.press(Key::Tab).await;
                let id = window.run("return document.activeElement.id").await;
                reached.push(id.as_str().unwrap_or_default().to_owned());
            }
            let controls =
                ["room-name", "me", "share", "notify", "theme", "leave", "log", "text", "send"];
            for control in controls {
                assert!(reached.iter().any(|id| id == control), "{control} in {reached:?}");
            }
            // The chosen theme overrides the system's.
            let other = if look == Look::Dark { "light" } else { "dark" };
            window
                .run(&format!(
                    "document.querySelector('#theme').value = '{other}';
                document.querySelector('#theme').dispatchEvent(new Event('change'))"
                ))
                .await;
            window.page.refresh().await.unwrap();
            window.has_line("Then it is ready. Tea at four?").await;
            let chosen = window.run("return getComputedStyle(document.body).backgroundColor").await;
            assert_ne!(chosen, color);
            window.is_accessible(&format!("{name}, switched to {other}")).await;
        } else {
            let duration = "getComputedStyle(document.querySelector('#rooms')).transitionDuration";
            window.until(&format!("{duration} === '0s'")).await;
            window.click("#show-rooms").await;
            window.until("document.querySelector('#rooms').getBoundingClientRect().x === 0").await;
            window.is_accessible("the rooms drawer").await;
            window.picture("phone-rooms").await;
        }
        window.close().await;
    }
}
