//! The JavaScript client, in node, against a server with its default limits.

use chinwag::Config;
use tokio::process::Command;

use crate::harness::{TestServer, config};

#[ignore = "needs node; scripts/test runs it"]
#[actix_web::test]
async fn javascript_client_keeps_order_resumes_and_detects_dead_connections() {
    // All clients connect at once from one address. Rates of commands and messages are limited.
    let limits = Config::default();
    let limited = Config {
        publish_rate: limits.publish_rate,
        publish_rate_per_address: limits.publish_rate_per_address,
        command_rate: limits.command_rate,
        command_rate_per_address: limits.command_rate_per_address,
        ..config()
    };
    let server = TestServer::start_with(limited).await;
    let output = Command::new("node")
        .args(["--test", "client.live.js"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page"))
        .env("CHINWAG_URL", format!("ws://{}/ws", server.addr()))
        .kill_on_drop(true)
        .output();
    let output = output.await.unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}");
    assert!(report.contains("# pass 14"), "{report}");
}
