//! Committing: flushed messages are appended to the log. When the log has answered, they are
//! delivered, their senders get receipts, and requests for history that waited are answered. One
//! append is in flight at a time; rooms that come due meanwhile wait for a later append.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actix::prelude::*;
use log::{error, info};
use tokio::time::Instant;

use super::history::History;
use super::publish::{Flush, Pending, ROOM_PENDING_MESSAGES_MAX, Sender};
use super::{Batch, Deliver, Hub};
use crate::domain::{ChatMessage, ClientId, Draft, Epoch, RoomName, Seq};
use crate::log::{Append, Appended, LogBackend, LogError, Placed, Responder};
use crate::metrics::Outcome;
use crate::protocol::{ErrorCode, Event, Refusal, Reply};

/// No further room joins an append that has reached this size, in bytes of text. A client that is a
/// member of all these rooms receives their messages as one delivery.
const APPEND_BYTES_MAX: usize = 256 * 1024;

/// The hub's state of its log.
pub(super) struct LogState {
    pub(super) epoch: Epoch,
    /// The sequence number of the last delivered message.
    pub(super) head: Seq,
    pub(super) backend: Box<dyn LogBackend>,
    in_flight: Option<InFlightAppend>,
    /// Rooms that came due while an append was in flight, oldest first.
    pub(super) waiting: VecDeque<RoomName>,
    /// Whether the last append failed.
    failing: bool,
}

/// An append that the log has not answered yet.
struct InFlightAppend {
    /// For each message its sender and the time of its acceptance.
    senders: Vec<(Option<Sender>, Instant)>,
    /// Requests for history that are answered after these messages.
    history_requests: Vec<History>,
    began: Instant,
}

impl LogState {
    pub(super) fn new(epoch: Epoch, head: Seq, backend: Box<dyn LogBackend>) -> Self {
        let waiting = VecDeque::new();
        Self { epoch, head, backend, in_flight: None, waiting, failing: false }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Logs when appends begin to fail and when they succeed again, but not every failure.
    fn note_outcome(&mut self, error: Option<&LogError>) {
        match (std::mem::replace(&mut self.failing, error.is_some()), error) {
            (false, Some(error)) => error!("log unavailable; rejecting messages: {error}"),
            (true, None) => info!("log available again"),
            (true, Some(_)) | (false, None) => {}
        }
    }
}

impl Hub {
    /// Appends the pending messages of a room to the log, or lets the room wait for the append in
    /// flight.
    pub(super) fn flush(&mut self, name: &RoomName) {
        if self.log.is_idle() {
            let flush = self.take_pending(name);
            self.append(flush);
        } else {
            self.log.waiting.push_back(name.clone());
        }
    }

    fn append(&mut self, Flush { pending, history_requests }: Flush) {
        if pending.is_empty() {
            return;
        }
        let Some(hub) = self.this.upgrade() else { return };
        let apart = |Pending { draft, sender, accepted }| (draft, (sender, accepted));
        let (drafts, senders): (Vec<_>, _) = pending.into_iter().map(apart).unzip();
        self.log.in_flight =
            Some(InFlightAppend { senders, history_requests, began: Instant::now() });
        let answer = Responder::<Appended>::new(hub.recipient());
        if let Some(appended) = self.log.backend.append(Append { drafts, answer }) {
            self.appended(appended);
        }
    }

    /// Settles the append in flight, and starts the next one.
    fn appended(&mut self, Appended { drafts, outcome }: Appended) {
        let Some(append) = self.log.in_flight.take() else { return };
        self.log.note_outcome(outcome.as_ref().err());
        self.settle(append, drafts, outcome);
        let flush = self.take_waiting();
        self.append(flush);
    }

    /// Takes the pending messages of waiting rooms, as many as one append may carry.
    fn take_waiting(&mut self) -> Flush {
        let mut all = Flush::default();
        let before = self.pacing.pending_bytes;
        while all.pending.len() < ROOM_PENDING_MESSAGES_MAX
            && before - self.pacing.pending_bytes < APPEND_BYTES_MAX
            && let Some(name) = self.log.waiting.pop_front()
        {
            let flush = self.take_pending(&name);
            all.pending.extend(flush.pending);
            all.history_requests.extend(flush.history_requests);
        }
        all
    }

    fn take_pending(&mut self, name: &RoomName) -> Flush {
        let Some(room) = self.rooms.get_mut(name) else { return Flush::default() };
        room.next_flush = Instant::now() + self.pacing.wait(room.members.len());
        room.in_flight |= !room.pending.is_empty();
        self.pacing.pending_bytes -= room.pending_bytes;
        room.take_pending()
    }

