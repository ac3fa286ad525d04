//! The guard stands between the connection's bytes and the codec of `actix-web-actors`. It is a
//! judge: a frame that breaks the rules is refused at its header, before its payload is held. It
//! is a meter: it hands on one whole frame at a time, and nothing while the session's [`Gate`] is
//! shut, so that the pressure reaches the sender's TCP. And once the connection is being closed
//! it throws away what still comes, until the peer has closed too. It collects the fragments of a
//! compressed message, decompresses it, and yields it as one uncompressed frame.

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
use super::frame::{COMPRESSED, Header, Rules, encode_masked, opcode};

/// What guard, session and driver share: their hold on the guard, and the guard's verdict.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Rc<GateState>);

#[derive(Debug, Default)]
struct GateState {
    shut: Cell<bool>,
    /// Whether the peer does not take what is written.
    blocked: Cell<bool>,
    /// When it last began to take it again.
    unblocked: Cell<Option<Instant>>,
    /// Whether the session waits for what is written to go out.
    waiting: Cell<bool>,
    discarding: Cell<bool>,
    peer_closed: Cell<bool>,
    verdict: Cell<Option<EndReason>>,
    waker: RefCell<Option<Waker>>,
}

impl Gate {
    /// No frame is handed on until [`Gate::open`].
    pub(super) fn shut(&self) {
        self.0.shut.set(true);
    }

    pub(super) fn open(&self) {
        self.0.shut.set(false);
        self.wake();
    }

    pub(super) fn is_shut(&self) -> bool {
        self.0.shut.get() || self.0.blocked.get()
    }

    /// The peer does not take what is written. Nothing that it has sent is handed on until it does,
    /// so that it causes no more.
    pub(super) fn block(&self) {
        self.0.blocked.set(true);
    }

    /// All has been written. Says whether anybody has waited for that.
    pub(super) fn unblock(&self) -> bool {
        let was_blocked = self.0.blocked.replace(false);
        if was_blocked {
            self.0.unblocked.set(Some(Instant::now()));
        }
        self.0.waiting.take() || was_blocked
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.0.blocked.get()
    }

    /// When the peer last began to take again what is written.
    pub(super) fn unblocked(&self) -> Option<Instant> {
        self.0.unblocked.get()
    }

    /// The session waits for what is written to go out.
    pub(super) fn wait(&self) {
        self.0.waiting.set(true);
    }

    /// Whether the connection is being closed.
    pub(super) fn is_closing(&self) -> bool {
        self.0.discarding.get()
    }

    /// From now on everything that comes is thrown away, until the peer's close frame or its end.
    pub(super) fn discard(&self) {
        self.0.discarding.set(true);
        self.wake();
    }

    /// Why the guard refused a frame, when it did.
    pub(super) fn verdict(&self) -> Option<EndReason> {
        self.0.verdict.get()
    }

    /// Whether the peer's close frame, good or bad, has come.
    pub(super) fn peer_closed(&self) -> bool {
        self.0.peer_closed.get()
    }

