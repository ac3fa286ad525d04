//! The limits of connections: their number in total and for each address, and the rate at which an
//! address may connect. A [`ConnectionPermit`] counts one connection until it is dropped, and its
//! messages and commands.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use thiserror::Error;

use super::rates::{ConnectionRates, KeyedLimiter, Rates};
use crate::config::{Config, Rate};
use crate::domain::Identity;
use crate::metrics::{Limit, Metrics};

/// How long a client should wait if the limit of connections is reached.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The number of connections that a browser may open to load the page, with a reserve.
const BROWSER_CONNECTIONS: usize = 16;

/// The unit of limits by address: an IPv4 address, or the first 64 bits of an IPv6 address, since
/// one host usually has a whole such network.
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

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum ConnectionRefused {
    /// The server has reached its limit of connections.
    #[error("the server has reached its limit of connections; try again later")]
    Server,
    /// The address has reached its limit of connections.
    #[error("your address has reached its limit of connections; close one or try again later")]
    Address,
    /// The address exceeds the rate of connections. The client may connect after this time.
    #[error("your address connects too often; try again later")]
    ConnectRate(Duration),
}

impl ConnectionRefused {
    /// Returns how long the client should wait before it connects again.
    #[must_use]
    pub(crate) fn retry_after(self) -> Duration {
        match self {
            Self::Server | Self::Address => RETRY_AFTER,
            Self::ConnectRate(wait) => wait,
        }
    }
}

/// Limits connections and issues a [`ConnectionPermit`] for each.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter<C: Clock = DefaultClock> {
    total: Option<usize>,
    per_address: Option<usize>,
    connect_rate: Option<KeyedLimiter<SourceAddress, C>>,
    shared: Arc<Shared<C>>,
}

/// What a limiter shares with its permits.
#[derive(Debug)]
struct Shared<C: Clock> {
    counts: Mutex<Counts>,
    rates: Rates<C>,
    metrics: Metrics,
}

/// The numbers of permits.
#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_address: HashMap<SourceAddress, usize>,
}

/// The permit of one connection. Dropping it returns it.
#[derive(Debug)]
pub(crate) struct ConnectionPermit<C: Clock = DefaultClock> {
    source: SourceAddress,
    shared: Arc<Shared<C>>,
    /// Created when it is first needed, since many connections send nothing.
    rates: OnceCell<Box<ConnectionRates<C>>>,
}

const ONE: NonZeroU32 = NonZeroU32::MIN;

impl<C: Clock + Clone> ConnectionPermit<C> {
    /// Returns the address that the connection counts for.
    pub(crate) fn address(&self) -> SourceAddress {
        self.source
    }

    fn rates(&self) -> &ConnectionRates<C> {
        self.rates.get_or_init(|| Box::new(self.shared.rates.for_connection()))
    }

    /// Counts a message of this length, in bytes. An identity has one rate on all its connections.
    ///
    /// # Errors
    /// Returns how long the message must wait if it exceeds a rate.
    pub(crate) fn count_message(&self, identity: Identity, bytes: usize) -> Result<(), Duration> {
        let Rates { messages, messages_from_address, bytes_per_hour, bytes_per_day, .. } =
            &self.shared.rates;
        let source = &self.source;
        // The rates of the identity and the connection come first: a message that exceeds them must
        // not count against others at the same address.
        self.limit(Limit::PublishRate, messages, |rate| rate.count(&identity, ONE))?;
        self.limit(Limit::PublishRate, &self.rates().messages, |rate| rate.count(ONE))?;
        let from_address = Limit::PublishRatePerAddress;
        self.limit(from_address, messages_from_address, |rate| rate.count(source, ONE))?;
        let bytes = u32::try_from(bytes).ok().and_then(NonZeroU32::new).unwrap_or(ONE);
        let per_hour = Limit::PublishBytesPerHourPerAddress;
        self.limit(per_hour, bytes_per_hour, |rate| rate.count(source, bytes))?;
        let per_day = Limit::PublishBytesPerDayPerAddress;
        self.limit(per_day, bytes_per_day, |rate| rate.count(source, bytes))
    }

