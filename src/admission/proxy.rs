//! Who asks: the peer of the connection, or where that is a proxy that the operator trusts, whom
//! the proxy asks for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use super::Malformed;

/// Addresses that belong together: one, or all that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let one = text.parse::<IpAddr>().map(IpNet::from);
        one.or_else(|_| text.parse()).map(Self).map_err(|_| Malformed::Network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The proxies whose word is taken for whom they ask, and by which name the server was called.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Vec<Network>);

impl Proxies {
    /// The proxies of these networks.
    #[must_use]
    pub fn new(trusted: Vec<Network>) -> Self {
        Self(trusted)
    }

    /// Whether what this peer says of others is believed.
    #[must_use]
    pub fn trust(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|Network(network)| network.contains(&peer))
    }

    /// Whose request it is, by the values of its `X-Forwarded-For`. Each proxy adds the address
    /// that it was asked from at the end, so the last one that is not a trusted proxy's own is the
    /// client's; what stands before it is the client's own word. What cannot be read ends the
    /// search: then it is whoever has passed it on.
    #[must_use]
    pub fn client<'a>(
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

/// An address as proxies write it: some put it in brackets, some add the port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
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
    fn only_a_trusted_proxy_speaks_for_others() {
        assert_eq!(client(&[], "127.0.0.1", &["198.51.100.7"]), "127.0.0.1");
        assert_eq!(client(&["127.0.0.1"], "192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client(&["127.0.0.1"], "127.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client(&["127.0.0.1"], "::ffff:127.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client(&["127.0.0.1"], "127.0.0.1", &[]), "127.0.0.1");
    }

    #[test]
    fn what_the_client_says_of_itself_is_not_believed() {
        let forged = ["10.9.9.9, 203.0.113.1", "198.51.100.7"];
        assert_eq!(client(&["127.0.0.1"], "127.0.0.1", &forged), "198.51.100.7");
        let chain = ["203.0.113.1, 198.51.100.7,10.0.0.2", "10.0.0.1"];
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.9", &chain), "198.51.100.7");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.9", &["10.0.0.2"]), "10.0.0.2");
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them_and_nonsense_ends_the_search() {
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
