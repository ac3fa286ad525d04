//! How much may be said: by one identity, and from one address.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

use super::places::Source;
use crate::domain::Identity;

/// So many messages a second, and so many at once after a while of silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Messages a second.
    pub per_second: NonZeroU32,
    /// Messages at once.
    pub burst: NonZeroU32,
}

/// Counts what each of many does, by a clock.
#[derive(Debug)]
pub(super) struct Limiter<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    by_key: RateLimiter<K, DefaultKeyedStateStore<K>, C, NoOpMiddleware<C::Instant>>,
    counted: AtomicUsize,
    clock: C,
}

/// After how many counts those are forgotten who have been quiet since.
const REMEMBERED: usize = 4096;

impl<K: Hash + Eq + Clone, C: Clock + Clone> Limiter<K, C> {
    pub(super) fn new(Rate { per_second, burst }: Rate, clock: &C) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let by_key = RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock.clone());
        Self { by_key, counted: AtomicUsize::new(0), clock: clock.clone() }
    }

    /// Counts, unless that is one too many: then says how long to wait.
    pub(super) fn count(&self, key: &K) -> Result<(), Duration> {
        if self.counted.fetch_add(1, Ordering::Relaxed) % REMEMBERED == REMEMBERED - 1 {
            self.by_key.retain_recent();
            self.by_key.shrink_to_fit();
        }
        self.by_key.check_key(key).map_err(|early| early.wait_time_from(self.clock.now()))
    }
}

/// The rates of a server, by a clock.
#[derive(Debug)]
pub struct Rates<C: Clock = DefaultClock> {
    identities: Option<Limiter<Identity, C>>,
    addresses: Option<Limiter<Source, C>>,
}

impl Rates {
    /// What one identity may say, and what may be said from one address.
    #[must_use]
    pub fn new(identity: Option<Rate>, address: Option<Rate>) -> Self {
        Self::with_clock(identity, address, &DefaultClock::default())
    }
}

impl<C: Clock + Clone> Rates<C> {
    fn with_clock(identity: Option<Rate>, address: Option<Rate>, clock: &C) -> Self {
        Self {
            identities: identity.map(|rate| Limiter::new(rate, clock)),
            addresses: address.map(|rate| Limiter::new(rate, clock)),
        }
    }

    /// Counts a message, unless it is one too many: then says how long to wait with it.
    pub(super) fn say(&self, who: Identity, source: Source) -> Result<(), Duration> {
        // Who may not speak must not use up what others at the same address may say.
        self.identities.as_ref().map_or(Ok(()), |identities| identities.count(&who))?;
        self.addresses.as_ref().map_or(Ok(()), |addresses| addresses.count(&source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ClientId;
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
        let rates = Rates::with_clock(rate(2, 3), None, &clock);
        let (ada, ben) = (somebody(), somebody());
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            assert_eq!(rates.say(ada, at(address)), Ok(()));
        }
        let half = Duration::from_millis(500);
        assert_eq!(rates.say(ada, at("192.0.2.4")), Err(half));
        assert_eq!(rates.say(ben, at("192.0.2.1")), Ok(()));
        clock.advance(half);
        assert_eq!(rates.say(ada, at("192.0.2.1")), Ok(()));
        assert!(rates.say(ada, at("192.0.2.1")).is_err());
    }

    #[test]
    fn an_address_says_no_more_under_however_many_names() {
        let rates = Rates::with_clock(rate(1, 1), rate(1, 2), &FakeRelativeClock::default());
        let ada = somebody();
        assert_eq!(rates.say(ada, at("192.0.2.1")), Ok(()));
        for _ in 0..9 {
            assert!(rates.say(ada, at("192.0.2.1")).is_err(), "it uses up nobody else's part");
        }
        assert_eq!(rates.say(somebody(), at("192.0.2.1")), Ok(()));
        assert!(rates.say(somebody(), at("192.0.2.1")).is_err());
        assert_eq!(rates.say(somebody(), at("192.0.2.2")), Ok(()));
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
