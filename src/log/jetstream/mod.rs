//! The log that several nodes share, in a stream of NATS JetStream. JetStream is only an ordered,
//! replicated list of records. A record is an append of one node's hub. Every node applies all
//! records in the same order, to its own journal, by [`rules`](super::rules) that depend only on
//! the records. So all nodes deliver the same messages.
//!
//! `publish` publishes the appends of the node's hub. `follow` reads the records, those of the node
//! among them, and has the journal apply them. `copy` sends journals to nodes that lack records.
//! `gossip` tells the nodes of each other's users, beside the log. `purge` deletes old records.
//! Pages, searches and read marks come from the journal as on a single server.

mod chain;
mod copy;
mod follow;
mod gossip;
mod link;
mod publish;
mod purge;
mod record;

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_core::Stream;
use log::{info, warn};
use thiserror::Error;
use tokio::sync::oneshot;

use super::sqlite::{Describe, InstallError, Journal, JournalError, JournalState, SourceError};
use super::{Log, State};
use crate::config::Config;
use crate::domain::Durability;
pub use copy::bring_up_to_date;
pub use follow::Refused;
use follow::{Following, node_of};
use gossip::{Gossip, SayBye};
use link::Link;
use publish::{Attachment, Publisher};
pub use purge::{PurgeError, Purged, purge};

/// How long a node whose journal is part of the log waits for NATS at its start. After that it
/// starts with the history that it has.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a node is not ready while it cannot read the log.
const UNREADABLE: &str = "the log in NATS cannot be read";

/// Why a node cannot take part in a shared log.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// The configuration has no NATS server.
    #[error("no NATS server is set")]
    NoServer,
    /// The file with credentials cannot be read.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Credentials(PathBuf, std::io::Error),
    /// The connection is impossible with these settings.
    #[error("cannot connect to NATS: {0}")]
    Connect(String),
    /// The history file cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The history file cannot be replaced by a copy.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The history file cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The log and the journal do not belong together, or NATS is not configured for it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The journal has stopped.
    #[error("the journal has stopped")]
    JournalDied,
}

/// The node's part of a shared log. It ends when it is dropped.
#[derive(Debug)]
pub struct SharedLog {
    log: Log,
    bye: Recipient<SayBye>,
    _thread: Thread,
}

/// The thread that talks to NATS, which ends when this is dropped.
#[derive(Debug)]
struct Thread(Arbiter);

impl SharedLog {
    /// Connects to NATS and applies all records that the log has now. The journal must have been
    /// opened as a replica. Call it on an actix system.
    ///
    /// # Errors
    /// If the settings cannot be used, or the journal cannot continue with this log.
    pub async fn open(config: &Config, journal: &Journal) -> Result<Self, ClusterError> {
        let Some(cluster) = config.cluster.clone() else { return Err(ClusterError::NoServer) };
        let thread = Arbiter::new();
        let (sender, opened) = oneshot::channel();
        let writer = journal.writer().clone();
        let metrics = config.metrics.clone();
        let payload_needed = payload_needed(config);
        let (path, settings) = (journal.path().to_owned(), config.settings());
        // The parts of the future do not leave the thread.
        let open = async move || {
            let link = match Link::connect(&cluster).await {
                Ok(link) => link,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let following =
                Following::new(link.clone(), writer, path.clone(), payload_needed, metrics.clone())
                    .await;
            let Ok(mut following) = following else { return };
            if let Some(parent) = &cluster.new_epoch {
                following.replace_epoch(parent, settings);
            }
            let attachment = match following.catch_up(PATIENCE).await {
                Ok(true) => Attachment::Attached,
                Ok(false) => Attachment::Detached(Instant::now(), UNREADABLE.into()),
                Err(refused) => return drop(sender.send(Err(refused.into()))),
            };
            if matches!(attachment, Attachment::Detached(..)) {
                warn!("NATS does not answer; clients can read the history, but not send");
            }
            link.warn_of_weak_settings().await;
            actix::spawn(copy::serve(link.clone(), path, following.readiness()));
            info!("the epoch of the log is {}", following.epoch().as_str());
            let durability = Durability::Stream { replicas: following.replicas() };
            let (node, votes) = (node_of(following.id()), following.votes());
            let gossip = Gossip::new(link.clone(), node, votes, metrics.clone()).launch();
            let publisher = Publisher::new(following, link, metrics, attachment).start();
            drop(sender.send(Ok((publisher, durability, gossip))));
        };
        thread.spawn_fn(move || drop(actix::spawn(open())));
        let thread = Thread(thread);
        let (publisher, durability, (nodes, bye)) =
            opened.await.map_err(|_| ClusterError::JournalDied)??;
        let state = journal.writer().send(Describe).await;
        let JournalState { epoch, head, settings, .. } =
            state.map_err(|_| ClusterError::JournalDied)?;
        let log = Log {
            epoch,
            head,
            state: State::new(settings),
            durability,
            follow: publisher.clone().recipient(),
            append: publisher.clone().recipient(),
            probe: publisher.recipient(),
            nodes: Some(nodes),
            ..journal.log()
        };
        Ok(Self { log, bye, _thread: thread })
    }

    /// Tells the other nodes that this one stops, and ends.
    pub async fn close(self) {
        // The thread may have ended before.
        let _ = self.bye.send(SayBye).await;
    }

    /// Returns the log to start a hub with.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.clone()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Returns the size of messages that NATS must accept, in bytes: those with a record, and those
/// with a part of a copy.
fn payload_needed(config: &Config) -> usize {
    2 * config.max_message_bytes + 512 * 1024
}

/// Returns the next item of a stream.
async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|task| Pin::new(&mut *stream).poll_next(task)).await
}
