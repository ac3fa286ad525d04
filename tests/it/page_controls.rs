//! Message actions in the page: react, reply, edit, delete. By mouse, keyboard and touch, while
//! another user sees the changes and a third one sends messages.

use std::future::pending;
use std::time::Duration;

use chinwag::Config;
use fantoccini::key::Key;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::browser::{Browser, Look, url};
use crate::harness::{TestServer, config};
use crate::json::JsonClient;
use crate::page_changes::{OFFLINE, ONLINE, delete, join, react, say};

/// Runs the steps of a test while a client sends five messages a second to the room. It stops after
/// 150, since each one makes the page slower on a busy machine.
async fn while_somebody_talks(server: &TestServer, steps: impl Future<Output = ()>) {
    let mut dora = join(server, "tea", json!({"nick": "Dora"})).await;
    let talk = async {
        for n in 0..150 {
            say(&mut dora, &format!("chatter {n}")).await;
            // Five messages a second.
            sleep(Duration::from_millis(200)).await;
        }
        pending().await
    };
    tokio::select! {
        () = talk => {}
        () = steps => {}
    }
}

/// Opens the room `tea` in a window.
async fn open(server: &TestServer, look: Look, nick: &str) -> Browser {
    let window = Browser::open_as(look, &url(server, "/r/tea")).await;
    window.is_called(nick).await;
    window.connected().await;
    window
}

/// Sends a message in the page, and returns its sequence number.
async fn say_in(window: &Browser, text: &str) -> u64 {
    window.say(text).await;
    window.has_line(text).await;
    let found = format!(
        "return Number([...document.querySelectorAll('#entries .text')]
           .find((each) => each.textContent === {}).closest('[data-seq]').dataset.seq)",
        json!(text)
    );
    window.run(&found).await.as_u64().unwrap()
}

fn article(seq: u64) -> String {
    format!("[data-seq='{seq}'] article")
}

/// Returns an expression for the text of a message.
fn text_of(seq: u64) -> String {
    format!("document.querySelector(\"{} :is(.text, .deleted)\")?.textContent", article(seq))
}

/// Returns an expression for the reactions to a message, own ones with an asterisk.
fn reactions(seq: u64) -> String {
    format!(
        "[...document.querySelectorAll(\"{} .reactions button\")]
           .map((each) => each.textContent + (each.ariaPressed === 'true' ? '*' : '')).join()",
        article(seq)
    )
}

async fn shows(window: &Browser, expression: &str, expected: &str) {
    window.until(&format!("{expression} === {}", json!(expected))).await;
}

/// Waits until the element with the focus matches a selector.
async fn focused(window: &Browser, selector: &str) {
    window.until(&format!("document.activeElement.matches({})", json!(selector))).await;
}

/// Fills the room, and scrolls a window to a message in the middle, which then stays in its place.
async fn scroll_to(window: &Browser, seq: u64) {
    let script = format!(
        "document.querySelector(\"{}\").scrollIntoView({{ block: 'center' }})",
        article(seq)
    );
    window.run(&script).await;
    window.painted().await;
    let is_following = "(log => log.scrollHeight - log.scrollTop - log.clientHeight < 4)(
        document.querySelector('#log'))";
    window.until(&format!("!{is_following}")).await;
}

