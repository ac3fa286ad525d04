//! Search queries and results: what a user searches for, which texts match, and the snippets.

use std::ops::Range;

use serde::Serialize;
use thiserror::Error;

use super::words::{Word, find_phrase, words};
use super::{Author, Nick, RoomName, Seq, Timestamp};

/// The maximum length of a snippet, in characters. Ellipses are not counted.
const SNIPPET_CHARS: usize = 160;

/// The maximum length of the text before the first match in a snippet, in characters.
const LEAD_CHARS: usize = 40;

/// A search for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchQuery {
    /// The words that a message must contain.
    pub terms: SearchTerms,
    /// Only messages of this room are found. `None` is all rooms.
    pub room: Option<RoomName>,
    /// Only messages that were sent under this name are found. `None` is all names.
    pub from: Option<Nick>,
    /// Only messages before this sequence number are found. [`Seq::MAX`] is no restriction.
    pub before: Seq,
    /// The maximum number of results. The JSON protocol permits 1 to 50.
    pub limit: usize,
}

/// A message that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SearchResult {
    /// The room.
    pub room: RoomName,
    /// The sequence number.
    pub seq: Seq,
    /// The time of the message.
    pub at: Timestamp,
    /// The public identity of the author, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<Author>,
    /// The name of the author.
    pub nick: Nick,
    /// A part of the text, as [`SearchTerms::snippet`] returns it.
    pub snippet: Vec<String>,
}

impl SearchResult {
    /// Returns about how much memory the result takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let snippet = self.snippet.iter().map(|part| size_of::<String>() + part.len());
        size_of::<Self>() + snippet.sum::<usize>()
    }
}

/// The phrases of a search, which must all occur in a message, in any order. A phrase is one or
/// more words that must follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchTerms {
    /// The keys of the words of each phrase. There is at least one phrase, and none is empty.
    phrases: Vec<Vec<String>>,
}

/// Why a text is not [`SearchTerms`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadSearch {
    /// It has no word.
    #[error("a search must contain at least one word")]
    Empty,
    /// It has too many characters or phrases.
    #[error(
        "a search must have at most {} characters and {} words or phrases",
        SearchTerms::MAX_CHARS,
        SearchTerms::MAX_PHRASES
    )]
    TooLong,
}

impl SearchTerms {
    /// The maximum length of the text of a search, in characters.
    pub const MAX_CHARS: usize = 200;

    /// The maximum number of phrases.
    pub const MAX_PHRASES: usize = 16;

    /// Parses a text. Words in double quotes are a phrase, and so are the words between two spaces,
    /// such as `don` and `t` in `don't`. A quote that is not closed ends at the end of the text.
    ///
    /// # Errors
    /// See [`BadSearch`].
    pub fn parse(text: &str) -> Result<Self, BadSearch> {
        if text.chars().nth(Self::MAX_CHARS).is_some() {
            return Err(BadSearch::TooLong);
        }
        let mut phrases: Vec<Vec<String>> = Vec::new();
        let mut add = |part: &str| {
            let phrase: Vec<_> = words(part).into_iter().map(|word| word.key).collect();
            if !phrase.is_empty() && !phrases.contains(&phrase) {
                phrases.push(phrase);
            }
        };
        for (n, part) in text.split('"').enumerate() {
            if n % 2 == 1 {
                add(part);
            } else {
                part.split_whitespace().for_each(&mut add);
            }
        }
        match phrases.len() {
            0 => Err(BadSearch::Empty),
            1..=Self::MAX_PHRASES => Ok(Self { phrases }),
            _ => Err(BadSearch::TooLong),
        }
    }

    /// Returns the keys of the words of each phrase.
    #[cfg(feature = "journal")]
    pub(crate) fn phrases(&self) -> &[Vec<String>] {
        &self.phrases
    }

    /// Returns the part of a text around the first match, or `None` if a phrase does not occur.
    ///
    /// The strings are plain text and matching text in turn. The first one is plain, and may be
    /// empty. An ellipsis replaces the text that is left out before and after the part.
    #[must_use]
    pub fn snippet(&self, text: &str) -> Option<Vec<String>> {
        let words = words(text);
        let matches = self.find(&words)?;
        Some(cut(text, &words, &matches))
    }

