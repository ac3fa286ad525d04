//! The configuration: [`Args`] is what was typed or set in the environment, [`Config`] what is
//! valid. No other code reads flags or variables.

mod acme;
mod args;
mod network;
mod origin;
mod rate;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::metrics::Metrics;
pub use acme::{Acme, AcmeValueError, DirectoryUrl, DomainName, EmailAddress};
pub use args::Args;
pub use network::Network;
pub(crate) use origin::default_port;
pub use origin::{AllowedOrigin, Host, Origin};
pub use rate::Rate;

/// Why a text is not a host, origin or network.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// Not a host.
    #[error("must be a host name or address such as chat.example or 192.0.2.1:8080")]
    Host,
    /// Not an origin.
    #[error("must be an origin such as https://chat.example, or *")]
    Origin,
    /// Not a network.
    #[error("must be an address such as 127.0.0.1 or a network such as 10.0.0.0/8")]
    Network,
}

/// How surely a message is on disk once it is committed: SQLite's `synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbSync {
    /// It survives also when the power fails.
    Full,
    /// It survives when the program is killed. When the power fails the last ones may be lost;
    /// then the log begins a new epoch.
    Normal,
}

/// What a server is started with. [`Config::check`] says whether its parts fit together.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on; port 0 takes a free one. Defaults to `127.0.0.1:8080`.
    pub listen: Vec<SocketAddr>,
    /// Host names that the server is reached by, beside those of loopback. Defaults to none.
    pub public_hosts: Vec<Host>,
    /// File with the server's certificate chain, in PEM. With it and `tls_key`, all of `listen` is
    /// served over TLS. Defaults to none.
    pub tls_cert: Option<PathBuf>,
    /// File with the certificate's private key, in PEM. Defaults to none.
    pub tls_key: Option<PathBuf>,
    /// Settings to obtain and renew a certificate. With them, all of `listen` is served over TLS.
    /// Its domains count as `public_hosts`. Defaults to none.
    pub acme: Option<Acme>,
    /// Addresses that redirect HTTP requests to HTTPS on the first port of `listen`. Defaults to
    /// none.
    pub redirect_from: Vec<SocketAddr>,
    /// HTTP worker threads. Defaults to the number of cores.
    pub workers: usize,
    /// A folder to serve the page from. Defaults to the page that is built in.
    pub static_dir: Option<PathBuf>,
    /// Longest chat message, in bytes. Defaults to 4096.
    pub max_message_bytes: usize,
    /// Longest WebSocket message, assembled, in bytes. Defaults to 6 times the longest chat
    /// message and 4096 more.
    pub max_frame_bytes: Option<usize>,
    /// Whether messages are compressed for clients that support it (permessage-deflate). Defaults
    /// to true.
    pub compression: bool,
    /// Batches that wait for one client before it is evicted. Defaults to 256.
    pub send_queue: usize,
    /// Bytes that wait for one client before it is evicted. Defaults to 1 MiB.
    pub send_queue_bytes: usize,
    /// How long writing to a client may make no progress, and how long closing may take, before the
    /// connection is reset. Defaults to 10 seconds. Progress is what the kernel accepts. When its
    /// send buffer is full (about 190 kB), Linux accepts more only after a third of it is free, so
    /// a client that reads less than about 10 kB a second makes no progress.
    pub write_timeout: Duration,
    /// How often a client is pinged. Defaults to 25 seconds.
    pub ping_interval: Duration,
    /// How long a client may stay silent. Defaults to 60 seconds.
    pub pong_timeout: Duration,
    /// Longest wait between two flushes of a busy room; 0 flushes every message at once. Defaults
    /// to 50 milliseconds.
    pub batch_window: Duration,
    /// How long a shutdown may take to tell the clients. Defaults to 5 seconds.
    pub shutdown_timeout: Duration,
    /// Whose pages may connect, beside the server's own. Defaults to nobody's.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Host` are believed. Defaults to none.
    pub trusted_proxies: Vec<Network>,
    /// WebSockets at once. Defaults to 10000.
    pub max_connections: Option<usize>,
    /// WebSockets at once from one address, or one IPv6 network of 64 bits. Defaults to 100.
    pub max_connections_per_address: Option<usize>,
    /// Attempts to connect from one address in a second. Defaults to 20.
    pub connect_rate: Option<NonZeroU32>,
    /// What one identity may say. Defaults to 10 messages a second, 50 at once.
    pub publish_rate: Option<Rate>,
    /// What may be said from one address. Defaults to 50 messages a second, 250 at once.
    pub publish_rate_per_address: Option<Rate>,
    /// Bytes of messages that may be said from one address in an hour; as many at once after an
    /// hour of silence. Defaults to 16 MiB.
    pub publish_bytes_per_hour_per_address: Option<NonZeroU32>,
    /// The same in a day. Defaults to 64 MiB.
    pub publish_bytes_per_day_per_address: Option<NonZeroU32>,
    /// What one connection may ask for, beside messages: `join`, `history` and the like. Defaults
    /// to 20 commands a second, 200 at once.
    pub command_rate: Option<Rate>,
    /// What may be asked for from one address. Defaults to 100 commands a second, 1000 at once.
    pub command_rate_per_address: Option<Rate>,
    /// Recent messages that a room keeps in memory. Defaults to 1000.
    pub resume_buffer: usize,
    /// The file that keeps the history. Defaults to none: it is kept in memory only. (The program's
    /// own default is `chinwag.db`.)
    pub db: Option<PathBuf>,
    /// How surely a message is on disk before anyone sees it. Defaults to [`DbSync::Full`].
    pub db_sync: DbSync,
    /// Messages that are kept of each room. Defaults to 100000.
    pub keep_messages: usize,
    /// How many bytes of messages are kept in all; each counts as its text and 128 bytes. Defaults
    /// to two fifths of `max_db_bytes`, so that the file never grows to that: see
    /// [`Config::kept_bytes`].
    pub keep_bytes: Option<u64>,
    /// How long a message is kept. Defaults to for ever.
    pub keep_for: Option<Duration>,
    /// How long after a look at all rooms for what need not be kept any more the next one begins.
    /// Defaults to 10 seconds.
    pub prune_interval: Duration,
    /// How long a client of the JSON protocol may take to say `hello`. Defaults to 10 seconds.
    pub hello_timeout: Duration,
    /// Largest size of the file that keeps the history, in bytes. Defaults to 10 GiB.
    pub max_db_bytes: Option<u64>,
    /// Rooms that one connection may be in. Defaults to 1000.
    pub max_rooms_per_client: Option<usize>,
    /// Rooms where somebody may be at once. Defaults to 10000.
    pub max_rooms: Option<usize>,
    /// Rooms that may be open at once because clients at one address have opened them. Defaults to
    /// 1000.
    pub max_rooms_per_address: Option<usize>,
    /// Clients that may be in one room. Defaults to 10000.
    pub max_members_per_room: Option<usize>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served by themselves. Defaults to nowhere:
    /// they are served beside the chat, `/metrics` to this machine only.
    pub metrics_listen: Option<SocketAddr>,
    /// Counts what happens. Defaults to counters of its own, which all clones of the configuration
    /// share.
    pub metrics: Metrics,
}

