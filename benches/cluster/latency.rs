//! How long a message takes from a client of one node to a client of another.

use std::time::{Duration, Instant};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::nats::Nats;
use crate::process::Process;

/// The messages of one run.
const MESSAGES: usize = 500;

/// The pause between two messages, so that none waits for the one before it.
const PAUSE: Duration = Duration::from_millis(20);

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

async fn connect(server: &Process) -> (SplitSink<Socket, Message>, SplitStream<Socket>) {
    let mut request = format!("ws://{}/ws", server.addr).into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "chinwag.v1".parse().unwrap());
    let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    if let MaybeTlsStream::Plain(tcp) = socket.get_ref() {
        tcp.set_nodelay(true).unwrap();
    }
    let (mut sender, mut receiver) = socket.split();
    let lines = "{\"type\":\"hello\"}\n{\"type\":\"join\",\"room\":\"tea\"}";
    sender.send(Message::text(lines)).await.unwrap();
    read_until(&mut receiver, "\"type\":\"joined\"").await;
    (sender, receiver)
}

/// Reads until a frame contains a text.
async fn read_until(receiver: &mut SplitStream<Socket>, text: &str) {
    loop {
        let message = receiver.next().await.unwrap().unwrap();
        if matches!(message, Message::Text(frame) if frame.contains(text)) {
            return;
        }
    }
}

/// Returns the times from sending to receiving, sorted, in milliseconds.
async fn measure(from: &Process, to: &Process) -> Vec<f64> {
    let (mut sender, mut echo) = connect(from).await;
    let (_keep, mut receiver) = connect(to).await;
    // The sender reads, too. Otherwise its connection would fill up.
    let reading = tokio::spawn(async move { while echo.next().await.is_some() {} });
    let mut times = Vec::new();
    for n in 0..MESSAGES {
        tokio::time::sleep(PAUSE).await;
        let began = Instant::now();
        let text = format!("message {n}.");
        let line = format!("{{\"type\":\"say\",\"room\":\"tea\",\"text\":\"{text}\"}}");
        sender.send(Message::text(line)).await.unwrap();
        read_until(&mut receiver, &text).await;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    reading.abort();
    times.sort_by(f64::total_cmp);
    times
}

fn print_times(what: &str, times: &[f64]) {
    let [p50, p99] = [0.5, 0.99].map(|part| times[(times.len() as f64 * part) as usize]);
    println!(
        "{what:40} p50 {p50:6.2} ms   p99 {p99:6.2} ms   longest {:6.2} ms",
        times.last().unwrap()
    );
}

async fn cluster(what: &str, servers: usize, always: bool) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let nats = Nats::start(folder.path(), servers, always);
    let (url, replicas) = (nats.url(), servers.to_string());
    let node = |name: &str| {
        let db = folder.path().join(name);
        let flags = ["--db", db.to_str().unwrap(), "--nats", &url, "--nats-replicas", &replicas];
        Process::chinwag(&flags)
    };
    let (a, b) = (node("a.db"), node("b.db"));
    print_times(&format!("{what}, same node"), &measure(&a, &a).await);
    print_times(&format!("{what}, other node"), &measure(&a, &b).await);
    a.stop();
    b.stop();
}

async fn single() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let db = folder.path().join("single.db");
    let server = Process::chinwag(&["--db", db.to_str().unwrap()]);
    print_times("one server without NATS", &measure(&server, &server).await);
    server.stop();
}

/// Measures all combinations.
pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        single().await;
        cluster("1 NATS server, always", 1, true).await;
        cluster("1 NATS server, lazy", 1, false).await;
        cluster("3 NATS servers, lazy", 3, false).await;
        cluster("3 NATS servers, always", 3, true).await;
    });
}
