//! The time of messages. It follows the system clock, ignores jumps of more than a minute, and
//! never runs backwards.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::warn;
use serde::Serialize;

/// A time in milliseconds since 1970 (UTC). Within one process [`Timestamp::now`] never runs
/// backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Returns the current time. A forward change of the system clock by more than a minute is
    /// ignored for an hour. A backward change is ignored until the process restarts or the clock
    /// agrees again.
    #[must_use]
    pub fn now() -> Self {
        static CLOCK: Mutex<Clock> = Mutex::new(Clock::new());
        let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let was_trusted = clock.is_trusted;
        let now = clock.read(system_time(), monotonic_time());
        if was_trusted && !clock.is_trusted {
            warn!(
                "the system clock was changed by more than a minute; the times of messages ignore \
                 the change. If the new time is correct, restart the server"
            );
        }
        now
    }

    /// Returns the time with this number of milliseconds since 1970.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since 1970.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Returns the time that is earlier by a duration, but not before 1970.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// Returns the duration since an earlier time. It is zero if the other time is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The maximum difference between the system clock and the monotonic clock since the last trusted
/// reading.
const DRIFT_MAX: Duration = Duration::from_secs(60);

/// How long the system clock must be ahead until it is trusted again.
const TRUST_DELAY: Duration = Duration::from_secs(60 * 60);

/// The system clock, checked against the monotonic clock.
struct Clock {
    /// The last trusted reading of the system clock and the monotonic clock.
    trusted: Option<(Timestamp, Duration)>,
    is_trusted: bool,
    /// The monotonic time since which the system clock has been ahead.
    ahead_since: Option<Duration>,
    /// The last time that was returned.
    last: Timestamp,
}

impl Clock {
    const fn new() -> Self {
        Self { trusted: None, is_trusted: true, ahead_since: None, last: Timestamp(0) }
    }

    /// Returns the time for a reading of the system clock and the monotonic clock.
    fn read(&mut self, system: Timestamp, monotonic: Duration) -> Timestamp {
        let (from, at) = *self.trusted.get_or_insert((system, monotonic));
        let expected = Timestamp(from.0.saturating_add(millis(monotonic.saturating_sub(at))));
        let is_ahead = system.minus(DRIFT_MAX) > expected;
        let is_behind = expected.minus(DRIFT_MAX) > system;
        self.ahead_since = is_ahead.then(|| self.ahead_since.unwrap_or(monotonic));
        let is_delay_over = self.ahead_since.is_some_and(|since| monotonic - since >= TRUST_DELAY);
        self.is_trusted = is_delay_over || !(is_ahead || is_behind);
        let now = if self.is_trusted {
            self.trusted = Some((system, monotonic));
            self.ahead_since = None;
            system
        } else {
            expected
        };
        self.last = self.last.max(now);
        self.last
    }
}

/// Returns the time of the system clock.
fn system_time() -> Timestamp {
    Timestamp(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
}

/// Returns the time of a monotonic clock that also runs while the machine is suspended.
#[cfg(target_os = "linux")]
fn monotonic_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// Returns the time of a monotonic clock.
#[cfg(not(target_os = "linux"))]
fn monotonic_time() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    /// Reads a clock whose system clock and monotonic clock have these times, in seconds.
    fn read(clock: &mut Clock, system: u64, monotonic: u64) -> u64 {
        clock.read(Timestamp(system * 1000), Duration::from_secs(monotonic)).0 / 1000
    }

    #[test]
    fn small_adjustments_are_followed_but_never_backwards() {
        let mut clock = Clock::new();
        assert_eq!(read(&mut clock, DAY, 5), DAY);
        assert_eq!(read(&mut clock, DAY + 100, 105), DAY + 100);
        // The system clock is set forward by half a minute, then back again.
        assert_eq!(read(&mut clock, DAY + 140, 115), DAY + 140);
        assert_eq!(read(&mut clock, DAY + 120, 120), DAY + 140);
        assert_eq!(read(&mut clock, DAY + 141, 141), DAY + 141);
    }

    #[test]
    fn clock_that_jumps_ahead_is_trusted_after_an_hour() {
        let mut clock = Clock::new();
        assert_eq!(read(&mut clock, DAY, 0), DAY);
        assert_eq!(read(&mut clock, 366 * DAY, 10), DAY + 10);
        assert!(!clock.is_trusted);
        // The clock is corrected and then set ahead again, which restarts the hour.
        assert_eq!(read(&mut clock, DAY + 3500, 3500), DAY + 3500);
        assert_eq!(read(&mut clock, 366 * DAY + 3600, 3600), DAY + 3600);
        assert_eq!(read(&mut clock, 366 * DAY + 7199, 7199), DAY + 7199);
        assert_eq!(read(&mut clock, 366 * DAY + 7200, 7200), 366 * DAY + 7200);
        assert!(clock.is_trusted);
    }

    #[test]
    fn clock_that_is_set_back_is_ignored() {
        let mut clock = Clock::new();
        assert_eq!(read(&mut clock, 366 * DAY, 0), 366 * DAY);
        for hours in 1..100 {
            let elapsed = hours * 3600;
            assert_eq!(read(&mut clock, DAY + elapsed, elapsed), 366 * DAY + elapsed);
        }
    }
}
