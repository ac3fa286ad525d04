//! The HTTP routes: the upgrade to a WebSocket, the page, and the routes for operators. [`Chat`]
//! adds them to an actix-web app. The server does, and so can a program that mounts the chat.

mod client_address;
#[cfg(feature = "metrics")]
mod metrics;
mod origin;
#[cfg(feature = "page")]
mod page;
mod request_limits;
mod status;
mod upgrade;

use std::any::Any;
use std::net::Shutdown;
use std::sync::Arc;

use actix::Addr;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use actix_web::web;
use socket2::SockRef;

use crate::config::Config;
use crate::hub::Hub;
use crate::limits::ConnectionLimiter;
use crate::websocket::Connections;
use client_address::Proxies;
use origin::OriginPolicy;
pub use request_limits::bound_requests;

/// The routes of the chat, for an actix-web app: `App::new().configure(|app| chat.configure(app))`.
#[derive(Clone, Debug)]
pub struct Chat {
    hub: Arc<Addr<Hub>>,
    config: Arc<Config>,
    origins: Arc<OriginPolicy>,
    proxies: Arc<Proxies>,
    /// Limits WebSockets.
    websocket_limiter: Arc<ConnectionLimiter>,
    /// Limits all connections, including those that carry plain HTTP.
    connection_limiter: Arc<ConnectionLimiter>,
    readiness: Arc<status::Readiness>,
}

impl Chat {
    /// Returns the routes of a chat with this hub.
    #[must_use]
    pub fn new(hub: Addr<Hub>, config: Config) -> Self {
        let origins = OriginPolicy::new(config.known_hosts(), config.allowed_origins.clone());
        Self {
            hub: Arc::new(hub),
            origins: Arc::new(origins),
            proxies: Arc::new(Proxies::new(config.trusted_proxies.clone())),
            websocket_limiter: Arc::new(ConnectionLimiter::of(&config)),
            connection_limiter: Arc::new(ConnectionLimiter::of_all_connections(&config)),
            readiness: Arc::default(),
            config: Arc::new(config),
        }
    }

    /// Adds the routes `/`, `/r/{room}`, `/static/…`, `/ws`, `/healthz`, `/readyz` and, for clients
    /// on this machine, `/metrics`.
    pub fn configure(&self, app: &mut web::ServiceConfig) {
        app.app_data(web::Data::new(self.clone()))
            .service(web::resource("/ws").get(upgrade::websocket));
        #[cfg(feature = "page")]
        page::configure(self, app);
        status::configure(app);
        #[cfg(feature = "metrics")]
        if self.config.metrics_listen.is_none() {
            metrics::configure_for_this_machine(app);
        }
    }

    /// Returns the hook for `HttpServer::on_connect`. It calls [`Connections::track`], and closes
    /// connections beyond the limit of one address before they send a request. Trusted proxies have
    /// no limit.
    pub fn on_connect(
        &self,
        connections: &Connections,
    ) -> impl Fn(&dyn Any, &mut Extensions) + Send + Sync + 'static + use<> {
        let (chat, connections) = (self.clone(), connections.clone());
        move |io, extensions| {
            let Some(tcp) = io.downcast_ref::<TcpStream>() else { return };
            connections.track(tcp, extensions);
            chat.count_socket(tcp, extensions);
        }
    }

    /// Returns the hook for [`Connections::serve`]. It applies the same limit as
    /// [`Chat::on_connect`].
    pub fn connected(
        &self,
    ) -> impl Fn(&TcpStream, &mut Extensions) + Send + Sync + Clone + 'static + use<> {
        let chat = self.clone();
        move |tcp, extensions| chat.count_socket(tcp, extensions)
    }

    fn count_socket(&self, tcp: &TcpStream, extensions: &Extensions) {
        let peer = tcp.peer_addr().map(|peer| peer.ip()).ok();
        match peer
            .filter(|peer| !self.proxies.trust(*peer))
            .map(|peer| self.connection_limiter.acquire(peer))
        {
            Some(Ok(permit)) => Connections::keep(extensions, permit),
            Some(Err(_)) => drop(SockRef::from(tcp).shutdown(Shutdown::Both)),
            None => {}
        }
    }

    /// Adds the routes `/healthz`, `/readyz` and `/metrics` for every client.
    pub fn configure_status(&self, app: &mut web::ServiceConfig) {
        app.app_data(web::Data::new(self.clone()));
        status::configure(app);
        #[cfg(feature = "metrics")]
        metrics::configure(app);
    }
}
