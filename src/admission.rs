//! Who may connect, and how much they may say: by which host the server was addressed, which site's
//! page asks, from where, and how many there are already. It does no input or output. The routes
//! ask it before they answer a handshake, and a session before it passes a message on.

mod places;
mod proxy;
mod rates;

use std::fmt;
use std::str::FromStr;

use actix_web::http::uri::{self, Uri};
use thiserror::Error;

pub(crate) use places::Source;
pub use places::{NoPlace, Place, Places};
pub use proxy::{Network, Proxies};
pub use rates::Rate;

/// A host name or address, and the port where one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

/// A web origin: scheme, host and port (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// Whose pages may connect, beside the server's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// Any site's.
    Any,
    /// This one's.
    Only(Origin),
}

/// A text that is not what a flag or a header holds.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// Not a host.
    #[error("takes a host name or address such as chat.example or 192.0.2.1:8080")]
    Host,
    /// Not an origin.
    #[error("takes an origin such as https://chat.example, or *")]
    Origin,
    /// Not a network.
    #[error("takes an address such as 127.0.0.1 or a network such as 10.0.0.0/8")]
    Network,
}

impl FromStr for Host {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let authority: uri::Authority = text.parse().map_err(|_| Malformed::Host)?;
        let name = authority.host().to_ascii_lowercase();
        let port = authority.port_u16();
        // What the authority holds beyond name and port, such as user names, is no host.
        let whole =
            if port.is_some() { text.rsplit_once(':').map(|(name, _)| name) } else { Some(text) };
        let exact = whole.is_some_and(|whole| whole.eq_ignore_ascii_case(&name));
        if exact && !name.is_empty() { Ok(Self { name, port }) } else { Err(Malformed::Host) }
    }
}

impl FromStr for Origin {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let uri: Uri = text.parse().map_err(|_| Malformed::Origin)?;
        let parts = uri.into_parts();
        let bare = parts.path_and_query.is_none_or(|path| path == "/") && !text.ends_with('/');
        let (Some(scheme), Some(authority), true) = (parts.scheme, parts.authority, bare) else {
            return Err(Malformed::Origin);
        };
        let host: Host = authority.as_str().parse().map_err(|_| Malformed::Origin)?;
        let scheme = scheme.as_str().to_owned();
        let port = host.port.or(default_port(&scheme));
        Ok(Self { scheme, host: host.name, port })
    }
}

impl FromStr for AllowedOrigin {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text == "*" { Ok(Self::Any) } else { text.parse().map(Self::Only) }
    }
}

impl Host {
    /// The name, without a port.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// What a request says of where it comes from and where it thinks it goes.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// By which host the server was addressed: the `Host` header, or what a proxy says that was.
    pub host: Option<&'a str>,
    /// The `Origin` header, which browsers send and other clients mostly do not.
    pub origin: Option<&'a str>,
    /// Whether the client is on this machine.
    pub over_loopback: bool,
}

/// Why a request is refused: status 403, with these words.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// The server is not known by this name.
    #[error("host not allowed; the operator of this server can add it to its public hosts")]
    Host,
    /// A page of another site asks.
    #[error("origin not allowed; the operator of this server can add it to its allowed origins")]
    Origin,
}

/// The rules of a server.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    public_hosts: Vec<Host>,
    allowed_origins: Vec<AllowedOrigin>,
}

impl Admission {
    /// Rules for a server that is reached by these hosts and lets in pages of these origins.
    #[must_use]
    pub fn new(public_hosts: Vec<Host>, allowed_origins: Vec<AllowedOrigin>) -> Self {
        Self { public_hosts, allowed_origins }
    }

    /// Whether a handshake may be answered.
    ///
    /// Over loopback, or once public hosts are named, the host must be one that is the server's
    /// for certain. Else a page on a name that its owner points at this machine (DNS rebinding)
    /// would pass for the server's own, since its `Origin` and `Host` agree.
    ///
    /// # Errors
    /// The reason to refuse it.
    pub fn admit(&self, asked: Asked<'_>) -> Result<(), Refusal> {
        let host: Option<Host> = asked.host.and_then(|host| host.parse().ok());
        let host = host.ok_or(Refusal::Host)?;
        let must_be_known = asked.over_loopback || !self.public_hosts.is_empty();
        if must_be_known && !self.is_known(&host) {
            return Err(Refusal::Host);
        }
        let Some(origin) = asked.origin else { return Ok(()) };
        if self.allowed_origins.contains(&AllowedOrigin::Any) {
            return Ok(());
        }
        let origin: Origin = origin.parse().map_err(|_| Refusal::Origin)?;
        if self.is_own(&origin, &host) || self.is_allowed(&origin) {
            Ok(())
        } else {
            Err(Refusal::Origin)
        }
    }

    fn is_known(&self, host: &Host) -> bool {
        matches!(host.name.as_str(), "localhost" | "127.0.0.1" | "[::1]")
            || self.public_hosts.iter().any(|public| {
                public.name == host.name && (public.port.is_none() || public.port == host.port)
            })
    }

    /// Whether the origin is the host that was asked for, or another of the server's own.
    fn is_own(&self, origin: &Origin, host: &Host) -> bool {
        let is_web = default_port(&origin.scheme).is_some();
        let same = |own: &Host| {
            own.name == origin.host && own.port.or(default_port(&origin.scheme)) == origin.port
        };
        is_web && (same(host) || self.public_hosts.iter().any(same))
    }

