//! What was typed, or set in the environment: one flag, one field, one parser that says what the
//! flag takes.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::BoolishValueParser;

use super::acme::{self, Acme, DirectoryUrl, DomainName, EmailAddress};
use super::{Config, ConfigError, DbSync, SEND_QUEUE_MIN};
use crate::admission::{AllowedOrigin, Host, Network, Rate};

/// As many as actix-server takes.
const WORKERS_MAX: usize = 512;

const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A web chat server: start it, open the page, talk.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Args {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, env = "CHINWAG_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:8080", value_parser = address)]
    listen: Vec<SocketAddr>,

    /// Host name that the server is reached by, when it is not localhost.
    #[arg(long, env = "CHINWAG_PUBLIC_HOST", value_name = "HOST", value_delimiter = ',')]
    public_host: Vec<Host>,

    /// File with the certificate chain to serve HTTPS with, in PEM.
    #[arg(long, env = "CHINWAG_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// File with the certificate's private key, in PEM.
    #[arg(long, env = "CHINWAG_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Domain to get a certificate for and serve HTTPS with; the certificate authority connects to
    /// its port 443.
    #[arg(long, env = "CHINWAG_ACME", value_name = "DOMAIN", value_delimiter = ',')]
    acme: Vec<DomainName>,

    /// E-mail address that the certificate authority may write to.
    #[arg(long, env = "CHINWAG_ACME_CONTACT", value_name = "EMAIL", value_delimiter = ',')]
    acme_contact: Vec<EmailAddress>,

    /// Folder for the account's key and the certificates, closed to other users [default:
    /// chinwag-acme beside the history file]
    #[arg(long, env = "CHINWAG_ACME_DIR", value_name = "DIR")]
    acme_dir: Option<PathBuf>,

    /// Get a test certificate, which no browser trusts, from Let's Encrypt's staging environment.
    #[arg(long, env = "CHINWAG_ACME_STAGING", value_parser = BoolishValueParser::new())]
    acme_staging: bool,

    /// ACME directory of another certificate authority [default: that of Let's Encrypt]
    #[arg(long, env = "CHINWAG_ACME_URL", value_name = "URL")]
    acme_url: Option<DirectoryUrl>,

    /// File with the root certificates, in PEM, to trust for the connection to the certificate
    /// authority, in place of those built in.
    #[arg(long, env = "CHINWAG_ACME_CA", value_name = "FILE")]
    acme_ca: Option<PathBuf>,

    /// Address and port that redirect HTTP requests to HTTPS, such as 0.0.0.0:80.
    #[arg(long, env = "CHINWAG_REDIRECT_FROM", value_name = "ADDR", value_delimiter = ',')]
    #[arg(value_parser = address)]
    redirect_from: Vec<SocketAddr>,

    /// Threads that serve HTTP and WebSockets [default: one for each core]
    #[arg(long, env = "CHINWAG_WORKERS", value_name = "N", value_parser = number::<1, WORKERS_MAX>)]
    workers: Option<usize>,

    /// Folder to serve the page from, in place of the one built in.
    #[arg(long, env = "CHINWAG_STATIC_DIR", value_name = "DIR")]
    static_dir: Option<PathBuf>,

    /// Longest chat message, in bytes.
    #[arg(long, env = "CHINWAG_MAX_MESSAGE_BYTES", value_name = "N", default_value = "4096")]
    #[arg(value_parser = number::<1, MAX_BYTES>)]
    max_message_bytes: usize,

    /// Longest WebSocket message, in bytes [default: 6 x max-message-bytes + 4096]
    #[arg(long, env = "CHINWAG_MAX_FRAME_BYTES", value_name = "N")]
    #[arg(value_parser = number::<1, { 8 * MAX_BYTES }>)]
    max_frame_bytes: Option<usize>,

    /// Disable WebSocket compression (permessage-deflate).
    #[arg(long, env = "CHINWAG_NO_COMPRESSION", value_parser = BoolishValueParser::new())]
    no_compression: bool,

    /// Batches that wait for one client before it is dropped as too slow.
    #[arg(long, env = "CHINWAG_SEND_QUEUE", value_name = "N", default_value = "256")]
    #[arg(value_parser = number::<SEND_QUEUE_MIN, 65_536>)]
    send_queue: usize,

    /// Bytes that wait for one client before it is dropped as too slow.
    #[arg(long, env = "CHINWAG_SEND_QUEUE_BYTES", value_name = "N", default_value = "1048576")]
    #[arg(value_parser = number::<1, { 64 * MAX_BYTES }>)]
    send_queue_bytes: usize,

    /// How long writing to a client may make no progress, or closing may take.
    #[arg(long, env = "CHINWAG_WRITE_TIMEOUT", value_name = "D", default_value = "10s")]
    #[arg(value_parser = interval)]
    write_timeout: Duration,

    /// How often a client is pinged.
    #[arg(long, env = "CHINWAG_PING_INTERVAL", value_name = "D", default_value = "25s")]
    #[arg(value_parser = interval)]
    ping_interval: Duration,

    /// How long a client may stay silent, pings unanswered.
    #[arg(long, env = "CHINWAG_PONG_TIMEOUT", value_name = "D", default_value = "60s")]
    #[arg(value_parser = interval)]
    pong_timeout: Duration,

    /// Longest wait between two flushes of a busy room; 0 flushes every message at once.
    #[arg(long, env = "CHINWAG_BATCH_WINDOW", value_name = "D", default_value = "50ms")]
    #[arg(value_parser = duration)]
    batch_window: Duration,

    /// How long a shutdown may take to tell the clients.
    #[arg(long, env = "CHINWAG_SHUTDOWN_TIMEOUT", value_name = "D", default_value = "5s")]
    #[arg(value_parser = duration)]
    shutdown_timeout: Duration,

    /// Origin whose pages may connect, beside the server's own; * allows any.
    #[arg(long, env = "CHINWAG_ALLOWED_ORIGIN", value_name = "O", value_delimiter = ',')]
    allowed_origin: Vec<AllowedOrigin>,

    /// Proxy whose X-Forwarded-For and X-Forwarded-Host are believed: an address or a network.
    #[arg(long, env = "CHINWAG_TRUSTED_PROXY", value_name = "NET", value_delimiter = ',')]
    trusted_proxy: Vec<Network>,

    /// WebSockets at once; 0 is no limit.
    #[arg(long, env = "CHINWAG_MAX_CONNECTIONS", value_name = "N", default_value = "10000")]
    #[arg(value_parser = limit::<1>)]
    max_connections: Limit,

    /// WebSockets at once from one address, or one IPv6 network of 64 bits; 0 is no limit.
    #[arg(long, env = "CHINWAG_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    #[arg(default_value = "100", value_parser = limit::<1>)]
    max_connections_per_address: Limit,

    /// Attempts to connect from one address in a second; 0 is no limit.
    #[arg(long, env = "CHINWAG_CONNECT_RATE", value_name = "N", default_value = "20")]
    #[arg(value_parser = limit::<1>)]
    connect_rate: Limit,

    /// Messages that one person may say in a second; 0 is no limit.
    #[arg(long, env = "CHINWAG_PUBLISH_RATE", value_name = "N", default_value = "10")]
    #[arg(value_parser = limit::<1>)]
    publish_rate: Limit,

    /// Messages that one person may say at once, after a while of silence.
    #[arg(long, env = "CHINWAG_PUBLISH_BURST", value_name = "N", default_value = "50")]
    #[arg(value_parser = number::<1, { u32::MAX as usize }>)]
    publish_burst: usize,

    /// Messages that may be said from one address in a second; 0 is no limit.
    #[arg(long, env = "CHINWAG_PUBLISH_RATE_PER_ADDRESS", value_name = "N", default_value = "50")]
    #[arg(value_parser = limit::<1>)]
    publish_rate_per_address: Limit,

    /// Messages that may be said from one address at once.
    #[arg(long, env = "CHINWAG_PUBLISH_BURST_PER_ADDRESS", value_name = "N")]
    #[arg(default_value = "250", value_parser = number::<1, { u32::MAX as usize }>)]
    publish_burst_per_address: usize,

    /// Bytes of messages that may be said from one address in an hour; 0 is no limit.
    #[arg(long, env = "CHINWAG_PUBLISH_BYTES_PER_HOUR_PER_ADDRESS", value_name = "N")]
    #[arg(default_value = "16777216", value_parser = limit::<1>)]
    publish_bytes_per_hour_per_address: Limit,

    /// Bytes of messages that may be said from one address in a day; 0 is no limit.
    #[arg(long, env = "CHINWAG_PUBLISH_BYTES_PER_DAY_PER_ADDRESS", value_name = "N")]
    #[arg(default_value = "67108864", value_parser = limit::<1>)]
    publish_bytes_per_day_per_address: Limit,

    /// Other commands, such as join and history, of one connection in a second; 0 is no limit.
    #[arg(long, env = "CHINWAG_COMMAND_RATE", value_name = "N", default_value = "20")]
    #[arg(value_parser = limit::<1>)]
    command_rate: Limit,

    /// Other commands of one connection at once.
    #[arg(long, env = "CHINWAG_COMMAND_BURST", value_name = "N", default_value = "200")]
    #[arg(value_parser = number::<1, { u32::MAX as usize }>)]
    command_burst: usize,

    /// Other commands from one address in a second; 0 is no limit.
    #[arg(long, env = "CHINWAG_COMMAND_RATE_PER_ADDRESS", value_name = "N", default_value = "100")]
    #[arg(value_parser = limit::<1>)]
    command_rate_per_address: Limit,

    /// Other commands from one address at once.
    #[arg(long, env = "CHINWAG_COMMAND_BURST_PER_ADDRESS", value_name = "N")]
    #[arg(default_value = "1000", value_parser = number::<1, { u32::MAX as usize }>)]
    command_burst_per_address: usize,

    /// Recent messages that a room keeps in memory.
    #[arg(long, env = "CHINWAG_RESUME_BUFFER", value_name = "N", default_value = "1000")]
    #[arg(value_parser = number::<0, 1_000_000>)]
    resume_buffer: usize,

    /// File that keeps the history; none keeps it in memory only.
    #[arg(long, env = "CHINWAG_DB", value_name = "PATH", default_value = "chinwag.db")]
    #[arg(value_parser = db)]
    db: Db,

    /// How surely a message is on disk before anyone sees it: full also when the power fails.
    #[arg(long, env = "CHINWAG_DB_SYNC", value_name = "full|normal", default_value = "full")]
    #[arg(value_parser = db_sync)]
    db_sync: DbSync,

    /// Messages that are kept of each room.
    #[arg(long, env = "CHINWAG_KEEP_MESSAGES", value_name = "N", default_value = "100000")]
    #[arg(value_parser = number::<1, 1_000_000_000>)]
    keep_messages: usize,

    /// Bytes of messages that are kept in all, the oldest of the largest room going first; each
    /// counts as its text and 128 bytes [default: two fifths of max-db-bytes]
    #[arg(long, env = "CHINWAG_KEEP_BYTES", value_name = "N")]
    #[arg(value_parser = number::<1_048_576, { usize::MAX }>)]
    keep_bytes: Option<usize>,

    /// How long a message is kept [default: for ever]
    #[arg(long, env = "CHINWAG_KEEP_FOR", value_name = "D", value_parser = interval)]
    keep_for: Option<Duration>,

    /// Largest size of the history file, in bytes; nothing more can be said while it is full; 0 is
    /// no limit.
    #[arg(long, env = "CHINWAG_MAX_DB_BYTES", value_name = "N", default_value = "10737418240")]
    #[arg(value_parser = limit::<1_048_576>)]
    max_db_bytes: Limit,

    /// Rooms that one connection may be in; 0 is no limit.
    #[arg(long, env = "CHINWAG_MAX_ROOMS_PER_CLIENT", value_name = "N", default_value = "1000")]
    #[arg(value_parser = limit::<1>)]
    max_rooms_per_client: Limit,

    /// Rooms where somebody may be at once; 0 is no limit.
    #[arg(long, env = "CHINWAG_MAX_ROOMS", value_name = "N", default_value = "10000")]
    #[arg(value_parser = limit::<1>)]
    max_rooms: Limit,

    /// Rooms open at once that clients at one address have opened; 0 is no limit.
    #[arg(long, env = "CHINWAG_MAX_ROOMS_PER_ADDRESS", value_name = "N", default_value = "1000")]
    #[arg(value_parser = limit::<1>)]
    max_rooms_per_address: Limit,

    /// Connections that may be in one room; 0 is no limit.
    #[arg(long, env = "CHINWAG_MAX_MEMBERS_PER_ROOM", value_name = "N", default_value = "10000")]
    #[arg(value_parser = limit::<1>)]
    max_members_per_room: Limit,

    /// Address and port for /metrics, /healthz and /readyz [default: beside the chat, /metrics to
    /// this machine only]
    #[arg(long, env = "CHINWAG_METRICS_LISTEN", value_name = "ADDR", value_parser = address)]
    metrics_listen: Option<SocketAddr>,
}

