//! The server with drivers, and its upgrade service. actix-http passes each connection whose client
//! requests a WebSocket to the upgrade service and keeps no part of it. The app answers the request
//! like any other. If the response is an upgrade, a [`Driver`] takes over the connection.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_codec::{Encoder, Framed, ReadBuf};
use actix_http::error::DispatchError;
use actix_http::h1::{Codec, Message};
use actix_http::{
    ConnectionType, Error, HttpMessage, HttpService, Payload, Protocol, Request, Response,
    StatusCode,
};
use actix_server::ServerBuilder;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, apply_fn_factory, fn_service,
    map_config,
};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Extensions, ServiceResponse};
use actix_web::rt;
use actix_web::rt::net::TcpStream;
use bytes::{Bytes, BytesMut};
use log::debug;
use tokio::time::timeout;

use super::CLOSE_TIMEOUT;
use super::connection::{Connection, Connections};
use super::driver::{Driver, Inbound};
use super::guard::FlowControl;
use super::outbox::Outbox;
use super::stream::Stream;
use super::tcp::{Tcp, Transport};

/// The time limit for the first byte (with TLS, for the handshake), and then for the head of the
/// first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

impl Connections {
    /// Serves an app like `HttpServer`, but gives each connection that [`upgrade`](super::upgrade)
    /// makes a WebSocket a small task of its own. That task polls the actor even while the peer
    /// does not read. An idle WebSocket takes one descriptor and less than 4 kB, instead of two
    /// descriptors and 14 kB.
    ///
    /// - `app` is called twice for each worker, so create shared state outside of it.
    /// - `connected` is called for each connection, like the hook of `HttpServer::on_connect`. Use
    ///   `Chat::connected` for a chat. Its extensions are dropped at the upgrade; a value that must
    ///   live as long as the connection goes into [`Connections::keep`].
    /// - The app's `AppConfig` always has the host `localhost:8080`, and its `secure` is false.
    /// - A graceful stop of the HTTP server drops open WebSockets. Disable its signals and stop as
    ///   in the example.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use actix_web::{App, dev, rt};
    /// use chinwag::server::stop_signal;
    /// use chinwag::websocket::Connections;
    ///
    /// #[actix_web::main]
    /// async fn main() -> std::io::Result<()> {
    ///     let listener = std::net::TcpListener::bind("127.0.0.1:8080")?;
    ///     let connections = Connections::new(Duration::from_secs(10));
    ///     let http = dev::Server::build().disable_signals();
    ///     let server = connections.serve(http, listener, App::new, |_, _| {})?.run();
    ///     let http = server.handle();
    ///     rt::spawn(server);
    ///     stop_signal()?.await;
    ///     http.pause().await;
    ///     // Make each actor close its socket here.
    ///     connections.all_closed().await;
    ///     http.stop(false).await;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Returns an error if the operating system does not allow the server to use the listener.
    pub fn serve<A, I, S, B>(
        &self,
        http: ServerBuilder,
        listener: TcpListener,
        app: A,
        connected: impl Fn(&TcpStream, &mut Extensions) + Send + Sync + Clone + 'static,
    ) -> io::Result<ServerBuilder>
    where
        A: Fn() -> I + Send + Clone + 'static,
        I: IntoServiceFactory<S, Request>,
        S: ServiceFactory<
                Request,
                Config = AppConfig,
                Response = ServiceResponse<B>,
                Error = actix_web::Error,
            > + 'static,
        S::Future: 'static,
        S::InitError: fmt::Debug + 'static,
        <S::Service as Service<Request>>::Future: 'static,
        B: MessageBody + 'static,
    {
        let connections = self.clone();
        http.listen("chinwag", listener, move || {
            let app = || {
                let app = app().into_factory();
                let app = app
                    .map(|answer: ServiceResponse<B>| Response::from(answer.map_into_boxed_body()))
                    .map_err(|error: actix_web::Error| Response::from(error.error_response()));
                map_config(app, |()| AppConfig::default())
            };
            let http = HttpService::build()
                .client_request_timeout(FIRST_REQUEST_TIMEOUT)
                .client_disconnect_timeout(connections.write_timeout)
                .on_connect_ext(|stream: &Stream, extensions: &mut Extensions| {
                    extensions.extend(stream.socket().take_extensions());
                })
                .upgrade(UpgradeFactory { app: app(), write_timeout: connections.write_timeout })
                .finish(app());
            let (tracking, connected) = (connections.clone(), connected.clone());
            let acceptor = connections.acceptor.clone();
            let accept = move |tcp: TcpStream| {
                let peer = tcp.peer_addr().ok();
                // Without this, a message may wait for the acknowledgement of the one before.
                if let Err(error) = tcp.set_nodelay(true) {
                    debug!("cannot set TCP_NODELAY of a connection: {error}");
                }
                let tcp = Tcp::new(tcp);
                let mut extensions = Extensions::new();
                tracking.track_driven(&tcp, &mut extensions);
                connected(tcp.tcp(), &mut extensions);
                tcp.store_extensions(extensions);
                let accept = timeout(FIRST_REQUEST_TIMEOUT, acceptor.clone().accept(tcp));
                async move {
                    match accept.await {
                        Ok(stream) => Ok((stream?, Protocol::Http1, peer)),
                        Err(_) => Err(DispatchError::SlowRequestTimeout),
                    }
                }
            };
            // actix-server spawns the future of each connection as a task. tokio aligns tasks to
            // 128 bytes, and glibc before 2.38 does not reuse the memory of a large freed task for
            // the next one. So the task contains only a box.
            apply_fn_factory(fn_service(accept).and_then(http), |tcp: TcpStream, service: &_| {
                Box::pin(Service::call(service, tcp))
            })
        })
    }
}

