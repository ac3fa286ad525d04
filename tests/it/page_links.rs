//! Links to messages in the page, and the history around an old message.

use chinwag::Config;
use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::browser::{Browser, Look, url};
use crate::harness::{TestServer, config};
use crate::json::JsonClient;
use crate::page_changes::{OFFLINE, ONLINE, delete, edit, join, react, reply, say};

/// Sends 400 messages, `line 0` to `line 399`, and returns their sequence numbers.
async fn fill(client: &mut JsonClient) -> Vec<u64> {
    let mut seqs = Vec::new();
    for n in 0..400 {
        seqs.push(say(client, &format!("line {n}")).await);
    }
    seqs
}

/// Returns the numbers of the lines that are shown, in their order.
async fn lines(window: &Browser) -> Vec<u64> {
    let script = "return [...document.querySelectorAll('#entries .text')]
        .map((text) => Number(text.textContent.match(/^line (\\d+)/)?.[1] ?? NaN))
        .filter((number) => !isNaN(number))";
    let found = window.run(script).await;
    found.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

/// Checks that no line is missing between the first and the last one that are shown.
async fn has_no_gap(window: &Browser) {
    let shown = lines(window).await;
    let expected: Vec<_> = (shown[0]..=*shown.last().unwrap()).collect();
    assert_eq!(shown, expected);
}

/// Waits until a message has the focus and is visible.
async fn is_at(window: &Browser, seq: u64) {
    let script = format!(
        "(() => {{
            const article = document.querySelector(\"[data-seq='{seq}'] article\");
            const at = article?.getBoundingClientRect();
            return article?.matches('.target') && article === document.activeElement &&
                at.top >= 0 && at.bottom <= innerHeight;
        }})()"
    );
    window.until(&script).await;
}

