//! The command-line flags of the server and their environment variables. Each flag is one field
//! with one parser. Conversion to [`Config`] applies the defaults and checks the whole.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::BoolishValueParser;

use super::acme::{self, Acme, DirectoryUrl, DomainName, EmailAddress};
use super::{
    AllowedOrigin, Cluster, Config, ConfigError, DbSync, Host, NatsUrl, Network, Rate,
    SEND_QUEUE_MIN, StreamName,
};

/// The maximum number of workers of actix-server.
const WORKERS_MAX: usize = 512;

/// The maximum of `max_message_bytes`. The maxima of other sizes are multiples of it.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A web chat server: start it, open the page, talk.
#[derive(Clone, Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Args {
    #[command(flatten, next_help_heading = "Listening")]
    listening: Listening,
    #[command(flatten, next_help_heading = "Security")]
    security: Security,
    #[command(flatten, next_help_heading = "History")]
    history: History,
    #[command(flatten, next_help_heading = "Cluster")]
    cluster: ClusterArgs,
    #[command(flatten, next_help_heading = "Limits")]
    limits: Limits,
    #[command(flatten, next_help_heading = "Operation")]
    operation: Operation,
}

/// Listen addresses and host names.
#[derive(Clone, Debug, clap::Args)]
struct Listening {
    /// Address and port to listen on. 8080 means 127.0.0.1:8080; :8080 means [::]:8080, all
    /// addresses of IPv4 and IPv6. Port 0 selects a free port.
    #[arg(long, env = "CHINWAG_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:8080", value_parser = address)]
    listen: Vec<SocketAddr>,

    /// Host name by which browsers reach the server. Once set, WebSocket requests for other hosts,
    /// except loopback names, get status 403.
    #[arg(long, env = "CHINWAG_PUBLIC_HOST", value_name = "HOST", value_delimiter = ',')]
    public_host: Vec<Host>,

    /// Address and port, such as :80, on which the server redirects HTTP requests to HTTPS.
    #[arg(long, env = "CHINWAG_REDIRECT_FROM", value_name = "ADDR", value_delimiter = ',')]
    #[arg(value_parser = address)]
    redirect_from: Vec<SocketAddr>,

    /// Directory that replaces the built-in page. It contains index.html.
    #[arg(long, env = "CHINWAG_STATIC_DIR", value_name = "DIR")]
    static_dir: Option<PathBuf>,

    /// Separate address and port for /metrics, /healthz and /readyz [default: those of --listen;
    /// /metrics then answers only this machine]
    #[arg(long, env = "CHINWAG_METRICS_LISTEN", value_name = "ADDR", value_parser = address)]
    metrics_listen: Option<SocketAddr>,
}

/// Certificates, allowed origins and trusted proxies.
#[derive(Clone, Debug, clap::Args)]
struct Security {
    /// Obtain a certificate for this domain from Let's Encrypt, and serve HTTPS. By using this flag
    /// you accept its terms of service. The certificate authority connects to port 443 of the
    /// domain.
    #[arg(long, env = "CHINWAG_ACME", value_name = "DOMAIN", value_delimiter = ',')]
    acme: Vec<DomainName>,

    /// E-mail address for the certificate authority.
    #[arg(long, env = "CHINWAG_ACME_CONTACT", value_name = "EMAIL", value_delimiter = ',')]
    acme_contact: Vec<EmailAddress>,

    /// Directory for the account key and the certificates, not accessible to other users [default:
    /// chinwag-acme beside the history file]
    #[arg(long, env = "CHINWAG_ACME_DIR", value_name = "DIR")]
    acme_dir: Option<PathBuf>,

    /// Obtain a test certificate from Let's Encrypt's staging environment. Browsers do not trust
    /// it.
    #[arg(long, env = "CHINWAG_ACME_STAGING", value_parser = BoolishValueParser::new())]
    acme_staging: bool,

    /// ACME directory URL of another certificate authority [default: that of Let's Encrypt]
    #[arg(long, env = "CHINWAG_ACME_URL", value_name = "URL")]
    acme_url: Option<DirectoryUrl>,

    /// PEM file with the root certificates to trust for connections to the certificate authority
    /// [default: those of Mozilla]
    #[arg(long, env = "CHINWAG_ACME_CA", value_name = "FILE")]
    acme_ca: Option<PathBuf>,

