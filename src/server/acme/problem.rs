//! Why no certificate was obtained, in words for the log.

use std::fmt;
use std::time::Duration;

use rustls_acme::OrderError;
use rustls_acme::acme::{AcmeError, Auth, Identifier};
use serde::Deserialize;

/// What decides how soon it is worth trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The authority did not answer, or has a problem of its own.
    Unreachable,
    /// The authority refused, for example because it could not validate a domain.
    Refused,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) cause: Cause,
    text: String,
}

/// How an authority describes an error (RFC 7807).
#[derive(Deserialize)]
struct Details {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    detail: String,
}

impl Problem {
    pub(super) fn refused(text: String) -> Self {
        Self { cause: Cause::Refused, text }
    }

    pub(super) fn no_answer_within(time: Duration) -> Self {
        let text = format!("not done within {}", humantime::format_duration(time));
        Self { cause: Cause::Unreachable, text }
    }

    pub(super) fn of(error: &OrderError) -> Self {
        match error {
            OrderError::BadAuth(auth) => Self::refused(failed_validation(auth)),
            OrderError::BadOrder(order) => {
                let detail = order.error.as_ref().and_then(|error| error.detail.clone());
                let detail = detail.unwrap_or_else(|| "no reason given".into());
                Self::refused(format!("it rejects the order: {detail}"))
            }
            OrderError::TooManyAttemptsAuth(domain) => {
                Self::refused(format!("it has not validated {domain} in time"))
            }
            OrderError::ProcessingTimeout(_) => Self::refused("it takes too long".into()),
            OrderError::Acme(AcmeError::HttpRequest(error)) => of_http(&error.to_string()),
            OrderError::Acme(_) | OrderError::Rcgen(_) => {
                Self { cause: Cause::Unreachable, text: error.to_string() }
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
    format!("it cannot validate {domain} by a TLS connection to its port 443: {detail}")
}

/// Reads the text of a failed request, since its type is private to `rustls-acme`.
fn of_http(text: &str) -> Problem {
    let Some((status, body)) =
        text.strip_prefix("non 2xx http status: ").and_then(|rest| rest.split_once(' '))
    else {
        let text = format!("the connection to it failed: {}", system_message(text));
        return Problem { cause: Cause::Unreachable, text };
    };
    // The body is quoted as Rust does, which for JSON is as JSON does.
    let details = serde_json::from_str::<String>(body)
        .and_then(|body| serde_json::from_str::<Details>(&body));
    let details = details.unwrap_or_else(|_| Details {
        kind: String::new(),
        detail: body.chars().take(200).collect(),
    });
    // A nonce may expire between two requests; the next attempt has another one.
    let is_temporary = status.starts_with('5') || details.kind.ends_with(":badNonce");
    let cause = if is_temporary { Cause::Unreachable } else { Cause::Refused };
    Problem { cause, text: format!("it answers with status {status}: {}", details.detail) }
}

/// The message of the operating system in the text of an error, or all of the text.
fn system_message(text: &str) -> &str {
    let quoted = |before| text.split_once(before)?.1.split_once('"').map(|(message, _)| message);
    quoted("message: \"").or_else(|| quoted("error: \"")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn http(status: u16, body: &str) -> (Cause, String) {
        let problem = of_http(&format!("non 2xx http status: {status} {body:?}"));
        (problem.cause, problem.to_string())
    }

    #[test]
    fn answer_of_the_authority_is_a_refusal_with_its_reason_unless_it_is_temporary() {
        let limited = "{\n  \"type\": \"urn:ietf:params:acme:error:rateLimited\",\
                       \n  \"detail\": \"too many \\\"failed\\\" ones\",\n  \"status\": 429\n}";
        let expected = "it answers with status 429: too many \"failed\" ones".to_owned();
        assert_eq!(http(429, limited), (Cause::Refused, expected));
        let nonce = r#"{"type": "urn:ietf:params:acme:error:badNonce", "detail": "old"}"#;
        let expected = "it answers with status 400: old".to_owned();
        assert_eq!(http(400, nonce), (Cause::Unreachable, expected));
        assert_eq!(http(503, "busy").0, Cause::Unreachable);
        assert_eq!(http(404, "<html>").0, Cause::Refused);
    }

    #[test]
    fn failed_connection_is_told_in_the_words_of_the_system() {
        let os = io::Error::other("name or service not known");
        let known = format!("http error: ConnectError(TcpConnect({os:?}))");
        let other = "http error: ConnectError(TlsConnect(Custom { error: UnknownIssuer }))";
        for (text, message) in
            [(known.as_str(), "name or service not known"), (other, "UnknownIssuer")]
        {
            let problem = of_http(text);
            assert_eq!(problem.cause, Cause::Unreachable);
            assert!(problem.text.starts_with("the connection to it failed: "), "{problem}");
            assert!(problem.text.contains(message), "{problem}");
        }
        assert_eq!(of_http(&known).text.matches("name").count(), 1);
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
        let problem = Problem::of(&OrderError::BadAuth(auth));
        let expected = "it cannot validate chat.example by a TLS connection to its port 443: \
                        connection refused";
        assert_eq!((problem.cause, problem.text.as_str()), (Cause::Refused, expected));
    }
}