async fn status(window: &Browser, words: &str) {
    let shown = "document.querySelector('#status').textContent";
    window.until(&format!("{shown}.includes({})", json!(words))).await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn quote_leads_to_an_old_message_and_the_history_has_no_gap() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let seqs = fill(&mut ben).await;
    reply(&mut ben, seqs[150], "line 400: an answer").await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("line 400: an answer").await;
    ada.click(".quote").await;
    is_at(&ada, seqs[150]).await;
    ada.until("location.hash !== ''").await;
    has_no_gap(&ada).await;
    let jump = "document.querySelector('#newer').textContent === 'Jump to latest ↓'";
    ada.until(jump).await;
    ada.is_accessible("an old message").await;
    ada.picture("links-old").await;

    // New messages and changes arrive meanwhile, and are not shown in the wrong place.
    say(&mut ben, "line 401").await;
    edit(&mut ben, seqs[151], "line 151, edited").await;
    ada.until("document.querySelector('#newer').textContent === '1 new message ↓'").await;
    ada.has_line("line 151, edited (edited)").await;
    assert!(*lines(&ada).await.last().unwrap() < 300);
    has_no_gap(&ada).await;

    // The history loads in both directions, until it reaches the latest messages.
    for _ in 0..100 {
        ada.run("document.querySelector('#log').scrollTop -= 1500").await;
        ada.painted().await;
        has_no_gap(&ada).await;
        if lines(&ada).await[0] == 0 {
            break;
        }
    }
    assert_eq!(lines(&ada).await[0], 0);
    for _ in 0..300 {
        ada.run("document.querySelector('#log').scrollTop += 1500").await;
        ada.painted().await;
        has_no_gap(&ada).await;
        if *lines(&ada).await.last().unwrap() == 401 {
            break;
        }
    }
    ada.run("document.querySelector('#log').scrollTop = 1e6").await;
    ada.until("document.querySelector('#newer').hidden").await;
    say(&mut ben, "line 402").await;
    ada.has_line("line 402").await;
    has_no_gap(&ada).await;
    ada.until("document.querySelectorAll('#entries .day').length <= 1").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn button_returns_from_an_old_message_to_the_latest() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let seqs = fill(&mut ben).await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("line 399").await;
    for by_keyboard in [false, true] {
        ada.run(&format!("location.hash = '#m{}'", seqs[100])).await;
        is_at(&ada, seqs[100]).await;
        say(&mut ben, &format!("line {}", 400 + usize::from(by_keyboard))).await;
        ada.until("document.querySelector('#newer').textContent === '1 new message ↓'").await;
        if by_keyboard {
            ada.run("document.querySelector('#newer').focus()").await;
            ada.press(Key::Enter).await;
            ada.until("document.activeElement.id === 'text'").await;
        } else {
            ada.click("#newer").await;
        }
        ada.has_line(&format!("line {}", 400 + usize::from(by_keyboard))).await;
        ada.until("document.querySelector('#newer').hidden").await;
        has_no_gap(&ada).await;
        ada.run("location.hash = ''").await;
    }
    // An own message is shown, too.
    ada.run(&format!("location.hash = '#m{}'", seqs[100])).await;
    is_at(&ada, seqs[100]).await;
    ada.say("line 402").await;
    ada.has_line("line 402").await;
    has_no_gap(&ada).await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn link_opens_its_room_at_the_message() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let seqs = fill(&mut ben).await;
    react(&mut ben, seqs[20], "👍", true).await;
    // The first visit asks for the name first.
    let path = format!("/r/tea#m{}", seqs[20]);
    for look in [Look::Light, Look::Phone] {
        let ada = Browser::open_as(look, &url(&server, &path)).await;
        ada.is_called(if look == Look::Phone { "Kim" } else { "Ada" }).await;
        ada.has_line("line 20").await;
        ada.until("document.querySelector('.target')").await;
        ada.page.refresh().await.unwrap();
        is_at(&ada, seqs[20]).await;
        ada.until("location.hash !== ''").await;
        ada.until("document.querySelector('.target .reactions button').textContent === '👍 1'")
            .await;
        ada.is_accessible(&format!("a linked message, {look:?}")).await;
        ada.picture(&format!("links-target-{look:?}").to_lowercase()).await;
        has_no_gap(&ada).await;
        // The time of a message is its link.
        let link = ada.run("return document.querySelector('.target .head a').href").await;
        assert_eq!(link.as_str().unwrap(), url(&server, &path));
        ada.close().await;
    }
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn link_to_a_pruned_or_deleted_message_shows_that_it_is_not_available() {
    let folder = tempfile::tempdir().unwrap();
    let db = Some(folder.path().join("chat.db"));
    let server = TestServer::start_with(Config { db, keep_messages: 100, ..config() }).await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let seqs = fill(&mut ben).await;
    delete(&mut ben, seqs[330]).await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("line 399").await;
    ada.run(&format!("location.hash = '#m{}'", seqs[5])).await;
    status(&ada, "no longer available").await;
    has_no_gap(&ada).await;
    ada.run("location.hash = '#m999999'").await;
    ada.painted().await;
    ada.run(&format!("location.hash = '#m{}'", seqs[330])).await;
    status(&ada, "was deleted").await;
    is_at(&ada, seqs[330]).await;
    ada.close().await;
    server.stop().await;
}

/// The first unread message is not loaded either, so the list is empty until one of both arrives.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn link_to_a_message_that_is_gone_leads_to_the_first_unread_one() {
    let folder = tempfile::tempdir().unwrap();
    let db = Some(folder.path().join("chat.db"));
    let config = Config { db, keep_messages: 300, ..config() };
    let server = TestServer::start_with(config).await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let gone = say(&mut ben, "first").await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("first").await;
    ada.page.goto(&url(&server, "/r/milk")).await.unwrap();
    ada.connected().await;
    let seqs = fill(&mut ben).await;
    ada.page.goto(&format!("{}#m{gone}", url(&server, "/r/tea"))).await.unwrap();
    status(&ada, "no longer available").await;
    ada.until("document.querySelector('.unread') !== null").await;
    has_no_gap(&ada).await;
    let later = say(&mut ben, "line 400").await;
    ada.click("#newer").await;
    ada.has_line("line 400").await;
    assert!(later > seqs[399]);
    ada.close().await;
    server.stop().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn link_is_copied_or_shown() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let one = say(&mut ben, "one").await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("one").await;
    let replace = |write: &str| {
        format!(
            "Object.defineProperty(navigator, 'clipboard', {{
                value: {{ writeText: {write} }}, configurable: true }})"
        )
    };
    ada.run(&replace("async (text) => { window.copied = text; }")).await;
    ada.hover("article").await;
    ada.until("document.querySelector('.bar')").await;
    ada.click(".bar [aria-label='Copy link']").await;
    status(&ada, "The link was copied.").await;
    let link = url(&server, &format!("/r/tea#m{one}"));
    assert_eq!(ada.run("return window.copied").await, json!(link));
    ada.run(&replace("async () => { throw new Error('blocked'); }")).await;
    ada.hover("article .text").await;
    ada.click(".bar [aria-label='Copy link']").await;
    ada.until("document.querySelector('#copied-text')").await;
    let shown: Value = ada.run("return document.activeElement.value").await;
    assert_eq!(shown, json!(link));
    ada.is_accessible("a link that the browser did not copy").await;
    ada.close().await;
}

