//! chinwag behind a reverse proxy, with the shipped configurations for one server.

use chinwag::Config;
use chinwag::protocol::DisconnectReason;

use crate::browser::Browser;
use crate::harness::{TestServer, config, eventually, within};
use crate::reverse_proxy::{Kind, ReverseProxy};

/// Starts a reverse proxy of a server.
async fn in_front_of(server: &TestServer, kind: Kind) -> ReverseProxy {
    let shipped = match kind {
        Kind::Nginx => include_str!("../../deploy/nginx.conf"),
        Kind::Caddy => include_str!("../../deploy/Caddyfile"),
    };
    let shipped = shipped.replace("127.0.0.1:8080", &server.addr().to_string());
    ReverseProxy::start(kind, &shipped).await
}

#[ignore = "needs nginx; scripts/test runs it"]
#[actix_web::test]
async fn clients_behind_nginx_keep_their_own_address_and_host() {
    clients_keep_their_own_address_and_host(Kind::Nginx).await;
}

#[ignore = "needs Caddy; scripts/test runs it"]
#[actix_web::test]
async fn clients_behind_caddy_keep_their_own_address_and_host() {
    clients_keep_their_own_address_and_host(Kind::Caddy).await;
}

async fn clients_keep_their_own_address_and_host(kind: Kind) {
    let proxied = Config {
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        public_hosts: vec!["chat.example".parse().unwrap()],
        max_connections_per_address: Some(1),
        ..config()
    };
    let server = TestServer::start_with(proxied).await;
    let proxy = in_front_of(&server, kind).await;
    let mut ada = proxy.connect_from("127.0.0.2", "/ws?nick=Ada", "chat.example").await.unwrap();
    let mut ben =
        proxy.connect_from("127.0.0.3", "/chat/ws?nick=Ben", "chat.example").await.unwrap();
    eventually("both clients to be registered", async || server.member_count().await == 2).await;
    ada.say("through the proxy").await;
    for client in [&mut ada, &mut ben] {
        client.expect("Ada: through the proxy").await;
    }
    assert_eq!(proxy.connect_from("127.0.0.2", "/ws", "chat.example").await.err(), Some(429));
    // Caddy answers requests for other hosts itself, with an empty page.
    let other_host = match kind {
        Kind::Nginx => 403,
        Kind::Caddy => 200,
    };
    let refused = proxy.connect_from("127.0.0.4", "/ws", "evil.example").await;
    assert_eq!(refused.err(), Some(other_host));
    ben.leave().await;
    server.expect_disconnect(DisconnectReason::Left).await;
}

#[ignore = "needs nginx and Chromium; scripts/test runs it"]
#[actix_web::test]
async fn page_works_below_a_path() {
    let proxied = Config { trusted_proxies: vec!["127.0.0.1".parse().unwrap()], ..config() };
    let server = TestServer::start_with(proxied).await;
    let nginx = in_front_of(&server, Kind::Nginx).await;
    let root = format!("http://localhost:{}/chat/", nginx.addr.port());
    let page = Browser::open(&root).await;
    page.is_called("Ada").await;
    page.say("below a path").await;
    page.has_line("below a path").await;
    page.say("/join tea time").await;
    page.say("/join tea").await;
    page.until("location.pathname === '/chat/r/tea'").await;
    page.say("in another room").await;
    page.has_line("in another room").await;
    within("the page to reload", page.page.refresh()).await.unwrap();
    page.has_line("in another room").await;
    page.until("location.pathname === '/chat/r/tea'").await;
    let links = "[...document.querySelectorAll('#room-list a')].map((a) => a.pathname).sort()";
    page.until(&format!("{links}.join() === '/chat/,/chat/r/tea'")).await;
    page.until("document.querySelector('#brand img').naturalWidth > 0").await;
    page.close().await;
}
