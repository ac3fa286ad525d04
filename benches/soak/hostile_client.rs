//! Hostile clients: each makes one random attack after the other, each for some seconds.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::run::Soak;
use super::server::connect;

/// The number of the first hostile client. The client's number determines its address.
const FIRST_NUMBER: u32 = 100_000;

type Attack =
    (&'static str, fn(HostileClient) -> Pin<Box<dyn Future<Output = std::io::Result<()>>>>);

const ATTACKS: [Attack; 20] = [
    ("flood of messages, answers read", |v| Box::pin(v.flood(true))),
    ("flood of messages, nothing read", |v| Box::pin(v.flood(false))),
    ("flood of plain text", |v| Box::pin(v.plain_flood())),
    ("stops reading in a busy room", |v| Box::pin(v.stall())),
    ("giant frame", |v| Box::pin(v.raw(giant_frame()))),
    ("endless empty fragments", |v| Box::pin(v.raw(empty_fragments()))),
    ("bad UTF-8", |v| Box::pin(v.raw(frame(0x81, b"\xC3\x28")))),
    ("reserved bits", |v| Box::pin(v.raw(frame(0xF1, b"x")))),
    ("invalid close code", |v| Box::pin(v.raw(frame(0x88, b"\x03\xE7")))),
    ("half a handshake", |v| Box::pin(v.slow_handshake())),
    ("says no hello", |v| Box::pin(v.no_hello())),
    ("invalid and oversized JSON", |v| Box::pin(v.garbage())),
    ("joins and leaves", |v| Box::pin(v.send_repeatedly(|v| vec![v.join(), v.on_room("leave")]))),
    ("thousands of rooms", |v| Box::pin(v.send_repeatedly(|_| vec![join_to(&random_room())]))),
    ("changes to the nicks of others", |v| {
        Box::pin(v.send_repeatedly(|v| vec![json!({"type": "nick", "nick": v.soak.random_nick()})]))
    }),
    ("scrapes history", |v| Box::pin(v.send_repeatedly(|v| vec![v.history()]))),
    ("sends who, typing and read", |v| {
        Box::pin(v.send_repeatedly(|v| vec![v.on_room("who"), v.on_room("typing"), v.read()]))
    }),
    ("uses the ids of others", |v| {
        Box::pin(v.send_repeatedly(|v| vec![v.say_with_the_id_of_another()]))
    }),
    ("reconnects repeatedly", |v| Box::pin(v.reconnect())),
    ("uses another client's nick", |v| Box::pin(v.impersonate())),
];

/// Attacks until the test is over.
pub(crate) async fn run(number: u32, soak: Rc<Soak>) {
    while !soak.is_over() {
        let (name, attack) = fastrand::choice(&ATTACKS).unwrap();
        let client = HostileClient { number: FIRST_NUMBER + number, soak: Rc::clone(&soak) };
        let time = Duration::from_millis(fastrand::u64(500..6000));
        // An attack may fail or time out.
        let _ = timeout(time, attack(client)).await;
        soak.count_attack(name);
        sleep(Duration::from_millis(fastrand::u64(0..500))).await;
    }
}

fn random_room() -> String {
    format!("flood-{}", fastrand::u32(..))
}

fn join_to(room: &str) -> Value {
    json!({"type": "join", "room": room})
}

/// Encodes a frame with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | length as u8),
        Ok(length) => {
            frame.push(0xFE);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0xFF);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Returns the header of a frame of 2^40 bytes and a part of its payload.
fn giant_frame() -> Vec<u8> {
    [&[0x82, 0xFF, 0, 0, 1, 0, 0, 0, 0, 0][..], &[0; 100_000]].concat()
}

/// Returns the start of a message and many empty fragments.
fn empty_fragments() -> Vec<u8> {
    [frame(0x01, b""), frame(0x00, b"").repeat(10_000)].concat()
}

#[derive(Clone)]
struct HostileClient {
    number: u32,
    soak: Rc<Soak>,
}

impl HostileClient {
    fn room(&self) -> String {
        format!("room-{}", self.number % self.soak.rooms)
    }

    fn join(&self) -> Value {
        join_to(&self.room())
    }

    fn on_room(&self, kind: &str) -> Value {
        json!({"type": kind, "room": self.room()})
    }

    fn read(&self) -> Value {
        json!({"type": "read", "room": self.room(), "seq": fastrand::u32(..)})
    }

    fn history(&self) -> Value {
        json!({"type": "history", "room": self.room(), "limit": 100,
               "before": fastrand::u32(1..1_000_000)})
    }

    fn say_with_the_id_of_another(&self) -> Value {
        let id = format!("{}-{}", fastrand::u32(0..self.soak.good), fastrand::u32(0..400));
        json!({"type": "say", "room": self.room(), "text": "bad: reused id", "id": id})
    }

    async fn upgrade(&self, query: &str, json: bool) -> std::io::Result<TcpStream> {
        let mut tcp = connect(self.soak.addr(), self.number).await?;
        let protocol = if json { "Sec-WebSocket-Protocol: chinwag.v1\r\n" } else { "" };
        let request = format!(
            "GET /ws?{query} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{protocol}\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.soak.addr()
        );
        tcp.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        // Frames, or the body of an error, may follow the head in the same read.
        while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            if tcp.read_buf(&mut head).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        Ok(tcp)
    }

    /// Connects a client of the JSON protocol that joins a busy room.
    async fn connect_and_join(&self) -> std::io::Result<TcpStream> {
        let mut tcp = self.upgrade("", true).await?;
        let hello = json!({"type": "hello", "key": format!("the secret of bad {}", self.number)});
        tcp.write_all(&lines(&[hello, self.join()])).await?;
        Ok(tcp)
    }

    async fn flood(self, reads: bool) -> std::io::Result<()> {
        let tcp = self.connect_and_join().await?;
        let say = json!({"type": "say", "room": self.room(), "text": format!("bad {:x<500}", "")});
        write_forever(tcp, || lines(std::slice::from_ref(&say)), reads).await
    }

    async fn plain_flood(self) -> std::io::Result<()> {
        let tcp = self.upgrade(&format!("room={}", self.room()), false).await?;
        write_forever(tcp, || frame(0x81, b"bad and plain"), true).await
    }

    async fn stall(self) -> std::io::Result<()> {
        let tcp = self.connect_and_join().await?;
        sleep(Duration::from_secs(60)).await;
        drop(tcp);
        Ok(())
    }

    /// Sends the same frames repeatedly on a raw socket.
    async fn raw(self, bytes: Vec<u8>) -> std::io::Result<()> {
        let tcp = self.upgrade(&format!("room={}", self.room()), false).await?;
        write_forever(tcp, || bytes.clone(), true).await
    }

    async fn slow_handshake(self) -> std::io::Result<()> {
        let mut all = Vec::new();
        for _ in 0..50 {
            all.push(connect(self.soak.addr(), self.number).await?);
        }
        for letter in b"GET /ws HTTP/1.1\r\nHost: x\r\n" {
            for tcp in &mut all {
                tcp.write_all(&[*letter]).await?;
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn no_hello(self) -> std::io::Result<()> {
        let mut tcp = self.upgrade("", true).await?;
        tcp.read_to_end(&mut Vec::new()).await.map(|_| ())
    }

    async fn garbage(self) -> std::io::Result<()> {
        let tcp = self.connect_and_join().await?;
        let deep = format!("{{\"type\":{}", "[".repeat(20_000));
        let kinds = [
            deep,
            "{\"a\":".repeat(4_000),
            "[]".to_owned(),
            "\0".repeat(100),
            "x\n".repeat(10_000),
            "x".repeat(1_000_000),
        ];
        write_forever(tcp, || frame(0x81, fastrand::choice(&kinds).unwrap().as_bytes()), true).await
    }

    /// Sends commands as fast as the socket accepts them.
    async fn send_repeatedly(self, commands: fn(&Self) -> Vec<Value>) -> std::io::Result<()> {
        let tcp = self.connect_and_join().await?;
        write_forever(tcp, || lines(&commands(&self)), true).await
    }

    async fn reconnect(self) -> std::io::Result<()> {
        loop {
            let mut tcp = match self.upgrade("", true).await {
                Ok(tcp) => tcp,
                Err(_) => {
                    sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let key = format!("the secret of bad {}", self.number);
            let after = json!({"epoch": "0123456789abcdef", "seq": fastrand::u16(..)});
            let join = json!({"type": "join", "room": self.soak.random_room(), "after": after});
            tcp.write_all(&lines(&[json!({"type": "hello", "key": key}), join])).await?;
            tcp.read_u8().await?;
        }
    }

    async fn impersonate(self) -> std::io::Result<()> {
        let query = format!("room={}&nick={}", self.room(), self.soak.random_nick());
        let mut tcp = self.upgrade(&query, false).await?;
        tcp.write_all(&frame(0x81, b"bad: reused nick")).await?;
        tcp.read_to_end(&mut Vec::new()).await.map(|_| ())
    }
}

/// Encodes commands as lines of one frame.
fn lines(lines: &[Value]) -> Vec<u8> {
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    frame(0x81, lines.join("\n").as_bytes())
}

/// Writes as fast as the socket accepts data. Reads the answers, or nothing.
async fn write_forever(
    tcp: TcpStream,
    mut payload: impl FnMut() -> Vec<u8>,
    reads: bool,
) -> std::io::Result<()> {
    let (mut reader, mut writer) = tcp.into_split();
    let read = async move {
        let mut chunk = vec![0; 64 * 1024];
        while reads && reader.read(&mut chunk).await? > 0 {}
        if !reads {
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    let write = async move {
        loop {
            writer.write_all(&payload()).await?;
        }
    };
    tokio::select! { end = read => end, end = write => end }
}