    fn wake(&self) {
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

/// A payload stream that yields whole, lawful frames, one between two `Pending`s.
#[derive(Debug)]
pub(super) struct Guard<S> {
    payload: S,
    gate: Gate,
    rules: Rules,
    received: BytesMut,
    /// The fragments of the unfinished compressed message.
    compressed: Option<Box<Compressed>>,
    handed_on: bool,
    /// Bytes of the frame being thrown away that have not come yet.
    skipping: u64,
}

/// An unfinished compressed message.
#[derive(Debug)]
struct Compressed {
    opcode: u8,
    payload: Vec<u8>,
}

impl<S> Guard<S> {
    pub(super) fn new(payload: S, gate: Gate, max_message_bytes: usize, compression: bool) -> Self {
        Self {
            payload,
            gate,
            rules: Rules::new(max_message_bytes, compression),
            received: BytesMut::new(),
            compressed: None,
            handed_on: false,
            skipping: 0,
        }
    }

    /// Returns the next complete frame.
    fn next_frame(&mut self) -> Result<Option<Bytes>, EndReason> {
        let Some(header) = Header::parse(&self.received) else { return Ok(None) };
        self.rules.check(&header)?;
        let payload_len = usize::try_from(header.payload_len).expect("checked against a limit");
        let frame_len = header.header_len + payload_len;
        if self.received.len() < frame_len {
            return Ok(None);
        }
        self.rules.passed(&header);
        if header.opcode == opcode::CLOSE {
            self.gate.0.peer_closed.set(true);
        }
        let frame = self.received.split_to(frame_len);
        if self.received.is_empty() {
            // An idle connection keeps no buffer, however large its last frames were.
            self.received = BytesMut::new();
        }
        let is_compressed = header.reserved == COMPRESSED || self.compressed.is_some();
        if header.is_control() || !is_compressed {
            return Ok(Some(frame.freeze()));
        }
        self.decompress(&header, frame).map(Some)
    }

    /// Adds a frame to the unfinished compressed message. Returns the whole message after its last
    /// frame, and an empty pong before: the session counts each fragment, and hears from its peer.
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
        let whole = inflate(message.payload, self.rules.max_message_bytes())?;
        Ok(encode_masked(message.opcode, &whole))
    }

    /// Throws away what was received, frame by frame; says whether a close frame was among it.
    fn skip_to_close(&mut self) -> bool {
        loop {
            let skipped = self.skipping.min(self.received.len() as u64);
            self.received
                .advance(usize::try_from(skipped).expect("at most the length of a buffer"));
            self.skipping -= skipped;
            let Some(header) = Header::parse(&self.received) else { return false };
            if header.opcode == opcode::CLOSE {
                self.gate.0.peer_closed.set(true);
                return true;
            }
            self.received.advance(header.header_len);
            self.skipping = header.payload_len;
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
        // The stream decoder of actix-web-actors empties its payload into a buffer of its own
        // until that is pending, then decodes one frame, has it handled, and comes back at once.
        // So one `Pending` after each frame, which needs no waker, makes it handle frame by frame.
        if std::mem::take(&mut this.handed_on) {
            return Poll::Pending;
        }
        loop {
            if this.gate.0.discarding.get() {
                this.compressed = None;
                if this.skip_to_close() {
                    return Poll::Ready(None);
                }
            } else if this.gate.is_shut() {
                this.gate.0.waker.replace(Some(cx.waker().clone()));
                return Poll::Pending;
            } else {
                match this.next_frame() {
                    Ok(Some(frame)) => {
                        this.handed_on = true;
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Ok(None) => {}
                    Err(reason) => {
                        this.gate.0.verdict.set(Some(reason));
                        this.gate.discard();
                        return Poll::Ready(Some(Err(PayloadError::Overflow)));
                    }
                }
            }
            match ready!(Pin::new(&mut this.payload).poll_next(cx)) {
                Some(Ok(chunk)) if this.received.is_empty() => {
                    // Not copied, if nobody else has it.
                    this.received = BytesMut::from(chunk);
                }
                Some(Ok(chunk)) => this.received.extend_from_slice(&chunk),
                // A reset and an end come to the same: there is no peer any more.
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A payload whose chunks are all there; then it is pending for ever.
    struct Chunks(VecDeque<Bytes>);

    impl Stream for Chunks {
        type Item = Result<Bytes, PayloadError>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0.pop_front().map_or(Poll::Pending, |chunk| Poll::Ready(Some(Ok(chunk))))
        }
    }

    fn guard(chunks: &[&[u8]]) -> (Guard<Chunks>, Gate) {
        let chunks = Chunks(chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect());
        let gate = Gate::default();
        (Guard::new(chunks, gate.clone(), 10, false), gate)
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
    fn frames_are_handed_on_one_at_a_time_however_they_were_cut() {
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
    fn nothing_is_read_while_the_gate_is_shut() {
        let (mut guard, gate) = guard(&[HI, HI]);
        gate.shut();
        assert_eq!(poll(&mut guard), Poll::Pending);
        assert_eq!(guard.payload.0.len(), 2);
        gate.open();
        assert_eq!(poll(&mut guard), frame(HI));
    }

    #[test]
    fn who_does_not_take_what_is_written_is_not_read_unless_the_connection_is_being_closed() {
        let (mut guard, gate) = guard(&[HI, CLOSE]);
        gate.block();
        assert_eq!(poll(&mut guard), Poll::Pending);
        assert_eq!(guard.payload.0.len(), 2);
        assert!(gate.unblock(), "the driver is told to let the actor read on");
        assert_eq!(poll(&mut guard), frame(HI));
        assert!(!gate.unblock());
        gate.block();
        gate.discard();
        assert_eq!(poll(&mut guard), Poll::Pending, "after each frame");
        assert_eq!(poll(&mut guard), Poll::Ready(None));
    }

    #[test]
    fn an_oversize_frame_is_refused_before_its_payload_and_then_skipped() {
        let (mut guard, gate) = guard(&[&[0x82, 0x80 | 11, 0, 0, 0, 0], &[0; 11], HI, CLOSE]);
        assert!(matches!(poll(&mut guard), Poll::Ready(Some(Err(_)))));
        assert_eq!(gate.verdict(), Some(EndReason::TooBig));
        assert_eq!(guard.payload.0.len(), 3, "it had not asked for the payload");
        assert_eq!(poll(&mut guard), Poll::Ready(None), "the peer's close frame ends it");
    }

    #[test]
    fn what_comes_after_a_close_of_ours_is_thrown_away_until_the_peer_closes() {
        let (mut guard, gate) = guard(&[HI, &HI[..3], &HI[3..]]);
        gate.shut();
        gate.discard();
        assert_eq!(poll(&mut guard), Poll::Pending);
        guard.payload.0.push_back(Bytes::from_static(CLOSE));
        assert_eq!(poll(&mut guard), Poll::Ready(None));
    }
}
