//! What operators and their machines ask: whether the server lives, and whether it is of use.

use std::time::Duration;

use actix::MailboxError;
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError, web};
use thiserror::Error;
use tokio::time::timeout;

use super::Chat;
use crate::hub::{IsReady, LogError, NotReady, Probe};

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
        HttpResponse::build(self.status_code())
            .content_type("text/plain; charset=utf-8")
            .body(format!("{self}\n"))
    }
}

async fn readyz(chat: web::Data<Chat>) -> Result<&'static str, Unready> {
    let asked = timeout(ANSWER_TIME_MAX, async {
        if let Some(log) = chat.hub.send(IsReady).await?? {
            log.send(Probe).await??;
        }
        Ok("ready\n")
    });
    asked.await.map_err(|_| Unready::TooSlow)?
}
