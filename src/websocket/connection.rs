//! A connection from its first byte to its last, which is longer than its actor lives: its TCP
//! settings, the count of open WebSockets that an orderly shutdown waits for, and its
//! [`ForceClose`].

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

use super::force_close::{ForceClose, Reaper, end};
use super::stream::Security;
use super::tcp::Tcp;

/// What the kernel may hold for a peer that does not read, in bytes. Linux doubles it to account
/// for its own overhead, and goes over by the last write, so up to 256 KiB of ours may wait. Left
/// to itself it would grow this to 4 MiB.
const SEND_BUFFER_BYTES: usize = 96 * 1024;

/// What the kernel may hold of a peer that sends faster than it is read, likewise. Left to itself
/// it would grow this to tens of MiB.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

/// The number of requests that a connection carries at most. actix-http writes answers without a
/// body into its buffer however much waits there, so they would pile up for a client that sends
/// requests and reads nothing.
const REQUESTS_MAX: u32 = 100;

/// The number of requests that a client may send before their answers, as no browser does.
/// actix-http limits what waits only roughly: it takes in 128 KB of requests at once, as structures
/// of 2.6 KB each, and its task is busy without end while their answers cannot be written.
const PIPELINED_MAX: u32 = 16;

/// The same for the answers: when so many bytes of them are in actix-http's buffer, of 32 KiB, no
/// other request may have come.
const PIPELINED_BYTES_MAX: u64 = 16 * 1024;

/// How long after an answer was made a request counts as sent before it, unless the connection's
/// task has had its turn. On a busy worker that is seen late, and only the time tells such a
/// request from one by a quick client.
const ANSWERING: Duration = Duration::from_micros(300);

/// How long after an answer the next request's head may take to be whole. Of the first request
/// that is bounded by actix-web, and a connection where nothing comes ends after 5 seconds; but
/// one byte is enough for it to wait for ever. What is still being written of the answer has this
/// time as well.
const NEXT_REQUEST: Duration = Duration::from_secs(60);

/// The connections of a server.
///
/// [`Connections::serve`] serves an app in the best way that there is. A program that builds its
/// own `HttpServer` gets the settings of chinwag's by these lines, before it binds:
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
/// Under TLS the hook is given the stream around the `TcpStream`: write a closure that hands the
/// inner one to [`Connections::track`].
#[derive(Clone, Debug)]
pub struct Connections {
    open: watch::Sender<usize>,
    reaper: Reaper,
    pub(super) write_timeout: Duration,
    pub(super) security: Security,
    next_request: Duration,
}

impl Connections {
    /// Connections whose peers may block what is written to them for `write_timeout`. Call it on
    /// an actix system: it starts a task that ends when all of this is dropped.
    #[must_use]
    pub fn new(write_timeout: Duration) -> Self {
        let (open, reaper) = (watch::Sender::new(0), Reaper::start(write_timeout));
        let security = Security::Plain;
        Self { open, reaper, write_timeout, security, next_request: NEXT_REQUEST }
    }