async fn fill(client: &mut JsonClient) {
    for n in 0..40 {
        say(client, &format!("line {n}")).await;
    }
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn mouse_reacts_edits_deletes_and_replies_while_others_talk() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    fill(&mut ben).await;
    let question = say(&mut ben, "Tea at four?").await;
    let ada = open(&server, Look::Light, "Ada").await;
    let cleo = open(&server, Look::Light, "Cleo").await;
    let own = say_in(&ada, "helo").await;
    fill(&mut ben).await;
    ada.has_line("line 39").await;
    scroll_to(&ada, own).await;
    scroll_to(&cleo, own).await;
    while_somebody_talks(&server, async {
        // Others' messages have no controls to edit and delete them.
        ada.hover(&article(question)).await;
        let entry = format!("[data-seq='{question}'] > .bar");
        ada.until(&format!("document.querySelector(\"{entry}\")")).await;
        let labels = "return [...document.querySelectorAll('.bar button:not([hidden])')]
                        .map((button) => button.ariaLabel)";
        assert_eq!(ada.run(labels).await, json!(["React", "Reply", "Copy link"]));
        ada.hover(&article(own)).await;
        ada.until(&format!("document.querySelector(\"[data-seq='{own}'] > .bar\")")).await;
        let all = json!(["React", "Reply", "Edit", "Delete", "Copy link"]);
        assert_eq!(ada.run(labels).await, all);
        ada.is_accessible("the bar").await;
        ada.picture("controls-bar").await;

        ada.click(".bar [aria-label=React]").await;
        ada.until("document.querySelector('dialog.actions')?.open").await;
        ada.is_accessible("the emoji").await;
        ada.picture("controls-emoji").await;
        ada.click(".emoji button:nth-child(4)").await;
        shows(&ada, &reactions(own), "🎉 1*").await;
        shows(&cleo, &reactions(own), "🎉 1").await;
        // The focus stays in the text field.
        focused(&ada, "#text").await;
        cleo.click(&format!("{} .reactions button", article(own))).await;
        shows(&ada, &reactions(own), "🎉 2*").await;
        ada.click(&format!("{} .reactions button", article(own))).await;
        shows(&ada, &reactions(own), "🎉 1").await;
        shows(&cleo, &reactions(own), "🎉 1*").await;

        ada.type_into("#text", "a draft").await;
        ada.hover(&article(own)).await;
        ada.click(".bar [aria-label=Edit]").await;
        shows(&ada, "document.querySelector('#text').value", "helo").await;
        shows(&ada, "document.querySelector('#composing-about').innerText", "Editing helo").await;
        shows(&ada, "document.querySelector('#send').textContent", "Save").await;
        ada.is_accessible("editing").await;
        ada.picture("controls-editing").await;
        ada.run("document.querySelector('#text').value = ''").await;
        ada.type_into("#text", "hello").await;
        ada.click("#send").await;
        shows(&cleo, &text_of(own), "hello (edited)").await;
        shows(&ada, &text_of(own), "hello (edited)").await;
        shows(&ada, "document.querySelector('#text').value", "a draft").await;
        shows(&ada, "document.querySelector('#send').textContent", "Send").await;
        ada.until("document.querySelector('#composing').hidden").await;
        let title = "document.querySelector('.text time').title.length > 10";
        ada.until(title).await;

        ada.hover(&article(own)).await;
        ada.click(".bar [aria-label=Delete]").await;
        ada.until("document.querySelector('dialog.actions[role=alertdialog]')?.open").await;
        ada.is_accessible("the confirmation").await;
        ada.picture("controls-delete").await;
        ada.click("dialog.actions menu button:first-child").await;
        ada.until("!document.querySelector('dialog.actions')").await;
        shows(&ada, &text_of(own), "hello (edited)").await;
        ada.hover(&article(own)).await;
        ada.click(".bar [aria-label=Delete]").await;
        ada.click("dialog.actions .danger").await;
        shows(&cleo, &text_of(own), "message deleted").await;
        shows(&ada, &text_of(own), "message deleted").await;

        ada.run("document.querySelector('#text').value = ''").await;
        ada.hover(&article(question)).await;
        ada.click(".bar [aria-label=Reply]").await;
        let about = "document.querySelector('#composing-about').innerText";
        shows(&ada, about, "Reply to Ben Tea at four?").await;
        ada.is_accessible("replying").await;
        ada.picture("controls-replying").await;
        ada.click("#composing button").await;
        ada.until("document.querySelector('#composing').hidden").await;
        ada.hover(&article(question)).await;
        ada.click(".bar [aria-label=Reply]").await;
        ada.say("At five.").await;
        // Others have talked meanwhile, so the page may have to load newer messages several times.
        let quote = "(document.querySelector('#log').scrollTop = 1e6,
                       [...document.querySelectorAll('.quote')].at(-1)?.textContent)";
        shows(&cleo, quote, "Reply to Ben Tea at four?").await;
        ada.until("document.querySelector('#composing').hidden").await;
    })
    .await;
    ada.close().await;
    cleo.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn keyboard_reacts_edits_deletes_and_replies_while_others_talk() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let question = say(&mut ben, "Tea at four?").await;
    let ada = open(&server, Look::Light, "Ada").await;
    let cleo = open(&server, Look::Light, "Cleo").await;
    let own = say_in(&ada, "helo").await;
    while_somebody_talks(&server, async {
        // ↑ in the empty field edits the last own message, Escape cancels.
        focused(&ada, "#text").await;
        ada.press(Key::Up).await;
        shows(&ada, "document.querySelector('#text').value", "helo").await;
        ada.press(Key::Escape).await;
        shows(&ada, "document.querySelector('#text').value", "").await;
        ada.until("document.querySelector('#composing').hidden").await;
        ada.press(Key::Up).await;
        shows(&ada, "document.querySelector('#text').value", "helo").await;
        ada.type_into("#text", "!").await;
        ada.press(Key::Enter).await;
        shows(&cleo, &text_of(own), "helo! (edited)").await;
        focused(&ada, "#text").await;

        // Shift+Tab moves the focus to the messages, and the arrow keys move it between them.
        ada.press_with(Key::Shift, Key::Tab).await;
        ada.until("document.activeElement.closest('#log')").await;
        for _ in 0..200 {
            let is_there = format!("return document.activeElement.matches(\"{}\")", article(own));
            if ada.run(&is_there).await == true {
                break;
            }
            ada.press(Key::Up).await;
        }
        focused(&ada, &article(own)).await;
        ada.until(&format!("document.querySelector(\"[data-seq='{own}'] > .bar\")")).await;
        ada.until("document.activeElement.ariaLabel.endsWith(': helo!')").await;
        // The bar is the next tab stop, and the arrow keys move in it.
        ada.press(Key::Tab).await;
        focused(&ada, ".bar [aria-label=React]").await;
        ada.press(Key::Enter).await;
        ada.until("document.querySelector('dialog.actions')?.open").await;
        focused(&ada, ".emoji button").await;
        ada.press(Key::Right).await;
        ada.press(Key::Enter).await;
        shows(&cleo, &reactions(own), "❤️ 1").await;
        focused(&ada, &article(own)).await;
        // → moves the focus past the time to the reaction, and Space removes it.
        ada.press(Key::Right).await;
        focused(&ada, "a[href^='#m']").await;
        ada.press(Key::Enter).await;
        ada.until(&format!("location.hash === '#m{own}'")).await;
        focused(&ada, &format!("{}.target", article(own))).await;
        ada.press(Key::Right).await;
        ada.press(Key::Right).await;
        focused(&ada, ".reactions button").await;
        ada.press(Key::Space).await;
        shows(&cleo, &reactions(own), "").await;
        focused(&ada, &article(own)).await;

        // Enter shows the actions.
        ada.press(Key::Enter).await;
        ada.until("document.querySelector('dialog.actions')?.open").await;
        ada.is_accessible("the menu").await;
        ada.press(Key::Escape).await;
        ada.until("!document.querySelector('dialog.actions')").await;
        focused(&ada, &article(own)).await;
        ada.press(Key::Enter).await;
        choose(&ada, "React").await;
        ada.until("document.querySelector('#emoji')").await;
        ada.run("document.querySelector('#emoji').focus()").await;
        ada.type_into("#emoji", "x").await;
        ada.press(Key::Enter).await;
        shows(&ada, "document.querySelector('#emoji-problem').textContent", "Enter one emoji.")
            .await;
        ada.is_accessible("a wrong emoji").await;
        ada.run("document.querySelector('#emoji').value = '🫖'").await;
        ada.press(Key::Enter).await;
        shows(&cleo, &reactions(own), "🫖 1").await;

        focused(&ada, &article(own)).await;
        ada.press(Key::Enter).await;
        choose(&ada, "Delete").await;
        focused(&ada, "dialog.actions menu button").await;
        shows(&ada, "document.activeElement.textContent", "Cancel").await;
        ada.press(Key::Enter).await;
        ada.until("!document.querySelector('dialog.actions')").await;
        focused(&ada, &article(own)).await;
        ada.press(Key::Enter).await;
        choose(&ada, "Delete").await;
        ada.press(Key::Tab).await;
        ada.press(Key::Enter).await;
        shows(&cleo, &text_of(own), "message deleted").await;
        focused(&ada, &article(own)).await;
        ada.press(Key::Escape).await;
        focused(&ada, "#text").await;

        ada.run(&format!("document.querySelector(\"{}\").focus()", article(question))).await;
        ada.press(Key::Enter).await;
        choose(&ada, "Reply").await;
        focused(&ada, "#text").await;
        ada.say("At five.").await;
        let quote = "[...document.querySelectorAll('.quote')].at(-1)?.textContent";
        shows(&cleo, quote, "Reply to Ben Tea at four?").await;
    })
    .await;
    ada.close().await;
    cleo.close().await;
}

