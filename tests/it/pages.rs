//! The page and its files over HTTP.

use std::collections::BTreeSet;

use chinwag::Config;

use crate::harness::{TestServer, config, raw_http};

async fn request(server: &TestServer, line: &str, headers: &str) -> String {
    let host = server.addr();
    let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n");
    raw_http(host, &head).await
}

async fn get(server: &TestServer, path: &str) -> String {
    request(server, &format!("GET {path}"), "").await
}

#[actix_web::test]
async fn page_is_served_at_the_root_and_for_each_room_with_a_strict_content_security_policy() {
    let server = TestServer::start().await;
    for path in ["/", "/r/rust", "/r/static", "/r/%E6%97%A5%E6%9C%AC", "/?x=1"] {
        let answer = get(&server, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert!(answer.contains("<title>chinwag</title>"), "{path}");
        let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
        assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
        assert!(head.contains("content-security-policy: default-src 'none';"), "{head}");
        assert!(!head.contains("unsafe"), "{head}");
    }
}

#[actix_web::test]
async fn each_file_that_the_page_refers_to_is_served_with_its_type() {
    let server = TestServer::start().await;
    let page = get(&server, "/").await;
    let mut named = 0;
    let below = ["/", "/r/"].into_iter();
    for (below, attribute) in below.flat_map(|path| [(path, "src=\""), (path, "href=\"")]) {
        for rest in page.split(attribute).skip(1) {
            let path = format!("{below}{}", rest.split('"').next().unwrap());
            let answer = get(&server, &path).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
            assert!(answer.to_lowercase().contains("x-content-type-options: nosniff"), "{path}");
            named += 1;
        }
    }
    assert!(named >= 8, "only {named} files are named");
    let script = get(&server, "/static/chat.js").await.to_lowercase();
    assert!(script.contains("content-type: text/javascript"), "{script}");
}

#[actix_web::test]
async fn other_paths_are_not_found() {
    let server = TestServer::start().await;
    for path in ["/nope", "/r/", "/r/a%20b", "/r/a/b", "/static/", "/static/nope", "/static/../ws"]
    {
        let answer = get(&server, path).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
}

#[actix_web::test]
async fn wrong_method_is_rejected_with_an_allow_header() {
    let server = TestServer::start().await;
    for (path, allowed) in [("/", "get, head"), ("/r/rust", "get, head"), ("/healthz", "get")] {
        let answer = request(&server, &format!("POST {path}"), "").await.to_lowercase();
        assert!(answer.starts_with("http/1.1 405 "), "{path}: {answer}");
        assert!(answer.contains(&format!("allow: {allowed}\r\n")), "{path}: {answer}");
    }
    let head = request(&server, "HEAD /", "").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[actix_web::test]
async fn healthz_answers_ok() {
    let server = TestServer::start().await;
    assert!(get(&server, "/healthz").await.ends_with("\r\n\r\nok\n"));
}

#[actix_web::test]
async fn static_dir_replaces_the_page_and_files_outside_it_are_not_served() {
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("page");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(outside.path().join("secret.txt"), "not to be served").unwrap();
    std::fs::write(folder.join("index.html"), "a page of our own").unwrap();
    std::fs::write(folder.join("extra.css"), "p {}").unwrap();
    let server = TestServer::start_with(Config { static_dir: Some(folder), ..config() }).await;

    for path in ["/", "/r/rust"] {
        let answer = get(&server, path).await;
        assert!(answer.contains("a page of our own"), "{answer}");
        assert!(answer.to_lowercase().contains("content-security-policy:"), "{answer}");
    }
    assert!(get(&server, "/static/extra.css").await.ends_with("p {}"));
    for path in ["../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "//etc/passwd", "%00"] {
        let answer = get(&server, &format!("/static/{path}")).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
        let leaks = ["not to be served", "root:"].iter().any(|content| answer.contains(content));
        assert!(!leaks, "{path}: {answer}");
    }
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Sends a HEAD request, whose response has the `content-length` of the body.
async fn head(server: &TestServer, path: &str, headers: &str) -> String {
    request(server, &format!("HEAD {path}"), headers).await
}

#[actix_web::test]
async fn files_are_compressed_and_a_reload_transfers_none_again() {
    let server = TestServer::start().await;
    let page = get(&server, "/").await;
    let named = page.split('"').filter(|part| part.starts_with("static/"));
    let paths: BTreeSet<_> = named.map(|path| format!("/{path}")).chain(["/".into()]).collect();
    assert!(paths.len() >= 9, "{paths:?}");
    let mut transferred = 0;
    for path in &paths {
        let plain = head(&server, path, "").await;
        let gzip = head(&server, path, "Accept-Encoding: br, gzip\r\n").await;
        assert_eq!(header(&plain, "content-encoding"), None, "{plain}");
        assert_eq!(header(&gzip, "content-encoding"), Some("gzip"), "{gzip}");
        let refused = head(&server, path, "Accept-Encoding: gzip;q=0\r\n").await;
        assert_eq!(header(&refused, "content-encoding"), None, "{refused}");
        let tags = [&plain, &gzip].map(|answer| header(answer, "etag").unwrap());
        assert_ne!(tags[0], tags[1], "the two representations have the same strong ETag");
        transferred += header(&gzip, "content-length").unwrap().parse::<usize>().unwrap();
        for (encoding, tag) in [("", tags[0]), ("Accept-Encoding: gzip\r\n", tags[1])] {
            assert!(tag.starts_with('"'), "{tag} is not a strong ETag");
            let known = format!("{encoding}If-None-Match: \"other\", W/{tag}\r\n");
            let again = request(&server, &format!("GET {path}"), &known).await;
            assert!(again.starts_with("HTTP/1.1 304 ") && again.ends_with("\r\n\r\n"), "{again}");
            assert_eq!(header(&again, "etag"), Some(tag));
            assert_eq!(header(&again, "vary"), Some("accept-encoding"));
        }
    }
    assert!(transferred < 33_000, "{transferred} bytes");
}

/// A page that was loaded before an upgrade would otherwise load modules that do not fit its own.
#[actix_web::test]
async fn files_of_another_version_are_not_found() {
    let server = TestServer::start().await;
    let page = get(&server, "/").await;
    let (_, rest) = page.split_once("src=\"static/").unwrap();
    let version = rest.split('/').next().unwrap();
    assert_eq!(version.len(), 12, "{version}");
    for below in ["/static", "/r/static"] {
        let path = format!("{below}/{version}/actions.js");
        assert!(get(&server, &path).await.starts_with("HTTP/1.1 200 "), "{path}");
        let path = format!("{below}/{}/actions.js", "0".repeat(12));
        assert!(get(&server, &path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
}

#[actix_web::test]
async fn room_address_with_a_trailing_slash_redirects_to_the_room() {
    let server = TestServer::start().await;
    for (path, location) in [("/r/tea/", "../tea"), ("/r/static/", "../static")] {
        let answer = get(&server, path).await;
        assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
        assert_eq!(header(&answer, "location"), Some(location));
    }
    let encoded = get(&server, "/r/%E6%97%A5/").await;
    assert_eq!(header(&encoded, "location"), Some("../%E6%97%A5"));
}

#[actix_web::test]
async fn page_has_security_headers_and_a_favicon() {
    let server = TestServer::start().await;
    let page = get(&server, "/r/tea").await;
    assert_eq!(header(&page, "cross-origin-opener-policy"), Some("same-origin"));
    assert!(header(&page, "permissions-policy").unwrap().contains("camera=()"));
    let icon = get(&server, "/favicon.ico").await;
    assert_eq!(header(&icon, "content-type"), Some("image/svg+xml"));
    assert_eq!(header(&icon, "x-content-type-options"), Some("nosniff"));
}

/// Counts the files that the server sends: `static/protocol.js` has only types and is not served.
/// The page refers to the files that it loads at first. Modules load the others when a user first
/// needs them: dialogs, actions, search. `lean-qr.js` does not count, since it is a library.
#[actix_web::test]
async fn page_is_smaller_than_104_kb_and_what_it_loads_later_than_50_kb() {
    let server = TestServer::start().await;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("static");
    let page = get(&server, "/").await;
    let (mut first, mut later, mut not_served) = (0, 0, Vec::new());
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let path = if name == "index.html" { "/".to_owned() } else { format!("/static/{name}") };
        let answer = get(&server, &path).await;
        match answer.split_once("\r\n\r\n") {
            Some((head, _)) if head.starts_with("HTTP/1.1 200 ") && name == "lean-qr.js" => {}
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => {
                let is_first = name == "index.html" || page.contains(&format!("/{name}\""));
                *(if is_first { &mut first } else { &mut later }) += body.len();
            }
            _ => not_served.push(name),
        }
    }
    assert_eq!(not_served, ["protocol.js"]);
    assert!(first < 104_000 && later < 50_000, "{first} bytes at first, {later} later");
}
