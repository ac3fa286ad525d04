//! The verbs of the tests: start a server, connect a client, say, expect. Whatever is awaited has
//! a deadline, and what fails names the line of the test that asked.

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

/// How long anything may take that should happen at once. Generous: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits, and fails with `what` once the deadline has passed.
#[track_caller]
pub fn within<F: Future>(what: impl Display, future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: in vain waited for {what}"),
        }
    }
}

/// Asks again and again until the answer is the one wanted.
#[track_caller]
pub fn eventually(
    what: impl Display,
    mut holds: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    within(what, async move {
        while !holds().await {
            // Gives the server a turn; nothing depends on how long it is.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

/// How many connections to a server in this process a test may open: as many as it wants where the
/// hard limit of open files allows it, and fewer otherwise. Raises the soft limit, often 1024.
pub fn connections_up_to(wanted: usize) -> usize {
    /// For all other tests that run at the same time.
    const OTHER_FILES: u64 = 400;
    let allowed = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    // One for the client and one for the server, and four such tests may run together.
    let most = allowed.saturating_sub(OTHER_FILES) / 8;
    wanted.min(usize::try_from(most).unwrap_or(usize::MAX))
}

/// A configuration for tests: a free port, as many connections and messages as a test likes,
/// which all come from one address, no pings, whose answers would count as commands, and otherwise
/// as the program has it.
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

/// A server in this process.
pub struct TestServer {
    running: Running,
    hub: Addr<Hub>,
    addr: SocketAddr,
    /// The server's own address; with TLS, `addr` is that of a forwarder.
    server_addr: SocketAddr,
    _certificate: Option<TempDir>,
}

enum Running {
    /// The one that the program starts, which drives its connections itself.
    Driven(Box<Server>),
    /// An `HttpServer` that the chat is mounted in: actix-http keeps its connections.
    Plain { http: ServerHandle, connections: Connections },
}

/// Which kind of server a test starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Road {
    Driven,
    Plain,
    Tls,
}

thread_local! {
    static ROAD: Cell<Road> = const { Cell::new(Road::Driven) };
}

/// Runs a test, whose thread this is, with servers that are an `HttpServer`.
pub fn on_the_plain_road(test: impl FnOnce()) {
    ROAD.set(Road::Plain);
    test();
    ROAD.set(Road::Driven);
}

/// Runs a test on this thread with TLS servers. Its clients connect through a forwarder.
pub fn over_tls(test: impl FnOnce()) {
    ROAD.set(Road::Tls);
    test();
    ROAD.set(Road::Driven);
}

/// Makes tests of a module run over TLS as well.
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

/// Makes tests of a module run on the plain road as well.
macro_rules! also_on_the_plain_road {
    ($($test:ident),+ $(,)?) => {
        mod on_the_plain_road {
            $(#[test]
            fn $test() {
                crate::harness::on_the_plain_road(super::$test);
            })+
        }
    };
}
pub(crate) use also_on_the_plain_road;

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(config()).await
    }

    pub async fn start_with(config: Config) -> Self {
        let (server, addr, certificate) = match ROAD.get() {
            Road::Plain => return Self::start_plain(config),
            Road::Tls => {
                let (server, addr, certificate) = crate::tls::start(config).await;
                (server, addr, Some(certificate))
            }
            Road::Driven => {
                let server = chinwag::server::start(config).await.unwrap();
                let addr = server.addrs()[0];
                (server, addr, None)
            }
        };
        let (hub, server_addr) = (server.hub().clone(), server.addrs()[0]);
        let running = Running::Driven(Box::new(server));
        Self { running, hub, addr, server_addr, _certificate: certificate }
    }

    /// As `examples/mount.rs` does it.
    fn start_plain(config: Config) -> Self {
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
        let running = Running::Plain { http, connections };
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
            Running::Driven(server) => *server,
            Running::Plain { .. } => panic!("an HttpServer is no chinwag::Server"),
        }
    }

    pub async fn stop(self) {
        let stop = async {
            match self.running {
                Running::Driven(server) => server.stop().await,
                Running::Plain { http, connections } => {
                    http.pause().await;
                    let _ = self.hub.send(Drain { wait: true }).await.unwrap().await;
                    connections.all_closed().await;
                    http.stop(false).await;
                }
            }
        };
        within("the server to stop", stop).await;
    }

    /// Connects a client; `query` is what follows `/ws?`.
    #[track_caller]
    pub fn connect(&self, query: &str) -> impl Future<Output = Client> + use<> {
        Client::connect(self.addr, query)
    }

    /// Connects a client and waits until the hub knows it, so that it reads all that is said next.
    pub async fn join(&self, query: &str) -> Client {
        let before = self.client_count().await;
        let client = self.connect(query).await;
        eventually("the client to be registered", async || self.client_count().await > before)
            .await;
        client
    }

    pub async fn rooms(&self) -> Vec<RoomInfo> {
        self.hub().send(ListRooms).await.unwrap()
    }

    pub async fn client_count(&self) -> usize {
        self.rooms().await.iter().map(|room| room.member_count).sum()
    }

    /// How many connections have ended for this reason.
    pub async fn disconnects(&self, reason: DisconnectReason) -> u64 {
        self.hub().send(Disconnects(reason)).await.unwrap()
    }

    #[track_caller]
    pub fn expect_disconnect(&self, reason: DisconnectReason) -> impl Future<Output = ()> {
        let hub = self.hub().clone();
        eventually(format!("one disconnect as {reason:?}"), async move || {
            hub.send(Disconnects(reason)).await.unwrap() == 1
        })
    }
}