/// Chooses an action in the dialog with the arrow keys.
async fn choose(window: &Browser, label: &str) {
    let is_chosen = format!("return document.activeElement.textContent.endsWith({})", json!(label));
    window.until("document.querySelector('dialog.actions')?.open").await;
    for _ in 0..20 {
        if window.run(&is_chosen).await == true {
            return window.press(Key::Enter).await;
        }
        window.press(Key::Down).await;
    }
    panic!("there is no {label}");
}

/// Taps a button of the dialog.
async fn tap(window: &Browser, label: &str) {
    let find = format!(
        "[...document.querySelectorAll('dialog.actions button')]
           .find((button) => button.textContent.endsWith({}))",
        json!(label)
    );
    window.until(&find).await;
    window.run(&format!("{find}.id = 'tapped'")).await;
    window.click("#tapped").await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn touch_reacts_edits_deletes_and_replies_while_others_talk() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    fill(&mut ben).await;
    let question = say(&mut ben, "Tea at four?").await;
    let kim = open(&server, Look::Phone, "Kim").await;
    let own = say_in(&kim, "helo").await;
    let cleo = open(&server, Look::Light, "Cleo").await;
    fill(&mut ben).await;
    kim.has_line("line 39").await;
    scroll_to(&kim, own).await;
    while_somebody_talks(&server, async {
        kim.touch_long(&article(own)).await;
        kim.until("document.querySelector('dialog.actions')?.open").await;
        kim.is_accessible("the menu on a phone").await;
        kim.picture("controls-phone-menu").await;
        let small = "[...document.querySelectorAll('dialog.actions button')]
            .map((button) => button.getBoundingClientRect())
            .filter(({ width, height }) => width < 44 || height < 44).length === 0";
        kim.until(small).await;
        tap(&kim, "😂").await;
        shows(&cleo, &reactions(own), "😂 1").await;
        kim.until("!document.querySelector('dialog.actions')").await;
        kim.click(&format!("{} .reactions button", article(own))).await;
        shows(&cleo, &reactions(own), "").await;

        kim.touch_long(&article(own)).await;
        tap(&kim, "Edit").await;
        shows(&kim, "document.querySelector('#text').value", "helo").await;
        kim.type_into("#text", "!").await;
        kim.is_accessible("editing on a phone").await;
        kim.picture("controls-phone-editing").await;
        kim.click("#send").await;
        shows(&cleo, &text_of(own), "helo! (edited)").await;

        kim.touch_long(&article(own)).await;
        tap(&kim, "Delete").await;
        kim.picture("controls-phone-delete").await;
        tap(&kim, "Delete").await;
        shows(&cleo, &text_of(own), "message deleted").await;

        kim.touch_long(&article(question)).await;
        tap(&kim, "Reply").await;
        kim.type_into("#text", "At five.").await;
        kim.click("#send").await;
        // Others have talked meanwhile, so the page may have to load newer messages several times.
        let quote = "(document.querySelector('#log').scrollTop = 1e6,
                       [...document.querySelectorAll('.quote')].at(-1)?.textContent)";
        shows(&cleo, quote, "Reply to Ben Tea at four?").await;
        kim.until("document.documentElement.scrollWidth <= innerWidth").await;
    })
    .await;
    kim.close().await;
    cleo.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn changes_made_while_disconnected_are_marked_and_sent_later() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let ada = open(&server, Look::Light, "Ada").await;
    let own = say_in(&ada, "helo").await;
    ada.run(OFFLINE).await;
    ada.until("!document.querySelector('#banner').hidden").await;
    ada.press(Key::Up).await;
    shows(&ada, "document.querySelector('#text').value", "helo").await;
    ada.type_into("#text", "!").await;
    ada.press(Key::Enter).await;
    ada.until(&format!("document.querySelector(\"[data-seq='{own}'].unsent\")")).await;
    ada.picture("controls-unsent").await;
    ada.is_accessible("a change that is not sent").await;
    shows(&ada, &text_of(own), "helo").await;
    ada.run(ONLINE).await;
    shows(&ada, &text_of(own), "helo! (edited)").await;
    ada.until("!document.querySelector('.unsent')").await;
    assert_eq!(ben.until("edited").await["text"], "helo!");
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn text_of_a_rejected_edit_is_kept() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let ada = open(&server, Look::Light, "Ada").await;
    let own = say_in(&ada, "helo").await;
    let key = ada.run("return JSON.parse(localStorage.getItem('chinwag.key'))").await;
    let mut other_ada = join(&server, "tea", json!({"key": key})).await;
    ada.press(Key::Up).await;
    shows(&ada, "document.querySelector('#text').value", "helo").await;
    ada.type_into("#text", " and more").await;
    delete(&mut other_ada, own).await;
    shows(&ada, &text_of(own), "message deleted").await;
    ada.press(Key::Enter).await;
    let problem = "document.querySelector('#pending .failed .problem')?.textContent";
    ada.until(&format!("{problem}?.startsWith('Edit not saved: ')")).await;
    shows(&ada, "document.querySelector('#pending .text').textContent", "helo and more").await;
    ada.until("document.querySelector('#status').textContent.startsWith('The edit was not saved')")
        .await;
    ada.is_accessible("an edit that failed").await;
    ada.picture("controls-failed").await;
    ada.click("#pending .failed button").await;
    assert_eq!(ben.until("message").await["text"], "helo");
    assert_eq!(ben.until("message").await["text"], "helo and more");
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn text_of_a_deleted_message_disappears_everywhere() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let ada = open(&server, Look::Light, "Ada").await;
    let one = say(&mut ben, "a secret").await;
    ada.has_line("a secret").await;
    ada.run(&format!("document.querySelector(\"{}\").focus()", article(one))).await;
    ada.until("document.activeElement.ariaLabel?.endsWith(': a secret')").await;
    ada.click(".bar [aria-label=Reply]").await;
    let about = "document.querySelector('#composing-about').innerText.trim()";
    shows(&ada, about, "Reply to Ben a secret").await;
    delete(&mut ben, one).await;
    shows(&ada, about, "Reply to Ben").await;
    ada.until("!document.documentElement.outerHTML.includes('a secret')").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn message_that_was_deleted_while_its_menu_was_open_is_not_edited() {
    let server = TestServer::start().await;
    let ada = open(&server, Look::Light, "Ada").await;
    let seq = say_in(&ada, "mine").await;
    ada.run(&format!("document.querySelector(\"{}\").focus()", article(seq))).await;
    // The controls are loaded now.
    ada.until("document.querySelector('.bar') !== null").await;
    ada.press(Key::Enter).await;
    ada.until("document.querySelector('dialog.actions')?.open").await;
    // As another window of the user does.
    let delete = "const { client, current } = await import(
            document.querySelector('script[src$=\"chat.js\"]').src);
        client.delete(current, Number(document.querySelector('[data-seq]').dataset.seq))";
    ada.run(&format!("(async () => {{ {delete} }})()")).await;
    shows(&ada, &text_of(seq), "message deleted").await;
    tap(&ada, "Edit").await;
    ada.until("document.querySelector('dialog.actions') === null").await;
    ada.painted().await;
    shows(&ada, "document.querySelector('#send').textContent", "Send").await;
    ada.close().await;
}

