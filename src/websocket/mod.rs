//! A WebSocket for actors, with limits on everything that a peer can send or leave unread. It is
//! independent of the chat: any actor on a [`WebsocketContext`] can use it.
//!
//! [`upgrade`] answers the handshake and starts the actor with its [`Socket`]. The actor passes
//! what its `StreamHandler` is given to [`Socket::receive`] and [`Socket::finished`], which answer
//! pings and close frames. It ends the connection with [`Socket::close`]. While the actor cannot
//! take more input, it pauses reading with [`Socket::pause`].
//!
//! On a server run by [`Connections::serve`], each WebSocket has a task of its own, the driver. In
//! any other `HttpServer`, actix-http keeps the connection and writes the WebSocket as the body of
//! a response. There the actor is not polled while the peer does not read (actix-web#2441), so use
//! the hook [`Connections::on_connect`], which disconnects such peers.

mod assembly;
mod close;
mod connection;
mod deflate;
mod driver;
mod force_close;
mod frame;
mod guard;
mod outbox;
#[cfg(fuzzing)]
pub mod reference;
#[cfg(all(test, not(fuzzing)))]
mod reference;
mod stream;
mod tcp;
mod text_frame;
mod upgrade;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, Addr, AsyncContext, StreamHandler};
use actix_web::body::MessageBody;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, web};
use actix_web_actors::ws::{self, CloseReason, WebsocketContext, WsResponseBuilder};
use bytes::Bytes;
use bytestring::ByteString;

use assembly::{Assembly, Received};
pub use close::{Close, EndReason};
pub use connection::Connections;
pub(crate) use connection::begin_request;
pub use force_close::ForceClose;
use guard::{FlowControl, Guard};
pub use outbox::Budget;
use outbox::{Outbox, OutboxBody};
pub use text_frame::{MAX_COALESCED_BYTES, TextFrame};
use upgrade::DriverState;

/// How long the peer has to read the close frame or a rejected handshake's response, and to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Options of a WebSocket handshake.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    protocols: &'a [&'a str],
    max_message_bytes: usize,
    compression: bool,
}

impl<'a> Options<'a> {
    /// Returns options without subprotocols or compression. `max_message_bytes` limits the length
    /// of an assembled and decompressed message of the peer.
    #[must_use]
    pub fn new(max_message_bytes: usize) -> Self {
        Self { protocols: &[], max_message_bytes, compression: false }
    }

    /// Sets the supported subprotocols. The handshake selects the client's first requested
    /// subprotocol that is in this list.
    #[must_use]
    pub fn protocols(self, protocols: &'a [&'a str]) -> Self {
        Self { protocols, ..self }
    }

    /// Sets whether to accept permessage-deflate (RFC 7692). The actor should then write compressed
    /// frames if [`Socket::compresses`] returns true.
    #[must_use]
    pub fn compression(self, compression: bool) -> Self {
        Self { compression, ..self }
    }
}

/// Answers a WebSocket handshake and starts the actor that the closure `actor` returns for its
/// socket. Returns the actor's address and the response.
///
/// # Errors
/// Returns an error, which is also the HTTP response, if the request is not a WebSocket handshake.
pub fn upgrade<A>(
    req: &HttpRequest,
    payload: web::Payload,
    options: Options<'_>,
    actor: impl FnOnce(Socket) -> A,
) -> Result<(Addr<A>, HttpResponse), Error>
where
    A: Actor<Context = WebsocketContext<A>>,
    A: StreamHandler<Result<ws::Message, ws::ProtocolError>>,
{
    let driver_state = req.extensions().get::<DriverState>().cloned();
    let has_driver = driver_state.is_some();
    let DriverState { flow, outbox } = driver_state.unwrap_or_default();
    let Options { protocols, max_message_bytes, compression } = options;
    let extension = if compression { deflate::accept(req.headers()) } else { None };
    if extension.is_some() {
        outbox.set_compression();
    }
    let guard = Guard::new(payload, flow.clone(), max_message_bytes, extension.is_some());
    let socket = Socket::new(flow.clone(), outbox.clone(), connection::force_close(req));
    let (addr, mut response) = WsResponseBuilder::new(actor(socket), req, guard)
        .protocols(protocols)
        .frame_size(max_message_bytes)
        .start_with_addr()?;
    if let Some(extension) = extension {
        let extension = HeaderValue::from_static(extension);
        response.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, extension);
    }
    connection::mark_upgraded(req);
    if has_driver {
        return Ok((addr, response));
    }
    // actix-http keeps the connection and writes what the body yields.
    let response = response.map_body(|_, actor| OutboxBody::new(actor, outbox, flow).boxed());
    Ok((addr, response))
}

