//! The log's settings in the file. If the configuration has different settings, the writer appends
//! a settings entry before the log is used.

use log::warn;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::schema::{self, OpenError};
use crate::domain::{Seq, Settings};

/// The settings entry that is in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredSettings {
    /// Its sequence number. 0 if a new file began with these settings.
    pub(super) seq: Seq,
    pub(super) settings: Settings,
}

/// The part of [`StoredSettings`] that every version can read.
#[derive(Deserialize)]
struct Versioned {
    settings: Version,
}

#[derive(Deserialize)]
struct Version {
    rules: u32,
}

impl StoredSettings {
    pub(super) fn load(connection: &Connection) -> Result<Option<Self>, OpenError> {
        let Some(json) = schema::meta::<String>(connection, "settings")? else { return Ok(None) };
        let parsed = serde_json::from_str(&json);
        let Versioned { settings: Version { rules } } =
            parsed.map_err(|_| OpenError::NotAJournal)?;
        if rules > Settings::RULES {
            return Err(OpenError::Newer);
        }
        serde_json::from_str(&json).map(Some).map_err(|_| OpenError::NotAJournal)
    }

    pub(super) fn store(&self, connection: &Connection) -> rusqlite::Result<()> {
        let json = serde_json::to_string(self);
        let json = json.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        schema::set_meta(connection, "settings", json)
    }
}

/// Warns if the settings of a shared log, which are used, differ from those of the configuration.
pub(super) fn warn_if_other(of_log: &Settings, configured: &Settings) {
    if of_log != configured {
        warn!(
            "the settings of the shared log are used instead of those of the configuration: {}; \
             configuration: {}",
            describe(of_log),
            describe(configured)
        );
    }
}

/// Warns if the settings of a shared log change.
#[cfg(feature = "cluster")]
pub(super) fn warn_of_change(before: &Settings, after: &Settings) {
    if before != after {
        let (before, after) = (describe(before), describe(after));
        warn!("the settings of the shared log are changed to: {after}; before: {before}");
    }
}

/// Describes settings for a log line.
pub(super) fn describe(settings: &Settings) -> String {
    let Settings { rules, keep_messages, keep_bytes, keep_for, edits, edit_window } = settings;
    let or_no_limit = |value: Option<String>| value.unwrap_or_else(|| "no limit".into());
    format!(
        "messages to keep in a room: {keep_messages}; bytes to keep: {}; time to keep: {}; \
         edits: {}; time to edit: {}; rules: version {rules}",
        or_no_limit(keep_bytes.map(|bytes| bytes.to_string())),
        or_no_limit(keep_for.map(|time| humantime::format_duration(time).to_string())),
        if *edits { "yes" } else { "no" },
        or_no_limit(edit_window.map(|time| humantime::format_duration(time).to_string())),
    )
}
