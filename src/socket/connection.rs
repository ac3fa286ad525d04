//! A connection from its first byte to its last, which is longer than its actor lives: its TCP
//! settings, the count of open WebSockets that an orderly shutdown waits for, and its [`Cutoff`].

use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use log::debug;
use socket2::{SockRef, Socket};
use tokio::sync::watch;

use super::cutoff::{Cutoff, Reaper};

/// What the kernel may hold for a peer that does not read, in bytes. Linux doubles it to account
/// for its own overhead, and goes over by the last write, so up to 256 KiB of ours may wait. Left
/// to itself it would grow this to 4 MiB.
const SEND_BUFFER_BYTES: usize = 96 * 1024;

/// What the kernel may hold of a peer that sends faster than it is read, likewise. Left to itself
/// it would grow this to tens of MiB.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

/// The connections of a server.
///
/// A program that builds its own `HttpServer` gets the settings of chinwag's by these lines,
/// before it binds:
///
/// ```no_run
/// use std::time::Duration;
///
/// use actix_web::{App, HttpServer};
/// use chinwag::socket::Connections;
///
/// #[actix_web::main]
/// async fn main() -> std::io::Result<()> {
///     let connections = Connections::new(Duration::from_secs(10));
///     HttpServer::new(App::new)
///         .tcp_nodelay(true)
///         .client_disconnect_timeout(Duration::ZERO)
///         .on_connect(connections.on_connect())
///         .bind("127.0.0.1:8080")?
///         .run()
///         .await
/// }
/// ```
///
/// Under TLS the hook is given the stream around the `TcpStream`: write a closure that hands the
/// inner one to [`Connections::track`].
#[derive(Clone, Debug)]
pub struct Connections {
    open: watch::Sender<usize>,
    reaper: Reaper,
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has the option"))]
    write_timeout: Duration,
}

impl Connections {
    /// Connections whose peers may block what is written to them for `write_timeout`. Call it on
    /// an actix system: it starts a task that ends when all of this is dropped.
    #[must_use]
    pub fn new(write_timeout: Duration) -> Self {
        Self { open: watch::Sender::new(0), reaper: Reaper::start(write_timeout), write_timeout }
    }

    /// The hook for `HttpServer::on_connect`, for connections without TLS.
    pub fn on_connect(&self) -> impl Fn(&dyn Any, &mut Extensions) + Send + Sync + 'static + use<> {
        let connections = self.clone();
        move |io, extensions| {
            if let Some(tcp) = io.downcast_ref::<TcpStream>() {
                connections.track(tcp, extensions);
            }
        }
    }

    /// Sets a connection up, and keeps track of it until its extensions are dropped.
    pub fn track(&self, tcp: &TcpStream, extensions: &mut Extensions) {
        let socket = SockRef::from(tcp);
        if let Err(error) = self.set_up(&socket) {
            debug!("a connection keeps the system's settings: {error}");
        }
        // A second descriptor of the same socket costs one place in the table of open files. It
        // is what lets us end the socket while the connection's task waits for it to be writable.
        let handle = socket.try_clone().map(Arc::new);
        if let Err(error) = &handle {
            debug!("a connection cannot be cut off: {error}");
        }
        extensions.insert(Connection {
            handle: handle.ok(),
            reaper: self.reaper.clone(),
            open: self.open.clone(),
            counted: Cell::new(false),
        });
    }

    fn set_up(&self, socket: &Socket) -> std::io::Result<()> {
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        // Ends a connection whose peer acknowledges nothing, or keeps its window shut, for so
        // long: the actor cannot, since it is not polled meanwhile (actix-web#2441).
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.write_timeout))?;
        Ok(())
    }

    /// Waits until no WebSocket is open. Connections that carry plain HTTP do not count: they may
    /// stay idle for as long as their clients like.
    pub async fn all_closed(&self) {
        let mut open = self.open.subscribe();
        // It fails only when the sender is gone, and this is one.
        let _ = open.wait_for(|&open| open == 0).await;
    }
}

/// Lives in the connection's extensions, and so as long as the connection.
#[derive(Debug)]
struct Connection {
    /// The only strong one: when the connection goes, so does its second descriptor.
    handle: Option<Arc<Socket>>,
    reaper: Reaper,
    open: watch::Sender<usize>,
    counted: Cell<bool>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.counted.get() {
            self.open.send_modify(|open| *open -= 1);
        }
    }
}

/// The cutoff of the request's connection; one that does nothing on a server without the hook.
pub(super) fn cutoff(req: &HttpRequest) -> Cutoff {
    req.conn_data::<Connection>()
        .and_then(|connection| {
            let handle = connection.handle.as_ref()?;
            Some(Cutoff::new(handle, &connection.reaper))
        })
        .unwrap_or_default()
}

/// Counts the request's connection as a WebSocket until it closes. Does nothing on a server
/// without the hook.
pub(super) fn upgraded(req: &HttpRequest) {
    if let Some(connection) = req.conn_data::<Connection>()
        && !connection.counted.replace(true)
    {
        connection.open.send_modify(|open| *open += 1);
    }
}
