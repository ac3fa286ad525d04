//! The hub's side of the log: who gives messages their places, and keeps them. The hub hands it
//! batches by [`Append`] and asks for what was said by [`Page`]; what answers is not its affair.
//! Without a log that does, places are counted here and only the rings remember
//! (`memory.rs`). One append is in flight at a time; what is flushed meanwhile goes with the next.

mod answer;
mod reading;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actix::prelude::*;
use log::{error, info, warn};
use thiserror::Error;
use tokio::time::Instant;

use super::history::History;
use super::memory::Memory;
use super::room::{Pending, Sender, Taken};
use super::{Deliver, Hub};
use crate::domain::{ChatMessage, ClientId, Draft, Epoch, RoomName, Seq, Timestamp};
use crate::metrics::Outcome;
use crate::wire::{Batch, ErrorCode, Event, Refusal, Reply};
pub use answer::Answer;
use reading::{Read, Reading};

/// A log that a hub is started with.
#[derive(Clone, Debug)]
pub struct Log {
    /// Which log it is.
    pub epoch: Epoch,
    /// The place of its last message.
    pub head: Seq,
    /// Who appends to it.
    pub append: Recipient<Append>,
    /// Who reads it.
    pub page: Recipient<Page>,
    /// Who can tell whether it would keep what is appended.
    pub probe: Recipient<Probe>,
}

/// Gives messages their places, in this order, and keeps them: all or none. Once it is answered
/// they survive.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Append {
    /// The messages, those of a room together.
    pub drafts: Vec<Draft>,
    /// Takes the outcome.
    pub answer: Answer<Appended>,
}

/// Asks whether the log keeps what it is given just now; it tries, unless it has of late.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), LogError>")]
pub struct Probe;

/// What has become of an [`Append`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Appended {
    /// The messages, as they were given.
    pub drafts: Vec<Draft>,
    /// For each of them, what has become of it.
    pub outcome: Result<Vec<Placed>, LogError>,
}

/// What has become of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It has this place, at this time.
    New(Seq, Timestamp),
    /// It had been said before, in this place.
    Duplicate(Seq),
}

/// Asks for messages of a room.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Page {
    /// Which room.
    pub room: RoomName,
    /// Only messages before this place.
    pub before: Seq,
    /// The last so many of them.
    pub limit: usize,
    /// But no more than this, in bytes of text; one message is given in any case.
    pub max_bytes: usize,
    /// Takes the messages.
    pub answer: Answer<Paged>,
}

/// What a [`Page`] holds.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    /// Oldest first.
    pub messages: Vec<ChatMessage>,
    /// All of the room's messages after this place, and before what was asked, are here.
    pub floor: Seq,
    /// Whether there are older ones.
    pub more: bool,
}

/// What has become of a [`Page`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Paged {
    pub(super) wanted: Wanted,
    pub(super) outcome: Result<Messages, LogError>,
}

/// What a page is for.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// The ring of a room that wakes.
    Ring(RoomName),
    /// A client.
    History(History),
}

/// Why the log has not done what it was asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LogError {
    /// It cannot just now, as when the disk is full.
    #[error("{0}")]
    Busy(String),
    /// It cannot.
    #[error("{0}")]
    Failed(String),
    /// It is no more.
    #[error("the log has died")]
    Died,
}

impl Wanted {
    fn room(&self) -> &RoomName {
        match self {
            Self::Ring(room) | Self::History(History { room, .. }) => room,
        }
    }
}

impl From<&LogError> for Refusal {
    fn from(error: &LogError) -> Self {
        match error {
            LogError::Busy(_) => {
                Self::new(ErrorCode::Busy, "the message cannot be kept just now; try again later")
            }
            LogError::Failed(_) | LogError::Died => {
                Self::new(ErrorCode::Internal, "the server cannot read or keep messages")
            }
        }
    }
}

/// Who gives places.
pub(super) enum Keeper {
    Memory(Memory),
    Log { append: Recipient<Append>, page: Recipient<Page>, probe: Recipient<Probe> },
}

/// What the hub knows of its log.
pub(super) struct Logging {
    pub(super) epoch: Epoch,
    /// The place of the last message that everyone has been told.
    pub(super) head: Seq,
    keeper: Keeper,
    in_flight: Option<Flight>,
    /// The rooms that were due meanwhile, longest ago first.
    pub(super) waiting: VecDeque<RoomName>,
    /// Whether the last append has failed, and everybody who can see to it been told.
    failing: bool,
    reading: Reading,
}

/// What is at the log and not answered yet.
struct Flight {
    /// Who said it, and when that was accepted.
    senders: Vec<(Option<Sender>, Instant)>,
    /// Who has asked what was said, after saying something that is among it.
    asked: Vec<History>,
    began: Instant,
}

impl Logging {
    pub(super) fn new(log: Option<Log>) -> Self {
        let (epoch, head, keeper) = match log {
            Some(Log { epoch, head, append, page, probe }) => {
                (epoch, head, Keeper::Log { append, page, probe })
            }
            None => (Epoch::random(), Seq::default(), Keeper::Memory(Memory::default())),
        };
        let (waiting, reading) = (VecDeque::new(), Reading::default());
        Self { epoch, head, keeper, in_flight: None, waiting, failing: false, reading }
    }

    /// Whether only the rings remember.
    pub(super) fn is_memory(&self) -> bool {
        matches!(self.keeper, Keeper::Memory(_))
    }

