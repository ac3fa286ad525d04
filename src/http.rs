//! The routes: the upgrade to a WebSocket here, the page and what operators ask beside it.

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "page")]
mod page;
mod status;

use std::any::Any;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::time::Duration;

use actix::Addr;
use actix_web::body::MessageBody;
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::http::{ConnectionType, StatusCode, header};
use actix_web::middleware::Next;
use actix_web::rt::net::TcpStream;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, ResponseError, web};
use actix_web_actors::ws;
use futures_core::Stream;
use log::warn;
use serde::Deserialize;
use socket2::SockRef;
use thiserror::Error;
use tokio::time::timeout;

use crate::admission::{Admission, Asked, NoPlace, Places, Proxies, Refusal};
use crate::config::Config;
use crate::domain::{BadNick, BadRoomName, ClientId, Nick, RoomName};
use crate::hub::{Hub, IsFree};
use crate::metrics::Handshake;
use crate::session::{Introduction, Session};
use crate::socket::{self, Connections, Options};
use crate::wire::{Protocol, json};

/// How much of an unwanted body is read, in bytes, and for how long.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const MAX_DISCARD_TIME: Duration = Duration::from_secs(5);

/// The chat as an actix-web program mounts it: `App::new().configure(|app| chat.configure(app))`.
#[derive(Clone, Debug)]
pub struct Chat {
    hub: Arc<Addr<Hub>>,
    config: Arc<Config>,
    admission: Arc<Admission>,
    proxies: Arc<Proxies>,
    places: Arc<Places>,
    sockets: Arc<Places>,
    readiness: Arc<status::Readiness>,
}

impl Chat {
    /// The chat of this hub.
    #[must_use]
    pub fn new(hub: Addr<Hub>, config: Config) -> Self {
        let admission = Admission::new(config.known_hosts(), config.allowed_origins.clone());
        Self {
            hub: Arc::new(hub),
            admission: Arc::new(admission),
            proxies: Arc::new(Proxies::new(config.trusted_proxies.clone())),
            places: Arc::new(Places::of(&config)),
            sockets: Arc::new(Places::of_sockets(&config)),
            readiness: Arc::default(),
            config: Arc::new(config),
        }
    }

    /// Adds the routes `/`, `/r/{room}`, `/static/…`, `/ws`, `/healthz`, `/readyz` and, to clients
    /// on this machine, `/metrics`.
    pub fn configure(&self, app: &mut web::ServiceConfig) {
        app.app_data(web::Data::new(self.clone())).service(web::resource("/ws").get(websocket));
        #[cfg(feature = "page")]
        page::configure(self, app);
        status::configure(app);
        #[cfg(feature = "metrics")]
        if self.config.metrics_listen.is_none() {
            metrics::configure_for_this_machine(app);
        }
    }

    /// The hook for `HttpServer::on_connect`: that of [`Connections`], which also cuts off what is
    /// too much from one address before it has asked for anything. A proxy that is trusted may have
    /// as many as it likes.
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

    /// The hook for [`Connections::serve`]. Does the same as [`Chat::on_connect`].
    pub fn connected(
        &self,
    ) -> impl Fn(&TcpStream, &mut Extensions) + Send + Sync + Clone + 'static + use<> {
        let chat = self.clone();
        move |tcp, extensions| chat.count_socket(tcp, extensions)
    }

    fn count_socket(&self, tcp: &TcpStream, extensions: &Extensions) {
        let peer = tcp.peer_addr().map(|peer| peer.ip()).ok();
        match peer.filter(|peer| !self.proxies.trust(*peer)).map(|peer| self.sockets.take(peer)) {
            Some(Ok(place)) => Connections::keep(extensions, place),
            Some(Err(_)) => drop(SockRef::from(tcp).shutdown(Shutdown::Both)),
            None => {}
        }
    }

    /// Adds the routes `/healthz`, `/readyz` and `/metrics`, to whomever they are served.
    pub fn configure_status(&self, app: &mut web::ServiceConfig) {
        app.app_data(web::Data::new(self.clone()));
        status::configure(app);
        #[cfg(feature = "metrics")]
        metrics::configure(app);
    }
}