/// The browser's back button works in a dialog, too.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn dialog_of_a_message_closes_with_its_room() {
    let server = TestServer::start().await;
    let ada = open(&server, Look::Light, "Ada").await;
    ada.say("/join milk").await;
    ada.connected().await;
    let seq = say_in(&ada, "mine").await;
    ada.run(&format!("document.querySelector(\"{}\").focus()", article(seq))).await;
    // The controls are loaded now.
    ada.until("document.querySelector('.bar') !== null").await;
    ada.press(Key::Enter).await;
    ada.until("document.querySelector('dialog.actions')?.open").await;
    ada.run("history.back()").await;
    ada.until("document.title === '#tea · chinwag'").await;
    ada.until("document.querySelector('dialog.actions') === null").await;
    focused(&ada, "#text").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn unchanged_text_is_not_saved_as_an_edit() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let ada = open(&server, Look::Light, "Ada").await;
    let own = say_in(&ada, "hello").await;
    ada.press(Key::Up).await;
    shows(&ada, "document.querySelector('#text').value", "hello").await;
    ada.press(Key::Enter).await;
    ada.until("document.querySelector('#composing').hidden").await;
    ada.say("next").await;
    assert_eq!(ben.until("message").await["text"], "hello");
    assert_eq!(ben.next().await.unwrap()["text"], "next");
    shows(&ada, &text_of(own), "hello").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn edits_are_offered_only_as_the_limits_permit() {
    let edit_window = Some(Duration::from_secs(3));
    let server = TestServer::start_with(Config { edit_window, ..config() }).await;
    let ada = open(&server, Look::Light, "Ada").await;
    let own = say_in(&ada, "hello").await;
    ada.hover(&article(own)).await;
    let edit = "document.querySelector('.bar [aria-label=Edit]')";
    ada.until(&format!("{edit} && !{edit}.hidden")).await;
    // The bar is shown again once the time is over.
    ada.until(&format!(
        "(document.querySelector('#log').dispatchEvent(new PointerEvent('pointerleave')),
          document.querySelector(\"{}\").dispatchEvent(
            new PointerEvent('pointerover', {{ bubbles: true, pointerType: 'mouse' }})),
          {edit}.hidden)",
        article(own)
    ))
    .await;
    ada.press(Key::Up).await;
    ada.painted().await;
    shows(&ada, "document.querySelector('#text').value", "").await;
    ada.close().await;

    let server = TestServer::start_with(Config { edits: false, ..config() }).await;
    let ada = open(&server, Look::Light, "Ada").await;
    let own = say_in(&ada, "hello").await;
    ada.hover(&article(own)).await;
    ada.until(&format!("{edit}?.hidden")).await;
    ada.close().await;
}

