//! HTTPS: certificates, redirects, and clients that misuse TLS.
#![cfg(feature = "tls")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::{App, dev};
use chinwag::Config;
use chinwag::websocket::Connections;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use socket2::SockRef;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::browser::Browser;
use crate::harness::{Client, TestServer, config, connections_up_to, eventually, raw_http, within};
use crate::program::{PROGRAM, Program};
use crate::timed::slow::connect_with_window;

/// A certificate authority that the test clients trust.
struct Authority {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority { certificate: params.self_signed(&key).unwrap(), key }
    })
}

/// The files of a certificate for this machine and of its key.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Returns the certificate of the authority in PEM.
pub fn authority_pem() -> String {
    authority().certificate.pem()
}

/// Returns a certificate for these names and its key, in PEM.
pub fn sign(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> [String; 2] {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let Authority { certificate, key: authority } = authority();
    let signed = params.signed_by(&key, certificate, authority).unwrap();
    [signed.pem(), key.serialize_pem()]
}

impl Certificate {
    /// Writes a certificate that expires at the start of the year `last_year`.
    pub fn write(folder: &Path, last_year: i32) -> Self {
        let expiry = rcgen::date_time_ymd(last_year, 1, 1);
        let [cert, key] = sign(&["localhost", "127.0.0.1"], |params| params.not_after = expiry);
        let files = Self { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        files
    }

    fn flags(&self) -> [&str; 4] {
        ["--tls-cert", self.cert.to_str().unwrap(), "--tls-key", self.key.to_str().unwrap()]
    }

    /// Returns a configuration that uses this certificate.
    fn config(&self) -> Config {
        let (tls_cert, tls_key) = (Some(self.cert.clone()), Some(self.key.clone()));
        Config { tls_cert, tls_key, ..config() }
    }
}

/// Writes a valid certificate to a temporary folder.
fn certificate() -> (Certificate, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Certificate::write(folder.path(), 4000), folder)
}

/// The server also negotiates the protocol of ACME challenges (RFC 8737), which is not HTTP.
#[actix_web::test]
async fn connection_with_another_alpn_protocol_is_closed_after_the_handshake() {
    let (files, _folder) = certificate();
    let cert = CertificateDer::from_pem_file(&files.cert).unwrap();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let mut tls = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    tls.alpn_protocols = [&b"http/1.1"[..], b"acme-tls/1"].map(<[u8]>::to_vec).into();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Connections::new(Duration::from_secs(10)).with_tls(Arc::new(tls));
    let http = dev::Server::build().workers(1).disable_signals();
    let server = connections.serve(http, listener, App::new, |_, _| {}).unwrap().run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    for (protocols, answer) in [
        (vec![], "HTTP/1.1 404 "),
        (vec![b"http/1.1".to_vec()], "HTTP/1.1 404 "),
        (vec![b"acme-tls/1".to_vec()], ""),
    ] {
        let mut config = client_config();
        config.alpn_protocols = protocols;
        let tcp = TcpStream::connect(addr).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let _ = tls.write_all(request).await;
        let mut read = Vec::new();
        let _ = within("the end of the connection", tls.read_to_end(&mut read)).await;
        let read = String::from_utf8(read).unwrap();
        assert!(read.starts_with(answer) && read.is_empty() == answer.is_empty(), "{read}");
    }
    handle.stop(false).await;
}

/// Connects over TLS.
pub async fn connect(addr: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    handshake(TcpStream::connect(addr).await?).await
}

/// Returns the settings of a client that trusts the authority of the tests.
fn client_config() -> ClientConfig {
    trusting([authority().certificate.der().clone()])
}

/// Returns the settings of a client that trusts these root certificates.
pub fn trusting(roots: impl IntoIterator<Item = CertificateDer<'static>>) -> ClientConfig {
    let mut store = RootCertStore::empty();
    roots.into_iter().for_each(|root| store.add(root).unwrap());
    let mut config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    // A resumed session does not receive the certificate again.
    config.resumption = Resumption::disabled();
    config
}

async fn handshake(tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| Arc::new(client_config()));
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, tcp).await
}

