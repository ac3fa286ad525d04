//! The guard stands between the bytes of a connection and the codec of `actix-web-actors`. It
//! checks the header of each frame before it buffers the payload, and decompresses messages. It
//! yields one frame at a time, and none while its [`FlowControl`] is paused, so that TCP
//! backpressure reaches the peer. Once the connection is closing, it discards input until the peer
//! closes.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use actix_web::error::PayloadError;
use bytes::{Buf, Bytes, BytesMut};
use futures_core::Stream;

use super::EndReason;
use super::deflate::inflate;
use super::frame::{COMPRESSED, FrameValidator, Header, encode_masked, opcode};

/// The state of reading and writing that the guard, the socket and the driver share.
#[derive(Clone, Debug, Default)]
pub(super) struct FlowControl(Rc<FlowState>);

#[derive(Debug, Default)]
struct FlowState {
    /// Whether the actor has paused reading.
    is_paused: Cell<bool>,
    /// Whether writing is blocked because the peer does not read.
    is_write_blocked: Cell<bool>,
    write_unblocked_at: Cell<Option<Instant>>,
    /// Whether the actor waits until everything is written.
    is_awaited: Cell<bool>,
    is_closing: Cell<bool>,
    peer_closed: Cell<bool>,
    rejection: Cell<Option<EndReason>>,
    waker: RefCell<Option<Waker>>,
}

impl FlowControl {
    /// Pauses reading: the guard yields no frame until [`FlowControl::resume`].
    pub(super) fn pause(&self) {
        self.0.is_paused.set(true);
    }

    /// Resumes reading.
    pub(super) fn resume(&self) {
        self.0.is_paused.set(false);
        self.wake();
    }

    /// Returns whether reading is paused, by the actor or because writing is blocked.
    pub(super) fn is_paused(&self) -> bool {
        self.0.is_paused.get() || self.0.is_write_blocked.get()
    }

    /// Records that writing is blocked because the peer does not read. This pauses reading, so that
    /// the peer causes no more output.
    pub(super) fn set_write_blocked(&self) {
        self.0.is_write_blocked.set(true);
    }

    /// Records that everything has been written. Returns whether the actor must be polled again,
    /// because writing was blocked or [`FlowControl::notify_when_written`] was called.
    pub(super) fn clear_write_blocked(&self) -> bool {
        let was_blocked = self.0.is_write_blocked.replace(false);
        if was_blocked {
            self.0.write_unblocked_at.set(Some(Instant::now()));
        }
        self.0.is_awaited.take() || was_blocked
    }

