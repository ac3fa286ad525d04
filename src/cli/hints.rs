//! Adds to an error of the library what to do about it: only the program has flags.

use chinwag::config::ConfigError;
#[cfg(feature = "journal")]
use chinwag::log::sqlite::JournalError;
#[cfg(feature = "tls")]
use chinwag::server::AcmeError;
use chinwag::server::ServerError;

/// Formats an error of the server as one line, with what to do about it.
pub(crate) fn with_hint(error: &ServerError) -> String {
    let hint = match error {
        ServerError::Config(error) => return with_flag(error),
        ServerError::Listen { .. } => "choose another address with --listen",
        #[cfg(feature = "tls")]
        ServerError::Tls(_) => "check --tls-cert and --tls-key",
        #[cfg(feature = "tls")]
        ServerError::Acme(AcmeError::Dir { .. }) => "check its permissions and --acme-dir",
        #[cfg(feature = "tls")]
        ServerError::Acme(AcmeError::OpenDir { .. }) => {
            "choose a folder that only chinwag uses with --acme-dir, or run chmod 700"
        }
        #[cfg(feature = "tls")]
        ServerError::Acme(AcmeError::CaFile { .. } | AcmeError::NoCaCertificate(_)) => {
            "check --acme-ca"
        }
        #[cfg(not(feature = "tls"))]
        ServerError::NoTls => "leave out --tls-cert, --tls-key and --acme",
        #[cfg(feature = "journal")]
        ServerError::Journal(error) => return with_other_file(error),
        #[cfg(not(feature = "metrics"))]
        ServerError::NoMetrics => "leave out --metrics-listen",
        #[cfg(not(feature = "page"))]
        ServerError::NoPage => "leave out --static-dir",
        #[cfg(not(feature = "journal"))]
        ServerError::NoJournal => "start with --db none",
        ServerError::Signals(_) | ServerError::HubFailed | ServerError::Interrupted => {
            return error.to_string();
        }
    };
    format!("{error}; {hint}")
}

/// Formats an error of the configuration as one line, with the flags to change.
pub(crate) fn with_flag(error: &ConfigError) -> String {
    let flags = match error {
        ConfigError::NoListen => "--listen",
        ConfigError::FrameTooSmall(_) => "--max-frame-bytes and --max-message-bytes",
        ConfigError::SendQueueTooSmall => "--send-queue",
        ConfigError::PongTooEarly(_) => "--pong-timeout and --ping-interval",
        ConfigError::HalfTls => "--tls-cert and --tls-key",
        ConfigError::TwoCertificates => "--acme, or --tls-cert and --tls-key",
        ConfigError::NoAcmeDomain(setting) => {
            return format!("{error}; add --acme, or leave out --{}", setting.replace('_', "-"));
        }
        ConfigError::EmptyAcme => "--acme",
        ConfigError::TwoAuthorities => "--acme-staging or --acme-url",
        ConfigError::NothingToRedirectTo => "--redirect-from, --acme, --tls-cert and --tls-key",
        ConfigError::NoPage(_) => "--static-dir",
    };
    format!("{error}; change {flags}")
}

#[cfg(feature = "journal")]
fn with_other_file(error: &JournalError) -> String {
    let first = match error {
        JournalError::InUse(_) => "stop that one, ",
        JournalError::System(..) => "check the folder and its permissions, ",
        JournalError::Sqlite(..) => "check the file, ",
        JournalError::Locked(_) => "end that one, ",
        JournalError::NotAJournal(_) => "",
        JournalError::Newer(_) => "use that, ",
    };
    format!(
        "{error}; {first}choose another file with --db, or keep messages in memory only with \
         --db none"
    )
}
