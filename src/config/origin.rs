//! Hosts and web origins, parsed from flags and HTTP headers.

use std::fmt;
use std::str::FromStr;

use actix_web::http::uri::{self, Uri};

use super::Malformed;

/// A host name or address, with an optional port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub(crate) name: String,
    pub(crate) port: Option<u16>,
}

/// A web origin: scheme, host and port (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

/// An origin whose pages may connect, in addition to the server's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// Every origin.
    Any,
    /// This origin.
    Only(Origin),
}

impl FromStr for Host {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let authority: uri::Authority = text.parse().map_err(|_| Malformed::Host)?;
        let name = authority.host().to_ascii_lowercase();
        let port = authority.port_u16();
        // A URI authority may have other parts, such as a user name. A host must not.
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

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Returns the default port of a web scheme.
pub(crate) fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_origins_with_other_parts_are_invalid() {
        for text in ["", "a b", "user@host", "http://host", "host/path", "host:port", "host:99999"]
        {
            assert_eq!(text.parse::<Host>(), Err(Malformed::Host), "{text}");
        }
        for text in ["", "host", "https://", "https://host/", "https://host/path", "https://u@h"] {
            assert_eq!(text.parse::<AllowedOrigin>(), Err(Malformed::Origin), "{text}");
        }
    }
}
