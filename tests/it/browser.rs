//! A headless Chromium that shows the page, driven by WebDriver. Tests that use it are ignored by
//! default, since they need Chromium and chromedriver; `scripts/test` installs both and runs them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::actions::{
    InputSource, KeyAction, KeyActions, MOUSE_BUTTON_LEFT, MouseActions, PointerAction,
    TouchActions,
};
use fantoccini::key::Key;
use fantoccini::{ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
#[cfg(unix)]
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{TestServer, eventually, within};

/// A browser and its driver, which end when it is dropped.
pub struct Browser {
    pub page: fantoccini::Client,
    _driver: Driver,
    _profile: tempfile::TempDir,
}

/// The kind of browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Light,
    Dark,
    /// Light theme, 320 by 640 pixels, reduced motion.
    Phone,
    /// Like `Phone`, but 256 pixels high.
    Short,
    /// Light theme, JavaScript disabled.
    Scriptless,
}

/// A driver with a process group of its own, to which its browser also belongs.
struct Driver(Child);

#[cfg(unix)]
impl Drop for Driver {
    /// Ends the browser too. A browser that a failed test left running would slow down all others.
    fn drop(&mut self) {
        if let Some(group) = self.0.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Browser {
    pub async fn open(url: &str) -> Self {
        Self::open_as(Look::Light, url).await
    }

    pub async fn open_as(look: Look, url: &str) -> Self {
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
            "--window-size=1100,800",
            "--host-resolver-rules=MAP chat.example 127.0.0.1",
            &profile_flag,
            &scheme,
        ];
        let mut args = args.to_vec();
        let is_phone = matches!(look, Look::Phone | Look::Short);
        if is_phone {
            args.push("--force-prefers-reduced-motion");
        }
        let mut options = json!({ "args": args });
        if is_phone {
            let height = if look == Look::Short { 256 } else { 640 };
            let metrics = json!({ "width": 320, "height": height, "pixelRatio": 2.0 });
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        if look == Look::Scriptless {
            let blocked = "profile.managed_default_content_settings.javascript";
            options["prefs"] = json!({ blocked: 2 });
        }
        // Chromium does not trust the tests' certificate authority.
        let capabilities = json!({
            "goog:chromeOptions": options,
            "acceptInsecureCerts": url.starts_with("https:"),
        });
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

    /// Runs a script in the page and returns its result.
    pub async fn run(&self, script: &str) -> Value {
        within(script, self.page.execute(script, vec![])).await.unwrap()
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    pub fn until(&self, expression: &str) -> impl Future<Output = ()> {
        let script = format!("return Boolean({expression})");
        eventually(expression.to_owned(), async move || self.run(&script).await == true)
    }

    /// Enters a name in the dialog of the first visit.
    pub async fn is_called(&self, name: &str) {
        self.until("document.querySelector('#name-dialog')?.open").await;
        self.type_into("#name", name).await;
        self.press(Key::Enter).await;
        self.until("!document.querySelector('#name-dialog')?.open").await;
        let shown = format!("document.querySelector('#me').textContent === {}", json!(name));
        self.until(&shown).await;
    }

    /// Waits until the page is connected and shows the members of the room.
    pub async fn connected(&self) {
        self.until("document.querySelector('#banner').hidden").await;
        self.until("document.querySelector('#member-count').textContent !== '0 online'").await;
    }

    /// Waits for a confirmed message with this text.
    pub async fn has_line(&self, text: &str) {
        let texts = "[...document.querySelectorAll('#entries .text')]";
        let text = Value::from(text);
        self.until(&format!("{texts}.some((found) => found.textContent === {text})")).await;
    }

    /// Checks that axe-core finds no violation in the current state of the page.
    pub async fn is_accessible(&self, state: &str) {
        let file =
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/node_modules/axe-core/axe.min.js");
        let axe = std::fs::read_to_string(file).expect("axe-core is installed by scripts/test");
        self.run(&format!("if (!window.axe) {{ {axe} }}")).await;
        let script = "const done = arguments[0];
            axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa',
                                'best-practice'] })
               .then(({ violations }) => done(violations.map(({ id, nodes }) =>
                   [id, nodes.map(({ html, failureSummary }) => html + failureSummary)])));";
        let found = within("axe", self.page.execute_async(script, vec![])).await.unwrap();
        assert_eq!(found, json!([]), "{state}");
    }

    /// Waits until pending changes are painted.
    pub async fn painted(&self) {
        let script =
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))";
        within("a frame", self.page.execute_async(script, vec![])).await.unwrap();
    }

    pub async fn click(&self, selector: &str) {
        self.page.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    /// Clicks like a person: the button stays down for 120 ms.
    pub async fn click_slowly(&self, selector: &str) {
        let element = self.page.find(Locator::Css(selector)).await.unwrap();
        let (x, y) = (0.0, 0.0);
        let click = MouseActions::new("mouse".into())
            .then(PointerAction::MoveToElement { element, duration: None, x, y })
            .then(PointerAction::Down { button: MOUSE_BUTTON_LEFT })
            .then(PointerAction::Pause { duration: Duration::from_millis(120) })
            .then(PointerAction::Up { button: MOUSE_BUTTON_LEFT });
        self.page.perform_actions(click).await.unwrap();
    }

    /// Moves the mouse over an element.
    pub async fn hover(&self, selector: &str) {
        let element = self.page.find(Locator::Css(selector)).await.unwrap();
        let (x, y) = (0.0, 0.0);
        let over = PointerAction::MoveToElement { element, duration: None, x, y };
        self.page.perform_actions(MouseActions::new("mouse".into()).then(over)).await.unwrap();
    }

    /// Rests a finger on an element for a second.
    pub async fn touch_long(&self, selector: &str) {
        let element = self.page.find(Locator::Css(selector)).await.unwrap();
        let (x, y) = (0.0, 0.0);
        let touch = TouchActions::new("finger".into())
            .then(PointerAction::MoveToElement { element, duration: None, x, y })
            .then(PointerAction::Down { button: MOUSE_BUTTON_LEFT })
            .then(PointerAction::Pause { duration: Duration::from_secs(1) })
            .then(PointerAction::Up { button: MOUSE_BUTTON_LEFT });
        self.page.perform_actions(touch).await.unwrap();
    }

    /// Presses a key while another one is held.
    pub async fn press_with(&self, held: Key, key: Key) {
        let keys = KeyActions::new("keys".into())
            .then(KeyAction::Down { value: held.into() })
            .then(KeyAction::Down { value: key.into() })
            .then(KeyAction::Up { value: key.into() })
            .then(KeyAction::Up { value: held.into() });
        self.page.perform_actions(keys).await.unwrap();
    }

    pub async fn type_into(&self, selector: &str, text: &str) {
        let field = self.page.find(Locator::Css(selector)).await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    pub async fn press(&self, key: Key) {
        let keys = KeyActions::new("keys".into())
            .then(KeyAction::Down { value: key.into() })
            .then(KeyAction::Up { value: key.into() });
        self.page.perform_actions(keys).await.unwrap();
    }

    /// Sends a message.
    pub async fn say(&self, text: &str) {
        self.type_into("#text", text).await;
        self.press(Key::Enter).await;
    }

    /// Saves a screenshot in a folder that git ignores.
    pub async fn picture(&self, name: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let png = self.page.screenshot().await.unwrap();
        std::fs::write(folder.join(format!("{name}.png")), png).unwrap();
    }

    pub async fn close(self) {
        let _ = self.page.close().await;
    }
}

/// Starts a driver and returns its port. The driver searches for a free port before it binds it. If
/// another test takes the port in between, the driver ends, and is started again.
async fn start_driver() -> (Driver, String) {
    loop {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdout(Stdio::piped()).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let process = command.spawn();
        let mut process = process.expect("chromedriver is installed: scripts/test installs it");
        let output = process.stdout.take().unwrap();
        let driver = Driver(process);
        let mut lines = BufReader::new(output).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, port)) = line.split_once("successfully on port ") {
                return (driver, port.trim_end_matches('.').to_owned());
            }
        }
    }
}

pub fn url(server: &TestServer, path: &str) -> String {
    format!("http://localhost:{}{path}", server.addr().port())
}
