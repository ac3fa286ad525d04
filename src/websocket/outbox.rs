//! The queue of frames to write to the peer. The socket fills it; the driver or, on actix-http's
//! connections, [`OutboxBody`] empties it. A text is encoded once for all peers before it is
//! queued, and is not copied again as it would be by
//! [`WebsocketContext::text`](actix_web_actors::ws::WebsocketContext::text).

use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::iter::Peekable;
use std::mem::take;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;

use super::frame::{FIN, opcode};
use super::guard::FlowControl;
use super::text_frame::{MAX_COALESCED_BYTES, TextFrame};

/// The number of queued texts from which the outbox counts as full.
const FULL_MESSAGES: usize = 64;

/// The frame of an empty ping.
const PING: &[u8] = &[FIN | opcode::PING, 0];

/// A text message as an iterator of its parts, each encoded when the connection is writable. A
/// message that exceeds [`MAX_COALESCED_BYTES`] is sent in fragments (RFC 6455 section 5.4), so
/// that a slow peer does not keep a long message in memory. Fragments are not compressed: Safari
/// cannot read compressed fragments (nats-server#2613).
struct Parts {
    /// Encoded one fragment ahead, since a frame says whether it is the last.
    next: Option<TextFrame>,
    texts: Peekable<Box<dyn Iterator<Item = String>>>,
}

impl Parts {
    fn new(texts: impl Iterator<Item = String> + 'static) -> Self {
        let texts: Box<dyn Iterator<Item = String>> = Box::new(texts);
        let mut parts = Self { next: None, texts: texts.peekable() };
        parts.next = parts.encode_next(opcode::TEXT);
        parts
    }

    fn encode_next(&mut self, opcode: u8) -> Option<TextFrame> {
        let mut text = self.texts.next()?;
        let fits = |text: &str, next: &str| text.len() + next.len() <= MAX_COALESCED_BYTES;
        while let Some(next) = self.texts.next_if(|next| fits(&text, next)) {
            text.push_str(&next);
        }
        let fin = if self.is_last() { FIN } else { 0 };
        Some(TextFrame::encode(fin | opcode, text.len(), [text.as_bytes()].into_iter()))
    }

    /// Returns whether `next` is the last fragment.
    fn is_last(&mut self) -> bool {
        self.texts.peek().is_none()
    }
}

impl Iterator for Parts {
    type Item = TextFrame;

    fn next(&mut self) -> Option<TextFrame> {
        let fragment = self.next.take()?;
        self.next = self.encode_next(opcode::CONTINUATION);
        Some(fragment)
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("next", &self.next).finish_non_exhaustive()
    }
}

/// Counts what is queued for a connection, so that senders can limit it.
pub trait Budget: fmt::Debug + Send + Sync {
    /// Releases an amount that has been written to the connection or discarded.
    fn release(&self, amount: u64);
}

/// The queue of frames. Its clones share one queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox(Rc<State>);

#[derive(Debug, Default)]
struct State {
    queue: RefCell<Queue>,
    budget: OnceCell<Arc<dyn Budget>>,
}

impl Drop for State {
    fn drop(&mut self) {
        // What is still queued is discarded, so its budget is released.
        let mut queue = take(self.queue.get_mut());
        queue.dequeued = queue.enqueued;
        self.release(&mut queue);
    }
}