    /// Who can tell whether the log works, if it is one that may not.
    pub(super) fn probe(&self) -> Option<Recipient<Probe>> {
        match &self.keeper {
            Keeper::Memory(_) => None,
            Keeper::Log { probe, .. } => Some(probe.clone()),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Notes that a room is due as soon as the log is free.
    pub(super) fn wait(&mut self, room: &RoomName) {
        self.waiting.push_back(room.clone());
    }

    /// Logs when appends begin to fail, and when they succeed again: not each of them.
    fn note(&mut self, failed: Option<&LogError>) {
        match (std::mem::replace(&mut self.failing, failed.is_some()), failed) {
            (false, Some(error)) => {
                error!("messages are refused, since they cannot be kept: {error}")
            }
            (true, None) => info!("messages are kept again"),
            (true, Some(_)) | (false, None) => {}
        }
    }
}

impl Hub {
    /// Takes what has been said to the log, and to everyone once the log has it.
    pub(super) fn append(&mut self, Taken { pending, asked }: Taken) {
        if pending.is_empty() {
            return;
        }
        let apart = |Pending { draft, sender, accepted }| (draft, (sender, accepted));
        let (drafts, senders): (Vec<_>, _) = pending.into_iter().map(apart).unzip();
        let flight = Flight { senders, asked, began: Instant::now() };
        match &mut self.log.keeper {
            Keeper::Memory(memory) => {
                let placed = memory.append(&drafts);
                self.settle(flight, drafts, Ok(placed));
            }
            Keeper::Log { append, .. } => {
                let Some(hub) = self.this.upgrade() else { return };
                let answer = Answer::<Appended>::new(hub.recipient());
                append.do_send(Append { drafts, answer });
                self.log.in_flight = Some(flight);
            }
        }
    }

    /// Asks the log for messages, as soon as it is not asked for too many.
    pub(super) fn page(&mut self, wanted: Wanted, before: Seq, limit: usize, max_bytes: usize) {
        self.log.reading.add(Read { wanted, before, limit, max_bytes });
        self.read_on();
    }

    fn read_on(&mut self) {
        let Some(hub) = self.this.upgrade() else { return };
        let Keeper::Log { page, .. } = &self.log.keeper else { return };
        let is_wanted = |wanted: &Wanted| match wanted {
            Wanted::Ring(_) => true,
            Wanted::History(history) => self.clients.contains_key(&history.client),
        };
        while let Some(read) = self.log.reading.next(is_wanted) {
            let Read { wanted, before, limit, max_bytes } = read;
            let room = wanted.room().clone();
            let answer = Answer::<Paged>::new(hub.clone().recipient(), wanted);
            page.do_send(Page { room, before, limit, max_bytes, answer });
        }
    }

    /// Answers a client's question about a room after what is under way of it.
    pub(super) fn ask_after_flight(&mut self, asked: History) {
        match (self.rooms.get_mut(&asked.room), &mut self.log.in_flight) {
            (Some(room), _) if !room.pending.is_empty() => room.asked.push(asked),
            (Some(room), Some(flight)) if room.in_flight => flight.asked.push(asked),
            _ => self.tell_history(asked),
        }
    }

    /// The log has answered: everyone is told, then those who spoke, then those who asked.
    fn settle(
        &mut self,
        flight: Flight,
        drafts: Vec<Draft>,
        outcome: Result<Vec<Placed>, LogError>,
    ) {
        let mut receipts: HashMap<ClientId, Vec<Reply>> = HashMap::new();
        let mut rooms: Vec<(RoomName, Instant, Vec<Arc<ChatMessage>>)> = Vec::new();
        self.counts.metrics.committed(flight.began.elapsed());
        for (n, (draft, (sender, accepted))) in drafts.into_iter().zip(flight.senders).enumerate() {
            let placed = match &outcome {
                Ok(placed) => placed.get(n).copied().ok_or(&LogError::Died),
                Err(error) => Err(error),
            };
            if let Some(sender) = sender {
                self.receipt(&mut receipts, sender, &draft, placed);
            }
            self.counts.metrics.settled(match placed {
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
            self.forget_if_idle(&name);
            if !messages.is_empty() {
                self.remember(&name, &messages);
                batches.push((name, Arc::new(Batch::new(messages, accepted.into_std()))));
            }
        }
        self.fan_out_counted(&batches);
        for (client, replies) in receipts {
            self.send_to(client, Deliver::Direct(replies));
        }
        for asked in flight.asked {
            self.tell_history(asked);
        }
    }

    /// Notes what a sender is to be told: what went wrong in any case, and what went well if it
    /// wants to know.
    fn receipt(
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
        let Some(flight) = self.log.in_flight.take() else { return };
        let Appended { drafts, outcome } = appended;
        match &outcome {
            Err(LogError::Died) => {
                error!("the log has died, and so does the hub");
                return ctx.terminate();
            }
            Err(error) => self.log.note(Some(error)),
            Ok(_) => self.log.note(None),
        }
        self.settle(flight, drafts, outcome);
        let taken = self.take_waiting();
        self.append(taken);
        self.end_if_drained();
    }
}

impl Handler<Paged> for Hub {
    type Result = ();

    fn handle(&mut self, Paged { wanted, mut outcome }: Paged, _: &mut Self::Context) {
        self.log.reading.done(outcome.as_mut().ok());
        if let Err(error) = &outcome {
            warn!("history cannot be read: {error}");
        }
        match wanted {
            Wanted::Ring(room) => self.woken(&room, outcome),
            Wanted::History(history) => self.history_read(history, outcome),
        }
        self.read_on();
    }
}