/// Bounds what requests take: the body of one is read, since no route wants it; once it is answered
/// the head of the next one has a minute to come; and a connection ends after 100 of them. A client
/// that sends more than 16 without waiting for an answer is cut off. Wrap an app in it by
/// `actix_web::middleware::from_fn`.
///
/// A body is read because a connection that is closed with input unread is reset, and the client
/// may never see the answer. Who sends more than 16 MiB, or for longer than 5 seconds, is answered
/// all the same.
///
/// # Errors
/// Those of the routes.
pub async fn bound_requests(
    mut req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let asked = socket::begin_request(req.request());
    if asked.is_cut_off() {
        return Ok(req
            .into_response(HttpResponse::TooManyRequests().finish())
            .map_into_boxed_body());
    }
    if !req.head().upgrade() {
        let mut body = req.take_payload();
        let read = async {
            let mut bytes = 0;
            while let Some(Ok(chunk)) = poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
                bytes += chunk.len();
                if bytes > MAX_DISCARDED_BYTES {
                    break;
                }
            }
        };
        // A body that takes too long is left where it is.
        let _ = timeout(MAX_DISCARD_TIME, read).await;
    }
    let mut response = next.call(req).await?;
    if asked.is_last() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|head, body| match head.status {
        StatusCode::SWITCHING_PROTOCOLS => body.boxed(),
        _ => asked.answer(body),
    }))
}

/// What a client may ask for in the address of its WebSocket. A part left empty is not asked for.
#[derive(Debug, Default, Deserialize)]
struct Query {
    #[serde(default)]
    room: String,
    #[serde(default)]
    nick: String,
    #[serde(default)]
    history: String,
}

async fn websocket(
    req: HttpRequest,
    payload: web::Payload,
    chat: web::Data<Chat>,
) -> Result<HttpResponse, Error> {
    let answer = upgrade(&req, payload, &chat).await;
    let outcome = answer.as_ref().map_or_else(BadUpgrade::handshake, |_| Handshake::Upgraded);
    chat.config.metrics.shook_hands(outcome);
    Ok(answer?)
}

async fn upgrade(
    req: &HttpRequest,
    payload: web::Payload,
    chat: &Chat,
) -> Result<HttpResponse, BadUpgrade> {
    ws::handshake(req).map_err(|error| BadUpgrade::NoHandshake(error.into()))?;
    let client = client(req, &chat.proxies);
    // First: what another site's page tries must not use up the attempts of who visits it.
    chat.admission.admit(asked(req, &client)).map_err(BadUpgrade::Refused)?;
    let place = chat.places.take(client.address).map_err(BadUpgrade::NoPlace)?;
    let introduction = introduction(req)?;
    if introduction.protocol == Protocol::Text && !introduction.nick.is_anonymous() {
        let (room, nick) = (introduction.room.clone(), introduction.nick.clone());
        let is_free = chat.hub.send(IsFree { room, nick }).await;
        if !is_free.map_err(|_| BadUpgrade::NoHub)? {
            return Err(BadUpgrade::NameTaken(introduction.nick));
        }
    }
    let protocols: &[_] = match introduction.protocol {
        Protocol::Json => &[json::SUBPROTOCOL],
        Protocol::Text => &[],
    };
    let options = Options::new(chat.config.frame_limit())
        .protocols(protocols)
        .compression(chat.config.compression);
    let (_, response) = socket::upgrade(req, payload, options, |socket| {
        Session::new(introduction, socket, place, Arc::clone(&chat.hub), Arc::clone(&chat.config))
    })
    .map_err(BadUpgrade::NoHandshake)?;
    Ok(response)
}

/// Who asks, and whether a proxy that is believed asks for them.
struct Client {
    address: IpAddr,
    by_proxy: bool,
}

fn client(req: &HttpRequest, proxies: &Proxies) -> Client {
    let peer = req.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip());
    let forwarded_for: Vec<_> =
        req.headers().get_all(header::X_FORWARDED_FOR).map(readable).collect();
    let by_proxy = proxies.trust(peer);
    if !by_proxy && !forwarded_for.is_empty() {
        warn_of_proxy(peer);
    }
    Client { address: proxies.client(peer, forwarded_for.into_iter()), by_proxy }
}

