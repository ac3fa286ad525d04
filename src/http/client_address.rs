//! Finds the address of the client that sent a request: the peer of the connection, or the address
//! that a trusted proxy names. The limits and the check of the origin use it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Once;

use actix_web::HttpRequest;
use actix_web::http::header;
use log::warn;

use super::origin::RequestOrigin;
use crate::config::Network;

/// Proxies whose `X-Forwarded-For` and `X-Forwarded-Host` headers are trusted.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies(Vec<Network>);

impl Proxies {
    pub(super) fn new(trusted: Vec<Network>) -> Self {
        Self(trusted)
    }

    pub(super) fn trust(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(peer))
    }

    /// Returns the address of the client from the peer's address and the values of
    /// `X-Forwarded-For`. Each proxy appends the address that it received the request from, so the
    /// last address that is not a trusted proxy is the client's. The client itself may have written
    /// what stands before it. A value that is not an address ends the search.
    pub(super) fn client<'a>(
        &self,
        peer: IpAddr,
        forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
    ) -> IpAddr {
        let mut client = peer.to_canonical();
        for hop in forwarded_for.rev().flat_map(|value| value.rsplit(',')) {
            let Some(address) = self.trust(client).then(|| address(hop.trim())).flatten() else {
                break;
            };
            client = address.to_canonical();
        }
        client
    }
}

/// Parses an address. Some proxies write it in brackets or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
}

/// The client that sent a request.
pub(super) struct Client {
    pub(super) address: IpAddr,
    /// Whether a trusted proxy passed the request on.
    pub(super) by_proxy: bool,
}

impl Client {
    pub(super) fn of(req: &HttpRequest, proxies: &Proxies) -> Self {
        let peer = req.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip());
        let forwarded_for: Vec<_> =
            req.headers().get_all(header::X_FORWARDED_FOR).map(header_text).collect();
        let by_proxy = proxies.trust(peer);
        if !by_proxy && !forwarded_for.is_empty() {
            warn_of_untrusted_proxy(peer);
        }
        Self { address: proxies.client(peer, forwarded_for.into_iter()), by_proxy }
    }

    /// Returns what the request says about its destination and origin.
    pub(super) fn origin<'a>(&self, req: &'a HttpRequest) -> RequestOrigin<'a> {
        let text = |name| req.headers().get(name).map(header_text);
        // The nearest proxy writes the last value.
        let original = req.headers().get_all(header::X_FORWARDED_HOST).last().map(header_text);
        let original = original.and_then(|hosts| hosts.rsplit(',').next()).map(str::trim);
        RequestOrigin {
            host: original.filter(|_| self.by_proxy).or_else(|| text(header::HOST)),
            origin: text(header::ORIGIN),
            over_loopback: self.address.is_loopback(),
        }
    }
}

fn header_text(value: &header::HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// Warns once about a proxy that is not trusted. Addresses outside private networks cause no
/// warning, since any client can send the header.
fn warn_of_untrusted_proxy(peer: IpAddr) {
    static WARNED: Once = Once::new();
    let is_private = match peer.to_canonical() {
        IpAddr::V4(peer) => peer.is_loopback() || peer.is_private(),
        IpAddr::V6(peer) => peer.is_loopback() || peer.is_unique_local(),
    };
    if is_private {
        WARNED.call_once(|| {
            warn!(
                "{peer} sends X-Forwarded-For but is not a trusted proxy; its clients share the \
                 limits of one address"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &[&str], peer: &str, forwarded_for: &[&str]) -> String {
        let trusted = trusted.iter().map(|network| network.parse().expect("a network")).collect();
        let peer = peer.parse().expect("an address");
        Proxies::new(trusted).client(peer, forwarded_for.iter().copied()).to_string()
    }

    #[test]
    fn forwarded_address_counts_only_from_a_trusted_proxy() {
        assert_eq!(client(&[], "127.0.0.1", &["198.51.100.7"]), "127.0.0.1");
        assert_eq!(client(&["127.0.0.1"], "192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client(&["127.0.0.1"], "127.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client(&["127.0.0.1"], "::ffff:127.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client(&["127.0.0.1"], "127.0.0.1", &[]), "127.0.0.1");
    }

    #[test]
    fn addresses_that_the_client_wrote_are_ignored() {
        let forged = ["10.9.9.9, 203.0.113.1", "198.51.100.7"];
        assert_eq!(client(&["127.0.0.1"], "127.0.0.1", &forged), "198.51.100.7");
        let chain = ["203.0.113.1, 198.51.100.7,10.0.0.2", "10.0.0.1"];
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.9", &chain), "198.51.100.7");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.9", &["10.0.0.2"]), "10.0.0.2");
    }

    #[test]
    fn address_is_read_in_every_notation_and_an_invalid_one_ends_the_search() {
        for (written, read) in [
            ("198.51.100.7:4711", "198.51.100.7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("unknown", "127.0.0.1"),
            ("198.51.100.7, unknown", "127.0.0.1"),
            ("", "127.0.0.1"),
        ] {
            assert_eq!(client(&["127.0.0.1"], "127.0.0.1", &[written]), read, "{written}");
        }
    }
}