/// A question to the hub that the crate does not have: another crate may bring its own.
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
    /// WebSocket messages read so far, however many lines each had.
    pub frames: usize,
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

    /// Upgrades a connection that was made elsewhere.
    pub async fn handshake(tcp: TcpStream, request: impl IntoClientRequest + Unpin) -> Self {
        Self::try_handshake(tcp, request).await.unwrap()
    }

    /// The same, if that is not refused.
    pub async fn try_handshake(
        tcp: TcpStream,
        request: impl IntoClientRequest + Unpin,
    ) -> Result<Self, Error> {
        // As browsers do. Else small messages wait for the acknowledgement of the one before.
        tcp.set_nodelay(true)?;
        let (stream, _) = tokio_tungstenite::client_async(request, tcp).await?;
        Ok(Self { stream, lines: VecDeque::new(), frames: 0 })
    }

    pub async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    pub async fn send(&mut self, message: Message) {
        within("a message to be sent", self.stream.send(message)).await.unwrap();
    }

    /// The next line, or nothing at the end of the connection.
    pub async fn line(&mut self) -> Option<String> {
        while self.lines.is_empty() {
            match self.stream.next().await? {
                Ok(Message::Text(text)) => {
                    self.frames += 1;
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

    /// Reads to the close frame, over whatever comes before it, and gives its code and words.
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
                Err(found) => panic!("{caller}: in place of a close frame: {found}"),
            }
        }
    }

    /// Closes in order, and waits for the server to end the connection.
    #[track_caller]
    pub fn leave(mut self) -> impl Future<Output = ()> {
        within("the close handshake", async move {
            let _ = self.stream.close(None).await;
            while let Some(Ok(_)) = self.stream.next().await {}
        })
    }
}

/// Sends a request as it stands and gives all of the answer; of an upgrade, its head.
#[track_caller]
pub fn raw_http(addr: SocketAddr, request: &str) -> impl Future<Output = String> + use<> {
    let request = request.to_owned();
    within("an answer", async move {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !is_whole(&String::from_utf8_lossy(&answer)) {
            if tcp.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    })
}

fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let head = head.to_lowercase();
    let length = head.split("\r\ncontent-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
    head.starts_with("http/1.1 101") || length.is_some_and(|length| body.len() >= length)
}

/// Upgrades by hand and gives the bare connection.
#[track_caller]
pub fn raw_socket(addr: SocketAddr, path: &str) -> impl Future<Output = TcpStream> + use<> {
    let path = path.to_owned();
    within("a handshake", async move {
        raw_upgrade(TcpStream::connect(addr).await.unwrap(), addr, &path).await
    })
}

/// Upgrades a connection that was made elsewhere.
pub async fn raw_upgrade(tcp: TcpStream, addr: SocketAddr, path: &str) -> TcpStream {
    raw_handshake(tcp, addr, path, "").await.0
}

/// Upgrades a connection with these headers, each with its line break. Also gives the head of the
/// answer.
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

/// A client's frame: first byte as given, a mask of zeros, the length in as few bytes as it takes.
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
