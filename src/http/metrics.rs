//! `/metrics`: how it goes, for Prometheus.

use std::path::Path;
use std::time::Instant;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use tokio::time::timeout;

use super::status::{ANSWER_TIME_MAX, Unready};
use super::{Chat, asked, client};
use crate::hub::Survey;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Adds the route for whoever asks.
pub(super) fn configure(app: &mut web::ServiceConfig) {
    app.service(web::resource("/metrics").get(metrics));
}

/// Adds the route for those on this machine. Strangers need not know; and a page that a stranger's
/// name leads to this machine is one.
pub(super) fn configure_for_this_machine(app: &mut web::ServiceConfig) {
    app.service(web::resource("/metrics").get(metrics_for_this_machine));
}

async fn metrics(chat: web::Data<Chat>) -> Result<HttpResponse, Unready> {
    let began = Instant::now();
    let held = timeout(ANSWER_TIME_MAX, chat.hub.send(Survey)).await;
    let held = held.map_err(|_| Unready::TooSlow)??;
    let journal = chat.config.db.as_deref().and_then(bytes);
    let text = chat.config.metrics.tell(&held, began.elapsed(), journal);
    Ok(HttpResponse::Ok().content_type(OPEN_METRICS).body(text))
}

async fn metrics_for_this_machine(
    req: HttpRequest,
    chat: web::Data<Chat>,
) -> Result<HttpResponse, Unready> {
    let client = client(&req, &chat.proxies);
    // Whatever a proxy passes on may come from elsewhere.
    let is_here = client.address.is_loopback() && !is_forwarded(&req);
    if is_here && chat.admission.admit(asked(&req, &client)).is_ok() {
        metrics(chat).await
    } else {
        Ok(HttpResponse::NotFound().finish())
    }
}

/// Whether a proxy has passed the request on, as far as its headers tell.
fn is_forwarded(req: &HttpRequest) -> bool {
    req.headers().keys().any(|name| {
        *name == header::FORWARDED
            || *name == header::VIA
            || name.as_str() == "x-real-ip"
            || name.as_str().starts_with("x-forwarded-")
    })
}

/// The size of the history file, with what is not merged into it yet.
fn bytes(db: &Path) -> Option<u64> {
    let mut wal = db.as_os_str().to_owned();
    wal.push("-wal");
    let wal = std::fs::metadata(wal).map_or(0, |wal| wal.len());
    Some(std::fs::metadata(db).ok()?.len() + wal)
}
