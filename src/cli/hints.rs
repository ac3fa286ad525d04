//! Adds to most errors of the library what to do, usually which flags to check. The library does
//! not name flags, since another program that uses it may have none.

use chinwag::config::ConfigError;
#[cfg(feature = "cluster")]
use chinwag::log::jetstream::{ClusterError, Refused};
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
            "choose another directory with --acme-dir, or run chmod 700 on this one"
        }
        #[cfg(feature = "tls")]
        ServerError::Acme(AcmeError::CaFile { .. } | AcmeError::NoCaCertificate(_)) => {
            "check --acme-ca"
        }
        #[cfg(not(feature = "tls"))]
        ServerError::NoTls => "leave out --tls-cert, --tls-key and --acme",
        #[cfg(feature = "journal")]
        ServerError::Journal(error) => return with_alternatives(error),
        #[cfg(feature = "cluster")]
        ServerError::Cluster(ClusterError::Refused(
            Refused::Forked { epoch, .. } | Refused::NoStream { epoch, .. },
        )) => return format!("{error} with --nats-new-epoch {epoch}"),
        #[cfg(feature = "cluster")]
        ServerError::Cluster(ClusterError::Refused(_)) => return error.to_string(),
        #[cfg(feature = "cluster")]
        ServerError::Cluster(
            ClusterError::Source(_) | ClusterError::Install(_) | ClusterError::Journal(_),
        ) => "check the file and its folder, or choose another file with --db",
        #[cfg(feature = "cluster")]
        ServerError::Cluster(_) => "check --nats and the other flags of the cluster",
        #[cfg(not(feature = "cluster"))]
        ServerError::NoCluster => "build it with --features cluster, or leave out --nats",
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
        ConfigError::PongTimeoutTooShort(_) => "--pong-timeout and --ping-interval",
        ConfigError::IncompleteTls => "--tls-cert and --tls-key",
        ConfigError::TwoCertificates => "--acme, --tls-cert and --tls-key",
        ConfigError::NoAcmeDomain(setting) => {
            return format!("{error}; add --acme, or leave out --{}", setting.replace('_', "-"));
        }
        ConfigError::EmptyAcme => "--acme",
        ConfigError::TwoAuthorities => "--acme-staging and --acme-url",
        ConfigError::RedirectWithoutTls => "--redirect-from, --acme, --tls-cert and --tls-key",
        ConfigError::NoNats(setting) => {
            return format!("{error}; add --nats, or leave out --{}", setting.replace('_', "-"));
        }
        ConfigError::EmptyCluster => "--nats",
        ConfigError::ClusterWithoutDb => "--nats and --db",
        ConfigError::ClusterWithAcme => "--nats and --acme",
        ConfigError::IncompleteNatsTls => "--nats-cert and --nats-key",
        ConfigError::NoPage(_) => "--static-dir",
    };
    format!("{error}; check {flags}")
}

#[cfg(feature = "journal")]
fn with_alternatives(error: &JournalError) -> String {
    let first = match error {
        JournalError::InUse(_) => "stop that server, ",
        JournalError::System(..) => "check the folder and its permissions, ",
        JournalError::Sqlite(..) => "check the file, ",
        JournalError::Locked(_) => "stop that program, ",
        JournalError::NotAJournal(_) => "",
        JournalError::Newer(_) => "use that version, ",
    };
    format!(
        "{error}; {first}choose another file with --db, or keep messages in memory only with \
         --db none"
    )
}
