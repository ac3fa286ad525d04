//! What goes out to the peer. Text is encoded before it comes here, once for all peers it goes to,
//! and is handed to the connection without being encoded or copied again, as it would be by
//! [`WebsocketContext::text`](actix_web_actors::ws::WebsocketContext::text).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::frame::opcode;

/// The longest frame that texts are joined into, in bytes: 16 KiB. The connection's write buffer
/// keeps what it once grew to, so frames stay well below that.
pub const MAX_COALESCED_BYTES: usize = 16 * 1024;

/// A text message as the one frame that it goes out in (RFC 6455 section 5.2): not masked, and so
/// the same for every peer. Its clones share their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFrame {
    bytes: Bytes,
    header_len: usize,
}

impl TextFrame {
    /// The frame of a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self::encode(text.len(), [text.as_bytes()].into_iter())
    }

    /// Takes the first of the texts that wait, with as many of those behind it as fit with it into
    /// [`MAX_COALESCED_BYTES`], joined by `\n`. One that is alone in its frame is not copied, also
    /// if it is longer by itself.
    pub fn coalesce(waiting: &mut VecDeque<Self>) -> Option<Self> {
        let mut bytes = waiting.front()?.text().len();
        let mut count = 1;
        for next in waiting.iter().skip(1) {
            let grown = bytes + "\n".len() + next.text().len();
            if grown > MAX_COALESCED_BYTES {
                break;
            }
            bytes = grown;
            count += 1;
        }
        if count == 1 {
            return waiting.pop_front();
        }
        let texts = waiting.iter().take(count).map(Self::text);
        let joined = Self::encode(bytes, texts);
        waiting.drain(..count);
        Some(joined)
    }

    /// The text, in UTF-8.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.bytes[self.header_len..]
    }

    fn encode<'a>(len: usize, texts: impl Iterator<Item = &'a [u8]>) -> Self {
        const FINAL: u8 = 0x80;
        const LENGTH_IN_16_BITS: u8 = 126;
        const LENGTH_IN_64_BITS: u8 = 127;
        const HEADER_LEN_MAX: usize = 10;
        let mut frame = BytesMut::with_capacity(HEADER_LEN_MAX + len);
        frame.put_u8(FINAL | opcode::TEXT);
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(short), _) if short < LENGTH_IN_16_BITS => frame.put_u8(short),
            (_, Ok(middle)) => {
                frame.put_u8(LENGTH_IN_16_BITS);
                frame.put_u16(middle);
            }
            (_, Err(_)) => {
                frame.put_u8(LENGTH_IN_64_BITS);
                frame.put_u64(len as u64);
            }
        }
        let header_len = frame.len();
        for (n, text) in texts.enumerate() {
            if n > 0 {
                frame.put_u8(b'\n');
            }
            frame.put_slice(text);
        }
        Self { bytes: frame.freeze(), header_len }
    }
}

/// Texts that wait for the connection to have room. The actor's half puts them in, the body's half
/// takes them out.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox(Rc<RefCell<VecDeque<TextFrame>>>);

impl Outbox {
    pub(super) fn push(&self, frame: TextFrame) {
        self.0.borrow_mut().push_back(frame);
    }

    /// Takes all that waits, as messages.
    pub(super) fn take(&self) -> Vec<ByteString> {
        let mut waiting = self.0.take();
        let frames = std::iter::from_fn(|| TextFrame::coalesce(&mut waiting));
        frames.filter_map(|frame| frame.bytes.slice(frame.header_len..).try_into().ok()).collect()
    }

    fn next(&self) -> Option<Bytes> {
        TextFrame::coalesce(&mut self.0.borrow_mut()).map(|frame| frame.bytes)
    }
}

/// The response's body: that of `actix-web-actors`, which runs the actor and carries its pings,
/// pongs and close frames, and the outbox's texts beside it.
pub(super) struct Outgoing {
    actor: BoxBody,
    outbox: Outbox,
    writing: bool,
}

impl Outgoing {
    pub(super) fn new(actor: BoxBody, outbox: Outbox) -> Self {
        Self { actor, outbox, writing: false }
    }
}

impl MessageBody for Outgoing {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.actor.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.writing
            && let Some(frame) = self.outbox.next()
        {
            return Poll::Ready(Some(Ok(frame)));
        }
        // When the actor is pending, its mailbox is empty: what was delivered together goes out
        // together.
        let actor = Pin::new(&mut self.actor).poll_next(cx);
        if actor.is_ready() {
            return actor;
        }
        let next = self.outbox.next();
        self.writing = next.is_some();
        match next {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(texts: &[&str]) -> Vec<String> {
        let mut waiting = texts.iter().map(|text| TextFrame::new(text)).collect();
        let frames = std::iter::from_fn(|| TextFrame::coalesce(&mut waiting));
        frames.map(|frame| String::from_utf8(frame.text().to_vec()).expect("text")).collect()
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