/// Creates the upgrade service of each worker.
struct UpgradeFactory<F> {
    app: F,
    write_timeout: Duration,
}

type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

impl<F, T> ServiceFactory<(Request, Framed<T, Codec>)> for UpgradeFactory<F>
where
    T: Transport,
    F: ServiceFactory<
            Request,
            Config = (),
            Response = Response<BoxBody>,
            Error = Response<BoxBody>,
        >,
    F::Future: 'static,
    <F::Service as Service<Request>>::Future: 'static,
{
    type Response = ();
    type Error = Error;
    type Config = ();
    type Service = UpgradeService<F::Service>;
    type InitError = F::InitError;
    type Future = LocalFuture<Result<Self::Service, Self::InitError>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let (app, write_timeout) = (self.app.new_service(()), self.write_timeout);
        Box::pin(async move { Ok(UpgradeService { app: app.await?, write_timeout }) })
    }
}

/// The upgrade service of one worker.
struct UpgradeService<S> {
    app: S,
    write_timeout: Duration,
}

/// What a socket shares with its driver. A request has it in its extensions if a driver will take
/// over its connection.
#[derive(Clone, Debug, Default)]
pub(super) struct DriverState {
    pub(super) outbox: Outbox,
    pub(super) flow: FlowControl,
}

impl<S, T> Service<(Request, Framed<T, Codec>)> for UpgradeService<S>
where
    T: Transport,
    S: Service<Request, Response = Response<BoxBody>, Error = Response<BoxBody>>,
    S::Future: 'static,
{
    type Response = ();
    type Error = Error;
    type Future = LocalFuture<Result<(), Error>>;

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&self, (mut req, framed): (Request, Framed<T, Codec>)) -> Self::Future {
        let parts = framed.into_parts();
        let (mut codec, mut unwritten) = (parts.codec, parts.write_buf);
        let io = Rc::new(RefCell::new(parts.io));
        let initial = Bytes::copy_from_slice(&parts.read_buf);
        let state = DriverState::default();
        let inbound = Inbound::new(Rc::clone(&io), initial);
        *req.payload() = Payload::Stream { payload: Box::pin(inbound) };
        req.extensions_mut().insert(state.clone());
        let connection = req.conn_data::<Rc<Connection>>().cloned();
        let response = self.app.call(req);
        let write_timeout = self.write_timeout;
        Box::pin(async move {
            let response = response.await.unwrap_or_else(|error| error);
            let (mut response, body) = response.into_parts();
            let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if !is_upgrade {
                response.head_mut().set_connection_type(ConnectionType::Close);
            }
            let size = body.size();
            if let Err(error) = codec.encode(Message::Item((response, size)), &mut unwritten) {
                debug!("cannot encode the response to a handshake: {error}");
                return Ok(());
            }
            if is_upgrade {
                let head = Bytes::copy_from_slice(&unwritten);
                // A new task is smaller than the current one, which has handled HTTP.
                rt::spawn(Driver::new(io, head, body, state, write_timeout, connection));
            } else {
                let written = timeout(CLOSE_TIMEOUT, write_response(&io, codec, unwritten, body));
                if let Ok(Err(error)) = written.await {
                    debug!("cannot write the response to a rejected handshake: {error}");
                }
            }
            Ok(())
        })
    }
}

/// Writes a response that is not an upgrade, and reads until the peer closes: closing a connection
/// with unread input resets it, and the peer might never read the response.
async fn write_response<T: Transport>(
    io: &RefCell<T>,
    mut codec: Codec,
    mut unwritten: BytesMut,
    body: BoxBody,
) -> io::Result<()> {
    let has_body = !body.size().is_eof();
    let mut body = std::pin::pin!(body);
    while has_body && let Some(chunk) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
        let chunk = chunk.map_err(|error| io::Error::other(error.to_string()))?;
        codec.encode(Message::Chunk(Some(chunk)), &mut unwritten)?;
        write(io, &unwritten.split()).await?;
    }
    if has_body {
        codec.encode(Message::Chunk(None), &mut unwritten)?;
    }
    write(io, &unwritten).await?;
    poll_fn(|cx| Pin::new(&mut *io.borrow_mut()).poll_shutdown(cx)).await?;
    loop {
        let mut bytes = [0; 1024];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|cx| Pin::new(&mut *io.borrow_mut()).poll_read(cx, &mut buffer)).await?;
        if buffer.filled().is_empty() {
            return Ok(());
        }
    }
}

async fn write<T: Transport>(io: &RefCell<T>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let write = |cx: &mut Context<'_>| Pin::new(&mut *io.borrow_mut()).poll_write(cx, bytes);
        match poll_fn(write).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    poll_fn(|cx| Pin::new(&mut *io.borrow_mut()).poll_flush(cx)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream as Peer;
    use std::sync::mpsc;

    use actix_web::{App, dev};

    #[actix_web::test]
    async fn small_messages_are_not_delayed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("it is bound");
        let (sender, nodelay) = mpsc::channel();
        let connected = move |tcp: &TcpStream, _: &mut Extensions| {
            let _ = sender.send(tcp.nodelay().expect("it is open"));
        };
        let connections = Connections::new(Duration::from_secs(1));
        let http = dev::Server::build().workers(1).disable_signals();
        let server = connections.serve(http, listener, App::new, connected).expect("a server");
        rt::spawn(server.run());
        let peer = Peer::connect(addr).expect("a connection");
        let wait = rt::task::spawn_blocking(move || nodelay.recv_timeout(Duration::from_secs(20)));
        assert_eq!(wait.await.expect("no panic"), Ok(true));
        drop(peer);
    }
}
