//! The heartbeat: pings the client, and closes the connection if it is silent for too long.

use std::sync::LazyLock;
use std::time::Duration;

use actix::prelude::*;
use actix_web_actors::ws::WebsocketContext;
use tokio::time::Instant;

use super::Session;
use crate::domain::ClientId;
use crate::protocol::DisconnectReason;

impl Session {
    pub(super) fn start_heartbeat(&mut self, ctx: &mut WebsocketContext<Self>) {
        let interval = self.config.ping_interval;
        let first = first_heartbeat(self.params.client, interval);
        ctx.run_interval_at(first, interval, Self::heartbeat);
    }

    fn heartbeat(&mut self, ctx: &mut WebsocketContext<Self>) {
        if self.socket.is_ending() {
            return;
        }
        if self.socket.is_silent(self.config.pong_timeout) {
            self.close(DisconnectReason::NoPong, ctx);
        } else {
            self.socket.ping();
        }
    }
}

/// Returns the time of a client's first ping. Clients that connect together are not pinged
/// together, since that would occupy the worker. They are pinged in groups, since waking the worker
/// costs more than a ping: 100 groups per interval, by a clock that all sessions share.
fn first_heartbeat(client: ClientId, interval: Duration) -> Instant {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    let due = EPOCH.elapsed() + client.part_of(interval);
    let group_nanos = (interval / 100).as_nanos().max(1);
    let late = group_nanos - due.as_nanos() % group_nanos;
    *EPOCH + due + Duration::from_nanos(u64::try_from(late).unwrap_or_default())
}
