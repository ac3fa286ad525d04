//! How much work each frame takes while the page scrolls through a long history.

use std::time::Duration;

use chinwag::Config;

use crate::browser::{Browser, url};
use crate::harness::{TestServer, config};
use crate::reading::{talk, talker};

/// Scrolling is smooth if each frame changes few elements, however many messages there are. The
/// test counts the changes. Its bound on time is generous, because the machine may be busy.
#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn scrolling_ten_thousand_messages_changes_few_elements_per_frame() {
    let server = TestServer::start_with(Config { resume_buffer: 11_000, ..config() }).await;
    let mut ben = talker(server.addr()).await;
    let ada = Browser::open(&url(&server, "/")).await;
    ada.is_called("Ada").await;
    // The page needs time for this many messages, so the test waits for each part.
    for start in (0..10_000).step_by(1_000) {
        let last = format!("line {}", start + 999);
        talk(&mut ben, start..start + 1_000).await;
        let entries = "document.querySelector('#entries').textContent";
        ada.until(&format!("{entries}.includes('{last}')")).await;
    }
    ada.until("document.querySelectorAll('#entries > *').length <= 240").await;
    ada.picture("long-thread").await;
    // Scrolls through the whole history, a screen at a time.
    let scroll = "const [done] = arguments; const log = document.querySelector('#log');
        let longest = 0;
        new PerformanceObserver((list) => {
          for (const { duration } of list.getEntries()) longest = Math.max(longest, duration);
        }).observe({ type: 'longtask', buffered: false });
        let changed = 0, most = 0;
        new MutationObserver((changes) => {
          for (const { addedNodes, removedNodes } of changes) {
            changed += addedNodes.length + removedNodes.length;
          }
        }).observe(document.querySelector('#entries'), { childList: true });
        let frames = 0;
        const step = () => {
          most = Math.max(most, changed);
          changed = 0;
          log.scrollTop -= 1200;
          frames += 1;
          const first = document.querySelector('#entries .text').textContent;
          if (first.startsWith('line 0 ') && log.scrollTop === 0 || frames > 4000) {
            setTimeout(() => done({ first, frames, most, longest }), 200);
          } else {
            requestAnimationFrame(step);
          }
        };
        step();";
    let timeouts =
        fantoccini::wd::TimeoutConfiguration::new(Some(Duration::from_secs(120)), None, None);
    ada.page.update_timeouts(timeouts).await.unwrap();
    let found = ada.page.execute_async(scroll, vec![]).await.unwrap();
    assert!(found["first"].as_str().unwrap().starts_with("line 0 "), "{found}");
    // A step adds 60 entries at one end and removes 60 at the other. A frame may have two steps.
    let most = found["most"].as_u64().unwrap();
    assert!((60..=240).contains(&most), "{most} entries changed in one frame: {found}");
    let longest = found["longest"].as_f64().unwrap();
    assert!(longest < 1000.0, "one task took {longest} ms: {found}");
    ada.close().await;
}
