//! What goes out to the peer. Text is encoded before it comes here, once for all peers it goes to,
//! and is handed to the connection without being encoded or copied again, as it would be by
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

use super::frame::{FINAL, opcode};
use super::guard::Gate;
use super::text_frame::{MAX_COALESCED_BYTES, TextFrame};

/// How many messages wait before a client is read no further until they have gone.
const MANY_MESSAGES: usize = 64;

/// The frame of an empty ping.
const PING: &[u8] = &[FINAL | opcode::PING, 0];

/// A text message of which each part is made when the connection has room for it. What does not fit
/// into [`MAX_COALESCED_BYTES`] goes out in fragments (RFC 6455 section 5.4), so that nobody holds
/// all of a long message for a peer that takes its time. Fragments are not compressed: Safari
/// cannot read compressed fragments (nats-server#2613).
struct Parts {
    next: Option<TextFrame>,
    texts: Peekable<Box<dyn Iterator<Item = String>>>,
}

impl Parts {
    fn new(texts: impl Iterator<Item = String> + 'static) -> Self {
        let texts: Box<dyn Iterator<Item = String>> = Box::new(texts);
        let mut parts = Self { next: None, texts: texts.peekable() };
        parts.next = parts.make(opcode::TEXT);
        parts
    }

    fn make(&mut self, kind: u8) -> Option<TextFrame> {
        let mut text = self.texts.next()?;
        let fits = |text: &str, next: &str| text.len() + next.len() <= MAX_COALESCED_BYTES;
        while let Some(next) = self.texts.next_if(|next| fits(&text, next)) {
            text.push_str(&next);
        }
        let end = if self.is_last() { FINAL } else { 0 };
        Some(TextFrame::encode(end | kind, text.len(), [text.as_bytes()].into_iter()))
    }

    fn is_last(&mut self) -> bool {
        self.texts.peek().is_none()
    }
}

impl Iterator for Parts {
    type Item = TextFrame;

    fn next(&mut self) -> Option<TextFrame> {
        let fragment = self.next.take()?;
        self.next = self.make(opcode::CONTINUATION);
        Some(fragment)
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("next", &self.next).finish_non_exhaustive()
    }
}

/// Bounds what waits for a connection, for whoever writes to it.
pub trait Budget: fmt::Debug + Send + Sync {
    /// So much has gone out to the connection, or was thrown away.
    fn release(&self, amount: u64);
}

/// Texts that wait for the connection to have room. The actor's half puts them in; the driver, or
/// the body's half, takes them out.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox(Rc<State>);

#[derive(Debug, Default)]
struct State {
    waiting: RefCell<Waiting>,
    budget: OnceCell<Arc<dyn Budget>>,
}

impl Drop for State {
    fn drop(&mut self) {
        let mut waiting = take(self.waiting.get_mut());
        waiting.taken = waiting.pushed;
        self.release(&mut waiting);
    }
}

