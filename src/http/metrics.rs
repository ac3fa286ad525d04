//! The route `/metrics` for Prometheus. It asks the hub for its statistics. `crate::metrics` adds
//! the counters and encodes everything and encodes them.

use std::time::Instant;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use tokio::time::timeout;

use super::Chat;
use super::client_address::Client;
use super::status::{ANSWER_TIME_MAX, Unready};
use crate::config::Config;
use crate::hub::GetStats;

/// The media type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Adds the route for every client.
pub(super) fn configure(app: &mut web::ServiceConfig) {
    app.service(web::resource("/metrics").get(metrics));
}

/// Adds the route for clients on this machine. The `Host` and `Origin` headers must be allowed, so
/// that a page cannot read the metrics by DNS rebinding.
pub(super) fn configure_for_this_machine(app: &mut web::ServiceConfig) {
    app.service(web::resource("/metrics").get(metrics_for_this_machine));
}

async fn metrics(chat: web::Data<Chat>) -> Result<HttpResponse, Unready> {
    let began = Instant::now();
    let stats = timeout(ANSWER_TIME_MAX, chat.hub.send(GetStats)).await;
    let stats = stats.map_err(|_| Unready::TooSlow)??;
    let text = chat.config.metrics.encode(&stats, began.elapsed(), log_bytes(&chat.config));
    Ok(HttpResponse::Ok().content_type(OPEN_METRICS).body(text))
}

async fn metrics_for_this_machine(
    req: HttpRequest,
    chat: web::Data<Chat>,
) -> Result<HttpResponse, Unready> {
    let client = Client::of(&req, &chat.proxies);
    // A request that a proxy passes on may come from elsewhere.
    let is_local = client.address.is_loopback() && !is_forwarded(&req);
    if is_local && chat.origins.check(client.origin(&req)).is_ok() {
        metrics(chat).await
    } else {
        Ok(HttpResponse::NotFound().finish())
    }
}

/// Returns whether the headers of a request show that a proxy passed it on.
fn is_forwarded(req: &HttpRequest) -> bool {
    req.headers().keys().any(|name| {
        *name == header::FORWARDED
            || *name == header::VIA
            || name.as_str() == "x-real-ip"
            || name.as_str().starts_with("x-forwarded-")
    })
}

/// Returns the size of the history file in bytes, if there is one.
fn log_bytes(config: &Config) -> Option<u64> {
    #[cfg(feature = "journal")]
    return config.db.as_deref().and_then(crate::log::sqlite::file_bytes);
    #[cfg(not(feature = "journal"))]
    return config.db.as_ref().and(None);
}
