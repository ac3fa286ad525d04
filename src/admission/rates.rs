//! How much may be said and asked: by one, and from one address.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

use super::places::Source;
use crate::config::Config;
use crate::domain::{ClientId, Identity};

/// So many a second, and so many at once after a while of silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many a second.
    pub per_second: NonZeroU32,
    /// So many at once.
    pub burst: NonZeroU32,
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
    pub(super) fn new(Rate { per_second, burst }: Rate, clock: &C) -> Self {
        Self::with_quota(Quota::per_second(per_second).allow_burst(burst), clock)
    }

    fn with_quota(quota: Quota, clock: &C) -> Self {
        let burst = quota.burst_size();
        let by_key = RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock.clone());
        Self { by_key, burst, counted: AtomicUsize::new(0), clock: clock.clone() }
    }

    /// Counts one, unless that is too many: then says how long to wait.
    pub(super) fn count(&self, key: &K) -> Result<(), Duration> {
        self.count_many(key, NonZeroU32::MIN)
    }

    /// The same for what counts as several. What costs more than a burst costs a whole burst.
    pub(super) fn count_many(&self, key: &K, cost: NonZeroU32) -> Result<(), Duration> {
        if self.counted.fetch_add(1, Ordering::Relaxed) % REMEMBERED == REMEMBERED - 1 {
            self.by_key.retain_recent();
            self.by_key.shrink_to_fit();
        }
        let counted = self.by_key.check_key_n(key, cost.min(self.burst));
        let counted = counted.expect("the cost is no more than the burst");
        counted.map_err(|early| early.wait_time_from(self.clock.now()))
    }
}

/// The rates of a server: of messages by who says them, of other commands by connection.
#[derive(Debug)]
pub(super) struct Rates {
    pub(super) messages: Twofold<Identity>,
    /// Messages by connection, too: one that becomes somebody else says no more for it.
    pub(super) of_connections: Twofold<ClientId>,
    /// Bytes of text from one address, in an hour and in a day: what fills the disk.
    pub(super) bytes_per_hour: Option<Limiter<Source>>,
    pub(super) bytes_per_day: Option<Limiter<Source>>,
    pub(super) commands: Twofold<ClientId>,
}

impl Rates {
    pub(super) fn of(config: &Config) -> Self {
        let clock = &DefaultClock::default();
        Self {
            messages: Twofold::new(config.publish_rate, None, clock),
            bytes_per_hour: config
                .publish_bytes_per_hour_per_address
                .map(|most| Limiter::with_quota(Quota::per_hour(most), clock)),
            bytes_per_day: config
                .publish_bytes_per_day_per_address
                .and_then(per_day)
                .map(|quota| Limiter::with_quota(quota, clock)),
            of_connections: Twofold::new(
                config.publish_rate,
                config.publish_rate_per_address,
                clock,
            ),
            commands: Twofold::new(config.command_rate, config.command_rate_per_address, clock),
        }
    }
}

/// So many at once, and as many again in a day.
fn per_day(most: NonZeroU32) -> Option<Quota> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    Some(Quota::with_period(DAY / most.get())?.allow_burst(most))
}

/// What one may do, and what may be done from one address, by a clock.
#[derive(Debug)]
pub(super) struct Twofold<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    each: Option<Limiter<K, C>>,
    addresses: Option<Limiter<Source, C>>,
}

/// One too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMany {
    /// Of whoever it is; after so long it is not.
    ByOne(Duration),
    /// From the address, likewise.
    FromAddress(Duration),
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Twofold<K, C> {
    fn new(each: Option<Rate>, address: Option<Rate>, clock: &C) -> Self {
        Self {
            each: each.map(|rate| Limiter::new(rate, clock)),
            addresses: address.map(|rate| Limiter::new(rate, clock)),
        }
    }

    /// Counts one, unless that is too many.
    pub(super) fn count(&self, who: &K, source: Source) -> Result<(), TooMany> {
        self.count_many(who, source, NonZeroU32::MIN)
    }

    /// The same for what counts as several.
    pub(super) fn count_many(
        &self,
        who: &K,
        source: Source,
        cost: NonZeroU32,
    ) -> Result<(), TooMany> {
        // Who may not go on must not use up what is left to others at the same address.
        if let Some(each) = &self.each {
            each.count_many(who, cost).map_err(TooMany::ByOne)?;
        }
        match &self.addresses {
            Some(addresses) => addresses.count_many(&source, cost).map_err(TooMany::FromAddress),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    fn rate(per_second: u32, burst: u32) -> Option<Rate> {
        let [per_second, burst] = [per_second, burst].map(NonZeroU32::new);
        Some(Rate { per_second: per_second?, burst: burst? })
    }

    fn somebody() -> Identity {
        Identity::of_client(ClientId::next())
    }

    fn at(address: &str) -> Source {
        Source::of(address.parse().expect("an address"))
    }

    #[test]
    fn an_identity_says_a_burst_and_then_as_much_as_its_rate_wherever_it_is() {
        let clock = FakeRelativeClock::default();
        let rates = Twofold::new(rate(2, 3), None, &clock);
        let (ada, ben) = (somebody(), somebody());
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            assert_eq!(rates.count(&ada, at(address)), Ok(()));
        }
        let half = Duration::from_millis(500);
        assert_eq!(rates.count(&ada, at("192.0.2.4")), Err(TooMany::ByOne(half)));
        assert_eq!(rates.count(&ben, at("192.0.2.1")), Ok(()));
        clock.advance(half);
        assert_eq!(rates.count(&ada, at("192.0.2.1")), Ok(()));
        assert!(rates.count(&ada, at("192.0.2.1")).is_err());
    }

    #[test]
    fn an_address_says_no_more_under_however_many_names() {
        let rates = Twofold::new(rate(1, 1), rate(1, 2), &FakeRelativeClock::default());
        let ada = somebody();
        assert_eq!(rates.count(&ada, at("192.0.2.1")), Ok(()));
        for _ in 0..9 {
            assert!(rates.count(&ada, at("192.0.2.1")).is_err(), "it uses up nobody else's part");
        }
        assert_eq!(rates.count(&somebody(), at("192.0.2.1")), Ok(()));
        let too_many = rates.count(&somebody(), at("192.0.2.1"));
        assert!(matches!(too_many, Err(TooMany::FromAddress(_))), "{too_many:?}");
        assert_eq!(rates.count(&somebody(), at("192.0.2.2")), Ok(()));
    }

    #[test]
    fn those_who_have_been_quiet_are_forgotten() {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::new(rate(1, 1).expect("a rate"), &clock);
        for n in 1..REMEMBERED {
            assert_eq!(limiter.count(&n), Ok(()));
        }
        clock.advance(Duration::from_secs(2));
        assert_eq!(limiter.count(&0), Ok(()));
        assert_eq!(limiter.by_key.len(), 1);
    }
}