    /// Returns a handle that serves over TLS. Both handles share one count of connections.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(&self, tls: Arc<tokio_rustls::rustls::ServerConfig>) -> Self {
        Self { security: Security::Tls(tls.into()), ..self.clone() }
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
        // A second descriptor of the same socket costs one place in the table of open files. It
        // is what lets us end the socket while the connection's task waits for it to be writable.
        let duplicate = SockRef::from(tcp).try_clone().map(Arc::new);
        if let Err(error) = &duplicate {
            debug!("a connection cannot be cut off: {error}");
        }
        let duplicate = duplicate.ok();
        let socket = duplicate.as_ref().map_or_else(Weak::new, Arc::downgrade);
        self.keep_track(tcp, duplicate, Handle::Duplicate(socket), extensions);
    }

    /// The same for a connection that a [`Driver`](super::driver::Driver) takes over at its
    /// upgrade: no second descriptor is needed.
    pub(super) fn track_driven(&self, tcp: &Tcp, extensions: &mut Extensions) {
        let handle = Handle::Shared(Rc::downgrade(&tcp.shared));
        self.keep_track(&tcp.shared, None, handle, extensions);
    }

    fn keep_track(
        &self,
        tcp: &TcpStream,
        duplicate: Option<Arc<Socket>>,
        handle: Handle,
        extensions: &mut Extensions,
    ) {
        if let Err(error) = self.set_up(&SockRef::from(tcp)) {
            debug!("a connection keeps the system's settings: {error}");
        }
        let state = HttpState {
            handle,
            limit: self.next_request,
            answered: Cell::default(),
            watched: Cell::default(),
            requests: Cell::default(),
            pipelined: Cell::default(),
            pipelined_bytes: Cell::default(),
            is_cut_off: Cell::default(),
            is_over: Cell::default(),
            answering: Cell::default(),
        };
        extensions.insert(Rc::new(Connection {
            duplicate,
            reaper: self.reaper.clone(),
            open: self.open.clone(),
            counted: Cell::new(false),
            http: RefCell::new(Some(Rc::new(state))),
            kept: RefCell::default(),
        }));
    }

    /// Keeps a value until the connection is closed, also after its upgrade. Call it from the hook,
    /// with the hook's extensions; a second call replaces the value.
    pub fn keep(extensions: &Extensions, kept: impl Any) {
        if let Some(connection) = extensions.get::<Rc<Connection>>() {
            connection.kept.replace(Some(Box::new(kept)));
        }
    }

    fn set_up(&self, socket: &Socket) -> std::io::Result<()> {
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        // Ends a connection whose peer acknowledges nothing, or keeps its window closed, for this
        // long: actix-http does not, and cannot poll the actor meanwhile (actix-web#2441). The
        // driver has a deadline of its own and clears this option.
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

/// Lives in the connection's extensions, or with its driver, and so as long as the connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// The only strong one: when the connection goes, so does its second descriptor.
    duplicate: Option<Arc<Socket>>,
    reaper: Reaper,
    open: watch::Sender<usize>,
    counted: Cell<bool>,
    /// Until it carries a WebSocket.
    http: RefCell<Option<Rc<HttpState>>>,
    kept: RefCell<Option<Box<dyn Any>>>,
}

impl Connection {
    /// Stops counting the WebSocket as open. The socket may stay until the peer has read the close
    /// frame.
    pub(super) fn closed(&self) {
        if self.counted.take() {
            self.open.send_modify(|open| *open -= 1);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closed();
    }
}

/// What a connection can be ended by while its task waits for the peer. It keeps nothing alive.
#[derive(Debug)]
enum Handle {
    Duplicate(Weak<Socket>),
    Shared(rc::Weak<TcpStream>),
}

impl Handle {
    fn is_gone(&self) -> bool {
        match self {
            Self::Duplicate(socket) => socket.strong_count() == 0,
            Self::Shared(tcp) => tcp.strong_count() == 0,
        }
    }

