//! Committing: the hub appends the drafts of flushed rooms to the log, and delivers only the
//! entries that the log hands out. Then it sends receipts to the senders, and answers the requests
//! for history that waited. One append is in flight at a time, and appends to a log on disk keep an
//! interval. Rooms that come due meanwhile wait for a later append.

use std::collections::{HashMap, VecDeque};

use actix::prelude::*;
use log::{error, info, warn};
use tokio::time::Instant;

use super::history::History;
use super::publish::{Flush, Pending, ROOM_PENDING_MESSAGES_MAX, Sender};
use super::rooms::Room;
use super::{Deliver, Hub};
use crate::domain::{Audience, ClientId, Durability, Entry, Epoch, MessageId, RoomName, Seq};
use crate::log::{Append, FromLog, LogBackend, LogError, Own, Refused, State, Verdict};
use crate::metrics::Outcome;
use crate::protocol::{DisconnectReason, ErrorCode, Event, Refusal, Reply};

/// No further room joins an append that has reached this size, in bytes of text. A client that is a
/// member of all these rooms receives their messages as one delivery.
const APPEND_BYTES_MAX: usize = 256 * 1024;

/// The log, and what the hub knows of it.
pub(super) struct LogState {
    pub(super) epoch: Epoch,
    /// The sequence number of the last committed entry.
    pub(super) head: Seq,
    /// The log's state at `head`.
    pub(super) state: State,
    pub(super) durability: Durability,
    pub(super) backend: Box<dyn LogBackend>,
    in_flight: Option<InFlightAppend>,
    last_ticket: u64,
    /// The earliest time of the next append.
    next_append: Instant,
    append_scheduled: bool,
    /// Rooms that came due while an append was in flight or before the next one, oldest first.
    pub(super) waiting: VecDeque<RoomName>,
    /// Whether the log cannot answer now. See [`FromLog::Stalled`].
    pub(super) stalled: bool,
    /// Whether the last append failed.
    failing: bool,
}

/// An append that the log has not answered yet.
struct InFlightAppend {
    ticket: u64,
    drafts: Vec<Sent>,
    /// Requests for history that are answered after these drafts.
    history_requests: Vec<History>,
    began: Instant,
}

/// What the hub remembers of a draft that it has sent to the log.
struct Sent {
    room: RoomName,
    id: Option<MessageId>,
    sender: Option<Sender>,
    accepted: Instant,
}

impl InFlightAppend {
    /// Returns the rooms of the drafts, with the time at which the first draft was accepted.
    fn rooms(&self) -> Vec<(RoomName, Option<Instant>)> {
        let rooms = self.drafts.chunk_by(|a, b| a.room == b.room);
        rooms.map(|drafts| (drafts[0].room.clone(), Some(drafts[0].accepted))).collect()
    }
}

impl LogState {
    pub(super) fn new(epoch: Epoch, head: Seq, state: State, backend: Box<dyn LogBackend>) -> Self {
        Self {
            epoch,
            head,
            state,
            durability: backend.durability(),
            backend,
            in_flight: None,
            last_ticket: 0,
            next_append: Instant::now(),
            append_scheduled: false,
            waiting: VecDeque::new(),
            stalled: false,
            failing: false,
        }
    }