    /// Counts a command that publishes no message. A command that does the work of several costs as
    /// much as they do together.
    ///
    /// # Errors
    /// Returns how long the command must wait if it exceeds a rate.
    pub(crate) fn count_command(&self, cost: NonZeroU32) -> Result<(), Duration> {
        self.limit(Limit::CommandRate, &self.rates().commands, |rate| rate.count(cost))?;
        let from_address = &self.shared.rates.commands_from_address;
        let count = |rate: &KeyedLimiter<_, _>| rate.count(&self.source, cost);
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
    /// Returns a limiter of WebSockets with the limits of the configuration.
    #[must_use]
    pub(crate) fn of(config: &Config) -> Self {
        Self::with_clock(config, &DefaultClock::default())
    }

    /// Returns a limiter of all connections, including those that carry plain HTTP or nothing yet.
    /// An address may have twice as many connections as it may have WebSockets, plus those that a
    /// browser opens to load the page.
    #[must_use]
    pub(crate) fn of_all_connections(config: &Config) -> Self {
        let per_address = config.max_connections_per_address;
        let sockets = Config {
            max_connections: None,
            max_connections_per_address: per_address
                .map(|most| most.saturating_mul(2).saturating_add(BROWSER_CONNECTIONS)),
            connect_rate: None,
            ..config.clone()
        };
        Self::of(&sockets)
    }
}

impl<C: Clock + Clone> ConnectionLimiter<C> {
    fn with_clock(config: &Config, clock: &C) -> Self {
        let connect_rate = config
            .connect_rate
            .map(|rate| KeyedLimiter::new(Rate { per_second: rate, burst: rate }, clock));
        Self {
            total: config.max_connections,
            per_address: config.max_connections_per_address,
            connect_rate,
            shared: Arc::new(Shared {
                counts: Mutex::default(),
                rates: Rates::of(config, clock),
                metrics: config.metrics.clone(),
            }),
        }
    }

    /// Acquires a permit for a connection from this address.
    ///
    /// # Errors
    /// Returns why the connection is refused.
    pub(crate) fn acquire(
        &self,
        address: IpAddr,
    ) -> Result<ConnectionPermit<C>, ConnectionRefused> {
        self.try_acquire(address).inspect_err(|reason| {
            self.shared.metrics.count_limit(match reason {
                ConnectionRefused::Server => Limit::MaxConnections,
                ConnectionRefused::Address => Limit::MaxConnectionsPerAddress,
                ConnectionRefused::ConnectRate(_) => Limit::ConnectRate,
            });
        })
    }

