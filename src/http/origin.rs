//! Checks the `Host` and `Origin` headers of a handshake, which tell which page is connecting. It
//! reads no request itself: `client_address` passes the headers.

use thiserror::Error;

use crate::config::{AllowedOrigin, Host, Origin, default_port};

/// What a request says about its destination and origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestOrigin<'a> {
    /// The `Host` header, or the original host that a trusted proxy names.
    pub(super) host: Option<&'a str>,
    /// The `Origin` header. Browsers send it; most other clients do not.
    pub(super) origin: Option<&'a str>,
    /// Whether the client is on this machine.
    pub(super) over_loopback: bool,
}

/// Why a request is answered with status 403.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum OriginRefused {
    /// The host is not one of the server's.
    #[error("host not allowed; the operator of this server can add it to its public hosts")]
    Host,
    /// The page belongs to another site.
    #[error("origin not allowed; the operator of this server can add it to its allowed origins")]
    Origin,
}

/// The hosts and origins of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct OriginPolicy {
    public_hosts: Vec<Host>,
    allowed_origins: Vec<AllowedOrigin>,
}

impl OriginPolicy {
    pub(super) fn new(public_hosts: Vec<Host>, allowed_origins: Vec<AllowedOrigin>) -> Self {
        Self { public_hosts, allowed_origins }
    }

    /// Checks whether a handshake is allowed.
    ///
    /// Over loopback, or if there are public hosts, the host must be a loopback name or a public
    /// host. Without this check, a page at a host name that its owner resolves to this machine (DNS
    /// rebinding) would count as the server's own, since its `Origin` and `Host` agree.
    pub(super) fn check(&self, request: RequestOrigin<'_>) -> Result<(), OriginRefused> {
        let host: Option<Host> = request.host.and_then(|host| host.parse().ok());
        let host = host.ok_or(OriginRefused::Host)?;
        let must_be_known = request.over_loopback || !self.public_hosts.is_empty();
        if must_be_known && !self.is_known(&host) {
            return Err(OriginRefused::Host);
        }
        let Some(origin) = request.origin else { return Ok(()) };
        if self.allowed_origins.contains(&AllowedOrigin::Any) {
            return Ok(());
        }
        let origin: Origin = origin.parse().map_err(|_| OriginRefused::Origin)?;
        if self.is_own(&origin, &host) || self.is_allowed(&origin) {
            Ok(())
        } else {
            Err(OriginRefused::Origin)
        }
    }

    fn is_known(&self, host: &Host) -> bool {
        matches!(host.name.as_str(), "localhost" | "127.0.0.1" | "[::1]")
            || self.public_hosts.iter().any(|public| {
                public.name == host.name && (public.port.is_none() || public.port == host.port)
            })
    }

    /// Returns whether an origin is the requested host or another host of this server.
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

    fn policy_of(public_hosts: &[&str], allowed_origins: &[&str]) -> OriginPolicy {
        OriginPolicy::new(
            public_hosts.iter().map(|host| host.parse().expect("a host")).collect(),
            allowed_origins.iter().map(|origin| origin.parse().expect("an origin")).collect(),
        )
    }

    fn local<'a>(host: &'a str, origin: Option<&'a str>) -> RequestOrigin<'a> {
        RequestOrigin { host: Some(host), origin, over_loopback: true }
    }

    fn remote<'a>(host: &'a str, origin: Option<&'a str>) -> RequestOrigin<'a> {
        RequestOrigin { over_loopback: false, ..local(host, origin) }
    }

    #[test]
    fn over_loopback_only_names_of_loopback_are_allowed() {
        let policy = policy_of(&[], &[]);
        for host in ["localhost:8080", "LOCALHOST", "127.0.0.1:1", "[::1]:8080"] {
            assert_eq!(policy.check(local(host, None)), Ok(()), "{host}");
        }
        for host in ["rebound.example:8080", "localhost.example", "127.0.0.1.example", "", "a b"] {
            assert_eq!(policy.check(local(host, None)), Err(OriginRefused::Host), "{host}");
        }
        let no_host = RequestOrigin { host: None, origin: None, over_loopback: false };
        assert_eq!(policy.check(no_host), Err(OriginRefused::Host));
    }

    #[test]
    fn rebinding_page_is_refused_although_its_origin_and_host_agree() {
        let request = local("rebound.example:8080", Some("http://rebound.example:8080"));
        assert_eq!(policy_of(&[], &[]).check(request), Err(OriginRefused::Host));
    }

    #[test]
    fn public_host_is_allowed_and_excludes_others() {
        let policy = policy_of(&["chat.example", "alt.example:8443"], &[]);
        for request in [local, remote] {
            assert_eq!(policy.check(request("chat.example", None)), Ok(()));
            assert_eq!(policy.check(request("Chat.Example:9", None)), Ok(()));
            assert_eq!(policy.check(request("alt.example:8443", None)), Ok(()));
            assert_eq!(policy.check(request("alt.example:8444", None)), Err(OriginRefused::Host));
            assert_eq!(policy.check(request("other.example", None)), Err(OriginRefused::Host));
        }
        assert_eq!(policy_of(&[], &[]).check(remote("any.example", None)), Ok(()));
    }

    #[test]
    fn only_web_origins_can_be_the_servers_own() {
        let policy = policy_of(&["chat.example"], &[]);
        for origin in ["app://localhost", "ftp://chat.example", "capacitor://chat.example"] {
            assert_eq!(policy.check(local("localhost", Some(origin))), Err(OriginRefused::Origin));
        }
        let policy = policy_of(&[], &["app://localhost"]);
        assert_eq!(policy.check(local("localhost", Some("app://localhost"))), Ok(()));
    }

    #[test]
    fn page_of_the_same_host_and_port_is_allowed() {
        let policy = policy_of(&[], &[]);
        let allowed = [
            ("localhost:8080", "http://localhost:8080"),
            ("chat.example", "http://chat.example"),
            ("chat.example", "https://chat.example"),
            ("chat.example:443", "https://chat.example"),
            ("[2001:db8::1]:80", "http://[2001:db8::1]"),
        ];
        for (host, origin) in allowed {
            assert_eq!(policy.check(remote(host, Some(origin))), Ok(()), "{host} {origin}");
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
            let answer = policy.check(remote(host, Some(origin)));
            assert_eq!(answer, Err(OriginRefused::Origin), "{host} {origin}");
        }
    }

    #[test]
    fn origin_of_a_public_host_is_allowed_behind_a_proxy() {
        let policy = policy_of(&["chat.example"], &[]);
        assert_eq!(policy.check(local("127.0.0.1:8080", Some("https://chat.example"))), Ok(()));
        let other_port = local("127.0.0.1:8080", Some("https://chat.example:9"));
        assert_eq!(policy.check(other_port), Err(OriginRefused::Origin));
    }

    #[test]
    fn allowed_origins_are_added_and_a_star_allows_every_origin() {
        let policy = policy_of(&[], &["https://friend.example"]);
        assert_eq!(policy.check(local("localhost", Some("https://friend.example"))), Ok(()));
        assert_eq!(policy.check(local("localhost", Some("http://localhost"))), Ok(()));
        let other_scheme = local("localhost", Some("http://friend.example"));
        assert_eq!(policy.check(other_scheme), Err(OriginRefused::Origin));
        let any = policy_of(&[], &["*"]);
        assert_eq!(any.check(local("localhost", Some("null"))), Ok(()));
    }
}
