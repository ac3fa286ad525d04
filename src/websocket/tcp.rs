//! A TCP connection with shared ownership. Its task reads and writes it, and others can reset it
//! without a second descriptor.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use socket2::SockRef;
use tokio::io::Interest;

/// A byte stream that a [`Driver`](super::driver::Driver) can own.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Returns the TCP connection below.
    fn tcp(&self) -> &TcpStream;
}

/// A TCP connection with shared ownership.
#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) shared: Rc<TcpStream>,
    /// The connection data for the requests, until actix-http takes it.
    extensions: RefCell<Option<Box<Extensions>>>,
}

impl Tcp {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { shared: Rc::new(tcp), extensions: RefCell::default() }
    }

    pub(super) fn store_extensions(&self, extensions: Extensions) {
        self.extensions.replace(Some(Box::new(extensions)));
    }

    pub(super) fn take_extensions(&self) -> Extensions {
        self.extensions.take().map_or_else(Extensions::new, |extensions| *extensions)
    }
}

impl Transport for Tcp {
    fn tcp(&self) -> &TcpStream {
        &self.shared
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.shared.poll_read_ready(cx))?;
            let space = buffer.initialize_unfilled();
            let size = space.len();
            match self.shared.try_read(space) {
                Ok(bytes) => {
                    if cfg!(target_os = "linux") && 0 < bytes && bytes < size {
                        // Nothing is left to read, so the next poll need not try. No event can
                        // have arrived since, because the runtime's reactor is on this thread.
                        let nothing_left = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                        let _ = self.shared.try_io(Interest::READABLE, nothing_left);
                    }
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Tcp {
    fn poll_write_by(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.shared.poll_write_ready(cx))?;
            match write(&self.shared) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, |tcp| tcp.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, |tcp| tcp.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.shared).shutdown(Shutdown::Write))
    }
}
