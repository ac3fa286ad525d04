//! Mentions: `@` and the name of a user in the text of a message.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::Nick;

/// Begins and ends a code block.
const FENCE: &str = "```";

/// Characters that a mentioned name may contain, but not end with.
const TRAILING: [char; 2] = ['.', '-'];

/// Returns whether a text mentions the user with this name, outside code. The page uses the same
/// rule: see `mentions` in `static/text.js`.
pub(crate) fn mentions(text: &str, nick: &Nick) -> bool {
    if !text.contains('@') {
        return false;
    }
    let plain = without_inline_code(&without_code_blocks(text));
    let mut before = ' ';
    plain.char_indices().any(|(at, c)| {
        let is_start = c == '@' && before != '@' && !is_letter_or_digit(before);
        before = c;
        is_start && is_name(&plain[at + 1..], nick.as_str())
    })
}

/// Returns whether a text begins with a name or its first word, and does not continue it.
fn is_name(text: &str, name: &str) -> bool {
    if strip_name(text, name).is_some_and(|rest| !rest.starts_with(continues_name)) {
        return true;
    }
    let end = text.find(|c| !(continues_name(c) || TRAILING.contains(&c))).unwrap_or(text.len());
    let word = text[..end].trim_end_matches(TRAILING);
    let first = name.split(' ').next().unwrap_or_default();
    word.starts_with(is_letter_or_digit) && folded(word).eq(folded(first))
}

/// Returns what follows a name at the beginning of a text, or `None` if it has another beginning.
fn strip_name<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut name = folded(name).peekable();
    for (at, c) in text.char_indices() {
        if name.peek().is_none() {
            return Some(&text[at..]);
        }
        if !fold(c).all(|c| name.next() == Some(c)) {
            return None;
        }
    }
    name.next().is_none().then_some("")
}

/// Returns the form of a text that is compared: in lower case.
fn folded(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(fold)
}

fn fold(c: char) -> impl Iterator<Item = char> {
    // A sigma has another form at the end of a word.
    c.to_lowercase().map(|c| if c == 'ς' { 'σ' } else { c })
}

fn is_letter_or_digit(c: char) -> bool {
    let is_one =
        |group| matches!(group, GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number);
    c == '_' || is_one(c.general_category_group())
}

fn continues_name(c: char) -> bool {
    is_letter_or_digit(c) || c.general_category_group() == GeneralCategoryGroup::Mark
}

/// Replaces each code block by a space. A block has at least one character.
fn without_code_blocks(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, block)) = rest.split_once(FENCE) {
        let first = block.chars().next().map_or(0, char::len_utf8);
        let Some((_, after)) = block[first..].split_once(FENCE) else { break };
        plain.push_str(before);
        plain.push(' ');
        rest = after;
    }
    plain + rest
}

/// Replaces code in a line by a space.
fn without_inline_code(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, code)) = rest.split_once('`') {
        plain.push_str(before);
        match code.find(['`', '\n']) {
            Some(end) if end > 0 && code[end..].starts_with('`') => {
                plain.push(' ');
                rest = &code[end + 1..];
            }
            Some(_) | None => {
                plain.push('`');
                rest = code;
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page's tests use the same examples.
    #[test]
    fn mentions_follow_the_same_rules_as_in_the_page() {
        let examples = include_str!("../../tests/page/mentions.json");
        let examples: Vec<(String, String, bool)> =
            serde_json::from_str(examples).expect("valid JSON");
        assert!(examples.len() > 30);
        for (text, name, expected) in examples {
            let nick = Nick::parse(&name).expect("a name");
            assert_eq!(mentions(&text, &nick), expected, "{text:?} {name:?}");
        }
    }

    #[test]
    fn mentions_in_hostile_texts_are_found_in_linear_time() {
        let nick = Nick::parse("Ada Lovelace").expect("a name");
        let began = std::time::Instant::now();
        for part in ["```", "```a\n", "``` ", "`", "`a", "@a", "@a.-", "@", "@ada love", "`@\n"] {
            mentions(&part.repeat(1_000_000 / part.len()), &nick);
        }
        // Together they take less than a second; a single one in quadratic time would exceed this.
        let elapsed = began.elapsed();
        assert!(elapsed < std::time::Duration::from_secs(60), "{elapsed:?}");
    }
}
