//! Certificates from pebble, a certificate authority for tests that validates domains.
#![cfg(all(feature = "tls", unix))]

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chinwag::Config;
use chinwag::config::Acme;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::browser::Browser;
use crate::harness::{config, eventually, raw_http, within};
use crate::program::{PROGRAM, Program};
use crate::tls::{Certificate, authority_pem, sign, trusting};

const DOMAIN: &str = "chat.example";

/// The deadline for a line of the log. It is long because the machine may be busy.
const LOG_DEADLINE: Duration = Duration::from_secs(90);

/// Returns an address with a free port.
fn free_addr() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts a name server that resolves every name to this machine.
async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    actix_web::rt::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query).await {
            // The header has 12 bytes. A name ends with an empty label, and its type and class
            // follow.
            let mut end = 12;
            while query[end] != 0 {
                end += 1 + usize::from(query[end]);
            }
            assert!(end + 5 <= length);
            let is_address = query[end + 1..end + 3] == [0, 1];
            let counts = [0, 1, 0, u8::from(is_address), 0, 0, 0, 0];
            let mut answer = [&query[..2], &[0x81, 0x80], &counts, &query[12..end + 5]].concat();
            if is_address {
                answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(Ipv4Addr::LOCALHOST.octets());
            }
            let _ = socket.send_to(&answer, client).await;
        }
    });
    addr
}

/// The addresses of a pebble, and the address to which it connects to validate a domain.
#[derive(Clone, Copy)]
struct PebbleAddrs {
    directory: SocketAddr,
    management: SocketAddr,
    validation: SocketAddr,
}

impl PebbleAddrs {
    fn free() -> Self {
        Self { directory: free_addr(), management: free_addr(), validation: free_addr() }
    }

    fn directory_url(&self) -> String {
        format!("https://{}/dir", self.directory)
    }
}

/// A running certificate authority.
struct Pebble {
    process: Child,
    addrs: PebbleAddrs,
    _folder: TempDir,
}

/// Returns the path of pebble: the one that `scripts/test` downloads, or that of the system.
fn pebble_binary() -> String {
    let downloaded = concat!(env!("CARGO_MANIFEST_DIR"), "/target/pebble/usr/bin/pebble");
    let all = [downloaded, "/usr/bin/pebble", "/usr/local/bin/pebble"];
    let found = all.into_iter().find(|path| Path::new(path).exists());
    found.expect("pebble is installed; scripts/test downloads it").to_owned()
}