    /// PEM file with a certificate chain. Serves HTTPS.
    #[arg(long, env = "CHINWAG_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// PEM file with the private key of that certificate.
    #[arg(long, env = "CHINWAG_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Origin whose pages may connect, in addition to the server's own; * allows all.
    #[arg(long, env = "CHINWAG_ALLOWED_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    allowed_origin: Vec<AllowedOrigin>,

    /// Address or network of a proxy whose X-Forwarded-For and X-Forwarded-Host headers are
    /// trusted.
    #[arg(long, env = "CHINWAG_TRUSTED_PROXY", value_name = "NET", value_delimiter = ',')]
    trusted_proxy: Vec<Network>,
}

/// Storage and retention of messages.
#[derive(Clone, Debug, clap::Args)]
struct History {
    /// SQLite file that stores the history; none keeps it in memory only.
    #[arg(long, env = "CHINWAG_DB", value_name = "PATH", default_value = "chinwag.db")]
    #[arg(value_parser = db)]
    db: Db,

    /// Durability of committed messages. full: they survive power loss. normal: they survive a
    /// crash of the program.
    #[arg(long, env = "CHINWAG_DB_SYNC", value_name = "full|normal", default_value = "full")]
    #[arg(value_parser = db_sync)]
    db_sync: DbSync,

    /// Messages to keep in each room.
    #[arg(long, env = "CHINWAG_KEEP_MESSAGES", value_name = "N", default_value = "100000")]
    #[arg(value_parser = number::<1, 1_000_000_000>)]
    keep_messages: usize,

    /// Bytes of messages to keep in total. A message counts as its text plus 128 bytes, and each
    /// reaction to it as 64 bytes. The oldest messages of the largest room are deleted first
    /// [default: 2/5 of --max-db-bytes]
    #[arg(long, env = "CHINWAG_KEEP_BYTES", value_name = "N")]
    #[arg(value_parser = number::<1_048_576, { usize::MAX }>)]
    keep_bytes: Option<usize>,

    /// How long to keep a message [default: no limit]
    #[arg(long, env = "CHINWAG_KEEP_FOR", value_name = "DURATION", value_parser = interval)]
    keep_for: Option<Duration>,

    /// How long after sending a message its author may edit or delete it. 0: no limit.
    #[arg(long, env = "CHINWAG_EDIT_WINDOW", value_name = "DURATION", default_value = "0s")]
    #[arg(value_parser = duration)]
    edit_window: Duration,

    /// Do not let authors edit or delete their messages.
    #[arg(long, env = "CHINWAG_NO_EDITS", value_parser = BoolishValueParser::new())]
    no_edits: bool,

    /// Maximum size of the history file in bytes. While it is full, messages are rejected. 0: no
    /// limit.
    #[arg(long, env = "CHINWAG_MAX_DB_BYTES", value_name = "N", default_value = "10737418240")]
    #[arg(value_parser = limit::<1_048_576>)]
    max_db_bytes: Limit,

    /// Recent messages, and as many changes, of each room to keep in memory. Clients resume within
    /// these.
    #[arg(long, env = "CHINWAG_RESUME_BUFFER", value_name = "N", default_value = "1000")]
    #[arg(value_parser = number::<0, 1_000_000>)]
    resume_buffer: usize,
}

/// The connection to NATS, and the stream in which the nodes of a cluster share their log.
#[derive(Clone, Debug, clap::Args)]
pub struct NatsArgs {
    /// URL of a NATS server with JetStream. All nodes that use the same stream are one chat.
    /// Requires --db.
    #[arg(long, env = "CHINWAG_NATS", value_name = "URL", value_delimiter = ',')]
    nats: Vec<NatsUrl>,

    /// File with the credentials of a NATS user.
    #[arg(long, env = "CHINWAG_NATS_CREDS", value_name = "FILE")]
    nats_creds: Option<PathBuf>,

    /// PEM file with the root certificates to trust for connections to NATS, which then must use
    /// TLS [default: those of the system]
    #[arg(long, env = "CHINWAG_NATS_CA", value_name = "FILE")]
    nats_ca: Option<PathBuf>,

    /// PEM file with a client certificate for NATS.
    #[arg(long, env = "CHINWAG_NATS_CERT", value_name = "FILE")]
    nats_cert: Option<PathBuf>,

    /// PEM file with the private key of that certificate.
    #[arg(long, env = "CHINWAG_NATS_KEY", value_name = "FILE")]
    nats_key: Option<PathBuf>,

