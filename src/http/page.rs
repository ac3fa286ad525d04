//! Serves the page: the built-in files, or those of the directory in [`Config::static_dir`]. It
//! knows nothing of the content of the files.
//!
//! [`Config::static_dir`]: crate::config::Config::static_dir

use std::io::Write;
use std::sync::LazyLock;

use actix_files::{Files, NamedFile};
use actix_web::http::header::{
    self, AcceptEncoding, ETag, Encoding, EntityTag, Header, HeaderName, IfNoneMatch,
};
use actix_web::middleware::DefaultHeaders;
use actix_web::{Error, HttpRequest, HttpResponse, web};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::Chat;
use crate::domain::RoomName;

/// Restricts the page to scripts, styles, images and connections of this server.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// Security headers of the HTML page.
const PAGE_HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
    (header::PERMISSIONS_POLICY, "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

/// Headers of all files: no type sniffing, and revalidation before each use.
const FILE_HEADERS: [(HeaderName, &str); 2] =
    [(header::X_CONTENT_TYPE_OPTIONS, "nosniff"), (header::CACHE_CONTROL, "no-cache")];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const INDEX: &str = "index.html";
const ICON: &str = "icon.svg";

/// The built-in files: name, media type, content.
const FILES: [(&str, &str, &str); 20] = [
    (INDEX, HTML, include_str!("../../static/index.html")),
    ("actions.js", JAVASCRIPT, include_str!("../../static/actions.js")),
    ("chat.css", CSS, include_str!("../../static/chat.css")),
    ("chat.js", JAVASCRIPT, include_str!("../../static/chat.js")),
    ("client.js", JAVASCRIPT, include_str!("../../static/client.js")),
    ("controls.css", CSS, include_str!("../../static/controls.css")),
    ("device.js", JAVASCRIPT, include_str!("../../static/device.js")),
    ("dialog.js", JAVASCRIPT, include_str!("../../static/dialog.js")),
    ("finder.js", JAVASCRIPT, include_str!("../../static/finder.js")),
    ("jump.js", JAVASCRIPT, include_str!("../../static/jump.js")),
    ("lean-qr.js", JAVASCRIPT, include_str!("../../static/lean-qr.js")),
    ("log.js", JAVASCRIPT, include_str!("../../static/log.js")),
    ("name.js", JAVASCRIPT, include_str!("../../static/name.js")),
    ("notify.js", JAVASCRIPT, include_str!("../../static/notify.js")),
    ("room.js", JAVASCRIPT, include_str!("../../static/room.js")),
    ("search.js", JAVASCRIPT, include_str!("../../static/search.js")),
    ("store.js", JAVASCRIPT, include_str!("../../static/store.js")),
    ("text.js", JAVASCRIPT, include_str!("../../static/text.js")),
    ("theme.js", JAVASCRIPT, include_str!("../../static/theme.js")),
    (ICON, SVG, include_str!("../../static/icon.svg")),
];

/// The built-in files, compressed and hashed.
static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| FILES.map(Asset::of).into());

/// A hash of all built-in files, which is a part of the addresses of the files that the page loads.
/// A page that was loaded before an upgrade must not load modules of the new version, which may not
/// work with its own. It receives 404 for them, and asks the user to reload it.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let contents: Vec<_> = FILES.iter().map(|(_, _, content)| *content).collect();
    hash(contents.concat().as_bytes())[..12].to_owned()
});

/// Returns the beginning of a SHA-256 hash as hexadecimal digits.
fn hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// A built-in file, plain and compressed.
struct Asset {
    name: &'static str,
    kind: &'static str,
    content: Bytes,
    /// The content, compressed with gzip.
    compressed: Bytes,
    /// A hash of the content, for the ETag.
    hash: String,
}

