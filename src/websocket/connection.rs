//! The state that a connection has from accept to close: its TCP settings, the limits of its HTTP
//! requests, and its [`ForceClose`]. Counts the open WebSockets, so that a shutdown can wait for
//! them. Reads and writes nothing.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{self, Rc};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Extensions;
use actix_web::rt;
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use log::debug;
use socket2::{SockRef, Socket};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::force_close::{ForceClose, ForceCloseQueue, reset};
use super::stream::Acceptor;
use super::tcp::Tcp;

/// The size of the kernel's send buffer, in bytes. Linux doubles it for its own overhead and
/// exceeds it by the last write, so up to 256 KiB of output may be in it. By default Linux would
/// let it grow to 4 MiB for a peer that does not read.
const SEND_BUFFER_BYTES: usize = 96 * 1024;

/// The size of the kernel's receive buffer, in bytes. By default Linux would let it grow to tens of
/// MiB for a peer that sends faster than it is read.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

/// The greatest number of requests on a connection. actix-http writes responses without a body into
/// its buffer whatever its size, so the buffer would grow for a client that sends requests and
/// reads nothing.
const MAX_REQUESTS: u32 = 100;

/// The greatest number of requests that a client may pipeline, which no browser does. actix-http
/// limits them only roughly: it reads 128 KB of requests at once, as structures of 2.6 KB each, and
/// its task uses CPU time without end while their responses cannot be written.
const MAX_PIPELINED_REQUESTS: u32 = 16;

/// The greatest size of the responses to pipelined requests, in bytes. actix-http's write buffer
/// has 32 KiB.
const MAX_PIPELINED_BYTES: u64 = 16 * 1024;

/// A request that begins within this time after the last response was created counts as pipelined,
/// unless the connection's task has run since. On a busy worker it runs late, and only the time
/// tells a pipelined request from the next one of a fast client.
const PIPELINING_WINDOW: Duration = Duration::from_micros(300);

/// The time limit for the head of the next request after a response. It also limits how long the
/// end of the response may take to be written. actix-web limits the first request, and closes an
/// idle connection after 5 seconds, but a single byte of a next request makes it wait forever.
const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The connections of a server.
///
/// [`Connections::serve`] serves an app and gives each WebSocket a task of its own. A program that
/// builds its own `HttpServer` uses these settings and the hook:
///
/// ```no_run
/// use std::time::Duration;
///
/// use actix_web::{App, HttpServer};
/// use chinwag::websocket::Connections;
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
/// With TLS the hook receives the TLS stream. Write a closure that passes its inner `TcpStream` to
/// [`Connections::track`].
#[derive(Clone, Debug)]
pub struct Connections {
    open: watch::Sender<usize>,
    force_close_queue: ForceCloseQueue,
    pub(super) write_timeout: Duration,
    pub(super) acceptor: Acceptor,
    next_request_timeout: Duration,
}

impl Connections {
    /// Creates a set of connections. A peer that reads nothing for `write_timeout` while output
    /// waits for it is disconnected. Call it on an actix system: it spawns a task, which ends when
    /// all clones and connections are dropped.
    #[must_use]
    pub fn new(write_timeout: Duration) -> Self {
        Self {
            open: watch::Sender::new(0),
            force_close_queue: ForceCloseQueue::start(write_timeout),
            write_timeout,
            acceptor: Acceptor::Plain,
            next_request_timeout: NEXT_REQUEST_TIMEOUT,
        }
    }

