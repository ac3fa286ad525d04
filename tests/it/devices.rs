//! One user on several devices: the link that copies the key, in real browsers.

use serde_json::{Value, json};

use crate::browser::{Browser, Look, url};
use crate::harness::{TestServer, within};

const MEMBER_COUNT: &str = "document.querySelector('#member-count').textContent";

/// Reads the QR code on the page, with another library than the one that drew it.
async fn read_code(browser: &Browser) -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/node_modules/jsqr/dist/jsQR.js");
    let decoder = std::fs::read_to_string(file).expect("jsQR is installed by scripts/test");
    let script = format!(
        "{decoder}
         const code = document.querySelector('#qr');
         const large = document.createElement('canvas');
         large.width = large.height = code.width * 8;
         const drawing = large.getContext('2d');
         drawing.imageSmoothingEnabled = false;
         drawing.drawImage(code, 0, 0, large.width, large.height);
         const {{ data }} = drawing.getImageData(0, 0, large.width, large.height);
         return (window.jsQR ?? this.jsQR)(data, large.width, large.height)?.data ?? null;"
    );
    browser.run(&script).await
}

/// Opens the dialog and returns its link.
async fn link_of(browser: &Browser) -> String {
    browser.click("#share").await;
    browser.until("document.querySelector('#sharing')?.open").await;
    browser.until("!document.querySelector('#qr').hidden").await;
    let link = browser.run("return document.querySelector('#device-link').value").await;
    link.as_str().expect("a link").to_owned()
}

/// Waits for the confirmation dialog, and checks that the key is no longer in the address.
async fn expect_confirmation(browser: &Browser, name: &str) {
    browser.until("document.querySelector('#takeover')?.open").await;
    let named = browser.run("return document.querySelector('#offered-name').textContent").await;
    assert_eq!(named, name);
    assert_eq!(browser.run("return location.hash").await, "");
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn link_makes_another_device_the_same_user_after_confirmation() {
    let server = TestServer::start().await;
    let laptop = Browser::open(&url(&server, "/r/tea")).await;
    laptop.is_called("Ada & Co").await;
    laptop.connected().await;
    let link = link_of(&laptop).await;
    assert_eq!(read_code(&laptop).await, *link);
    assert_eq!(laptop.run("return document.querySelector('#device-local').hidden").await, false);
    laptop.is_accessible("the device link dialog").await;
    laptop.picture("device").await;

    let phone = Browser::open_as(Look::Phone, &link).await;
    expect_confirmation(&phone, "Ada & Co").await;
    phone.is_accessible("the confirmation dialog").await;
    phone.picture("phone-takeover").await;
    let keys = "return localStorage.getItem('chinwag.key')";
    assert_eq!(phone.run(keys).await, Value::Null, "the key is stored only after confirmation");
    phone.click("#takeover [value=yes]").await;
    phone.connected().await;
    phone.until("document.querySelector('#me').textContent === 'Ada & Co'").await;
    assert_eq!(phone.run("return location.pathname").await, "/r/tea");
    assert_eq!(phone.run(&format!("return {MEMBER_COUNT}")).await, "1 online");
    phone.say("from my phone").await;
    laptop.has_line("from my phone").await;
    assert_eq!(phone.run(keys).await, laptop.run(keys).await);
    phone.page.refresh().await.unwrap();
    phone.connected().await;
    phone.until("document.querySelector('#me').textContent === 'Ada & Co'").await;
    phone.close().await;
    laptop.close().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn link_changes_nothing_if_declined_or_if_the_user_is_the_same() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    let link = link_of(&ada).await;
    ada.click("#sharing menu button:last-child").await;
    // Opening the link in an open page changes only the fragment and does not reload the page.
    ada.run("window.isSame = true").await;
    within("the link", ada.page.goto(&link)).await.unwrap();
    ada.until("location.hash === ''").await;
    assert_eq!(ada.run("return document.querySelector('#takeover')").await, Value::Null);

    let ben = Browser::open(&url(&server, "/r/tea")).await;
    ben.is_called("Ben").await;
    ben.connected().await;
    ben.type_into("#text", "a draft").await;
    let key = ben.run("return localStorage.getItem('chinwag.key')").await;
    within("the link", ben.page.goto(&link)).await.unwrap();
    expect_confirmation(&ben, "Ada").await;
    let given_up = "return document.querySelector('#given-up').innerText";
    assert_eq!(ben.run(given_up).await, "You will no longer be Ben in this browser.");
    ben.press(fantoccini::key::Key::Escape).await;
    ben.until("!document.querySelector('#takeover').open").await;
    assert_eq!(ben.run("return localStorage.getItem('chinwag.key')").await, key);
    assert_eq!(ben.run("return document.querySelector('#text').value").await, "a draft");
    // A truncated key is rejected.
    let short = link.split_once("key=").unwrap().0.to_owned() + "key=abc";
    within("the link", ben.page.goto(&short)).await.unwrap();
    ben.until("document.querySelector('#status').textContent.includes('incomplete')").await;
    assert_eq!(ben.run("return document.querySelector('#me').textContent").await, "Ben");
    ada.close().await;
    ben.close().await;
}

/// The windows of a browser are one user, so none may continue as the previous user.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn other_windows_disconnect_when_the_browser_becomes_another_user() {
    let server = TestServer::start().await;
    let ada = Browser::open(&url(&server, "/r/tea")).await;
    ada.is_called("Ada").await;
    ada.connected().await;
    let link = link_of(&ada).await;
    let ben = Browser::open(&url(&server, "/r/tea")).await;
    ben.is_called("Ben").await;
    ben.connected().await;
    let first = ben.page.window().await.unwrap();
    let second = ben.page.new_window(false).await.unwrap().handle;
    ben.page.switch_to_window(second).await.unwrap();
    within("the link", ben.page.goto(&link)).await.unwrap();
    expect_confirmation(&ben, "Ada").await;
    ben.click("#takeover [value=yes]").await;
    ben.until("document.querySelector('#me').textContent === 'Ada'").await;
    ada.until(&format!("{MEMBER_COUNT} === '1 online'")).await;
    ben.page.switch_to_window(first).await.unwrap();
    ben.until("document.querySelector('#status').textContent.includes('Reload')").await;
    ben.page.refresh().await.unwrap();
    ben.until("document.querySelector('#me').textContent === 'Ada'").await;
    let names = "return JSON.parse(localStorage.getItem('chinwag.name'))";
    assert_eq!(ben.run(names).await, json!("Ada"));
    ada.close().await;
    ben.close().await;
}
