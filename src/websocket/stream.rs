//! The byte stream of a connection: plain TCP, or TLS over TCP. The server turns each accepted
//! connection into one. Encryption is left to rustls.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use actix_http::error::DispatchError;
use actix_web::rt::net::TcpStream;
#[cfg(feature = "tls")]
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::tcp::{Tcp, Transport};

/// The size of the buffer of TLS for a peer that does not read, in bytes. The kernel has its own.
#[cfg(feature = "tls")]
const TLS_BUFFER_BYTES: usize = 32 * 1024;

/// The name of HTTP/1.1 in ALPN.
#[cfg(feature = "tls")]
const HTTP: &[u8] = b"http/1.1";

/// The byte stream of one connection.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Tcp),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<Tcp>>),
}

/// Turns an accepted connection into a [`Stream`].
#[derive(Clone)]
pub(super) enum Acceptor {
    Plain,
    #[cfg(feature = "tls")]
    Tls(TlsAcceptor),
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            #[cfg(feature = "tls")]
            Self::Tls(_) => "Tls",
        })
    }
}

impl Acceptor {
    /// Waits until the peer has sent something and, with TLS, until the handshake is complete.
    pub(super) async fn accept(self, tcp: Tcp) -> Result<Stream, DispatchError> {
        // actix-http allocates 16 kB for a connection at once. Thousands of clients that connect
        // together would need that memory together, and the heap would keep it.
        tcp.tcp().readable().await.map_err(DispatchError::Io)?;
        match self {
            Self::Plain => Ok(Stream::Plain(tcp)),
            #[cfg(feature = "tls")]
            Self::Tls(acceptor) => {
                let accept = acceptor.accept_with(tcp, |session| {
                    session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
                });
                let tls = accept.await.map_err(DispatchError::Io)?;
                // The protocol of ACME challenges ends after the handshake (RFC 8737 section 3).
                if tls.get_ref().1.alpn_protocol().is_some_and(|protocol| protocol != HTTP) {
                    return Err(DispatchError::Io(io::ErrorKind::ConnectionAborted.into()));
                }
                Ok(Stream::Tls(Box::new(tls)))
            }
        }
    }
}

/// The trait object for both variants of [`Stream`].
trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

impl Stream {
    fn io(self: Pin<&mut Self>) -> Pin<&mut dyn Io> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Pin::new(&mut **tls),
        }
    }

    /// Returns the TCP connection below.
    pub(super) fn socket(&self) -> &Tcp {
        match self {
            Self::Plain(tcp) => tcp,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl Transport for Stream {
    fn tcp(&self) -> &TcpStream {
        self.socket().tcp()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}
