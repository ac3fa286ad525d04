//! Monitoring: metrics, health checks and the JSON log.

use actix::prelude::*;
use actix_web::App;
use chinwag::domain::{Durability, Epoch, Seq};
use chinwag::hub::Drain;
use chinwag::log::{Append, Follow, Follower, Log, LogError, Page, Probe, State};
use chinwag::{Chat, Config, Hub, Server};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::harness::{TestServer, config, eventually, raw_http, within};
use crate::json::JsonClient;
use crate::program::PROGRAM;

/// Sends a GET request, and returns the status and the body of the response.
pub async fn get(addr: std::net::SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    let answer = raw_http(addr, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Returns the value of a metric, which is named with its labels.
#[cfg(feature = "metrics")]
pub async fn metric(server: &TestServer, name: &str) -> f64 {
    metric_at(server.addr(), name).await
}

/// Returns the value of a metric of the server at this address.
#[cfg(feature = "metrics")]
pub async fn metric_at(addr: std::net::SocketAddr, name: &str) -> f64 {
    let (status, text) = get(addr, "/metrics", "").await;
    assert_eq!(status, 200, "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[cfg(feature = "metrics")]
#[actix_web::test]
async fn metrics_count_handshakes_messages_and_errors() {
    let server = TestServer::start().await;
    let mut ada = JsonClient::hello(server.addr(), json!({"nick": "Ada"})).await;
    ada.send(&[json!({"type": "join", "room": "lobby"})]).await;
    ada.expect("joined").await;
    let mut ben = server.join("").await;
    let say = json!({"type": "say", "room": "lobby", "text": "hello", "id": "1"});
    let nowhere = json!({"type": "who", "room": "nowhere"});
    ada.send(&[say.clone(), say.clone(), say, nowhere]).await;
    ada.until("error").await;
    ben.expect("Ada: hello").await;
    ben.say("hello Ada").await;
    ben.expect("hello Ada").await;
    let request = "GET /ws?room=%20 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert!(raw_http(server.addr(), request).await.starts_with("HTTP/1.1 400 "));
    let expected = [
        ("chinwag_handshakes_total{outcome=\"upgraded\"}", 2.0),
        ("chinwag_handshakes_total{outcome=\"malformed\"}", 1.0),
        ("chinwag_messages_total{outcome=\"kept\"}", 2.0),
        ("chinwag_messages_total{outcome=\"duplicate\"}", 2.0),
        ("chinwag_messages_total{outcome=\"failed\"}", 0.0),
        ("chinwag_deliveries_total", 4.0),
        ("chinwag_errors_total{code=\"not_joined\"}", 1.0),
        ("chinwag_clients", 2.0),
        ("chinwag_rooms", 1.0),
        ("chinwag_pending_bytes", 0.0),
        ("chinwag_disconnects_total{reason=\"left\"}", 0.0),
    ];
    for (name, value) in expected {
        assert_eq!(metric(&server, name).await, value, "{name}");
    }
    let lags = "chinwag_delivery_lag_seconds_count";
    eventually("both clients to receive both messages", async || {
        metric(&server, lags).await == 4.0
    })
    .await;
    assert!(metric(&server, "chinwag_fan_out_seconds_count").await >= 2.0);
    assert!(metric(&server, "chinwag_commit_seconds_count").await >= 2.0);
    assert!(metric(&server, "chinwag_ring_bytes").await > 10.0);
    assert!(metric(&server, "chinwag_hub_answer_seconds").await > 0.0);
    ben.leave().await;
    let left = "chinwag_disconnects_total{reason=\"left\"}";
    eventually("Ben's disconnect to be counted", async || metric(&server, left).await == 1.0).await;
}

/// Checks what a server tells about the durability of messages, in `welcome` and in `/metrics`.
#[cfg(feature = "metrics")]
pub async fn assert_durability(addr: std::net::SocketAddr, level: &str, replicas: Option<usize>) {
    let mut expected = json!({"level": level});
    let mut metrics = vec![format!("chinwag_durability{{level=\"{level}\"}} 1")];
    if let Some(replicas) = replicas {
        expected["replicas"] = replicas.into();
        metrics.push(format!("chinwag_log_replicas {replicas}"));
    }
    let mut client = JsonClient::connect(addr).await;
    client.send(&[json!({"type": "hello"})]).await;
    assert_eq!(client.expect("welcome").await["durability"], expected);
    let (_, text) = get(addr, "/metrics", "").await;
    let is_about_it = |line: &&str| {
        line.starts_with("chinwag_durability{") || line.starts_with("chinwag_log_replicas ")
    };
    let mut found: Vec<_> = text.lines().filter(is_about_it).collect();
    found.sort_unstable();
    assert_eq!(found, metrics);
}

#[cfg(feature = "metrics")]
#[actix_web::test]
async fn durability_of_messages_in_memory_is_shown() {
    assert_durability(TestServer::start().await.addr(), "memory", None).await;
}

#[cfg(all(feature = "metrics", feature = "journal"))]
#[actix_web::test]
async fn durability_of_messages_in_a_file_depends_on_the_sync_setting() {
    use chinwag::config::DbSync;
    for (db_sync, level) in [(DbSync::Full, "disk"), (DbSync::Normal, "file")] {
        let folder = tempfile::tempdir().unwrap();
        let config = crate::journal::config_with_journal(folder.path());
        let server = TestServer::start_with(Config { db_sync, ..config }).await;
        assert_durability(server.addr(), level, None).await;
    }
}

/// Checks the output against the OpenMetrics format, which Prometheus reads.
#[cfg(feature = "metrics")]
#[actix_web::test]
async fn metrics_follow_the_openmetrics_format() {
    let server = TestServer::start().await;
    let (_, text) = get(server.addr(), "/metrics", "").await;
    let text = text.strip_suffix("# EOF\n").expect("the output ends with # EOF");
    let mut described = std::collections::BTreeMap::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# TYPE ") {
            let (name, kind) = comment.split_once(' ').unwrap();
            assert!(described.insert(name, kind).is_none(), "{name} is described twice");
        } else if !line.starts_with("# ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.split('{').next().unwrap();
            let family = described.keys().rfind(|family| name.starts_with(**family));
            let kind = described[family.unwrap_or_else(|| panic!("{name} is not described"))];
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
        }
    }
    assert!(described.len() > 20, "{described:?}");
    #[cfg(target_os = "linux")]
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_max_fds"] {
        assert!(metric(&server, name).await > 0.0, "{name}");
    }
}

#[cfg(feature = "metrics")]
#[actix_web::test]
async fn metrics_are_local_only_unless_they_have_their_own_address() {
    let server = TestServer::start().await;
    let chat = server.addr();
    assert_eq!(get(chat, "/metrics", "").await.0, 200);
    // A client elsewhere, through a proxy that is not trusted, whatever headers it sends.
    for header in [
        "X-Forwarded-For: 198.51.100.7",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: https",
        "Forwarded: for=127.0.0.1",
        "Via: 1.1 proxy",
        "X-Real-IP: 127.0.0.1",
    ] {
        assert_eq!(get(chat, "/metrics", &format!("{header}\r\n")).await.0, 404, "{header}");
    }
    let rebound = "GET /metrics HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n";
    assert!(raw_http(chat, rebound).await.starts_with("HTTP/1.1 404 "));
    let trusting_proxy = Config { trusted_proxies: vec!["127.0.0.1".parse().unwrap()], ..config() };
    let server = TestServer::start_with(trusting_proxy).await;
    let elsewhere = "X-Forwarded-For: 198.51.100.7\r\n";
    assert_eq!(get(server.addr(), "/metrics", elsewhere).await.0, 404);

    let own_address = Config { metrics_listen: Some(([127, 0, 0, 1], 0).into()), ..config() };
    let server = TestServer::start_with(own_address).await;
    let chat = server.addr();
    let server: Server = server.into_server();
    let status = server.metrics_addr().unwrap();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(chat, path, "").await.0, 200, "{path}");
        assert_eq!(get(status, path, "").await.0, 200, "{path}");
    }
    assert_eq!(get(chat, "/metrics", "").await.0, 404);
    assert_eq!(get(status, "/metrics", "").await.0, 200);
    assert_eq!(get(status, "/ws", "").await.0, 404, "only the monitoring endpoints are served");
    within("the end", server.stop()).await;
    let is_closed = async || tokio::net::TcpStream::connect(status).await.is_err();
    eventually("the metrics address to be closed", is_closed).await;
}

