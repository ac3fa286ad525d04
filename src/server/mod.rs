//! The server: starts the hub, the journal and the HTTP workers, and listens on the addresses of
//! the configuration. At a shutdown it stops them in an order that lets every client receive a
//! close frame. The routes are in [`http`]. `tls` and `acme` provide the certificate.

#[cfg(feature = "tls")]
mod acme;
mod redirect;
#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "journal")]
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Addr, Arbiter};
use actix_server::ServerBuilder;
use actix_web::dev::{self, ServerHandle};
use actix_web::http::header;
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::{App, HttpServer, rt, web};
use log::{error, info, warn};
use socket2::{Domain, Socket, Type};
use thiserror::Error;
use tokio::time::timeout;

use crate::config::{Config, ConfigError};
use crate::http::{self, Chat};
use crate::hub::{Drain, Hub, StartHub, Watch};
#[cfg(feature = "cluster")]
use crate::log::jetstream::{self, ClusterError, SharedLog};
#[cfg(feature = "journal")]
use crate::log::sqlite::{Journal, JournalError, Options};
use crate::websocket::Connections;
#[cfg(feature = "tls")]
pub use acme::AcmeError;
#[cfg(feature = "tls")]
pub use tls::TlsError;

/// The number of connections that the system may hold until they are accepted: the maximum that
/// Linux allows by default. After a restart all clients reconnect at once. A client whose
/// connection the system drops tries again only after a second.
const BACKLOG: u32 = 4096;

/// The value of the HSTS header: one year, in seconds.
const HSTS: &str = "max-age=31536000";

/// The port of HTTPS, where certificate authorities validate a domain.
const HTTPS_PORT: u16 = 443;

/// A running server. It continues to run when this value is dropped.
#[derive(Debug)]
pub struct Server {
    hub: Addr<Hub>,
    /// None if the hub runs on the only worker.
    hub_thread: Option<Arbiter>,
    /// Never dropped together with this value, since the server continues to run then.
    #[cfg(feature = "journal")]
    journal: Option<ManuallyDrop<Journal>>,
    #[cfg(feature = "cluster")]
    shared_log: Option<ManuallyDrop<SharedLog>>,
    http: ServerHandle,
    /// The server for metrics and health checks, if they have a separate address.
    status: Option<(SocketAddr, ServerHandle)>,
    connections: Connections,
    addrs: Vec<SocketAddr>,
    redirects: Vec<SocketAddr>,
    shutdown_timeout: Duration,
}

/// Why a server did not start, or did not shut down gracefully.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The history file cannot be opened.
    #[cfg(feature = "journal")]
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An address for metrics is set, but this program is built without metrics.
    #[cfg(not(feature = "metrics"))]
    #[error("metrics_listen is set, but this program is built without metrics")]
    NoMetrics,
    /// A directory with a page is set, but this program is built without the page.
    #[cfg(not(feature = "page"))]
    #[error("static_dir is set, but this program is built without the page")]
    NoPage,
    /// A history file is set, but this program is built without the journal.
    #[cfg(not(feature = "journal"))]
    #[error("db is set, but this program is built without the journal")]
    NoJournal,
    /// The node cannot take part in the log of its cluster.
    #[cfg(feature = "cluster")]
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A NATS server is set, but this program is built without the feature `cluster`.
    #[cfg(not(feature = "cluster"))]
    #[error("nats is set, but this program is built without the feature cluster")]
    NoCluster,
    /// The certificate cannot be loaded.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The settings of ACME or its folder cannot be used.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Acme(#[from] AcmeError),
    /// A certificate is set, but this program is built without TLS.
    #[cfg(not(feature = "tls"))]
    #[error("tls_cert or acme is set, but this program is built without TLS")]
    NoTls,
    /// An address could not be bound.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The handlers of signals cannot be installed.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    /// The hub or its log has panicked. The hub has closed all connections.
    #[error("the hub or its journal failed")]
    HubFailed,
    /// A second signal arrived during the shutdown, which was not finished.
    #[error("second signal received; forcing exit")]
    Interrupted,
}

