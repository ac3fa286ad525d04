//! TCP proxies between the nodes and NATS, one for each pair. They can hold back what one or both
//! sides send, and reset connections. They have a thread of their own, so that the clients do not
//! delay them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxies of a node do now.
#[derive(Clone, Copy, Default)]
struct State {
    /// Whether NATS receives nothing from the node.
    holds_sent: bool,
    /// Whether the node receives nothing from NATS.
    holds_received: bool,
    resets: u32,
}

/// The proxies of all nodes.
pub(super) struct Proxies {
    nodes: Vec<NodeProxies>,
}

/// The proxies between a node and all NATS servers.
struct NodeProxies {
    url: String,
    state: watch::Sender<State>,
}

impl Proxies {
    /// Starts proxies for so many nodes to these NATS servers.
    pub(super) fn start(nodes: usize, servers: &[SocketAddr]) -> Self {
        let mut listeners = Vec::new();
        let mut node = || {
            let (state, receiver) = watch::channel(State::default());
            let mut urls = Vec::new();
            for server in servers {
                let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                listener.set_nonblocking(true).unwrap();
                urls.push(format!("nats://{}", listener.local_addr().unwrap()));
                listeners.push((listener, *server, receiver.clone()));
            }
            NodeProxies { url: urls.join(","), state }
        };
        let nodes = (0..nodes).map(|_| node()).collect();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let accept = |(listener, server, state)| accept(listener, server, state);
                futures_util::future::join_all(listeners.into_iter().map(accept)).await;
            });
        });
        Self { nodes }
    }

    /// Returns the addresses that a node takes for those of NATS.
    pub(super) fn url(&self, node: usize) -> &str {
        &self.nodes[node].url
    }

    /// Holds back what a node sends or receives.
    pub(super) fn hold(&self, node: usize, sent: bool, received: bool) {
        let hold = |state: &mut State| (state.holds_sent, state.holds_received) = (sent, received);
        self.nodes[node].state.send_modify(hold);
    }

    /// Forwards what was held back, and everything after it.
    pub(super) fn heal(&self, node: usize) {
        self.hold(node, false, false);
    }

    /// Resets all connections of a node.
    pub(super) fn reset(&self, node: usize) {
        self.nodes[node].state.send_modify(|state| state.resets += 1);
    }
}

async fn accept(
    listener: std::net::TcpListener,
    server: SocketAddr,
    state: watch::Receiver<State>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        tokio::spawn(forward(client, server, state.clone()));
    }
}

/// Forwards both directions of a connection until one side closes it, or until it is reset.
async fn forward(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<State>) {
    // The server may be down.
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    for side in [&client, &server] {
        let _ = side.set_nodelay(true);
    }
    let resets = state.borrow().resets;
    let is_reset = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        tokio::select! {
            () = pump(from_client, to_server, state.clone(), |state| state.holds_sent) => false,
            () = pump(from_server, to_client, state.clone(), |state| state.holds_received) => false,
            reset = state.wait_for(|state| state.resets > resets) => reset.is_ok(),
        }
    };
    if is_reset {
        for side in [&client, &server] {
            let _ = socket2::SockRef::from(side).set_linger(Some(Duration::ZERO));
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
