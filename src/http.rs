//! The routes: the page, the upgrade to a WebSocket, the sign of life.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::time::Duration;

use actix::Addr;
use actix_files::{Files, NamedFile};
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::{DefaultHeaders, Next};
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, ResponseError, web};
use actix_web_actors::ws;
use futures_core::Stream;
use log::warn;
use serde::Deserialize;
use thiserror::Error;
use tokio::time::timeout;

use crate::admission::{Admission, Asked, NoPlace, Places, Proxies, Rates, Refusal};
use crate::config::Config;
use crate::domain::{BadNick, BadRoomName, ClientId, Nick, RoomName};
use crate::hub::{Hub, IsFree};
use crate::session::{Introduction, Session};
use crate::socket;
use crate::wire::{Protocol, json};

/// The page may load and run nothing but what this server sends, and talk to nobody else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// How much of an unwanted body is read, in bytes, and for how long.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const MAX_DISCARD_TIME: Duration = Duration::from_secs(5);

const PAGE: &str = include_str!("../static/index.html");

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The page's other files: name, type, content.
const ASSETS: [(&str, &str, &str); 8] = [
    ("chat.css", "text/css; charset=utf-8", include_str!("../static/chat.css")),
    ("chat.js", JAVASCRIPT, include_str!("../static/chat.js")),
    ("connection.js", JAVASCRIPT, include_str!("../static/connection.js")),
    ("log.js", JAVASCRIPT, include_str!("../static/log.js")),
    ("room.js", JAVASCRIPT, include_str!("../static/room.js")),
    ("store.js", JAVASCRIPT, include_str!("../static/store.js")),
    ("text.js", JAVASCRIPT, include_str!("../static/text.js")),
    ("icon.svg", "image/svg+xml", include_str!("../static/icon.svg")),
];

/// The chat as an actix-web program mounts it: `App::new().configure(|app| chat.configure(app))`.
#[derive(Clone, Debug)]
pub struct Chat {
    hub: Addr<Hub>,
    config: Arc<Config>,
    admission: Arc<Admission>,
    proxies: Arc<Proxies>,
    places: Arc<Places>,
}

impl Chat {
    /// The chat of this hub.
    #[must_use]
    pub fn new(hub: Addr<Hub>, config: Config) -> Self {
        let admission = Admission::new(config.public_hosts.clone(), config.allowed_origins.clone());
        let places = Places::new(
            config.max_connections,
            config.max_connections_per_address,
            config.connect_rate,
            Rates::new(config.publish_rate, config.publish_rate_per_address),
        );
        Self {
            hub,
            admission: Arc::new(admission),
            proxies: Arc::new(Proxies::new(config.trusted_proxies.clone())),
            places: Arc::new(places),
            config: Arc::new(config),
        }
    }

    /// Adds the routes `/`, `/r/{room}`, `/static/…`, `/ws` and `/healthz`.
    pub fn configure(&self, app: &mut web::ServiceConfig) {
        app.app_data(web::Data::new(self.clone()))
            .service(web::resource("/").get(page).route(web::head().to(page)))
            .service(web::resource("/r/{room}").get(room_page).route(web::head().to(room_page)))
            .service(web::resource("/ws").get(websocket))
            .service(web::resource("/healthz").get(healthz));
        let assets = web::scope("/static").wrap(
            DefaultHeaders::new()
                .add((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                .add((header::CACHE_CONTROL, "no-cache")),
        );
        app.service(match &self.config.static_dir {
            Some(dir) => assets.service(Files::new("/", dir)),
            None => {
                assets.service(web::resource("/{file}").get(asset).route(web::head().to(asset)))
            }
        });
    }
}

async fn page(req: HttpRequest, chat: web::Data<Chat>) -> Result<HttpResponse, Error> {
    let mut response = match &chat.config.static_dir {
        Some(dir) => NamedFile::open(dir.join("index.html"))?.into_response(&req),
        None => HttpResponse::Ok().content_type("text/html; charset=utf-8").body(PAGE),
    };
    let headers = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn room_page(
    req: HttpRequest,
    chat: web::Data<Chat>,
    room: web::Path<String>,
) -> Result<HttpResponse, Error> {
    match RoomName::parse(&room) {
        Ok(_) => page(req, chat).await,
        Err(error) => Ok(HttpResponse::NotFound().body(error.to_string())),
    }
}

async fn asset(file: web::Path<String>) -> HttpResponse {
    match ASSETS.iter().find(|(name, ..)| *name == *file) {
        Some(&(_, kind, content)) => HttpResponse::Ok().content_type(kind).body(content),
        None => HttpResponse::NotFound().finish(),
    }
}

/// Reads a body that comes with a request, since no route wants one: a connection that is closed
/// with input unread is reset, and the client may never see the answer. Within bounds: who sends
/// more, or for longer, is answered all the same.
pub(crate) async fn discard_body(
    mut req: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
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
    next.call(req).await
}

async fn healthz() -> &'static str {
    "ok\n"
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
    ws::handshake(&req)?;
    let client = client(&req, &chat.proxies);
    let place = chat.places.take(client.address).map_err(BadUpgrade::NoPlace)?;
    chat.admission.admit(asked(&req, &client)).map_err(BadUpgrade::Refused)?;
    let introduction = introduction(&req)?;
    if introduction.protocol == Protocol::Text && !introduction.nick.is_anonymous() {
        let (room, nick) = (introduction.room.clone(), introduction.nick.clone());
        let is_free = chat.hub.send(IsFree { room, nick }).await;
        if !is_free.map_err(|_| BadUpgrade::NoHub)? {
            return Err(BadUpgrade::NameTaken(introduction.nick).into());
        }
    }
    let protocols: &[_] = match introduction.protocol {
        Protocol::Json => &[json::SUBPROTOCOL],
        Protocol::Text => &[],
    };
    let max_bytes = chat.config.frame_limit();
    let (_, response) = socket::upgrade(&req, payload, protocols, max_bytes, |socket| {
        Session::new(introduction, socket, place, chat.hub.clone(), Arc::clone(&chat.config))
    })?;
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
                "a proxy at {peer} asks for others; unless it is named by --trusted-proxy, all of \
                 them count as one address"
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

impl ResponseError for BadUpgrade {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::NoPlace(NoPlace::Server) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoPlace(NoPlace::Address | NoPlace::Attempts(_)) => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(_) => StatusCode::FORBIDDEN,
            Self::NameTaken(_) => StatusCode::CONFLICT,
            Self::NoHub => StatusCode::SERVICE_UNAVAILABLE,
            Self::Query | Self::Room(_) | Self::Nick(_) | Self::History => StatusCode::BAD_REQUEST,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Self::NoPlace(no_place) = self {
            // Rounded up: who comes at the end of the second before would come in vain.
            let seconds = no_place.retry_after().as_millis().div_ceil(1000).max(1);
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        response.content_type("text/plain; charset=utf-8").body(self.to_string())
    }
}
