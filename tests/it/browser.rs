//! The page in real, headless Chromium, driven by WebDriver. Ignored unless asked for, since it
//! needs Chromium and its driver: `scripts/test` installs them and asks.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use chinwag::Config;
use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::key::Key;
use fantoccini::{ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{TestServer, config, eventually, within};

/// A browser of its own, with its driver; both end with it.
struct Browser {
    page: fantoccini::Client,
    _driver: Child,
    _profile: tempfile::TempDir,
}

/// What the browser is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Light,
    Dark,
    /// Light, and 360 pixels wide.
    Phone,
}

impl Browser {
    async fn open(url: &str) -> Self {
        Self::open_as(Look::Light, url).await
    }

    async fn open_as(look: Look, url: &str) -> Self {
        let (driver, port) = within("chromedriver", start_driver()).await;
        let profile = tempfile::tempdir().unwrap();
        let profile_flag = format!("--user-data-dir={}", profile.path().display());
        let scheme =
            format!("--blink-settings=preferredColorScheme={}", u8::from(look != Look::Dark));
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=900,700",
            &profile_flag,
            &scheme,
        ];
        let mut options = json!({ "args": args });
        if look == Look::Phone {
            let metrics = json!({ "width": 360, "height": 640, "pixelRatio": 2.0 });
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let capabilities = json!({ "goog:chromeOptions": options });
        let page = within(
            "a browser",
            ClientBuilder::new(HttpConnector::new())
                .capabilities(capabilities.as_object().unwrap().clone())
                .connect(&format!("http://127.0.0.1:{port}")),
        )
        .await
        .unwrap();
        within("the page", page.goto(url)).await.unwrap();
        Self { page, _driver: driver, _profile: profile }
    }

    /// Runs a script in the page and gives what it returns.
    async fn run(&self, script: &str) -> Value {
        within(script, self.page.execute(script, vec![])).await.unwrap()
    }

    /// Waits until an expression holds in the page.
    #[track_caller]
    fn until(&self, expression: &str) -> impl Future<Output = ()> {
        let script = format!("return Boolean({expression})");
        eventually(expression.to_owned(), async move || self.run(&script).await == true)
    }

    async fn connected(&self) {
        self.until("!document.querySelector('#send').disabled").await;
    }

    async fn has_line(&self, line: &str) {
        let line = Value::from(line);
        let lines = "[...document.querySelectorAll('#log p')]";
        self.until(&format!("{lines}.some((p) => p.textContent === {line})")).await;
    }

    async fn type_into(&self, selector: &str, text: &str) {
        let field = self.page.find(Locator::Css(selector)).await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    async fn press(&self, key: Key) {
        let keys = KeyActions::new("keys".into())
            .then(KeyAction::Down { value: key.into() })
            .then(KeyAction::Up { value: key.into() });
        self.page.perform_actions(keys).await.unwrap();
    }

    async fn say(&self, text: &str) {
        self.type_into("#text", text).await;
        self.press(Key::Enter).await;
    }

    /// Keeps a picture for people to look at, in a folder that git ignores.
    async fn picture(&self, name: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let png = self.page.screenshot().await.unwrap();
        std::fs::write(folder.join(format!("{name}.png")), png).unwrap();
    }

    async fn close(self) {
        let _ = self.page.close().await;
    }
}

/// Starts a driver and gives its port. It looks for a free port before it binds it, so another
/// test may take that in between: then it ends, and is started again.
async fn start_driver() -> (Child, String) {
    loop {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver is installed: scripts/test installs it");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, port)) = line.split_once("successfully on port ") {
                return (driver, port.trim_end_matches('.').to_owned());
            }
        }
    }
}

