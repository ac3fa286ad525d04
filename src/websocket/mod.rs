//! A WebSocket on `actix-web-actors` that others cannot harm: it knows nothing of chat, and any
//! actor on a [`WebsocketContext`] can stand on it.
//!
//! [`upgrade`] answers the handshake and starts the actor with its [`Socket`]. The actor passes
//! what its `StreamHandler` is given to [`Socket::receive`] and [`Socket::finished`], which answer
//! pings and close frames, and ends the connection with [`Socket::close`]. While the actor waits
//! for somebody else to take what it has received, it holds the socket with [`Socket::pause`].
//!
//! On a server of [`Connections::serve`] a connection is driven by a task of its own. In any other
//! `HttpServer` it stays with actix-http, as the body of a response, and the actor stands still
//! while its peer does not read: put [`Connections::on_connect`] there, which cuts such peers off.

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

use assembly::{Assembly, Whole};
pub use close::{Close, EndReason};
pub use connection::Connections;
pub(crate) use connection::begin_request;
pub use force_close::ForceClose;
use guard::{Gate, Guard};
pub use outbox::Budget;
use outbox::{Outbox, Outgoing};
pub use text_frame::{MAX_COALESCED_BYTES, TextFrame};
use upgrade::Driven;

/// How long a connection that we close is kept to let the peer read why and close as well.
const LINGER: Duration = Duration::from_secs(2);

/// Options of a WebSocket handshake.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    protocols: &'a [&'a str],
    max_message_bytes: usize,
    compression: bool,
}

impl<'a> Options<'a> {
    /// Options without subprotocols and compression. No message of the peer may be longer than
    /// `max_message_bytes`, assembled and decompressed.
    #[must_use]
    pub fn new(max_message_bytes: usize) -> Self {
        Self { protocols: &[], max_message_bytes, compression: false }
    }

    /// Sets the supported subprotocols. The handshake selects the first requested one of these.
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

/// Answers a WebSocket handshake and starts the actor that `actor` makes on its socket. Returns the
/// actor's address and the response.
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
    let driven = req.extensions().get::<Driven>().cloned();
    let is_driven = driven.is_some();
    let Driven { gate, outbox } = driven.unwrap_or_default();
    let Options { protocols, max_message_bytes, compression } = options;
    let extension = if compression { deflate::accept(req.headers()) } else { None };
    if extension.is_some() {
        outbox.set_compression();
    }
    let guard = Guard::new(payload, gate.clone(), max_message_bytes, extension.is_some());
    let socket = Socket::new(gate.clone(), outbox.clone(), connection::force_close(req));
    let (addr, mut response) = WsResponseBuilder::new(actor(socket), req, guard)
        .protocols(protocols)
        .frame_size(max_message_bytes)
        .start_with_addr()?;
    if let Some(extension) = extension {
        let extension = HeaderValue::from_static(extension);
        response.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, extension);
    }
    connection::upgraded(req);
    if is_driven {
        return Ok((addr, response));
    }
    // The plain road: actix-http keeps the connection, and writes what the body yields.
    let response = response.map_body(|_, actor| Outgoing::new(actor, outbox, gate).boxed());
    Ok((addr, response))
}

/// What has come in, once the socket has done its own part.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A whole text message.
    Text(ByteString),
    /// A whole binary message.
    Binary(Bytes),
    /// Nothing for the actor: a ping, a pong, a fragment, or what comes after the end.
    Nothing,
    /// The connection has ended or is ending, for this reason. Said once.
    Ended(EndReason),
}

/// The actor's hold on its connection.
#[derive(Debug)]
pub struct Socket {
    gate: Gate,
    outbox: Outbox,
    assembly: Assembly,
    force_close: ForceClose,
    heard: Instant,
    ending: bool,
}

impl Socket {
    fn new(gate: Gate, outbox: Outbox, force_close: ForceClose) -> Self {
        let (assembly, heard) = (Assembly::default(), Instant::now());
        Self { gate, outbox, assembly, force_close, heard, ending: false }
    }

    /// Ends the connection from outside the actor. Does nothing on a server of
    /// [`Connections::serve`], where the actor can always be told to close.
    #[must_use]
    pub fn force_close(&self) -> ForceClose {
        self.force_close.clone()
    }