#[actix_web::test]
async fn server_is_not_ready_while_it_drains() {
    let server = TestServer::start().await;
    assert_eq!(get(server.addr(), "/readyz", "").await, (200, "ready\n".to_owned()));
    drop(server.hub().send(Drain { wait: false }).await.unwrap());
    // The server caches the answer for a second.
    let unready = (503, "the server is shutting down\n".to_owned());
    let is_unready = async || get(server.addr(), "/readyz", "").await == unready;
    eventually("the server not to be ready", is_unready).await;
    assert_eq!(get(server.addr(), "/healthz", "").await.0, 200, "the server is healthy");
}

#[cfg(feature = "journal")]
#[actix_web::test]
async fn server_is_ready_only_while_its_journal_commits() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(crate::journal::config_with_journal(folder.path())).await;
    let ready = async || get(server.addr(), "/readyz", "").await.0 == 200;
    assert!(ready().await);
    let lock = rusqlite::Connection::open(folder.path().join("chat.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The result of a test commit is cached for a second.
    eventually("the server not to be ready", async || !ready().await).await;
    lock.execute_batch("ROLLBACK").unwrap();
    eventually("the server to be ready again", ready).await;
}

/// A log that never answers, and counts probes.
struct SilentLog {
    probes: usize,
    follower: Option<Follower>,
}

impl Actor for SilentLog {
    type Context = Context<Self>;
}

impl Handler<Append> for SilentLog {
    type Result = ();

    fn handle(&mut self, _: Append, _: &mut Self::Context) {}
}

impl Handler<Follow> for SilentLog {
    type Result = ();

    fn handle(&mut self, Follow(follower): Follow, _: &mut Self::Context) {
        self.follower = Some(follower);
    }
}

impl Handler<Page> for SilentLog {
    type Result = ();

    fn handle(&mut self, _: Page, _: &mut Self::Context) {}
}

impl Handler<Probe> for SilentLog {
    type Result = ResponseFuture<Result<(), LogError>>;

    fn handle(&mut self, _: Probe, _: &mut Self::Context) -> Self::Result {
        self.probes += 1;
        Box::pin(std::future::pending())
    }
}

/// Returns how many probes the log has received.
#[derive(Message)]
#[rtype(result = "usize")]
struct ProbeCount;

impl Handler<ProbeCount> for SilentLog {
    type Result = usize;

    fn handle(&mut self, _: ProbeCount, _: &mut Self::Context) -> usize {
        self.probes
    }
}

/// A log that does not answer receives one probe, however many requests wait for it.
#[actix_web::test]
async fn concurrent_readiness_requests_share_one_probe() {
    let silent = SilentLog { probes: 0, follower: None }.start();
    let log = Log {
        epoch: Epoch::random(),
        head: Seq::default(),
        state: State::default(),
        durability: Durability::default(),
        follow: silent.clone().recipient(),
        append: silent.clone().recipient(),
        page: silent.clone().recipient(),
        search: None,
        probe: silent.clone().recipient(),
        read_marks: None,
        nodes: None,
    };
    let hub = Hub::start_with_log(&Arbiter::new(), &Config::default(), log);
    let chat = Chat::new(hub, Config::default());
    let server = actix_test::start(move || App::new().configure(|app| chat.configure(app)));
    for _ in 0..2 {
        let requests =
            (0..20).map(|_| async { server.get("/readyz").send().await.unwrap().status() });
        let statuses = within("the answers", join_all(requests)).await;
        assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
    }
    assert_eq!(silent.send(ProbeCount).await, Ok(1));
}

#[actix_web::test]
async fn json_log_format_writes_one_object_per_line() {
    let mut program = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0", "--db", "none", "--log-format", "json"])
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(program.stderr.take().unwrap()).lines();
    let line = within("a line", log.next_line()).await.unwrap().unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["target"]), (&json!("INFO"), &json!("chinwag::server")));
    assert!(line["message"].as_str().unwrap().starts_with("open http://localhost:"), "{line}");
    assert!(line["at"].as_str().unwrap().ends_with('Z'), "{line}");
}
