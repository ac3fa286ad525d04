//! The attackers. Each connects, prepares, and then sends the same kind of frame as fast as its
//! socket accepts it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::sample_text::sample_text;

/// How many rooms attackers and bystanders share in attacks on members of many rooms.
pub(crate) const SHARED_ROOMS: usize = 300;

/// A room with as many bytes in memory as a room may have.
pub(crate) const LONG_ROOM: &str = "long";

/// A kind of attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// The number of connections from each address.
    pub(crate) connections: usize,
    /// How many rooms attackers and bystanders join before it starts.
    pub(crate) shared_rooms: usize,
    /// Commands that each attacker sends first, after `hello` and `join`.
    prepare: fn(&Attacker) -> Vec<Value>,
    /// The frame with this number. An attacker that returns an empty frame sends no more.
    payload: fn(&Attacker, u64) -> Vec<u8>,
    /// Whether the attackers read answers.
    reads: bool,
}

pub(crate) const ATTACKS: [Attack; 17] = [
    Attack {
        name: "says 4 KiB as fast as it may, ten of them",
        connections: 10,
        payload: |_, _| lines(&[say("lobby", &"x".repeat(4000))]),
        ..NO_ATTACK
    },
    Attack {
        name: "says short things under a fresh key each",
        connections: 20,
        payload: |attacker, n| {
            let key = format!("a key of {} and {n}", attacker.number);
            lines(&[json!({"type": "hello", "key": key}), say("lobby", "x"), say("lobby", "y")])
        },
        ..NO_ATTACK
    },
    Attack {
        name: "opens rooms",
        connections: 10,
        payload: |attacker, n| lines(&[join(&format!("flood-{}-{n}", attacker.number))]),
        ..NO_ATTACK
    },
    Attack {
        name: "joins and leaves",
        connections: 100,
        payload: |_, _| lines(&[json!({"type": "leave", "room": "lobby"}), join("lobby")]),
        ..NO_ATTACK
    },
    Attack {
        name: "changes its name in 300 rooms",
        connections: 4,
        shared_rooms: SHARED_ROOMS,
        payload: |attacker, n| lines(&[nick(&format!("eve {} {n}", attacker.number))]),
        ..NO_ATTACK
    },
    Attack {
        name: "asks for a name that is taken in 300 rooms",
        connections: 4,
        shared_rooms: SHARED_ROOMS,
        payload: |_, _| lines(&vec![nick("bystander 1"); 50]),
        ..NO_ATTACK
    },
    Attack {
        name: "takes identities with names that are taken",
        connections: 20,
        prepare: |attacker| vec![json!({"type": "hello", "key": key(attacker.number)})],
        payload: |attacker, n| {
            let key = key(attacker.number + (n % 2) as u32);
            lines(&[json!({"type": "hello", "key": key, "nick": "bystander 1"})])
        },
        ..NO_ATTACK
    },
    Attack {
        name: "resumes a megabyte again and again",
        connections: 10,
        payload: |attacker, _| lines(&[attacker.resume()]),
        ..NO_ATTACK
    },
    Attack {
        name: "resumes a megabyte once and reads nothing",
        connections: 100,
        payload: |attacker, n| if n == 0 { lines(&[attacker.resume()]) } else { Vec::new() },
        reads: false,
        ..NO_ATTACK
    },
    Attack {
        name: "resumes a megabyte again and again and reads nothing",
        connections: 100,
        payload: |attacker, _| lines(&[attacker.resume()]),
        reads: false,
        ..NO_ATTACK
    },
    Attack {
        name: "asks for history and reads nothing",
        connections: 100,
        payload: |_, n| {
            let before = 2 + n % 500;
            let room = LONG_ROOM;
            lines(&[json!({"type": "history", "room": room, "limit": 100, "before": before})])
        },
        reads: false,
        ..NO_ATTACK
    },
    Attack {
        name: "sends frames of blank lines",
        connections: 10,
        payload: |_, _| frame(0x81, &[b'\n'; 28_000]),
        ..NO_ATTACK
    },
    Attack {
        name: "sends mistakes",
        connections: 20,
        payload: |_, _| frame(0x81, "{\"type\":\n".repeat(3_000).as_bytes()),
        ..NO_ATTACK
    },
    Attack {
        name: "sends pings",
        connections: 20,
        payload: |_, _| frame(0x89, &[b'x'; 125]).repeat(100),
        ..NO_ATTACK
    },
    Attack {
        name: "sends compressed frames of blank lines",
        connections: 10,
        payload: |_, _| BLANK_LINES.clone(),
        ..NO_ATTACK
    },
    Attack {
        name: "sends compressed messages in fragments of one byte",
        connections: 10,
        payload: |_, _| FRAGMENTS.clone(),
        ..NO_ATTACK
    },
    Attack {
        name: "sends compressed bombs",
        connections: 10,
        payload: |_, _| BOMB.clone(),
        ..NO_ATTACK
    },
];

