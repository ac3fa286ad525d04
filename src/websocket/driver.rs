//! Drives a connection that carries a WebSocket, in a task that owns it: polls the actor also while
//! the peer does not read, reads into one buffer that all connections of a thread share, writes
//! frames as they are, and resets the connection when the kernel accepts nothing for too long.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_codec::ReadBuf;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::error::PayloadError;
use actix_web::rt::net::TcpStream;
use bytes::{Buf, Bytes};
use futures_core::Stream;
use log::debug;
use socket2::SockRef;
use tokio::time::{Instant, Sleep, sleep_until};

use super::LINGER;
use super::connection::Connection;
use super::force_close::end;
use super::guard::Gate;
use super::outbox::Outbox;
use super::tcp::Transport;
use super::upgrade::Driven;

/// What is read at once, in bytes.
const READ_BYTES: usize = 32 * 1024;

/// Most reads in a row. Unlimited reads would exhaust tokio's cooperative budget in every poll, and
/// then no timer of this task would ever fire.
const READS: u32 = 16;

/// What is taken out of the outbox to be written at once.
const WRITE_BYTES: usize = 32 * 1024;
const WRITE_FRAMES: usize = 16;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// What the peer sends.
pub(super) struct Inbound<T> {
    io: Rc<RefCell<T>>,
    /// What came together with the request.
    early: Bytes,
    /// Reads in a row so far.
    reads: u32,
}

impl<T> Inbound<T> {
    pub(super) fn new(io: Rc<RefCell<T>>, early: Bytes) -> Self {
        Self { io, early, reads: 0 }
    }
}

impl<T: Transport> Stream for Inbound<T> {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut this.early))));
        }
        if this.reads == READS {
            this.reads = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            let mut io = this.io.borrow_mut();
            let read = Pin::new(&mut *io).poll_read(cx, &mut buffer);
            this.reads = if read.is_ready() { this.reads + 1 } else { 0 };
            match ready!(read) {
                Ok(()) if buffer.filled().is_empty() => Poll::Ready(None),
                Ok(()) => Poll::Ready(Some(Ok(Bytes::copy_from_slice(buffer.filled())))),
                Err(error) => Poll::Ready(Some(Err(PayloadError::Io(error)))),
            }
        })
    }
}

/// The connection's task.
pub(super) struct Driver<T> {
    io: Rc<RefCell<T>>,
    /// What runs the actor. It yields what the actor says past the outbox: the close frame, and in
    /// other crates whatever their contexts write.
    actor: BoxBody,
    outbox: Outbox,
    gate: Gate,
    writing: VecDeque<Bytes>,
    /// Frames to send after everything in the outbox. Usually empty.
    #[expect(clippy::box_collection, reason = "a word in place of four, in every connection")]
    farewell: Option<Box<VecDeque<Bytes>>>,
    /// Whether the actor has ended.
    ended: bool,
    /// Whether the sending half of the connection has been shut down.
    shut: bool,
    write_timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether the deadline is that of a close that we began: progress does not extend it.
    final_deadline: bool,
    connection: Option<Rc<Connection>>,
}

/// How writing came to its end for now.
enum Written {
    All,
    /// All, and there is nothing left to wait for.
    Ended,
    /// The peer takes no more. Says whether it has taken anything.
    Blocked {
        progress: bool,
    },
}

impl<T: Transport> Driver<T> {
    pub(super) fn new(
        io: Rc<RefCell<T>>,
        head: Bytes,
        actor: BoxBody,
        Driven { outbox, gate }: Driven,
        write_timeout: Duration,
        connection: Option<Rc<Connection>>,
    ) -> Self {
        // The driver has a deadline of its own from here on.
        set_user_timeout(io.borrow().tcp(), None);
        Self {
            io,
            actor,
            outbox,
            gate,
            writing: VecDeque::from([head]),
            farewell: None,
            ended: false,
            shut: false,
            write_timeout,
            deadline: None,
            final_deadline: false,
            connection,
        }
    }