/// Starts a server. Call it on an actix system, for example in `#[actix_web::main]`.
///
/// # Errors
/// If the configuration is invalid, an address cannot be bound, or the history file or the
/// certificate cannot be opened.
pub async fn start(config: Config) -> Result<Server, ServerError> {
    config.check()?;
    #[cfg(not(feature = "metrics"))]
    if config.metrics_listen.is_some() {
        return Err(ServerError::NoMetrics);
    }
    #[cfg(not(feature = "page"))]
    if config.static_dir.is_some() {
        return Err(ServerError::NoPage);
    }
    #[cfg(not(feature = "cluster"))]
    if config.cluster.is_some() {
        return Err(ServerError::NoCluster);
    }
    #[cfg(not(feature = "tls"))]
    if config.serves_tls() {
        return Err(ServerError::NoTls);
    }
    let plain = Connections::new(config.write_timeout);
    #[cfg(not(feature = "tls"))]
    let secured = plain.clone();
    #[cfg(feature = "tls")]
    let secured = match (tls::Files::from_config(&config), &config.acme) {
        (Some(files), _) => plain.with_tls(tls::server_config(files)?),
        (None, Some(acme)) => plain.with_tls(acme::server_config(acme)?),
        (None, None) => plain.clone(),
    };
    #[cfg(feature = "cluster")]
    jetstream::bring_up_to_date(&config).await?;
    #[cfg(feature = "journal")]
    let journal =
        Options::from_config(&config).map(|options| Journal::open(&options)).transpose()?;
    #[cfg(not(feature = "journal"))]
    if config.db.is_some() {
        return Err(ServerError::NoJournal);
    }
    #[cfg(feature = "cluster")]
    let (journal, shared_log) = open_shared_log(&config, journal).await?;
    #[cfg(feature = "journal")]
    let (hub, start_hub) = match &journal {
        Some(journal) => {
            info!("storing history in {}", journal.path().display());
            let log = journal.log();
            #[cfg(feature = "cluster")]
            let log = shared_log.as_ref().map_or(log, SharedLog::log);
            Hub::prepare_with_log(&config, log)
        }
        None => Hub::prepare(&config),
    };
    #[cfg(not(feature = "journal"))]
    let (hub, start_hub) = Hub::prepare(&config);
    // With one worker, the hub runs on its thread: waking another thread would cost more CPU time
    // than the hub's work.
    let (worker_hub, own_hub) =
        if config.workers == 1 { (Some(start_hub), None) } else { (None, Some(start_hub)) };
    let chat = Chat::new(hub.clone(), config.clone());
    let bound = BoundServer::bind(&config, &chat, &plain, &secured, worker_hub)?;
    let status = config.metrics_listen.map(|addr| serve_status(&chat, addr)).transpose()?;
    let BoundServer { http, addrs, redirects } = bound;
    let hub_thread = own_hub.map(|start_hub| {
        let thread = Arbiter::new();
        thread.spawn_fn(start_hub);
        thread
    });
    let running = http.run();
    let server = Server {
        hub,
        hub_thread,
        #[cfg(feature = "journal")]
        journal: journal.map(ManuallyDrop::new),
        #[cfg(feature = "cluster")]
        shared_log: shared_log.map(ManuallyDrop::new),
        http: running.handle(),
        status,
        connections: plain,
        addrs,
        redirects,
        shutdown_timeout: config.shutdown_timeout,
    };
    rt::spawn(running);
    if let Some((addr, _)) = &server.status {
        info!("metrics are at {}/metrics", url("http", *addr));
    }
    for addr in &server.redirects {
        info!("redirecting {} to HTTPS", url("http", *addr));
    }
    if let Some(acme) = &config.acme
        && server.addrs.iter().all(|addr| addr.port() != HTTPS_PORT)
    {
        warn!(
            "no listen address has port 443; the certificate authority connects to port 443 of {}, \
             so forward that port to a listen address",
            acme.domains[0]
        );
    }
    let scheme = if config.serves_tls() { "https" } else { "http" };
    for addr in &server.addrs {
        info!("open {}", url(scheme, *addr));
    }
    Ok(server)
}

/// Opens the log that the node shares with others, if the configuration names it.
#[cfg(feature = "cluster")]
async fn open_shared_log(
    config: &Config,
    journal: Option<Journal>,
) -> Result<(Option<Journal>, Option<SharedLog>), ClusterError> {
    let journal = match journal {
        Some(journal) if config.cluster.is_some() => journal,
        journal @ (Some(_) | None) => return Ok((journal, None)),
    };
    match SharedLog::open(config, &journal).await {
        Ok(shared_log) => Ok((Some(journal), Some(shared_log))),
        Err(error) => {
            // Its write-ahead log must not remain: an operator may replace the file.
            journal.close().await;
            Err(error)
        }
    }
}

/// The HTTP server, bound to its addresses and not running yet.
struct BoundServer {
    http: ServerBuilder,
    addrs: Vec<SocketAddr>,
    redirects: Vec<SocketAddr>,
}