/// Why the parts of a [`Config`] do not fit together.
#[derive(Clone, Debug, Error)]
pub enum ConfigError {
    /// Nothing to listen on.
    #[error("listen must have at least one address")]
    NoListen,
    /// A chat message that is allowed would not fit a WebSocket message that is.
    #[error("max_frame_bytes must be at least max_message_bytes ({0})")]
    FrameTooSmall(usize),
    /// A client would be dropped for what the hub tells it at once.
    #[error("send_queue must be at least {SEND_QUEUE_MIN}")]
    SendQueueTooSmall,
    /// Every client would be dropped before it was pinged.
    #[error("pong_timeout must be longer than ping_interval ({0})")]
    PongTooEarly(humantime::FormattedDuration),
    /// Only one of certificate and key is set.
    #[error("tls_cert and tls_key must be given together")]
    HalfTls,
    /// `tls_cert` and `acme` are both set.
    #[error("tls_cert and acme cannot be used together")]
    TwoCertificates,
    /// This ACME setting is given without a domain.
    #[error("{0} requires acme")]
    NoAcmeDomain(&'static str),
    /// ACME has no domain.
    #[error("acme must have at least one domain")]
    EmptyAcme,
    /// Two certificate authorities are set.
    #[error("acme_staging and acme_url cannot be used together")]
    TwoAuthorities,
    /// There is no HTTPS to redirect to.
    #[error("redirect_from requires acme, or tls_cert and tls_key")]
    NothingToRedirectTo,
    /// There is no page in the folder.
    #[error("static_dir must be a folder with an index.html: {}", .0.display())]
    NoPage(PathBuf),
}

/// The shortest queue of a client that keeps up with what it asks for.
const SEND_QUEUE_MIN: usize = 16;

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            public_hosts: Vec::new(),
            tls_cert: None,
            tls_key: None,
            acme: None,
            redirect_from: Vec::new(),
            workers: std::thread::available_parallelism().map_or(1, Into::into).min(512),
            static_dir: None,
            max_message_bytes: 4096,
            max_frame_bytes: None,
            compression: true,
            send_queue: 256,
            send_queue_bytes: 1024 * 1024,
            write_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(60),
            batch_window: Duration::from_millis(50),
            shutdown_timeout: Duration::from_secs(5),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            max_connections: Some(10_000),
            max_connections_per_address: Some(100),
            connect_rate: NonZeroU32::new(20),
            publish_rate: rate(10, 50),
            publish_rate_per_address: rate(50, 250),
            publish_bytes_per_hour_per_address: NonZeroU32::new(16 * 1024 * 1024),
            publish_bytes_per_day_per_address: NonZeroU32::new(64 * 1024 * 1024),
            command_rate: rate(20, 200),
            command_rate_per_address: rate(100, 1000),
            resume_buffer: 1000,
            db: None,
            db_sync: DbSync::Full,
            keep_messages: 100_000,
            keep_bytes: None,
            keep_for: None,
            prune_interval: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(10),
            max_db_bytes: Some(10 * 1024 * 1024 * 1024),
            max_rooms_per_client: Some(1000),
            max_rooms: Some(10_000),
            max_rooms_per_address: Some(1000),
            max_members_per_room: Some(10_000),
            metrics_listen: None,
            metrics: Metrics::default(),
        }
    }
}

