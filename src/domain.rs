//! What the chat talks about: clients, rooms, names, texts. Each is parsed once, where it enters
//! the program, and is valid ever after; nothing further in checks it again.

mod likeness;
mod message;
mod time;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use serde::{Serialize, Serializer};
use thiserror::Error;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use likeness::{likeness, mixes_look_alike_scripts};
pub(crate) use message::CountedBytes;
pub use message::{
    BadKey, BadMessageId, ChatMessage, Draft, Epoch, Identity, MessageId, Origin, Position, Seq,
};
pub use time::Timestamp;

/// One connection as the hub knows it. Unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u64);

impl ClientId {
    /// An id that no other client of this process has or had.
    #[must_use]
    pub fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A part of an interval, from none of it to almost all, evenly spread over clients that come
    /// one after another: by the golden ratio, as in Fibonacci hashing.
    #[must_use]
    pub fn part_of(self, interval: Duration) -> Duration {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        // Of the 64 bits the upper 32 are enough for a fraction.
        let fraction = self.0.wrapping_mul(GOLDEN) >> 32;
        interval.mul_f64(fraction as f64 / (f64::from(u32::MAX) + 1.0))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The name of a room: 1 to 64 letters and digits of any script, `-` and `_`, in lower case and
/// NFKC, so that what looks alike to a keyboard is the same room. A mark that belongs to a letter
/// (as in Hindi or Thai) counts as part of it, but no name begins with one. No name has letters of
/// more than one of the Latin, Cyrillic and Greek scripts: `lоbby` is to nobody's good.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RoomName(Arc<str>);

/// Why a text is not a [`RoomName`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadRoomName {
    /// Too short, too long, or with other characters.
    #[error("a room name is 1 to 64 letters, digits, '-' or '_'")]
    Character,
    /// With more than two combining marks in a row.
    #[error("a room name has at most two combining marks in a row")]
    Marks,
    /// Of several scripts whose letters look alike.
    #[error("a room name has letters of only one of the Latin, Cyrillic and Greek scripts")]
    MixedScripts,
}

impl RoomName {
    /// The most characters a room name has, counted after normalisation.
    pub const MAX_CHARS: usize = 64;

    /// Parses what a person typed or a link holds.
    ///
    /// # Errors
    /// See [`BadRoomName`].
    pub fn parse(text: &str) -> Result<Self, BadRoomName> {
        let name: String = lower(text).take(Self::MAX_CHARS + 1).collect();
        let mut chars = name.chars();
        let first_fits = chars.next().is_some_and(Self::is_name_char);
        let rest_fits = chars.all(|c| Self::is_name_char(c) || is_mark(c) && !is_invisible(c));
        if !first_fits || !rest_fits || name.chars().count() > Self::MAX_CHARS {
            Err(BadRoomName::Character)
        } else if has_many_marks(&name) {
            Err(BadRoomName::Marks)
        } else if mixes_look_alike_scripts(&name) {
            Err(BadRoomName::MixedScripts)
        } else {
            Ok(Self(name.into()))
        }
    }

    /// A name as it was kept with a message, whatever rules it was given by.
    #[must_use]
    pub fn kept(name: String) -> Self {
        Self(name.into())
    }

    /// The name, normalised.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_name_char(c: char) -> bool {
        let group = c.general_category_group();
        let letter_or_digit =
            matches!(group, GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number);
        letter_or_digit && !is_invisible(c) || c == '-' || c == '_'
    }
}

impl Default for RoomName {
    /// The room of those who name none: `lobby`.
    fn default() -> Self {
        Self("lobby".into())
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name an author goes by: 1 to 32 characters in NFKC, without control, bidirectional or
/// invisible characters, without a colon, without a combining mark at its beginning or more than
/// two in a row, trimmed, inner white space folded. Names that differ
/// only in case are the same name, and of names that look alike only one may be in a room.
#[derive(Clone)]
pub struct Nick(Arc<Name>);

/// A name, and the forms in which names are compared. The skeleton of the shown form takes some
/// microseconds to compute, so it is computed once, and only when names are compared.
struct Name {
    shown: Box<str>,
    /// In lower case, unless the shown form is.
    key: Option<Box<str>>,
    likeness: OnceLock<Box<str>>,
}

/// Why a text is not a [`Nick`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadNick {
    /// Nothing is left after trimming, or more than [`Nick::MAX_CHARS`] characters are.
    #[error("a name is 1 to 32 characters")]
    Length,
    /// A colon, or a character that cannot be seen.
    #[error("a name has no colon, no line break and no invisible characters")]
    Character,
    /// A combining mark without a letter to go on, or too many on one.
    #[error("a name does not begin with a combining mark, nor has more than two in a row")]
    Marks,
    /// It begins as the server's own names for the unnamed do.
    #[error("a name does not begin with 'anonymous-'")]
    Reserved,
}

impl Nick {
    /// The most characters a name has, counted after normalisation.
    pub const MAX_CHARS: usize = 32;