fn url(server: &TestServer, path: &str) -> String {
    format!("http://localhost:{}{path}", server.addr().port())
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn two_windows_talk_and_markup_stays_text() {
    let server = TestServer::start().await;
    let alice = Browser::open(&url(&server, "/")).await;
    let bob = Browser::open(&url(&server, "/r/lobby")).await;
    alice.connected().await;
    bob.connected().await;

    alice.say("hello, bob").await;
    bob.has_line("hello, bob").await;
    alice.has_line("hello, bob").await;
    alice.until("document.querySelector('#text').value === ''").await;

    let hostile = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>";
    bob.say(hostile).await;
    for window in [&alice, &bob] {
        window.has_line(hostile).await;
        window.until("!document.querySelector('#log script, #log img')").await;
        window.until("window.harmed === undefined").await;
    }
    alice.close().await;
    bob.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn the_log_follows_only_while_it_is_at_the_bottom() {
    let server = TestServer::start().await;
    let window = Browser::open(&url(&server, "/")).await;
    window.connected().await;
    let mut other = server.connect("nick=ada").await;
    for n in 0..100 {
        other.say(&format!("line {n}")).await;
    }
    window.has_line("ada: line 99").await;
    let at_bottom = "(log => log.scrollHeight - log.scrollTop - log.clientHeight < 4)\
                     (document.querySelector('#log'))";
    window.until(at_bottom).await;
    window.until("document.querySelector('#newer').hidden").await;

    window.run("document.querySelector('#log').scrollTop = 200").await;
    // The page hears of its scrolling with the next frame it paints.
    window
        .page
        .execute_async(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))",
            vec![],
        )
        .await
        .unwrap();
    other.say("while you read").await;
    window.has_line("ada: while you read").await;
    assert_eq!(window.run("return document.querySelector('#log').scrollTop").await, 200);
    window.until("!document.querySelector('#newer').hidden").await;
    window.picture("reading-further-up").await;

    window.page.find(Locator::Css("#newer")).await.unwrap().click().await.unwrap();
    window.until(at_bottom).await;
    window.until("document.querySelector('#newer').hidden").await;
    other.say("and on").await;
    window.has_line("ada: and on").await;
    window.until(at_bottom).await;
    window.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn the_page_reconnects_after_a_restart_and_keeps_what_is_typed() {
    let server = TestServer::start().await;
    let addr = server.addr();
    let window = Browser::open(&url(&server, "/")).await;
    window.connected().await;

    server.stop().await;
    window
        .until("document.querySelector('#status').textContent.includes('Connection closed')")
        .await;
    window.say("typed in the dark").await;
    let kept = "document.querySelector('#text').value === 'typed in the dark'";
    window.until(kept).await;
    window.picture("disconnected").await;

    let server = restart(addr).await;
    window.connected().await;
    window.until("document.querySelector('#banner').hidden").await;
    window.until(kept).await;
    window.press(Key::Enter).await;
    window.has_line("typed in the dark").await;
    window.until("document.querySelector('#text').value === ''").await;
    window.close().await;
    server.stop().await;
}

/// Starts a server where another one was.
async fn restart(addr: SocketAddr) -> TestServer {
    TestServer::start_with(Config { listen: vec![addr], ..config() }).await
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn a_message_that_was_too_long_comes_back_with_the_reason_and_no_loop() {
    let server = TestServer::start_with(Config { max_message_bytes: 10, ..config() }).await;
    let window = Browser::open(&url(&server, "/")).await;
    window.connected().await;
    window.say("longer than ten bytes").await;
    window.until("document.querySelector('#status').textContent.includes('too big')").await;
    window.until("document.querySelector('#text').value === 'longer than ten bytes'").await;
    window.until("document.querySelector('#send').disabled").await;
    assert_eq!(server.client_count().await, 0);
    window.page.find(Locator::Css("#retry")).await.unwrap().click().await.unwrap();
    window.connected().await;
    window.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn a_name_is_worn_remembered_and_explained_when_it_cannot_be() {
    let server = TestServer::start().await;
    let window = Browser::open(&url(&server, "/r/tea")).await;
    window.connected().await;
    window.type_into("#name", "Ada").await;
    window.press(Key::Enter).await;
    eventually("the name to be worn", async || {
        let mut asker = server.join("room=tea&nick=asker").await;
        window.run("document.querySelector('#text').value = ''").await;
        window.say("it is me").await;
        let mut heard = asker.line().await;
        while heard.as_deref().is_some_and(|line| !line.ends_with("it is me")) {
            heard = asker.line().await;
        }
        heard.as_deref() == Some("Ada: it is me")
    })
    .await;

    window.page.refresh().await.unwrap();
    window.until("document.querySelector('#name').value === 'Ada'").await;
    window.connected().await;
    window.type_into("#name", ": no").await;
    window.press(Key::Enter).await;
    window.until("document.querySelector('#name-problem').textContent.includes('colon')").await;
    window.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn a_browser_without_websocket_is_told_so() {
    let server = TestServer::start().await;
    let window = Browser::open(&url(&server, "/")).await;
    window.connected().await;
    // The page's script again, in a window that has no WebSocket any more.
    let script = "delete window.WebSocket; import('/static/chat.js?again').then(arguments[0])";
    window.page.execute_async(script, vec![]).await.unwrap();
    let says_so = "document.querySelector('#status').textContent.includes('does not support')";
    window.until(says_so).await;
    window.until("!document.querySelector('#banner').hidden").await;
    window.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn the_page_is_usable_by_keyboard_on_a_phone_in_light_and_dark() {
    let server = TestServer::start().await;
    let mut authors = [server.join("nick=Ada").await, server.join("nick=Ben").await];
    let lines = [
        "Has anybody tried the new build?",
        "Just now. It starts in no time, and the page follows along nicely.",
        "And when you scroll up?",
        "Then it keeps your place and shows a button when something new has been said.",
        "A word as long as pneumonoultramicroscopicsilicovolcanoconiosis stays inside.",
        "مرحبا بكم في الدردشة",
        "Tea at four?",
    ];
    for (n, line) in lines.into_iter().enumerate() {
        let author = &mut authors[n % 2];
        author.say(line).await;
        while !within("its own line", author.line()).await.unwrap().ends_with(line) {}
    }
    let looks = [(Look::Light, "light"), (Look::Dark, "dark"), (Look::Phone, "phone")];
    for (look, name) in looks {
        let window = Browser::open_as(look, &url(&server, "/")).await;
        window.connected().await;
        window.has_line("Ada: Tea at four?").await;
        window.picture(name).await;

        let width = window.run("return innerWidth").await.as_u64().unwrap();
        assert_eq!(width == 360, look == Look::Phone, "{width}");
        window.until("document.documentElement.scrollWidth <= innerWidth").await;
        let colour = window.run("return getComputedStyle(document.body).backgroundColor").await;
        assert_eq!(colour == "rgb(22, 25, 29)", look == Look::Dark, "{colour}");

        window.until("document.activeElement.id === 'text'").await;
        let mut reached = Vec::new();
        for _ in 0..5 {
            window.press(Key::Tab).await;
            let id = window.run("return document.activeElement.id").await;
            reached.push(id.as_str().unwrap().to_owned());
        }
        for control in ["name", "log", "text", "send"] {
            assert!(reached.iter().any(|id| id == control), "{control} in {reached:?}");
        }
        window.until("document.querySelector('#log').getAttribute('role') === 'log'").await;
        window.close().await;
    }
}