    /// Name of the stream.
    #[arg(long, env = "CHINWAG_NATS_STREAM", value_name = "NAME", default_value = "chinwag")]
    nats_stream: StreamName,
}

/// The log that the nodes of a cluster share.
#[derive(Clone, Debug, clap::Args)]
struct ClusterArgs {
    #[command(flatten)]
    connection: NatsArgs,

    /// Number of NATS servers that store the stream. Used when the stream is created.
    #[arg(long, env = "CHINWAG_NATS_REPLICAS", value_name = "N", default_value = "1")]
    #[arg(value_parser = number::<1, 5>)]
    nats_replicas: usize,

    /// Maximum size of the stream in bytes. NATS then deletes the oldest records, which the history
    /// files have. Used when the stream is created.
    #[arg(long, env = "CHINWAG_NATS_LOG_BYTES", value_name = "N", default_value = "4294967296")]
    #[arg(value_parser = number::<1_048_576, { usize::MAX }>)]
    nats_log_bytes: usize,

    /// The epoch to end. The node begins a new one with its retention and edit settings. If the
    /// stream has lost records, all nodes then continue with the history of this node. No effect if
    /// the history file has another epoch.
    #[arg(long, env = "CHINWAG_NATS_NEW_EPOCH", value_name = "EPOCH")]
    nats_new_epoch: Option<String>,

    /// Name of this node in the connections that NATS lists.
    #[arg(long, env = "CHINWAG_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
}

/// Limits on connections, messages, rooms and queues.
#[derive(Clone, Debug, clap::Args)]
struct Limits {
    /// Maximum size of a chat message in bytes.
    #[arg(long, env = "CHINWAG_MAX_MESSAGE_BYTES", value_name = "N", default_value = "4096")]
    #[arg(value_parser = number::<1, MAX_BYTES>)]
    max_message_bytes: usize,

    /// Maximum size of a WebSocket message in bytes, after joining its fragments; at least
    /// --max-message-bytes [default: 6 x --max-message-bytes + 4096]
    #[arg(long, env = "CHINWAG_MAX_FRAME_BYTES", value_name = "N")]
    #[arg(value_parser = number::<1, { 8 * MAX_BYTES }>)]
    max_frame_bytes: Option<usize>,

    /// Maximum number of WebSocket connections. 0: no limit.
    #[arg(long, env = "CHINWAG_MAX_CONNECTIONS", value_name = "N", default_value = "10000")]
    #[arg(value_parser = limit::<1>)]
    max_connections: Limit,

    /// Maximum number of WebSocket connections from one IPv4 address or IPv6 /64 network. 0: no
    /// limit.
    #[arg(long, env = "CHINWAG_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    #[arg(default_value = "100", value_parser = limit::<1>)]
    max_connections_per_address: Limit,

    /// WebSocket connection attempts per second from one address. 0: no limit.
    #[arg(long, env = "CHINWAG_CONNECT_RATE", value_name = "N", default_value = "20")]
    #[arg(value_parser = limit::<1>)]
    connect_rate: Limit,

    /// Messages and changes per second from one user. Excess messages are rejected (JSON protocol)
    /// or delayed (text protocol). 0: no limit.
    #[arg(long, env = "CHINWAG_PUBLISH_RATE", value_name = "N", default_value = "10")]
    #[arg(value_parser = limit::<1>)]
    publish_rate: Limit,

    /// Burst: messages that one user may send at once.
    #[arg(long, env = "CHINWAG_PUBLISH_BURST", value_name = "N", default_value = "50")]
    #[arg(value_parser = number::<1, { u32::MAX as usize }>)]
    publish_burst: usize,

    /// Messages per second from one address. 0: no limit.
    #[arg(long, env = "CHINWAG_PUBLISH_RATE_PER_ADDRESS", value_name = "N", default_value = "50")]
    #[arg(value_parser = limit::<1>)]
    publish_rate_per_address: Limit,

    /// Burst: messages that may be sent at once from one address.
    #[arg(long, env = "CHINWAG_PUBLISH_BURST_PER_ADDRESS", value_name = "N")]
    #[arg(default_value = "250", value_parser = number::<1, { u32::MAX as usize }>)]
    publish_burst_per_address: usize,

