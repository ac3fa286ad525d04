//! How many may be connected at once, in all and from one address, and how often an address may
//! try.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use thiserror::Error;

use super::rates::{Limiter, OwnRates, Rates};
use crate::config::{Config, Rate};
use crate::domain::Identity;
use crate::metrics::{Limit, Metrics};

/// How long to stay away when the places are taken, which nobody knows better.
const COME_BACK: Duration = Duration::from_secs(5);

/// What a browser may open at once to load a page, and a few more.
const SOCKETS_OF_A_BROWSER: usize = 16;

/// What counts as one address: of IPv6 the first 64 bits, since whoever has one has all with these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SourceAddress(IpAddr);

impl SourceAddress {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        })
    }
}

/// Why there is no place for somebody just now.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum ConnectionRefused {
    /// All are taken.
    #[error("the server has as many connections as it takes; try again later")]
    Server,
    /// Those for one address are.
    #[error("there are as many connections from your address as the server takes")]
    Address,
    /// The address tries too often.
    #[error("there are too many attempts from your address; try again later")]
    Attempts(Duration),
}

impl ConnectionRefused {
    /// How long to stay away.
    #[must_use]
    pub(crate) fn retry_after(self) -> Duration {
        match self {
            Self::Server | Self::Address => COME_BACK,
            Self::Attempts(wait) => wait,
        }
    }
}

/// The places of a server, by a clock.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter<C: Clock = DefaultClock> {
    in_all: Option<usize>,
    per_address: Option<usize>,
    attempts: Option<Limiter<SourceAddress, C>>,
    shared: Arc<Shared<C>>,
}

/// What the places of a server have in common.
#[derive(Debug)]
struct Shared<C: Clock> {
    taken: Mutex<Taken>,
    rates: Rates<C>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_source: HashMap<SourceAddress, usize>,
}

/// A place that somebody has. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct ConnectionPermit<C: Clock = DefaultClock> {
    source: SourceAddress,
    shared: Arc<Shared<C>>,
    /// Many connections say and ask nothing.
    own: OnceCell<Box<OwnRates<C>>>,
}

const ONE: NonZeroU32 = NonZeroU32::MIN;

impl<C: Clock + Clone> ConnectionPermit<C> {
    /// The address that counts.
    pub(crate) fn address(&self) -> SourceAddress {
        self.source
    }

    fn own(&self) -> &OwnRates<C> {
        self.own.get_or_init(|| Box::new(self.shared.rates.of_one()))
    }

    /// Counts a message of so many bytes by whoever has this place, unless that is too much.
    ///
    /// # Errors
    /// How long to wait with it.
    pub(crate) fn count_message(&self, who: Identity, bytes: usize) -> Result<(), Duration> {
        let Rates { messages, messages_from_address, bytes_per_hour, bytes_per_day, .. } =
            &self.shared.rates;
        let source = &self.source;
        // Who may not go on must not use up what is left to others at the same address.
        self.limit(Limit::PublishRate, messages, |rate| rate.count(&who, ONE))?;
        self.limit(Limit::PublishRate, &self.own().messages, |rate| rate.count(ONE))?;
        let from_address = Limit::PublishRatePerAddress;
        self.limit(from_address, messages_from_address, |rate| rate.count(source, ONE))?;
        let bytes = u32::try_from(bytes).ok().and_then(NonZeroU32::new).unwrap_or(ONE);
        let per_hour = Limit::PublishBytesPerHourPerAddress;
        self.limit(per_hour, bytes_per_hour, |rate| rate.count(source, bytes))?;
        let per_day = Limit::PublishBytesPerDayPerAddress;
        self.limit(per_day, bytes_per_day, |rate| rate.count(source, bytes))
    }

    /// Counts a command that is no message, unless it is one too many. One that makes the hub do
    /// the work of several costs as much as these.
    ///
    /// # Errors
    /// How long to wait with it.
    pub(crate) fn count_command(&self, cost: NonZeroU32) -> Result<(), Duration> {
        self.limit(Limit::CommandRate, &self.own().commands, |rate| rate.count(cost))?;
        let from_address = &self.shared.rates.commands_from_address;
        let count = |rate: &Limiter<_, _>| rate.count(&self.source, cost);
        self.limit(Limit::CommandRatePerAddress, from_address, count)
    }