impl State {
    fn release(&self, queue: &mut Queue) {
        let released = queue.released();
        if released > 0
            && let Some(budget) = self.budget.get()
        {
            budget.release(released);
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// The number of queued pings. They overtake messages.
    pings: u32,
    /// The texts before the first fragmented message.
    texts: VecDeque<TextFrame>,
    /// The fragmented messages, each with the texts that follow it.
    fragmented: VecDeque<(Parts, VecDeque<TextFrame>)>,
    /// The number of messages that were added so far. It wraps around.
    enqueued: u32,
    /// The number of messages that were removed so far. It wraps around.
    dequeued: u32,
    /// Amounts of the budget, each with the value of `dequeued` at which it is released.
    releases: VecDeque<(u32, u64)>,
    /// Whether only the actor's close frame follows.
    is_finished: bool,
    /// Whether compression was negotiated. Here it takes no additional space: with 8 bytes more in
    /// [`State`], heap fragmentation cost 2.6 kB for each connection.
    compresses: bool,
}

impl Queue {
    fn next(&mut self) -> Option<Bytes> {
        if self.pings > 0 {
            self.pings -= 1;
            return Some(Bytes::from_static(PING));
        }
        loop {
            let before = self.texts.len();
            if let Some(frame) = TextFrame::coalesce(&mut self.texts) {
                self.count(before - self.texts.len());
                return Some(frame.into_bytes());
            }
            // New queues have no buffer, so an idle connection keeps none.
            self.texts = VecDeque::new();
            let Some((parts, _)) = self.fragmented.front_mut() else {
                self.fragmented = VecDeque::new();
                return None;
            };
            if let Some(fragment) = parts.next() {
                return Some(fragment.into_bytes());
            }
            self.count(1);
            self.texts = self.fragmented.pop_front()?.1;
        }
    }

    fn count(&mut self, messages: usize) {
        self.dequeued = self.dequeued.wrapping_add(u32::try_from(messages).unwrap_or(u32::MAX));
    }

    /// Removes the releases that are due, and returns their sum.
    fn released(&mut self) -> u64 {
        let mut released = 0;
        while let Some(&(due, amount)) = self.releases.front()
            && self.dequeued.wrapping_sub(due) <= u32::MAX / 2
        {
            released += amount;
            self.releases.pop_front();
        }
        if self.releases.is_empty() {
            self.releases = VecDeque::new();
        }
        released
    }
}

impl Outbox {
    /// Adds a text.
    pub(super) fn push(&self, frame: TextFrame) {
        debug_assert!(!frame.is_compressed() || self.compresses(), "compression was negotiated");
        let mut queue = self.0.queue.borrow_mut();
        let Queue { texts, fragmented, enqueued, .. } = &mut *queue;
        *enqueued = enqueued.wrapping_add(1);
        fragmented.back_mut().map_or(texts, |(_, texts)| texts).push_back(frame);
    }

    /// Adds a text in parts. One that fits into a frame is added like any other text.
    pub(super) fn push_parts(&self, texts: impl Iterator<Item = String> + 'static) {
        let mut parts = Parts::new(texts);
        if parts.is_last() {
            parts.for_each(|frame| {
                self.push(if self.compresses() { frame.compressed() } else { frame });
            });
        } else {
            let mut queue = self.0.queue.borrow_mut();
            queue.enqueued = queue.enqueued.wrapping_add(1);
            queue.fragmented.push_back((parts, VecDeque::new()));
        }
    }

    /// Adds a ping. Written through the context, it would make the context keep a buffer.
    pub(super) fn push_ping(&self) {
        self.0.queue.borrow_mut().pings += 1;
    }

    /// Marks compression as negotiated.
    pub(super) fn set_compression(&self) {
        self.0.queue.borrow_mut().compresses = true;
    }

    pub(super) fn compresses(&self) -> bool {
        self.0.queue.borrow().compresses
    }

    /// Sets the budget of [`Outbox::release_later`]. A second call does nothing.
    pub(super) fn set_budget(&self, budget: Arc<dyn Budget>) {
        let _ = self.0.budget.set(budget);
    }

    /// Releases an amount of the budget when everything that is queued now has left the queue.
    pub(super) fn release_later(&self, amount: u64) {
        let mut queue = self.0.queue.borrow_mut();
        let due = queue.enqueued;
        queue.releases.push_back((due, amount));
        self.0.release(&mut queue);
    }

    /// Makes everything that is queued precede the close frame that the actor writes now.
    pub(super) fn finish(&self) {
        self.0.queue.borrow_mut().is_finished = true;
    }

    /// Discards everything that is queued.
    pub(super) fn clear(&self) {
        let mut queue = self.0.queue.borrow_mut();
        queue.pings = 0;
        queue.texts = VecDeque::new();
        queue.fragmented = VecDeque::new();
        queue.dequeued = queue.enqueued;
        self.0.release(&mut queue);
    }

    /// Returns whether there are many queued texts or a fragmented message.
    pub(super) fn is_full(&self) -> bool {
        let queue = self.0.queue.borrow();
        queue.texts.len() >= FULL_MESSAGES || !queue.fragmented.is_empty()
    }

    /// Returns whether a fragmented message is queued or partly written.
    pub(super) fn has_parts(&self) -> bool {
        !self.0.queue.borrow().fragmented.is_empty()
    }

    /// Returns whether [`Outbox::finish`] was called.
    pub(super) fn is_finished(&self) -> bool {
        self.0.queue.borrow().is_finished
    }

    /// Removes the next frame and returns it. It joins as many texts as fit.
    pub(super) fn next(&self) -> Option<Bytes> {
        let mut queue = self.0.queue.borrow_mut();
        let next = queue.next();
        self.0.release(&mut queue);
        next
    }
}

/// The response's body on a connection that actix-http keeps. It combines the frames of the outbox
/// with the body of `actix-web-actors`, which runs the actor and yields its close frame.
pub(super) struct OutboxBody {
    actor: BoxBody,
    outbox: Outbox,
    flow: FlowControl,
    /// Whether the last poll yielded a frame of the outbox.
    is_draining: bool,
    /// What the actor's body has yielded, while the outbox precedes it.
    deferred: Option<Option<Result<Bytes, BoxError>>>,
}

type BoxError = <BoxBody as MessageBody>::Error;

impl OutboxBody {
    pub(super) fn new(actor: BoxBody, outbox: Outbox, flow: FlowControl) -> Self {
        Self { actor, outbox, flow, is_draining: false, deferred: None }
    }
}

impl MessageBody for OutboxBody {
    type Error = BoxError;

    fn size(&self) -> BodySize {
        self.actor.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.is_draining
            && let Some(frame) = self.outbox.next()
        {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(item) = self.deferred.take() {
            return Poll::Ready(item);
        }
        loop {
            // Once this is pending, the mailbox of the actor is empty, so everything in it is
            // written together.
            let actor = Pin::new(&mut self.actor).poll_next(cx);
            if actor.is_ready() && !self.outbox.is_finished() {
                return actor;
            }
            let next = self.outbox.next();
            self.is_draining = next.is_some();
            match (next, actor) {
                (Some(frame), actor) => {
                    if let Poll::Ready(item) = actor {
                        self.deferred = Some(item);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                // The actor is polled again, since it may wait for this.
                (None, Poll::Pending) if self.flow.clear_write_blocked() => {}
                (None, actor) => return actor,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn long_message_is_fragmented_on_demand_and_a_short_one_is_sent_like_any_text() {
        let created = Rc::new(Cell::new(0));
        let parts = |count: usize| {
            let created = Rc::clone(&created);
            let part = move |_| {
                created.set(created.get() + 1);
                "x".repeat(MAX_COALESCED_BYTES / 4)
            };
            (0..count).map(part)
        };
        let outbox = Outbox::default();
        outbox.push(TextFrame::new("a"));
        outbox.push_parts(std::iter::once("b".to_owned()));
        outbox.push_parts(parts(9));
        outbox.push(TextFrame::new("c"));
        let first_bytes = |frame: Bytes| (frame[0], frame.len() > MAX_COALESCED_BYTES / 4);
        assert_eq!(outbox.next().as_deref(), Some(&b"\x81\x03a\nb"[..]));
        assert!(created.get() <= 5, "{} parts were created too early", created.get());
        let rest: Vec<_> = std::iter::from_fn(|| outbox.next()).map(first_bytes).collect();
        assert_eq!(rest, [(0x01, true), (0x00, true), (0x80, true), (0x81, false)]);
        assert_eq!(created.get(), 9);
    }

    #[test]
    fn dropping_the_outbox_releases_the_rest_of_its_budget() {
        #[derive(Debug, Default)]
        struct Released(AtomicU64);
        impl Budget for Released {
            fn release(&self, amount: u64) {
                self.0.fetch_add(amount, Ordering::Relaxed);
            }
        }
        let released = Arc::new(Released::default());
        let outbox = Outbox::default();
        outbox.set_budget(Arc::clone(&released) as Arc<dyn Budget>);
        for amount in [1, 10, 100] {
            outbox.push(TextFrame::new(&"x".repeat(MAX_COALESCED_BYTES)));
            outbox.release_later(amount);
        }
        let _ = outbox.next();
        assert_eq!(released.0.load(Ordering::Relaxed), 1);
        drop(outbox);
        assert_eq!(released.0.load(Ordering::Relaxed), 111);
    }
}