    /// Lets the actor do all that it can, unless it says a lot itself: then it has more to do. What
    /// was delivered together is in the outbox otherwise, and goes out together.
    fn poll_actor(&mut self, cx: &mut Context<'_>) -> bool {
        let mut said = 0;
        while !self.ended && said < WRITE_BYTES {
            match Pin::new(&mut self.actor).poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    said += bytes.len();
                    // No other message may go out between fragments (RFC 6455 section 5.4).
                    if self.outbox.is_last() || self.outbox.has_parts() || self.farewell.is_some() {
                        self.farewell.get_or_insert_default().push_back(bytes);
                    } else {
                        self.writing.push_back(bytes);
                    }
                }
                Poll::Ready(Some(Err(_)) | None) => {
                    self.ended = true;
                    // Frees the session's memory and its connection slot.
                    self.actor = BoxBody::new(());
                    if !self.outbox.is_last() {
                        // The peer has closed, and reads no more.
                        self.outbox.clear();
                    }
                }
                Poll::Pending => return false,
            }
        }
        !self.ended
    }

    /// Makes sure that there is something to write, if there is anything.
    fn refill(&mut self) {
        if !self.writing.is_empty() {
            return;
        }
        let mut bytes = 0;
        while self.writing.len() < WRITE_FRAMES
            && bytes < WRITE_BYTES
            && let Some(frame) = self.outbox.next()
        {
            bytes += frame.len();
            self.writing.push_back(frame);
        }
        if self.writing.is_empty() {
            // The end; or none, and an idle connection keeps no buffer.
            self.writing = self.farewell.take().map_or_else(VecDeque::new, |farewell| *farewell);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<Written> {
        let mut progress = false;
        loop {
            self.refill();
            let mut io = self.io.borrow_mut();
            let mut io = Pin::new(&mut *io);
            if self.writing.is_empty() {
                return match io.poll_flush(cx)? {
                    Poll::Ready(()) => Ok(Written::All),
                    Poll::Pending => Ok(Written::Blocked { progress }),
                };
            }
            let written = if let [frame] = self.writing.make_contiguous() {
                io.as_mut().poll_write(cx, frame)
            } else {
                let mut slices = [IoSlice::new(&[]); WRITE_FRAMES];
                let count = self.writing.len().min(WRITE_FRAMES);
                for (slice, bytes) in slices.iter_mut().zip(&self.writing) {
                    *slice = IoSlice::new(bytes);
                }
                io.as_mut().poll_write_vectored(cx, &slices[..count])
            };
            match written? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(bytes) => {
                    progress = true;
                    advance(&mut self.writing, bytes);
                }
                Poll::Pending => return Ok(Written::Blocked { progress }),
            }
        }
    }

    /// Shuts down the sending half. After a close that we began it then waits for the peer to
    /// close: closing a socket with unread input resets the connection and discards the send
    /// buffer.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<Written> {
        let mut io = self.io.borrow_mut();
        if !self.shut {
            // Bounds how long the kernel keeps its send buffer.
            set_user_timeout(io.tcp(), Some(self.write_timeout));
            if Pin::new(&mut *io).poll_shutdown(cx)?.is_pending() {
                return Ok(Written::Blocked { progress: false });
            }
            self.shut = true;
            if let Some(connection) = &self.connection {
                connection.closed();
            }
        }
        drop(io);
        Ok(if self.poll_discard(cx)?.is_ready() { Written::Ended } else { Written::All })
    }

    /// Discards input after the actor has ended. Ready at the end of the input, or if the peer has
    /// closed already.
    fn poll_discard(&self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        if !self.gate.is_closing() || self.gate.peer_closed() {
            return Ok(Poll::Ready(()));
        }
        let mut io = self.io.borrow_mut();
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..READS {
                let mut buffer = ReadBuf::new(buffer);
                if Pin::new(&mut *io).poll_read(cx, &mut buffer)?.is_pending() {
                    return Ok(Poll::Pending);
                }
                if buffer.filled().is_empty() {
                    return Ok(Poll::Ready(()));
                }
            }
            cx.waker().wake_by_ref();
            Ok(Poll::Pending)
        })
    }

    /// Ready at the deadline: a write timeout without progress, or, after a close that we began, a
    /// write timeout (at least [`LINGER`]) in all.
    fn poll_deadline(&mut self, written: &Written, cx: &mut Context<'_>) -> Poll<()> {
        let is_closing = self.gate.is_closing();
        let begins = match written {
            _ if self.final_deadline => false,
            _ if is_closing => true,
            Written::All | Written::Ended => {
                self.deadline = None;
                false
            }
            Written::Blocked { progress } => *progress || self.deadline.is_none(),
        };
        self.final_deadline = is_closing;
        if begins {
            let time = if is_closing { LINGER } else { Duration::ZERO };
            let at = Instant::now() + self.write_timeout.max(time);
            match &mut self.deadline {
                Some(deadline) => deadline.as_mut().reset(at),
                None => self.deadline = Some(Box::pin(sleep_until(at))),
            }
        }
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<T: Transport> Future for Driver<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let written = loop {
            let has_more = this.poll_actor(cx);
            let written = match this.poll_write(cx) {
                Ok(Written::All) if this.ended => this.poll_end(cx),
                Ok(Written::All) if this.gate.unblock() | has_more => continue,
                written => written,
            };
            let written = match written {
                // Otherwise a peer that reads only after it has sent everything would deadlock.
                Ok(Written::Blocked { progress }) if this.ended => {
                    this.poll_discard(cx).map(|_| Written::Blocked { progress })
                }
                written => written,
            };
            match written {
                Ok(Written::Ended) => return Poll::Ready(()),
                Ok(written) => break written,
                Err(error) => {
                    debug!("writing to a connection failed: {error}");
                    return Poll::Ready(());
                }
            }
        };
        let is_blocked = matches!(written, Written::Blocked { .. });
        if is_blocked {
            this.gate.block();
        }
        ready!(this.poll_deadline(&written, cx));
        if is_blocked {
            end(&SockRef::from(this.io.borrow().tcp()));
        }
        Poll::Ready(())
    }
}