    /// Takes what the actor's `StreamHandler::handle` was given.
    pub fn receive<A>(
        &mut self,
        item: Result<ws::Message, ws::ProtocolError>,
        ctx: &mut WebsocketContext<A>,
    ) -> Incoming
    where
        A: Actor<Context = WebsocketContext<A>>,
    {
        if self.ending {
            return Incoming::Nothing;
        }
        self.heard = Instant::now();
        let whole = match item {
            Ok(frame) => self.assembly.push(frame),
            Err(error) => {
                Err(self.gate.verdict().unwrap_or_else(|| EndReason::of_protocol_error(&error)))
            }
        };
        match whole {
            Ok(Some(Whole::Text(text))) => Incoming::Text(text),
            Ok(Some(Whole::Binary(bytes))) => Incoming::Binary(bytes),
            Ok(Some(Whole::Ping(bytes))) => {
                // In order with what the actor says by its context.
                ctx.pong(&bytes);
                Incoming::Nothing
            }
            Ok(Some(Whole::Pong) | None) => Incoming::Nothing,
            Ok(Some(Whole::Close(reason))) => {
                self.ending = true;
                ctx.close(reason.map(|reason| CloseReason::from(reason.code)));
                ctx.stop();
                Incoming::Ended(EndReason::Left)
            }
            Err(reason) => {
                self.close(reason.close(), ctx);
                Incoming::Ended(reason)
            }
        }
    }

    /// Takes the end of the stream: the actor's `StreamHandler::finished` was called.
    pub fn finished<A>(&mut self, ctx: &mut WebsocketContext<A>) -> Incoming
    where
        A: Actor<Context = WebsocketContext<A>>,
    {
        ctx.stop();
        if std::mem::replace(&mut self.ending, true) {
            Incoming::Nothing
        } else {
            Incoming::Ended(EndReason::Vanished)
        }
    }

    /// Writes a text as soon as the actor has nothing more to do and the connection has room. Texts
    /// that wait go out joined by `\n`, as few messages of many lines. What the connection is to
    /// tell apart as messages goes out by the context's own `text`.
    ///
    /// The queue is not bounded: check [`Socket::is_full`] or await [`Socket::room`] before writing
    /// more, or count deliveries with a [`Budget`].
    pub fn write(&mut self, text: TextFrame) {
        if !self.ending {
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

    /// Writes a text of which each part is made when the connection has room for it: a long one
    /// goes out in fragments, and is never held as a whole. A message in one frame is compressed if
    /// compression was negotiated.
    pub fn write_parts(&mut self, parts: impl Iterator<Item = String> + 'static) {
        if !self.ending {
            self.outbox.push_parts(parts);
        }
    }

    /// Sends a ping.
    pub fn ping(&mut self) {
        if !self.ending {
            self.outbox.push_ping();
        }
    }

    /// Sets the budget that [`Socket::release`] gives back to. Call it once, before that.
    pub fn set_budget(&mut self, budget: Arc<dyn Budget>) {
        self.outbox.set_budget(budget);
    }

    /// Releases an amount of the budget once all that was written until now has gone out.
    pub fn release(&mut self, amount: u64) {
        self.outbox.release_later(amount);
    }

    /// Whether the peer has to take more of what was written before it is worth writing more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.gate.is_blocked() || self.outbox.is_full()
    }

    /// Waits until it is not.
    pub fn room(&self) -> impl Future<Output = ()> + use<> {
        let (gate, outbox) = (self.gate.clone(), self.outbox.clone());
        // The actor is polled again when all has been written.
        poll_fn(move |_| {
            if gate.is_blocked() || outbox.is_full() {
                gate.wait();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
    }

    /// Closes the connection: writes what waits, unless `close` discards it, then the close frame.
    /// Stops the actor once the peer has closed too, or 2 seconds later. What the peer sends until
    /// then is discarded, since closing with input unread would reset the connection and the peer
    /// could not read the reason. A peer that reads nothing is disconnected after the write
    /// timeout.
    pub fn close<A>(&mut self, close: Close, ctx: &mut WebsocketContext<A>)
    where
        A: Actor<Context = WebsocketContext<A>>,
    {
        if std::mem::replace(&mut self.ending, true) {
            return;
        }
        if close.discards {
            self.outbox.clear();
        } else {
            // Nothing may follow the close frame.
            self.outbox.finish();
        }
        self.gate.discard();
        self.force_close.arm();
        ctx.close(close.reason);
        if self.gate.peer_closed() {
            ctx.stop();
        } else {
            ctx.run_later(LINGER, |_, ctx| ctx.stop());
        }
    }

    /// Whether the connection is ending; nothing more should be written to it.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending
    }

    /// Reads no more from the peer until [`Socket::resume`]. At most the frames already received
    /// are held, and the peer's TCP feels it.
    pub fn pause(&mut self) {
        self.gate.shut();
    }

    /// Reads on. A peer that could not be heard has its silence forgiven.
    pub fn resume(&mut self) {
        self.heard = Instant::now();
        self.gate.open();
    }

    /// Whether nothing at all was heard from the peer for longer than `timeout`, although it was
    /// listened to.
    #[must_use]
    pub fn is_silent(&self, timeout: Duration) -> bool {
        let since = self.gate.unblocked().map_or(self.heard, |at| at.max(self.heard));
        !self.gate.is_shut() && since.elapsed() > timeout
    }
}