impl BoundServer {
    /// Binds all addresses of `listen` and `redirect_from`. The first worker calls `start_hub`.
    fn bind(
        config: &Config,
        chat: &Chat,
        plain: &Connections,
        secured: &Connections,
        start_hub: Option<StartHub>,
    ) -> Result<Self, ServerError> {
        let served = chat.clone();
        let hsts = sends_hsts(config);
        let start_hub = Arc::new(Mutex::new(start_hub));
        let app = move || {
            let start_hub = start_hub.lock().map_or(None, |mut start_hub| start_hub.take());
            if let Some(start_hub) = start_hub {
                start_hub();
            }
            App::new()
                .wrap(headers(hsts))
                .wrap(from_fn(http::bound_requests))
                .configure(|app| served.configure(app))
        };
        let http = dev::Server::build().workers(config.workers).disable_signals().backlog(BACKLOG);
        let mut bound = Self { http, addrs: Vec::new(), redirects: Vec::new() };
        for &addr in &config.listen {
            let (listener, actual) = listen(addr)?;
            bound.addrs.push(actual);
            let serving = secured.serve(bound.http, listener, app.clone(), chat.connected());
            bound.http = serving.map_err(|source| ServerError::Listen { addr, source })?;
        }
        for &addr in &config.redirect_from {
            let port = bound.addrs[0].port();
            let (listener, actual) = listen(addr)?;
            bound.redirects.push(actual);
            let app = move || {
                let redirect = web::to(move |req| redirect::to_https(req, port));
                App::new().wrap(from_fn(http::bound_requests)).default_service(redirect)
            };
            let serving = plain.serve(bound.http, listener, app, chat.connected());
            bound.http = serving.map_err(|source| ServerError::Listen { addr, source })?;
        }
        Ok(bound)
    }
}

/// Returns whether to send HSTS. A browser applies it to all ports of the host and then uses port
/// 443, so it is sent only if the server listens there.
fn sends_hsts(config: &Config) -> bool {
    config.serves_tls() && config.listen.iter().any(|addr| addr.port() == HTTPS_PORT)
}

fn headers(hsts: bool) -> DefaultHeaders {
    let hsts = hsts.then_some((header::STRICT_TRANSPORT_SECURITY, HSTS));
    hsts.into_iter().fold(DefaultHeaders::new(), DefaultHeaders::add)
}

impl Server {
    /// Returns the hub, to which a program can send actor messages of its own.
    #[must_use]
    pub fn hub(&self) -> &Addr<Hub> {
        &self.hub
    }

    /// Returns the journal, if there is a history file.
    #[cfg(feature = "journal")]
    #[must_use]
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_deref()
    }

    /// Returns the addresses on which the server listens. A configured port 0 is replaced by the
    /// actual port.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Returns the addresses that redirect to HTTPS, with their actual ports.
    #[must_use]
    pub fn redirect_addrs(&self) -> &[SocketAddr] {
        &self.redirects
    }

    /// Returns the separate address of `/metrics`, if there is one.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.status.as_ref().map(|(addr, _)| *addr)
    }

    /// Runs until SIGINT, SIGTERM or SIGHUP, then shuts down gracefully. A second signal interrupts
    /// the shutdown.
    ///
    /// # Errors
    /// If the hub or the journal failed, or a second signal interrupted the shutdown.
    pub async fn run(self) -> Result<(), ServerError> {
        let mut signals = Signals::new().map_err(ServerError::Signals)?;
        let Ok(mut hub_stopped) = self.hub.send(Watch).await else {
            return Err(ServerError::HubFailed);
        };
        let outcome = tokio::select! {
            () = signals.next() => {
                info!("shutting down");
                Ok(())
            }
            _ = &mut hub_stopped => {
                error!("the hub has stopped unexpectedly; shutting down");
                Err(ServerError::HubFailed)
            }
        };
        tokio::select! {
            () = self.stop() => outcome,
            () = signals.next() => Err(ServerError::Interrupted),
        }
    }

    /// Shuts down gracefully. Accepts no more connections, waits for the journal to commit the last
    /// messages, closes every WebSocket with code 1001, and waits until all are closed. This takes
    /// at most `shutdown_timeout`. Then closes the journal, which takes at most the same time.
    pub async fn stop(self) {
        let closed = timeout(self.shutdown_timeout, async {
            self.http.pause().await;
            // If the journal does not answer, clients must still receive a close frame in time.
            if timeout(self.shutdown_timeout / 2, self.drain_hub(true)).await.is_err() {
                warn!("the journal did not commit the last messages in time");
                self.drain_hub(false).await;
            }
            self.connections.all_closed().await;
        });
        if closed.await.is_err() {
            warn!("some connections did not close in time");
        }
        self.http.stop(false).await;
        if let Some((_, status)) = self.status {
            status.stop(false).await;
        }
        #[cfg(feature = "cluster")]
        if let Some(shared_log) = self.shared_log {
            ManuallyDrop::into_inner(shared_log).close().await;
        }
        #[cfg(feature = "journal")]
        if let Some(journal) = self.journal
            && let closed = ManuallyDrop::into_inner(journal).close()
            && timeout(self.shutdown_timeout, closed).await.is_err()
        {
            warn!("the journal did not close in time; committed messages are safe");
        }
        // Last, since workers may still accept requests for WebSockets: `http.stop` does not wait
        // for them.
        if let Some(hub_thread) = self.hub_thread {
            hub_thread.stop();
        }
    }
}

