//! Splits texts into words, for search.

use std::ops::Range;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::decompose_compatible;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_script::{Script, UnicodeScript};

use super::characters::is_invisible;

/// The version of the rules by which texts are split. A search index of another version is rebuilt.
#[cfg(feature = "journal")]
pub(crate) const WORDS_VERSION: i64 = 1;

/// The maximum length of a key, in bytes; the last character may exceed it. The rest of a longer
/// word is ignored.
const KEY_BYTES_MAX: usize = 64;

/// A word of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Its bytes in the text.
    pub(crate) range: Range<usize>,
    /// The form that is compared: in lower case, without accents and vowel marks, at least one
    /// character. It has letters, digits and symbols only.
    pub(crate) key: String,
}

/// Returns the words of a text. Scripts that do not separate words by spaces, for example Chinese
/// and Japanese, have one word for each character. An emoji is also a word.
pub(crate) fn words(text: &str) -> Vec<Word> {
    let mut words = Words::default();
    for (start, c) in text.char_indices() {
        words.add(c, start..start + c.len_utf8());
    }
    words.end();
    words.words
}

/// Returns the keys of all words of a text, separated by spaces.
#[cfg(feature = "journal")]
pub(crate) fn joined_keys(text: &str) -> String {
    if !text.is_ascii() {
        return words(text).into_iter().map(|word| word.key).collect::<Vec<_>>().join(" ");
    }
    // Most texts need no list of words.
    let mut keys = String::with_capacity(text.len());
    let mut length = 0;
    for byte in text.bytes() {
        if !byte.is_ascii_alphanumeric() {
            length = 0;
            continue;
        }
        if length == 0 && !keys.is_empty() {
            keys.push(' ');
        }
        length += 1;
        if length <= KEY_BYTES_MAX {
            keys.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    keys
}

/// Returns where consecutive words have these keys, as ranges of indices of `words`.
pub(crate) fn find_phrase(words: &[Word], keys: &[String]) -> Vec<Range<usize>> {
    if keys.is_empty() {
        return Vec::new();
    }
    let starts = words.windows(keys.len()).enumerate();
    let found = starts.filter(|(_, part)| part.iter().map(|word| &word.key).eq(keys));
    found.map(|(start, _)| start..start + keys.len()).collect()
}

#[derive(Default)]
struct Words {
    words: Vec<Word>,
    /// The word that is not finished.
    key: String,
    range: Range<usize>,
}

impl Words {
    fn add(&mut self, c: char, range: Range<usize>) {
        if c.is_ascii_alphanumeric() {
            self.extend(range, |key| key.push(c.to_ascii_lowercase()));
        } else if c.is_ascii() {
            self.end();
        } else if is_ignored(c) {
            // An accent belongs to the word before it.
            if !self.key.is_empty() {
                self.range.end = range.end;
            }
        } else if is_word_of_its_own(c) {
            self.end();
            self.extend(range, |key| key.extend(std::iter::once(c).nfkc()));
            self.end();
        } else if c.is_alphanumeric() {
            self.extend(range, |key| fold(c, key));
        } else {
            self.end();
        }
    }

    fn extend(&mut self, range: Range<usize>, push: impl FnOnce(&mut String)) {
        if self.key.is_empty() {
            self.range.start = range.start;
        }
        self.range.end = range.end;
        if self.key.len() < KEY_BYTES_MAX {
            push(&mut self.key);
        }
    }

    fn end(&mut self) {
        let key = std::mem::take(&mut self.key);
        if !key.is_empty() {
            self.words.push(Word { range: self.range.clone(), key });
        }
    }
}

/// Appends the form of a letter or digit that is compared.
fn fold(c: char, key: &mut String) {
    decompose_compatible(c, |part| {
        for c in part.to_lowercase().filter(|&c| !is_ignored(c)) {
            match c {
                'ß' => key.push_str("ss"),
                'æ' => key.push_str("ae"),
                'œ' => key.push_str("oe"),
                'ø' => key.push('o'),
                'đ' => key.push('d'),
                'ł' => key.push('l'),
                'ı' => key.push('i'),
                'ς' => key.push('σ'),
                // Arabic letters that are often used in place of each other.
                'ى' | 'ی' => key.push('ي'),
                'ة' => key.push('ه'),
                'ک' => key.push('ك'),
                c if c.is_alphanumeric() => key.push(c),
                _ => {}
            }
        }
    });
}

/// Returns whether a character is a mark, such as an accent or an Arabic vowel sign, or has no
/// width.
fn is_ignored(c: char) -> bool {
    const TATWEEL: char = '\u{640}';
    let category = c.general_category();
    c == TATWEEL
        || is_invisible(c)
        || matches!(category, GeneralCategory::NonspacingMark | GeneralCategory::EnclosingMark)
}

fn is_word_of_its_own(c: char) -> bool {
    // The Japanese mark for long vowels belongs to no script.
    const LONG_VOWELS: [char; 2] = ['\u{30FC}', '\u{FF70}'];
    let has_no_spaces = matches!(
        c.script(),
        Script::Han
            | Script::Hiragana
            | Script::Katakana
            | Script::Bopomofo
            | Script::Hangul
            | Script::Thai
            | Script::Lao
            | Script::Khmer
            | Script::Myanmar
            | Script::Tibetan
    );
    let is_letter = || c.is_alphanumeric();
    c.general_category() == GeneralCategory::OtherSymbol
        || LONG_VOWELS.contains(&c)
        || has_no_spaces && is_letter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        words(text).into_iter().map(|word| word.key).collect()
    }

    #[test]
    fn words_are_compared_without_case_accents_and_punctuation() {
        assert_eq!(keys("Hello, WORLD! don't x2"), ["hello", "world", "don", "t", "x2"]);
        assert_eq!(
            keys("Straße STRASSE Müller mu\u{308}ller"),
            ["strasse", "strasse", "muller", "muller"]
        );
        assert_eq!(
            keys("Ærø Łódź ﬁne ＡＢＣ Ⅷ ΣΟΦΟΣ"),
            ["aero", "lodz", "fine", "abc", "viii", "σοφοσ"]
        );
        assert!(keys(" \u{301} ... -- \u{200B}").is_empty());
    }

    #[test]
    fn arabic_words_are_compared_without_vowel_signs_and_variants_of_letters() {
        assert_eq!(keys("كِتَابٌ كتـــاب"), ["كتاب", "كتاب"]);
        assert_eq!(keys("أحمد إحمد آحمد احمد"), ["احمد", "احمد", "احمد", "احمد"]);
        assert_eq!(keys("مدرسة، مكتبى"), ["مدرسه", "مكتبي"]);
    }

    #[test]
    fn scripts_without_spaces_have_one_word_for_each_character() {
        assert_eq!(
            keys("東京都でcoffeeコーヒー"),
            ["東", "京", "都", "で", "coffee", "コ", "ー", "ヒ", "ー"]
        );
        assert_eq!(keys("한국어 ｶﾅ"), ["한", "국", "어", "カ", "ナ"]);
        assert_eq!(keys("ok🎉☕\u{FE0F}yes"), ["ok", "🎉", "☕", "yes"]);
    }

    #[test]
    fn range_of_a_word_is_its_place_in_the_text() {
        let text = "Où est «Müller»?";
        let found: Vec<_> =
            words(text).into_iter().map(|word| text[word.range].to_owned()).collect();
        assert_eq!(found, ["Où", "est", "Müller"]);
        let text = "e\u{301}te\u{301}!";
        assert_eq!(words(text), [Word { range: 0..text.len() - 1, key: "ete".into() }]);
    }

    #[test]
    fn phrase_is_found_wherever_its_words_follow_each_other() {
        let text = words("東京都の東京");
        let phrase = keys("東京");
        assert_eq!(find_phrase(&text, &phrase), [0..2, 4..6]);
        assert!(find_phrase(&text, &[]).is_empty());
        assert!(find_phrase(&text, &keys("京東")).is_empty());
    }

    #[test]
    fn key_of_a_long_word_is_cut() {
        let found = words(&"é".repeat(3000));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].range, 0..6000);
        assert_eq!(found[0].key.len(), KEY_BYTES_MAX);
    }

    proptest::proptest! {
        #[test]
        fn joined_keys_are_the_keys_of_all_words(ascii in "[ -~\n]{0,200}", any in ".{0,50}") {
            for text in [&ascii, &any, &format!("{}-{ascii}", "a".repeat(100))] {
                proptest::prop_assert_eq!(joined_keys(text), keys(text).join(" "));
            }
        }
    }
}
