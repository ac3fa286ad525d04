//! What to do about an error: the library says what is wrong, and only the program knows by which
//! flag that is changed.

use chinwag::config::ConfigError;
#[cfg(feature = "journal")]
use chinwag::journal::JournalError;
use chinwag::server::ServerError;

/// The error as one line, with what to do.
pub(crate) fn with_hint(error: &ServerError) -> String {
    let hint = match error {
        ServerError::Config(error) => return with_flag(error),
        ServerError::Listen { .. } => "choose another address with --listen",
        #[cfg(feature = "journal")]
        ServerError::Journal(error) => return with_other_file(error),
        #[cfg(not(feature = "metrics"))]
        ServerError::NoMetrics => "leave out --metrics-listen",
        #[cfg(not(feature = "page"))]
        ServerError::NoPage => "leave out --static-dir",
        #[cfg(not(feature = "journal"))]
        ServerError::NoJournal => "say --db none",
        ServerError::Signals(_) | ServerError::HubDied | ServerError::Interrupted => {
            return error.to_string();
        }
    };
    format!("{error}; {hint}")
}

/// The same for flags that do not fit together.
pub(crate) fn with_flag(error: &ConfigError) -> String {
    let flags = match error {
        ConfigError::NoListen => "--listen",
        ConfigError::FrameTooSmall(_) => "--max-frame-bytes and --max-message-bytes",
        ConfigError::SendQueueTooSmall => "--send-queue",
        ConfigError::PongTooEarly(_) => "--pong-timeout and --ping-interval",
        ConfigError::NoPage(_) => "--static-dir",
    };
    format!("{error}; see to {flags}")
}

#[cfg(feature = "journal")]
fn with_other_file(error: &JournalError) -> String {
    let first = match error {
        JournalError::InUse(_) => "stop that one, ",
        JournalError::System(..) => "see to the folder and its permissions, ",
        JournalError::Sqlite(..) => "see to the file, ",
        JournalError::Locked(_) => "end that one, ",
        JournalError::NotOurs(_) => "",
        JournalError::Newer(_) => "use that, ",
    };
    format!(
        "{error}; {first}choose another file with --db, or keep messages in memory only with \
         --db none"
    )
}
