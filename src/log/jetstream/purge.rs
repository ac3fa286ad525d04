//! Purging: deletes the records of the stream that all running nodes have applied. The history
//! files have their messages. Until then, the stream also has the texts that were deleted or edited
//! since.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::time::{sleep, timeout_at};

use super::link::{Link, StreamState};
use super::{ClusterError, gossip, next};
use crate::config::Cluster;
use crate::log::nodes::NodeId;

/// How long the nodes are listened to. Each shows every second that it runs.
const LISTEN_FOR: Duration = Duration::from_millis(3500);

/// How long NATS may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// The number of deleted records.
    pub records: u64,
    /// The first record that the stream has now.
    pub first: u64,
    /// The names of the running nodes, with the last record that each has applied.
    pub nodes: Vec<(String, u64)>,
}

/// Why nothing was deleted.
#[derive(Debug, Error)]
pub enum PurgeError {
    /// The settings cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// NATS does not answer, or refuses.
    #[error("cannot use the stream in NATS: {0}")]
    Nats(String),
    /// The stream does not exist, or is empty.
    #[error("the stream does not exist or has no records")]
    NoStream,
    /// No node was heard of, so it is not known which records are still needed.
    #[error("no node of this stream is running; start all nodes first")]
    NoNodes,
}

/// Deletes the records that all running nodes have applied, except the last one of the slowest
/// node. A node that is not running now will copy the history file of another one when it starts.
///
/// # Errors
/// If NATS does not answer, or no node is running.
pub async fn purge(cluster: &Cluster) -> Result<Purged, PurgeError> {
    let link = Link::connect(cluster).await?;
    let StreamState { first, .. } = stream(&link).await?;
    let nodes = listen(&link).await?;
    let keep = nodes.values().map(|(_, position)| *position).min().ok_or(PurgeError::NoNodes)?;
    if keep > first {
        link.delete_before(keep).await.map_err(PurgeError::Nats)?;
    }
    Ok(Purged {
        records: keep.saturating_sub(first),
        first: keep.max(first),
        nodes: nodes.into_values().collect(),
    })
}

/// Returns the state of the stream. Waits for the connection.
async fn stream(link: &Link) -> Result<StreamState, PurgeError> {
    let began = Instant::now();
    loop {
        match link.state().await {
            Ok(state) => {
                return state.filter(|state| state.last > 0).ok_or(PurgeError::NoStream);
            }
            Err(reason) if began.elapsed() >= PATIENCE => return Err(PurgeError::Nats(reason)),
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Returns the running nodes: their names, and the last record that each has applied.
async fn listen(link: &Link) -> Result<BTreeMap<NodeId, (String, u64)>, PurgeError> {
    let mut packets = link.packets().await.map_err(PurgeError::Nats)?;
    let end = tokio::time::Instant::now() + LISTEN_FOR;
    let mut nodes = BTreeMap::new();
    while let Ok(Some(message)) = timeout_at(end, next(&mut packets)).await {
        match gossip::sign_of_life(&message) {
            Some(gossip::SignOfLife::Runs { node, name, position }) => {
                nodes.insert(node, (name, position));
            }
            Some(gossip::SignOfLife::Stopped(node)) => {
                nodes.remove(&node);
            }
            None => {}
        }
    }
    Ok(nodes)
}
