//! The routes `/healthz` and `/readyz`: whether the server runs, and whether it can commit
//! messages. A load balancer or an orchestrator polls them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix::{Addr, MailboxError};
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError, rt, web};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Chat;
use crate::hub::{Hub, IsReady, NotReady};
use crate::log::{LogError, Probe};

/// How long the hub and the log may take to answer before the server counts as not ready.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

pub(super) fn configure(app: &mut web::ServiceConfig) {
    app.service(web::resource("/healthz").get(healthz))
        .service(web::resource("/readyz").get(readyz));
}

async fn healthz() -> &'static str {
    "ok\n"
}

/// Why the server is not ready.
#[derive(Debug, Error)]
pub(super) enum Unready {
    #[error("the hub has stopped")]
    HubDied(#[from] MailboxError),
    #[error(transparent)]
    Draining(#[from] NotReady),
    #[error("messages cannot be stored: {0}")]
    Log(#[from] LogError),
    #[error("the hub or the log takes too long to answer")]
    TooSlow,
}

impl ResponseError for Unready {
    fn status_code(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }

    fn error_response(&self) -> HttpResponse {
        answer_with(self.status_code(), &self.to_string())
    }
}

async fn readyz(chat: web::Data<Chat>) -> HttpResponse {
    let mut answer = chat.readiness.ask(&chat.hub);
    let answer = timeout(ANSWER_TIME_MAX, answer.wait_for(Option::is_some)).await;
    match answer.ok().and_then(|answer| answer.ok()?.clone()) {
        Some(Answered { outcome: Ok(()), .. }) => answer_with(StatusCode::OK, "ready"),
        Some(Answered { outcome: Err(error), .. }) => {
            answer_with(StatusCode::SERVICE_UNAVAILABLE, &error)
        }
        None => Unready::TooSlow.error_response(),
    }
}

fn answer_with(status: StatusCode, text: &str) -> HttpResponse {
    let mut answer = HttpResponse::build(status);
    answer.content_type("text/plain; charset=utf-8").body(format!("{text}\n"))
}

/// How long an answer is reused.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// The last known readiness of the hub and the log. It is requested once at a time, so that
/// requests do not queue while a disk is slow.
#[derive(Debug, Default)]
pub(super) struct Readiness(Mutex<Option<watch::Receiver<Option<Answered>>>>);

/// An answer with its time.
#[derive(Clone, Debug)]
struct Answered {
    at: Instant,
    outcome: Result<(), String>,
}

impl Readiness {
    /// Returns the latest answer or the request in progress. Otherwise starts a request.
    fn ask(&self, hub: &Addr<Hub>) -> watch::Receiver<Option<Answered>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = known.as_ref().filter(|answer| match &*answer.borrow() {
            Some(answered) => answered.at.elapsed() < ANSWER_AGE_MAX,
            // The task of the request may have ended without an answer.
            None => answer.has_changed().is_ok(),
        });
        if let Some(answer) = usable {
            return answer.clone();
        }
        let (sender, answer) = watch::channel(None);
        let hub = hub.clone();
        // A task of its own outlives the HTTP request.
        rt::spawn(async move {
            let outcome = probe(&hub).await.map_err(|error| error.to_string());
            // All receivers may be gone.
            let _ = sender.send(Some(Answered { at: Instant::now(), outcome }));
        });
        *known = Some(answer.clone());
        answer
    }
}

async fn probe(hub: &Addr<Hub>) -> Result<(), Unready> {
    if let Some(log) = hub.send(IsReady).await?? {
        log.send(Probe).await??;
    }
    Ok(())
}
