//! Converts errors of `rustls-acme` to log messages, and classifies them.

use std::fmt;
use std::time::Duration;

use rustls_acme::OrderError;
use rustls_acme::acme::{AcmeError, Auth, Identifier};
use serde::Deserialize;

/// The class of a failure. It selects the delay before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// No connection to the authority could be made.
    NoConnection,
    /// Any other failure, such as a failed validation. The authority may count it against a rate
    /// limit, or may have issued a certificate.
    Failed,
    /// The new certificate is already due for renewal, so the system clock is probably wrong.
    Clock,
}

/// Why an attempt to obtain a certificate failed.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) cause: Cause,
    text: String,
}

/// The JSON in which an authority describes an error (RFC 7807).
#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    detail: String,
}

impl Problem {
    pub(super) fn failed(text: String) -> Self {
        Self { cause: Cause::Failed, text }
    }

    pub(super) fn clock() -> Self {
        let text = "the new certificate is already due for renewal; check the system clock";
        Self { cause: Cause::Clock, text: text.into() }
    }

    pub(super) fn timeout(time: Duration) -> Self {
        Self::failed(format!("no certificate within {}", humantime::format_duration(time)))
    }

    pub(super) fn from_order(error: &OrderError) -> Self {
        match error {
            OrderError::BadAuth(auth) => Self::failed(failed_validation(auth)),
            OrderError::BadOrder(order) => {
                let detail = order.error.as_ref().and_then(|error| error.detail.clone());
                let detail = detail.unwrap_or_else(|| "no reason given".into());
                Self::failed(format!("the authority rejected the order: {detail}"))
            }
            OrderError::TooManyAttemptsAuth(domain) => {
                Self::failed(format!("the authority did not validate {domain} in time"))
            }
            OrderError::Acme(AcmeError::HttpRequest(error)) => from_http(&error.to_string()),
            OrderError::ProcessingTimeout(_) | OrderError::Acme(_) | OrderError::Rcgen(_) => {
                Self::failed(error.to_string())
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn failed_validation(auth: &Auth) -> String {
    let Identifier::Dns(domain) = &auth.identifier;
    let mut errors = auth.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
    let detail = errors.find_map(|error| error.detail.as_deref()).unwrap_or("no reason given");
    format!("the authority cannot validate {domain} by a TLS connection to its port 443: {detail}")
}

/// Parses the text of an HTTP error, since its type is private to `rustls-acme`.
fn from_http(text: &str) -> Problem {
    let Some((status, body)) =
        text.strip_prefix("non 2xx http status: ").and_then(|rest| rest.split_once(' '))
    else {
        let text = format!("the connection to the authority failed: {}", system_message(text));
        return Problem { cause: Cause::NoConnection, text };
    };
    // The body is formatted with `Debug`. For most JSON texts the result is a valid JSON string.
    let details = serde_json::from_str::<String>(body)
        .and_then(|body| serde_json::from_str::<Details>(&body));
    let detail = details.map_or_else(
        |_| body.trim_matches('"').chars().take(200).collect(),
        |Details { detail }| detail,
    );
    Problem::failed(format!("the authority answered with status {status}: {detail}"))
}

/// Returns the message of the operating system in the text of an error, or the whole text.
fn system_message(text: &str) -> &str {
    let quoted = |before| text.split_once(before)?.1.split_once('"').map(|(message, _)| message);
    quoted("message: \"").or_else(|| quoted("error: \"")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn error_of_the_authority_is_reported_with_its_reason() {
        let http = |status: u16, body: &str| {
            let problem = from_http(&format!("non 2xx http status: {status} {body:?}"));
            assert_eq!(problem.cause, Cause::Failed);
            problem.text
        };
        let limited = "{\n  \"type\": \"urn:ietf:params:acme:error:rateLimited\",\
                       \n  \"detail\": \"too many \\\"failed\\\" ones\",\n  \"status\": 429\n}";
        let expected = "the authority answered with status 429: too many \"failed\" ones";
        assert_eq!(http(429, limited), expected);
        assert_eq!(http(404, "<html>"), "the authority answered with status 404: <html>");
    }

    #[test]
    fn failed_connection_is_reported_with_the_message_of_the_system() {
        let os = io::Error::other("name or service not known");
        let known = format!("http error: ConnectError(TcpConnect({os:?}))");
        let other = "http error: ConnectError(TlsConnect(Custom { error: UnknownIssuer }))";
        for (text, message) in
            [(known.as_str(), "name or service not known"), (other, "UnknownIssuer")]
        {
            let problem = from_http(text);
            assert_eq!(problem.cause, Cause::NoConnection);
            let start = "the connection to the authority failed: ";
            assert!(problem.text.starts_with(start), "{problem}");
            assert!(problem.text.contains(message), "{problem}");
        }
        assert_eq!(from_http(&known).text.matches("name").count(), 1);
        let refused = "TcpConnect(Os { code: 111, message: \"Connection refused\" })";
        assert_eq!(system_message(refused), "Connection refused");
    }

    #[test]
    fn failed_validation_names_the_domain_and_the_reason_of_the_authority() {
        let auth: Auth = serde_json::from_str(
            r#"{"status": "invalid", "identifier": {"type": "dns", "value": "chat.example"},
                "challenges": [
                    {"type": "dns-01", "url": "https://ca.example/1", "token": "x"},
                    {"type": "tls-alpn-01", "url": "https://ca.example/2", "token": "x",
                     "error": {"type": "connection", "detail": "connection refused"}}]}"#,
        )
        .expect("an authorization");
        let problem = Problem::from_order(&OrderError::BadAuth(auth));
        let expected = "the authority cannot validate chat.example by a TLS connection to its \
                        port 443: connection refused";
        assert_eq!((problem.cause, problem.text.as_str()), (Cause::Failed, expected));
    }
}
