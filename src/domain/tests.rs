//! Tests of how names, texts, emoji and topics are parsed.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn room(text: &str) -> Result<String, BadRoomName> {
    RoomName::parse(text).map(|room| room.to_string())
}

fn nick(text: &str) -> Result<String, BadNick> {
    Nick::parse(text).map(|nick| nick.to_string())
}

#[test]
fn room_name_is_normalized_to_lower_case_nfkc() {
    assert_eq!(room("Rust_2024").as_deref(), Ok("rust_2024"));
    assert_eq!(room("Ｒｕｓｔ").as_deref(), Ok("rust"));
    assert_eq!(room("ΣΊΣΥΦΟΣ"), room("σίσυφοσ"));
}

#[test]
fn room_name_may_use_any_script_with_combining_marks() {
    for name in ["привет", "日本語", "हिन्दी", "ภาษาไทย", "العربية", "٣٤"]
    {
        assert_eq!(room(name).as_deref(), Ok(name), "{name}");
    }
}

#[test]
fn room_name_has_1_to_64_characters() {
    assert_eq!(room(""), Err(BadRoomName::Character));
    assert!(room(&"ä".repeat(64)).is_ok());
    assert_eq!(room(&"ä".repeat(65)), Err(BadRoomName::Character));
}

#[test]
fn room_name_has_only_letters_digits_dashes_and_underscores() {
    let bad = ["a b", "a/b", "..", "a.b", "a\nb", "a\0", "a\u{200B}b", "\u{301}a", "💬", "ᅠ"];
    for name in bad {
        assert_eq!(room(name), Err(BadRoomName::Character), "{name:?}");
    }
}

#[test]
fn nick_is_normalized_to_nfkc_with_single_spaces() {
    assert_eq!(nick("  Ada   Lovelace ").as_deref(), Ok("Ada Lovelace"));
    assert_eq!(nick("Ａｄａ").as_deref(), Ok("Ada"));
    assert_eq!(nick("a\u{3000}b").as_deref(), Ok("a b"));
}

#[test]
fn nicks_that_differ_only_in_case_are_equal() {
    assert_eq!(Nick::parse("ADA"), Nick::parse("ada"));
    assert_ne!(Nick::parse("ada"), Nick::parse("adb"));
}

#[test]
fn nick_has_1_to_32_characters() {
    assert_eq!(nick("   "), Err(BadNick::Length));
    assert!(nick(&"n".repeat(32)).is_ok());
    assert_eq!(nick(&"n".repeat(33)), Err(BadNick::Length));
    // NFKC expands this character to eighteen.
    assert_eq!(nick(&"\u{FDFA}".repeat(30)), Err(BadNick::Length));
}

#[test]
fn nick_has_no_colon_and_no_invisible_character() {
    let bad = [
        "a:b",
        "a：b",
        "a\nb",
        "a\tb",
        "a\0b",
        "a\u{202E}b",
        "a\u{200B}",
        "a\u{2066}b",
        "a\u{AD}b",
        "\u{3164}",
        "\u{2800}",
        "a\u{FEFF}b",
        "a\u{E000}",
        "a\u{2028}b",
    ];
    for name in bad {
        assert_eq!(nick(name), Err(BadNick::Character), "{name:?}");
    }
}

/// Characters that are shown as nothing: musical, Egyptian and Khitan fillers, the object
/// replacement character, fillers of Hangul, Braille without dots, and a variation selector.
const INVISIBLE: [char; 9] = [
    '\u{1D159}',
    '\u{13441}',
    '\u{13442}',
    '\u{16FE4}',
    '\u{FFFC}',
    '\u{115F}',
    '\u{3164}',
    '\u{2800}',
    '\u{FE0F}',
];

#[test]
fn names_reject_invisible_characters_and_texts_need_a_visible_one() {
    for c in INVISIBLE {
        let (alone, within) = (c.to_string(), format!("a{c}b"));
        assert_eq!(nick(&alone), Err(BadNick::Character), "{c:?}");
        assert_eq!(nick(&within), Err(BadNick::Character), "{c:?}");
        assert_eq!(room(&alone), Err(BadRoomName::Character), "{c:?}");
        assert_eq!(room(&within), Err(BadRoomName::Character), "{c:?}");
        assert_eq!(MessageText::parse(format!(" {c}\n{c}"), 100), Err(BadText::Empty), "{c:?}");
        assert!(MessageText::parse(within, 100).is_ok(), "{c:?}");
    }
}

