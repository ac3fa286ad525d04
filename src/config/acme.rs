//! Settings of ACME: domains, contacts, folder and certificate authority. `server::acme` uses them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use actix_web::http::Uri;
use thiserror::Error;

/// The directory URL of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// The directory URL of Let's Encrypt's staging environment, whose certificates browsers do not
/// trust.
const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// The name of the default folder for keys and certificates.
pub(super) const DIR: &str = "chinwag-acme";

/// Settings to obtain a certificate with ACME (RFC 8555). The certificate authority validates each
/// domain with a TLS connection to its port 443 (TLS-ALPN-01, RFC 8737).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Acme {
    /// The domains of the certificate: at least one.
    pub domains: Vec<DomainName>,
    /// Contact e-mail addresses. Defaults to none.
    pub contacts: Vec<EmailAddress>,
    /// Folder for the account key and the certificates. It is created with mode 0700, and must
    /// not be accessible to other users. Defaults to `chinwag-acme`.
    pub dir: PathBuf,
    /// The directory URL of the authority. Defaults to that of Let's Encrypt.
    pub url: DirectoryUrl,
    /// PEM file with the root certificates to trust for connections to the authority. Defaults to
    /// those of Mozilla, which are built in.
    pub ca: Option<PathBuf>,
}

impl Acme {
    /// Returns settings to obtain one certificate for all these domains from Let's Encrypt.
    #[must_use]
    pub fn new(domains: Vec<DomainName>) -> Self {
        let (contacts, dir, url) = (Vec::new(), DIR.into(), DirectoryUrl::lets_encrypt());
        Self { domains, contacts, dir, url, ca: None }
    }
}

/// A DNS name in lower case, such as `chat.example`, without wildcard or port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainName(String);

/// An e-mail address, such as `me@chat.example`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailAddress(String);

/// The `https` URL of an ACME directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryUrl(String);

/// An invalid value of an ACME setting.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AcmeValueError {
    /// Not a DNS name.
    #[error(
        "must be a DNS name such as chat.example: no IP address, wildcard, port or scheme; \
         non-ASCII names in their xn-- form"
    )]
    Domain,
    /// Not an e-mail address.
    #[error("must be an e-mail address such as me@chat.example")]
    Email,
    /// Not an `https` URL.
    #[error("must be the https URL of an ACME directory such as https://ca.example/directory")]
    Url,
}

impl FromStr for DomainName {
    type Err = AcmeValueError;

    fn from_str(text: &str) -> Result<Self, AcmeValueError> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // The last label of an IPv4 address is a number. That of a DNS name is not.
        let last = text.rsplit('.').next().unwrap_or_default();
        let is_address = last.bytes().all(|byte| byte.is_ascii_digit());
        if text.len() <= 253 && !is_address && text.split('.').all(is_label) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(AcmeValueError::Domain)
        }
    }
}

impl FromStr for EmailAddress {
    type Err = AcmeValueError;

    fn from_str(text: &str) -> Result<Self, AcmeValueError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AcmeValueError::Email)?;
        // Other characters would have to be escaped in a `mailto` URL.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".!'*+-=^_~".contains(&byte);
        if !local.is_empty() && local.bytes().all(is_plain) && domain.parse::<DomainName>().is_ok()
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(AcmeValueError::Email)
        }
    }
}

impl FromStr for DirectoryUrl {
    type Err = AcmeValueError;

    fn from_str(text: &str) -> Result<Self, AcmeValueError> {
        let url: Uri = text.parse().map_err(|_| AcmeValueError::Url)?;
        let is_https = url.scheme_str() == Some("https");
        if is_https && url.host().is_some_and(|host| !host.is_empty()) && !text.contains('@') {
            Ok(Self(text.to_owned()))
        } else {
            Err(AcmeValueError::Url)
        }
    }
}

impl DomainName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EmailAddress {
    /// Returns the address as text, without `mailto:`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DirectoryUrl {
    /// Returns the directory URL of Let's Encrypt.
    #[must_use]
    pub fn lets_encrypt() -> Self {
        Self(LETS_ENCRYPT.to_owned())
    }

    /// Returns the directory URL of Let's Encrypt's staging environment, for tests. It has higher
    /// rate limits, and no browser trusts its certificates.
    #[must_use]
    pub fn lets_encrypt_staging() -> Self {
        Self(LETS_ENCRYPT_STAGING.to_owned())
    }

    /// Returns the URL as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DirectoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_must_be_a_dns_name() {
        let long = format!("{}.example", "x".repeat(63));
        for text in ["chat.example", "localhost", "xn--bcher-kva.example", "4.example", &long] {
            assert_eq!(text.parse::<DomainName>().map(|name| name.0), Ok(text.to_owned()));
        }
        assert_eq!("Chat.Example".parse(), Ok(DomainName("chat.example".into())));
        let too_long = format!("{}.example", "x".repeat(64));
        let wrong = ["", ".", "chat.", ".chat", "a..b", "*.chat.example", "192.0.2.1", "[::1]"];
        let more = ["::1", "bücher.example", "chat.example:443", "https://chat.example", "a b"];
        for text in wrong.into_iter().chain(more).chain(["-a.example", "a_b.example", &too_long]) {
            assert_eq!(text.parse::<DomainName>(), Err(AcmeValueError::Domain), "{text}");
        }
    }

    #[test]
    fn contact_must_be_an_email_address() {
        for text in ["me@example", "first.last+chat@mail.example"] {
            assert_eq!(text.parse(), Ok(EmailAddress(text.into())));
        }
        for text in ["", "me", "@example", "me@", "a b@example", "mailto:me@example", "a@b@c,d@e"] {
            assert_eq!(text.parse::<EmailAddress>(), Err(AcmeValueError::Email), "{text}");
        }
    }

    #[test]
    fn directory_must_be_an_https_url() {
        for text in [LETS_ENCRYPT, LETS_ENCRYPT_STAGING, "https://127.0.0.1:14000/dir"] {
            assert_eq!(text.parse(), Ok(DirectoryUrl(text.into())));
        }
        for text in ["", "ca.example", "http://ca.example/dir", "https://", "https://u@h/", "/dir"]
        {
            assert_eq!(text.parse::<DirectoryUrl>(), Err(AcmeValueError::Url), "{text}");
        }
    }
}