/// A change by others replaces parts of the message.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn focus_stays_in_a_message_that_others_change() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let one = say(&mut ben, "one").await;
    react(&mut ben, one, "👍", true).await;
    react(&mut ben, one, "🎉", true).await;
    let ada = open(&server, Look::Light, "Ada").await;
    ada.has_line("one").await;
    shows(&ada, &reactions(one), "🎉 1,👍 1").await;
    ada.run("document.querySelector('.reactions button[value=🎉]').focus()").await;
    react(&mut join(&server, "tea", json!({"nick": "Cleo"})).await, one, "🎉", true).await;
    shows(&ada, &reactions(one), "🎉 2,👍 1").await;
    focused(&ada, "[value=🎉]").await;
    react(&mut ben, one, "🎉", false).await;
    react(&mut ben, one, "👍", false).await;
    shows(&ada, &reactions(one), "🎉 1").await;
    focused(&ada, "[value=🎉]").await;
    delete(&mut ben, one).await;
    shows(&ada, &text_of(one), "message deleted").await;
    focused(&ada, &article(one)).await;
    ada.close().await;
}

/// The page loads the controls when they are first needed. Their address has the version.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn page_of_another_version_asks_to_be_reloaded() {
    let folder = tempfile::tempdir().unwrap();
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("static");
    for file in std::fs::read_dir(page).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let static_dir = Some(folder.path().to_owned());
    let server = TestServer::start_with(Config { static_dir, ..config() }).await;
    let ada = open(&server, Look::Light, "Ada").await;
    ada.type_into("#text", "a draft").await;
    std::fs::remove_file(folder.path().join("jump.js")).unwrap();
    ada.run("location.hash = '#m1'").await;
    ada.until("document.querySelector('#status').textContent.includes('Reload the page')").await;
    shows(&ada, "document.querySelector('#text').value", "a draft").await;
    ada.say("still here").await;
    ada.until("document.querySelector('#text').value === ''").await;
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn controls_are_accessible_in_the_dark_and_from_right_to_left() {
    let server = TestServer::start().await;
    let mut ben = join(&server, "tea", json!({"nick": "Ben"})).await;
    let one = say(&mut ben, "Has anybody tried the new build?").await;
    react(&mut ben, one, "👍", true).await;
    let ada = open(&server, Look::Dark, "Ada").await;
    let own = say_in(&ada, "It starts in no time.").await;
    for direction in ["ltr", "rtl"] {
        ada.run(&format!("document.documentElement.dir = '{direction}'")).await;
        ada.hover(&article(own)).await;
        ada.until(&format!("document.querySelector(\"[data-seq='{own}'] > .bar\")")).await;
        ada.is_accessible(&format!("the bar, dark, {direction}")).await;
        ada.picture(&format!("controls-dark-{direction}")).await;
        let inside = "(() => {
            const at = document.querySelector('.bar').getBoundingClientRect();
            const log = document.querySelector('#log').getBoundingClientRect();
            return at.left >= log.left && at.right <= log.right && at.top >= log.top;
        })()";
        ada.until(inside).await;
        for label in ["React", "Delete", "Edit"] {
            ada.hover(&article(own)).await;
            ada.click(&format!(".bar [aria-label={label}]")).await;
            ada.painted().await;
            ada.is_accessible(&format!("{label}, dark, {direction}")).await;
            ada.picture(&format!("controls-dark-{direction}-{label}").to_lowercase()).await;
            ada.press(Key::Escape).await;
            ada.until("!document.querySelector('dialog.actions')").await;
        }
    }
    let shown: Value = ada.run("return document.querySelector('#composing').hidden").await;
    assert_eq!(shown, true);
    ada.close().await;
}