    fn is_idle(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Returns whether all drafts of flushed rooms are settled.
    pub(super) fn is_settled(&self) -> bool {
        self.is_idle() && self.waiting.is_empty()
    }

    /// Takes the append in flight, if it has this ticket.
    fn take_in_flight(&mut self, ticket: u64) -> Option<InFlightAppend> {
        self.in_flight.take_if(|append| append.ticket == ticket)
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

impl Handler<FromLog> for Hub {
    type Result = ();

    fn handle(&mut self, from_log: FromLog, ctx: &mut Self::Context) {
        if matches!(from_log, FromLog::Died) {
            if self.lifecycle.draining {
                // The hub goes on, so that clients that register late are told of the shutdown.
                return self.end();
            }
            error!("the log has stopped; stopping the hub");
            return ctx.terminate();
        }
        self.take_from_log(from_log);
        self.resume_joins();
        self.end_if_drained();
        self.let_sessions_run(ctx);
    }
}

impl Hub {
    /// Appends the pending drafts of a room to the log, or lets the room wait for a later append.
    /// If the room does not append now, delivers its undelivered entries.
    pub(super) fn flush(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        room.scheduled = !room.pending.is_empty();
        if room.scheduled {
            self.log.waiting.push_back(name.clone());
            self.append_waiting();
            if self.rooms.get(name).is_none_or(|room| room.in_flight || !room.scheduled) {
                // Undelivered entries are delivered together with the hub's own.
                return;
            }
        }
        self.deliver_rooms([(name.clone(), None)]);
        self.resume_joins();
    }

    /// Flushes all rooms together, so that a client in many rooms receives few deliveries.
    pub(super) fn flush_all(&mut self) {
        let has_pending = |room: &Room| !room.pending.is_empty();
        let pending = self.rooms.iter().filter(|(_, room)| has_pending(room));
        self.log.waiting = pending.map(|(name, _)| name.clone()).collect();
        let others = self.rooms.iter().filter(|(_, room)| !has_pending(room));
        let others: Vec<_> = others.map(|(name, _)| (name.clone(), None)).collect();
        self.deliver_rooms(others);
        self.append_waiting();
    }

    fn append(&mut self, Flush { pending, history_requests }: Flush) {
        if pending.is_empty() {
            return;
        }
        let apart = |Pending { draft, sender, accepted }: Pending| {
            let (room, id) = (draft.room.clone(), sender.as_ref().and(draft.id.clone()));
            (draft, Sent { room, id, sender, accepted })
        };
        let (drafts, sent): (Vec<_>, _) = pending.into_iter().map(apart).unzip();
        self.log.last_ticket += 1;
        let ticket = self.log.last_ticket;
        let began = Instant::now();
        let interval = self.log.backend.append_interval().min(self.pacing.window);
        self.log.next_append = began + interval;
        self.log.in_flight = Some(InFlightAppend { ticket, drafts: sent, history_requests, began });
        if let Some(from_log) = self.log.backend.append(Append { ticket, drafts }) {
            self.take_from_log(from_log);
        }
    }

    /// Handles a message from the log, and starts the next append if it is due.
    fn take_from_log(&mut self, from_log: FromLog) {
        match from_log {
            FromLog::Committed { entries, head, floors, own } => {
                self.committed(entries, head, floors, own);
            }
            FromLog::Rejected { ticket, error } => self.rejected(ticket, &error),
            FromLog::Stalled(stalled) => self.set_stalled(stalled),
            FromLog::Durability(durability) => self.log.durability = durability,
            FromLog::NewEpoch { epoch, head } => self.begin_epoch(epoch, head),
            FromLog::Died => {}
        }
        self.append_waiting();
    }

    /// Appends the pending drafts of waiting rooms if an append is due. Otherwise schedules it.
    pub(super) fn append_waiting(&mut self) {
        if self.log.waiting.is_empty() || !self.log.is_idle() || self.log.stalled {
            return;
        }
        if self.log.next_append <= Instant::now() {
            let flush = self.take_waiting();
            self.append(flush);
        } else if !std::mem::replace(&mut self.log.append_scheduled, true) {
            self.pacing.schedule_append(self.log.next_append);
        }
    }

    /// Appends when the scheduled time has come.
    pub(super) fn append_scheduled(&mut self) {
        self.log.append_scheduled = false;
        self.append_waiting();
        // The waiting rooms may have had nothing to append any more.
        self.end_if_drained();
    }

    /// Takes the pending drafts of waiting rooms, up to the limits of one append.
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

    /// Answers a request for history once the room's pending and in-flight drafts are committed.
    pub(super) fn answer_after_commit(&mut self, request: History) {
        match (self.rooms.get_mut(&request.room), &mut self.log.in_flight) {
            _ if self.log.stalled => self.answer_from_history(request),
            (Some(room), _) if !room.pending.is_empty() => room.history_requests.push(request),
            (Some(room), Some(append)) if room.in_flight => append.history_requests.push(request),
            _ => self.answer_from_history(request),
        }
    }

    /// Delivers committed entries, or schedules their delivery. Removes pruned messages from the
    /// rings. Then settles the append that this answers.
    fn committed(
        &mut self,
        entries: Vec<Entry>,
        head: Seq,
        floors: Vec<(RoomName, Seq)>,
        own: Option<Own>,
    ) {
        entries.iter().for_each(|entry| self.apply_to_state(entry));
        self.log.head = self.log.head.max(head);
        let settled = own.and_then(|own| Some((self.log.take_in_flight(own.ticket)?, own.placed)));
        let is_own = settled.is_some();
        let mut due = settled.as_ref().map(|(append, _)| append.rooms()).unwrap_or_default();
        let own_rooms = due.len();
        let mut entries = entries.into_iter().peekable();
        while let Some(first) = entries.next() {
            let (Some(name), Audience::Room) = (first.room().cloned(), first.audience()) else {
                continue;
            };
            let mut in_room = vec![first];
            while let Some(next) = entries.next_if(|next| next.room() == Some(&name)) {
                in_room.push(next);
            }
            if self.hold_back(&name, in_room, is_own) {
                due.push((name, None));
            }
        }
        self.end_flight(&due[..own_rooms]);
        self.deliver_rooms(due);
        for (room, floor) in floors {
            self.rings.prune_to(&room, floor);
        }
        if let Some((append, placed)) = settled {
            self.settle(append, Ok(&placed));
        }
    }

    /// Notes that the append in flight has been answered, in its rooms.
    fn end_flight(&mut self, rooms: &[(RoomName, Option<Instant>)]) {
        for (name, _) in rooms {
            if let Some(room) = self.rooms.get_mut(name) {
                room.in_flight = false;
            }
        }
    }

    fn apply_to_state(&mut self, entry: &Entry) {
        self.log.state.apply(entry);
        if let Entry::Settings(change) = entry {
            self.rings.set_keep_for(change.settings.keep_for);
        }
    }

    /// Adds entries to the undelivered ones of their room. If they answer an append of the hub
    /// (`is_own`) and the room is in flight, they were paced before the append, and the caller
    /// delivers them at once. For other entries, returns true if the caller must deliver them now.
    /// Otherwise schedules their delivery.
    fn hold_back(&mut self, name: &RoomName, entries: Vec<Entry>, is_own: bool) -> bool {
        let Some(room) = self.rooms.get_mut(name) else {
            self.remember(name, &entries);
            return false;
        };
        room.undelivered.extend(entries);
        let now = Instant::now();
        if is_own && room.in_flight || std::mem::replace(&mut room.scheduled, true) {
            return false;
        }
        if room.next_flush <= now {
            room.scheduled = false;
            return true;
        }
        self.pacing.schedule_flush(room.next_flush, name);
        false
    }

    /// Delivers the undelivered entries of the rooms of a rejected append, and settles the append.
    fn rejected(&mut self, ticket: u64, error: &LogError) {
        let Some(append) = self.log.take_in_flight(ticket) else { return };
        let rooms = append.rooms();
        self.end_flight(&rooms);
        self.deliver_rooms(rooms.into_iter().map(|(name, _)| (name, None)));
        self.settle(append, Err(error));
    }

    /// Sends receipts to the senders of an append, and answers the requests for history that waited
    /// for it. Every sender receives errors; only clients that registered for events receive
    /// successes.
    fn settle(&mut self, append: InFlightAppend, outcome: Result<&[Verdict], &LogError>) {
        self.log.note_outcome(outcome.err());
        self.metrics.observe_commit(append.began.elapsed());
        let mut receipts: HashMap<ClientId, Vec<Reply>> = HashMap::new();
        let missing = LogError::Busy("the log did not commit it".into());
        for (n, Sent { room, id, sender, .. }) in append.drafts.into_iter().enumerate() {
            // A log may commit only the first drafts of a large append.
            let verdict = outcome.and_then(|placed| placed.get(n).ok_or(&missing));
            self.metrics.count_message(match verdict {
                Ok(Verdict::Kept(_)) => Outcome::Kept,
                Ok(Verdict::Duplicate(_)) => Outcome::Duplicate,
                Ok(Verdict::Refused(_)) => Outcome::Refused,
                Err(_) => Outcome::Failed,
            });
            let Some(Sender { client, reference }) = sender else { continue };
            let said = |seq, duplicate| Event::Said { room, seq, id, duplicate };
            let event = match verdict {
                Ok(Verdict::Kept(seq)) => said(*seq, false),
                Ok(Verdict::Duplicate(seq)) => said(*seq, true),
                Ok(Verdict::Refused(refused)) => Event::Error((*refused).into()),
                Err(error) => Event::Error(error.into()),
            };
            let is_wanted = matches!(event, Event::Error(_))
                || self.clients.get(&client).is_some_and(|client| client.events);
            if is_wanted {
                receipts.entry(client).or_default().push(Reply { event, reference });
            }
        }
        for (client, replies) in receipts {
            self.send_to(client, Deliver::Direct(replies));
        }
        for request in append.history_requests {
            self.answer_from_history(request);
        }
    }

    /// Notes whether the log is stalled. If it is, rejects all drafts that are not in flight, and
    /// answers waiting requests for history with the delivered entries.
    fn set_stalled(&mut self, stalled: bool) {
        self.log.stalled = stalled;
        if !stalled {
            return;
        }
        warn!("log stalled; rejecting messages until it answers again");
        self.log.waiting.clear();
        let names: Vec<_> = self.rooms.keys().cloned().collect();
        for name in names {
            let flush = self.take_unsent(&name);
            for Pending { sender, .. } in flush.pending {
                self.metrics.count_message(Outcome::Failed);
                self.reject_busy(sender);
            }
            for request in flush.history_requests {
                self.answer_from_history(request);
            }
            self.deliver_rooms([(name, None)]);
        }
        let requests = self.log.in_flight.as_mut().map(|append| &mut append.history_requests);
        for request in requests.map(std::mem::take).into_iter().flatten() {
            self.answer_from_history(request);
        }
    }

    /// Discards everything that refers to sequence numbers of the former epoch, and closes all
    /// connections. Clients reconnect and read the history again.
    fn begin_epoch(&mut self, epoch: Epoch, head: Seq) {
        warn!("the log begins a new epoch; closing all connections");
        (self.log.epoch, self.log.head) = (epoch, head);
        self.rings.clear();
        self.reads.clear();
        self.waiting_joins.clear();
        self.counts.clear();
        self.searches.clear();
        self.log.waiting.clear();
        let names: Vec<_> = self.rooms.keys().cloned().collect();
        for name in &names {
            // A draft may refer to a message by a sequence number of the former epoch.
            for Pending { sender, .. } in self.take_unsent(name).pending {
                self.reject_busy(sender);
            }
            if let Some(room) = self.rooms.get_mut(name) {
                room.forget_entries();
            }
        }
        self.close_all(DisconnectReason::NewEpoch);
        names.iter().for_each(|name| self.close_room_if_idle(name));
    }

    /// Takes the pending drafts of a room, which are not sent to the log.
    fn take_unsent(&mut self, name: &RoomName) -> Flush {
        let in_flight = self.rooms.get(name).is_some_and(|room| room.in_flight);
        let flush = self.take_pending(name);
        if let Some(room) = self.rooms.get_mut(name) {
            room.in_flight = in_flight;
        }
        flush
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

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::NotFound => ErrorCode::NotFound,
            Refused::OtherAuthor
            | Refused::EditsDisabled
            | Refused::TooLate
            | Refused::TooManyReactions => ErrorCode::Forbidden,
        };
        Self::new(code, refused.to_string())
    }
}
