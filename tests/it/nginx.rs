//! chinwag behind nginx, with the shipped configuration.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use chinwag::Config;
use chinwag::protocol::DisconnectReason;
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header;

use crate::browser::Browser;
use crate::harness::{Client, TestServer, config, eventually, within};

const SHIPPED: &str = include_str!("../../deploy/nginx.conf");

/// An nginx that runs without privileges, in its own folder.
struct Nginx {
    addr: SocketAddr,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Nginx {
    /// Starts nginx as a proxy of a server.
    async fn in_front_of(server: &TestServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let shipped = SHIPPED
            .replace("listen 80;", &format!("listen {addr};"))
            .replace("listen [::]:80;", "")
            .replace("server 127.0.0.1:8080;", &format!("server {};", server.addr()));
        let temp_folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temp_paths =
            temp_folders.map(|name| format!("{name}_temp_path tmp_{name};\n")).concat();
        let configuration = format!(
            "daemon off; master_process off; pid pid; error_log stderr; events {{}}\n\
             http {{ access_log off;\n{temp_paths}{shipped} }}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), configuration).unwrap();
        let process = Command::new(nginx_binary())
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

    /// Requests a WebSocket from this client address, at this path and host. Returns the client, or
    /// the status of the response.
    async fn connect_from(&self, from: &str, path: &str, host: &str) -> Result<Client, u16> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let tcp = within("nginx", socket.connect(self.addr)).await.unwrap();
        let mut request = format!("ws://{host}{path}").into_client_request().unwrap();
        let origin = format!("http://{host}").parse().unwrap();
        request.headers_mut().insert(header::ORIGIN, origin);
        // nginx appends the real address to this forged one, and the server uses only the last one.
        request.headers_mut().insert("X-Forwarded-For", "198.51.100.7".parse().unwrap());
        match within("an answer", Client::try_handshake(tcp, request)).await {
            Ok(client) => Ok(client),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Returns the path of nginx: the one that `scripts/test` downloads, or that of the system.
fn nginx_binary() -> String {
    let downloaded = concat!(env!("CARGO_MANIFEST_DIR"), "/target/nginx/usr/sbin/nginx");
    let all = [downloaded, "/usr/sbin/nginx", "/usr/local/bin/nginx"];
    let found = all.into_iter().find(|path| Path::new(path).exists());
    found.expect("nginx is installed; scripts/test downloads it").to_owned()
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
    let nginx = Nginx::in_front_of(&server).await;
    let mut ada = nginx.connect_from("127.0.0.2", "/ws?nick=Ada", "chat.example").await.unwrap();
    let mut ben =
        nginx.connect_from("127.0.0.3", "/chat/ws?nick=Ben", "chat.example").await.unwrap();
    eventually("both clients to be registered", async || server.member_count().await == 2).await;
    ada.say("through the proxy").await;
    for client in [&mut ada, &mut ben] {
        client.expect("Ada: through the proxy").await;
    }
    assert_eq!(nginx.connect_from("127.0.0.2", "/ws", "chat.example").await.err(), Some(429));
    assert_eq!(nginx.connect_from("127.0.0.4", "/ws", "evil.example").await.err(), Some(403));
    ben.leave().await;
    server.expect_disconnect(DisconnectReason::Left).await;
}

#[ignore = "needs nginx and Chromium; scripts/test runs it"]
#[actix_web::test]
async fn page_works_below_a_path() {
    let proxied = Config { trusted_proxies: vec!["127.0.0.1".parse().unwrap()], ..config() };
    let server = TestServer::start_with(proxied).await;
    let nginx = Nginx::in_front_of(&server).await;
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