    /// Message bytes per hour from one address. 0: no limit.
    #[arg(long, env = "CHINWAG_PUBLISH_BYTES_PER_HOUR_PER_ADDRESS", value_name = "N")]
    #[arg(default_value = "16777216", value_parser = limit::<1>)]
    publish_bytes_per_hour_per_address: Limit,

    /// Message bytes per day from one address. 0: no limit.
    #[arg(long, env = "CHINWAG_PUBLISH_BYTES_PER_DAY_PER_ADDRESS", value_name = "N")]
    #[arg(default_value = "67108864", value_parser = limit::<1>)]
    publish_bytes_per_day_per_address: Limit,

    /// Other commands, such as join and history, per second from one connection. Excess commands
    /// are delayed. 0: no limit.
    #[arg(long, env = "CHINWAG_COMMAND_RATE", value_name = "N", default_value = "20")]
    #[arg(value_parser = limit::<1>)]
    command_rate: Limit,

    /// Burst: other commands that one connection may send at once.
    #[arg(long, env = "CHINWAG_COMMAND_BURST", value_name = "N", default_value = "200")]
    #[arg(value_parser = number::<1, { u32::MAX as usize }>)]
    command_burst: usize,

    /// Other commands per second from one address. 0: no limit.
    #[arg(long, env = "CHINWAG_COMMAND_RATE_PER_ADDRESS", value_name = "N", default_value = "100")]
    #[arg(value_parser = limit::<1>)]
    command_rate_per_address: Limit,

    /// Burst: other commands that may be sent at once from one address.
    #[arg(long, env = "CHINWAG_COMMAND_BURST_PER_ADDRESS", value_name = "N")]
    #[arg(default_value = "1000", value_parser = number::<1, { u32::MAX as usize }>)]
    command_burst_per_address: usize,

    /// Maximum number of rooms that one connection may join. 0: no limit.
    #[arg(long, env = "CHINWAG_MAX_ROOMS_PER_CLIENT", value_name = "N", default_value = "1000")]
    #[arg(value_parser = limit::<1>)]
    max_rooms_per_client: Limit,

    /// Maximum number of rooms with members. 0: no limit.
    #[arg(long, env = "CHINWAG_MAX_ROOMS", value_name = "N", default_value = "10000")]
    #[arg(value_parser = limit::<1>)]
    max_rooms: Limit,

    /// Maximum number of rooms in use that were opened by clients at one address. 0: no limit.
    #[arg(long, env = "CHINWAG_MAX_ROOMS_PER_ADDRESS", value_name = "N", default_value = "1000")]
    #[arg(value_parser = limit::<1>)]
    max_rooms_per_address: Limit,

    /// Maximum number of connections in one room. In a cluster, each user on another node counts as
    /// one, too. 0: no limit.
    #[arg(long, env = "CHINWAG_MAX_MEMBERS_PER_ROOM", value_name = "N", default_value = "10000")]
    #[arg(value_parser = limit::<1>)]
    max_members_per_room: Limit,

    /// Maximum number of batches in the send queue of a client. A client whose queue is full is
    /// disconnected.
    #[arg(long, env = "CHINWAG_SEND_QUEUE", value_name = "N", default_value = "256")]
    #[arg(value_parser = number::<SEND_QUEUE_MIN, 65_536>)]
    send_queue: usize,

    /// Maximum number of bytes in the send queue of a client. A client whose queue is full is
    /// disconnected.
    #[arg(long, env = "CHINWAG_SEND_QUEUE_BYTES", value_name = "N", default_value = "1048576")]
    #[arg(value_parser = number::<1, { 64 * MAX_BYTES }>)]
    send_queue_bytes: usize,
}

/// Threads, timeouts and compression.
#[derive(Clone, Debug, clap::Args)]
struct Operation {
    /// Threads that serve HTTP and WebSockets [default: one for each core]
    #[arg(long, env = "CHINWAG_WORKERS", value_name = "N", value_parser = number::<1, WORKERS_MAX>)]
    workers: Option<usize>,

    /// Interval between two batches of a busy room; longer only if writing to its members takes
    /// longer. 0 sends each message immediately.
    #[arg(long, env = "CHINWAG_BATCH_WINDOW", value_name = "DURATION", default_value = "50ms")]
    #[arg(value_parser = duration)]
    batch_window: Duration,

    /// Disable WebSocket compression (permessage-deflate).
    #[arg(long, env = "CHINWAG_NO_COMPRESSION", value_parser = BoolishValueParser::new())]
    no_compression: bool,

