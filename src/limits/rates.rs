//! The rates of messages and commands of an identity, a connection and an address. Wraps the rate
//! limiters of `governor`. The permit of a connection counts against them.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{InsufficientCapacity, NotUntil, Quota, RateLimiter};

use super::connections::SourceAddress;
use crate::config::{Config, Rate};
use crate::domain::Identity;

/// A rate limiter for a single source.
#[derive(Debug)]
pub(super) struct DirectLimiter<C: Clock = DefaultClock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    burst: NonZeroU32,
    clock: C,
}

impl<C: Clock + Clone> DirectLimiter<C> {
    pub(super) fn new(rate: Rate, clock: &C) -> Self {
        let limiter = RateLimiter::direct_with_clock(quota(rate), clock.clone());
        Self { limiter, burst: rate.burst, clock: clock.clone() }
    }

    /// Counts an action with this cost. A cost above the burst counts as the burst.
    ///
    /// # Errors
    /// Returns how long the action must wait if it exceeds the rate. It does not count then.
    pub(super) fn count(&self, cost: NonZeroU32) -> Result<(), Duration> {
        wait_time(self.limiter.check_n(cost.min(self.burst)), &self.clock)
    }
}

fn quota(rate: Rate) -> Quota {
    Quota::per_second(rate.per_second).allow_burst(rate.burst)
}

type Checked<C> = Result<Result<(), NotUntil<<C as Clock>::Instant>>, InsufficientCapacity>;

/// Converts the outcome of a check. The error is the time to wait.
fn wait_time<C: Clock>(checked: Checked<C>, clock: &C) -> Result<(), Duration> {
    let checked = checked.expect("the cost is at most the burst");
    checked.map_err(|not_until| not_until.wait_time_from(clock.now()))
}

/// A rate limiter for each of many keys.
#[derive(Debug)]
pub(super) struct KeyedLimiter<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    limiter: RateLimiter<K, DefaultKeyedStateStore<K>, C, NoOpMiddleware<C::Instant>>,
    burst: NonZeroU32,
    /// The number of counts so far, for the next cleanup.
    count: AtomicUsize,
    clock: C,
}

/// The number of counts after which a limiter forgets keys whose burst is available again.
const CLEANUP_INTERVAL: usize = 4096;

impl<K: Hash + Eq + Clone, C: Clock + Clone> KeyedLimiter<K, C> {
    pub(super) fn new(rate: Rate, clock: &C) -> Self {
        Self::with_quota(quota(rate), clock)
    }

    fn with_quota(quota: Quota, clock: &C) -> Self {
        let burst = quota.burst_size();
        let limiter = RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock.clone());
        Self { limiter, burst, count: AtomicUsize::new(0), clock: clock.clone() }
    }

    /// Counts an action of this key. See [`DirectLimiter::count`].
    pub(super) fn count(&self, key: &K, cost: NonZeroU32) -> Result<(), Duration> {
        if self.count.fetch_add(1, Ordering::Relaxed) % CLEANUP_INTERVAL == CLEANUP_INTERVAL - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        wait_time(self.limiter.check_key_n(key, cost.min(self.burst)), &self.clock)
    }
}

/// The rates of a server: its limiters for identities and addresses, and the rates of a connection.
#[derive(Debug)]
pub(super) struct Rates<C: Clock = DefaultClock> {
    clock: C,
    /// The rate of messages of one connection, whatever its identity.
    publish_rate: Option<Rate>,
    /// The rate of commands of one connection.
    command_rate: Option<Rate>,
    pub(super) messages: Option<KeyedLimiter<Identity, C>>,
    pub(super) messages_from_address: Option<KeyedLimiter<SourceAddress, C>>,
    /// Limits bytes of text, since texts fill the disk.
    pub(super) bytes_per_hour: Option<KeyedLimiter<SourceAddress, C>>,
    pub(super) bytes_per_day: Option<KeyedLimiter<SourceAddress, C>>,
    pub(super) commands_from_address: Option<KeyedLimiter<SourceAddress, C>>,
}

/// The limiters of one connection.
#[derive(Debug)]
pub(super) struct ConnectionRates<C: Clock = DefaultClock> {
    pub(super) messages: Option<DirectLimiter<C>>,
    pub(super) commands: Option<DirectLimiter<C>>,
}

impl<C: Clock + Clone> Rates<C> {
    pub(super) fn of(config: &Config, clock: &C) -> Self {
        let per_hour = config.publish_bytes_per_hour_per_address.map(Quota::per_hour);
        let per_day = config.publish_bytes_per_day_per_address.and_then(per_day);
        let limiter = |rate: Option<Rate>| rate.map(|rate| KeyedLimiter::new(rate, clock));
        Self {
            clock: clock.clone(),
            publish_rate: config.publish_rate,
            command_rate: config.command_rate,
            messages: config.publish_rate.map(|rate| KeyedLimiter::new(rate, clock)),
            messages_from_address: limiter(config.publish_rate_per_address),
            bytes_per_hour: per_hour.map(|quota| KeyedLimiter::with_quota(quota, clock)),
            bytes_per_day: per_day.map(|quota| KeyedLimiter::with_quota(quota, clock)),
            commands_from_address: limiter(config.command_rate_per_address),
        }
    }

    /// Creates the limiters of a connection.
    pub(super) fn for_connection(&self) -> ConnectionRates<C> {
        let limiter = |rate: Option<Rate>| rate.map(|rate| DirectLimiter::new(rate, &self.clock));
        ConnectionRates {
            messages: limiter(self.publish_rate),
            commands: limiter(self.command_rate),
        }
    }
}

/// Returns a quota with a burst that becomes available again in a day.
fn per_day(most: NonZeroU32) -> Option<Quota> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    Some(Quota::with_period(DAY / most.get())?.allow_burst(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    #[test]
    fn keys_whose_burst_is_available_are_forgotten() {
        let one = NonZeroU32::MIN;
        let clock = FakeRelativeClock::default();
        let limiter = KeyedLimiter::new(Rate { per_second: one, burst: one }, &clock);
        for n in 1..CLEANUP_INTERVAL {
            assert_eq!(limiter.count(&n, one), Ok(()));
        }
        clock.advance(Duration::from_secs(2));
        assert_eq!(limiter.count(&0, one), Ok(()));
        assert_eq!(limiter.limiter.len(), 1);
    }
}
