//! Redirects HTTP requests to HTTPS. The server serves this on the addresses of `redirect_from`.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};

use crate::config::Host;

/// Redirects any request to the same host and path over HTTPS on this port.
pub(super) async fn to_https(req: HttpRequest, port: u16) -> HttpResponse {
    let requested = req.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = requested.and_then(|host| host.parse::<Host>().ok()) else {
        return HttpResponse::BadRequest().body("missing or invalid Host header\n");
    };
    let path = req.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path } else { "/" };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let location = format!("https://{}{port}{path}", host.name);
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, location)).finish()
}
