//! An emoji.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use thiserror::Error;

/// One emoji, for example of a reaction. The spellings of an emoji with and without a variation
/// selector are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Emoji(Cow<'static, str>);

/// The text is not an [`Emoji`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("a reaction must be one emoji")]
pub struct BadEmoji;

impl Emoji {
    /// Parses an emoji that a client sent.
    ///
    /// # Errors
    /// Returns an error if the text is not exactly one emoji.
    pub fn parse(text: &str) -> Result<Self, BadEmoji> {
        emojis::get(text).map(|emoji| Self(emoji.as_str().into())).ok_or(BadEmoji)
    }

    /// Creates an emoji that was read from storage. It may be unknown to this version.
    #[cfg(feature = "journal")]
    pub(crate) fn from_trusted(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|_| Self(text.to_owned().into()))
    }

    /// Returns the emoji.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Emoji {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
