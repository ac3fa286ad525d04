//! Sends browsers that come without TLS to where it is spoken.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};

use crate::admission::Host;

/// Answers any request with the same address over HTTPS, at this port.
pub(super) async fn to_https(req: HttpRequest, port: u16) -> HttpResponse {
    let asked = req.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = asked.and_then(|host| host.parse::<Host>().ok()) else {
        return HttpResponse::BadRequest().body("the request does not say which host it is for\n");
    };
    let path = req.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path } else { "/" };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let location = format!("https://{}{port}{path}", host.name());
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, location)).finish()
}
