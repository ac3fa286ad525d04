//! The route `/ws`: checks a request for a WebSocket and starts a session. The handshake itself is
//! in `websocket`.

use std::sync::Arc;

use actix_web::http::{StatusCode, header};
use actix_web::{Error, HttpRequest, HttpResponse, ResponseError, web};
use actix_web_actors::ws;
use serde::Deserialize;
use thiserror::Error;

use super::Chat;
use super::client_address::Client;
use super::origin::OriginRefused;
use crate::domain::{BadNick, BadRoomName, ClientId, Nick, RoomName};
use crate::hub::IsFree;
use crate::limits::ConnectionRefused;
use crate::metrics::Handshake;
use crate::protocol::{Protocol, json};
use crate::session::{ConnectParams, Session};
use crate::websocket::{self, Options};

/// The query of the WebSocket's URL. An empty parameter counts as absent.
#[derive(Debug, Default, Deserialize)]
struct Query {
    #[serde(default)]
    room: String,
    #[serde(default)]
    nick: String,
    #[serde(default)]
    history: String,
}

pub(super) async fn websocket(
    req: HttpRequest,
    payload: web::Payload,
    chat: web::Data<Chat>,
) -> Result<HttpResponse, Error> {
    let answer = upgrade(&req, payload, &chat).await;
    let outcome = answer.as_ref().map_or_else(UpgradeError::handshake, |_| Handshake::Upgraded);
    chat.config.metrics.count_handshake(outcome);
    Ok(answer?)
}

async fn upgrade(
    req: &HttpRequest,
    payload: web::Payload,
    chat: &Chat,
) -> Result<HttpResponse, UpgradeError> {
    ws::handshake(req).map_err(|error| UpgradeError::NoHandshake(error.into()))?;
    let client = Client::of(req, &chat.proxies);
    // Checked first, since requests of another site's page must not count for its visitor.
    chat.origins.check(client.origin(req))?;
    let permit = chat.websocket_limiter.acquire(client.address)?;
    let params = params(req)?;
    if params.protocol == Protocol::Text && !params.nick.is_anonymous() {
        let (room, nick) = (params.room.clone(), params.nick.clone());
        let is_free = chat.hub.send(IsFree { room, nick }).await;
        if !is_free.map_err(|_| UpgradeError::NoHub)? {
            return Err(UpgradeError::NameTaken(params.nick));
        }
    }
    let protocols: &[_] = match params.protocol {
        Protocol::Json => &[json::SUBPROTOCOL],
        Protocol::Text => &[],
    };
    let options = Options::new(chat.config.frame_limit())
        .protocols(protocols)
        .compression(chat.config.compression);
    let (_, response) = websocket::upgrade(req, payload, options, |socket| {
        Session::new(params, socket, permit, Arc::clone(&chat.hub), Arc::clone(&chat.config))
    })
    .map_err(UpgradeError::NoHandshake)?;
    Ok(response)
}

/// Returns the requested protocol. The default is the text protocol.
fn protocol(req: &HttpRequest) -> Protocol {
    let requested = req.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut requested =
        requested.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    let json = requested.any(|name| name.trim() == json::SUBPROTOCOL);
    if json { Protocol::Json } else { Protocol::Text }
}

fn params(req: &HttpRequest) -> Result<ConnectParams, UpgradeError> {
    let query = web::Query::<Query>::from_query(req.query_string());
    let query = query.map_err(|_| UpgradeError::Query)?;
    let client = ClientId::next();
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(ConnectParams {
        client,
        protocol: protocol(req),
        room: given(&query.room).map_or(Ok(RoomName::default()), |room| RoomName::parse(&room))?,
        nick: given(&query.nick).map_or(Ok(Nick::anonymous(client)), |nick| Nick::parse(&nick))?,
        history: given(&query.history)
            .map_or(Ok(0), |history| history.parse())
            .map_err(|_| UpgradeError::History)?,
    })
}

/// Why a request is not upgraded.
#[derive(Debug, Error)]
enum UpgradeError {
    #[error("{0}")]
    NoHandshake(Error),
    #[error(transparent)]
    Limit(#[from] ConnectionRefused),
    #[error(transparent)]
    Origin(#[from] OriginRefused),
    #[error("the query may have room, nick and history, each once")]
    Query,
    #[error(transparent)]
    Room(#[from] BadRoomName),
    #[error(transparent)]
    Nick(#[from] BadNick),
    #[error("history must be a number of messages")]
    History,
    #[error("another user has the name '{0}'")]
    NameTaken(Nick),
    #[error("internal server error")]
    NoHub,
}

impl UpgradeError {
    fn handshake(&self) -> Handshake {
        match self {
            Self::Limit(_) => Handshake::Limited,
            Self::Origin(_) => Handshake::Forbidden,
            Self::NameTaken(_) => Handshake::NameTaken,
            Self::NoHub => Handshake::NoHub,
            Self::NoHandshake(_) | Self::Query | Self::Room(_) | Self::Nick(_) | Self::History => {
                Handshake::Malformed
            }
        }
    }
}

impl ResponseError for UpgradeError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::NoHandshake(error) => error.as_response_error().status_code(),
            Self::Limit(ConnectionRefused::Server) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Limit(ConnectionRefused::Address | ConnectionRefused::ConnectRate(_)) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Origin(_) => StatusCode::FORBIDDEN,
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
        if let Self::Limit(refused) = self {
            // Rounded up, since a client that retries too early would be refused again.
            let seconds = refused.retry_after().as_millis().div_ceil(1000).max(1);
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        response.content_type("text/plain; charset=utf-8").body(self.to_string())
    }
}