impl Asset {
    fn of((name, kind, content): (&'static str, &'static str, &'static str)) -> Self {
        let content = if name == INDEX {
            Bytes::from(content.replace("\"static/", &format!("\"static/{}/", *VERSION)))
        } else {
            Bytes::from_static(content.as_bytes())
        };
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let written = gzip.write_all(&content).and_then(|()| gzip.finish());
        let compressed = written.expect("a Vec takes everything").into();
        Self { name, kind, hash: hash(&content), content, compressed }
    }

    /// Returns the response: the file in an encoding that the client accepts, or 304 if the client
    /// has it already.
    fn answer(&self, req: &HttpRequest) -> HttpResponse {
        let accepted = AcceptEncoding::parse(req).ok();
        let offered = [Encoding::gzip(), Encoding::identity()];
        let encoding = accepted.and_then(|accepted| accepted.negotiate(offered.iter()));
        let is_compressed = encoding == Some(Encoding::gzip());
        // Each representation has its own strong tag (RFC 9110 section 8.8.3.3).
        let suffix = if is_compressed { "-gzip" } else { "" };
        let tag = EntityTag::new_strong(format!("{}{suffix}", self.hash));
        let is_known = match IfNoneMatch::parse(req) {
            Ok(IfNoneMatch::Any) => true,
            Ok(IfNoneMatch::Items(known)) => known.iter().any(|known| known.weak_eq(&tag)),
            Err(_) => false,
        };
        let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        response.insert_header(ETag(tag)).insert_header((header::VARY, "accept-encoding"));
        for header in FILE_HEADERS {
            response.insert_header(header);
        }
        if is_known {
            return response.finish();
        }
        response.content_type(self.kind);
        if is_compressed {
            response.insert_header((header::CONTENT_ENCODING, "gzip"));
            response.body(self.compressed.clone())
        } else {
            response.body(self.content.clone())
        }
    }
}

fn asset(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// Adds the routes of the page.
pub(super) fn configure(chat: &Chat, app: &mut web::ServiceConfig) {
    // Before the files in `/r/static`, since a room may be named `static`.
    app.service(web::resource("/").get(page).route(web::head().to(page)))
        .service(web::resource("/r/{room}").get(room_page).route(web::head().to(room_page)))
        .service(
            web::resource("/r/{room}/").get(without_slash).route(web::head().to(without_slash)),
        );
    // The page refers to its files by relative paths, so that it works below any path of a proxy.
    // The page of a room is one level deeper.
    for path in ["/static", "/r/static"] {
        let headers = FILE_HEADERS.into_iter().fold(DefaultHeaders::new(), DefaultHeaders::add);
        let assets = web::scope(path).wrap(headers);
        let files = web::resource("/{file}").get(file).route(web::head().to(file));
        let versioned = web::resource("/{version}/{file}");
        let versioned = versioned.get(versioned_file).route(web::head().to(versioned_file));
        app.service(match &chat.config.static_dir {
            Some(dir) => assets.service(Files::new("/", dir)),
            None => assets.service(files).service(versioned),
        });
    }
    app.service(web::resource("/favicon.ico").get(favicon).route(web::head().to(favicon)));
}

async fn page(req: HttpRequest, chat: web::Data<Chat>) -> Result<HttpResponse, Error> {
    let mut response = match &chat.config.static_dir {
        Some(dir) => NamedFile::open(dir.join(INDEX))?.into_response(&req),
        None => built_in(&req, INDEX),
    };
    for (name, value) in FILE_HEADERS.into_iter().chain(PAGE_HEADERS) {
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

/// Redirects to the address without the trailing slash. The location is relative, so that it is
/// correct below any path of a proxy.
async fn without_slash(req: HttpRequest) -> HttpResponse {
    let room = req.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    HttpResponse::PermanentRedirect()
        .insert_header((header::LOCATION, format!("../{room}")))
        .finish()
}

async fn file(req: HttpRequest, file: web::Path<String>) -> HttpResponse {
    built_in(&req, &file)
}

async fn versioned_file(req: HttpRequest, path: web::Path<(String, String)>) -> HttpResponse {
    let (version, file) = path.into_inner();
    if version == *VERSION { built_in(&req, &file) } else { HttpResponse::NotFound().finish() }
}

/// Serves the icon at the path that browsers request by default.
async fn favicon(req: HttpRequest, chat: web::Data<Chat>) -> Result<HttpResponse, Error> {
    Ok(match &chat.config.static_dir {
        Some(dir) => NamedFile::open(dir.join("favicon.ico"))?.into_response(&req),
        None => built_in(&req, ICON),
    })
}

fn built_in(req: &HttpRequest, name: &str) -> HttpResponse {
    match asset(name) {
        Some(asset) => asset.answer(req),
        None => HttpResponse::NotFound().finish(),
    }
}