impl State {
    fn release(&self, waiting: &mut Waiting) {
        let released = waiting.released();
        if released > 0
            && let Some(budget) = self.budget.get()
        {
            budget.release(released);
        }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    /// How many pings wait. They overtake messages.
    pings: u32,
    texts: VecDeque<TextFrame>,
    /// Each message in parts, and the texts behind it.
    behind: VecDeque<(Parts, VecDeque<TextFrame>)>,
    /// How many messages have come and gone.
    pushed: u32,
    taken: u32,
    /// What is released when so many messages have gone.
    releases: VecDeque<(u32, u64)>,
    /// Whether nothing comes behind this but the end.
    last: bool,
    /// Whether compression was negotiated. It is here, where it takes no space: with 8 bytes more
    /// in [`State`], fragmentation of the heap cost 2.6 kB a connection.
    compresses: bool,
}

impl Waiting {
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
            // An idle connection keeps no buffer.
            self.texts = VecDeque::new();
            let Some((parts, _)) = self.behind.front_mut() else {
                self.behind = VecDeque::new();
                return None;
            };
            if let Some(fragment) = parts.next() {
                return Some(fragment.into_bytes());
            }
            self.count(1);
            self.texts = self.behind.pop_front()?.1;
        }
    }

    fn count(&mut self, messages: usize) {
        self.taken = self.taken.wrapping_add(u32::try_from(messages).unwrap_or(u32::MAX));
    }

    /// Takes what is released by now.
    fn released(&mut self) -> u64 {
        let mut released = 0;
        while let Some(&(due, amount)) = self.releases.front()
            && self.taken.wrapping_sub(due) <= u32::MAX / 2
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
    pub(super) fn push(&self, frame: TextFrame) {
        debug_assert!(!frame.is_compressed() || self.compresses(), "compression was negotiated");
        let mut waiting = self.0.waiting.borrow_mut();
        let Waiting { texts, behind, pushed, .. } = &mut *waiting;
        *pushed = pushed.wrapping_add(1);
        behind.back_mut().map_or(texts, |(_, texts)| texts).push_back(frame);
    }

    /// Adds a message in parts. A short one waits as any other text.
    pub(super) fn push_parts(&self, texts: impl Iterator<Item = String> + 'static) {
        let mut parts = Parts::new(texts);
        if parts.is_last() {
            parts.for_each(|whole| {
                self.push(if self.compresses() { whole.compressed() } else { whole });
            });
        } else {
            let mut waiting = self.0.waiting.borrow_mut();
            waiting.pushed = waiting.pushed.wrapping_add(1);
            waiting.behind.push_back((parts, VecDeque::new()));
        }
    }

    /// Adds a ping. The context would keep a buffer for it.
    pub(super) fn push_ping(&self) {
        self.0.waiting.borrow_mut().pings += 1;
    }

    /// Marks compression as negotiated.
    pub(super) fn set_compression(&self) {
        self.0.waiting.borrow_mut().compresses = true;
    }

    pub(super) fn compresses(&self) -> bool {
        self.0.waiting.borrow().compresses
    }

    /// Releases to this budget what [`Outbox::release_later`] says.
    pub(super) fn set_budget(&self, budget: Arc<dyn Budget>) {
        // It is set once, when the actor starts.
        let _ = self.0.budget.set(budget);
    }

    /// Releases an amount as soon as all that waits now has gone.
    pub(super) fn release_later(&self, amount: u64) {
        let mut waiting = self.0.waiting.borrow_mut();
        let due = waiting.pushed;
        waiting.releases.push_back((due, amount));
        self.0.release(&mut waiting);
    }

    /// Lets all that waits go out before what the actor says now, which is its last.
    pub(super) fn finish(&self) {
        self.0.waiting.borrow_mut().last = true;
    }

    /// Throws away what waits.
    pub(super) fn clear(&self) {
        let mut waiting = self.0.waiting.borrow_mut();
        waiting.pings = 0;
        waiting.texts = VecDeque::new();
        waiting.behind = VecDeque::new();
        waiting.taken = waiting.pushed;
        self.0.release(&mut waiting);
    }

    /// Whether a lot waits, or a message that is too long for one frame.
    pub(super) fn is_full(&self) -> bool {
        let waiting = self.0.waiting.borrow();
        waiting.texts.len() >= MANY_MESSAGES || !waiting.behind.is_empty()
    }

    /// Whether a message that is too long for one frame waits or is on its way.
    pub(super) fn has_parts(&self) -> bool {
        !self.0.waiting.borrow().behind.is_empty()
    }

    pub(super) fn is_last(&self) -> bool {
        self.0.waiting.borrow().last
    }

    /// The next frame, with as many texts as fit.
    pub(super) fn next(&self) -> Option<Bytes> {
        let mut waiting = self.0.waiting.borrow_mut();
        let next = waiting.next();
        self.0.release(&mut waiting);
        next
    }
}

/// The response's body where actix-http keeps the connection: that of `actix-web-actors`, which
/// runs the actor and carries its close frame, and what the outbox holds beside it.
pub(super) struct Outgoing {
    actor: BoxBody,
    outbox: Outbox,
    gate: Gate,
    writing: bool,
    /// What the actor has said that goes out behind all that waits.
    held: Option<Option<Result<Bytes, BoxError>>>,
}

type BoxError = <BoxBody as MessageBody>::Error;

impl Outgoing {
    pub(super) fn new(actor: BoxBody, outbox: Outbox, gate: Gate) -> Self {
        Self { actor, outbox, gate, writing: false, held: None }
    }
}

impl MessageBody for Outgoing {
    type Error = BoxError;

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
        if let Some(said) = self.held.take() {
            return Poll::Ready(said);
        }
        loop {
            // When the actor is pending, its mailbox is empty: what was delivered together goes out
            // together.
            let actor = Pin::new(&mut self.actor).poll_next(cx);
            if actor.is_ready() && !self.outbox.is_last() {
                return actor;
            }
            let next = self.outbox.next();
            self.writing = next.is_some();
            match (next, actor) {
                (Some(frame), actor) => {
                    if let Poll::Ready(said) = actor {
                        self.held = Some(said);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                // The actor reads on, now that there is room.
                (None, Poll::Pending) if self.gate.unblock() => {}
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
    fn a_long_message_leaves_in_fragments_made_one_by_one_and_a_short_one_as_any_text() {
        let made = Rc::new(Cell::new(0));
        let parts = |count: usize| {
            let made = Rc::clone(&made);
            let part = move |_| {
                made.set(made.get() + 1);
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
        assert!(made.get() <= 5, "{} parts were made for nobody", made.get());
        let rest: Vec<_> = std::iter::from_fn(|| outbox.next()).map(first_bytes).collect();
        assert_eq!(rest, [(0x01, true), (0x00, true), (0x80, true), (0x81, false)]);
        assert_eq!(made.get(), 9);
    }

    #[test]
    fn dropping_the_outbox_releases_what_is_left_of_its_budget() {
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