    /// Returns a handle that serves over TLS. Both handles share one count of connections.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(&self, tls: Arc<tokio_rustls::rustls::ServerConfig>) -> Self {
        Self { acceptor: Acceptor::Tls(tls.into()), ..self.clone() }
    }

    /// Returns the hook for `HttpServer::on_connect`, for connections without TLS.
    pub fn on_connect(&self) -> impl Fn(&dyn Any, &mut Extensions) + Send + Sync + 'static + use<> {
        let connections = self.clone();
        move |io, extensions| {
            if let Some(tcp) = io.downcast_ref::<TcpStream>() {
                connections.track(tcp, extensions);
            }
        }
    }

    /// Applies the TCP settings to a connection and tracks it until its extensions are dropped.
    pub fn track(&self, tcp: &TcpStream, extensions: &mut Extensions) {
        // A second descriptor of the socket. With it the socket can be reset while the connection's
        // task waits for the socket to be writable.
        let duplicate = SockRef::from(tcp).try_clone().map(Arc::new);
        if let Err(error) = &duplicate {
            debug!("cannot duplicate a socket, so its connection cannot be reset: {error}");
        }
        let duplicate = duplicate.ok();
        let socket = duplicate.as_ref().map_or_else(Weak::new, Arc::downgrade);
        self.insert(tcp, duplicate, SocketHandle::Duplicate(socket), extensions);
    }

    /// Tracks a connection that a [`Driver`](super::driver::Driver) takes over at its upgrade. It
    /// needs no second descriptor.
    pub(super) fn track_driven(&self, tcp: &Tcp, extensions: &mut Extensions) {
        let handle = SocketHandle::Shared(Rc::downgrade(&tcp.shared));
        self.insert(&tcp.shared, None, handle, extensions);
    }

    fn insert(
        &self,
        tcp: &TcpStream,
        duplicate: Option<Arc<Socket>>,
        handle: SocketHandle,
        extensions: &mut Extensions,
    ) {
        if let Err(error) = self.set_up(&SockRef::from(tcp)) {
            debug!("cannot apply TCP settings to a connection: {error}");
        }
        let state = HttpState {
            handle,
            next_request_timeout: self.next_request_timeout,
            idle_since: Cell::default(),
            is_watched: Cell::default(),
            requests: Cell::default(),
            pipelined: Cell::default(),
            pipelined_bytes: Cell::default(),
            is_disconnected: Cell::default(),
            is_upgraded: Cell::default(),
            responded_at: Cell::default(),
        };
        extensions.insert(Rc::new(Connection {
            duplicate,
            force_close_queue: self.force_close_queue.clone(),
            open: self.open.clone(),
            is_counted: Cell::new(false),
            http: RefCell::new(Some(Rc::new(state))),
            attached: RefCell::default(),
        }));
    }

    /// Keeps a value until the connection is closed, also after its upgrade. Call it from the hook,
    /// with the hook's extensions. A second call replaces the value.
    pub fn keep(extensions: &Extensions, value: impl Any) {
        if let Some(connection) = extensions.get::<Rc<Connection>>() {
            connection.attached.replace(Some(Box::new(value)));
        }
    }

    fn set_up(&self, socket: &Socket) -> std::io::Result<()> {
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        // Ends a connection whose peer acknowledges nothing, or keeps its window closed, for this
        // long. actix-http has no such limit, and cannot poll the actor meanwhile
        // (actix-web#2441). The driver has a deadline of its own and clears this option.
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.write_timeout))?;
        Ok(())
    }

    /// Waits until no WebSocket is open. Connections of plain HTTP do not count, since clients may
    /// keep them idle for any time.
    pub async fn all_closed(&self) {
        let mut open = self.open.subscribe();
        // It fails only if all senders are dropped, and `self` has one.
        let _ = open.wait_for(|&open| open == 0).await;
    }
}

/// The state of one connection. The connection's extensions or its driver own it, so it is dropped
/// when the connection closes.
#[derive(Debug)]
pub(super) struct Connection {
    /// The only strong reference, so the second descriptor closes with the connection.
    duplicate: Option<Arc<Socket>>,
    force_close_queue: ForceCloseQueue,
    open: watch::Sender<usize>,
    is_counted: Cell<bool>,
    /// None once the connection carries a WebSocket.
    http: RefCell<Option<Rc<HttpState>>>,
    /// The value of [`Connections::keep`].
    attached: RefCell<Option<Box<dyn Any>>>,
}

impl Connection {
    /// Stops counting the WebSocket as open. The socket may stay open until the peer has read the
    /// close frame.
    pub(super) fn mark_closed(&self) {
        if self.is_counted.take() {
            self.open.send_modify(|open| *open -= 1);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.mark_closed();
    }
}

/// A weak reference to a socket, to reset it while the connection's task waits for the peer.
#[derive(Debug)]
enum SocketHandle {
    Duplicate(Weak<Socket>),
    Shared(rc::Weak<TcpStream>),
}

impl SocketHandle {
    fn is_gone(&self) -> bool {
        match self {
            Self::Duplicate(socket) => socket.strong_count() == 0,
            Self::Shared(tcp) => tcp.strong_count() == 0,
        }
    }

