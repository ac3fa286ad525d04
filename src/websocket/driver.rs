//! The task that owns a connection with a WebSocket. It polls the actor even while the peer does
//! not read, reads into a buffer that all connections of a thread share, writes frames without
//! copying them, and resets the connection if the kernel accepts nothing for the write timeout. The
//! upgrade service starts it.

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

use super::CLOSE_TIMEOUT;
use super::connection::Connection;
use super::force_close::reset;
use super::guard::FlowControl;
use super::outbox::Outbox;
use super::tcp::Transport;
use super::upgrade::DriverState;

/// The size of the read buffer, in bytes.
const READ_BUFFER_BYTES: usize = 32 * 1024;

/// The greatest number of reads in one poll. Unlimited reads would exhaust tokio's cooperative
/// budget in every poll, and then no timer of this task would ever fire.
const MAX_CONSECUTIVE_READS: u32 = 16;

/// A batch of frames with this many bytes is full. A batch is written together.
const WRITE_BATCH_BYTES: usize = 32 * 1024;

/// The greatest number of frames in a batch.
const WRITE_BATCH_FRAMES: usize = 16;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER_BYTES].into_boxed_slice());
}

/// The bytes that the peer sends, as the payload of the handshake's request.
pub(super) struct Inbound<T> {
    io: Rc<RefCell<T>>,
    /// Bytes that were read together with the request.
    initial: Bytes,
    consecutive_reads: u32,
}

impl<T> Inbound<T> {
    pub(super) fn new(io: Rc<RefCell<T>>, initial: Bytes) -> Self {
        Self { io, initial, consecutive_reads: 0 }
    }
}

impl<T: Transport> Stream for Inbound<T> {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if !this.initial.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut this.initial))));
        }
        if this.consecutive_reads == MAX_CONSECUTIVE_READS {
            this.consecutive_reads = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            let mut io = this.io.borrow_mut();
            let read = Pin::new(&mut *io).poll_read(cx, &mut buffer);
            this.consecutive_reads = if read.is_ready() { this.consecutive_reads + 1 } else { 0 };
            match ready!(read) {
                Ok(()) if buffer.filled().is_empty() => Poll::Ready(None),
                Ok(()) => Poll::Ready(Some(Ok(Bytes::copy_from_slice(buffer.filled())))),
                Err(error) => Poll::Ready(Some(Err(PayloadError::Io(error)))),
            }
        })
    }
}

/// The task of a connection.
pub(super) struct Driver<T> {
    io: Rc<RefCell<T>>,
    /// The response's body. Polling it runs the actor. It yields frames that bypass the outbox: the
    /// close frame, and what the actor writes through its context.
    actor: BoxBody,
    outbox: Outbox,
    flow: FlowControl,
    writing: VecDeque<Bytes>,
    /// Frames of the actor to write after everything in the outbox. Usually none.
    #[expect(clippy::box_collection, reason = "one word instead of four in every connection")]
    trailing: Option<Box<VecDeque<Bytes>>>,
    actor_ended: bool,
    /// Whether the sending half of the connection has been shut down.
    is_shut_down: bool,
    write_timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether the deadline is that of a close by this side. Progress does not extend it.
    has_final_deadline: bool,
    connection: Option<Rc<Connection>>,
}

/// The outcome of a poll for writing.
enum WriteStatus {
    /// Everything has been written.
    Complete,
    /// Everything has been written, and the connection can be closed.
    Ended,
    /// The kernel accepts no more.
    Blocked {
        /// Whether it has accepted anything in this poll.
        progress: bool,
    },
}

impl<T: Transport> Driver<T> {
    pub(super) fn new(
        io: Rc<RefCell<T>>,
        head: Bytes,
        actor: BoxBody,
        DriverState { outbox, flow }: DriverState,
        write_timeout: Duration,
        connection: Option<Rc<Connection>>,
    ) -> Self {
        // From here on the driver's own deadline applies.
        set_user_timeout(io.borrow().tcp(), None);
        Self {
            io,
            actor,
            outbox,
            flow,
            writing: VecDeque::from([head]),
            trailing: None,
            actor_ended: false,
            is_shut_down: false,
            write_timeout,
            deadline: None,
            has_final_deadline: false,
            connection,
        }
    }