fn rate(per_second: u32, burst: u32) -> Option<Rate> {
    let (per_second, burst) = (NonZeroU32::new(per_second)?, NonZeroU32::new(burst)?);
    Some(Rate { per_second, burst })
}

impl Config {
    /// Says whether the parts fit together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.listen.is_empty() {
            return Err(ConfigError::NoListen);
        }
        if self.frame_limit() < self.max_message_bytes {
            return Err(ConfigError::FrameTooSmall(self.max_message_bytes));
        }
        if self.send_queue < SEND_QUEUE_MIN {
            return Err(ConfigError::SendQueueTooSmall);
        }
        if self.pong_timeout <= self.ping_interval {
            return Err(ConfigError::PongTooEarly(humantime::format_duration(self.ping_interval)));
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(ConfigError::HalfTls);
        }
        if let Some(acme) = &self.acme {
            if self.tls_cert.is_some() {
                return Err(ConfigError::TwoCertificates);
            }
            if acme.domains.is_empty() {
                return Err(ConfigError::EmptyAcme);
            }
        }
        if !self.serves_tls() && !self.redirect_from.is_empty() {
            return Err(ConfigError::NothingToRedirectTo);
        }
        match &self.static_dir {
            Some(dir) if !dir.join("index.html").is_file() => Err(ConfigError::NoPage(dir.clone())),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether `listen` is served over TLS.
    pub(crate) fn serves_tls(&self) -> bool {
        self.tls_cert.is_some() || self.acme.is_some()
    }

    /// The host names that the server is reached by: `public_hosts` and the domains of its
    /// certificate.
    pub(crate) fn known_hosts(&self) -> Vec<Host> {
        let domains = self.acme.iter().flat_map(|acme| &acme.domains);
        let domains = domains.filter_map(|domain| domain.as_str().parse().ok());
        self.public_hosts.iter().cloned().chain(domains).collect()
    }

    /// How many bytes of messages are kept in all: as many as the configuration says, or two
    /// fifths of the largest size of the file. None where neither is limited.
    #[must_use]
    pub fn kept_bytes(&self) -> Option<u64> {
        self.keep_bytes.or(self.max_db_bytes.map(|most| most / 5 * 2))
    }

    /// The longest WebSocket message, in bytes. A chat message may be six times as long in JSON,
    /// where every character can be written as `\u0000`.
    #[must_use]
    pub fn frame_limit(&self) -> usize {
        self.max_frame_bytes.unwrap_or(6 * self.max_message_bytes + 4096)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let args = Args::try_parse_from(std::iter::once(&"chinwag").chain(flags));
        let args = args.map_err(|error| error.to_string())?;
        Config::try_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_the_command_line_and_the_library_agree_but_for_the_file() {
        let mut typed = config(&[]).expect("nothing is wrong with nothing");
        assert_eq!(typed.db.take(), Some(PathBuf::from("chinwag.db")));
        let unlimited = config(&["--max-connections", "0"]).expect("no limit");
        assert_eq!(unlimited.max_connections, None);
        assert_eq!(config(&["--db", "none"]).expect("no file").db, None);
        assert_eq!(format!("{typed:?}"), format!("{:?}", Config::default()));
        assert_eq!(typed.frame_limit(), 6 * 4096 + 4096);
    }

    #[test]
    fn flags_that_may_be_repeated_may_also_be_given_as_a_list() {
        let typed = config(&["--listen", "[::1]:1,127.0.0.1:2", "--listen", "127.0.0.1:0"]);
        assert_eq!(typed.expect("three addresses").listen.len(), 3);
    }

    #[test]
    fn domains_of_the_certificate_are_public_hosts() {
        let typed = config(&["--acme", "Chat.example", "--public-host", "alt.example:8443"]);
        let hosts = typed.expect("a domain").known_hosts();
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["alt.example:8443", "chat.example"]);
    }

    #[test]
    fn keys_of_acme_are_kept_beside_the_history() {
        let dir = |flags: &[&str]| {
            let typed = config(&[&["--acme", "chat.example"], flags].concat());
            typed.expect("a domain").acme.expect("ACME").dir
        };
        assert_eq!(dir(&[]), PathBuf::from("chinwag-acme"));
        assert_eq!(dir(&["--db", "none"]), PathBuf::from("chinwag-acme"));
        assert_eq!(dir(&["--db", "/data/chat.db"]), PathBuf::from("/data/chinwag-acme"));
        assert_eq!(dir(&["--db", "a.db", "--acme-dir", "/keys"]), PathBuf::from("/keys"));
    }

    #[test]
    fn a_domain_that_is_repeated_counts_once() {
        let typed = config(&["--acme", "a.example,b.example", "--acme", "A.example"]);
        let acme = typed.expect("two domains").acme.expect("ACME");
        assert_eq!(
            acme.domains.iter().map(DomainName::as_str).collect::<Vec<_>>(),
            ["a.example", "b.example"]
        );
    }

    #[test]
    fn listen_takes_a_port_for_loopback_and_a_colon_and_port_for_all_addresses() {
        let listen =
            |value| config(&["--listen", value]).map(|config| config.listen[0].to_string());
        for (typed, address) in [
            ("9000", "127.0.0.1:9000"),
            ("localhost:9000", "127.0.0.1:9000"),
            (":9000", "[::]:9000"),
            ("192.0.2.1:9000", "192.0.2.1:9000"),
            ("[::]:9000", "[::]:9000"),
        ] {
            assert_eq!(listen(typed).as_deref(), Ok(address));
        }
        for wrong in ["", ":", "65536", ":x", "localhost", "chat.example:80", "-1", "+80"] {
            assert!(listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_its_flag() {
        let wrong: [(&[&str], &str); 4] = [
            (&["--ping-interval", "0s"], "--ping-interval"),
            (&["--trusted-proxy", "10.0.0.0/33"], "--trusted-proxy"),
            (&["--connect-rate", "often"], "--connect-rate"),
            (&["--max-db-bytes", "4096"], "--max-db-bytes"),
        ];
        for (flags, named) in wrong {
            let error = config(flags).expect_err("it does not fit");
            assert!(error.contains(named), "{error}");
        }
    }
}
