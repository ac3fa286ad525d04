//! An emoji.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use thiserror::Error;

/// One emoji, such as a reaction to a message. Different spellings of an emoji, with or without a
/// variation selector, are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Emoji(Spelling);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Spelling {
    Known(&'static str),
    /// An emoji from the log that this version does not know.
    Unknown(Arc<str>),
}

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
        emojis::get(text).map(|emoji| Self(Spelling::Known(emoji.as_str()))).ok_or(BadEmoji)
    }

    /// Creates an emoji that was read from storage. It may be unknown to this version.
    #[cfg(feature = "journal")]
    pub(crate) fn from_trusted(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|_| Self(Spelling::Unknown(text.into())))
    }

    /// Returns the emoji.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Spelling::Known(text) => text,
            Spelling::Unknown(text) => text,
        }
    }
}

impl fmt::Display for Emoji {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Emoji {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