/// Says once that a proxy seems to be there which nobody has told of. Only if it is close by: a
/// stranger who pretends to be one must not be recommended.
fn warn_of_proxy(peer: IpAddr) {
    static WARNED: Once = Once::new();
    let is_close = match peer.to_canonical() {
        IpAddr::V4(peer) => peer.is_loopback() || peer.is_private(),
        IpAddr::V6(peer) => peer.is_loopback() || peer.is_unique_local(),
    };
    if is_close {
        WARNED.call_once(|| {
            warn!(
                "a proxy at {peer} asks for others; unless it is a trusted proxy, all of them \
                 count as one address"
            );
        });
    }
}

fn readable(value: &header::HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

fn asked<'a>(req: &'a HttpRequest, client: &Client) -> Asked<'a> {
    let text = |name| req.headers().get(name).map(readable);
    // The last is what the nearest proxy says.
    let called = req.headers().get_all(header::X_FORWARDED_HOST).last().map(readable);
    let called = called.and_then(|hosts| hosts.rsplit(',').next()).map(str::trim);
    Asked {
        host: called.filter(|_| client.by_proxy).or_else(|| text(header::HOST)),
        origin: text(header::ORIGIN),
        over_loopback: client.address.is_loopback(),
    }
}

/// Who asks for none of the protocols that there are speaks plain text.
fn protocol(req: &HttpRequest) -> Protocol {
    let asked = req.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut asked = asked.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    let json = asked.any(|name| name.trim() == json::SUBPROTOCOL);
    if json { Protocol::Json } else { Protocol::Text }
}

fn introduction(req: &HttpRequest) -> Result<Introduction, BadUpgrade> {
    let query = web::Query::<Query>::from_query(req.query_string());
    let query = query.map_err(|_| BadUpgrade::Query)?;
    let client = ClientId::next();
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(Introduction {
        client,
        protocol: protocol(req),
        room: given(&query.room).map_or(Ok(RoomName::default()), |room| RoomName::parse(&room))?,
        nick: given(&query.nick).map_or(Ok(Nick::anonymous(client)), |nick| Nick::parse(&nick))?,
        history: given(&query.history)
            .map_or(Ok(0), |history| history.parse())
            .map_err(|_| BadUpgrade::History)?,
    })
}

/// Why a handshake is not answered with an upgrade.
#[derive(Debug, Error)]
enum BadUpgrade {
    #[error("{0}")]
    NoHandshake(Error),
    #[error(transparent)]
    NoPlace(NoPlace),
    #[error(transparent)]
    Refused(Refusal),
    #[error("the address takes ?room=, &nick= and &history=, each once")]
    Query,
    #[error(transparent)]
    Room(#[from] BadRoomName),
    #[error(transparent)]
    Nick(#[from] BadNick),
    #[error("history takes a whole number of messages")]
    History,
    #[error("somebody else goes by the name '{0}'")]
    NameTaken(Nick),
    #[error("the server cannot go on")]
    NoHub,
}

impl BadUpgrade {
    fn handshake(&self) -> Handshake {
        match self {
            Self::NoPlace(_) => Handshake::Limited,
            Self::Refused(_) => Handshake::Forbidden,
            Self::NameTaken(_) => Handshake::NameTaken,
            Self::NoHub => Handshake::NoHub,
            Self::NoHandshake(_) | Self::Query | Self::Room(_) | Self::Nick(_) | Self::History => {
                Handshake::Malformed
            }
        }
    }
}

impl ResponseError for BadUpgrade {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::NoHandshake(error) => error.as_response_error().status_code(),
            Self::NoPlace(NoPlace::Server) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoPlace(NoPlace::Address | NoPlace::Attempts(_)) => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(_) => StatusCode::FORBIDDEN,
            Self::NameTaken(_) => StatusCode::CONFLICT,
            Self::NoHub => StatusCode::SERVICE_UNAVAILABLE,
            Self::Query | Self::Room(_) | Self::Nick(_) | Self::History => StatusCode::BAD_REQUEST,
        }
    }

