//! The name of a user.

use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use serde::{Serialize, Serializer};
use thiserror::Error;
use unicode_normalization::UnicodeNormalization;

use super::ClientId;
use super::characters::{
    has_many_marks, is_invisible, is_mark, looks_like_a_colon, lower, skeleton,
};

/// The name of a user: 1 to 32 characters in NFKC, trimmed, with inner white space reduced to one
/// space. It has no colon, control character or invisible character. It does not begin
/// with a combining mark and has at most two in a row.
///
/// Names that differ only in case are equal. Two users in a room cannot have names that look alike:
/// see [`Nick::forms`].
#[derive(Clone)]
pub struct Nick(Arc<Name>);

/// A name and the forms by which names are compared.
struct Name {
    shown: Box<str>,
    /// The name in lower case, unless that equals `shown`.
    key: Option<Box<str>>,
    /// Computed when it is first needed, which takes some microseconds.
    skeleton: OnceLock<Box<str>>,
}

/// Why a text is not a [`Nick`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadNick {
    /// It is empty after trimming, or has more than [`Nick::MAX_CHARS`] characters.
    #[error("a name must have 1 to 32 characters")]
    Length,
    /// It has a colon, a control character or an invisible character.
    #[error("a name must not contain colons, control characters or invisible characters")]
    Character,
    /// It begins with a combining mark, or has more than two in a row.
    #[error("a name must not begin with a combining mark or have more than two in a row")]
    Marks,
    /// It begins like a generated name.
    #[error("a name must not begin with 'anonymous-'")]
    Reserved,
}

impl Nick {
    /// The greatest number of characters, counted after normalization.
    pub const MAX_CHARS: usize = 32;

    /// The number of colons in a line that are tried as the end of a name.
    const COLONS_MAX: usize = 4;

    /// The prefix of generated names.
    pub const ANONYMOUS_PREFIX: &'static str = "anonymous-";

    /// Parses a name as typed.
    ///
    /// # Errors
    /// See [`BadNick`].
    pub fn parse(text: &str) -> Result<Self, BadNick> {
        let trimmed = text.trim();
        // Checked first: the checks below take up to half a microsecond for each character.
        if trimmed.chars().nth(8 * Self::MAX_CHARS).is_some() {
            return Err(BadNick::Length);
        }
        if trimmed.chars().any(|c| is_forbidden(c) && c != ' ') {
            return Err(BadNick::Character);
        }
        // NFKC expands one character to at most 18. Cutting the result bounds the work.
        let normal: String = trimmed.nfkc().take(8 * Self::MAX_CHARS).collect();
        let shown = normal.split_whitespace().collect::<Vec<_>>().join(" ");
        if shown.chars().any(|c| is_forbidden(c) && c != ' ') {
            return Err(BadNick::Character);
        }
        if !(1..=Self::MAX_CHARS).contains(&shown.chars().count()) {
            return Err(BadNick::Length);
        }
        if shown.starts_with(is_mark) || has_many_marks(&shown) {
            return Err(BadNick::Marks);
        }
        let nick = Self::from_trusted(shown);
        if Self::is_reserved(&nick.forms()) { Err(BadNick::Reserved) } else { Ok(nick) }
    }

    /// Returns the generated name of a client that has not chosen one: `anonymous-` and four
    /// letters or digits. A million consecutive clients have different names.
    #[must_use]
    pub fn anonymous(client: ClientId) -> Self {
        // Multiplication by an odd number permutes the 20-bit numbers: names do not repeat, and
        // consecutive clients have names that look different.
        let scrambled = client.0.wrapping_mul(0x9_E375) & 0xF_FFFF;
        let suffix: String =
            [15, 10, 5, 0].map(|shift| letter(scrambled >> shift)).iter().collect();
        Self::from_trusted(format!("{}{suffix}", Self::ANONYMOUS_PREFIX))
    }

    /// Returns the generated name of a client of a node: two more letters or digits are the mark of
    /// the node. So nodes with different marks generate different names.
    #[must_use]
    pub fn anonymous_on(mark: NodeMark, client: ClientId) -> Self {
        let [first, second] = mark.letters();
        Self::from_trusted(format!("{}{first}{second}", Self::anonymous(client)))
    }