const NO_ATTACK: Attack = Attack {
    name: "does nothing",
    connections: 0,
    shared_rooms: 0,
    prepare: |_| Vec::new(),
    payload: |_, _| Vec::new(),
    reads: true,
};

/// One connection of an attack.
pub(crate) struct Attacker {
    pub(crate) attack: &'static Attack,
    pub(crate) number: u32,
    pub(crate) from: Ipv4Addr,
    pub(crate) server: SocketAddr,
    pub(crate) epoch: String,
}

impl Attacker {
    /// Attacks until it is dropped. Reconnects when the server closes its connection.
    pub(crate) async fn attack(self) {
        loop {
            let _ = self.attack_once().await;
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn attack_once(&self) -> std::io::Result<()> {
        let mut tcp = connect(self.server, self.from, COMPRESSION).await?;
        let mut commands = vec![json!({"type": "hello"}), join("lobby"), join(LONG_ROOM)];
        commands.extend(shared_rooms(self.attack.shared_rooms));
        commands.extend((self.attack.prepare)(self));
        tcp.write_all(&lines(&commands)).await?;
        let (mut reader, mut writer) = tcp.into_split();
        let read = async move {
            let mut chunk = vec![0; 64 * 1024];
            while self.attack.reads && reader.read(&mut chunk).await? > 0 {}
            if !self.attack.reads {
                std::future::pending::<()>().await;
            }
            Ok(())
        };
        let write = async move {
            for payload in (0..).map(|n| (self.attack.payload)(self, n)) {
                writer.write_all(&payload).await?;
                if payload.is_empty() {
                    std::future::pending::<()>().await;
                }
            }
            Ok(())
        };
        tokio::select! {
            read = read => read,
            written = write => written,
        }
    }

    fn resume(&self) -> Value {
        let after = json!({"epoch": self.epoch, "seq": 0});
        json!({"type": "join", "room": LONG_ROOM, "after": after})
    }
}

/// A header that offers compression.
const COMPRESSION: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

/// Connects a client of the JSON protocol from this address. Each of `headers` ends with a line
/// break.
pub(crate) async fn connect(
    server: SocketAddr,
    from: Ipv4Addr,
    headers: &str,
) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut tcp = socket.connect(server).await?;
    tcp.set_nodelay(true)?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chinwag.v1\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    tcp.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 101 ") {
        Ok(tcp)
    } else {
        Err(std::io::Error::other("the server refused the WebSocket"))
    }
}

pub(crate) fn shared_rooms(count: usize) -> impl Iterator<Item = Value> {
    (0..count).map(|n| join(&format!("shared-{n}")))
}

pub(crate) fn join(room: &str) -> Value {
    json!({"type": "join", "room": room})
}

pub(crate) fn say(room: &str, text: &str) -> Value {
    json!({"type": "say", "room": room, "text": text})
}

pub(crate) fn nick(nick: &str) -> Value {
    json!({"type": "nick", "nick": nick})
}

fn key(number: u32) -> String {
    format!("the key of attacker {number}")
}

// These are compressed once, because compressing costs more than decompressing.

static BLANK_LINES: LazyLock<Vec<u8>> = LazyLock::new(|| frame(0xC1, &deflate(&[b'\n'; 28_000])));

static BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| frame(0xC1, &deflate(&vec![b' '; 20_000_000])));

static FRAGMENTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let compressed = deflate(sample_text(1, 28_000).as_bytes());
    let fragments = compressed.iter().flat_map(|byte| frame(0x00, &[*byte]));
    [frame(0x41, &[]), fragments.collect(), frame(0x80, &[])].concat()
});

/// Compresses a message.
fn deflate(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 100);
    let mut deflate = Compress::new(Compression::best(), false);
    deflate.compress_vec(text, &mut bytes, FlushCompress::Sync).unwrap();
    bytes.truncate(bytes.len() - 4);
    bytes
}

/// Encodes commands as lines of one frame.
pub(crate) fn lines(lines: &[Value]) -> Vec<u8> {
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    frame(0x81, lines.join("\n").as_bytes())
}

/// Encodes a frame with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut frame = if length < 126 { vec![first, 0x80 | length as u8] } else { vec![first, 0xFE] };
    if length >= 126 {
        frame.extend(length.to_be_bytes());
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
