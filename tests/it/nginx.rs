//! Behind nginx, by the configuration that is shipped.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use chinwag::Config;
use chinwag::socket::DisconnectReason;
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header;

use crate::browser::Browser;
use crate::harness::{Client, TestServer, config, eventually, within};

const SHIPPED: &str = include_str!("../../deploy/nginx.conf");

/// The proxy running, in a folder of its own, without rights.
struct Nginx {
    addr: SocketAddr,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Nginx {
    async fn before(server: &TestServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        let shipped = SHIPPED
            .replace("listen 80;", &format!("listen {addr};"))
            .replace("listen [::]:80;", "")
            .replace("server 127.0.0.1:8080;", &format!("server {};", server.addr()));
        let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let places = places.map(|place| format!("{place}_temp_path tmp_{place};\n")).concat();
        let all = format!(
            "daemon off; master_process off; pid pid; error_log stderr; events {{}}\n\
             http {{ access_log off;\n{places}{shipped} }}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), all).unwrap();
        let process = Command::new(binary())
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let up = async || TcpStream::connect(addr).await.is_ok();
        eventually("nginx to listen", up).await;
        Self { addr, _process: process, _folder: folder }
    }

    /// Asks for a WebSocket at a path, as a client at this address that was given this host.
    async fn ask(&self, from: &str, path: &str, host: &str) -> Result<Client, u16> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let tcp = within("nginx", socket.connect(self.addr)).await.unwrap();
        let mut request = format!("ws://{host}{path}").into_client_request().unwrap();
        let origin = format!("http://{host}").parse().unwrap();
        request.headers_mut().insert(header::ORIGIN, origin);
        // What clients claim themselves is left of what nginx adds, and not believed.
        request.headers_mut().insert("X-Forwarded-For", "198.51.100.7".parse().unwrap());
        match within("an answer", Client::try_handshake(tcp, request)).await {
            Ok(client) => Ok(client),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// That of the system, or the one that `scripts/test` fetches.
fn binary() -> String {
    let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/target/nginx/usr/sbin/nginx");
    let all = [fetched, "/usr/sbin/nginx", "/usr/local/bin/nginx"];
    let found = all.into_iter().find(|path| Path::new(path).exists());
    found.expect("scripts/test fetches nginx").to_owned()
}

#[ignore = "needs nginx; scripts/test runs it"]
#[actix_web::test]
async fn clients_behind_nginx_keep_their_own_address_and_host() {
    let proxied = Config {
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        public_hosts: vec!["chat.example".parse().unwrap()],
        max_connections_per_address: Some(1),
        ..config()
    };
    let server = TestServer::start_with(proxied).await;
    let nginx = Nginx::before(&server).await;
    let mut ada = nginx.ask("127.0.0.2", "/ws?nick=Ada", "chat.example").await.unwrap();
    let mut ben = nginx.ask("127.0.0.3", "/chat/ws?nick=Ben", "chat.example").await.unwrap();
    eventually("both", async || server.client_count().await == 2).await;
    ada.say("through the proxy").await;
    for client in [&mut ada, &mut ben] {
        client.expect("Ada: through the proxy").await;
    }
    assert_eq!(nginx.ask("127.0.0.2", "/ws", "chat.example").await.err(), Some(429));
    assert_eq!(nginx.ask("127.0.0.4", "/ws", "evil.example").await.err(), Some(403));
    ben.leave().await;
    server.expect_disconnect(DisconnectReason::Left).await;
}

#[ignore = "needs nginx and Chromium; scripts/test runs it"]
#[actix_web::test]
async fn page_works_below_a_path() {
    let proxied = Config { trusted_proxies: vec!["127.0.0.1".parse().unwrap()], ..config() };
    let server = TestServer::start_with(proxied).await;
    let nginx = Nginx::before(&server).await;
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
    within("the same page again", page.page.refresh()).await.unwrap();
    page.has_line("in another room").await;
    page.until("location.pathname === '/chat/r/tea'").await;
    let links = "[...document.querySelectorAll('#room-list a')].map((a) => a.pathname).sort()";
    page.until(&format!("{links}.join() === '/chat/r/lobby,/chat/r/tea'")).await;
    page.until("document.querySelector('#brand img').naturalWidth > 0").await;
    page.close().await;
}
