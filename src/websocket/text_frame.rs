//! A text message as it goes out: encoded once for all peers, joined with others, or compressed.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes};

use super::deflate::{self, Part, deflate};
use super::frame::{COMPRESSED, FINAL, begin_frame, opcode};

/// The longest frame that texts are joined into, in bytes: 16 KiB. In an `HttpServer` a connection
/// never shrinks its write buffer, so frames stay small.
pub const MAX_COALESCED_BYTES: usize = 16 * 1024;

/// The first byte of a whole text message in one frame.
const WHOLE: u8 = FINAL | opcode::TEXT;

/// A text message as the one frame that it goes out in (RFC 6455 section 5.2): not masked, and so
/// the same for every peer. Its clones share their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFrame {
    bytes: Bytes,
    header_len: u8,
    /// The length of the text in bytes, also if it is compressed.
    text_len: u32,
}

impl TextFrame {
    /// The frame of a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self::encode(WHOLE, text.len(), [text.as_bytes()].into_iter())
    }

    /// Returns a compressed copy of the frame, or an unchanged one if the text is shorter than 200
    /// bytes. Write it only to a peer that negotiated compression: see
    /// [`Socket::compresses`](super::Socket::compresses).
    #[must_use]
    pub fn compressed(&self) -> Self {
        if self.is_compressed() || self.payload().len() < deflate::MIN_BYTES {
            return self.clone();
        }
        let payload = deflate(self.payload());
        Self { text_len: self.text_len, ..Self::of_compressed(&payload) }
    }

    /// The frame of a compressed message. The length of its text is not known.
    fn of_compressed(payload: &[u8]) -> Self {
        Self::encode(WHOLE | COMPRESSED, payload.len(), [payload].into_iter())
    }

    /// Returns the length of the frame in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the frame as it is written to the connection.
    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.bytes[0] & COMPRESSED != 0
    }

    /// Takes the first of the texts that wait, with as many of those behind it as fit with it into
    /// [`MAX_COALESCED_BYTES`], joined by `\n`. One that is alone in its frame is not copied, also
    /// if it is longer by itself. Compressed texts are joined as they are.
    pub fn coalesce(waiting: &mut VecDeque<Self>) -> Option<Self> {
        let mut bytes = waiting.front()?.text_len as usize;
        let mut count = 1;
        for next in waiting.iter().skip(1) {
            let grown = bytes + "\n".len() + next.text_len as usize;
            if grown > MAX_COALESCED_BYTES {
                break;
            }
            bytes = grown;
            count += 1;
        }
        if count == 1 {
            return waiting.pop_front();
        }
        let frames = waiting.iter().take(count);
        let joined = if frames.clone().any(Self::is_compressed) {
            Self::of_compressed(&deflate::join(frames.map(Self::part)))
        } else {
            Self::encode(WHOLE, bytes, frames.map(Self::payload))
        };
        waiting.drain(..count);
        Some(joined)
    }

    /// The payload: UTF-8 text, or its compressed form.
    fn payload(&self) -> &[u8] {
        &self.bytes[usize::from(self.header_len)..]
    }

    fn part(&self) -> Part<'_> {
        if self.is_compressed() {
            Part::Compressed(self.payload())
        } else {
            Part::Plain(self.payload())
        }
    }

    /// Encodes a frame with this first byte.
    pub(super) fn encode<'a>(first: u8, len: usize, texts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut frame = begin_frame(first, len);
        let header_len = u8::try_from(frame.len()).expect("at most 10 bytes");
        for (n, text) in texts.enumerate() {
            if n > 0 {
                frame.put_u8(b'\n');
            }
            frame.put_slice(text);
        }
        let text_len = u32::try_from(len).unwrap_or(u32::MAX);
        Self { bytes: frame.freeze(), header_len, text_len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::deflate::inflate;
    use bytes::BytesMut;

    fn frames(texts: &[&str]) -> Vec<String> {
        let mut waiting = texts.iter().map(|text| TextFrame::new(text)).collect();
        let frames = std::iter::from_fn(|| TextFrame::coalesce(&mut waiting));
        frames.map(|frame| String::from_utf8(frame.payload().to_vec()).expect("text")).collect()
    }

    #[test]
    fn what_waits_leaves_as_one_frame_joined_by_newlines() {
        assert_eq!(frames(&["a", "b", "c"]), ["a\nb\nc"]);
        assert_eq!(frames(&["a"]), ["a"]);
        assert_eq!(frames(&[]), [""; 0]);
    }

    #[test]
    fn a_frame_is_filled_to_its_last_byte_and_no_further() {
        let half = "x".repeat(MAX_COALESCED_BYTES / 2);
        let rest = "y".repeat(MAX_COALESCED_BYTES / 2 - 1);
        assert_eq!(frames(&[&half, &rest]), [format!("{half}\n{rest}")]);
        assert_eq!(frames(&[&half, &half]), [half.clone(), half.clone()]);
        assert_eq!(frames(&[&half, &rest, "z"]), [format!("{half}\n{rest}"), "z".into()]);
    }

    #[test]
    fn compressed_texts_are_joined_up_to_the_same_length_of_text() {
        let short = TextFrame::new("a");
        assert_eq!(short.compressed(), short);
        let long = "b".repeat(300);
        let compressed = TextFrame::new(&long).compressed();
        assert_eq!(compressed.bytes[0], WHOLE | COMPRESSED);
        let text = |frame: &TextFrame| inflate(frame.payload().to_vec(), 100_000);
        let waiting = [&short, &compressed, &compressed, &short];
        let mut waiting = waiting.into_iter().cloned().collect();
        let joined = TextFrame::coalesce(&mut waiting).expect("a frame");
        assert_eq!(joined.bytes[0], WHOLE | COMPRESSED);
        assert_eq!(text(&joined), Ok(format!("a\n{long}\n{long}\na").into_bytes()));
        assert!(joined.encoded_len() < 60, "{joined:?}");
        assert!(waiting.is_empty());
        let half = TextFrame::new(&"c".repeat(MAX_COALESCED_BYTES / 2)).compressed();
        let mut waiting = [&half, &half, &half].into_iter().cloned().collect();
        assert_eq!(TextFrame::coalesce(&mut waiting), Some(half));
        assert_eq!(waiting.len(), 2);
    }

    #[test]
    fn a_text_longer_than_a_frame_goes_alone() {
        let long = "x".repeat(MAX_COALESCED_BYTES + 1);
        assert_eq!(frames(&["a", &long, "b"]), ["a".to_owned(), long, "b".to_owned()]);
    }

    /// Against the codec that the other end may be using.
    #[test]
    fn every_length_is_encoded_as_a_codec_reads_it() {
        use actix_http::ws::{Codec, Frame};
        use tokio_util::codec::Decoder;
        for len in [0, 1, 125, 126, 127, 255, 256, 65_535, 65_536] {
            let text = "x".repeat(len);
            let mut bytes = BytesMut::from(&TextFrame::new(&text).bytes[..]);
            let mut codec = Codec::new().client_mode().max_size(100_000);
            assert_eq!(codec.decode(&mut bytes).expect("a frame"), Some(Frame::Text(text.into())));
            assert!(bytes.is_empty());
        }
    }
}