    /// Whose words a line is takes no longer to find out than so many comparisons.
    const COLONS_TRIED_MAX: usize = 4;

    /// How the names begin that the server gives to those without one.
    pub const ANONYMOUS_PREFIX: &'static str = "anonymous-";

    /// Parses what a person typed.
    ///
    /// # Errors
    /// See [`BadNick`].
    pub fn parse(text: &str) -> Result<Self, BadNick> {
        let trimmed = text.trim();
        // Checked first, since the checks below may take half a microsecond for each character.
        if trimmed.chars().nth(8 * Self::MAX_CHARS).is_some() {
            return Err(BadNick::Length);
        }
        if trimmed.chars().any(|c| is_forbidden_in_nick(c) && c != ' ') {
            return Err(BadNick::Character);
        }
        // Compatibility forms unfold to at most 18 characters each, so the work is bounded by
        // cutting what goes in; one character over the limit is enough to refuse it.
        let normal: String = trimmed.nfkc().take(8 * Self::MAX_CHARS).collect();
        let shown = normal.split_whitespace().collect::<Vec<_>>().join(" ");
        if shown.chars().any(|c| is_forbidden_in_nick(c) && c != ' ') {
            return Err(BadNick::Character);
        }
        if !(1..=Self::MAX_CHARS).contains(&shown.chars().count()) {
            return Err(BadNick::Length);
        }
        if shown.starts_with(is_mark) || has_many_marks(&shown) {
            return Err(BadNick::Marks);
        }
        let nick = Self::from_shown(shown);
        if Self::is_reserved(&nick.forms()) { Err(BadNick::Reserved) } else { Ok(nick) }
    }

    /// The name of a client that gave none: `anonymous-` and four letters or digits, different
    /// for any million clients in a row.
    #[must_use]
    pub fn anonymous(client: ClientId) -> Self {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        // Multiplying by an odd number permutes the 20-bit numbers, so neighbours look apart and
        // no two of them collide.
        let scrambled = client.0.wrapping_mul(0x9_E375) & 0xF_FFFF;
        let suffix: String = [15, 10, 5, 0]
            .map(|shift| char::from(ALPHABET[(scrambled >> shift & 31) as usize]))
            .iter()
            .collect();
        Self::from_shown(format!("{}{suffix}", Self::ANONYMOUS_PREFIX))
    }

    /// The name with a number behind it, if that is a name.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Option<Self> {
        let end = format!("-{number}");
        let room = Self::MAX_CHARS.saturating_sub(end.len());
        let begin: String = self.as_str().chars().take(room).collect();
        Self::parse(&format!("{begin}{end}")).ok()
    }