    fn reset(&self) {
        match self {
            Self::Duplicate(socket) => socket.upgrade().inspect(|socket| reset(socket)).map(drop),
            Self::Shared(tcp) => {
                tcp.upgrade().inspect(|tcp| reset(&SockRef::from(&**tcp))).map(drop)
            }
        };
    }
}

/// Returns the [`ForceClose`] of the request's connection. It does nothing if the connection has a
/// driver, or on a server without the hook.
pub(super) fn force_close(req: &HttpRequest) -> ForceClose {
    req.conn_data::<Rc<Connection>>()
        .and_then(|connection| {
            let socket = connection.duplicate.as_ref()?;
            Some(ForceClose::new(socket, &connection.force_close_queue))
        })
        .unwrap_or_default()
}

/// A request that has no response yet.
#[derive(Debug)]
pub(crate) struct PendingRequest(Option<Rc<HttpState>>);

/// The HTTP requests of a connection until it carries a WebSocket.
#[derive(Debug)]
struct HttpState {
    handle: SocketHandle,
    next_request_timeout: Duration,
    /// When the last response was handed over. None while a request is in progress.
    idle_since: Cell<Option<Instant>>,
    /// Whether [`HttpState::watch`] runs.
    is_watched: Cell<bool>,
    requests: Cell<u32>,
    /// The number of consecutive pipelined requests.
    pipelined: Cell<u32>,
    /// The size of the responses to them, in bytes.
    pipelined_bytes: Cell<u64>,
    /// Whether the connection was reset because it exceeded a limit.
    is_disconnected: Cell<bool>,
    /// Whether the connection carries a WebSocket.
    is_upgraded: Cell<bool>,
    /// When the last response was created. None if the connection's task has run since.
    responded_at: Cell<Option<Instant>>,
}

/// Counts a request, and resets the connection if it pipelines too many. Does nothing on a server
/// without the hook.
pub(crate) fn begin_request(req: &HttpRequest) -> PendingRequest {
    let state =
        req.conn_data::<Rc<Connection>>().and_then(|connection| connection.http.borrow().clone());
    if let Some(state) = &state {
        state.idle_since.set(None);
        state.requests.set(state.requests.get().saturating_add(1));
        state.count_pipelined();
    }
    PendingRequest(state)
}

impl PendingRequest {
    /// Returns whether the connection was reset, so that no client reads the response.
    pub(crate) fn is_disconnected(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.is_disconnected.get())
    }

    /// Returns whether this is the last request that the connection may carry.
    pub(crate) fn is_last(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.requests.get() >= MAX_REQUESTS)
    }

    /// Wraps the body of a response that is not an upgrade. The time limit of the next request
    /// begins when the body is dropped.
    pub(crate) fn response_body(self, body: impl MessageBody + 'static) -> BoxBody {
        if let Some(state) = &self.0
            && !state.is_watched.replace(true)
        {
            rt::spawn(Rc::clone(state).watch());
        }
        if let Some(state) = &self.0 {
            state.responded_at.set(Some(Instant::now()));
            if let BodySize::Sized(bytes) = body.size() {
                state.pipelined_bytes.set(state.pipelined_bytes.get() + bytes);
            }
            // This task runs after the connection's task.
            let state = Rc::clone(state);
            rt::spawn(async move { state.responded_at.set(None) });
        }
        BoxBody::new(ResponseBody { body: body.boxed(), request: self })
    }
}

impl HttpState {
    fn count_pipelined(&self) {
        if self.responded_at.get().is_none_or(|at| at.elapsed() > PIPELINING_WINDOW) {
            self.pipelined.set(0);
            self.pipelined_bytes.set(0);
            return;
        }
        self.pipelined.set(self.pipelined.get() + 1);
        let exceeds_limit = self.pipelined.get() >= MAX_PIPELINED_REQUESTS
            || self.pipelined_bytes.get() > MAX_PIPELINED_BYTES;
        if exceeds_limit && !self.is_disconnected.replace(true) {
            self.handle.reset();
        }
    }

    /// Resets the connection if its next request exceeds the time limit.
    async fn watch(self: Rc<Self>) {
        let limit = self.next_request_timeout;
        let mut check_at = Instant::now();
        while !self.handle.is_gone() && !self.is_upgraded.get() {
            check_at = self.idle_since.get().unwrap_or(check_at) + limit;
            sleep_until(check_at).await;
            if self.idle_since.get().is_some_and(|since| since + limit <= check_at) {
                return self.handle.reset();
            }
        }
    }
}

/// A response body that starts the time limit of the next request when it is dropped.
struct ResponseBody {
    body: BoxBody,
    request: PendingRequest,
}

impl MessageBody for ResponseBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(state) = &self.request.0 {
            state.idle_since.set(Some(Instant::now()));
        }
    }
}

/// Counts the request's connection as a WebSocket until it closes. Does nothing on a server
/// without the hook.
pub(super) fn mark_upgraded(req: &HttpRequest) {
    if let Some(connection) = req.conn_data::<Rc<Connection>>()
        && !connection.is_counted.replace(true)
    {
        connection.open.send_modify(|open| *open += 1);
        if let Some(http) = connection.http.take() {
            http.is_upgraded.set(true);
        }
    }
}

#[cfg(test)]
impl Connections {
    pub(crate) fn with_next_request_timeout(self, next_request_timeout: Duration) -> Self {
        Self { next_request_timeout, ..self }
    }
}