/// Socket buffer size of the forwarder.
const BUFFER_BYTES: usize = 16 * 1024;

/// Starts a forwarder from plain TCP to a TLS server, for clients without TLS, and returns its
/// address. Its buffers are small so that backpressure from a client reaches the server.
pub async fn forwarder(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    actix_web::rt::spawn(async move {
        while let Ok((plain, _)) = listener.accept().await {
            actix_web::rt::spawn(async move {
                let _ = SockRef::from(&plain).set_send_buffer_size(BUFFER_BYTES);
                let Ok(tls) = handshake(connect_with_window(server, BUFFER_BYTES)).await else {
                    return;
                };
                let _ = (plain.set_nodelay(true), tls.get_ref().0.set_nodelay(true));
                let (mut from_client, mut to_client) = plain.into_split();
                let (mut from_server, mut to_server) = split(tls);
                let up = async {
                    let _ = copy(&mut from_client, &mut to_server).await;
                    let _ = to_server.shutdown().await;
                    Ok(())
                };
                let down = async {
                    copy(&mut from_server, &mut to_client).await?;
                    to_client.shutdown().await
                };
                let ended = futures_util::future::try_join(up, down).await;
                if ended.is_err() {
                    // The server reset the connection: reset the client, too.
                    let _ = SockRef::from(to_client.as_ref()).set_linger(Some(Duration::ZERO));
                }
            });
        }
    });
    addr
}

/// Starts a server over TLS. Returns the server, the address of a forwarder to it, and the folder
/// of its certificate.
pub async fn start(config: Config) -> (chinwag::Server, SocketAddr, TempDir) {
    let (certificate, folder) = certificate();
    let (tls_cert, tls_key) = (Some(certificate.cert), Some(certificate.key));
    let server = chinwag::server::start(Config { tls_cert, tls_key, ..config }).await.unwrap();
    let addr = forwarder(server.addrs()[0]).await;
    (server, addr, folder)
}

fn peer_certificate(tls: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[actix_web::test]
async fn program_serves_page_and_chat_over_tls() {
    let (certificate, folder) = certificate();
    let mut command = Command::new(PROGRAM);
    command.args(certificate.flags()).args(["--db", "none", "--redirect-from", "127.0.0.1:0"]);
    let mut program = Program::spawn(command, folder.path(), "https").await;
    let mut tls = within("a handshake", connect(program.addr)).await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    within("the page", tls.read_to_string(&mut page)).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    assert!(!page.contains("strict-transport-security"), "HSTS is only for port 443: {page}");
    let addr = forwarder(program.addr).await;
    let mut clients = [Client::connect(addr, "nick=ada").await, Client::connect(addr, "").await];
    clients[0].say("hello").await;
    for client in &mut clients {
        client.expect("ada: hello").await;
    }
    program.signal("-TERM");
    for client in &mut clients {
        assert_eq!(client.expect_close().await.0, 1001);
    }
    assert_eq!(program.exit_code().await, Some(0));
}

#[actix_web::test]
async fn http_requests_are_redirected_to_https() {
    let (certificate, _folder) = certificate();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { redirect_from: vec![listen], ..certificate.config() };
    let server = chinwag::server::start(config).await.unwrap();
    let (addr, port) = (server.redirect_addrs()[0], server.addrs()[0].port());
    let ask = async |head: &str| raw_http(addr, &format!("GET {head}\r\n\r\n")).await;
    let answer = ask("/r/tea?x=1 HTTP/1.1\r\nHost: chat.example:80").await;
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    let location = format!("location: https://chat.example:{port}/r/tea?x=1\r\n");
    assert!(answer.contains(&location), "{answer}");
    let upgrade = "/ws HTTP/1.1\r\nHost: chat.example\r\nConnection: upgrade\r\nUpgrade: websocket";
    assert!(ask(upgrade).await.starts_with("HTTP/1.1 308 "));
    assert!(ask("/ HTTP/1.1\r\nHost: a b").await.starts_with("HTTP/1.1 400 "));
    server.stop().await;
}

#[actix_web::test]
async fn invalid_certificate_or_key_is_a_one_line_error() {
    let (good, folder) = certificate();
    let other = tempfile::tempdir().unwrap();
    let expired = Certificate::write(other.path(), 2020);
    let no_pem = folder.path().join("no-pem");
    std::fs::write(&no_pem, "no PEM").unwrap();
    let missing = folder.path().join("missing");
    let invalid: [(&Path, &Path, &str); 6] = [
        (&good.cert, &expired.key, "does not match the first certificate"),
        (&expired.cert, &expired.key, "expired"),
        (&no_pem, &good.key, "no valid PEM certificate"),
        (&good.cert, &no_pem, "no usable PEM private key"),
        (&missing, &good.key, "cannot read"),
        (&good.key, &good.cert, "no valid PEM certificate"),
    ];
    for (cert, key, error) in invalid {
        let mut program = Command::new(PROGRAM);
        program.args(["--listen", "127.0.0.1:0", "--db", "none"]);
        program.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key).kill_on_drop(true);
        let output = within("the program to end", program.output()).await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(error), "{stderr}");
        assert!(stderr.contains("--tls-cert and --tls-key"), "{stderr}");
    }
}