    fn limit<L>(
        &self,
        limit: Limit,
        limiter: &Option<L>,
        count: impl FnOnce(&L) -> Result<(), Duration>,
    ) -> Result<(), Duration> {
        let counted = limiter.as_ref().map_or(Ok(()), count);
        counted.inspect_err(|_| self.shared.metrics.count_limit(limit))
    }
}

impl ConnectionLimiter {
    /// As many as a configuration has; and those who have one may say as much as it allows.
    #[must_use]
    pub(crate) fn of(config: &Config) -> Self {
        Self::with_clock(config, &DefaultClock::default())
    }

    /// For the sockets of one address, of which some carry plain HTTP, or nothing yet: twice as
    /// many as it may have WebSockets, and some for a browser that loads the page.
    #[must_use]
    pub(crate) fn of_sockets(config: &Config) -> Self {
        let per_address = config.max_connections_per_address;
        let sockets = Config {
            max_connections: None,
            max_connections_per_address: per_address
                .map(|most| most.saturating_mul(2).saturating_add(SOCKETS_OF_A_BROWSER)),
            connect_rate: None,
            ..config.clone()
        };
        Self::of(&sockets)
    }
}

impl<C: Clock + Clone> ConnectionLimiter<C> {
    fn with_clock(config: &Config, clock: &C) -> Self {
        let attempts = config
            .connect_rate
            .map(|rate| Limiter::new(Rate { per_second: rate, burst: rate }, clock));
        Self {
            in_all: config.max_connections,
            per_address: config.max_connections_per_address,
            attempts,
            shared: Arc::new(Shared {
                taken: Mutex::default(),
                rates: Rates::of(config, clock),
                metrics: config.metrics.clone(),
            }),
        }
    }

    /// Takes a place for somebody at this address.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn take(&self, address: IpAddr) -> Result<ConnectionPermit<C>, ConnectionRefused> {
        self.try_take(address).inspect_err(|no_place| {
            self.shared.metrics.count_limit(match no_place {
                ConnectionRefused::Server => Limit::MaxConnections,
                ConnectionRefused::Address => Limit::MaxConnectionsPerAddress,
                ConnectionRefused::Attempts(_) => Limit::ConnectRate,
            });
        })
    }

    fn try_take(&self, address: IpAddr) -> Result<ConnectionPermit<C>, ConnectionRefused> {
        let source = SourceAddress::of(address);
        if let Some(attempts) = &self.attempts {
            attempts.count(&source, ONE).map_err(ConnectionRefused::Attempts)?;
        }
        let mut taken = lock(&self.shared.taken);
        if self.in_all.is_some_and(|most| taken.in_all >= most) {
            return Err(ConnectionRefused::Server);
        }
        let theirs = taken.by_source.get(&source).copied().unwrap_or_default();
        if self.per_address.is_some_and(|most| theirs >= most) {
            return Err(ConnectionRefused::Address);
        }
        taken.in_all += 1;
        taken.by_source.insert(source, theirs + 1);
        Ok(ConnectionPermit { source, shared: Arc::clone(&self.shared), own: OnceCell::new() })
    }
}

impl<C: Clock> Drop for ConnectionPermit<C> {
    fn drop(&mut self) {
        let mut taken = lock(&self.shared.taken);
        taken.in_all -= 1;
        if let Entry::Occupied(mut theirs) = taken.by_source.entry(self.source) {
            *theirs.get_mut() -= 1;
            if *theirs.get() == 0 {
                theirs.remove();
            }
        }
    }
}

