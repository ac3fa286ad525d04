//! What operators and their machines ask: whether the server lives, and whether it is of use.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix::{Addr, MailboxError};
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError, rt, web};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Chat;
use crate::hub::{Hub, IsReady, LogError, NotReady, Probe};

/// How long hub and log may take to answer before the server is of no use.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

pub(super) fn configure(app: &mut web::ServiceConfig) {
    app.service(web::resource("/healthz").get(healthz))
        .service(web::resource("/readyz").get(readyz));
}

async fn healthz() -> &'static str {
    "ok\n"
}

/// Why the server is of no use just now.
#[derive(Debug, Error)]
pub(super) enum Unready {
    #[error("the hub has died")]
    HubDied(#[from] MailboxError),
    #[error(transparent)]
    Draining(#[from] NotReady),
    #[error("messages cannot be kept: {0}")]
    Log(#[from] LogError),
    #[error("hub or journal take too long to answer")]
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
        Some(Answered { outcome: Err(words), .. }) => {
            answer_with(StatusCode::SERVICE_UNAVAILABLE, &words)
        }
        None => Unready::TooSlow.error_response(),
    }
}

fn answer_with(status: StatusCode, words: &str) -> HttpResponse {
    let mut answer = HttpResponse::build(status);
    answer.content_type("text/plain; charset=utf-8").body(format!("{words}\n"))
}

/// How long an answer holds, good or bad.
const ANSWER_HOLDS: Duration = Duration::from_secs(1);

/// Whether hub and log are of use. They are asked by one question at a time, however many want to
/// know, so that questions do not queue where they wait for a disk.
#[derive(Debug, Default)]
pub(super) struct Readiness(Mutex<Option<watch::Receiver<Option<Answered>>>>);

/// The answer, and since when it is known.
#[derive(Clone, Debug)]
struct Answered {
    at: Instant,
    outcome: Result<(), String>,
}

impl Readiness {
    /// The answer that is known or on its way; without one, asks.
    fn ask(&self, hub: &Addr<Hub>) -> watch::Receiver<Option<Answered>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_use = known.as_ref().filter(|answer| match &*answer.borrow() {
            Some(answered) => answered.at.elapsed() < ANSWER_HOLDS,
            // Whoever asked may have ended before the answer came.
            None => answer.has_changed().is_ok(),
        });
        if let Some(answer) = of_use {
            return answer.clone();
        }
        let (sender, answer) = watch::channel(None);
        let hub = hub.clone();
        // A task of its own: it outlives the request that began it.
        rt::spawn(async move {
            let outcome = probe(&hub).await.map_err(|error| error.to_string());
            // Nobody may want to know any more.
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
