//! When something was said: the machine's clock, as far as it can be believed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::warn;
use serde::Serialize;

/// Milliseconds since 1970. Within one process time never runs backwards, and it does not follow
/// the machine's clock when that jumps: see [`Timestamp::now`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time now. When the machine's clock is set by more than a minute, time goes on at its
    /// pace from before. A clock that was set ahead is believed after an hour; one that was set
    /// back is believed when the server is started again.
    #[must_use]
    pub fn now() -> Self {
        static CLOCK: Mutex<Clock> = Mutex::new(Clock::new());
        let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let was_believed = clock.is_believed;
        let now = clock.read(wall(), steady());
        if was_believed && !clock.is_believed {
            warn!(
                "the system clock was set by more than a minute; messages are dated as if it had \
                 not been. If it is right, restart the server"
            );
        }
        now
    }

    /// So many milliseconds since 1970.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The milliseconds since 1970.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The time that lies so long before this one.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }
}

/// How far the machine's clock may go from a steady one between two readings.
const STEP_MAX: Duration = Duration::from_secs(60);

/// How long a clock must have been ahead to be believed.
const PROBATION: Duration = Duration::from_secs(60 * 60);

/// The machine's clock, checked against a steady one that nobody can set.
struct Clock {
    /// The last reading that was believed, by both clocks; none before the first.
    believed: Option<(Timestamp, Duration)>,
    is_believed: bool,
    /// Since when the machine's clock has been ahead, by the steady one.
    ahead_since: Option<Duration>,
    last: Timestamp,
}

impl Clock {
    const fn new() -> Self {
        Self { believed: None, is_believed: true, ahead_since: None, last: Timestamp(0) }
    }

    /// The time when the two clocks read so.
    fn read(&mut self, wall: Timestamp, steady: Duration) -> Timestamp {
        let (from, at) = *self.believed.get_or_insert((wall, steady));
        let expected = Timestamp(from.0.saturating_add(millis(steady.saturating_sub(at))));
        let is_ahead = wall.minus(STEP_MAX) > expected;
        let is_behind = expected.minus(STEP_MAX) > wall;
        self.ahead_since = is_ahead.then(|| self.ahead_since.unwrap_or(steady));
        let is_proven = self.ahead_since.is_some_and(|since| steady - since >= PROBATION);
        self.is_believed = is_proven || !(is_ahead || is_behind);
        let now = if self.is_believed {
            self.believed = Some((wall, steady));
            self.ahead_since = None;
            wall
        } else {
            expected
        };
        self.last = self.last.max(now);
        self.last
    }
}

fn wall() -> Timestamp {
    Timestamp(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
}

/// A clock that nobody can set and that goes on while the machine is suspended.
#[cfg(target_os = "linux")]
fn steady() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// A clock that nobody can set.
#[cfg(not(target_os = "linux"))]
fn steady() -> Duration {
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

    /// What is read when the machine's clock and the steady one read so, in seconds.
    fn read(clock: &mut Clock, wall: u64, steady: u64) -> u64 {
        clock.read(Timestamp(wall * 1000), Duration::from_secs(steady)).0 / 1000
    }

    #[test]
    fn a_clock_that_is_adjusted_is_followed_but_never_backwards() {
        let mut clock = Clock::new();
        assert_eq!(read(&mut clock, DAY, 5), DAY);
        assert_eq!(read(&mut clock, DAY + 100, 105), DAY + 100);
        // Ahead by half a minute, then back by as much.
        assert_eq!(read(&mut clock, DAY + 140, 115), DAY + 140);
        assert_eq!(read(&mut clock, DAY + 120, 120), DAY + 140);
        assert_eq!(read(&mut clock, DAY + 141, 141), DAY + 141);
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_believed_after_an_hour() {
        let mut clock = Clock::new();
        assert_eq!(read(&mut clock, DAY, 0), DAY);
        assert_eq!(read(&mut clock, 366 * DAY, 10), DAY + 10);
        assert!(!clock.is_believed);
        // Set right again, and then ahead once more: the hour begins anew.
        assert_eq!(read(&mut clock, DAY + 3500, 3500), DAY + 3500);
        assert_eq!(read(&mut clock, 366 * DAY + 3600, 3600), DAY + 3600);
        assert_eq!(read(&mut clock, 366 * DAY + 7199, 7199), DAY + 7199);
        assert_eq!(read(&mut clock, 366 * DAY + 7200, 7200), 366 * DAY + 7200);
        assert!(clock.is_believed);
    }

    #[test]
    fn a_clock_that_is_set_back_is_not_followed() {
        let mut clock = Clock::new();
        assert_eq!(read(&mut clock, 366 * DAY, 0), 366 * DAY);
        for hours in 1..100 {
            let steady = hours * 3600;
            assert_eq!(read(&mut clock, DAY + steady, steady), 366 * DAY + steady);
        }
    }
}
