//! Every limit and interval: [`Args`] is what was typed or set in the environment, [`Config`] what
//! is valid. Nothing else reads either.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use thiserror::Error;

use crate::admission::{AllowedOrigin, Host};

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

    /// Threads that serve HTTP and WebSockets [default: one for each core]
    #[arg(long, env = "CHINWAG_WORKERS", value_name = "N", value_parser = number::<1, 1024>)]
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

    /// Batches that wait for one client before it is dropped as too slow.
    #[arg(long, env = "CHINWAG_SEND_QUEUE", value_name = "N", default_value = "256")]
    #[arg(value_parser = number::<1, 65_536>)]
    send_queue: usize,

    /// Bytes that wait for one client before it is dropped as too slow.
    #[arg(long, env = "CHINWAG_SEND_QUEUE_BYTES", value_name = "N", default_value = "1048576")]
    #[arg(value_parser = number::<1, { 64 * MAX_BYTES }>)]
    send_queue_bytes: usize,

    /// How long a client that is dropped, or cannot be reached, keeps its socket.
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

    /// Connections that may be in one room; 0 is no limit.
    #[arg(long, env = "CHINWAG_MAX_MEMBERS_PER_ROOM", value_name = "N", default_value = "10000")]
    #[arg(value_parser = limit::<1>)]
    max_members_per_room: Limit,
}

/// The most of something, if it is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit(Option<u64>);

impl Limit {
    fn count(self) -> Option<usize> {
        self.0.map(|most| usize::try_from(most).unwrap_or(usize::MAX))
    }
}

/// Where the history is kept: in this file, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Db(Option<PathBuf>);

/// How surely a message is on disk once it is committed: SQLite's `synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbSync {
    /// It survives also when the power fails.
    Full,
    /// It survives when the program is killed. When the power fails the last ones may be lost;
    /// then the log begins a new epoch.
    Normal,
}

const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What a server is started with. [`Config::check`] says whether its parts fit together.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on; port 0 takes a free one. Defaults to `127.0.0.1:8080`.
    pub listen: Vec<SocketAddr>,
    /// Host names that the server is reached by, beside those of loopback. Defaults to none.
    pub public_hosts: Vec<Host>,
    /// HTTP worker threads. Defaults to the number of cores.
    pub workers: usize,
    /// A folder to serve the page from. Defaults to the page that is built in.
    pub static_dir: Option<PathBuf>,
    /// Longest chat message, in bytes. Defaults to 4096.
    pub max_message_bytes: usize,
    /// Longest WebSocket message, assembled, in bytes. Defaults to 6 times the longest chat
    /// message and 4096 more.
    pub max_frame_bytes: Option<usize>,
    /// Batches that wait for one client before it is evicted. Defaults to 256.
    pub send_queue: usize,
    /// Bytes that wait for one client before it is evicted. Defaults to 1 MiB.
    pub send_queue_bytes: usize,
    /// How long an evicted or unreachable client keeps its socket. Defaults to 10 seconds.
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
    /// Recent messages that a room keeps in memory. Defaults to 1000.
    pub resume_buffer: usize,
    /// The file that keeps the history. Defaults to none: it is kept in memory only. (The program's
    /// own default is `chinwag.db`.)
    pub db: Option<PathBuf>,
    /// How surely a message is on disk before anyone sees it. Defaults to [`DbSync::Full`].
    pub db_sync: DbSync,
    /// Messages that are kept of each room. Defaults to 100000.
    pub keep_messages: usize,
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
    /// Clients that may be in one room. Defaults to 10000.
    pub max_members_per_room: Option<usize>,
}