/// What the actor gets from [`Socket::receive`] and [`Socket::finished`].
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A complete text message.
    Text(ByteString),
    /// A complete binary message.
    Binary(Bytes),
    /// Nothing for the actor: a ping, a pong, a fragment, or anything after the end.
    Nothing,
    /// The connection has ended or is ending, for this reason. Returned once for each connection.
    Ended(EndReason),
}

/// The actor's handle of its connection.
#[derive(Debug)]
pub struct Socket {
    flow: FlowControl,
    outbox: Outbox,
    assembly: Assembly,
    force_close: ForceClose,
    last_received: Instant,
    is_ending: bool,
}

impl Socket {
    fn new(flow: FlowControl, outbox: Outbox, force_close: ForceClose) -> Self {
        let (assembly, last_received) = (Assembly::default(), Instant::now());
        Self { flow, outbox, assembly, force_close, last_received, is_ending: false }
    }

    /// Returns a handle that ends the connection from outside the actor. It does nothing on a
    /// server of [`Connections::serve`], where the actor always processes its mailbox.
    #[must_use]
    pub fn force_close(&self) -> ForceClose {
        self.force_close.clone()
    }

    /// Processes an item that the actor's `StreamHandler::handle` was given.
    pub fn receive<A>(
        &mut self,
        item: Result<ws::Message, ws::ProtocolError>,
        ctx: &mut WebsocketContext<A>,
    ) -> Incoming
    where
        A: Actor<Context = WebsocketContext<A>>,
    {
        if self.is_ending {
            return Incoming::Nothing;
        }
        self.last_received = Instant::now();
        let received = match item {
            Ok(frame) => self.assembly.push(frame),
            Err(error) => {
                Err(self.flow.rejection().unwrap_or_else(|| EndReason::of_protocol_error(&error)))
            }
        };
        match received {
            Ok(Some(Received::Text(text))) => Incoming::Text(text),
            Ok(Some(Received::Binary(bytes))) => Incoming::Binary(bytes),
            Ok(Some(Received::Ping(bytes))) => {
                // Written by the context, in order with frames that the actor writes there.
                ctx.pong(&bytes);
                Incoming::Nothing
            }
            Ok(Some(Received::Pong) | None) => Incoming::Nothing,
            Ok(Some(Received::Close(reason))) => {
                self.is_ending = true;
                ctx.close(reason.map(|reason| CloseReason::from(reason.code)));
                ctx.stop();
                Incoming::Ended(EndReason::Left)
            }
            Err(reason) => {
                self.close(reason.into(), ctx);
                Incoming::Ended(reason)
            }
        }
    }

    /// Processes the end of the stream. Call it from the actor's `StreamHandler::finished`.
    pub fn finished<A>(&mut self, ctx: &mut WebsocketContext<A>) -> Incoming
    where
        A: Actor<Context = WebsocketContext<A>>,
    {
        ctx.stop();
        if std::mem::replace(&mut self.is_ending, true) {
            Incoming::Nothing
        } else {
            Incoming::Ended(EndReason::Vanished)
        }
    }

