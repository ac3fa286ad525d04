//! Helpers that start servers, connect clients, send messages and check what arrives. Every wait
//! has a deadline, and a failure names the line of the test that waited.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::Location;
use std::time::Duration;

use actix::prelude::*;
use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer};
use chinwag::hub::{Drain, ListRooms, RoomInfo};
use chinwag::protocol::DisconnectReason;
use chinwag::websocket::Connections;
use chinwag::{Chat, Config, Hub, Server};
use futures_util::{SinkExt, StreamExt};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The deadline for anything that should happen immediately. It is long because the machine may be
/// busy.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits a future. Panics with `what` once the deadline has passed.
#[track_caller]
pub fn within<F: Future>(what: impl Display, future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: timed out waiting for {what}"),
        }
    }
}

/// Polls `holds` until it returns true.
#[track_caller]
pub fn eventually(
    what: impl Display,
    mut holds: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    within(what, async move {
        let mut pause = Duration::from_millis(5);
        while !holds().await {
            // Lets the server run. The test does not depend on this duration. It grows because each
            // script that a browser runs costs CPU time.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(80));
        }
    })
}

/// Returns how many connections to a server in this process a test may open: `wanted`, or fewer if
/// the hard limit of open files requires it. Raises the soft limit, which is often 1024.
pub fn connections_up_to(wanted: usize) -> usize {
    /// Files that other tests have open at the same time.
    const OTHER_FILES: u64 = 400;
    let allowed = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    // A connection takes two files, and four such tests may run at the same time.
    let max = allowed.saturating_sub(OTHER_FILES) / 8;
    wanted.min(usize::try_from(max).unwrap_or(usize::MAX))
}

/// Returns the default configuration with a free port, without limits on clients and without
/// pings.
///
/// All clients of a test come from one address. Pongs would count against the command limits that
/// some tests set.
pub fn config() -> Config {
    Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        workers: 2,
        max_connections: None,
        max_connections_per_address: None,
        connect_rate: None,
        publish_rate: None,
        publish_rate_per_address: None,
        publish_bytes_per_hour_per_address: None,
        publish_bytes_per_day_per_address: None,
        command_rate: None,
        command_rate_per_address: None,
        max_rooms_per_address: None,
        ping_interval: Duration::from_secs(3600),
        pong_timeout: Duration::from_secs(7200),
        ..Config::default()
    }
}

/// A server that runs in this process.
pub struct TestServer {
    running: Running,
    hub: Addr<Hub>,
    addr: SocketAddr,
    /// The server's own address. With TLS, `addr` is the address of a forwarder.
    server_addr: SocketAddr,
    _certificate: Option<TempDir>,
}

enum Running {
    /// The server of the program, which drives its WebSockets itself.
    Chinwag(Box<Server>),
    /// An `HttpServer` with the chat mounted in it. actix-http drives its WebSockets.
    HttpServer { http: ServerHandle, connections: Connections },
}

/// The kind of server that a test starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ServerKind {
    Chinwag,
    HttpServer,
    ChinwagOverTls,
}

thread_local! {
    static SERVER_KIND: Cell<ServerKind> = const { Cell::new(ServerKind::Chinwag) };
}

/// Runs a test on this thread. Its servers are an `HttpServer` with the chat mounted in it.
pub fn with_http_server(test: impl FnOnce()) {
    SERVER_KIND.set(ServerKind::HttpServer);
    test();
    SERVER_KIND.set(ServerKind::Chinwag);
}

/// Runs a test on this thread. Its servers use TLS, and its clients connect through a forwarder.
pub fn over_tls(test: impl FnOnce()) {
    SERVER_KIND.set(ServerKind::ChinwagOverTls);
    test();
    SERVER_KIND.set(ServerKind::Chinwag);
}

/// Runs tests of a module over TLS, too.
macro_rules! also_over_tls {
    ($($test:ident),+ $(,)?) => {
        mod over_tls {
            $(#[test]
            fn $test() {
                crate::harness::over_tls(super::$test);
            })+
        }
    };
}
pub(crate) use also_over_tls;

