//! How much may be said and asked: by one, and from one address.

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

/// Counts what one does, by a clock.
#[derive(Debug)]
pub(super) struct OneLimiter<C: Clock = DefaultClock> {
    one: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    burst: NonZeroU32,
    clock: C,
}

impl<C: Clock + Clone> OneLimiter<C> {
    pub(super) fn new(rate: Rate, clock: &C) -> Self {
        let one = RateLimiter::direct_with_clock(quota(rate), clock.clone());
        Self { one, burst: rate.burst, clock: clock.clone() }
    }

    /// Counts what counts as several, unless that is too many: then says how long to wait. What
    /// costs more than a burst costs a whole burst.
    pub(super) fn count(&self, cost: NonZeroU32) -> Result<(), Duration> {
        in_time(self.one.check_n(cost.min(self.burst)), &self.clock)
    }
}

fn quota(rate: Rate) -> Quota {
    Quota::per_second(rate.per_second).allow_burst(rate.burst)
}

type Checked<C> = Result<Result<(), NotUntil<<C as Clock>::Instant>>, InsufficientCapacity>;

/// Says how long to wait, if something is too early.
fn in_time<C: Clock>(checked: Checked<C>, clock: &C) -> Result<(), Duration> {
    let checked = checked.expect("the cost is no more than the burst");
    checked.map_err(|early| early.wait_time_from(clock.now()))
}

/// Counts what each of many does, by a clock.
#[derive(Debug)]
pub(super) struct Limiter<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    by_key: RateLimiter<K, DefaultKeyedStateStore<K>, C, NoOpMiddleware<C::Instant>>,
    burst: NonZeroU32,
    counted: AtomicUsize,
    clock: C,
}

/// After how many counts those are forgotten who have been quiet since.
const REMEMBERED: usize = 4096;

impl<K: Hash + Eq + Clone, C: Clock + Clone> Limiter<K, C> {
    pub(super) fn new(rate: Rate, clock: &C) -> Self {
        Self::with_quota(quota(rate), clock)
    }

    fn with_quota(quota: Quota, clock: &C) -> Self {
        let burst = quota.burst_size();
        let by_key = RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock.clone());
        Self { by_key, burst, counted: AtomicUsize::new(0), clock: clock.clone() }
    }

    /// Counts what counts as several, unless that is too many: then says how long to wait. What
    /// costs more than a burst costs a whole burst.
    pub(super) fn count(&self, key: &K, cost: NonZeroU32) -> Result<(), Duration> {
        if self.counted.fetch_add(1, Ordering::Relaxed) % REMEMBERED == REMEMBERED - 1 {
            self.by_key.retain_recent();
            self.by_key.shrink_to_fit();
        }
        in_time(self.by_key.check_key_n(key, cost.min(self.burst)), &self.clock)
    }
}

/// The rates of a server, by who it is and by the address that it comes from.
#[derive(Debug)]
pub(super) struct Rates<C: Clock = DefaultClock> {
    clock: C,
    /// What one connection may say and ask, whoever it says it is.
    publish_rate: Option<Rate>,
    command_rate: Option<Rate>,
    pub(super) messages: Option<Limiter<Identity, C>>,
    pub(super) messages_from_address: Option<Limiter<SourceAddress, C>>,
    /// Bytes of text from one address, in an hour and in a day: what fills the disk.
    pub(super) bytes_per_hour: Option<Limiter<SourceAddress, C>>,
    pub(super) bytes_per_day: Option<Limiter<SourceAddress, C>>,
    pub(super) commands_from_address: Option<Limiter<SourceAddress, C>>,
}

/// The rates of one connection.
#[derive(Debug)]
pub(super) struct OwnRates<C: Clock = DefaultClock> {
    pub(super) messages: Option<OneLimiter<C>>,
    pub(super) commands: Option<OneLimiter<C>>,
}

impl<C: Clock + Clone> Rates<C> {
    pub(super) fn of(config: &Config, clock: &C) -> Self {
        let per_hour = config.publish_bytes_per_hour_per_address.map(Quota::per_hour);
        let per_day = config.publish_bytes_per_day_per_address.and_then(per_day);
        let limiter = |rate: Option<Rate>| rate.map(|rate| Limiter::new(rate, clock));
        Self {
            clock: clock.clone(),
            publish_rate: config.publish_rate,
            command_rate: config.command_rate,
            messages: config.publish_rate.map(|rate| Limiter::new(rate, clock)),
            messages_from_address: limiter(config.publish_rate_per_address),
            bytes_per_hour: per_hour.map(|quota| Limiter::with_quota(quota, clock)),
            bytes_per_day: per_day.map(|quota| Limiter::with_quota(quota, clock)),
            commands_from_address: limiter(config.command_rate_per_address),
        }
    }

    /// Those of a new connection.
    pub(super) fn of_one(&self) -> OwnRates<C> {
        let limiter = |rate: Option<Rate>| rate.map(|rate| OneLimiter::new(rate, &self.clock));
        OwnRates { messages: limiter(self.publish_rate), commands: limiter(self.command_rate) }
    }
}

/// So many at once, and as many again in a day.
fn per_day(most: NonZeroU32) -> Option<Quota> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    Some(Quota::with_period(DAY / most.get())?.allow_burst(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    #[test]
    fn those_who_have_been_quiet_are_forgotten() {
        let one = NonZeroU32::MIN;
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::new(Rate { per_second: one, burst: one }, &clock);
        for n in 1..REMEMBERED {
            assert_eq!(limiter.count(&n, one), Ok(()));
        }
        clock.advance(Duration::from_secs(2));
        assert_eq!(limiter.count(&0, one), Ok(()));
        assert_eq!(limiter.by_key.len(), 1);
    }
}
