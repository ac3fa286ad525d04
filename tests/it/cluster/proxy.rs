//! A TCP proxy between a node and NATS. It can reset connections, hold back what one or both sides
//! send, and discard messages about presence.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use actix_web::rt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does now.
#[derive(Clone, Copy, Default)]
struct State {
    holds_requests: bool,
    holds_answers: bool,
    drops_sent_presence: bool,
    drops_received_presence: bool,
    resets: u32,
}

/// The start of the subjects of messages about presence.
const PRESENCE: &[u8] = b"chinwag.p.";

/// The proxy. It ends when it is dropped.
pub struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
    /// How many messages about presence were discarded.
    dropped: Rc<Cell<usize>>,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (state, received) = watch::channel(State::default());
        let dropped = Rc::<Cell<usize>>::default();
        let counter = Rc::clone(&dropped);
        let mut end = received.clone();
        rt::spawn(async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (client, _) = accepted.unwrap();
                        let counter = Rc::clone(&counter);
                        rt::spawn(forward(client, server, received.clone(), counter));
                    }
                    ended = end.wait_for(|_| false) => return assert!(ended.is_err()),
                }
            }
        });
        Self { addr, state, dropped }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.resets += 1);
    }

    /// Forwards nothing. It still accepts connections.
    pub fn hold_both(&self) {
        self.state.send_modify(|state| (state.holds_requests, state.holds_answers) = (true, true));
    }

    /// Forwards to the server only.
    pub fn hold_answers(&self) {
        self.state.send_modify(|state| state.holds_answers = true);
    }

    /// Discards messages about presence that the node sends.
    pub fn drop_sent_presence(&self) {
        self.state.send_modify(|state| state.drops_sent_presence = true);
    }

    /// Discards messages about presence that the node should receive.
    pub fn drop_received_presence(&self) {
        self.state.send_modify(|state| state.drops_received_presence = true);
    }

    /// Forwards all messages again.
    pub fn drop_nothing(&self) {
        self.state.send_modify(|state| {
            (state.drops_sent_presence, state.drops_received_presence) = (false, false);
        });
    }

    /// Returns how many messages were discarded.
    pub fn dropped(&self) -> usize {
        self.dropped.get()
    }

    /// Forwards what it has held back, as TCP does after an outage, and everything after it.
    pub fn heal(&self) {
        self.state
            .send_modify(|state| (state.holds_requests, state.holds_answers) = (false, false));
    }
}

/// Forwards both directions of a connection until one side closes it, or until it is reset.
async fn forward(
    mut client: TcpStream,
    server: SocketAddr,
    mut state: watch::Receiver<State>,
    dropped: Rc<Cell<usize>>,
) {
    // The server may be down.
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let resets = state.borrow().resets;
    let is_reset = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let sent = Direction {
            holds: |state| state.holds_requests,
            drops: |state| state.drops_sent_presence,
        };
        let received = Direction {
            holds: |state| state.holds_answers,
            drops: |state| state.drops_received_presence,
        };
        tokio::select! {
            () = sent.pump(from_client, to_server, state.clone(), &dropped) => false,
            () = received.pump(from_server, to_client, state.clone(), &dropped) => false,
            reset = state.wait_for(|state| state.resets > resets) => reset.is_ok(),
        }
    };
    if is_reset {
        for side in [&client, &server] {
            socket2::SockRef::from(side).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

/// What happens to one direction of a connection.
struct Direction {
    holds: fn(&State) -> bool,
    drops: fn(&State) -> bool,
}

impl Direction {
    /// Forwards whole messages of the protocol of NATS.
    async fn pump(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        mut state: watch::Receiver<State>,
        dropped: &Cell<usize>,
    ) {
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            let count = from.read_buf(&mut buffer).await.unwrap_or(0);
            if state.wait_for(|state| !(self.holds)(state)).await.is_err() || count == 0 {
                return;
            }
            let drops = (self.drops)(&state.borrow());
            let (mut forwarded, mut rest) = (Vec::new(), &buffer[..]);
            while let Some((subject, length)) = first_message(rest) {
                if drops && subject.is_some_and(|subject| subject.starts_with(PRESENCE)) {
                    dropped.set(dropped.get() + 1);
                } else {
                    forwarded.extend(&rest[..length]);
                }
                rest = &rest[length..];
            }
            let taken = buffer.len() - rest.len();
            buffer.drain(..taken);
            if to.write_all(&forwarded).await.is_err() {
                return;
            }
        }
    }
}

/// Returns the subject and the length of the first message, or `None` if it is incomplete. Only a
/// message with a payload has a subject.
fn first_message(bytes: &[u8]) -> Option<(Option<&[u8]>, usize)> {
    let line = bytes.windows(2).position(|end| end == b"\r\n")?;
    let mut words = bytes[..line].split(|byte| byte.is_ascii_whitespace());
    let with_payload: [&[u8]; 4] = [b"PUB", b"HPUB", b"MSG", b"HMSG"];
    if !words.next().is_some_and(|word| with_payload.contains(&word)) {
        return Some((None, line + 2));
    }
    let subject = words.next();
    let payload: usize = str::from_utf8(words.next_back()?).ok()?.parse().ok()?;
    let length = line + 2 + payload + 2;
    (bytes.len() >= length).then_some((subject, length))
}
