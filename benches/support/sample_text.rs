//! Text like that of a chat: common words in an order that depends on a seed. It compresses about
//! as well as English.

use std::sync::LazyLock;

static WORDS: LazyLock<Vec<&str>> = LazyLock::new(|| COMMON.split_whitespace().collect());

const COMMON: &str = "\
    the to and a of I is it that you in for on this with not have be we are was so but can if at \
    just do my they what or all will like there when one about would get from think your time \
    how know out me good no up some more has then as see now yes make here work should people an \
    because really way need who any want today right why could also much back new had well by \
    thanks still them other going over first same only day too ok sure even look later than \
    something maybe again us use after great take before where never nice which tomorrow meeting \
    off sounds please did try question most idea code server test found problem anyone hello \
    thing week long done lol coffee lunch morning release update link screen version send read \
    room wait happy fixed already agree almost friend music game tonight weather train late \
    https://example.com/";

/// Returns a text of `length` bytes.
pub(crate) fn sample_text(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let mut text = String::with_capacity(length + 24);
    while text.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Words at the start of the list are more frequent.
        let (high, low) =
            ((state >> 33) as usize % WORDS.len(), (state >> 48) as usize % WORDS.len());
        text.push_str(WORDS[high * low / WORDS.len()]);
        text.push(' ');
    }
    text.truncate(length);
    text
}
