//! A TCP proxy between a node and NATS. It can reset connections, and hold back what one or both
//! sides send.

use std::net::SocketAddr;
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
    resets: u32,
}

/// The proxy. It ends when it is dropped.
pub struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (state, received) = watch::channel(State::default());
        let mut dropped = received.clone();
        rt::spawn(async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (client, _) = accepted.unwrap();
                        rt::spawn(forward(client, server, received.clone()));
                    }
                    ended = dropped.wait_for(|_| false) => return assert!(ended.is_err()),
                }
            }
        });
        Self { addr, state }
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

    /// Forwards what it has held back, as TCP does after an outage, and everything after it.
    pub fn heal(&self) {
        self.state
            .send_modify(|state| (state.holds_requests, state.holds_answers) = (false, false));
    }
}

/// Forwards both directions of a connection until one side closes it, or until it is reset.
async fn forward(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<State>) {
    // The server may be down.
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let resets = state.borrow().resets;
    let is_reset = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        tokio::select! {
            () = pump(from_client, to_server, state.clone(), |state| state.holds_requests) => false,
            () = pump(from_server, to_client, state.clone(), |state| state.holds_answers) => false,
            reset = state.wait_for(|state| state.resets > resets) => reset.is_ok(),
        }
    };
    if is_reset {
        for side in [&client, &server] {
            socket2::SockRef::from(side).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

/// Forwards one direction.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
    holds: fn(&State) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if state.wait_for(|state| !holds(state)).await.is_err() || count == 0 {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
