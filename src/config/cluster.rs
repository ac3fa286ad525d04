//! Settings of a cluster: the NATS servers and the stream in which nodes share their log.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Settings of a node of a cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Cluster {
    /// The NATS servers: at least one. The node connects to one of them.
    pub servers: Vec<NatsUrl>,
    /// File with the credentials of a NATS user, as `nsc` makes it. Defaults to none.
    pub creds: Option<PathBuf>,
    /// PEM file with the root certificates to trust for connections to NATS. With it, connections
    /// must use TLS. Defaults to those of the system.
    pub ca: Option<PathBuf>,
    /// PEM file with the client certificate for NATS. Defaults to none.
    pub cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate. Defaults to none.
    pub key: Option<PathBuf>,
    /// The name of the stream. Defaults to `chinwag`.
    pub stream: StreamName,
    /// The number of NATS servers that store the stream, if the node creates it. Defaults to 1.
    pub replicas: usize,
    /// The maximum size of the stream, in bytes, if the node creates it. NATS then deletes the
    /// oldest records, which the history files of the nodes have. Defaults to 4 GiB.
    pub log_bytes: u64,
    /// The epoch to end. When the node starts, it begins a new one with its retention and edit
    /// settings. If the stream has lost records, all nodes then continue with the history of this
    /// node. It has no effect if the history file has another epoch. Defaults to none.
    pub new_epoch: Option<String>,
    /// The name of the node in the connections that NATS lists. Defaults to none.
    pub node_name: Option<String>,
}

impl Cluster {
    /// Returns the settings of a node that connects to one of these servers.
    #[must_use]
    pub fn new(servers: Vec<NatsUrl>) -> Self {
        Self {
            servers,
            creds: None,
            ca: None,
            cert: None,
            key: None,
            stream: StreamName("chinwag".into()),
            replicas: 1,
            log_bytes: 4 * 1024 * 1024 * 1024,
            new_epoch: None,
            node_name: None,
        }
    }
}

/// The URL of a NATS server, such as `nats://192.0.2.1:4222`. It is displayed without its user and
/// password.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl(String);

/// The name of a stream of JetStream: letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamName(String);

/// An invalid value of a setting of a cluster.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterValueError {
    /// Not the URL of a NATS server.
    #[error("must be the URL of a NATS server, such as nats://192.0.2.1:4222")]
    Url,
    /// Not the name of a stream.
    #[error("must have letters, digits, - and _ only, at most 32")]
    Stream,
}

impl NatsUrl {
    /// Returns the URL, with its user and password.
    #[cfg(feature = "cluster")]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NatsUrl {
    type Err = ClusterValueError;

    fn from_str(text: &str) -> Result<Self, ClusterValueError> {
        let rest = match text.split_once("://") {
            Some(("nats" | "tls", rest)) => rest,
            Some(_) => return Err(ClusterValueError::Url),
            None => text,
        };
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let is_valid = !host.is_empty()
            && !host.starts_with(':')
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && !host.contains('/');
        if is_valid { Ok(Self(text.into())) } else { Err(ClusterValueError::Url) }
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("nats", &self.0));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        write!(f, "{scheme}://{host}")
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsUrl({self})")
    }
}

impl StreamName {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamName {
    type Err = ClusterValueError;

    fn from_str(text: &str) -> Result<Self, ClusterValueError> {
        let is_valid = (1..=32).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if is_valid { Ok(Self(text.into())) } else { Err(ClusterValueError::Stream) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_of_a_server_is_shown_without_its_password() {
        for (text, shown) in [
            ("nats://192.0.2.1:4222", "nats://192.0.2.1:4222"),
            ("chat.example", "nats://chat.example"),
            ("tls://me:secret@chat.example:4222", "tls://chat.example:4222"),
            ("nats://token@[::1]:4222", "nats://[::1]:4222"),
        ] {
            let url: NatsUrl = text.parse().expect("a URL");
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("secret"));
        }
        for text in ["", "nats://", "http://chat.example", "nats://a b", "nats://user@", ":4222"] {
            assert_eq!(text.parse::<NatsUrl>(), Err(ClusterValueError::Url), "{text}");
        }
        for text in ["", "a.b", "a b", "*", &"a".repeat(33)] {
            assert_eq!(text.parse::<StreamName>(), Err(ClusterValueError::Stream), "{text}");
        }
    }
}