/// The counts are whole between any two statements, also if somebody panicked there.
fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ClientId;
    use governor::clock::FakeRelativeClock;

    fn at(address: &str) -> IpAddr {
        address.parse().expect("an address")
    }

    fn places(in_all: Option<usize>, per_address: Option<usize>) -> ConnectionLimiter {
        ConnectionLimiter::of(&Config {
            max_connections: in_all,
            max_connections_per_address: per_address,
            connect_rate: None,
            ..Config::default()
        })
    }

    fn rate(per_second: u32, burst: u32) -> Option<Rate> {
        let [per_second, burst] = [per_second, burst].map(NonZeroU32::new);
        Some(Rate { per_second: per_second?, burst: burst? })
    }

    fn talk(publish_rate: Option<Rate>, publish_rate_per_address: Option<Rate>) -> Config {
        Config { publish_rate, publish_rate_per_address, connect_rate: None, ..Config::default() }
    }

    fn somebody() -> Identity {
        Identity::of_client(ClientId::next())
    }

    #[test]
    fn places_are_taken_up_to_the_limit_and_given_back() {
        let places = places(Some(3), Some(2));
        let first = places.take(at("192.0.2.1")).expect("the first");
        let _second = places.take(at("192.0.2.1")).expect("the second");
        assert_eq!(places.take(at("::ffff:192.0.2.1")).err(), Some(ConnectionRefused::Address));
        let _third = places.take(at("192.0.2.2")).expect("the third");
        assert_eq!(places.take(at("192.0.2.3")).err(), Some(ConnectionRefused::Server));
        drop(first);
        let _again = places.take(at("192.0.2.1")).expect("its place");
        let taken = lock(&places.shared.taken);
        assert_eq!((taken.in_all, taken.by_source.len()), (3, 2));
    }

    #[test]
    fn largest_limit_of_connections_per_address_does_not_overflow() {
        let most =
            Config { max_connections_per_address: Some(usize::MAX / 2), ..Config::default() };
        let sockets = ConnectionLimiter::of_sockets(&most);
        let taken: Vec<_> = (0..100).map(|_| sockets.take(at("192.0.2.1"))).collect();
        assert!(taken.iter().all(Result::is_ok));
    }

    #[test]
    fn whoever_has_one_address_of_ipv6_has_all_that_begin_alike() {
        let places = places(None, Some(1));
        let _first = places.take(at("2001:db8:0:1::1")).expect("the first");
        assert_eq!(places.take(at("2001:db8:0:1:ffff::2")).err(), Some(ConnectionRefused::Address));
        assert!(places.take(at("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn an_identity_says_a_burst_and_then_as_much_as_its_rate_wherever_it_is() {
        let clock = FakeRelativeClock::default();
        let places = ConnectionLimiter::with_clock(&talk(rate(2, 3), None), &clock);
        let [first, second, third] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
            .map(|address| places.take(at(address)).expect("a place"));
        let (ada, ben) = (somebody(), somebody());
        for place in [&first, &second, &third] {
            assert_eq!(place.count_message(ada, 1), Ok(()));
        }
        let half = Duration::from_millis(500);
        assert_eq!(first.count_message(ada, 1), Err(half));
        assert_eq!(second.count_message(ben, 1), Ok(()));
        clock.advance(half);
        assert_eq!(first.count_message(ada, 1), Ok(()));
        assert_eq!(second.count_message(ada, 1), Err(half));
    }

    #[test]
    fn a_connection_says_no_more_under_however_many_names() {
        let places =
            ConnectionLimiter::with_clock(&talk(rate(1, 2), None), &FakeRelativeClock::default());
        let place = places.take(at("192.0.2.1")).expect("a place");
        assert_eq!(place.count_message(somebody(), 1), Ok(()));
        assert_eq!(place.count_message(somebody(), 1), Ok(()));
        assert!(place.count_message(somebody(), 1).is_err());
    }

    #[test]
    fn an_address_says_no_more_by_however_many_connections() {
        let talk = talk(rate(1, 1), rate(1, 2));
        let places = ConnectionLimiter::with_clock(&talk, &FakeRelativeClock::default());
        let place = || places.take(at("192.0.2.1")).expect("a place");
        let (first, ada) = (place(), somebody());
        assert_eq!(first.count_message(ada, 1), Ok(()));
        for _ in 0..9 {
            assert!(first.count_message(ada, 1).is_err(), "it uses up nobody else's part");
        }
        assert_eq!(place().count_message(somebody(), 1), Ok(()));
        assert!(place().count_message(somebody(), 1).is_err());
        assert_eq!(
            places.take(at("192.0.2.2")).expect("a place").count_message(somebody(), 1),
            Ok(())
        );
    }

    #[test]
    fn an_address_tries_as_often_as_allowed_and_is_told_when_it_may_again() {
        let clock = FakeRelativeClock::default();
        let four = Config { connect_rate: NonZeroU32::new(4), ..Config::default() };
        let places = ConnectionLimiter::with_clock(&four, &clock);
        for _ in 0..4 {
            assert!(places.take(at("192.0.2.1")).is_ok());
        }
        let quarter = Duration::from_millis(250);
        let refused = places.take(at("192.0.2.1")).err();
        assert_eq!(refused, Some(ConnectionRefused::Attempts(quarter)));
        assert!(places.take(at("192.0.2.2")).is_ok(), "others are not concerned");
        clock.advance(quarter);
        assert!(places.take(at("192.0.2.1")).is_ok());
        assert!(places.take(at("192.0.2.1")).is_err());
    }
}
