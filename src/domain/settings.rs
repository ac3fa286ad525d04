//! The settings on which the rules of a log depend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The settings on which the [`rules`](crate::log::rules) of a log depend. They are stored in the
/// log, so that everyone who applies its entries reaches the same state, whatever their own
/// configuration is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The version of the rules. See [`Settings::RULES`].
    pub rules: u32,
    /// Messages to keep in each room.
    pub keep_messages: u64,
    /// Bytes to keep in total. See [`MESSAGE_BYTES`](crate::log::rules::MESSAGE_BYTES) and
    /// [`REACTION_BYTES`](crate::log::rules::REACTION_BYTES). `None` disables the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_bytes: Option<u64>,
    /// How long to keep a message, in milliseconds. `None` disables the limit.
    #[serde(rename = "keep_for_ms", skip_serializing_if = "Option::is_none")]
    #[serde(with = "optional_millis", default)]
    pub keep_for: Option<Duration>,
    /// Whether authors may edit and delete their messages.
    pub edits: bool,
    /// How long after sending a message its author may edit or delete it, in milliseconds. `None`
    /// disables the limit.
    #[serde(rename = "edit_window_ms", skip_serializing_if = "Option::is_none")]
    #[serde(with = "optional_millis", default)]
    pub edit_window: Option<Duration>,
}

impl Settings {
    /// The version of the rules that this version of chinwag applies.
    pub const RULES: u32 = 1;
}

impl Default for Settings {
    /// Returns settings without limits.
    fn default() -> Self {
        Self {
            rules: Self::RULES,
            keep_messages: u64::MAX,
            keep_bytes: None,
            keep_for: None,
            edits: true,
            edit_window: None,
        }
    }
}

/// Serializes a duration as a number of milliseconds.
mod optional_millis {
    use super::{Deserialize, Duration, Serialize};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let millis =
            duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        millis.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}