    /// Whether the server gave this name because its bearer has none.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        // No name that was chosen begins so, nor with anything that looks like it.
        self.as_str().starts_with(Self::ANONYMOUS_PREFIX)
    }

    /// Whether a name with these forms could be taken for one that the server gives.
    #[must_use]
    pub fn is_reserved<S: AsRef<str>>([key, likeness_of_it]: &[S; 2]) -> bool {
        static LIKENESS: LazyLock<String> = LazyLock::new(|| likeness(Nick::ANONYMOUS_PREFIX));
        let is_likely = likeness_of_it.as_ref().starts_with(&*LIKENESS);
        key.as_ref().starts_with(Self::ANONYMOUS_PREFIX) || is_likely
    }

    /// The name as it is shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.shown
    }

    /// The names that a line of the form `name: …` seems to be spoken by, in the forms in which
    /// names are compared, see [`Nick::forms`]. Invisible characters are passed over, as a reader's
    /// eye does, and whatever looks like a colon may be one, or be part of the name.
    #[must_use]
    pub fn forms_claimed_by(line: &str) -> Vec<[String; 2]> {
        // Most lines need no closer look.
        if !line.contains(|c: char| c == ':' || !c.is_ascii()) {
            return Vec::new();
        }
        // Any name with its colon fits in this, whatever white space is folded away before.
        let visible = line.nfkc().filter(|&c| !is_invisible(c));
        let mut in_space = true;
        let folded = visible.filter(|c| {
            let is_surplus = c.is_whitespace() && in_space;
            in_space = c.is_whitespace();
            !is_surplus
        });
        let head: String = folded.take(4 * Self::MAX_CHARS).collect();
        let colons = head.char_indices().filter(|(_, c)| looks_like_a_colon(*c));
        let names =
            colons.map(|(end, _)| head[..end].split_whitespace().collect::<Vec<_>>().join(" "));
        let names = names.filter(|name| !name.is_empty()).take(Self::COLONS_TRIED_MAX);
        names.map(|name| Self::from_shown(name).forms().map(str::to_owned)).collect()
    }

    /// A name as it was kept with a message, whatever rules it was given by.
    #[must_use]
    pub fn kept(shown: String) -> Self {
        Self::from_shown(shown)
    }

    /// The name in the form in which names are the same.
    #[must_use]
    pub fn key(&self) -> &str {
        self.0.key.as_ref().unwrap_or(&self.0.shown)
    }

    /// The forms in which names are compared: where others have either, the name is taken. What
    /// differs only in case has the same first, what looks alike the same second.
    #[must_use]
    pub fn forms(&self) -> [&str; 2] {
        let likeness = self.0.likeness.get_or_init(|| likeness(&self.0.shown).into());
        [self.key(), likeness]
    }

    fn from_shown(shown: String) -> Self {
        let key: String = lower(&shown).collect();
        let key = (key != shown).then(|| key.into());
        Self(Arc::new(Name { shown: shown.into(), key, likeness: OnceLock::new() }))
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

/// What an author said: at least one visible character, no control characters but newline and tab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct MessageText(Box<str>);

/// Why a text is not a [`MessageText`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadText {
    /// There is nothing in it.
    #[error("a message is not empty")]
    Empty,
    /// More than the limit that was given, in bytes.
    #[error("a message is at most {0} bytes")]
    TooLong(usize),
    /// A control character other than newline and tab.
    #[error("a message has no control characters but newline and tab")]
    Control,
}

impl MessageText {
    /// Parses what an author said, at most `max_bytes` long.
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

    /// A text as it was kept with a message, whatever rules it was given by.
    #[must_use]
    pub fn kept(text: String) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn looks_like_a_colon(c: char) -> bool {
    c == ':' || !c.is_ascii() && likeness(c.encode_utf8(&mut [0; 4])).starts_with(':')
}

/// NFKC and lower case, lazily, so that a caller can stop early on hostile input.
fn lower(text: &str) -> impl Iterator<Item = char> {
    text.nfkc().flat_map(char::to_lowercase).nfkc()
}

fn is_mark(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Mark
}

/// Whether combining marks are stacked so high that they cover the lines above.
fn has_many_marks(text: &str) -> bool {
    let mut in_a_row = 0;
    text.chars().any(|c| {
        in_a_row = if is_mark(c) { in_a_row + 1 } else { 0 };
        in_a_row > 2
    })
}

fn is_forbidden_in_nick(c: char) -> bool {
    // A mark is part of a letter, as the visarga of Hindi.
    c.is_control() || is_invisible(c) || looks_like_a_colon(c) && !is_mark(c)
}

/// Characters that leave no trace on a screen or turn the direction of what follows: formats
/// (bidirectional controls and zero-width characters among them), separators of lines and
/// paragraphs, private and unassigned ones, and those that Unicode lists as
/// `Default_Ignorable_Code_Point` or that fonts draw as nothing.
fn is_invisible(c: char) -> bool {
    use GeneralCategory as Category;
    matches!(
        c.general_category(),
        Category::Format
            | Category::LineSeparator
            | Category::ParagraphSeparator
            | Category::PrivateUse
            | Category::Surrogate
            | Category::Unassigned
    ) || matches!(
        c,
        '\u{034F}'
            | '\u{115F}'..='\u{1160}'
            | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FFA0}'
            | '\u{FFFC}'
            | '\u{13441}'..='\u{13442}'
            | '\u{16FE4}'
            | '\u{1D159}'
            | '\u{E0100}'..='\u{E01EF}'
    )
}

#[cfg(test)]
mod tests;