    fn error_response(&self) -> HttpResponse {
        if let Self::NoHandshake(error) = self {
            return error.error_response();
        }
        let mut response = HttpResponse::build(self.status_code());
        if let Self::NoPlace(no_place) = self {
            // Rounded up: who comes at the end of the second before would come in vain.
            let seconds = no_place.retry_after().as_millis().div_ceil(1000).max(1);
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        response.content_type("text/plain; charset=utf-8").body(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    use actix_web::middleware::from_fn;
    use actix_web::{App, HttpServer, rt};
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::sleep;

    const DEADLINE: Duration = Duration::from_secs(20);
    const PATIENCE: Duration = Duration::from_secs(1);

    /// Takes longer than a next request may to answer, and again to write the body.
    async fn slow() -> HttpResponse {
        sleep(PATIENCE * 3 / 2).await;
        let parts = futures_util::stream::unfold(0, async |n| {
            sleep(PATIENCE / 2).await;
            (n < 3).then_some((Ok::<_, Error>(Bytes::from_static(b"part")), n + 1))
        });
        HttpResponse::Ok().streaming(Box::pin(parts))
    }

    /// As long as a file of the page.
    const LONG: &str = "quick with 10 kB behind it";

    fn start() -> SocketAddr {
        let connections = Connections::new(DEADLINE).with_next_request(PATIENCE);
        let app = || {
            let quick = web::get().to(|| async { "quick" });
            App::new()
                .wrap(from_fn(bound_requests))
                .route("/", quick)
                .route("/slow", web::get().to(slow))
                .route("/long", web::get().to(|| async { LONG.repeat(400) }))
        };
        let http = HttpServer::new(app).workers(1).disable_signals();
        let http = http.on_connect(connections.on_connect()).bind("127.0.0.1:0").expect("a port");
        let addr = http.addrs()[0];
        rt::spawn(http.run());
        addr
    }

    async fn ask(tcp: &mut TcpStream, path: &str, end: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.expect("it is open");
        let mut answer = Vec::new();
        let read = async {
            while !answer.ends_with(end.as_bytes()) {
                assert_ne!(tcp.read_buf(&mut answer).await.expect("an answer"), 0, "cut off");
            }
        };
        timeout(DEADLINE, read).await.expect("in time");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[actix_web::test]
    async fn a_second_request_that_drips_is_cut_off_as_a_first_one_is() {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        ask(&mut tcp, "/", "quick").await;
        let (mut reader, mut writer) = tcp.into_split();
        let drip = async {
            while writer.write_all(b"G").await.is_ok() {
                sleep(PATIENCE / 10).await;
            }
        };
        let end = timeout(DEADLINE, async {
            tokio::select! {
                () = drip => {}
                read = reader.read_u8() => assert!(read.is_err(), "nothing is answered"),
            }
        });
        end.await.expect("it does not drip for ever");
    }

    /// Sends requests without waiting; says whether all are answered before the connection ends.
    async fn are_answered(path: &str, count: usize, bytes: usize) -> bool {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        let head = ask(&mut tcp, "/", "quick").await.len() - "quick".len();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(count);
        tcp.write_all(request.as_bytes()).await.expect("it is open");
        let mut answers = Vec::new();
        let read = timeout(DEADLINE, async {
            while answers.len() < count * (head + bytes) {
                if !tcp.read_buf(&mut answers).await.is_ok_and(|bytes| bytes > 0) {
                    return false;
                }
            }
            true
        });
        read.await.expect("answers, or an end")
    }

    #[actix_web::test]
    async fn client_that_pipelines_many_requests_is_cut_off() {
        assert!(are_answered("/", 10, "quick".len()).await);
        assert!(!are_answered("/", 1000, "quick".len()).await);
        assert!(!are_answered("/long", 200, 400 * LONG.len()).await);
    }

    #[actix_web::test]
    async fn a_connection_carries_a_hundred_requests() {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        for n in 1..=100 {
            let answer = ask(&mut tcp, "/", "quick").await.to_lowercase();
            assert_eq!(answer.contains("connection: close"), n == 100, "{n}: {answer}");
        }
    }

    #[actix_web::test]
    async fn an_answer_may_take_as_long_as_it_likes_and_so_may_its_body() {
        let mut tcp = TcpStream::connect(start()).await.expect("a connection");
        ask(&mut tcp, "/", "quick").await;
        let answer = ask(&mut tcp, "/slow", "\r\n0\r\n\r\n").await;
        assert_eq!(answer.matches("part").count(), 3);
        ask(&mut tcp, "/", "quick").await;
    }
}