    fn is_allowed(&self, origin: &Origin) -> bool {
        self.allowed_origins.iter().any(|allowed| match allowed {
            AllowedOrigin::Any => true,
            AllowedOrigin::Only(only) => only == origin,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(public_hosts: &[&str], allowed_origins: &[&str]) -> Admission {
        Admission::new(
            public_hosts.iter().map(|host| host.parse().expect("a host")).collect(),
            allowed_origins.iter().map(|origin| origin.parse().expect("an origin")).collect(),
        )
    }

    fn local<'a>(host: &'a str, origin: Option<&'a str>) -> Asked<'a> {
        Asked { host: Some(host), origin, over_loopback: true }
    }

    fn remote<'a>(host: &'a str, origin: Option<&'a str>) -> Asked<'a> {
        Asked { over_loopback: false, ..local(host, origin) }
    }

    #[test]
    fn over_loopback_only_the_names_of_loopback_are_known() {
        let rules = admission(&[], &[]);
        for host in ["localhost:8080", "LOCALHOST", "127.0.0.1:1", "[::1]:8080"] {
            assert_eq!(rules.admit(local(host, None)), Ok(()), "{host}");
        }
        for host in ["rebound.example:8080", "localhost.example", "127.0.0.1.example", "", "a b"] {
            assert_eq!(rules.admit(local(host, None)), Err(Refusal::Host), "{host}");
        }
        let no_host = Asked { host: None, origin: None, over_loopback: false };
        assert_eq!(rules.admit(no_host), Err(Refusal::Host));
    }

    #[test]
    fn a_rebinding_page_is_refused_although_its_origin_and_host_agree() {
        let asked = local("rebound.example:8080", Some("http://rebound.example:8080"));
        assert_eq!(admission(&[], &[]).admit(asked), Err(Refusal::Host));
    }

    #[test]
    fn a_public_host_is_known_and_then_no_other_is() {
        let rules = admission(&["chat.example", "alt.example:8443"], &[]);
        for asked in [local, remote] {
            assert_eq!(rules.admit(asked("chat.example", None)), Ok(()));
            assert_eq!(rules.admit(asked("Chat.Example:9", None)), Ok(()));
            assert_eq!(rules.admit(asked("alt.example:8443", None)), Ok(()));
            assert_eq!(rules.admit(asked("alt.example:8444", None)), Err(Refusal::Host));
            assert_eq!(rules.admit(asked("other.example", None)), Err(Refusal::Host));
        }
        assert_eq!(admission(&[], &[]).admit(remote("any.example", None)), Ok(()));
    }

    #[test]
    fn an_origin_that_is_no_web_page_is_nobodys_own() {
        let rules = admission(&["chat.example"], &[]);
        for origin in ["app://localhost", "ftp://chat.example", "capacitor://chat.example"] {
            assert_eq!(rules.admit(local("localhost", Some(origin))), Err(Refusal::Origin));
        }
        let rules = admission(&[], &["app://localhost"]);
        assert_eq!(rules.admit(local("localhost", Some("app://localhost"))), Ok(()));
    }

    #[test]
    fn a_page_of_the_same_host_and_port_may_connect() {
        let rules = admission(&[], &[]);
        let allowed = [
            ("localhost:8080", "http://localhost:8080"),
            ("chat.example", "http://chat.example"),
            ("chat.example", "https://chat.example"),
            ("chat.example:443", "https://chat.example"),
            ("[2001:db8::1]:80", "http://[2001:db8::1]"),
        ];
        for (host, origin) in allowed {
            assert_eq!(rules.admit(remote(host, Some(origin))), Ok(()), "{host} {origin}");
        }
        let refused = [
            ("localhost:8080", "http://localhost:3000"),
            ("localhost:8080", "http://127.0.0.1:8080"),
            ("chat.example", "https://chat.example.evil.example"),
            ("chat.example", "https://evil.example/chat.example"),
            ("chat.example", "https://chat.example@evil.example"),
            ("chat.example", "null"),
            ("chat.example", ""),
        ];
        for (host, origin) in refused {
            let answer = rules.admit(remote(host, Some(origin)));
            assert_eq!(answer, Err(Refusal::Origin), "{host} {origin}");
        }
    }

    #[test]
    fn behind_a_proxy_the_public_host_is_an_origin_of_the_servers_own() {
        let rules = admission(&["chat.example"], &[]);
        assert_eq!(rules.admit(local("127.0.0.1:8080", Some("https://chat.example"))), Ok(()));
        let other_port = local("127.0.0.1:8080", Some("https://chat.example:9"));
        assert_eq!(rules.admit(other_port), Err(Refusal::Origin));
    }

    #[test]
    fn allowed_origins_add_to_the_servers_own_and_a_star_allows_any() {
        let rules = admission(&[], &["https://friend.example"]);
        assert_eq!(rules.admit(local("localhost", Some("https://friend.example"))), Ok(()));
        assert_eq!(rules.admit(local("localhost", Some("http://localhost"))), Ok(()));
        let other_scheme = local("localhost", Some("http://friend.example"));
        assert_eq!(rules.admit(other_scheme), Err(Refusal::Origin));
        let any = admission(&[], &["*"]);
        assert_eq!(any.admit(local("localhost", Some("null"))), Ok(()));
    }

    #[test]
    fn flags_take_hosts_and_origins_and_nothing_else() {
        for text in ["", "a b", "user@host", "http://host", "host/path", "host:port", "host:99999"]
        {
            assert_eq!(text.parse::<Host>(), Err(Malformed::Host), "{text}");
        }
        for text in ["", "host", "https://", "https://host/", "https://host/path", "https://u@h"] {
            assert_eq!(text.parse::<AllowedOrigin>(), Err(Malformed::Origin), "{text}");
        }
    }
}