    /// Queues a text. It is written when the actor is idle and the connection is writable. Queued
    /// texts are joined by `\n` into few messages. Use `WebsocketContext::text` for a text that
    /// must be a message of its own.
    ///
    /// The queue is not bounded: check [`Socket::is_full`] or await [`Socket::writable`] before
    /// writing more, or count deliveries with a [`Budget`].
    pub fn write(&mut self, text: TextFrame) {
        if !self.is_ending {
            self.outbox.push(text);
        }
    }

    /// Returns whether compression was negotiated: see [`TextFrame::compressed`].
    ///
    /// Do not compress a text that contains both a secret and data chosen by others: its length may
    /// reveal the secret.
    #[must_use]
    pub fn compresses(&self) -> bool {
        self.outbox.compresses()
    }

    /// Queues a text as an iterator of its parts. The next part is taken from the iterator when the
    /// connection is writable, so a long text is never in memory as a whole. A text that exceeds
    /// [`MAX_COALESCED_BYTES`] is sent in fragments, uncompressed. A shorter one is sent in one
    /// frame, compressed if compression was negotiated.
    pub fn write_parts(&mut self, parts: impl Iterator<Item = String> + 'static) {
        if !self.is_ending {
            self.outbox.push_parts(parts);
        }
    }

    /// Sends a ping. It overtakes queued texts.
    pub fn ping(&mut self) {
        if !self.is_ending {
            self.outbox.push_ping();
        }
    }

    /// Sets the budget of [`Socket::release`]. Call it once, before the first release.
    pub fn set_budget(&mut self, budget: Arc<dyn Budget>) {
        self.outbox.set_budget(budget);
    }

    /// Releases an amount of the budget as soon as everything that is queued now has been written.
    pub fn release(&mut self, amount: u64) {
        self.outbox.release_later(amount);
    }

    /// Returns whether the actor should write nothing more until the peer has read more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.flow.is_write_blocked() || self.outbox.is_full()
    }

    /// Waits until [`Socket::is_full`] returns false.
    pub fn writable(&self) -> impl Future<Output = ()> + use<> {
        let (flow, outbox) = (self.flow.clone(), self.outbox.clone());
        // No waker is needed: the actor is polled again when everything has been written.
        poll_fn(move |_| {
            if flow.is_write_blocked() || outbox.is_full() {
                flow.notify_when_written();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
    }

    /// Closes the connection: writes what is queued, unless `close` discards it, then the close
    /// frame. Stops the actor when the peer has closed, too, or after 2 seconds.
    ///
    /// Input is discarded until then: closing a socket with unread input resets the connection, and
    /// the peer might never read the close frame. A peer that does not read is disconnected after
    /// the write timeout.
    pub fn close<A>(&mut self, close: Close, ctx: &mut WebsocketContext<A>)
    where
        A: Actor<Context = WebsocketContext<A>>,
    {
        if std::mem::replace(&mut self.is_ending, true) {
            return;
        }
        if close.discards {
            self.outbox.clear();
        } else {
            // Nothing may follow the close frame.
            self.outbox.finish();
        }
        self.flow.discard_input();
        self.force_close.arm();
        ctx.close(close.reason);
        if self.flow.peer_closed() {
            ctx.stop();
        } else {
            ctx.run_later(CLOSE_TIMEOUT, |_, ctx| ctx.stop());
        }
    }

    /// Returns whether the connection is ending. Nothing more should be written to it then.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Stops reading until [`Socket::resume`], so that TCP backpressure reaches the peer. At most
    /// the chunk of input that was read last stays in memory.
    pub fn pause(&mut self) {
        self.flow.pause();
    }

    /// Resumes reading. The time of the pause does not count for [`Socket::is_silent`].
    pub fn resume(&mut self) {
        self.last_received = Instant::now();
        self.flow.resume();
    }

    /// Returns whether nothing was received from the peer for longer than `timeout`, although
    /// nothing prevented reading.
    #[must_use]
    pub fn is_silent(&self, timeout: Duration) -> bool {
        let received = self.last_received;
        let since = self.flow.write_unblocked_at().map_or(received, |at| at.max(received));
        !self.flow.is_paused() && since.elapsed() > timeout
    }
}