/// Returns a future that waits for SIGINT, SIGTERM or SIGHUP, or for Ctrl-C on a system other than
/// Unix. On Unix it also reports a signal that arrives before it is first polled.
///
/// # Errors
/// If the handlers of the signals cannot be installed.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::new()?;
    Ok(async move { signals.next().await })
}

/// Listens on an address. Returns the listener and the address with the actual port.
fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        // After a restart the port can be bound while old connections are in TIME_WAIT. On Windows
        // this option would let other programs bind the same port.
        #[cfg(not(windows))]
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() && addr.ip().is_unspecified() {
            // `[::]` also accepts IPv4, whatever the default of the system is.
            socket.set_only_v6(false)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
        let listener = TcpListener::from(socket);
        let actual = listener.local_addr()?;
        Ok((listener, actual))
    };
    listen().map_err(|source| ServerError::Listen { addr, source })
}

/// Serves metrics and health checks on a separate address, also during a shutdown.
fn serve_status(chat: &Chat, addr: SocketAddr) -> Result<(SocketAddr, ServerHandle), ServerError> {
    let chat = chat.clone();
    let http = HttpServer::new(move || App::new().configure(|app| chat.configure_status(app)))
        .workers(1)
        .disable_signals()
        .bind(addr)
        .map_err(|source| ServerError::Listen { addr, source })?;
    let addr = http.addrs().first().copied().unwrap_or(addr);
    let running = http.run();
    let handle = running.handle();
    rt::spawn(running);
    Ok((addr, handle))
}

impl Server {
    /// Asks the hub to close all connections, and waits until it has sent the close frames. With
    /// `wait` it first waits for the journal.
    async fn drain_hub(&self, wait: bool) {
        // Sending fails if the hub has panicked. Then it has closed all connections already.
        if let Ok(drained) = self.hub.send(Drain { wait }).await {
            let _ = drained.await;
        }
    }
}

/// Returns a URL for an address that opens in a browser on this machine.
fn url(scheme: &str, addr: SocketAddr) -> String {
    let is_local = addr.ip().is_loopback() || addr.ip().is_unspecified();
    let host = if is_local { "localhost".to_owned() } else { addr.ip().to_string() };
    let host = if addr.is_ipv6() && !is_local { format!("[{host}]") } else { host };
    let note = if addr.ip().is_unspecified() { " (and on every other address)" } else { "" };
    format!("{scheme}://{host}:{}{note}", addr.port())
}

/// The signals that stop a server.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// The signals that stop a server.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::{TestRequest, call_service, init_service};

    #[actix_web::test]
    async fn hsts_is_sent_only_over_tls_on_port_443() {
        for (cert, port, sent) in [(true, 443, true), (true, 8443, false), (false, 443, false)] {
            let tls_cert = cert.then(|| "cert.pem".into());
            let listen = vec![SocketAddr::from(([0, 0, 0, 0], port))];
            let config = Config { tls_cert, listen, ..Config::default() };
            let app = init_service(App::new().wrap(headers(sends_hsts(&config)))).await;
            let answer = call_service(&app, TestRequest::get().to_request()).await;
            let header = answer.headers().get(header::STRICT_TRANSPORT_SECURITY);
            assert_eq!(header.is_some(), sent, "{port}");
        }
    }

    #[test]
    fn url_opens_on_this_machine() {
        let urls = [
            ("127.0.0.1:8080", "http://localhost:8080"),
            ("[::1]:80", "http://localhost:80"),
            ("0.0.0.0:8080", "http://localhost:8080 (and on every other address)"),
            ("192.0.2.1:8080", "http://192.0.2.1:8080"),
            ("[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
        ];
        for (addr, expected) in urls {
            assert_eq!(url("http", addr.parse().expect("an address")), expected);
        }
    }
}
