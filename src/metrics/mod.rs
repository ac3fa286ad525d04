//! Counters of what happens, and what the hub holds, for operators. The code that sees an event
//! counts it. `/metrics` shows the counters in the format of Prometheus. Without the feature
//! `metrics` nothing is counted.

#[cfg(feature = "metrics")]
mod counters;
#[cfg(not(feature = "metrics"))]
mod disabled;
#[cfg(feature = "metrics")]
mod process;
#[cfg(all(feature = "metrics", feature = "cluster"))]
mod shared_log;

use std::collections::HashMap;
use std::fmt;

use strum::{IntoStaticStr, VariantArray};

use crate::domain::Durability;
use crate::protocol::DisconnectReason;
#[cfg(feature = "metrics")]
pub use counters::Metrics;
#[cfg(not(feature = "metrics"))]
pub use disabled::Metrics;

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

/// What a hub holds and has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Connections.
    pub clients: usize,
    /// Identities of these connections.
    pub users: usize,
    /// Rooms with members, or with messages that are not committed yet.
    pub rooms: usize,
    /// Rooms that wait for the log.
    pub waiting_rooms: usize,
    /// Text that was accepted and is not sent to the log yet, in bytes.
    pub pending_bytes: usize,
    /// What is delivered to all sessions and not written yet, in bytes.
    pub send_queue_bytes: usize,
    /// The largest part of `send_queue_bytes` that belongs to one session.
    pub fullest_queue_bytes: usize,
    /// Recent messages in memory, in bytes.
    pub ring_bytes: usize,
    /// What committed messages survive.
    pub durability: Durability,
    /// Connections that have ended, by reason.
    pub disconnects: HashMap<DisconnectReason, u64>,
}

/// A limit that a client has reached, named by its setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Limit {
    /// WebSockets.
    MaxConnections,
    /// WebSockets from one address.
    MaxConnectionsPerAddress,
    /// Handshakes from one address.
    ConnectRate,
    /// Messages of one identity.
    PublishRate,
    /// Messages from one address.
    PublishRatePerAddress,
    /// Bytes of messages from one address in an hour.
    PublishBytesPerHourPerAddress,
    /// Bytes of messages from one address in a day.
    PublishBytesPerDayPerAddress,
    /// Commands of one connection.
    CommandRate,
    /// Commands from one address.
    CommandRatePerAddress,
    /// Rooms of one connection.
    MaxRoomsPerClient,
    /// Open rooms.
    MaxRooms,
    /// Open rooms that clients at one address have opened.
    MaxRoomsPerAddress,
    /// Connections in one room.
    MaxMembersPerRoom,
    /// The size of the history file.
    MaxDbBytes,
}

/// The result of a WebSocket handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Handshake {
    /// The connection is a WebSocket.
    Upgraded,
    /// A limit was reached.
    Limited,
    /// The host or the origin is not allowed.
    Forbidden,
    /// Another user has the name.
    NameTaken,
    /// The request is invalid.
    Malformed,
    /// The hub has stopped.
    NoHub,
}

/// The outcome of a message or change that the hub accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Outcome {
    /// It is committed and delivered.
    Kept,
    /// It had been committed before.
    Duplicate,
    /// The log's rules did not permit it, and its author received an error.
    Refused,
    /// The log could not commit it, and its author was told.
    Failed,
}

/// What happens to the log that nodes share.
#[cfg(feature = "cluster")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogEvent {
    /// A record was published again.
    Republished,
    /// A record was skipped, because it is a repetition or came too late.
    Skipped,
    /// Reading began again.
    Reset,
    /// The log has lost records.
    Fork,
    /// The journals of two nodes differ.
    Divergence,
}