    /// Returns where the phrases occur, in bytes of the text, or `None` if one does not occur. The
    /// ranges are sorted and do not touch each other.
    fn find(&self, words: &[Word]) -> Option<Vec<Range<usize>>> {
        let mut found = Vec::new();
        for phrase in &self.phrases {
            let before = found.len();
            let ranges = find_phrase(words, phrase).into_iter();
            found.extend(
                ranges.map(|range| words[range.start].range.start..words[range.end - 1].range.end),
            );
            if found.len() == before {
                return None;
            }
        }
        found.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<usize>> = Vec::with_capacity(found.len());
        for range in found {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                Some(_) | None => merged.push(range),
            }
        }
        Some(merged)
    }
}

/// Returns the snippet of a text with these matches. There is at least one.
fn cut(text: &str, words: &[Word], matches: &[Range<usize>]) -> Vec<String> {
    let first = matches.first().cloned().unwrap_or_default();
    let start = start_of_snippet(text, words, &first);
    let end = end_of_snippet(text, words, start, &first);
    let mut parts = Vec::new();
    let mut plain = String::from(if start > 0 { "…" } else { "" });
    let mut at = start;
    for found in matches.iter().take_while(|found| found.start < end) {
        let matched = &text[found.start..found.end.min(end)];
        plain.push_str(&text[at..found.start]);
        parts.push(std::mem::take(&mut plain));
        parts.push(matched.to_owned());
        at = found.start + matched.len();
    }
    plain.push_str(&text[at..end]);
    if end < text.len() {
        plain.push('…');
    }
    if !plain.is_empty() {
        parts.push(plain);
    }
    parts
}

/// Returns where the snippet starts: at the start of the text, or of a word near the first match.
fn start_of_snippet(text: &str, words: &[Word], first: &Range<usize>) -> usize {
    let before = text[..first.start].char_indices().rev();
    let Some((earliest, _)) = before.take(LEAD_CHARS + 1).nth(LEAD_CHARS) else { return 0 };
    let starts = words.iter().map(|word| word.range.start);
    // The earliest character itself does not fit any more.
    starts.filter(|start| *start > earliest).min().map_or(first.start, |it| it.min(first.start))
}