#[actix_web::test]
async fn replaced_certificate_is_served_and_connections_stay_open() {
    let (first, folder) = certificate();
    let server = chinwag::server::start(first.config()).await.unwrap();
    let addr = server.addrs()[0];
    let mut client = Client::connect(forwarder(addr).await, "nick=ada").await;
    let before = peer_certificate(&connect(addr).await.unwrap());
    let now = async || peer_certificate(&connect(addr).await.unwrap());
    Certificate::write(folder.path(), 4001);
    eventually("the new certificate", async || now().await != before).await;
    client.say("still here").await;
    client.expect("ada: still here").await;
    server.stop().await;
}

/// Clients send nothing, a part of a handshake, or a handshake byte by byte.
#[actix_web::test]
async fn unfinished_handshakes_time_out() {
    let (certificate, _folder) = certificate();
    let server = chinwag::server::start(certificate.config()).await.unwrap();
    let addr = server.addrs()[0];
    // A record header, and the first bytes of a `ClientHello` of 512 bytes.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
    let mut connections = Vec::new();
    for sent in [&hello[..0], &hello[..1], &hello[..]] {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        tcp.write_all(sent).await.unwrap();
        connections.push(actix_web::rt::spawn(async move {
            let mut end = Vec::new();
            let _ = tcp.read_to_end(&mut end).await;
        }));
    }
    let mut slow = TcpStream::connect(addr).await.unwrap();
    connections.push(actix_web::rt::spawn(async move {
        slow.write_all(&hello).await.unwrap();
        while slow.write_all(&[0]).await.is_ok() {
            // At this rate the handshake would take minutes.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }));
    let ends = futures_util::future::join_all(connections);
    within("all connections to be closed", ends).await.into_iter().for_each(|end| end.unwrap());
    assert!(connect(addr).await.is_ok(), "other clients can connect");
    server.stop().await;
}

/// The timeout for the first request, which is 5 seconds, closes them.
#[actix_web::test]
async fn silent_tls_connections_time_out_and_do_not_affect_others() {
    let (certificate, _folder) = certificate();
    let server = chinwag::server::start(certificate.config()).await.unwrap();
    let addr = server.addrs()[0];
    let mut client = Client::connect(forwarder(addr).await, "nick=ada").await;
    let mut silent = Vec::new();
    for _ in 0..connections_up_to(1000) {
        let mut tls = within("a handshake", connect(addr)).await.unwrap();
        // It reads in its own task, so that other handshakes do not delay the measurement.
        silent.push(actix_web::rt::spawn(async move {
            let began = Instant::now();
            let mut answer = Vec::new();
            let _ = tls.read_to_end(&mut answer).await;
            (began.elapsed(), answer)
        }));
    }
    client.say("hello").await;
    client.expect("ada: hello").await;
    let ends = within("all connections to be closed", futures_util::future::join_all(silent)).await;
    for (elapsed, answer) in ends.into_iter().map(Result::unwrap) {
        assert!(elapsed < Duration::from_secs(15), "{elapsed:?}");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    }
    client.say("still here").await;
    client.expect("ada: still here").await;
    assert!(connect(addr).await.is_ok(), "other clients can connect");
    server.stop().await;
}

/// Connects a WebSocket over TLS.
#[cfg(target_os = "linux")]
async fn socket(addr: SocketAddr, n: usize) -> TlsStream<TcpStream> {
    let mut tls = within("a handshake", connect(addr)).await.unwrap();
    // There are a hundred rooms, so that presence goes to few clients.
    tls.write_all(UPGRADE.replace("nick=ada", &format!("room=r{n}")).as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let more = within("an upgrade", tls.read_buf(&mut head)).await.unwrap();
        assert_ne!(more, 0);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    tls
}

/// `cargo test --release --test it -- --nocapture tls::idle` prints the result of the release
/// build.
#[cfg(target_os = "linux")]
#[allow(clippy::print_stdout, reason = "it prints a measurement")]
#[actix_web::test]
async fn idle_websocket_over_tls_costs_less_than_20_kb() {
    let (certificate, folder) = certificate();
    let mut command = Command::new(PROGRAM);
    command.args(certificate.flags()).args(["--db", "none", "--workers", "2"]);
    let program = Program::spawn(command, folder.path(), "https").await;
    let mut sockets = Vec::new();
    for n in 0..100 {
        sockets.push(socket(program.addr, n).await);
    }
    let before = program.memory();
    let count = connections_up_to(1000);
    for n in 0..count {
        sockets.push(socket(program.addr, n % 100).await);
    }
    let each = program.memory().saturating_sub(before) / count as u64;
    println!("{count} idle WebSockets over TLS: {each} bytes each");
    assert!(each < 20 * 1024, "{each} bytes per connection");
}

/// A request for a WebSocket of the text protocol.
const UPGRADE: &str = "GET /ws?nick=ada HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[actix_web::test]
async fn one_byte_tls_records_are_accepted() {
    let (certificate, _folder) = certificate();
    let server = chinwag::server::start(certificate.config()).await.unwrap();
    let mut tls = connect(server.addrs()[0]).await.unwrap();
    let message = crate::harness::frame(0x81, b"byte by byte");
    let mut read = Vec::new();
    for part in [UPGRADE.as_bytes(), &message] {
        for byte in part {
            tls.write_all(&[*byte]).await.unwrap();
            tls.flush().await.unwrap();
        }
    }
    while !read.ends_with(b"ada: byte by byte") {
        let more = within("the echo", tls.read_buf(&mut read)).await.unwrap();
        assert_ne!(more, 0);
    }
    server.stop().await;
}

#[actix_web::test]
async fn plain_http_on_the_tls_port_is_closed_immediately() {
    let (certificate, _folder) = certificate();
    let server = chinwag::server::start(certificate.config()).await.unwrap();
    let mut tcp = TcpStream::connect(server.addrs()[0]).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let sent = Instant::now();
    let _ = within("the end", tcp.read_to_end(&mut Vec::new())).await;
    assert!(sent.elapsed() < Duration::from_secs(4), "it does not wait for the timeout");
    server.stop().await;
}

#[ignore = "needs Chromium; scripts/test runs it"]
#[actix_web::test]
async fn two_browsers_exchange_messages_over_wss() {
    let (certificate, _folder) = certificate();
    let server = chinwag::server::start(certificate.config()).await.unwrap();
    let url = format!("https://localhost:{}/", server.addrs()[0].port());
    let windows = [Browser::open(&url).await, Browser::open(&url).await];
    for (window, name) in windows.iter().zip(["Ada", "Ben"]) {
        window.is_called(name).await;
        window.connected().await;
    }
    windows[0].say("hello, ben").await;
    for window in windows {
        window.has_line("hello, ben").await;
        window.until("isSecureContext && location.protocol === 'https:'").await;
        window.close().await;
    }
    server.stop().await;
}

#[test]
fn test_servers_started_over_tls_speak_tls() {
    crate::harness::over_tls(|| {
        actix_web::rt::System::new().block_on(async {
            let server = TestServer::start().await;
            let tls = connect(server.server_addr()).await;
            assert!(tls.is_ok(), "{tls:?}");
        });
    });
}