/// How long the kernel keeps a connection whose peer takes nothing. Only Linux has the option.
fn set_user_timeout(tcp: &TcpStream, timeout: Option<Duration>) {
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(tcp).set_tcp_user_timeout(timeout) {
        debug!("a connection keeps its TCP_USER_TIMEOUT: {error}");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (tcp, timeout);
}

/// Takes so many bytes off the front.
fn advance(queue: &mut VecDeque<Bytes>, mut bytes: usize) {
    while let Some(front) = queue.front_mut() {
        if bytes < front.len() {
            return front.advance(bytes);
        }
        bytes -= front.len();
        queue.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::TextFrame;
    use crate::websocket::tcp::Tcp;
    use std::cell::Cell;
    use std::task::Waker;

    use actix_codec::{AsyncRead, AsyncWrite};
    use actix_web::body::BodyStream;
    use futures_util::stream;
    use tokio::net::TcpListener;

    async fn pair() -> (Tcp, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer = TcpStream::connect(listener.local_addr().expect("it is bound"));
        let (accepted, peer) = tokio::join!(listener.accept(), peer);
        (Tcp::new(accepted.expect("a connection").0), peer.expect("a connection"))
    }

    /// An actor that says nothing.
    fn silent() -> BoxBody {
        BodyStream::new(stream::pending::<Result<Bytes, io::Error>>()).boxed()
    }

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Takes as much as it has room for, and has written it when it is told so: as TLS does.
    struct Hesitant {
        tcp: Tcp,
        room: Rc<Cell<usize>>,
        taken: Rc<RefCell<Vec<u8>>>,
        flushed: Rc<Cell<bool>>,
    }

    impl Hesitant {
        fn new(tcp: Tcp) -> Self {
            let (room, taken) = (Rc::new(Cell::new(usize::MAX)), Rc::default());
            Self { tcp, room, taken, flushed: Rc::new(Cell::new(true)) }
        }
    }

    impl AsyncRead for Hesitant {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Hesitant {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let room = self.room.get().min(bytes.len());
            if room == 0 {
                return Poll::Pending;
            }
            self.room.set(self.room.get() - room);
            self.taken.borrow_mut().extend_from_slice(&bytes[..room]);
            Poll::Ready(Ok(room))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.flushed.get() { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Transport for Hesitant {
        fn tcp(&self) -> &TcpStream {
            self.tcp.tcp()
        }
    }

    #[actix_web::test]
    async fn what_a_transport_holds_back_is_not_written() {
        let (tcp, _peer) = pair().await;
        let io = Hesitant::new(tcp);
        let flushed = Rc::clone(&io.flushed);
        flushed.set(false);
        let io = Rc::new(RefCell::new(io));
        let driven = Driven::default();
        let timeout = Duration::from_secs(3600);
        let head = Bytes::from_static(b"HTTP/1.1 101\r\n\r\n");
        let mut driver = Driver::new(io, head, silent(), driven.clone(), timeout, None);
        driven.outbox.push(TextFrame::new("hello"));
        assert_eq!(poll(&mut driver), Poll::Pending);
        assert!(driven.gate.is_blocked());
        flushed.set(true);
        assert_eq!(poll(&mut driver), Poll::Pending);
        assert!(!driven.gate.is_blocked());
        assert!(driven.gate.unblocked().is_some(), "its silence is forgiven");
    }

    #[actix_web::test]
    async fn frames_of_the_context_never_interleave_with_fragments() {
        let (tcp, _peer) = pair().await;
        let io = Hesitant::new(tcp);
        let (room, taken) = (Rc::clone(&io.room), Rc::clone(&io.taken));
        let said = Rc::new(RefCell::new(VecDeque::new()));
        let actor = Rc::clone(&said);
        let actor = stream::poll_fn(move |_| match actor.borrow_mut().pop_front() {
            Some(said) => Poll::Ready(Some(Ok::<Bytes, io::Error>(said))),
            None => Poll::Pending,
        });
        let driven = Driven::default();
        let (io, timeout) = (Rc::new(RefCell::new(io)), Duration::from_secs(3600));
        let actor = BodyStream::new(actor).boxed();
        let head = Bytes::from_static(b"HTTP/1.1 101\r\n\r\n");
        let mut driver = Driver::new(io, head, actor, driven.clone(), timeout, None);
        assert_eq!(poll(&mut driver), Poll::Pending);
        room.set(WRITE_BYTES / 2);
        driven.outbox.push_parts((0..4).map(|_| "x".repeat(WRITE_BYTES / 2)));
        assert_eq!(poll(&mut driver), Poll::Pending);
        for text in [&b"\x81\x01a"[..], b"\x81\x01b"] {
            said.borrow_mut().push_back(Bytes::from_static(text));
            assert_eq!(poll(&mut driver), Poll::Pending);
        }
        room.set(usize::MAX);
        assert_eq!(poll(&mut driver), Poll::Pending);
        let taken = taken.borrow();
        assert!(taken.ends_with(b"x\x81\x01a\x81\x01b"), "{:?}", &taken[taken.len() - 20..]);
    }

    /// The write timeout of plain HTTP is the system's, by what the peer acknowledges. It is not
    /// for a WebSocket: a reader that keeps its window shut for a while is no dead one.
    #[cfg(target_os = "linux")]
    #[actix_web::test]
    async fn systems_timeout_is_off_while_the_driver_has_the_connection() {
        let (tcp, _peer) = pair().await;
        let set = SockRef::from(tcp.tcp()).set_tcp_user_timeout(Some(Duration::from_secs(1)));
        set.expect("Linux has it");
        let shared = Rc::clone(&tcp.shared);
        let io = Rc::new(RefCell::new(tcp));
        let driven = Driven::default();
        let second = Duration::from_secs(1);
        let timeout = || SockRef::from(&*shared).tcp_user_timeout().expect("Linux has it");
        // The actor has ended already: when all is written, the kernel has its timeout again.
        let head = Bytes::from_static(b"HTTP/1.1 101\r\n\r\n");
        let mut driver = Driver::new(io, head, BoxBody::new(()), driven, second, None);
        assert_eq!(timeout().unwrap_or_default(), Duration::ZERO);
        assert_eq!(poll(&mut driver), Poll::Ready(()));
        assert_eq!(timeout(), Some(second));
    }
}
