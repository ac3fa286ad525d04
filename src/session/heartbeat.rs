//! When the heartbeats of many sessions beat.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ClientId;

/// When a client is pinged first. Those who come together are not pinged together, since that
/// would keep the worker from all else, but in groups, since waking it for each costs more than
/// the ping does: 100 groups to an interval, by a clock that all sessions share.
pub(super) fn first_heartbeat(client: ClientId, interval: Duration) -> Instant {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    let due = EPOCH.elapsed() + client.part_of(interval);
    let group_nanos = (interval / 100).as_nanos().max(1);
    let late = group_nanos - due.as_nanos() % group_nanos;
    *EPOCH + due + Duration::from_nanos(u64::try_from(late).unwrap_or_default())
}
