//! The topic of a room.

use serde::Serialize;
use thiserror::Error;

use super::characters::is_invisible;

/// The topic of a room: one trimmed line of at most 250 characters. It is empty if the room has no
/// topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Topic(Box<str>);

/// Why a text is not a [`Topic`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadTopic {
    /// It has more than [`Topic::MAX_CHARS`] characters.
    #[error("a topic must have at most 250 characters")]
    Length,
    /// It has a control character, such as a line break.
    #[error("a topic must not contain line breaks or other control characters")]
    Control,
}

impl Topic {
    /// The greatest number of characters.
    pub const MAX_CHARS: usize = 250;

    /// Parses a topic as typed.
    ///
    /// # Errors
    /// See [`BadTopic`].
    pub fn parse(text: &str) -> Result<Self, BadTopic> {
        let text = text.trim();
        if text.chars().nth(Self::MAX_CHARS).is_some() {
            Err(BadTopic::Length)
        } else if text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
            Err(BadTopic::Control)
        } else if text.chars().all(|c| c.is_whitespace() || is_invisible(c)) {
            Ok(Self::default())
        } else {
            Ok(Self(text.into()))
        }
    }

    /// Creates a topic that was read from storage, without validating it again.
    #[cfg(feature = "journal")]
    pub(crate) fn from_trusted(text: String) -> Self {
        Self(text.into())
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the room has no topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