/// The most of something, if it is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit(Option<u64>);

impl Limit {
    fn count(self) -> Option<usize> {
        self.0.map(|most| usize::try_from(most).unwrap_or(usize::MAX))
    }

    fn with_burst(self, burst: usize) -> Option<Rate> {
        let burst = u32::try_from(burst).ok().and_then(NonZeroU32::new)?;
        self.rate().map(|per_second| Rate { per_second, burst })
    }

    fn rate(self) -> Option<NonZeroU32> {
        self.0.and_then(|most| NonZeroU32::new(u32::try_from(most).unwrap_or(u32::MAX)))
    }
}

/// Where the history is kept: in this file, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Db(Option<PathBuf>);

impl Args {
    /// Where certificates come from, if that is a certificate authority.
    fn acme(&self) -> Result<Option<Acme>, ConfigError> {
        let mut domains: Vec<DomainName> = Vec::new();
        for domain in &self.acme {
            if !domains.contains(domain) {
                domains.push(domain.clone());
            }
        }
        if domains.is_empty() {
            let set = [
                ("acme_contact", !self.acme_contact.is_empty()),
                ("acme_dir", self.acme_dir.is_some()),
                ("acme_staging", self.acme_staging),
                ("acme_url", self.acme_url.is_some()),
                ("acme_ca", self.acme_ca.is_some()),
            ];
            let lonely = set.into_iter().find_map(|(name, is_set)| is_set.then_some(name));
            return lonely.map_or(Ok(None), |name| Err(ConfigError::NoAcmeDomain(name)));
        }
        let url = match (&self.acme_url, self.acme_staging) {
            (Some(_), true) => return Err(ConfigError::TwoAuthorities),
            (Some(url), false) => url.clone(),
            (None, true) => DirectoryUrl::lets_encrypt_staging(),
            (None, false) => DirectoryUrl::lets_encrypt(),
        };
        let beside = || {
            let db = self.db.0.clone().unwrap_or_default();
            db.with_file_name(acme::DIR)
        };
        Ok(Some(Acme {
            domains,
            contacts: self.acme_contact.clone(),
            dir: self.acme_dir.clone().unwrap_or_else(beside),
            url,
            ca: self.acme_ca.clone(),
        }))
    }
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let acme = args.acme()?;
        let config = Self {
            acme,
            listen: args.listen,
            public_hosts: args.public_host,
            tls_cert: args.tls_cert,
            tls_key: args.tls_key,
            redirect_from: args.redirect_from,
            workers: args.workers.unwrap_or(Self::default().workers),
            static_dir: args.static_dir,
            max_message_bytes: args.max_message_bytes,
            max_frame_bytes: args.max_frame_bytes,
            compression: !args.no_compression,
            send_queue: args.send_queue,
            send_queue_bytes: args.send_queue_bytes,
            write_timeout: args.write_timeout,
            ping_interval: args.ping_interval,
            pong_timeout: args.pong_timeout,
            batch_window: args.batch_window,
            shutdown_timeout: args.shutdown_timeout,
            allowed_origins: args.allowed_origin,
            trusted_proxies: args.trusted_proxy,
            max_connections: args.max_connections.count(),
            max_connections_per_address: args.max_connections_per_address.count(),
            connect_rate: args.connect_rate.rate(),
            publish_rate: args.publish_rate.with_burst(args.publish_burst),
            publish_rate_per_address: args
                .publish_rate_per_address
                .with_burst(args.publish_burst_per_address),
            publish_bytes_per_hour_per_address: args.publish_bytes_per_hour_per_address.rate(),
            publish_bytes_per_day_per_address: args.publish_bytes_per_day_per_address.rate(),
            command_rate: args.command_rate.with_burst(args.command_burst),
            command_rate_per_address: args
                .command_rate_per_address
                .with_burst(args.command_burst_per_address),
            resume_buffer: args.resume_buffer,
            db: args.db.0,
            db_sync: args.db_sync,
            keep_messages: args.keep_messages,
            keep_bytes: args.keep_bytes.map(|bytes| bytes as u64),
            keep_for: args.keep_for,
            max_db_bytes: args.max_db_bytes.0,
            max_rooms_per_client: args.max_rooms_per_client.count(),
            max_rooms: args.max_rooms.count(),
            max_rooms_per_address: args.max_rooms_per_address.count(),
            max_members_per_room: args.max_members_per_room.count(),
            metrics_listen: args.metrics_listen,
            ..Self::default()
        };
        config.check()?;
        Ok(config)
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "takes an address and a port such as 127.0.0.1:8080 or [::]:8080")
}

fn number<const MIN: usize, const MAX: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (MIN..=MAX).contains(number));
    number.ok_or_else(|| format!("takes a whole number from {MIN} to {MAX}"))
}

fn limit<const MIN: u64>(text: &str) -> Result<Limit, String> {
    match text.parse() {
        Ok(0) => Ok(Limit(None)),
        Ok(number) if number >= MIN => Ok(Limit(Some(number))),
        Ok(_) | Err(_) => Err(format!("takes a whole number from {MIN} up, or 0 for no limit")),
    }
}

fn db(text: &str) -> Result<Db, &'static str> {
    match text {
        "" => Err("takes the path of a file, or none"),
        "none" => Ok(Db(None)),
        path => Ok(Db(Some(path.into()))),
    }
}

fn db_sync(text: &str) -> Result<DbSync, &'static str> {
    match text {
        "full" => Ok(DbSync::Full),
        "normal" => Ok(DbSync::Normal),
        _ => Err("takes full or normal"),
    }
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "takes a duration such as 50ms, 10s or 1m")
}

fn interval(text: &str) -> Result<Duration, &'static str> {
    let interval = duration(text)?;
    if interval.is_zero() { Err("takes a duration longer than 0") } else { Ok(interval) }
}
