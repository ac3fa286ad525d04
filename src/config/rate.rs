//! A rate limit.

use std::num::NonZeroU32;

/// A rate limit with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The number of events per second.
    pub per_second: NonZeroU32,
    /// The number of events that are allowed at once after a pause.
    pub burst: NonZeroU32,
}
