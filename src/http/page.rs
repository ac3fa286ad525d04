//! The page: built in, or from a folder.

use actix_files::{Files, NamedFile};
use actix_web::http::header;
use actix_web::middleware::DefaultHeaders;
use actix_web::{Error, HttpRequest, HttpResponse, web};

use super::Chat;
use crate::domain::RoomName;

/// The page may load and run nothing but what this server sends, and talk to nobody else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const PAGE: &str = include_str!("../../static/index.html");

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The page's other files: name, type, content.
const ASSETS: [(&str, &str, &str); 8] = [
    ("chat.css", "text/css; charset=utf-8", include_str!("../../static/chat.css")),
    ("chat.js", JAVASCRIPT, include_str!("../../static/chat.js")),
    ("connection.js", JAVASCRIPT, include_str!("../../static/connection.js")),
    ("log.js", JAVASCRIPT, include_str!("../../static/log.js")),
    ("room.js", JAVASCRIPT, include_str!("../../static/room.js")),
    ("store.js", JAVASCRIPT, include_str!("../../static/store.js")),
    ("text.js", JAVASCRIPT, include_str!("../../static/text.js")),
    ("icon.svg", "image/svg+xml", include_str!("../../static/icon.svg")),
];

/// Adds the routes of the page.
pub(super) fn configure(chat: &Chat, app: &mut web::ServiceConfig) {
    // Before the rest: a room may be called static.
    app.service(web::resource("/").get(page).route(web::head().to(page)))
        .service(web::resource("/r/{room}").get(room_page).route(web::head().to(room_page)));
    // The page names its files by where it is itself, so that it works below any path that a proxy
    // gives it; and that of a room is one level deeper.
    for path in ["/static", "/r/static"] {
        let assets = web::scope(path).wrap(
            DefaultHeaders::new()
                .add((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                .add((header::CACHE_CONTROL, "no-cache")),
        );
        let file = web::resource("/{file}").get(asset).route(web::head().to(asset));
        app.service(match &chat.config.static_dir {
            Some(dir) => assets.service(Files::new("/", dir)),
            None => assets.service(file),
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