    /// Returns this name with a number after it, if that is a valid name.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Option<Self> {
        // With a hyphen, the name `anonymous` would look like a generated one.
        ['-', ' '].into_iter().find_map(|before| {
            let end = format!("{before}{number}");
            let room = Self::MAX_CHARS.saturating_sub(end.len());
            let begin: String = self.as_str().chars().take(room).collect();
            Self::parse(&format!("{begin}{end}")).ok()
        })
    }

    /// Returns whether this is a generated name.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        // `parse` rejects this prefix and prefixes that look like it.
        self.as_str().starts_with(Self::ANONYMOUS_PREFIX)
    }

    /// Returns the names that the author of a line seems to have, if the line is read as `name:
    /// text`. Each is given by its [`Nick::forms`]. A reader does not see invisible characters, and
    /// everything that looks like a colon may end a name or be part of it.
    #[must_use]
    pub fn forms_claimed_by(line: &str) -> Vec<[String; 2]> {
        // An ASCII line without a colon claims no name.
        if !line.contains(|c: char| c == ':' || !c.is_ascii()) {
            return Vec::new();
        }
        let visible = line.nfkc().filter(|&c| !is_invisible(c));
        let mut in_space = true;
        let folded = visible.filter(|c| {
            let is_surplus = c.is_whitespace() && in_space;
            in_space = c.is_whitespace();
            !is_surplus
        });
        // A look-alike may be longer than the name: "rn" looks like "m".
        let head: String = folded.take(4 * Self::MAX_CHARS).collect();
        let colons = head.char_indices().filter(|(_, c)| looks_like_a_colon(*c));
        let names =
            colons.map(|(end, _)| head[..end].split_whitespace().collect::<Vec<_>>().join(" "));
        let names = names.filter(|name| !name.is_empty()).take(Self::COLONS_MAX);
        names.map(|name| Self::from_trusted(name).forms().map(str::to_owned)).collect()
    }

    /// Returns whether a name with these forms looks like a generated name.
    #[must_use]
    pub fn is_reserved<S: AsRef<str>>([key, name_skeleton]: &[S; 2]) -> bool {
        static SKELETON: LazyLock<String> = LazyLock::new(|| skeleton(Nick::ANONYMOUS_PREFIX));
        let looks_reserved = name_skeleton.as_ref().starts_with(&*SKELETON);
        key.as_ref().starts_with(Self::ANONYMOUS_PREFIX) || looks_reserved
    }

    /// Creates a name without validating it.
    pub(crate) fn from_trusted(shown: String) -> Self {
        let key = if shown.is_ascii() {
            shown.to_ascii_lowercase()
        } else {
            lower(&shown).collect::<String>()
        };
        let key = (key != shown).then(|| key.into());
        Self(Arc::new(Name { shown: shown.into(), key, skeleton: OnceLock::new() }))
    }

    /// Returns the name as it is shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.shown
    }

    /// Returns the name in lower case. Names with the same key are equal.
    #[must_use]
    pub fn key(&self) -> &str {
        self.0.key.as_ref().unwrap_or(&self.0.shown)
    }

    /// Returns the two forms by which names are compared: the key and the confusable skeleton. A
    /// name is taken if another user in the room has one of its forms.
    #[must_use]
    pub fn forms(&self) -> [&str; 2] {
        let skeleton = self.0.skeleton.get_or_init(|| skeleton(&self.0.shown).into());
        [self.key(), skeleton]
    }
}

impl fmt::Debug for Nick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nick").field(&self.as_str()).finish()
    }
}

impl PartialEq for Nick {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Nick {}

impl std::hash::Hash for Nick {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Serialize for Nick {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for Nick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The mark of a node in the generated names of its clients: two letters or digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeMark(u16);

impl NodeMark {
    /// The number of marks.
    pub const COUNT: u16 = 32 * 32;

    /// Returns the mark with this number, modulo [`NodeMark::COUNT`].
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self((number % u64::from(Self::COUNT)) as u16)
    }

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    fn letters(self) -> [char; 2] {
        [letter(u64::from(self.0 >> 5)), letter(u64::from(self.0))]
    }
}

/// Returns the letter or digit for the lowest 5 bits of a number.
fn letter(number: u64) -> char {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    char::from(ALPHABET[(number & 31) as usize])
}

fn is_forbidden(c: char) -> bool {
    // A mark belongs to a letter, even if it looks like a colon, as the visarga of Hindi does.
    c.is_control() || is_invisible(c) || looks_like_a_colon(c) && !is_mark(c)
}
