//! What happens, counted for those who run the server. Whoever sees it happen counts it here;
//! `/metrics` tells it in the format of Prometheus, with what the hub holds at that moment. Without
//! the feature `metrics` nothing is counted, and it costs nothing.

#[cfg(feature = "metrics")]
mod counters;
#[cfg(not(feature = "metrics"))]
mod nothing;
#[cfg(feature = "metrics")]
mod process;

use std::fmt;

use strum::{IntoStaticStr, VariantArray};

#[cfg(feature = "metrics")]
pub use counters::Metrics;
#[cfg(not(feature = "metrics"))]
pub use nothing::Metrics;

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

/// A limit that somebody has reached, by the flag that sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Limit {
    /// WebSockets at once.
    MaxConnections,
    /// The same from one address.
    MaxConnectionsPerAddress,
    /// Attempts to connect from one address.
    ConnectRate,
    /// Messages of one person.
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
    /// Rooms that one connection is in.
    MaxRoomsPerClient,
    /// Rooms where somebody is.
    MaxRooms,
    /// Rooms that clients at one address have opened.
    MaxRoomsPerAddress,
    /// Connections in one room.
    MaxMembersPerRoom,
    /// The size of the history file.
    MaxDbBytes,
}

impl Limit {
    /// Every limit, in the order in which they are declared.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The limit as the label of a metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
    }
}

/// How a handshake has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Handshake {
    /// With a WebSocket.
    Upgraded,
    /// At a limit.
    Limited,
    /// The host or the origin is none that may connect.
    Forbidden,
    /// Somebody else goes by the name.
    NameTaken,
    /// What is asked for does not exist.
    Malformed,
    /// The hub has died.
    NoHub,
}

impl Handshake {
    /// Every end, in the order in which they are declared.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The end as the label of a metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
    }
}

/// What has become of a message that the hub accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// It is kept, and everyone in the room told.
    Kept,
    /// It had been said before.
    Duplicate,
    /// The log could not keep it, and its sender was told.
    Failed,
}

impl Outcome {
    /// Every outcome, in the order in which they are declared.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The outcome as the label of a metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
    }
}