/// Why the parts of a [`Config`] do not fit together, and what to change.
#[derive(Clone, Debug, Error)]
pub enum ConfigError {
    /// Nothing to listen on.
    #[error("--listen takes at least one address such as 127.0.0.1:8080")]
    NoListen,
    /// A chat message that is allowed would not fit a WebSocket message that is.
    #[error("--max-frame-bytes takes at least what --max-message-bytes is, {0}")]
    FrameTooSmall(usize),
    /// Every client would be dropped before it was pinged.
    #[error("--pong-timeout takes more than --ping-interval is, {0}")]
    PongTooEarly(humantime::FormattedDuration),
    /// There is no page in the folder.
    #[error("--static-dir takes a folder with an index.html, which {} is not", .0.display())]
    NoPage(PathBuf),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            public_hosts: Vec::new(),
            workers: std::thread::available_parallelism().map_or(1, Into::into),
            static_dir: None,
            max_message_bytes: 4096,
            max_frame_bytes: None,
            send_queue: 256,
            send_queue_bytes: 1024 * 1024,
            write_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(60),
            batch_window: Duration::from_millis(50),
            shutdown_timeout: Duration::from_secs(5),
            allowed_origins: Vec::new(),
            resume_buffer: 1000,
            db: None,
            db_sync: DbSync::Full,
            keep_messages: 100_000,
            keep_for: None,
            prune_interval: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(10),
            max_db_bytes: Some(10 * 1024 * 1024 * 1024),
            max_rooms_per_client: Some(1000),
            max_rooms: Some(10_000),
            max_members_per_room: Some(10_000),
        }
    }
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
        if self.pong_timeout <= self.ping_interval {
            return Err(ConfigError::PongTooEarly(humantime::format_duration(self.ping_interval)));
        }
        match &self.static_dir {
            Some(dir) if !dir.join("index.html").is_file() => Err(ConfigError::NoPage(dir.clone())),
            Some(_) | None => Ok(()),
        }
    }

    /// The longest WebSocket message, in bytes. A chat message may be six times as long in JSON,
    /// where every character can be written as `\u0000`.
    #[must_use]
    pub fn frame_limit(&self) -> usize {
        self.max_frame_bytes.unwrap_or(6 * self.max_message_bytes + 4096)
    }
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let config = Self {
            listen: args.listen,
            public_hosts: args.public_host,
            workers: args.workers.unwrap_or(Self::default().workers),
            static_dir: args.static_dir,
            max_message_bytes: args.max_message_bytes,
            max_frame_bytes: args.max_frame_bytes,
            send_queue: args.send_queue,
            send_queue_bytes: args.send_queue_bytes,
            write_timeout: args.write_timeout,
            ping_interval: args.ping_interval,
            pong_timeout: args.pong_timeout,
            batch_window: args.batch_window,
            shutdown_timeout: args.shutdown_timeout,
            allowed_origins: args.allowed_origin,
            resume_buffer: args.resume_buffer,
            db: args.db.0,
            db_sync: args.db_sync,
            keep_messages: args.keep_messages,
            keep_for: args.keep_for,
            max_db_bytes: args.max_db_bytes.0,
            max_rooms_per_client: args.max_rooms_per_client.count(),
            max_rooms: args.max_rooms.count(),
            max_members_per_room: args.max_members_per_room.count(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let args = Args::try_parse_from(std::iter::once(&"chinwag").chain(flags));
        let args = args.map_err(|error| error.to_string())?;
        Config::try_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_the_command_line_and_the_library_agree_but_for_the_file() {
        let mut typed = config(&[]).expect("nothing is wrong with nothing");
        assert_eq!(typed.db.take(), Some(PathBuf::from("chinwag.db")));
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
    fn what_does_not_fit_together_names_the_flag_to_change() {
        let wrong: [(&[&str], &str); 4] = [
            (&["--max-frame-bytes", "4095"], "--max-frame-bytes"),
            (&["--pong-timeout", "25s"], "--pong-timeout"),
            (&["--static-dir", "src"], "--static-dir"),
            (&["--ping-interval", "0s"], "--ping-interval"),
        ];
        for (flags, named) in wrong {
            let error = config(flags).expect_err("it does not fit");
            assert!(error.contains(named), "{error}");
        }
    }
}
