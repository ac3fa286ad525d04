//! The configuration. [`Args`] holds the flags and environment variables as they were given.
//! [`Config`] holds the settings that the rest of the crate uses, and [`Config::check`] validates
//! them together. Only this module and the program read flags or variables.

mod acme;
mod args;
mod cluster;
mod network;
mod origin;
mod rate;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::domain::Settings;
use crate::metrics::Metrics;
pub use acme::{Acme, AcmeValueError, DirectoryUrl, DomainName, EmailAddress};
pub use args::{Args, NatsArgs};
pub use cluster::{Cluster, ClusterValueError, NatsUrl, StreamName};
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

/// Durability of committed messages: the `synchronous` setting of SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbSync {
    /// Committed messages survive power loss.
    Full,
    /// Committed messages survive a crash of the program. Power loss may lose the last ones. The
    /// log then begins a new epoch.
    Normal,
}

/// The settings of a server. [`Config::check`] validates them together.
///
/// A limit of type `Option` is disabled by `None`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on. Port 0 selects a free port. Defaults to `127.0.0.1:8080`.
    pub listen: Vec<SocketAddr>,
    /// Host names by which browsers reach the server, in addition to loopback names. If any is
    /// set, WebSocket requests for other hosts are rejected. Defaults to none.
    pub public_hosts: Vec<Host>,
    /// PEM file with the server's certificate chain. With it and `tls_key`, all of `listen` is
    /// served over TLS. Defaults to none.
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key of the certificate. Defaults to none.
    pub tls_key: Option<PathBuf>,
    /// Settings to obtain and renew a certificate. With them, all of `listen` is served over TLS.
    /// Its domains count as `public_hosts`. Defaults to none.
    pub acme: Option<Acme>,
    /// Addresses that redirect HTTP requests to HTTPS on the first port of `listen`. Defaults to
    /// none.
    pub redirect_from: Vec<SocketAddr>,
    /// Number of HTTP worker threads. Defaults to the number of cores, at most 512.
    pub workers: usize,
    /// Directory that replaces the built-in page. Defaults to none.
    pub static_dir: Option<PathBuf>,
    /// Maximum size of a chat message, in bytes. Defaults to 4096.
    pub max_message_bytes: usize,
    /// Maximum size of a WebSocket message after its fragments are joined, in bytes. Defaults to 6
    /// times `max_message_bytes` plus 4096: see [`Config::frame_limit`].
    pub max_frame_bytes: Option<usize>,
    /// Whether messages are compressed for clients that support it (permessage-deflate). Defaults
    /// to true.
    pub compression: bool,
    /// Maximum number of batches in the send queue of a client. A client whose queue is full is
    /// evicted. Defaults to 256.
    pub send_queue: usize,
    /// Maximum number of bytes in the send queue of a client. Defaults to 1 MiB.
    pub send_queue_bytes: usize,
    /// How long writing to a client may make no progress, and how long closing may take, before the
    /// connection is reset. Defaults to 10 seconds. A write makes progress when the kernel accepts
    /// bytes. When its send buffer is full (about 190 kB), Linux accepts more only after a third of
    /// it is free, so a client that reads less than about 10 kB a second makes no progress.
    pub write_timeout: Duration,
    /// Interval between pings to a client. Defaults to 25 seconds.
    pub ping_interval: Duration,
    /// How long a client may be silent before its connection is closed. Defaults to 60 seconds.
    pub pong_timeout: Duration,
    /// Maximum interval between two flushes of a busy room. 0 flushes every message at once. Two
    /// commits to the history file begin at least 5 milliseconds apart, or this interval if that is
    /// less. Defaults to 50 milliseconds.
    pub batch_window: Duration,
    /// How long a shutdown waits for the clients, and then for the journal. Defaults to 5 seconds.
    pub shutdown_timeout: Duration,
    /// Origins whose pages may connect, in addition to the server's own. Defaults to none.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Host` headers are trusted. Defaults to
    /// none.
    pub trusted_proxies: Vec<Network>,
    /// Maximum number of WebSocket connections. Defaults to 10000.
    pub max_connections: Option<usize>,
    /// Maximum number of WebSocket connections from one IPv4 address or IPv6 /64 network. Defaults
    /// to 100.
    pub max_connections_per_address: Option<usize>,
    /// Connection attempts per second from one address. Defaults to 20.
    pub connect_rate: Option<NonZeroU32>,
    /// Rate of messages from one identity. Defaults to 10 per second with a burst of 50.
    pub publish_rate: Option<Rate>,
    /// Rate of messages from one address. Defaults to 50 per second with a burst of 250.
    pub publish_rate_per_address: Option<Rate>,
    /// Message bytes per hour from one address, which is also the burst. Defaults to 16 MiB.
    pub publish_bytes_per_hour_per_address: Option<NonZeroU32>,
    /// Message bytes per day from one address, which is also the burst. Defaults to 64 MiB.
    pub publish_bytes_per_day_per_address: Option<NonZeroU32>,
    /// Rate of other commands, such as `join` and `history`, from one connection. Defaults to 20
    /// per second with a burst of 200.
    pub command_rate: Option<Rate>,
    /// Rate of other commands from one address. Defaults to 100 per second with a burst of 1000.
    pub command_rate_per_address: Option<Rate>,
    /// Number of recent messages of each room to keep in memory. Defaults to 1000.
    pub resume_buffer: usize,
    /// The SQLite file that stores the history. Defaults to none: the history is in memory only.
    /// (The default of the program is `chinwag.db`.)
    pub db: Option<PathBuf>,
    /// Durability of committed messages. Defaults to [`DbSync::Full`]. A node of a cluster ignores
    /// it.
    pub db_sync: DbSync,
    /// Settings of a cluster, whose nodes share a log in NATS JetStream. Defaults to none.
    pub cluster: Option<Cluster>,
    /// Number of messages to keep in each room. Defaults to 100000.
    pub keep_messages: usize,
    /// Bytes of messages to keep in total. Each message counts as its text and 128 bytes. Defaults
    /// to two fifths of `max_db_bytes`, so that the file does not reach that size: see
    /// [`Config::keep_bytes_limit`].
    pub keep_bytes: Option<u64>,
    /// How long to keep a message. Defaults to no limit.
    pub keep_for: Option<Duration>,
    /// Whether authors may edit and delete their messages. Defaults to true.
    pub edits: bool,
    /// How long after sending a message its author may edit or delete it. Defaults to no limit.
    pub edit_window: Option<Duration>,
    /// The pause between two passes that prune the history of all rooms. Defaults to 10 seconds.
    pub prune_interval: Duration,
    /// How long a client of the JSON protocol may take to send `hello`. Defaults to 10 seconds.
    pub hello_timeout: Duration,
    /// Maximum size of the history file, in bytes. Defaults to 10 GiB.
    pub max_db_bytes: Option<u64>,
    /// Maximum number of rooms that one connection may join. Defaults to 1000.
    pub max_rooms_per_client: Option<usize>,
    /// Maximum number of rooms with members. Defaults to 10000.
    pub max_rooms: Option<usize>,
    /// Maximum number of rooms in use that were opened by clients at one address. Defaults to 1000.
    pub max_rooms_per_address: Option<usize>,
    /// Maximum number of connections in one room. In a cluster, each user on another node counts as
    /// one, too. Defaults to 10000.
    pub max_members_per_room: Option<usize>,
    /// A separate address for `/metrics`, `/healthz` and `/readyz`. Defaults to none: they are
    /// served on `listen`, and `/metrics` answers only requests from the same machine.
    pub metrics_listen: Option<SocketAddr>,
    /// The metrics of the server. Defaults to new metrics, which all clones of the configuration
    /// share.
    pub metrics: Metrics,
}