    /// Returns whether writing is blocked because the peer does not read.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.0.is_write_blocked.get()
    }

    /// Returns when writing was last unblocked.
    pub(super) fn write_unblocked_at(&self) -> Option<Instant> {
        self.0.write_unblocked_at.get()
    }

    /// Requests that the actor is polled again when everything has been written.
    pub(super) fn notify_when_written(&self) {
        self.0.is_awaited.set(true);
    }

    /// Returns whether this side is closing the connection.
    pub(super) fn is_closing(&self) -> bool {
        self.0.is_closing.get()
    }

    /// Begins to close: the guard discards input until the peer's close frame or the end.
    pub(super) fn discard_input(&self) {
        self.0.is_closing.set(true);
        self.wake();
    }

    /// Returns why the guard rejected a frame, if it did.
    pub(super) fn rejection(&self) -> Option<EndReason> {
        self.0.rejection.get()
    }

    /// Returns whether the peer has sent a close frame, valid or not.
    pub(super) fn peer_closed(&self) -> bool {
        self.0.peer_closed.get()
    }

    fn wake(&self) {
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

/// A payload stream that yields complete, valid frames. After each frame it is pending once.
#[derive(Debug)]
pub(super) struct Guard<S> {
    payload: S,
    flow: FlowControl,
    validator: FrameValidator,
    received: BytesMut,
    /// The fragments of the unfinished compressed message.
    compressed: Option<Box<Compressed>>,
    has_yielded: bool,
    /// The bytes of a discarded frame that have not been received yet.
    bytes_to_skip: u64,
}

/// An unfinished compressed message.
#[derive(Debug)]
struct Compressed {
    opcode: u8,
    payload: Vec<u8>,
}

impl<S> Guard<S> {
    pub(super) fn new(
        payload: S,
        flow: FlowControl,
        max_message_bytes: usize,
        compression: bool,
    ) -> Self {
        Self {
            payload,
            flow,
            validator: FrameValidator::new(max_message_bytes, compression),
            received: BytesMut::new(),
            compressed: None,
            has_yielded: false,
            bytes_to_skip: 0,
        }
    }

    /// Returns the next frame, or `None` if it is incomplete.
    fn next_frame(&mut self) -> Result<Option<Bytes>, EndReason> {
        let Some(header) = Header::parse(&self.received) else { return Ok(None) };
        self.validator.check(&header)?;
        let payload_len = usize::try_from(header.payload_len).expect("`check` limits it");
        let frame_len = header.header_len + payload_len;
        if self.received.len() < frame_len {
            return Ok(None);
        }
        self.validator.accept(&header);
        if header.opcode == opcode::CLOSE {
            self.flow.0.peer_closed.set(true);
        }
        let frame = self.received.split_to(frame_len);
        if self.received.is_empty() {
            // Drops the buffer, so an idle connection keeps none.
            self.received = BytesMut::new();
        }
        let is_compressed = header.reserved == COMPRESSED || self.compressed.is_some();
        if header.is_control() || !is_compressed {
            return Ok(Some(frame.freeze()));
        }
        self.decompress(&header, frame).map(Some)
    }

    /// Adds a frame to the unfinished compressed message. Returns the decompressed message after
    /// its last frame. For other frames it returns an empty pong, so that the actor can count them
    /// and the peer does not seem silent.
    fn decompress(&mut self, header: &Header, mut frame: BytesMut) -> Result<Bytes, EndReason> {
        let mut payload = frame.split_off(header.header_len);
        // The masking key is the end of the header (RFC 6455 section 5.2).
        let key = &frame[header.header_len - 4..];
        payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        let mut message = self
            .compressed
            .take()
            .unwrap_or_else(|| Box::new(Compressed { opcode: header.opcode, payload: Vec::new() }));
        message.payload.extend_from_slice(&payload);
        if !header.fin {
            self.compressed = Some(message);
            return Ok(encode_masked(opcode::PONG, &[]));
        }
        let payload = inflate(message.payload, self.validator.max_message_bytes())?;
        Ok(encode_masked(message.opcode, &payload))
    }

    /// Discards received frames. Returns whether there was a close frame.
    fn skip_to_close(&mut self) -> bool {
        loop {
            let skipped = self.bytes_to_skip.min(self.received.len() as u64);
            self.received.advance(usize::try_from(skipped).expect("at most the buffer's length"));
            self.bytes_to_skip -= skipped;
            let Some(header) = Header::parse(&self.received) else { return false };
            if header.opcode == opcode::CLOSE {
                self.flow.0.peer_closed.set(true);
                return true;
            }
            self.received.advance(header.header_len);
            self.bytes_to_skip = header.payload_len;
        }
    }
}

impl<S> Stream for Guard<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // The stream decoder of actix-web-actors reads its payload into a buffer until the payload
        // is pending. Then it decodes one frame, lets the actor handle it, and polls again at once.
        // So it handles each frame before it reads the next one, and this `Pending` needs no waker.
        if std::mem::take(&mut this.has_yielded) {
            return Poll::Pending;
        }
        loop {
            if this.flow.0.is_closing.get() {
                this.compressed = None;
                if this.skip_to_close() {
                    return Poll::Ready(None);
                }
            } else if this.flow.is_paused() {
                this.flow.0.waker.replace(Some(cx.waker().clone()));
                return Poll::Pending;
            } else {
                match this.next_frame() {
                    Ok(Some(frame)) => {
                        this.has_yielded = true;
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Ok(None) => {}
                    Err(reason) => {
                        this.flow.0.rejection.set(Some(reason));
                        this.flow.discard_input();
                        return Poll::Ready(Some(Err(PayloadError::Overflow)));
                    }
                }
            }
            match ready!(Pin::new(&mut this.payload).poll_next(cx)) {
                Some(Ok(chunk)) if this.received.is_empty() => {
                    // This copies nothing if the chunk has no other owner.
                    this.received = BytesMut::from(chunk);
                }
                Some(Ok(chunk)) => this.received.extend_from_slice(&chunk),
                // After an error the connection has ended, too.
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A payload with these chunks. After them it is pending forever.
    struct Chunks(VecDeque<Bytes>);

    impl Stream for Chunks {
        type Item = Result<Bytes, PayloadError>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0.pop_front().map_or(Poll::Pending, |chunk| Poll::Ready(Some(Ok(chunk))))
        }
    }

    fn guard(chunks: &[&[u8]]) -> (Guard<Chunks>, FlowControl) {
        let chunks = Chunks(chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect());
        let flow = FlowControl::default();
        (Guard::new(chunks, flow.clone(), 10, false), flow)
    }

    fn poll(guard: &mut Guard<Chunks>) -> Poll<Option<Result<Bytes, String>>> {
        let poll = Pin::new(guard).poll_next(&mut Context::from_waker(Waker::noop()));
        poll.map(|item| item.map(|result| result.map_err(|error| error.to_string())))
    }

    const HI: &[u8] = &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
    const CLOSE: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];

    fn frame(bytes: &'static [u8]) -> Poll<Option<Result<Bytes, String>>> {
        Poll::Ready(Some(Ok(Bytes::from_static(bytes))))
    }

    #[test]
    fn frames_are_yielded_one_at_a_time_whatever_the_chunks_are() {
        let both = [HI, HI].concat();
        let one_byte_each: Vec<&[u8]> = both.chunks(1).collect();
        for chunks in [vec![&both[..]], vec![&both[..9], &both[9..]], one_byte_each] {
            let (mut guard, _) = guard(&chunks);
            assert_eq!(poll(&mut guard), frame(HI));
            assert_eq!(poll(&mut guard), Poll::Pending);
            assert_eq!(poll(&mut guard), frame(HI));
            assert_eq!(poll(&mut guard), Poll::Pending);
            assert_eq!(poll(&mut guard), Poll::Pending);
        }
    }

    #[test]
    fn nothing_is_read_while_reading_is_paused() {
        let (mut guard, flow) = guard(&[HI, HI]);
        flow.pause();
        assert_eq!(poll(&mut guard), Poll::Pending);
        assert_eq!(guard.payload.0.len(), 2);
        flow.resume();
        assert_eq!(poll(&mut guard), frame(HI));
    }

    #[test]
    fn nothing_is_read_while_writing_is_blocked_unless_the_connection_is_closing() {
        let (mut guard, flow) = guard(&[HI, CLOSE]);
        flow.set_write_blocked();
        assert_eq!(poll(&mut guard), Poll::Pending);
        assert_eq!(guard.payload.0.len(), 2);
        assert!(flow.clear_write_blocked(), "the driver must poll the actor again");
        assert_eq!(poll(&mut guard), frame(HI));
        assert!(!flow.clear_write_blocked());
        flow.set_write_blocked();
        flow.discard_input();
        assert_eq!(poll(&mut guard), Poll::Pending, "after each frame");
        assert_eq!(poll(&mut guard), Poll::Ready(None));
    }

    #[test]
    fn oversize_frame_is_rejected_before_its_payload_is_read_and_then_skipped() {
        let (mut guard, flow) = guard(&[&[0x82, 0x80 | 11, 0, 0, 0, 0], &[0; 11], HI, CLOSE]);
        assert!(matches!(poll(&mut guard), Poll::Ready(Some(Err(_)))));
        assert_eq!(flow.rejection(), Some(EndReason::TooBig));
        assert_eq!(guard.payload.0.len(), 3, "it has not read the payload");
        assert_eq!(poll(&mut guard), Poll::Ready(None), "the peer's close frame ends the stream");
    }

    #[test]
    fn input_after_a_close_by_this_side_is_discarded_until_the_peer_closes() {
        let (mut guard, flow) = guard(&[HI, &HI[..3], &HI[3..]]);
        flow.pause();
        flow.discard_input();
        assert_eq!(poll(&mut guard), Poll::Pending);
        guard.payload.0.push_back(Bytes::from_static(CLOSE));
        assert_eq!(poll(&mut guard), Poll::Ready(None));
    }
}