/// A room that keeps only its latest entries may begin with notes.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn day_line_moves_up_when_older_messages_are_loaded_above_notes() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    for n in 0..30 {
        say(&mut ben, &format!("line {n}")).await;
    }
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("line 29").await;
    let cleo = join(&server, "tea", json!({"nick": "Cleo"})).await;
    ada.until("document.querySelector('.note')?.textContent.includes('Cleo')").await;
    say(&mut ben, "line 30").await;
    ada.has_line("line 30").await;
    ada.run(
        "const done = import(document.querySelector('[src*=chat]').src);
         return done.then(({ current, log }) => {
           current.entries.splice(0, current.entries.findIndex((entry) => !('seq' in entry)));
           current.hasOlder = true;
           log.show(current);
         })",
    )
    .await;
    ada.has_line("line 29").await;
    has_no_gap(&ada).await;
    assert_eq!(lines(&ada).await.len(), 31);
    ada.until("document.querySelectorAll('#entries .day').length === 1").await;
    ada.until("document.querySelector('#entries > :first-child .day')").await;
    drop(cleo);
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn old_messages_stay_visible_and_up_to_date_after_a_reconnection() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let seqs = fill(&mut ben).await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("line 399").await;
    ada.run(&format!("location.hash = '#m{}'", seqs[100])).await;
    is_at(&ada, seqs[100]).await;
    ada.run(OFFLINE).await;
    ada.until("!document.querySelector('#banner').hidden").await;
    edit(&mut ben, seqs[101], "line 101, edited").await;
    say(&mut ben, "line 400").await;
    // What is not loaded cannot be shown now. The countdown replaces this status.
    ada.run(
        "window.statuses = [];
         new MutationObserver(() => statuses.push(document.querySelector('#status').textContent))
           .observe(document.querySelector('#status'), { childList: true })",
    )
    .await;
    ada.run(&format!("location.hash = '#m{}'", seqs[250])).await;
    ada.until("statuses.some((status) => status.includes('once you are connected'))").await;
    ada.run(&format!("location.hash = '#m{}'", seqs[102])).await;
    is_at(&ada, seqs[102]).await;
    ada.run(ONLINE).await;
    ada.has_line("line 101, edited (edited)").await;
    ada.until("document.querySelector('#newer').textContent === '1 new message ↓'").await;
    has_no_gap(&ada).await;
    ada.run(&format!("location.hash = '#m{}'", seqs[251])).await;
    is_at(&ada, seqs[251]).await;
    has_no_gap(&ada).await;
    ada.click("#newer").await;
    ada.has_line("line 400").await;
    has_no_gap(&ada).await;
    ada.close().await;
}

/// The list renders only a part of the messages, and loads more as the focus moves.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn arrow_keys_lead_through_the_whole_history_and_back() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    fill(&mut ben).await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("line 399").await;
    ada.press_with(Key::Shift, Key::Tab).await;
    ada.until("document.activeElement.closest('#log')").await;
    let line = "return document.activeElement.querySelector('.text')?.textContent ?? ''";
    for (key, end, text) in [(Key::Up, 0, "line 0"), (Key::Down, 399, "line 399")] {
        for _ in 0..2_000 {
            if ada.run(line).await == text {
                break;
            }
            ada.press(key).await;
            // The focus never leaves the list.
            ada.until("document.activeElement.closest('#log')").await;
        }
        assert_eq!(ada.run(line).await, text);
        assert!(lines(&ada).await.contains(&end));
        has_no_gap(&ada).await;
    }
    ada.close().await;
}
