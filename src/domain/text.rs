//! The text of a message.

use serde::Serialize;
use thiserror::Error;

use super::characters::is_invisible;

/// About how much memory a message takes beside its text, in bytes.
const OVERHEAD_BYTES: usize = 350;

/// Returns about how much memory a message takes whose text has this many bytes.
pub(crate) fn memory_bytes(text_bytes: usize) -> usize {
    text_bytes.saturating_add(OVERHEAD_BYTES)
}

/// The text of a message: at least one visible character, and no control characters except newline
/// and tab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct MessageText(Box<str>);

/// Why a text is not a [`MessageText`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadText {
    /// It has no visible character.
    #[error("a message must not be empty")]
    Empty,
    /// It is longer than this limit, in bytes.
    #[error("a message must have at most {0} bytes")]
    TooLong(usize),
    /// It has a control character other than newline and tab.
    #[error("a message must not contain control characters other than newline and tab")]
    Control,
}

impl MessageText {
    /// Parses the text of a message of at most `max_bytes` bytes.
    ///
    /// # Errors
    /// See [`BadText`].
    pub fn parse(text: impl Into<Box<str>>, max_bytes: usize) -> Result<Self, BadText> {
        let text = text.into();
        if text.len() > max_bytes {
            Err(BadText::TooLong(max_bytes))
        } else if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            Err(BadText::Control)
        } else if text.chars().all(|c| c.is_whitespace() || is_invisible(c)) {
            Err(BadText::Empty)
        } else {
            Ok(Self(text))
        }
    }

    /// Creates a text that was read from storage, without validating it again.
    #[cfg(feature = "journal")]
    pub(crate) fn from_trusted(text: String) -> Self {
        Self(text.into())
    }

    /// Returns the text of a deleted message, which is empty.
    #[must_use]
    pub fn deleted() -> Self {
        Self(Box::default())
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
