//! The name of a room.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::characters::{has_many_marks, is_invisible, is_mark, lower, mixes_similar_scripts};

/// The name of a room: 1 to 64 letters and digits of any script, `-` and `_`, in lower case and
/// NFKC. Combining marks are allowed after the first character. Letters must not come from more
/// than one of the Latin, Cyrillic and Greek scripts, since `lоbby` with a Cyrillic letter would
/// look like `lobby`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RoomName(Arc<str>);

/// Why a text is not a [`RoomName`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadRoomName {
    /// It is empty or too long, or has other characters.
    #[error("a room name must have 1 to 64 letters, digits, '-' or '_'")]
    Character,
    /// It has more than two combining marks in a row.
    #[error("a room name must have at most two combining marks in a row")]
    Marks,
    /// It mixes scripts whose letters look alike.
    #[error("a room name must not mix letters of the Latin, Cyrillic and Greek scripts")]
    MixedScripts,
}

impl RoomName {
    /// The greatest number of characters, counted after normalization.
    pub const MAX_CHARS: usize = 64;

    /// Parses a name as typed or from a link.
    ///
    /// # Errors
    /// See [`BadRoomName`].
    pub fn parse(text: &str) -> Result<Self, BadRoomName> {
        let name: String = lower(text).take(Self::MAX_CHARS + 1).collect();
        let mut chars = name.chars();
        let first_fits = chars.next().is_some_and(is_name_char);
        let rest_fits = chars.all(|c| is_name_char(c) || is_mark(c) && !is_invisible(c));
        if !first_fits || !rest_fits || name.chars().count() > Self::MAX_CHARS {
            Err(BadRoomName::Character)
        } else if has_many_marks(&name) {
            Err(BadRoomName::Marks)
        } else if mixes_similar_scripts(&name) {
            Err(BadRoomName::MixedScripts)
        } else {
            Ok(Self(name.into()))
        }
    }

    /// Creates a name that was read from storage, without validating it again.
    #[cfg(feature = "journal")]
    pub(crate) fn from_trusted(name: String) -> Self {
        Self(name.into())
    }

    /// Returns the normalized name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RoomName {
    /// Returns the room of clients that do not name one: `lobby`.
    fn default() -> Self {
        Self("lobby".into())
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name_char(c: char) -> bool {
    let group = c.general_category_group();
    let letter_or_digit =
        matches!(group, GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number);
    letter_or_digit && !is_invisible(c) || c == '-' || c == '_'
}