    /// Answers a request for history once the room's pending and in-flight messages are committed.
    pub(super) fn answer_after_commit(&mut self, request: History) {
        match (self.rooms.get_mut(&request.room), &mut self.log.in_flight) {
            (Some(room), _) if !room.pending.is_empty() => room.history_requests.push(request),
            (Some(room), Some(append)) if room.in_flight => append.history_requests.push(request),
            _ => self.answer_from_history(request),
        }
    }

    /// Delivers what the log has committed, then sends the receipts, then answers requests for
    /// history.
    fn settle(
        &mut self,
        append: InFlightAppend,
        drafts: Vec<Draft>,
        outcome: Result<Vec<Placed>, LogError>,
    ) {
        let mut receipts: HashMap<ClientId, Vec<Reply>> = HashMap::new();
        let mut rooms: Vec<(RoomName, Instant, Vec<Arc<ChatMessage>>)> = Vec::new();
        self.metrics.observe_commit(append.began.elapsed());
        for (n, (draft, (sender, accepted))) in drafts.into_iter().zip(append.senders).enumerate() {
            let placed = match &outcome {
                Ok(placed) => placed.get(n).copied().ok_or(&LogError::Died),
                Err(error) => Err(error),
            };
            if let Some(sender) = sender {
                self.add_receipt(&mut receipts, sender, &draft, placed);
            }
            self.metrics.count_message(match placed {
                Ok(Placed::New(..)) => Outcome::Kept,
                Ok(Placed::Duplicate(_)) => Outcome::Duplicate,
                Err(_) => Outcome::Failed,
            });
            if rooms.last().is_none_or(|(room, ..)| *room != draft.room) {
                rooms.push((draft.room.clone(), accepted, Vec::new()));
            }
            if let (Ok(Placed::New(seq, at)), Some((.., batch))) = (placed, rooms.last_mut()) {
                self.log.head = self.log.head.max(seq);
                batch.push(Arc::new(draft.placed(seq, at)));
            }
        }
        let mut batches = Vec::with_capacity(rooms.len());
        for (name, accepted, messages) in rooms {
            if let Some(room) = self.rooms.get_mut(&name) {
                room.in_flight = false;
            }
            self.remember(&name, &messages);
            self.close_room_if_idle(&name);
            if !messages.is_empty() {
                batches.push((name, Arc::new(Batch::new(messages, accepted.into_std()))));
            }
        }
        self.fan_out(&batches);
        for (client, replies) in receipts {
            self.send_to(client, Deliver::Direct(replies));
        }
        for request in append.history_requests {
            self.answer_from_history(request);
        }
    }

    /// Adds the receipt of a message: an error for every sender, a success only for clients that
    /// registered for events.
    fn add_receipt(
        &self,
        receipts: &mut HashMap<ClientId, Vec<Reply>>,
        Sender { client, reference }: Sender,
        draft: &Draft,
        placed: Result<Placed, &LogError>,
    ) {
        let wanted = self.clients.get(&client).is_some_and(|client| client.events);
        let (seq, duplicate) = match placed {
            Ok(Placed::New(seq, _)) => (seq, false),
            Ok(Placed::Duplicate(seq)) => (seq, true),
            Err(error) => {
                let event = Event::Error(error.into());
                return receipts.entry(client).or_default().push(Reply { event, reference });
            }
        };
        if wanted {
            let id = draft.origin.as_ref().map(|origin| origin.id.clone());
            let event = Event::Said { room: draft.room.clone(), seq, id, duplicate };
            receipts.entry(client).or_default().push(Reply { event, reference });
        }
    }
}

impl Handler<Appended> for Hub {
    type Result = ();

    fn handle(&mut self, appended: Appended, ctx: &mut Self::Context) {
        if matches!(appended.outcome, Err(LogError::Died)) {
            error!("the log has stopped; stopping the hub");
            return ctx.terminate();
        }
        self.appended(appended);
        self.end_if_drained();
    }
}

impl From<&LogError> for Refusal {
    fn from(error: &LogError) -> Self {
        match error {
            LogError::Busy(_) => {
                Self::new(ErrorCode::Busy, "the message cannot be stored now; try again later")
            }
            LogError::Failed(_) | LogError::Died => {
                Self::new(ErrorCode::Internal, "the server cannot read or store messages")
            }
        }
    }
}
