//! Positions in the log.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::random;

/// The sequence number of a message. The log assigns it. One sequence serves all rooms, so the
/// numbers of a room increase, but not always by one. 0 is before the first message.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize,
)]
#[serde(transparent)]
pub struct Seq(u64);

impl Seq {
    /// The greatest number that every client can read: JavaScript represents integers up to
    /// 2^53 - 1 exactly.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// Returns the sequence number with this value.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the next sequence number.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Identifies a log. Sequence numbers of two epochs cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Returns the epoch of a new log: 16 random hexadecimal digits.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:016x}", random()).into())
    }

    /// Returns the epoch with this text. Any text is valid, since epochs are only compared.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(text.into())
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A position up to which a client has received everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log.
    pub epoch: Epoch,
    /// The sequence number of the last message that the client has received.
    pub seq: Seq,
}