    /// Polls the actor until it is idle, so that everything in its mailbox is written together.
    /// Returns whether the actor has more to do, because it wrote a full batch through its context.
    fn poll_actor(&mut self, cx: &mut Context<'_>) -> bool {
        let mut written = 0;
        while !self.actor_ended && written < WRITE_BATCH_BYTES {
            match Pin::new(&mut self.actor).poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    written += bytes.len();
                    // A close frame follows everything in the outbox, and no other message may go
                    // out between fragments (RFC 6455 section 5.4).
                    if self.outbox.is_finished()
                        || self.outbox.has_parts()
                        || self.trailing.is_some()
                    {
                        self.trailing.get_or_insert_default().push_back(bytes);
                    } else {
                        self.writing.push_back(bytes);
                    }
                }
                Poll::Ready(Some(Err(_)) | None) => {
                    self.actor_ended = true;
                    // Drops the actor with everything that it owns.
                    self.actor = BoxBody::new(());
                    if !self.outbox.is_finished() {
                        // The peer has closed, so it reads nothing more.
                        self.outbox.clear();
                    }
                }
                Poll::Pending => return false,
            }
        }
        !self.actor_ended
    }

    /// Takes the next batch of frames if the last one has been written.
    fn refill(&mut self) {
        if !self.writing.is_empty() {
            return;
        }
        let mut bytes = 0;
        while self.writing.len() < WRITE_BATCH_FRAMES
            && bytes < WRITE_BATCH_BYTES
            && let Some(frame) = self.outbox.next()
        {
            bytes += frame.len();
            self.writing.push_back(frame);
        }
        if self.writing.is_empty() {
            // A new queue has no buffer, so an idle connection keeps none.
            self.writing = self.trailing.take().map_or_else(VecDeque::new, |trailing| *trailing);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<WriteStatus> {
        let mut progress = false;
        loop {
            self.refill();
            let mut io = self.io.borrow_mut();
            let mut io = Pin::new(&mut *io);
            if self.writing.is_empty() {
                return match io.poll_flush(cx)? {
                    Poll::Ready(()) => Ok(WriteStatus::Complete),
                    Poll::Pending => Ok(WriteStatus::Blocked { progress }),
                };
            }
            let written = if let [frame] = self.writing.make_contiguous() {
                io.as_mut().poll_write(cx, frame)
            } else {
                let mut slices = [IoSlice::new(&[]); WRITE_BATCH_FRAMES];
                let count = self.writing.len().min(WRITE_BATCH_FRAMES);
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
                Poll::Pending => return Ok(WriteStatus::Blocked { progress }),
            }
        }
    }

    /// Shuts down the sending half of the connection. After a close by this side it then waits for
    /// the peer to close: closing a socket with unread input resets the connection and discards the
    /// send buffer.
    fn poll_shutdown_connection(&mut self, cx: &mut Context<'_>) -> io::Result<WriteStatus> {
        let mut io = self.io.borrow_mut();
        if !self.is_shut_down {
            // Limits how long the kernel keeps its send buffer.
            set_user_timeout(io.tcp(), Some(self.write_timeout));
            if Pin::new(&mut *io).poll_shutdown(cx)?.is_pending() {
                return Ok(WriteStatus::Blocked { progress: false });
            }
            self.is_shut_down = true;
            if let Some(connection) = &self.connection {
                connection.mark_closed();
            }
        }
        drop(io);
        Ok(if self.poll_discard_input(cx)?.is_ready() {
            WriteStatus::Ended
        } else {
            WriteStatus::Complete
        })
    }

    /// Discards input after the actor has ended. It is ready at the end of the input, or if no
    /// input needs to be awaited because the peer closed first.
    fn poll_discard_input(&self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        if !self.flow.is_closing() || self.flow.peer_closed() {
            return Ok(Poll::Ready(()));
        }
        let mut io = self.io.borrow_mut();
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..MAX_CONSECUTIVE_READS {
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

    /// Is ready at the deadline. While writing is blocked, each progress restarts the write
    /// timeout. After a close by this side, nothing extends it; it is then at least
    /// [`CLOSE_TIMEOUT`].
    fn poll_deadline(&mut self, status: &WriteStatus, cx: &mut Context<'_>) -> Poll<()> {
        let is_closing = self.flow.is_closing();
        let begins = match status {
            _ if self.has_final_deadline => false,
            _ if is_closing => true,
            WriteStatus::Complete | WriteStatus::Ended => {
                self.deadline = None;
                false
            }
            WriteStatus::Blocked { progress } => *progress || self.deadline.is_none(),
        };
        self.has_final_deadline = is_closing;
        if begins {
            let minimum = if is_closing { CLOSE_TIMEOUT } else { Duration::ZERO };
            let at = Instant::now() + self.write_timeout.max(minimum);
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
        let status = loop {
            let has_more = this.poll_actor(cx);
            let status = match this.poll_write(cx) {
                Ok(WriteStatus::Complete) if this.actor_ended => this.poll_shutdown_connection(cx),
                Ok(WriteStatus::Complete) if this.flow.clear_write_blocked() | has_more => continue,
                status => status,
            };
            let status = match status {
                // Without this, a peer that reads only after it has sent everything would deadlock.
                Ok(WriteStatus::Blocked { progress }) if this.actor_ended => {
                    this.poll_discard_input(cx).map(|_| WriteStatus::Blocked { progress })
                }
                status => status,
            };
            match status {
                Ok(WriteStatus::Ended) => return Poll::Ready(()),
                Ok(status) => break status,
                Err(error) => {
                    debug!("cannot write to a connection: {error}");
                    return Poll::Ready(());
                }
            }
        };
        let is_blocked = matches!(status, WriteStatus::Blocked { .. });
        if is_blocked {
            this.flow.set_write_blocked();
        }
        ready!(this.poll_deadline(&status, cx));
        if is_blocked {
            reset(&SockRef::from(this.io.borrow().tcp()));
        }
        Poll::Ready(())
    }
}

/// Sets how long the kernel keeps a connection whose peer acknowledges nothing. Only Linux has this
/// option.
fn set_user_timeout(tcp: &TcpStream, timeout: Option<Duration>) {
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(tcp).set_tcp_user_timeout(timeout) {
        debug!("cannot set TCP_USER_TIMEOUT of a connection: {error}");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (tcp, timeout);
}

/// Removes a number of bytes from the front of the queue.
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

    /// Returns the body of an actor that writes nothing.
    fn silent_actor() -> BoxBody {
        BodyStream::new(stream::pending::<Result<Bytes, io::Error>>()).boxed()
    }

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// A transport with a buffer, like TLS: it accepts `room` bytes, and a flush completes when
    /// `flushed` is true.
    struct BufferingTransport {
        tcp: Tcp,
        room: Rc<Cell<usize>>,
        accepted: Rc<RefCell<Vec<u8>>>,
        flushed: Rc<Cell<bool>>,
    }

    impl BufferingTransport {
        fn new(tcp: Tcp) -> Self {
            let (room, accepted) = (Rc::new(Cell::new(usize::MAX)), Rc::default());
            Self { tcp, room, accepted, flushed: Rc::new(Cell::new(true)) }
        }
    }

    impl AsyncRead for BufferingTransport {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for BufferingTransport {
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
            self.accepted.borrow_mut().extend_from_slice(&bytes[..room]);
            Poll::Ready(Ok(room))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.flushed.get() { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Transport for BufferingTransport {
        fn tcp(&self) -> &TcpStream {
            self.tcp.tcp()
        }
    }

    #[actix_web::test]
    async fn writing_is_blocked_until_the_transport_is_flushed() {
        let (tcp, _peer) = pair().await;
        let io = BufferingTransport::new(tcp);
        let flushed = Rc::clone(&io.flushed);
        flushed.set(false);
        let io = Rc::new(RefCell::new(io));
        let state = DriverState::default();
        let timeout = Duration::from_secs(3600);
        let head = Bytes::from_static(b"HTTP/1.1 101\r\n\r\n");
        let mut driver = Driver::new(io, head, silent_actor(), state.clone(), timeout, None);
        state.outbox.push(TextFrame::new("hello"));
        assert_eq!(poll(&mut driver), Poll::Pending);
        assert!(state.flow.is_write_blocked());
        flushed.set(true);
        assert_eq!(poll(&mut driver), Poll::Pending);
        assert!(!state.flow.is_write_blocked());
        assert!(
            state.flow.write_unblocked_at().is_some(),
            "blocked time does not count as silence"
        );
    }

    #[actix_web::test]
    async fn frames_of_the_context_never_interleave_with_fragments() {
        let (tcp, _peer) = pair().await;
        let io = BufferingTransport::new(tcp);
        let (room, accepted) = (Rc::clone(&io.room), Rc::clone(&io.accepted));
        let frames = Rc::new(RefCell::new(VecDeque::new()));
        let actor = Rc::clone(&frames);
        let actor = stream::poll_fn(move |_| match actor.borrow_mut().pop_front() {
            Some(frame) => Poll::Ready(Some(Ok::<Bytes, io::Error>(frame))),
            None => Poll::Pending,
        });
        let state = DriverState::default();
        let (io, timeout) = (Rc::new(RefCell::new(io)), Duration::from_secs(3600));
        let actor = BodyStream::new(actor).boxed();
        let head = Bytes::from_static(b"HTTP/1.1 101\r\n\r\n");
        let mut driver = Driver::new(io, head, actor, state.clone(), timeout, None);
        assert_eq!(poll(&mut driver), Poll::Pending);
        room.set(WRITE_BATCH_BYTES / 2);
        state.outbox.push_parts((0..4).map(|_| "x".repeat(WRITE_BATCH_BYTES / 2)));
        assert_eq!(poll(&mut driver), Poll::Pending);
        for text in [&b"\x81\x01a"[..], b"\x81\x01b"] {
            frames.borrow_mut().push_back(Bytes::from_static(text));
            assert_eq!(poll(&mut driver), Poll::Pending);
        }
        room.set(usize::MAX);
        assert_eq!(poll(&mut driver), Poll::Pending);
        let accepted = accepted.borrow();
        assert!(
            accepted.ends_with(b"x\x81\x01a\x81\x01b"),
            "{:?}",
            &accepted[accepted.len() - 20..]
        );
    }

    /// The kernel's timeout ends a connection whose receive window is closed for long. For a
    /// WebSocket the driver decides, since such a peer may be alive.
    #[cfg(target_os = "linux")]
    #[actix_web::test]
    async fn tcp_user_timeout_is_off_while_the_driver_has_the_connection() {
        let (tcp, _peer) = pair().await;
        let set = SockRef::from(tcp.tcp()).set_tcp_user_timeout(Some(Duration::from_secs(1)));
        set.expect("Linux has it");
        let shared = Rc::clone(&tcp.shared);
        let io = Rc::new(RefCell::new(tcp));
        let state = DriverState::default();
        let second = Duration::from_secs(1);
        let timeout = || SockRef::from(&*shared).tcp_user_timeout().expect("Linux has it");
        // The actor has ended already, so the timeout is set again when everything is written.
        let head = Bytes::from_static(b"HTTP/1.1 101\r\n\r\n");
        let mut driver = Driver::new(io, head, BoxBody::new(()), state, second, None);
        assert_eq!(timeout().unwrap_or_default(), Duration::ZERO);
        assert_eq!(poll(&mut driver), Poll::Ready(()));
        assert_eq!(timeout(), Some(second));
    }
}
