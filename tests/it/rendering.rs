//! How the page is rendered in a real browser: without JavaScript, in print, under a hovering
//! pointer, and before its main script has run.

use chinwag::Config;
use fantoccini::Locator;
use fantoccini::actions::{InputSource, MouseActions, PointerAction};
use fantoccini::wd::PrintConfiguration;
use serde_json::json;

use crate::browser::{Browser, Look, url};
use crate::harness::{TestServer, config};
use crate::json::JsonClient;

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn page_without_javascript_shows_only_a_message_about_it() {
    let server = TestServer::start().await;
    let reader = Browser::open_as(Look::Scriptless, &url(&server, "/")).await;
    let words = reader.page.find(Locator::Css("noscript p")).await.unwrap();
    assert!(words.is_displayed().await.unwrap());
    assert!(words.text().await.unwrap().contains("JavaScript"));
    let script = "const at = document.querySelector('noscript p').getBoundingClientRect();
        const covers = (x, y) => document.elementFromPoint(x, y)?.closest('noscript') !== null;
        return [at.bottom <= innerHeight, covers(at.x + 5, at.y + 5),
            covers(innerWidth / 2, innerHeight / 2)];";
    assert_eq!(reader.run(script).await, json!([true, true, true]));
    reader.picture("without-javascript").await;
    reader.close().await;
}

/// Fills a room with more messages than fit on the screen.
async fn fill_room(server: &TestServer) -> JsonClient {
    let mut ben = JsonClient::hello(server.addr(), json!({"nick": "Ben"})).await;
    ben.send(&[json!({"type": "join", "room": "tea"})]).await;
    ben.expect("joined").await;
    for n in 0..90 {
        let text = format!("This is line {n} of many.");
        ben.send(&[json!({"type": "say", "room": "tea", "text": text})]).await;
        ben.until("said").await;
    }
    ben
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn messages_are_printed_on_several_pages() {
    let server = TestServer::start().await;
    let _ben = fill_room(&server).await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("This is line 89 of many.").await;
    let pdf = ada.page.print(PrintConfiguration::default()).await.unwrap();
    let pdf = String::from_utf8_lossy(&pdf);
    let pages = pdf.matches("/Type /Page\n").count();
    assert!((2..9).contains(&pages), "{pages} pages");
    ada.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn time_of_a_message_under_the_pointer_is_fully_visible() {
    let server = TestServer::start().await;
    let _ben = fill_room(&server).await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.has_line("This is line 89 of many.").await;
    for width in [800, 1024, 1280, 1600] {
        ada.page.set_window_size(width, 800).await.unwrap();
        ada.painted().await;
        let element = ada.page.find(Locator::Css(".entry:last-child:not(.first)")).await.unwrap();
        let (duration, x, y) = (None, 0.0, 0.0);
        let over = PointerAction::MoveToElement { element, duration, x, y };
        ada.page.perform_actions(MouseActions::new("mouse".into()).then(over)).await.unwrap();
        // Drawers take a moment to slide out at a smaller width.
        ada.until(
            "(() => {
                const time = document.querySelector('.entry:last-child time');
                const at = time.getBoundingClientRect();
                const log = document.querySelector('#log').getBoundingClientRect();
                const [x, y] = [at.x + at.width / 2, at.y + at.height / 2];
                return at.width > 20 && at.left >= log.left && at.right <= log.right &&
                    document.elementFromPoint(x, y) === time;
            })()",
        )
        .await;
    }
    ada.close().await;
}

/// `theme.js` sets it. It blocks the parser, so it runs before anything is drawn.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn theme_is_set_before_the_page_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("static");
    for file in std::fs::read_dir(page).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    // The main script does nothing here.
    std::fs::write(folder.path().join("chat.js"), "").unwrap();
    let static_dir = Some(folder.path().to_owned());
    let server = TestServer::start_with(Config { static_dir, ..config() }).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.run("localStorage.setItem('chinwag.theme', '\"dark\"')").await;
    ada.page.refresh().await.unwrap();
    let script = "const { dataset } = document.documentElement;
        const { async, defer, type, parentElement } = document.querySelector('[src*=theme]');
        return [dataset.theme, async || defer || type === 'module', parentElement.localName];";
    assert_eq!(ada.run(script).await, json!(["dark", false, "head"]));
    let color = "return getComputedStyle(document.body).backgroundColor";
    let dark = ada.run(color).await;
    ada.run("document.documentElement.dataset.theme = 'light'").await;
    assert_ne!(ada.run(color).await, dark);
    ada.close().await;
}
