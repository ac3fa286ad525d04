//! Many short texts in few frames: the `\n`-joined lines of the chat example's `writePump`.

use bytestring::ByteString;

/// The longest frame that texts are joined into, in bytes: 16 KiB. The connection's write buffer
/// keeps what it once grew to, so frames stay well below that.
pub const MAX_FRAME_BYTES: usize = 16 * 1024;

/// Joins texts by `\n` into as few frames of at most [`MAX_FRAME_BYTES`] as their order allows. A
/// text that is alone in its frame is passed on without a copy, also one that is longer by itself.
pub fn coalesce(texts: impl IntoIterator<Item = ByteString>) -> Vec<ByteString> {
    let mut frames = Vec::new();
    let mut waiting: Vec<ByteString> = Vec::new();
    let mut bytes = 0;
    for text in texts {
        let grown = bytes + "\n".len() + text.len();
        if !waiting.is_empty() && grown > MAX_FRAME_BYTES {
            frames.extend(join(&mut waiting));
        }
        bytes = if waiting.is_empty() { text.len() } else { grown };
        waiting.push(text);
    }
    frames.extend(join(&mut waiting));
    frames
}

fn join(waiting: &mut Vec<ByteString>) -> Option<ByteString> {
    if waiting.len() <= 1 {
        return waiting.pop();
    }
    let joined = waiting.join("\n").into();
    waiting.clear();
    Some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(texts: &[&str]) -> Vec<String> {
        let frames = coalesce(texts.iter().map(|&text| text.into()));
        frames.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_waits_leaves_as_one_frame_joined_by_newlines() {
        assert_eq!(frames(&["a", "b", "c"]), ["a\nb\nc"]);
        assert_eq!(frames(&["a"]), ["a"]);
        assert_eq!(frames(&[]), [""; 0]);
    }

    #[test]
    fn a_frame_is_filled_to_its_last_byte_and_no_further() {
        let half = "x".repeat(MAX_FRAME_BYTES / 2);
        let rest = "y".repeat(MAX_FRAME_BYTES / 2 - 1);
        assert_eq!(frames(&[&half, &rest]), [format!("{half}\n{rest}")]);
        assert_eq!(frames(&[&half, &half]), [half.clone(), half.clone()]);
        assert_eq!(frames(&[&half, &rest, "z"]), [format!("{half}\n{rest}"), "z".into()]);
    }

    #[test]
    fn a_text_longer_than_a_frame_goes_alone() {
        let long = "x".repeat(MAX_FRAME_BYTES + 1);
        assert_eq!(frames(&["a", &long, "b"]), ["a".to_owned(), long, "b".to_owned()]);
    }
}