/// Why a [`Config`] is invalid.
#[derive(Clone, Debug, Error)]
pub enum ConfigError {
    /// No address to listen on is set.
    #[error("listen must have at least one address")]
    NoListen,
    /// The limit for WebSocket messages is below `max_message_bytes`, which the field holds.
    #[error("max_frame_bytes must be at least max_message_bytes ({0})")]
    FrameTooSmall(usize),
    /// The send queue cannot hold the answers to the requests of one client.
    #[error("send_queue must be at least {SEND_QUEUE_MIN}")]
    SendQueueTooSmall,
    /// Every client would time out before its first ping. The field is the ping interval.
    #[error("pong_timeout must be longer than ping_interval ({0})")]
    PongTimeoutTooShort(humantime::FormattedDuration),
    /// Only one of certificate and key is set.
    #[error("tls_cert and tls_key must be given together")]
    IncompleteTls,
    /// `tls_cert` and `acme` are both set.
    #[error("tls_cert and acme cannot be used together")]
    TwoCertificates,
    /// This setting of ACME is given without a domain.
    #[error("{0} requires acme")]
    NoAcmeDomain(&'static str),
    /// The settings of ACME have no domain.
    #[error("acme must have at least one domain")]
    EmptyAcme,
    /// Two certificate authorities are set.
    #[error("acme_staging and acme_url cannot be used together")]
    TwoAuthorities,
    /// A redirect to HTTPS is set, but no certificate.
    #[error("redirect_from requires acme, or tls_cert and tls_key")]
    RedirectWithoutTls,
    /// This setting of a cluster is given without a NATS server.
    #[error("{0} requires nats")]
    NoNats(&'static str),
    /// The settings of a cluster have no NATS server.
    #[error("cluster must have at least one NATS server")]
    EmptyCluster,
    /// A node of a cluster has no history file.
    #[error("nats requires a history file (db)")]
    ClusterWithoutDb,
    /// A node of a cluster obtains its own certificate.
    #[error("nats and acme cannot be used together; let the load balancer provide the certificate")]
    ClusterWithAcme,
    /// Only one of client certificate and key is set.
    #[error("nats_cert and nats_key must be given together")]
    IncompleteNatsTls,
    /// The directory for the page has no `index.html`.
    #[error("static_dir must be a folder with an index.html: {}", .0.display())]
    NoPage(PathBuf),
}

/// The minimum of `send_queue`. With a shorter queue, a client could be evicted because of its own
/// requests, even if it reads at full speed.
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
            cluster: None,
            keep_messages: 100_000,
            keep_bytes: None,
            keep_for: None,
            edits: true,
            edit_window: None,
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
    /// Checks that the settings are valid together.
    ///
    /// # Errors
    /// Returns the first problem.
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
            return Err(ConfigError::PongTimeoutTooShort(humantime::format_duration(
                self.ping_interval,
            )));
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(ConfigError::IncompleteTls);
        }
        if let Some(cluster) = &self.cluster {
            if cluster.servers.is_empty() {
                return Err(ConfigError::EmptyCluster);
            }
            if self.db.is_none() {
                return Err(ConfigError::ClusterWithoutDb);
            }
            if self.acme.is_some() {
                return Err(ConfigError::ClusterWithAcme);
            }
            if cluster.cert.is_some() != cluster.key.is_some() {
                return Err(ConfigError::IncompleteNatsTls);
            }
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
            return Err(ConfigError::RedirectWithoutTls);
        }
        match &self.static_dir {
            Some(dir) if !dir.join("index.html").is_file() => Err(ConfigError::NoPage(dir.clone())),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns whether `listen` is served over TLS.
    pub(crate) fn serves_tls(&self) -> bool {
        self.tls_cert.is_some() || self.acme.is_some()
    }

    /// Returns the host names by which browsers reach the server: `public_hosts` and the domains of
    /// `acme`.
    pub(crate) fn known_hosts(&self) -> Vec<Host> {
        let domains = self.acme.iter().flat_map(|acme| &acme.domains);
        let domains = domains.filter_map(|domain| domain.as_str().parse().ok());
        self.public_hosts.iter().cloned().chain(domains).collect()
    }

    /// Returns the bytes of messages to keep in total: `keep_bytes`, or two fifths of
    /// `max_db_bytes`. Returns `None` if neither is set.
    #[must_use]
    pub fn keep_bytes_limit(&self) -> Option<u64> {
        self.keep_bytes.or(self.max_db_bytes.map(|most| most / 5 * 2))
    }

    /// Returns the settings that are stored in the log.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            rules: Settings::RULES,
            keep_messages: self.keep_messages as u64,
            keep_bytes: self.keep_bytes_limit(),
            keep_for: self.keep_for,
            edits: self.edits,
            edit_window: self.edit_window,
        }
    }

    /// Returns the maximum size of a WebSocket message, in bytes. In JSON a chat message may be six
    /// times as long as its text, since every character can be written as `\u0000`.
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
    fn defaults_of_the_program_and_the_library_differ_only_in_the_history_file() {
        let mut typed = config(&[]).expect("no flag is required");
        assert_eq!(typed.db.take(), Some(PathBuf::from("chinwag.db")));
        let unlimited = config(&["--max-connections", "0"]).expect("no limit");
        assert_eq!(unlimited.max_connections, None);
        assert_eq!(config(&["--db", "none"]).expect("no file").db, None);
        assert_eq!(format!("{typed:?}"), format!("{:?}", Config::default()));
        assert_eq!(typed.frame_limit(), 6 * 4096 + 4096);
    }

    #[test]
    fn repeatable_flags_take_lists() {
        let typed = config(&["--listen", "[::1]:1,127.0.0.1:2", "--listen", "127.0.0.1:0"]);
        assert_eq!(typed.expect("three addresses").listen.len(), 3);
    }

    #[test]
    fn domains_of_acme_are_public_hosts() {
        let typed = config(&["--acme", "Chat.example", "--public-host", "alt.example:8443"]);
        let hosts = typed.expect("a domain").known_hosts();
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["alt.example:8443", "chat.example"]);
    }

    #[test]
    fn acme_folder_is_beside_the_history_file_by_default() {
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
    fn repeated_domain_counts_once() {
        let typed = config(&["--acme", "a.example,b.example", "--acme", "A.example"]);
        let acme = typed.expect("two domains").acme.expect("ACME");
        assert_eq!(
            acme.domains.iter().map(DomainName::as_str).collect::<Vec<_>>(),
            ["a.example", "b.example"]
        );
    }

    #[test]
    fn port_means_loopback_and_colon_with_port_means_all_addresses() {
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
    fn error_of_an_invalid_value_names_its_flag() {
        let wrong: [(&[&str], &str); 4] = [
            (&["--ping-interval", "0s"], "--ping-interval"),
            (&["--trusted-proxy", "10.0.0.0/33"], "--trusted-proxy"),
            (&["--connect-rate", "often"], "--connect-rate"),
            (&["--max-db-bytes", "4096"], "--max-db-bytes"),
        ];
        for (flags, named) in wrong {
            let error = config(flags).expect_err("it is invalid");
            assert!(error.contains(named), "{error}");
        }
    }
}
