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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub const ALL: [Self; 14] = [
        Self::MaxConnections,
        Self::MaxConnectionsPerAddress,
        Self::ConnectRate,
        Self::PublishRate,
        Self::PublishRatePerAddress,
        Self::PublishBytesPerHourPerAddress,
        Self::PublishBytesPerDayPerAddress,
        Self::CommandRate,
        Self::CommandRatePerAddress,
        Self::MaxRoomsPerClient,
        Self::MaxRooms,
        Self::MaxRoomsPerAddress,
        Self::MaxMembersPerRoom,
        Self::MaxDbBytes,
    ];

    /// The limit as the label of a metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::MaxConnections => "max_connections",
            Self::MaxConnectionsPerAddress => "max_connections_per_address",
            Self::ConnectRate => "connect_rate",
            Self::PublishRate => "publish_rate",
            Self::PublishRatePerAddress => "publish_rate_per_address",
            Self::PublishBytesPerHourPerAddress => "publish_bytes_per_hour_per_address",
            Self::PublishBytesPerDayPerAddress => "publish_bytes_per_day_per_address",
            Self::CommandRate => "command_rate",
            Self::CommandRatePerAddress => "command_rate_per_address",
            Self::MaxRoomsPerClient => "max_rooms_per_client",
            Self::MaxRooms => "max_rooms",
            Self::MaxRoomsPerAddress => "max_rooms_per_address",
            Self::MaxMembersPerRoom => "max_members_per_room",
            Self::MaxDbBytes => "max_db_bytes",
        }
    }
}

/// How a handshake has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub const ALL: [Self; 6] = [
        Self::Upgraded,
        Self::Limited,
        Self::Forbidden,
        Self::NameTaken,
        Self::Malformed,
        Self::NoHub,
    ];

    /// The end as the label of a metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Upgraded => "upgraded",
            Self::Limited => "limited",
            Self::Forbidden => "forbidden",
            Self::NameTaken => "name_taken",
            Self::Malformed => "malformed",
            Self::NoHub => "no_hub",
        }
    }
}

/// What has become of a message that the hub accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub const ALL: [Self; 3] = [Self::Kept, Self::Duplicate, Self::Failed];

    /// The outcome as the label of a metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Duplicate => "duplicate",
            Self::Failed => "failed",
        }
    }
}