    /// The server resets a connection if a write makes no progress, or a close does not finish, for
    /// this time.
    #[arg(long, env = "CHINWAG_WRITE_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = interval)]
    write_timeout: Duration,

    /// Interval between pings to a client.
    #[arg(long, env = "CHINWAG_PING_INTERVAL", value_name = "DURATION", default_value = "25s")]
    #[arg(value_parser = interval)]
    ping_interval: Duration,

    /// The server closes a connection that is silent for this time, which must be longer than
    /// --ping-interval.
    #[arg(long, env = "CHINWAG_PONG_TIMEOUT", value_name = "DURATION", default_value = "60s")]
    #[arg(value_parser = interval)]
    pong_timeout: Duration,

    /// How long a shutdown waits for the clients, and then again at most as long for the history
    /// file.
    #[arg(long, env = "CHINWAG_SHUTDOWN_TIMEOUT", value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = duration)]
    shutdown_timeout: Duration,
}

/// A limit, or none if 0 was given.
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

/// The history file, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Db(Option<PathBuf>);

impl Args {
    /// Returns the settings of ACME, if a domain is given.
    fn acme(&self) -> Result<Option<Acme>, ConfigError> {
        let mut domains: Vec<DomainName> = Vec::new();
        for domain in &self.security.acme {
            if !domains.contains(domain) {
                domains.push(domain.clone());
            }
        }
        if domains.is_empty() {
            let set = [
                ("acme_contact", !self.security.acme_contact.is_empty()),
                ("acme_dir", self.security.acme_dir.is_some()),
                ("acme_staging", self.security.acme_staging),
                ("acme_url", self.security.acme_url.is_some()),
                ("acme_ca", self.security.acme_ca.is_some()),
            ];
            let orphan = set.into_iter().find_map(|(name, is_set)| is_set.then_some(name));
            return orphan.map_or(Ok(None), |name| Err(ConfigError::NoAcmeDomain(name)));
        }
        let url = match (&self.security.acme_url, self.security.acme_staging) {
            (Some(_), true) => return Err(ConfigError::TwoAuthorities),
            (Some(url), false) => url.clone(),
            (None, true) => DirectoryUrl::lets_encrypt_staging(),
            (None, false) => DirectoryUrl::lets_encrypt(),
        };
        let default_dir = || {
            let db = self.history.db.0.clone().unwrap_or_default();
            db.with_file_name(acme::DIR)
        };
        Ok(Some(Acme {
            domains,
            contacts: self.security.acme_contact.clone(),
            dir: self.security.acme_dir.clone().unwrap_or_else(default_dir),
            url,
            ca: self.security.acme_ca.clone(),
        }))
    }
}

impl NatsArgs {
    /// Returns the settings of a cluster, if a NATS server is given.
    ///
    /// # Errors
    /// If another setting of the connection is given without a server.
    pub fn into_cluster(self) -> Result<Option<Cluster>, ConfigError> {
        if self.nats.is_empty() {
            let set = [
                ("nats_creds", self.nats_creds.is_some()),
                ("nats_ca", self.nats_ca.is_some()),
                ("nats_cert", self.nats_cert.is_some()),
                ("nats_key", self.nats_key.is_some()),
            ];
            let orphan = set.into_iter().find_map(|(name, is_set)| is_set.then_some(name));
            return orphan.map_or(Ok(None), |name| Err(ConfigError::NoNats(name)));
        }
        Ok(Some(Cluster {
            creds: self.nats_creds,
            ca: self.nats_ca,
            cert: self.nats_cert,
            key: self.nats_key,
            stream: self.nats_stream,
            ..Cluster::new(self.nats)
        }))
    }
}

