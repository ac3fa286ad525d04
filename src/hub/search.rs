//! Search: the hub passes searches on to the log, and the results back to the clients. It limits
//! how many are in progress.

use std::collections::HashMap;
use std::time::Instant;

use actix::prelude::*;
use log::warn;

use super::Hub;
use crate::domain::{ClientId, SearchQuery};
use crate::limits::SourceAddress;
use crate::log::{Found, LogError, Responder, Searched};
use crate::protocol::{ErrorCode, Event, Ref, Refusal};

/// The maximum number of searches that the log has not answered yet.
const SEARCHES_MAX: usize = 64;

/// The maximum number of them from one address.
const SEARCHES_PER_ADDRESS_MAX: usize = 4;

/// Searches stored messages. The answer is [`Event::Search`], or an error:
/// [`ErrorCode::Forbidden`] if the log cannot search, or [`ErrorCode::Busy`] if too many searches
/// are not answered yet.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct Search {
    /// The client.
    pub client: ClientId,
    /// What to find.
    pub query: SearchQuery,
    /// The reference that the answer repeats.
    pub reference: Option<Ref>,
}

/// The searches that the log has not answered yet.
#[derive(Default)]
pub(super) struct Searches {
    in_progress: HashMap<u64, InProgress>,
    last_request: u64,
    by_address: HashMap<SourceAddress, usize>,
}

struct InProgress {
    client: ClientId,
    address: Option<SourceAddress>,
    reference: Option<Ref>,
}

impl Searches {
    /// Discards all searches. Answers that arrive later are ignored.
    pub(super) fn clear(&mut self) {
        self.in_progress.clear();
        self.by_address.clear();
    }

    /// Returns whether a client at an address may send another search.
    fn has_space(&self, address: Option<SourceAddress>) -> bool {
        let of_address = address.and_then(|address| self.by_address.get(&address));
        self.in_progress.len() < SEARCHES_MAX
            && of_address.is_none_or(|searches| *searches < SEARCHES_PER_ADDRESS_MAX)
    }

    /// Adds a search. Returns its number.
    fn add(&mut self, search: InProgress) -> u64 {
        self.last_request += 1;
        if let Some(address) = search.address {
            *self.by_address.entry(address).or_default() += 1;
        }
        self.in_progress.insert(self.last_request, search);
        self.last_request
    }

    fn finish(&mut self, request: u64) -> Option<InProgress> {
        let search = self.in_progress.remove(&request)?;
        if let Some(address) = search.address
            && let Some(searches) = self.by_address.get_mut(&address)
        {
            *searches -= 1;
            if *searches == 0 {
                self.by_address.remove(&address);
            }
        }
        Some(search)
    }
}

impl Handler<Search> for Hub {
    type Result = ();

    fn handle(&mut self, search: Search, ctx: &mut Self::Context) {
        let Search { client, mut query, reference } = search;
        let Some(known) = self.clients.get(&client) else { return };
        let Some(log) = self.log.backend.search() else {
            let words = "the server cannot search, because it has no history file";
            let refusal = Refusal::new(ErrorCode::Forbidden, words);
            return self.answer(client, Event::Error(refusal), reference);
        };
        let address = known.handle.address();
        if !self.searches.has_space(address) {
            return self.answer(client, Event::Error(busy()), reference);
        }
        // All rooms are public, so every client may search all of them. A rule that hides rooms
        // from some clients must restrict the query here.
        //
        // A search must not find messages that the hub has not delivered yet.
        query.before = query.before.min(self.log.head.next());
        let request = self.searches.add(InProgress { client, address, reference });
        let answer = Responder::<Searched>::new(ctx.address().recipient(), request);
        log.do_send(crate::log::Search { query, asked: Instant::now(), answer });
    }
}

impl Handler<Searched> for Hub {
    type Result = ();

    fn handle(&mut self, Searched { request, outcome }: Searched, _: &mut Self::Context) {
        let Some(search) = self.searches.finish(request) else { return };
        let event = match outcome {
            Ok(Found { results, more, incomplete }) => Event::Search { results, more, incomplete },
            Err(LogError::Busy(_)) => Event::Error(busy()),
            Err(error) => {
                warn!("cannot search: {error}");
                Event::Error((&error).into())
            }
        };
        self.answer(search.client, event, search.reference);
    }
}

fn busy() -> Refusal {
    Refusal::new(ErrorCode::Busy, "too many searches; try again later")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::limits::ConnectionLimiter;
    use std::net::Ipv4Addr;

    #[test]
    fn searches_of_one_address_are_limited_until_they_are_answered() {
        let mut searches = Searches::default();
        let limiter = ConnectionLimiter::of(&Config { connect_rate: None, ..Config::default() });
        let address = |n| {
            let permit = limiter.acquire(Ipv4Addr::new(10, 0, 0, n).into());
            Some(permit.expect("there is space").address())
        };
        let search =
            |n| InProgress { client: ClientId::next(), address: address(n), reference: None };
        let requests: Vec<_> = (0..4).map(|_| searches.add(search(1))).collect();
        assert!(!searches.has_space(address(1)));
        assert!(searches.has_space(address(2)));
        assert!(searches.finish(requests[0]).is_some());
        assert!(searches.has_space(address(1)));
        assert!(searches.finish(requests[0]).is_none());
        for n in 2..=16 {
            (0..4).for_each(|_| _ = searches.add(search(n)));
        }
        assert!(searches.has_space(address(100)));
        searches.add(search(100));
        assert!(!searches.has_space(address(101)) && !searches.has_space(None));
        searches.clear();
        assert!(searches.has_space(address(1)) && searches.by_address.is_empty());
    }
}
