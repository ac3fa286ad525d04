//! What looks alike to a reader, though it is written otherwise (UTS #39).

use unicode_script::{Script, UnicodeScript};
use unicode_security::confusable_detection::skeleton;

/// A form that texts share which look alike, in whatever letters: `paypal` and `pаypaI`. It is for
/// comparing, not for reading.
pub(super) fn likeness(text: &str) -> String {
    skeleton(text).flat_map(char::to_lowercase).collect()
}

/// Whether letters are among them of several scripts that share most of their forms, which nobody
/// needs in one word but who wants it to pass for another.
pub(super) fn mixes_look_alike_scripts(text: &str) -> bool {
    let scripts = [Script::Latin, Script::Cyrillic, Script::Greek];
    let is_there = |script: &Script| text.chars().any(|c| c.script() == *script);
    scripts.iter().filter(|script| is_there(script)).count() > 1
}