#[test]
fn name_does_not_begin_with_a_mark_and_has_at_most_two_in_a_row() {
    assert_eq!(nick("\u{301}ada"), Err(BadNick::Marks));
    assert_eq!(nick(" \u{20DD}"), Err(BadNick::Marks));
    assert_eq!(room("\u{301}ada"), Err(BadRoomName::Character));
    // NFKC composes the first mark with its letter.
    assert_eq!(nick("a\u{301}\u{302}\u{303}").as_deref(), Ok("á\u{302}\u{303}"));
    assert_eq!(nick("z\u{334}\u{335}\u{336}"), Err(BadNick::Marks));
    assert_eq!(room("z\u{334}\u{335}\u{336}"), Err(BadRoomName::Marks));
    for name in ["शांति", "Nguyễn", "ที่รัก", "שָׁלוֹם"] {
        assert!(nick(name).is_ok(), "{name}");
    }
}

#[test]
fn nick_must_not_look_like_a_name_that_the_server_gives() {
    for name in ["anonymous-1234", "Anonymous-x", "ａnonymous-", "anоnymous-1234", "anonyrnous-1"]
    {
        assert_eq!(nick(name), Err(BadNick::Reserved), "{name}");
    }
    assert!(nick("anonymous").is_ok());
}

#[test]
fn names_that_the_server_gives_are_distinct() {
    let names: std::collections::HashSet<_> =
        (0..100_000).map(|id| Nick::anonymous(ClientId(id)).to_string()).collect();
    assert_eq!(names.len(), 100_000);
    let name = Nick::anonymous(ClientId(7));
    assert!(name.is_anonymous());
    assert_eq!(name.as_str().len(), "anonymous-".len() + 4);
}

#[test]
fn line_claims_the_names_before_its_first_colons() {
    let claims = |line: &str, name: &str| {
        let name = Nick::parse(name).expect("a name");
        let claimed = Nick::forms_claimed_by(line);
        claimed.iter().flatten().any(|form| name.forms().contains(&form.as_str()))
    };
    let lines = ["ada: hi", "ADA:hi", "  ada : hi", "ada： hi", "a\u{200B}da: hi", "ada: b: c"];
    for line in lines.into_iter().chain(["аdа: hi", "ada꞉ hi", "ada∶ hi", "adaः hi"]) {
        assert!(claims(line, "ada"), "{line:?}");
    }
    assert!(claims("ada  l: hi", "ada l"));
    assert!(claims("दुःख: hi", "दुःख"), "what looks like a colon may be part of a name");
    for line in ["", "ada", ": hi", " \u{200B}: hi", "a da: hi", "hi ada: hi"] {
        assert!(!claims(line, "ada"), "{line:?}");
    }
}

#[test]
fn white_space_before_a_name_does_not_hide_it() {
    let line = format!("{}Ada: hello", "\u{200B}\u{A0}".repeat(130));
    let ada = Nick::parse("Ada").expect("a name").forms().map(str::to_owned);
    assert!(Nick::forms_claimed_by(&line).contains(&ada));
}

#[test]
fn message_has_1_to_max_bytes_and_no_control_characters() {
    let parse = |text: &str| MessageText::parse(text, 8).map(|text| text.as_str().to_owned());
    assert_eq!(parse("a\n\tb").as_deref(), Ok("a\n\tb"));
    assert_eq!(parse(""), Err(BadText::Empty));
    assert_eq!(parse("12345678").as_deref(), Ok("12345678"));
    assert_eq!(parse("éééé!"), Err(BadText::TooLong(8)));
    for text in ["\0", "a\u{1B}[m", "a\r", "\u{7F}", "\u{85}"] {
        assert_eq!(parse(text), Err(BadText::Control), "{text:?}");
    }
}

proptest! {
    #[test]
    fn parsing_is_idempotent(text in "\\PC{0,40}") {
        if let Ok(name) = RoomName::parse(&text) {
            prop_assert_eq!(RoomName::parse(name.as_str()), Ok(name));
        }
        if let Ok(name) = Nick::parse(&text) {
            prop_assert_eq!(nick(name.as_str()), Ok(name.to_string()));
            let line = format!("{name}: hi");
            prop_assert!(Nick::forms_claimed_by(&line).contains(&name.forms().map(str::to_owned)));
        }
    }
}

#[test]
fn names_that_look_alike_share_a_form_and_others_do_not() {
    let forms = |name: &str| Nick::parse(name).expect("a name").forms().map(str::to_owned);
    let alike = [
        ("ada", "ADA"),
        ("ada", "аdа"), // Cyrillic
        ("Bob", "ВОВ"), // Cyrillic
        ("paypal", "paypaI"),
        ("bill", "bi11"),
        ("corn", "com"),
        ("b0b", "bOb"),
        ("ρeter", "peter"), // Greek
        ("ａｄａ", "ada"),
    ];
    for (one, other) in alike {
        let (one, other) = (forms(one), forms(other));
        assert!(one.iter().any(|form| other.contains(form)), "{one:?} {other:?}");
    }
    let apart = [("ada", "ida"), ("ben", "bea"), ("lisa", "nisa"), ("иван", "ivan"), ("明", "朋")];
    for (one, other) in apart {
        let (one, other) = (forms(one), forms(other));
        assert!(one.iter().all(|form| !other.contains(form)), "{one:?} {other:?}");
    }
}