impl ClusterArgs {
    /// Returns the settings of a cluster, if a NATS server is given.
    fn into_cluster(self) -> Result<Option<Cluster>, ConfigError> {
        let Some(connection) = self.connection.into_cluster()? else {
            let is_set = self.nats_new_epoch.is_some();
            return if is_set { Err(ConfigError::NoNats("nats_new_epoch")) } else { Ok(None) };
        };
        Ok(Some(Cluster {
            replicas: self.nats_replicas,
            log_bytes: self.nats_log_bytes as u64,
            new_epoch: self.nats_new_epoch,
            node_name: self.node_name,
            ..connection
        }))
    }
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let acme = args.acme()?;
        let config = Self {
            acme,
            cluster: args.cluster.into_cluster()?,
            listen: args.listening.listen,
            public_hosts: args.listening.public_host,
            tls_cert: args.security.tls_cert,
            tls_key: args.security.tls_key,
            redirect_from: args.listening.redirect_from,
            workers: args.operation.workers.unwrap_or(Self::default().workers),
            static_dir: args.listening.static_dir,
            max_message_bytes: args.limits.max_message_bytes,
            max_frame_bytes: args.limits.max_frame_bytes,
            compression: !args.operation.no_compression,
            send_queue: args.limits.send_queue,
            send_queue_bytes: args.limits.send_queue_bytes,
            write_timeout: args.operation.write_timeout,
            ping_interval: args.operation.ping_interval,
            pong_timeout: args.operation.pong_timeout,
            batch_window: args.operation.batch_window,
            shutdown_timeout: args.operation.shutdown_timeout,
            allowed_origins: args.security.allowed_origin,
            trusted_proxies: args.security.trusted_proxy,
            max_connections: args.limits.max_connections.count(),
            max_connections_per_address: args.limits.max_connections_per_address.count(),
            connect_rate: args.limits.connect_rate.rate(),
            publish_rate: args.limits.publish_rate.with_burst(args.limits.publish_burst),
            publish_rate_per_address: args
                .limits
                .publish_rate_per_address
                .with_burst(args.limits.publish_burst_per_address),
            publish_bytes_per_hour_per_address: args
                .limits
                .publish_bytes_per_hour_per_address
                .rate(),
            publish_bytes_per_day_per_address: args.limits.publish_bytes_per_day_per_address.rate(),
            command_rate: args.limits.command_rate.with_burst(args.limits.command_burst),
            command_rate_per_address: args
                .limits
                .command_rate_per_address
                .with_burst(args.limits.command_burst_per_address),
            resume_buffer: args.history.resume_buffer,
            db: args.history.db.0,
            db_sync: args.history.db_sync,
            keep_messages: args.history.keep_messages,
            keep_bytes: args.history.keep_bytes.map(|bytes| bytes as u64),
            keep_for: args.history.keep_for,
            edits: !args.history.no_edits,
            edit_window: Some(args.history.edit_window).filter(|window| !window.is_zero()),
            max_db_bytes: args.history.max_db_bytes.0,
            max_rooms_per_client: args.limits.max_rooms_per_client.count(),
            max_rooms: args.limits.max_rooms.count(),
            max_rooms_per_address: args.limits.max_rooms_per_address.count(),
            max_members_per_room: args.limits.max_members_per_room.count(),
            metrics_listen: args.listening.metrics_listen,
            ..Self::default()
        };
        config.check()?;
        Ok(config)
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    let address = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("127.0.0.1:{text}").parse()
    } else if let Some(port) = text.strip_prefix("localhost:") {
        format!("127.0.0.1:{port}").parse()
    } else if let Some(port) = text.strip_prefix(':') {
        format!("[::]:{port}").parse()
    } else {
        text.parse()
    };
    address.map_err(|_| "must be a port, or an address and a port: 8080, :8080 or 192.0.2.1:8080")
}

fn number<const MIN: usize, const MAX: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (MIN..=MAX).contains(number));
    number.ok_or_else(|| format!("must be a whole number from {MIN} to {MAX}"))
}

fn limit<const MIN: u64>(text: &str) -> Result<Limit, String> {
    match text.parse() {
        Ok(0) => Ok(Limit(None)),
        Ok(number) if number >= MIN => Ok(Limit(Some(number))),
        Ok(_) | Err(_) => {
            Err(format!("must be a whole number of at least {MIN}, or 0 for no limit"))
        }
    }
}

fn db(text: &str) -> Result<Db, &'static str> {
    match text {
        "" => Err("must be the path of a file, or none"),
        "none" => Ok(Db(None)),
        path => Ok(Db(Some(path.into()))),
    }
}

fn db_sync(text: &str) -> Result<DbSync, &'static str> {
    match text {
        "full" => Ok(DbSync::Full),
        "normal" => Ok(DbSync::Normal),
        _ => Err("must be full or normal"),
    }
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "must be a duration such as 50ms, 10s or 1m")
}

fn interval(text: &str) -> Result<Duration, &'static str> {
    let interval = duration(text)?;
    if interval.is_zero() { Err("must be a duration longer than 0") } else { Ok(interval) }
}