    fn try_acquire(&self, address: IpAddr) -> Result<ConnectionPermit<C>, ConnectionRefused> {
        let source = SourceAddress::of(address);
        if let Some(connect_rate) = &self.connect_rate {
            connect_rate.count(&source, ONE).map_err(ConnectionRefused::ConnectRate)?;
        }
        let mut counts = lock(&self.shared.counts);
        if self.total.is_some_and(|most| counts.total >= most) {
            return Err(ConnectionRefused::Server);
        }
        let count = counts.by_address.get(&source).copied().unwrap_or_default();
        if self.per_address.is_some_and(|most| count >= most) {
            return Err(ConnectionRefused::Address);
        }
        counts.total += 1;
        counts.by_address.insert(source, count + 1);
        Ok(ConnectionPermit { source, shared: Arc::clone(&self.shared), rates: OnceCell::new() })
    }
}

impl<C: Clock> Drop for ConnectionPermit<C> {
    fn drop(&mut self) {
        let mut counts = lock(&self.shared.counts);
        counts.total -= 1;
        if let Entry::Occupied(mut count) = counts.by_address.entry(self.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Locks the counts. A panic cannot leave them inconsistent, so a poisoned lock is used.
fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ClientId;
    use governor::clock::FakeRelativeClock;

    fn ip(address: &str) -> IpAddr {
        address.parse().expect("an address")
    }

    fn limiter(total: Option<usize>, per_address: Option<usize>) -> ConnectionLimiter {
        ConnectionLimiter::of(&Config {
            max_connections: total,
            max_connections_per_address: per_address,
            connect_rate: None,
            ..Config::default()
        })
    }

    fn rate(per_second: u32, burst: u32) -> Option<Rate> {
        let [per_second, burst] = [per_second, burst].map(NonZeroU32::new);
        Some(Rate { per_second: per_second?, burst: burst? })
    }

    fn publish_config(
        publish_rate: Option<Rate>,
        publish_rate_per_address: Option<Rate>,
    ) -> Config {
        Config { publish_rate, publish_rate_per_address, connect_rate: None, ..Config::default() }
    }

    fn new_identity() -> Identity {
        Identity::of_client(ClientId::next())
    }

    #[test]
    fn permits_are_issued_up_to_the_limits_and_again_after_they_are_dropped() {
        let limiter = limiter(Some(3), Some(2));
        let first = limiter.acquire(ip("192.0.2.1")).expect("the first");
        let _second = limiter.acquire(ip("192.0.2.1")).expect("the second");
        assert_eq!(limiter.acquire(ip("::ffff:192.0.2.1")).err(), Some(ConnectionRefused::Address));
        let _third = limiter.acquire(ip("192.0.2.2")).expect("the third");
        assert_eq!(limiter.acquire(ip("192.0.2.3")).err(), Some(ConnectionRefused::Server));
        drop(first);
        let _again = limiter.acquire(ip("192.0.2.1")).expect("a permit");
        let counts = lock(&limiter.shared.counts);
        assert_eq!((counts.total, counts.by_address.len()), (3, 2));
    }

    #[test]
    fn largest_limit_of_connections_per_address_does_not_overflow() {
        let most =
            Config { max_connections_per_address: Some(usize::MAX / 2), ..Config::default() };
        let sockets = ConnectionLimiter::of_all_connections(&most);
        let permits: Vec<_> = (0..100).map(|_| sockets.acquire(ip("192.0.2.1"))).collect();
        assert!(permits.iter().all(Result::is_ok));
    }

    #[test]
    fn ipv6_addresses_with_the_same_first_64_bits_count_as_one() {
        let limiter = limiter(None, Some(1));
        let _first = limiter.acquire(ip("2001:db8:0:1::1")).expect("the first");
        assert_eq!(
            limiter.acquire(ip("2001:db8:0:1:ffff::2")).err(),
            Some(ConnectionRefused::Address)
        );
        assert!(limiter.acquire(ip("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn identity_has_one_burst_and_one_rate_on_all_its_connections() {
        let clock = FakeRelativeClock::default();
        let limiter = ConnectionLimiter::with_clock(&publish_config(rate(2, 3), None), &clock);
        let [first, second, third] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
            .map(|address| limiter.acquire(ip(address)).expect("a permit"));
        let (ada, ben) = (new_identity(), new_identity());
        for permit in [&first, &second, &third] {
            assert_eq!(permit.count_message(ada, 1), Ok(()));
        }
        let half = Duration::from_millis(500);
        assert_eq!(first.count_message(ada, 1), Err(half));
        assert_eq!(second.count_message(ben, 1), Ok(()));
        clock.advance(half);
        assert_eq!(first.count_message(ada, 1), Ok(()));
        assert_eq!(second.count_message(ada, 1), Err(half));
    }

    #[test]
    fn connection_has_one_rate_for_all_its_identities() {
        let limiter = ConnectionLimiter::with_clock(
            &publish_config(rate(1, 2), None),
            &FakeRelativeClock::default(),
        );
        let permit = limiter.acquire(ip("192.0.2.1")).expect("a permit");
        assert_eq!(permit.count_message(new_identity(), 1), Ok(()));
        assert_eq!(permit.count_message(new_identity(), 1), Ok(()));
        assert!(permit.count_message(new_identity(), 1).is_err());
    }

    #[test]
    fn address_has_one_rate_for_all_its_connections() {
        let config = publish_config(rate(1, 1), rate(1, 2));
        let limiter = ConnectionLimiter::with_clock(&config, &FakeRelativeClock::default());
        let permit = || limiter.acquire(ip("192.0.2.1")).expect("a permit");
        let (first, ada) = (permit(), new_identity());
        assert_eq!(first.count_message(ada, 1), Ok(()));
        for _ in 0..9 {
            assert!(first.count_message(ada, 1).is_err(), "it does not count for the address");
        }
        assert_eq!(permit().count_message(new_identity(), 1), Ok(()));
        assert!(permit().count_message(new_identity(), 1).is_err());
        assert_eq!(
            limiter.acquire(ip("192.0.2.2")).expect("a permit").count_message(new_identity(), 1),
            Ok(())
        );
    }

    #[test]
    fn address_that_exceeds_the_connect_rate_is_told_when_to_try_again() {
        let clock = FakeRelativeClock::default();
        let four = Config { connect_rate: NonZeroU32::new(4), ..Config::default() };
        let limiter = ConnectionLimiter::with_clock(&four, &clock);
        for _ in 0..4 {
            assert!(limiter.acquire(ip("192.0.2.1")).is_ok());
        }
        let quarter = Duration::from_millis(250);
        let refused = limiter.acquire(ip("192.0.2.1")).err();
        assert_eq!(refused, Some(ConnectionRefused::ConnectRate(quarter)));
        assert!(limiter.acquire(ip("192.0.2.2")).is_ok(), "other addresses may connect");
        clock.advance(quarter);
        assert!(limiter.acquire(ip("192.0.2.1")).is_ok());
        assert!(limiter.acquire(ip("192.0.2.1")).is_err());
    }
}
