//! The id of a connection.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Identifies one connection. Ids are unique within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub(super) u64);

impl ClientId {
    /// Returns an id that no other client of this process has or had.
    #[must_use]
    pub fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Returns a fraction of an interval, from zero up to, but excluding, the interval. The
    /// fractions of consecutive clients are spread evenly (golden ratio, as in Fibonacci hashing).
    #[must_use]
    pub fn part_of(self, interval: Duration) -> Duration {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        // The upper 32 of the 64 bits are precise enough.
        let fraction = self.0.wrapping_mul(GOLDEN) >> 32;
        interval.mul_f64(fraction as f64 / (f64::from(u32::MAX) + 1.0))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
