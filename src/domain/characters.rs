//! Properties of characters that decide whether a name is allowed: invisible characters, combining
//! marks, and characters that look alike (UTS #39).

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};
use unicode_script::{Script, UnicodeScript};
use unicode_security::confusable_detection::skeleton as uts39_skeleton;

/// Returns the confusable skeleton of a text in lower case. Texts that look alike have the same
/// skeleton: `paypal` and `pаypaI`. Skeletons are only compared, never shown.
pub(super) fn skeleton(text: &str) -> String {
    uts39_skeleton(text).flat_map(char::to_lowercase).collect()
}

/// Returns whether a text has letters of more than one of the Latin, Cyrillic and Greek scripts.
pub(super) fn mixes_similar_scripts(text: &str) -> bool {
    let scripts = [Script::Latin, Script::Cyrillic, Script::Greek];
    let is_used = |script: &Script| text.chars().any(|c| c.script() == *script);
    scripts.iter().filter(|script| is_used(script)).count() > 1
}

pub(super) fn looks_like_a_colon(c: char) -> bool {
    c == ':' || !c.is_ascii() && skeleton(c.encode_utf8(&mut [0; 4])).starts_with(':')
}

/// Converts to NFKC and lower case. The iterator is lazy, so a caller can stop early on hostile
/// input.
pub(super) fn lower(text: &str) -> impl Iterator<Item = char> {
    text.nfkc().flat_map(char::to_lowercase).nfkc()
}

pub(super) fn is_mark(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Mark
}

/// Returns whether a text has more than two combining marks in a row. A tall stack of marks covers
/// the lines above it.
pub(super) fn has_many_marks(text: &str) -> bool {
    let mut in_a_row = 0;
    text.chars().any(|c| {
        in_a_row = if is_mark(c) { in_a_row + 1 } else { 0 };
        in_a_row > 2
    })
}

/// Returns whether a character has no visible form or changes the direction of the text after it:
/// formats (bidirectional controls and zero-width characters), line and paragraph separators,
/// private and unassigned characters, those with the property `Default_Ignorable_Code_Point`, and
/// those that fonts draw as nothing.
pub(super) fn is_invisible(c: char) -> bool {
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