    fn end(&self) {
        match self {
            Self::Duplicate(socket) => socket.upgrade().inspect(|socket| end(socket)).map(drop),
            Self::Shared(tcp) => tcp.upgrade().inspect(|tcp| end(&SockRef::from(&**tcp))).map(drop),
        };
    }
}

/// The force_close of the request's connection; one that does nothing where the driver has the
/// socket, and on a server without the hook.
pub(super) fn force_close(req: &HttpRequest) -> ForceClose {
    req.conn_data::<Rc<Connection>>()
        .and_then(|connection| {
            let socket = connection.duplicate.as_ref()?;
            Some(ForceClose::new(socket, &connection.reaper))
        })
        .unwrap_or_default()
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct PendingRequest(Option<Rc<HttpState>>);

/// The limits of a connection before it carries a WebSocket.
#[derive(Debug)]
struct HttpState {
    handle: Handle,
    limit: Duration,
    /// Since when the next request is awaited; nothing while one is being answered.
    answered: Cell<Option<Instant>>,
    watched: Cell<bool>,
    requests: Cell<u32>,
    /// The number of requests in a row that came before the answer to the one before was sent.
    pipelined: Cell<u32>,
    pipelined_bytes: Cell<u64>,
    is_cut_off: Cell<bool>,
    /// Whether the connection carries a WebSocket.
    is_over: Cell<bool>,
    /// When the last answer was made, unless the connection's task has had its turn since.
    answering: Cell<Option<Instant>>,
}

/// Counts a request. Does nothing on a server without the hook.
pub(crate) fn begin_request(req: &HttpRequest) -> PendingRequest {
    let state =
        req.conn_data::<Rc<Connection>>().and_then(|connection| connection.http.borrow().clone());
    if let Some(state) = &state {
        state.answered.set(None);
        state.requests.set(state.requests.get().saturating_add(1));
        state.count_pipelined();
    }
    PendingRequest(state)
}

impl PendingRequest {
    /// Whether the connection was cut off, so that nobody reads the answer.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.is_cut_off.get())
    }

    /// Whether the connection carries no other request after this one.
    pub(crate) fn is_last(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.requests.get() >= REQUESTS_MAX)
    }

    /// The body of the answer, unless that is an upgrade. Once it has been handed over the
    /// connection waits for its next request, and not for ever.
    pub(crate) fn answer(self, body: impl MessageBody + 'static) -> BoxBody {
        if let Some(state) = &self.0
            && !state.watched.replace(true)
        {
            rt::spawn(Rc::clone(state).watch());
        }
        if let Some(state) = &self.0 {
            state.answering.set(Some(Instant::now()));
            if let BodySize::Sized(bytes) = body.size() {
                state.pipelined_bytes.set(state.pipelined_bytes.get() + bytes);
            }
            // Runs once the connection's task has had its turn.
            let state = Rc::clone(state);
            rt::spawn(async move { state.answering.set(None) });
        }
        BoxBody::new(Answer { body: body.boxed(), request: self })
    }
}

impl HttpState {
    fn count_pipelined(&self) {
        if self.answering.get().is_none_or(|since| since.elapsed() > ANSWERING) {
            self.pipelined.set(0);
            self.pipelined_bytes.set(0);
            return;
        }
        self.pipelined.set(self.pipelined.get() + 1);
        let is_over = self.pipelined.get() >= PIPELINED_MAX
            || self.pipelined_bytes.get() > PIPELINED_BYTES_MAX;
        if is_over && !self.is_cut_off.replace(true) {
            self.handle.end();
        }
    }

    async fn watch(self: Rc<Self>) {
        let mut look = Instant::now();
        while !self.handle.is_gone() && !self.is_over.get() {
            look = self.answered.get().unwrap_or(look) + self.limit;
            sleep_until(look).await;
            let waited = self.answered.get().is_some_and(|since| since + self.limit <= look);
            if waited {
                return self.handle.end();
            }
        }
    }
}

struct Answer {
    body: BoxBody,
    request: PendingRequest,
}

impl MessageBody for Answer {
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

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(state) = &self.request.0 {
            state.answered.set(Some(Instant::now()));
        }
    }
}

/// Counts the request's connection as a WebSocket until it closes. Does nothing on a server
/// without the hook.
pub(super) fn upgraded(req: &HttpRequest) {
    if let Some(connection) = req.conn_data::<Rc<Connection>>()
        && !connection.counted.replace(true)
    {
        connection.open.send_modify(|open| *open += 1);
        if let Some(http) = connection.http.take() {
            http.is_over.set(true);
        }
    }
}

#[cfg(test)]
impl Connections {
    pub(crate) fn with_next_request(self, next_request: Duration) -> Self {
        Self { next_request, ..self }
    }
}