/// Returns where the snippet ends: at the end of the text, or of the last word that fits.
fn end_of_snippet(text: &str, words: &[Word], start: usize, first: &Range<usize>) -> usize {
    let Some((latest, _)) = text[start..].char_indices().nth(SNIPPET_CHARS) else {
        return text.len();
    };
    let latest = start + latest;
    let ends = words.iter().map(|word| word.range.end);
    let last = ends.filter(|end| *end <= latest).max();
    last.filter(|end| *end >= first.end).unwrap_or(latest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms(text: &str) -> SearchTerms {
        SearchTerms::parse(text).expect("terms")
    }

    fn phrases(text: &str) -> Vec<String> {
        terms(text).phrases.iter().map(|phrase| phrase.join(" ")).collect()
    }

    #[test]
    fn text_is_parsed_into_words_and_phrases() {
        assert_eq!(phrases("Hello  wörld"), ["hello", "world"]);
        assert_eq!(phrases("\"Hello wörld\" again"), ["hello world", "again"]);
        assert_eq!(phrases("don't a-b"), ["don t", "a b"]);
        assert_eq!(phrases("tea\"black tea\"green"), ["tea", "black tea", "green"]);
        assert_eq!(phrases("\"not closed"), ["not closed"]);
        assert_eq!(phrases("東京 ☕"), ["東 京", "☕"]);
        assert_eq!(
            phrases("a NEAR(b) OR c* ^d col:e -f A"),
            ["a", "near b", "or", "c", "d", "col e", "f"]
        );
    }

    #[test]
    fn text_without_words_or_with_too_many_is_invalid() {
        for text in ["", " ", "\"\"", "* - ^ : ()", "\u{200B}"] {
            assert_eq!(SearchTerms::parse(text), Err(BadSearch::Empty), "{text:?}");
        }
        let words = |n: usize| (0..n).map(|n| format!("w{n} ")).collect::<String>();
        assert_eq!(terms(&words(16)).phrases.len(), 16);
        assert_eq!(SearchTerms::parse(&words(17)), Err(BadSearch::TooLong));
        assert!(SearchTerms::parse(&"ä".repeat(200)).is_ok());
        assert_eq!(SearchTerms::parse(&"ä".repeat(201)), Err(BadSearch::TooLong));
    }

    #[test]
    fn snippet_has_plain_and_matching_text_in_turn() {
        let snippet = |search, text| terms(search).snippet(text);
        let strings = |parts: &[&str]| Some(parts.iter().map(|&part| part.to_owned()).collect());
        assert_eq!(snippet("tea", "Tea!"), strings(&["", "Tea", "!"]));
        assert_eq!(snippet("tea", "Tea"), strings(&["", "Tea"]));
        assert_eq!(
            snippet("tea black", "black TEA, tea"),
            strings(&["", "black", " ", "TEA", ", ", "tea"])
        );
        assert_eq!(snippet("\"black tea\"", "a black-tea b"), strings(&["a ", "black-tea", " b"]));
        assert_eq!(snippet("東京", "東京都"), strings(&["", "東京", "都"]));
        assert_eq!(snippet("a", "a a"), strings(&["", "a", " ", "a"]));
        assert_eq!(snippet("tea coffee", "tea"), None);
        assert_eq!(snippet("\"tea black\"", "black tea"), None);
    }

    #[test]
    fn long_text_is_cut_between_words() {
        let text = format!("{}needle {}", "before ".repeat(50), "after ".repeat(50));
        let snippet = terms("needle").snippet(&text).expect("a match");
        let before = format!("…{}", "before ".repeat(5));
        assert_eq!(snippet[..2], [before, "needle".to_owned()]);
        assert!(snippet[2].starts_with(" after after") && snippet[2].ends_with("after…"));
        let chars: usize = snippet.iter().map(|part| part.chars().count()).sum();
        assert!((150..=SNIPPET_CHARS + 2).contains(&chars), "{chars}");
        // A match that is longer than a snippet is also cut.
        let word = "x".repeat(1000);
        let snippet = terms(&"x".repeat(64)).snippet(&word).expect("a match");
        assert_eq!(snippet, ["".to_owned(), "x".repeat(SNIPPET_CHARS), "…".to_owned()]);
    }

    /// Texts of short words, so that many searches have matches.
    fn text() -> impl Strategy<Value = String> {
        let part = prop_oneof!["[ab]", "[a-cäß東京🎉\u{301} .,\n\"*:^-]{1,3}", " "];
        prop::collection::vec(part, 0..100).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn snippet_is_a_part_of_the_text_and_every_second_string_matches(
            text in text(), search in text(),
        ) {
            let search: String = search.chars().take(8).collect();
            let Ok(terms) = SearchTerms::parse(&search) else { return Ok(()) };
            let keys: Vec<_> = words(&text).into_iter().map(|word| word.key).collect();
            let occurs = |phrase: &Vec<String>| {
                keys.windows(phrase.len()).any(|part| part == phrase)
            };
            let snippet = terms.snippet(&text);
            prop_assert_eq!(snippet.is_some(), terms.phrases.iter().all(occurs));
            let Some(snippet) = snippet else { return Ok(()) };
            let whole = snippet.concat();
            prop_assert!(whole.chars().count() <= SNIPPET_CHARS + 2);
            let inner = whole.strip_prefix('…').unwrap_or(&whole);
            prop_assert!(text.contains(inner.strip_suffix('…').unwrap_or(inner)));
            prop_assert!(snippet.len() >= 2);
            for matched in snippet.iter().skip(1).step_by(2) {
                let first = words(matched).into_iter().next().map(|word| word.key);
                let first = first.expect("a word");
                prop_assert!(terms.phrases.iter().any(|phrase| phrase[0] == first));
            }
        }
    }
}