/// Runs tests of a module against an `HttpServer`, too.
macro_rules! also_with_http_server {
    ($($test:ident),+ $(,)?) => {
        mod with_http_server {
            $(#[test]
            fn $test() {
                crate::harness::with_http_server(super::$test);
            })+
        }
    };
}
pub(crate) use also_with_http_server;

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(config()).await
    }

    pub async fn start_with(config: Config) -> Self {
        let (server, addr, certificate) = match SERVER_KIND.get() {
            ServerKind::HttpServer => return Self::start_http_server(config),
            ServerKind::ChinwagOverTls => {
                let (server, addr, certificate) = crate::tls::start(config).await;
                (server, addr, Some(certificate))
            }
            ServerKind::Chinwag => {
                let server = chinwag::server::start(config).await.unwrap();
                let addr = server.addrs()[0];
                (server, addr, None)
            }
        };
        let (hub, server_addr) = (server.hub().clone(), server.addrs()[0]);
        let running = Running::Chinwag(Box::new(server));
        Self { running, hub, addr, server_addr, _certificate: certificate }
    }

    /// Mounts the chat as `examples/mount.rs` does.
    fn start_http_server(config: Config) -> Self {
        let hub = Hub::start_in(&Arbiter::new(), &config);
        let connections = Connections::new(config.write_timeout);
        let (workers, listen) = (config.workers, config.listen[0]);
        let chat = Chat::new(hub.clone(), config);
        let mounted = chat.clone();
        let app = move || {
            let app = App::new().wrap(from_fn(chinwag::http::bound_requests));
            app.configure(|app| mounted.configure(app))
        };
        let http = HttpServer::new(app)
            .workers(workers)
            .disable_signals()
            .backlog(4096)
            .tcp_nodelay(true)
            .client_disconnect_timeout(Duration::ZERO)
            .on_connect(chat.on_connect(&connections))
            .bind(listen)
            .unwrap();
        let addr = http.addrs()[0];
        let running = http.run();
        let http = running.handle();
        actix_web::rt::spawn(running);
        let running = Running::HttpServer { http, connections };
        Self { running, hub, addr, server_addr: addr, _certificate: None }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The server's own address, not that of a forwarder.
    pub fn server_addr(&self) -> SocketAddr {
        self.server_addr
    }

    pub fn hub(&self) -> &Addr<Hub> {
        &self.hub
    }

    pub fn into_server(self) -> Server {
        match self.running {
            Running::Chinwag(server) => *server,
            Running::HttpServer { .. } => panic!("the test runs against an HttpServer"),
        }
    }

    pub async fn stop(self) {
        let stop = async {
            match self.running {
                Running::Chinwag(server) => server.stop().await,
                Running::HttpServer { http, connections } => {
                    http.pause().await;
                    let _ = self.hub.send(Drain { wait: true }).await.unwrap().await;
                    connections.all_closed().await;
                    http.stop(false).await;
                }
            }
        };
        within("the server to stop", stop).await;
    }

    /// Connects a client with the query string `query`.
    #[track_caller]
    pub fn connect(&self, query: &str) -> impl Future<Output = Client> + use<> {
        Client::connect(self.addr, query)
    }

    /// Connects a client and waits until it is a room member: it receives every later message.
    pub async fn join(&self, query: &str) -> Client {
        let before = self.member_count().await;
        let client = self.connect(query).await;
        eventually("the client to be a member", async || self.member_count().await > before).await;
        client
    }

    pub async fn rooms(&self) -> Vec<RoomInfo> {
        self.hub().send(ListRooms).await.unwrap()
    }

    /// Returns the number of members of all rooms. A client counts once in each of its rooms.
    pub async fn member_count(&self) -> usize {
        self.rooms().await.iter().map(|room| room.member_count).sum()
    }

    /// Returns how many connections have ended for this reason.
    pub async fn disconnects(&self, reason: DisconnectReason) -> u64 {
        self.hub().send(Disconnects(reason)).await.unwrap()
    }

    #[track_caller]
    pub fn expect_disconnect(&self, reason: DisconnectReason) -> impl Future<Output = ()> {
        let hub = self.hub().clone();
        eventually(format!("one disconnect with the reason {reason:?}"), async move || {
            hub.send(Disconnects(reason)).await.unwrap() == 1
        })
    }
}

/// Asks the hub how many connections have ended for a reason. Like any other crate, the tests can
/// define messages for the hub.
#[derive(Message)]
#[rtype(result = "u64")]
pub struct Disconnects(pub DisconnectReason);

impl Handler<Disconnects> for Hub {
    type Result = u64;

    fn handle(&mut self, Disconnects(reason): Disconnects, _: &mut Self::Context) -> u64 {
        self.disconnects(reason)
    }
}

/// A WebSocket client of the text protocol.
pub struct Client {
    pub stream: WebSocketStream<TcpStream>,
    lines: VecDeque<String>,
    /// How many WebSocket messages were received. Each has one or more lines.
    pub messages: usize,
}

