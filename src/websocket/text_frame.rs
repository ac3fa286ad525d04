//! A text message, encoded as a frame once for all peers. Compresses frames, and joins queued ones
//! into one message. The outbox queues them.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes};

use super::deflate::{self, Part, deflate};
use super::frame::{COMPRESSED, FIN, begin_frame, opcode};

/// The greatest length of joined texts, in bytes: 16 KiB. It is small, because a connection of
/// actix-http never shrinks its write buffer.
pub const MAX_COALESCED_BYTES: usize = 16 * 1024;

/// The first byte of a text message in one frame.
const UNFRAGMENTED: u8 = FIN | opcode::TEXT;

/// A text message, encoded as one frame (RFC 6455 section 5.2). A server does not mask its frames,
/// so the frame is the same for every peer. Its clones share their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFrame {
    bytes: Bytes,
    header_len: u8,
    /// The length of the uncompressed text, in bytes.
    text_len: u32,
}

impl TextFrame {
    /// Returns the frame of a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self::encode(UNFRAGMENTED, text.len(), [text.as_bytes()].into_iter())
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
        Self { text_len: self.text_len, ..Self::from_compressed(&payload) }
    }

    /// Returns the frame of a compressed message. Its `text_len` is that of the compressed payload.
    fn from_compressed(payload: &[u8]) -> Self {
        Self::encode(UNFRAGMENTED | COMPRESSED, payload.len(), [payload].into_iter())
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

    /// Removes the first text from a queue, with as many following texts as fit into
    /// [`MAX_COALESCED_BYTES`]. Returns them as one frame, joined by `\n`. A single text is not
    /// copied, and may be longer. Compressed texts are joined without compressing them again.
    pub fn coalesce(queue: &mut VecDeque<Self>) -> Option<Self> {
        let mut bytes = queue.front()?.text_len as usize;
        let mut count = 1;
        for next in queue.iter().skip(1) {
            let total = bytes + "\n".len() + next.text_len as usize;
            if total > MAX_COALESCED_BYTES {
                break;
            }
            bytes = total;
            count += 1;
        }
        if count == 1 {
            return queue.pop_front();
        }
        let frames = queue.iter().take(count);
        let joined = if frames.clone().any(Self::is_compressed) {
            Self::from_compressed(&deflate::join(frames.map(Self::part)))
        } else {
            Self::encode(UNFRAGMENTED, bytes, frames.map(Self::payload))
        };
        queue.drain(..count);
        Some(joined)
    }

    /// Returns the payload: the text, or the compressed text.
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

    /// Encodes a frame with this first byte and the texts as payload, joined by `\n`. `len` is the
    /// length of the payload.
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
        let mut queue = texts.iter().map(|text| TextFrame::new(text)).collect();
        let frames = std::iter::from_fn(|| TextFrame::coalesce(&mut queue));
        frames.map(|frame| String::from_utf8(frame.payload().to_vec()).expect("text")).collect()
    }

    #[test]
    fn queued_texts_become_one_frame_joined_by_newlines() {
        assert_eq!(frames(&["a", "b", "c"]), ["a\nb\nc"]);
        assert_eq!(frames(&["a"]), ["a"]);
        assert_eq!(frames(&[]), [""; 0]);
    }

    #[test]
    fn joined_texts_may_fill_a_frame_exactly() {
        let half = "x".repeat(MAX_COALESCED_BYTES / 2);
        let rest = "y".repeat(MAX_COALESCED_BYTES / 2 - 1);
        assert_eq!(frames(&[&half, &rest]), [format!("{half}\n{rest}")]);
        assert_eq!(frames(&[&half, &half]), [half.clone(), half.clone()]);
        assert_eq!(frames(&[&half, &rest, "z"]), [format!("{half}\n{rest}"), "z".into()]);
    }

    #[test]
    fn compressed_texts_are_joined_up_to_the_same_uncompressed_length() {
        let short = TextFrame::new("a");
        assert_eq!(short.compressed(), short);
        let long = "b".repeat(300);
        let compressed = TextFrame::new(&long).compressed();
        assert_eq!(compressed.bytes[0], UNFRAGMENTED | COMPRESSED);
        let text = |frame: &TextFrame| inflate(frame.payload().to_vec(), 100_000);
        let queue = [&short, &compressed, &compressed, &short];
        let mut queue = queue.into_iter().cloned().collect();
        let joined = TextFrame::coalesce(&mut queue).expect("a frame");
        assert_eq!(joined.bytes[0], UNFRAGMENTED | COMPRESSED);
        assert_eq!(text(&joined), Ok(format!("a\n{long}\n{long}\na").into_bytes()));
        assert!(joined.encoded_len() < 60, "{joined:?}");
        assert!(queue.is_empty());
        let half = TextFrame::new(&"c".repeat(MAX_COALESCED_BYTES / 2)).compressed();
        let mut queue = [&half, &half, &half].into_iter().cloned().collect();
        assert_eq!(TextFrame::coalesce(&mut queue), Some(half));
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn text_that_exceeds_the_limit_is_not_joined() {
        let long = "x".repeat(MAX_COALESCED_BYTES + 1);
        assert_eq!(frames(&["a", &long, "b"]), ["a".to_owned(), long, "b".to_owned()]);
    }

    /// Decodes with the codec of actix-http, which clients may use.
    #[test]
    fn frame_of_every_length_is_decoded_by_a_clients_codec() {
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