#[test]
fn room_name_does_not_mix_scripts_that_look_alike() {
    for name in ["lоbby", "аdmin", "κoom", "αбв"] {
        assert_eq!(RoomName::parse(name), Err(BadRoomName::MixedScripts), "{name}");
    }
    for name in ["комната-1", "δωμάτιο_2", "room-東京", "tokyo日本", "комната-部屋"]
    {
        assert!(RoomName::parse(name).is_ok(), "{name}");
    }
}

#[test]
fn intervals_of_clients_are_spread_evenly() {
    let interval = Duration::from_secs(10);
    let mut parts: Vec<Duration> = (0..100).map(|n| ClientId(n).part_of(interval)).collect();
    parts.sort();
    assert!(parts[99] <= interval);
    for pair in parts.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap > interval / 1000 && gap < interval / 30, "{gap:?}");
    }
}

/// Checking a character may take half a microsecond, and a frame holds 9,300 of them.
#[test]
fn long_names_are_rejected_before_their_characters_are_checked() {
    let long = "\u{FDFA}".repeat(9_300);
    let began = std::time::Instant::now();
    for _ in 0..1000 {
        assert!(matches!(Nick::parse(&long), Err(BadNick::Length)));
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
}

fn emoji(text: &str) -> Option<String> {
    Emoji::parse(text).ok().map(|emoji| emoji.to_string())
}

#[test]
fn emoji_with_and_without_a_variation_selector_are_equal() {
    for (plain, selected) in [("❤", "❤\u{FE0F}"), ("☀", "☀\u{FE0F}"), ("1\u{20E3}", "1️\u{20E3}")]
    {
        assert_eq!(Emoji::parse(plain), Emoji::parse(selected), "{plain}");
        assert_eq!(emoji(plain).as_deref(), Some(selected));
    }
    let partly = "👁\u{200D}🗨";
    let fully = "👁\u{FE0F}\u{200D}🗨\u{FE0F}";
    assert_eq!(emoji(partly).as_deref(), Some(fully));
}

#[test]
fn emoji_may_be_a_sequence() {
    let [england, family] = ["🏴\u{E0067}\u{E0062}\u{E0065}\u{E006E}\u{E0067}\u{E007F}", "👨‍👩‍👧‍👦"];
    let sequences = ["👍🏽", "🇩🇪", england, family, "🏳️‍🌈", "👩🏽‍🚀"];
    for sequence in sequences {
        assert_eq!(emoji(sequence).as_deref(), Some(sequence));
    }
    assert_ne!(Emoji::parse("👍"), Emoji::parse("👍🏽"));
}

#[test]
fn text_that_is_not_exactly_one_emoji_is_rejected() {
    let bad = [
        "", " ", "a", "1", "👍👍", "👍 ", " 👍", "👍a", "🇩", "🏽", "\u{FE0F}", "\u{200D}", "+1",
        ":+1:", "smile", "thumbsup",
    ];
    for text in bad {
        assert_eq!(Emoji::parse(text), Err(BadEmoji), "{text:?}");
    }
}

fn topic(text: &str) -> Result<String, BadTopic> {
    Topic::parse(text).map(|topic| topic.as_str().to_owned())
}

#[test]
fn topic_is_trimmed_and_may_be_empty() {
    assert_eq!(topic("  Which tea? ").as_deref(), Ok("Which tea?"));
    for text in ["", "  ", "\u{200B}"] {
        assert_eq!(topic(text).as_deref(), Ok(""), "{text:?}");
        assert!(Topic::parse(text).is_ok_and(|topic| topic.is_empty()));
    }
}

#[test]
fn topic_has_at_most_250_characters() {
    assert!(topic(&"ä".repeat(250)).is_ok());
    assert!(topic(&format!("  {}  ", "x".repeat(250))).is_ok());
    assert_eq!(topic(&"ä".repeat(251)), Err(BadTopic::Length));
}

#[test]
fn topic_is_one_line() {
    for text in ["a\nb", "a\rb", "a\tb", "a\0b", "a\u{2028}b", "a\u{2029}b"] {
        assert_eq!(topic(text), Err(BadTopic::Control), "{text:?}");
    }
}