impl Client {
    #[track_caller]
    pub fn connect(addr: SocketAddr, query: &str) -> impl Future<Output = Self> + use<> {
        let url = format!("ws://{addr}/ws?{query}");
        within(format!("a connection to {url}"), async move {
            let request = url.into_client_request().unwrap();
            let tcp = TcpStream::connect(addr).await.unwrap();
            Self::handshake(tcp, request).await
        })
    }

    /// Upgrades an existing TCP connection.
    pub async fn handshake(tcp: TcpStream, request: impl IntoClientRequest + Unpin) -> Self {
        Self::try_handshake(tcp, request).await.unwrap()
    }

    /// Upgrades an existing TCP connection, or returns why the server refused.
    pub async fn try_handshake(
        tcp: TcpStream,
        request: impl IntoClientRequest + Unpin,
    ) -> Result<Self, Error> {
        // Browsers do so, too. Otherwise a small message waits for the previous one's ACK.
        tcp.set_nodelay(true)?;
        let (stream, _) = tokio_tungstenite::client_async(request, tcp).await?;
        Ok(Self { stream, lines: VecDeque::new(), messages: 0 })
    }

    pub async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    pub async fn send(&mut self, message: Message) {
        within("a message to be sent", self.stream.send(message)).await.unwrap();
    }

    /// Returns the next line, or `None` at the end of the connection.
    pub async fn line(&mut self) -> Option<String> {
        while self.lines.is_empty() {
            match self.stream.next().await? {
                Ok(Message::Text(text)) => {
                    self.messages += 1;
                    self.lines.extend(text.split('\n').map(str::to_owned));
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        self.lines.pop_front()
    }

    #[track_caller]
    pub fn expect(&mut self, line: &str) -> impl Future<Output = ()> {
        let caller = Location::caller();
        let read = within(format!("{line:?}"), self.line());
        async move {
            let found = read.await;
            assert_eq!(found.as_deref(), Some(line), "at {caller}");
        }
    }

    /// Reads up to the close frame and returns its code and reason.
    #[track_caller]
    pub fn expect_close(&mut self) -> impl Future<Output = (u16, String)> {
        let caller = Location::caller();
        let read = within("a close frame", async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => break Ok(frame),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break Err(error.to_string()),
                    None => break Err("the end of the connection".to_owned()),
                }
            }
        });
        async move {
            match read.await {
                Ok(frame) => (frame.code.into(), frame.reason.to_string()),
                Err(found) => panic!("{caller}: expected a close frame, not {found}"),
            }
        }
    }

    /// Sends a close frame and waits for the server to close the connection.
    #[track_caller]
    pub fn leave(mut self) -> impl Future<Output = ()> {
        within("the close handshake", async move {
            let _ = self.stream.close(None).await;
            while let Some(Ok(_)) = self.stream.next().await {}
        })
    }
}

/// Sends a request verbatim and returns the whole response, or its head if it is an upgrade.
#[track_caller]
pub fn raw_http(addr: SocketAddr, request: &str) -> impl Future<Output = String> + use<> {
    let request = request.to_owned();
    within("a response", async move {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        while !is_complete(&String::from_utf8_lossy(&response)) {
            if tcp.read_buf(&mut response).await.unwrap_or(0) == 0 {
                break;
            }
        }
        String::from_utf8_lossy(&response).into_owned()
    })
}

/// Whether a response has all of its body.
fn is_complete(response: &str) -> bool {
    let Some((head, body)) = response.split_once("\r\n\r\n") else { return false };
    let head = head.to_lowercase();
    let length = head.split("\r\ncontent-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
    head.starts_with("http/1.1 101") || length.is_some_and(|length| body.len() >= length)
}

/// Connects and upgrades, and returns the raw TCP connection.
#[track_caller]
pub fn raw_socket(addr: SocketAddr, path: &str) -> impl Future<Output = TcpStream> + use<> {
    let path = path.to_owned();
    within("a handshake", async move {
        raw_upgrade(TcpStream::connect(addr).await.unwrap(), addr, &path).await
    })
}

/// Upgrades an existing TCP connection.
pub async fn raw_upgrade(tcp: TcpStream, addr: SocketAddr, path: &str) -> TcpStream {
    raw_handshake(tcp, addr, path, "").await.0
}

/// Upgrades an existing TCP connection with additional headers, each of which ends with a line
/// break. Also returns the head of the response.
pub async fn raw_handshake(
    mut tcp: TcpStream,
    addr: SocketAddr,
    path: &str,
    headers: &str,
) -> (TcpStream, String) {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (tcp, head)
}

/// Encodes a client's frame with this first byte and a mask of zeros.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