impl Pebble {
    /// Starts a pebble whose certificates are valid for this many seconds.
    async fn start(addrs: PebbleAddrs, validity: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let own = Certificate::write(folder.path(), 4000);
        let settings = json!({ "pebble": {
            "listenAddress": addrs.directory,
            "managementListenAddress": addrs.management,
            "certificate": own.cert,
            "privateKey": own.key,
            "httpPort": 1,
            "tlsPort": addrs.validation.port(),
            "certificateValidityPeriod": validity,
        }});
        let file = folder.path().join("pebble.json");
        std::fs::write(&file, settings.to_string()).unwrap();
        let process = Command::new(pebble_binary())
            .arg("-config")
            .arg(&file)
            .args(["-strict", "-dnsserver", &name_server().await.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            // By default pebble rejects some requests at random.
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        for addr in [addrs.directory, addrs.management] {
            let up = async || TcpStream::connect(addr).await.is_ok();
            eventually("pebble to listen", up).await;
        }
        Self { process, addrs, _folder: folder }
    }

    /// Returns the root certificate of the certificates that it issues.
    async fn root_certificate(&self) -> CertificateDer<'static> {
        let own = trusting([CertificateDer::from_pem_slice(authority_pem().as_bytes()).unwrap()]);
        let tls = connect(&own, self.addrs.management, "localhost", &[]).await.unwrap();
        let answer = get(tls, "localhost", "/roots/0").await;
        CertificateDer::from_pem_slice(answer.as_bytes()).unwrap()
    }

    async fn stop(mut self) {
        within("pebble to end", self.process.kill()).await.unwrap();
    }
}

type Tls = TlsStream<TcpStream>;

/// Connects over TLS with this server name and these ALPN protocols.
async fn connect(
    config: &ClientConfig,
    addr: SocketAddr,
    name: &'static str,
    protocols: &[&str],
) -> std::io::Result<Tls> {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let connecting = async {
        let tcp = TcpStream::connect(addr).await?;
        let name = ServerName::try_from(name).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    };
    within("a handshake", connecting).await
}

/// Sends a GET request and returns the whole response.
async fn get(mut tls: Tls, host: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    within("the request", tls.write_all(request.as_bytes())).await.unwrap();
    let mut answer = Vec::new();
    // Some servers close the connection without a TLS close alert.
    let _ = within("the answer", tls.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

/// Returns the seconds since 1970.
fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn peer_certificate(tls: &Tls) -> CertificateDer<'static> {
    tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// A folder for a program that obtains its certificate from pebble.
struct Site {
    addrs: PebbleAddrs,
    folder: TempDir,
    authority_file: PathBuf,
}

impl Site {
    fn new(addrs: PebbleAddrs) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority_file = folder.path().join("authority.pem");
        std::fs::write(&authority_file, authority_pem()).unwrap();
        Self { addrs, folder, authority_file }
    }

    fn keys_dir(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// Returns the file in which the program saved its certificate.
    fn certificate_file(&self) -> PathBuf {
        let files = std::fs::read_dir(self.keys_dir()).unwrap().map(|entry| entry.unwrap().path());
        let mut certificates = files.filter(|path| path.extension().is_some_and(|it| it == "pem"));
        certificates.next().unwrap()
    }

    async fn start_program(&self, flags: &[&str]) -> Program {
        let mut command = Command::new(PROGRAM);
        command
            .args(["--listen", &self.addrs.validation.to_string(), "--db", "none"])
            .args(["--acme", DOMAIN, "--acme-contact", "me@chat.example"])
            .args(["--acme-url", &self.addrs.directory_url(), "--acme-dir", "keys", "--acme-ca"])
            .arg(&self.authority_file)
            .args(flags);
        Program::spawn(command, self.folder.path(), "https").await
    }
}

/// Reads the log up to a line that contains this text, and returns the line.
async fn wait_for_log(program: &mut Program, text: &str) -> String {
    let mut read = Vec::new();
    let line = async {
        loop {
            let line = program.log.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("no {text:?} in {read:#?}"));
            if line.contains(text) {
                break line;
            }
            read.push(line);
        }
    };
    match timeout(LOG_DEADLINE, line).await {
        Ok(line) => line,
        Err(_) => panic!("no {text:?} in {read:#?}"),
    }
}

/// A client of the text protocol over TLS.
struct TlsClient(WebSocketStream<Tls>);

impl TlsClient {
    async fn connect(tls_config: &ClientConfig, addr: SocketAddr, nick: &str) -> Self {
        let tls = connect(tls_config, addr, DOMAIN, &["http/1.1"]).await.unwrap();
        let url = format!("wss://{DOMAIN}:{}/ws?nick={nick}", addr.port());
        let upgrade = tokio_tungstenite::client_async(url, tls);
        Self(within("an upgrade", upgrade).await.unwrap().0)
    }

    async fn say(&mut self, text: &str) {
        within("a message to be sent", self.0.send(Message::text(text))).await.unwrap();
    }

    async fn expect(&mut self, line: &str) {
        loop {
            let message = within(line, self.0.next()).await.unwrap().unwrap();
            if !message.is_ping() {
                break assert_eq!(message, Message::text(line));
            }
        }
    }
}

#[ignore = "needs pebble; scripts/test runs it"]
#[actix_web::test]
async fn program_obtains_a_certificate_and_loads_it_after_a_restart() {
    let addrs = PebbleAddrs::free();
    let pebble = Pebble::start(addrs, 90 * 86_400).await;
    let site = Site::new(addrs);
    let second_domain = ["--acme", "alt.example"];
    let mut program = site.start_program(&second_domain).await;
    let obtained = "obtained the certificate for chat.example, alt.example";
    let line = wait_for_log(&mut program, obtained).await;
    assert!(line.contains("expires in 89 days"), "{line}");
    let tls_config = trusting([pebble.root_certificate().await]);
    let tls = connect(&tls_config, program.addr, DOMAIN, &[]).await.unwrap();
    let first = peer_certificate(&tls);
    let other = connect(&tls_config, program.addr, "alt.example", &[]).await.unwrap();
    assert!(peer_certificate(&other) == first, "one certificate is for both domains");
    let page = get(tls, DOMAIN, "/").await;
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    let mut client = TlsClient::connect(&tls_config, program.addr, "ada").await;
    client.say("hello").await;
    client.expect("ada: hello").await;
    // Without a pending challenge, the protocol of challenges is never negotiated.
    for protocols in [&["acme-tls/1"][..], &["h2", "acme-tls/1"]] {
        assert!(connect(&tls_config, program.addr, DOMAIN, protocols).await.is_err());
    }
    let both =
        connect(&tls_config, program.addr, DOMAIN, &["acme-tls/1", "http/1.1"]).await.unwrap();
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    // The two files are the account's key and the certificate.
    let modes = || {
        let files = std::fs::read_dir(site.keys_dir()).unwrap().map(|entry| entry.unwrap().path());
        files.map(|path| path.metadata().unwrap().permissions().mode() & 0o777)
    };
    eventually("both files to exist", async || modes().collect::<Vec<_>>() == [0o600; 2]).await;
    assert_eq!(site.keys_dir().metadata().unwrap().permissions().mode() & 0o777, 0o700);

    program.signal("-TERM");
    assert_eq!(program.exit_code().await, Some(0));
    pebble.stop().await;
    let mut program = site.start_program(&second_domain).await;
    wait_for_log(&mut program, "loaded the certificate for chat.example").await;
    let tls = connect(&tls_config, program.addr, DOMAIN, &[]).await.unwrap();
    assert!(
        peer_certificate(&tls) == first,
        "the certificate was loaded while the authority is unreachable"
    );
}

#[ignore = "needs pebble; scripts/test runs it"]
#[actix_web::test]
async fn certificate_is_renewed_before_expiry_and_connections_stay_open() {
    let addrs = PebbleAddrs::free();
    let pebble = Pebble::start(addrs, 86_400).await;
    let site = Site::new(addrs);
    let mut program = site.start_program(&[]).await;
    wait_for_log(&mut program, "obtained the certificate for chat.example").await;
    program.signal("-TERM");
    assert_eq!(program.exit_code().await, Some(0));
    pebble.stop().await;

    // Replace the certificate by one of three days that is due for renewal in two seconds.
    let due = unix_time() + 2;
    let date_time = |unix| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix);
    let current = sign(&[DOMAIN], |params| {
        params.not_before = date_time(due - 2 * 86_400);
        params.not_after = date_time(due + 86_400);
    });
    std::fs::write(site.certificate_file(), current.concat()).unwrap();
    let mut program = site.start_program(&[]).await;
    wait_for_log(&mut program, "loaded the certificate for chat.example").await;
    let own = trusting([CertificateDer::from_pem_slice(authority_pem().as_bytes()).unwrap()]);
    let mut client = TlsClient::connect(&own, program.addr, "ada").await;
    let line = wait_for_log(&mut program, "cannot obtain a certificate for chat.example").await;
    assert!(unix_time() >= due, "the attempt waited until the renewal was due");
    assert!(line.contains("keeping the current certificate, it expires in 23 hours"), "{line}");

    let pebble = Pebble::start(addrs, 86_400).await;
    wait_for_log(&mut program, "renewed the certificate for chat.example").await;
    let renewed = trusting([pebble.root_certificate().await]);
    assert!(connect(&renewed, program.addr, DOMAIN, &[]).await.is_ok());
    client.say("still here").await;
    client.expect("ada: still here").await;
}

#[ignore = "needs pebble; scripts/test runs it"]
#[actix_web::test]
async fn certificate_is_obtained_once_the_authority_is_reachable() {
    let addrs = PebbleAddrs::free();
    let site = Site::new(addrs);
    let redirect_addr = free_addr();
    let mut program = site.start_program(&["--redirect-from", &redirect_addr.to_string()]).await;
    let line = wait_for_log(&mut program, "cannot obtain a certificate for chat.example").await;
    assert!(line.contains("trying again in 2s"), "{line}");
    let answer = raw_http(redirect_addr, "GET / HTTP/1.1\r\nHost: chat.example\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    let pebble = Pebble::start(addrs, 86_400).await;
    wait_for_log(&mut program, "obtained the certificate for chat.example").await;
    let tls_config = trusting([pebble.root_certificate().await]);
    let tls = connect(&tls_config, program.addr, DOMAIN, &[]).await.unwrap();
    assert!(get(tls, DOMAIN, "/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[ignore = "needs pebble; scripts/test runs it"]
#[actix_web::test]
async fn failed_validation_is_logged_with_its_reason_and_retried_after_a_minute() {
    let addrs = PebbleAddrs::free();
    // The authority connects to a port on which nothing listens.
    let _pebble = Pebble::start(PebbleAddrs { validation: free_addr(), ..addrs }, 86_400).await;
    let site = Site::new(addrs);
    let mut program = site.start_program(&[]).await;
    let line = wait_for_log(&mut program, "cannot obtain a certificate for chat.example").await;
    assert!(line.contains("cannot validate chat.example by a TLS connection"), "{line}");
    assert!(line.contains("Failed to connect") && line.contains("again in 1m"), "{line}");
}

/// Otherwise each attempt would register a new account.
#[ignore = "needs pebble; scripts/test runs it"]
#[actix_web::test]
async fn no_certificate_is_ordered_while_the_account_key_cannot_be_saved() {
    let addrs = PebbleAddrs::free();
    let site = Site::new(addrs);
    let mut program = site.start_program(&[]).await;
    wait_for_log(&mut program, "trying again in 2s").await;
    std::fs::remove_dir_all(site.keys_dir()).unwrap();
    let _pebble = Pebble::start(addrs, 86_400).await;
    let line = wait_for_log(&mut program, "cannot save the account key").await;
    assert!(line.contains("trying again in "), "{line}");
}

#[ignore = "needs pebble and Chromium; scripts/test runs it"]
#[actix_web::test]
async fn two_browsers_exchange_messages_over_an_obtained_certificate() {
    let addrs = PebbleAddrs::free();
    let _pebble = Pebble::start(addrs, 86_400).await;
    let site = Site::new(addrs);
    let mut program = site.start_program(&[]).await;
    wait_for_log(&mut program, "obtained the certificate for chat.example").await;
    let url = format!("https://{DOMAIN}:{}/", program.addr.port());
    let windows = [Browser::open(&url).await, Browser::open(&url).await];
    for (window, name) in windows.iter().zip(["Ada", "Ben"]) {
        window.is_called(name).await;
        window.connected().await;
    }
    windows[0].run("window.probe = new WebSocket(`wss://${location.host}/ws`)").await;
    windows[0].until("window.probe.extensions.includes('permessage-deflate')").await;
    windows[0].say("hello, ben").await;
    windows[1].has_line("hello, ben").await;
    windows[1].say("hello, ada").await;
    for window in windows {
        window.has_line("hello, ada").await;
        window.until("isSecureContext && location.origin.startsWith('https://chat.')").await;
        window.picture("acme").await;
        window.close().await;
    }
}

#[actix_web::test]
async fn redirects_work_and_tls_fails_while_the_authority_is_unreachable() {
    let site = Site::new(PebbleAddrs::free());
    let redirect_addr = free_addr();
    let mut program = site.start_program(&["--redirect-from", &redirect_addr.to_string()]).await;
    let line = wait_for_log(&mut program, "cannot obtain a certificate for chat.example").await;
    assert!(line.contains("trying again in 2s; TLS handshakes fail until then"), "{line}");
    let line = wait_for_log(&mut program, "cannot obtain a certificate for chat.example").await;
    assert!(line.contains("trying again in 4s"), "{line}");
    let answer = raw_http(redirect_addr, "GET / HTTP/1.1\r\nHost: chat.example\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    assert!(connect(&trusting([]), program.addr, DOMAIN, &[]).await.is_err());
    program.signal("-TERM");
    assert_eq!(program.exit_code().await, Some(0));
}

/// The authority accepts connections and never answers.
#[actix_web::test]
async fn stopping_the_server_ends_an_attempt_to_obtain_a_certificate() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut acme = Acme::new(vec![DOMAIN.parse().unwrap()]);
    acme.url = format!("https://{}/dir", silent.local_addr().unwrap()).parse().unwrap();
    acme.dir = folder.path().join("keys");
    let acme = Some(acme);
    let server = chinwag::server::start(Config { acme, ..config() }).await.unwrap();
    let (mut request, _) = within("a connection", silent.accept()).await.unwrap();
    within("a TLS handshake", request.read_u8()).await.unwrap();
    assert!(
        CryptoProvider::get_default().is_none(),
        "the process-wide default belongs to the program that mounts the chat"
    );
    within("the server to stop", server.stop()).await;
    let _ = within("the end of the attempt", request.read_to_end(&mut Vec::new())).await;
}

#[actix_web::test]
async fn missing_listen_address_on_port_443_logs_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(PROGRAM);
    let url = PebbleAddrs::free().directory_url();
    command.args(["--db", "none", "--acme", DOMAIN, "--acme-url", &url]);
    command.args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped()).current_dir(folder.path());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let log = tokio::io::BufReader::new(child.stderr.take().unwrap());
    let mut lines = tokio::io::AsyncBufReadExt::lines(log);
    loop {
        let line = within("a warning", lines.next_line()).await.unwrap().unwrap();
        if line.contains("WARN") && line.contains("port 443 of chat.example") {
            break;
        }
        assert!(!line.contains("open https"), "the warning comes first");
    }
    // The default folder is in the current directory, because there is no history file.
    let mode = folder.path().join("chinwag-acme").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[actix_web::test]
async fn invalid_acme_flags_print_one_line_that_names_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (open, file, empty) = (path("open"), path("file"), path("empty.pem"));
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(&file, "").unwrap();
    std::fs::write(&empty, "").unwrap();
    let below_file = format!("{file}/keys");
    let (missing, keys) = (path("missing"), path("keys"));
    let acme = ["--acme", DOMAIN];
    let with = |flags: &[&str]| [&acme[..], flags].concat().join("\n");
    let domain = |name: &str| format!("--acme\n{name}");
    let invalid: Vec<(String, i32, &str, &str)> = vec![
        (with(&["--tls-cert", "a", "--tls-key", "b"]), 2, "--acme", "cannot be used together"),
        (domain(""), 2, "--acme", "must be a DNS name"),
        (domain("192.0.2.1"), 2, "--acme", "must be a DNS name"),
        (domain("[::1]"), 2, "--acme", "must be a DNS name"),
        (domain("*.chat.example"), 2, "--acme", "must be a DNS name"),
        (domain("bücher.example"), 2, "--acme", "xn-- form"),
        (domain("chat.example:443"), 2, "--acme", "must be a DNS name"),
        (domain("https://chat.example"), 2, "--acme", "must be a DNS name"),
        (with(&["--acme-contact", "me"]), 2, "--acme-contact", "must be an e-mail address"),
        (with(&["--acme-url", "http://ca.example/"]), 2, "--acme-url", "must be the https URL"),
        (
            with(&["--acme-staging", "--acme-url", "https://ca.example/"]),
            2,
            "--acme-staging",
            "cannot be used together",
        ),
        ("--acme-contact\nme@example".into(), 2, "--acme-contact", "requires acme"),
        ("--acme-dir\nkeys".into(), 2, "--acme-dir", "requires acme"),
        ("--acme-staging".into(), 2, "--acme-staging", "requires acme"),
        ("--acme-url\nhttps://ca.example/".into(), 2, "--acme-url", "requires acme"),
        ("--acme-ca\nca.pem".into(), 2, "--acme-ca", "requires acme"),
        (with(&["--acme-dir", &below_file]), 1, "--acme-dir", "cannot keep keys"),
        (with(&["--acme-dir", &file]), 1, "--acme-dir", "cannot keep keys"),
        (with(&["--acme-dir", &open]), 1, "--acme-dir", "other users have access"),
        (with(&["--acme-dir", &keys, "--acme-ca", &missing]), 1, "--acme-ca", "cannot read"),
        (with(&["--acme-dir", &keys, "--acme-ca", &empty]), 1, "--acme-ca", "no valid PEM"),
    ];
    for (flags, code, flag, error) in invalid {
        let mut program = Command::new(PROGRAM);
        program.args(["--listen", "127.0.0.1:0", "--db", "none"]).args(flags.split('\n'));
        program.current_dir(folder.path()).kill_on_drop(true);
        let output = within("the program to end", program.output()).await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(error), "{stderr}");
        assert!(stderr.contains(flag), "{stderr}");
    }
    assert!(!Path::new(&keys).exists(), "an invalid command line creates no folder");
}
