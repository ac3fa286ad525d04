//! Following the log: reads the records of the stream in order, and has the journal apply them. The
//! first record that is read is the last one that the journal has applied. If it is another record
//! now, or missing, the stream has lost records, and the journal must not continue with it. After
//! it, every record must have the next position.

mod epoch;
mod refused;

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use async_nats::jetstream::Message as NatsMessage;
use async_nats::jetstream::consumer::push::Messages;
use log::{error, info, warn};
use sha2::{Digest, Sha256};
use tokio::time::{sleep, timeout};

use super::chain::{Chain, Votes};
use super::copy::outvoted_mark;
use super::link::{Link, StreamState};
use super::publish::{Attach, Attachment, End, Publisher, Replicas, Replicated};
use super::record::{BadRecord, Genesis, NewEpoch, Parent, Produced, Record};
use super::{UNREADABLE, next};
use crate::domain::{Epoch, Seq, Settings};
use crate::log::LogError;
use crate::log::nodes::NodeId;
use crate::log::sqlite::{
    AppliedRecord, Apply, Begin, Describe, JournalState, Origin, Placed, ProducerId, Writer,
};
use crate::metrics::{LogEvent, Metrics};
use epoch::EpochRequest;
pub use refused::Refused;

/// After this silence it is checked whether there are records that were not delivered. The server
/// shows every second that it is alive.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// The pause before another attempt to read the log.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// The pause if an operator must do something.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// How often it is checked again whether the stream has lost records, and the pause before each.
const LOSS_CHECKS: usize = 3;
const LOSS_PAUSE: Duration = Duration::from_secs(1);

/// The pause between two attempts to apply a record, for example while the disk is full.
const APPLY_PAUSE: Duration = Duration::from_secs(1);

/// The base of a new log is a multiple of this, so that its sequence numbers are easy to read.
const BASE_STEP: u64 = 1_000_000;

/// Why a node that differs from others is not ready.
const DIVERGED: &str = "the history file differs from those of most nodes; restart this node, and \
                        it copies the file of another one (if only two nodes run, stop both, and \
                        start the one with the right history first)";

/// Why reading ends.
enum Stop {
    /// It is tried again soon.
    Retry(String),
    /// An operator must do something.
    Refused(Refused),
    /// The journal has stopped.
    JournalDied,
}

impl From<String> for Stop {
    fn from(reason: String) -> Self {
        Self::Retry(reason)
    }
}

/// The last record that the journal has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Applied {
    position: u64,
    time: i64,
}

/// Reads the log.
pub(super) struct Following {
    link: Link,
    journal: Addr<Writer>,
    /// The path of the journal.
    path: PathBuf,
    applied: Option<Applied>,
    /// The epoch of the journal.
    epoch: Epoch,
    /// The new epoch that this node should begin at its start.
    epoch_request: Option<EpochRequest>,
    /// The size of messages that NATS must accept.
    payload_needed: usize,
    metrics: Metrics,
    publisher: Option<Addr<Publisher>>,
    /// The id of the publisher.
    id: ProducerId,
    votes: Votes,
    /// Whether the publisher knows that no majority agrees with this node.
    has_told_votes: Cell<bool>,
    /// Whether the journal has the mark that it differs from those of most nodes.
    has_mark: Cell<bool>,
    /// The number of servers that store the stream, as far as it is known.
    replicas: Cell<Option<usize>>,
    /// Whether the node reads the log and may take part in it.
    is_ready: Rc<Cell<bool>>,
    /// The last problem that was logged, until the log is read again.
    warned: Option<String>,
}

impl Following {
    pub(super) async fn new(
        link: Link,
        journal: Addr<Writer>,
        path: PathBuf,
        payload_needed: usize,
        metrics: Metrics,
    ) -> Result<Self, MailboxError> {
        let JournalState { place, epoch, .. } = journal.send(Describe).await?;
        let chain = place.as_ref().map(|place| Chain::new(place.position, &place.chain));
        let votes = Votes::from(chain.unwrap_or_default());
        let applied = place.map(|place| Applied { position: place.position, time: place.time });
        let halves = [crate::domain::random().to_be_bytes(), crate::domain::random().to_be_bytes()];
        let id = halves.concat().try_into().expect("twice 8 bytes are 16");
        let publisher = None;
        let has_mark = outvoted_mark(&path).exists();
        Ok(Self {
            link,
            journal,
            path,
            applied,
            epoch,
            epoch_request: None,
            payload_needed,
            metrics,
            publisher,
            id,
            votes,
            has_told_votes: Cell::default(),
            has_mark: Cell::new(has_mark),
            replicas: Cell::default(),
            is_ready: Rc::default(),
            warned: None,
        })
    }

    /// Returns the epoch of the journal.
    pub(super) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Returns the id of this run of the server.
    pub(super) fn id(&self) -> ProducerId {
        self.id
    }

    /// Returns whether the node reads the log and may take part in it, also later.
    pub(super) fn readiness(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.is_ready)
    }

    /// Returns the number of servers that store the stream, if it is known.
    pub(super) fn replicas(&self) -> Option<usize> {
        self.replicas.get()
    }

    /// Returns the journal as it is now.
    pub(super) fn chain(&self) -> Chain {
        self.votes.last()
    }

    /// Returns the votes of the other nodes on the journal, also later.
    pub(super) fn votes(&self) -> Votes {
        self.votes.clone()
    }

    /// Returns whether the journal is part of the log.
    pub(super) fn has_begun(&self) -> bool {
        self.applied.is_some()
    }

    /// Applies all records that the log has now. Tries until that is possible, or only for some
    /// time if the journal is part of the log, so that its history can be read. Returns whether it
    /// was possible.
    pub(super) async fn catch_up(&mut self, patience: Duration) -> Result<bool, Refused> {
        let began = Instant::now();
        let mut has_warned = false;
        loop {
            let may_wait = self.must_begin_epoch() || !self.has_begun();
            match self.read_to_end().await {
                Ok(()) => return Ok(true),
                Err(Stop::Refused(refused)) => return Err(refused),
                Err(Stop::JournalDied) => return Ok(false),
                Err(Stop::Retry(_)) if !may_wait && began.elapsed() >= patience => {
                    return Ok(false);
                }
                Err(Stop::Retry(reason)) => {
                    // Connecting takes a moment.
                    let is_late = began.elapsed() > Duration::from_secs(1);
                    if is_late && !std::mem::replace(&mut has_warned, true) {
                        warn!("cannot read the log in NATS: {reason}; trying again");
                    }
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Follows the log for ever.
    pub(super) async fn run(mut self, publisher: Addr<Publisher>) {
        self.publisher = Some(publisher);
        loop {
            let (attachment, pause) = match self.read(false).await {
                Ok(()) | Err(Stop::JournalDied) => {
                    return self.publisher.iter().for_each(|publisher| publisher.do_send(End));
                }
                Err(Stop::Retry(reason)) => {
                    if self.warned.as_ref() != Some(&reason) {
                        warn!("the log in NATS cannot be read: {reason}; trying again");
                        self.warned = Some(reason);
                    }
                    self.metrics.count_log(LogEvent::Reset);
                    (Attachment::Detached(Instant::now(), UNREADABLE.into()), RETRY_PAUSE)
                }
                Err(Stop::Refused(refused)) => {
                    let reason = refused.to_string();
                    if self.warned.as_ref() != Some(&reason) {
                        error!("not ready: {reason}");
                        self.warned = Some(reason.clone());
                        if matches!(refused, Refused::Forked { .. }) {
                            self.metrics.count_log(LogEvent::Fork);
                        }
                    }
                    (Attachment::Refused(reason), REFUSED_PAUSE)
                }
            };
            self.votes.set_reading(false);
            self.tell(attachment);
            sleep(pause).await;
        }
    }

    /// Notes that the log is read, from the right record on.
    fn attached(&mut self) {
        if self.warned.take().is_some() {
            info!("reading the log in NATS resumed");
        }
        self.votes.set_reading(true);
        self.tell(Attachment::Attached);
    }

    /// Tells the publisher whether the node reads the log and may take part in it.
    fn tell(&self, mut attachment: Attachment) {
        let is_outvoted = self.votes.lacks_majority();
        self.has_told_votes.set(is_outvoted);
        if is_outvoted && !matches!(attachment, Attachment::Refused(_)) {
            attachment = Attachment::Refused(DIVERGED.into());
        }
        let is_ready = matches!(attachment, Attachment::Attached);
        self.is_ready.set(is_ready);
        self.metrics.set_log_connected(is_ready);
        if let Some(publisher) = &self.publisher {
            publisher.do_send(Attach(attachment));
        }
    }

    /// Reads the log, until everything that it has now is applied (`until_end`), or until something
    /// prevents it.
    async fn read(&mut self, until_end: bool) -> Result<(), Stop> {
        let state = self.prepare().await?;
        self.adopt_first_epoch(state).await?;
        let before = self.applied;
        if let Some(Applied { position, .. }) = before {
            if state.last < position {
                return Err(self.confirm_loss(position).await);
            }
            if state.first > position {
                let (first, last) = (state.first, position);
                return Err(Stop::Refused(Refused::TooOld { first, last }));
            }
        } else if state.first > 1 {
            return Err(Stop::Refused(Refused::TooOld { first: state.first, last: 0 }));
        }
        let mut records = self.link.records(before.map_or(1, |applied| applied.position)).await?;
        let mut overlap = before;
        loop {
            let end = self.applied.map_or(0, |applied| applied.position);
            if until_end && overlap.is_none() && end >= state.last {
                return Ok(());
            }
            let record = next_record(&mut records).await?;
            let Some(record) = record else {
                self.check_silence(end).await?;
                if overlap.is_none() {
                    self.tell_votes();
                }
                continue;
            };
            let info = record.info().map_err(|error| error.to_string())?;
            let time = i64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(i64::MAX);
            let (position, pending) = (info.stream_sequence, info.pending);
            if let Some(expected) = overlap.take() {
                if (Applied { position, time }) != expected {
                    return Err(self.forked(expected.position, state.last));
                }
                self.attached();
                self.metrics.observe_log_position(position, pending);
                continue;
            }
            if position != end + 1 {
                return Err(format!("record {position} was delivered after record {end}").into());
            }
            let hash = Sha256::digest(&record.payload).into();
            self.apply(Placed { position, time, hash }, &record.payload, pending).await?;
            self.tell_votes();
            self.applied = Some(Applied { position, time });
            self.metrics.observe_log_position(position, pending);
            if position == 1 {
                self.attached();
            }
        }
    }

    /// Returns the state of the stream. Creates it, with its first record, if the journal is in no
    /// log yet.
    async fn prepare(&self) -> Result<StreamState, Stop> {
        self.check_connection()?;
        match (self.stream_state().await?, self.applied) {
            (Some(state), Some(applied)) if state.last > 0 && state.first > state.last => {
                Err(self.forked(applied.position, state.last))
            }
            (Some(state), _) if state.last > 0 => Ok(state),
            (Some(_) | None, Some(applied)) => Err(self.no_stream(applied.position)),
            (None, None) => {
                self.link.create_stream().await?;
                self.begin_log().await
            }
            (Some(_), None) => self.begin_log().await,
        }
    }

    /// Checks that NATS is connected, and accepts messages of the size that is needed.
    fn check_connection(&self) -> Result<(), Stop> {
        let max_payload = self.link.client.try_server_info().map(|info| info.max_payload);
        let Some(max_payload) = max_payload.filter(|_| self.link.is_connected()) else {
            return Err("not connected".to_owned().into());
        };
        if max_payload < self.payload_needed {
            let needed = self.payload_needed;
            return Err(Stop::Refused(Refused::PayloadTooSmall { max_payload, needed }));
        }
        Ok(())
    }

    fn other_log(&self, other: String) -> Refused {
        let (journal, own) = (self.path.display().to_string(), self.epoch.as_str().into());
        Refused::OtherLog { journal, own, other }
    }

    fn forked(&self, last: u64, end: u64) -> Stop {
        Stop::Refused(Refused::Forked { epoch: self.epoch.as_str().into(), last, end })
    }

    fn no_stream(&self, last: u64) -> Stop {
        Stop::Refused(Refused::NoStream { last, epoch: self.epoch.as_str().into() })
    }

    /// Returns the state of the stream, and tells the publisher how many servers store it.
    async fn stream_state(&self) -> Result<Option<StreamState>, Stop> {
        let state = self.link.state().await?;
        let replicas = state.map(|state| state.replicas);
        if replicas.is_some() && self.replicas.replace(replicas) != replicas {
            self.publisher.iter().for_each(|publisher| publisher.do_send(Replicas(replicas)));
        }
        Ok(state)
    }

    /// Publishes the first record. If another node does the same, the first one in the log counts.
    async fn begin_log(&self) -> Result<StreamState, Stop> {
        let JournalState { epoch, head, settings, .. } = self.describe().await?;
        info!("beginning a log in NATS, with the history up to {head}");
        let genesis = Genesis {
            epoch: epoch.as_str().into(),
            base: base_after(head),
            parent: Parent { epoch: epoch.as_str().into(), head },
            settings,
        };
        let payload = Record::Genesis(genesis).encode();
        let published = self.link.client.publish(self.link.subject(), payload.into()).await;
        published.map_err(|error| error.to_string())?;
        // It is read as soon as the stream has it.
        Err("the log is being created".to_owned().into())
    }

    /// Checks, after some silence, that there are no records that were not delivered.
    async fn check_silence(&self, end: u64) -> Result<(), Stop> {
        match self.stream_state().await? {
            Some(state) if state.last > end => {
                Err(format!("record {} was not delivered", end + 1).into())
            }
            Some(state) if state.last < end => Err(self.confirm_loss(end).await),
            Some(_) => Ok(()),
            None => Err(self.no_stream(end)),
        }
    }

    /// Returns why reading ends after the stream seems to have lost records up to a position. It is
    /// checked again, because a new leader of the stream may not know all of its records at once.
    async fn confirm_loss(&self, last: u64) -> Stop {
        let mut end = 0;
        for _ in 0..LOSS_CHECKS {
            sleep(LOSS_PAUSE).await;
            match self.link.state().await {
                Ok(state) => end = state.map_or(0, |state| state.last),
                Err(reason) => return Stop::Retry(reason),
            }
            if end >= last {
                return Stop::Retry("the stream had fewer records for a moment".into());
            }
        }
        self.forked(last, end)
    }

    /// Has the journal apply a record, and tells the publisher.
    async fn apply(&mut self, placed: Placed, payload: &[u8], pending: u64) -> Result<(), Stop> {
        let (origin, drafts) = match Record::decode(payload) {
            Ok(Record::Genesis(genesis)) if placed.position == 1 => {
                return self.begin(placed, genesis).await;
            }
            Ok(Record::NewEpoch(new)) if new.parent == self.epoch || !self.has_begun() => {
                return self.continue_with(placed, new).await;
            }
            Ok(Record::Append(produced)) if produced.epoch == self.epoch => {
                let Produced { producer, n, made, chain, drafts, .. } = produced;
                self.compare(producer, chain);
                (Some(Origin { producer, n, made }), Some(drafts))
            }
            // Its drafts are of a former epoch, so their sequence numbers may be those of other
            // messages. All nodes skip it.
            Ok(Record::Append(Produced { producer, n, made, .. })) => {
                (Some(Origin { producer, n, made }), None)
            }
            // Two nodes have created the log, or have begun an epoch, at the same time. Or another
            // program has published something. All nodes skip it.
            Ok(Record::Genesis(_) | Record::NewEpoch(_)) | Err(BadRecord::NotARecord) => {
                (None, None)
            }
            Err(error @ (BadRecord::Newer(_) | BadRecord::Unknown(_))) => {
                let (position, reason) = (placed.position, error.to_string());
                return Err(Stop::Refused(Refused::UnknownRecord { position, reason }));
            }
        };
        let applied = self.apply_patiently(|| Apply {
            placed,
            origin: origin.filter(|_| drafts.is_some()),
            drafts: drafts.clone().unwrap_or_default(),
        });
        let (applied, chain) = applied.await?;
        let chain = Chain::new(placed.position, &chain);
        self.votes.push(chain);
        if applied.is_none() {
            self.metrics.count_log(LogEvent::Skipped);
        }
        if let Some(publisher) = &self.publisher {
            publisher.do_send(Replicated { origin, applied, chain, pending });
        }
        Ok(())
    }

    /// Compares the journal of another node with that of this one. A node that no majority
    /// agrees with is not ready any more.
    fn compare(&mut self, producer: ProducerId, other: Chain) {
        // Old records may be of nodes that were replaced.
        if self.publisher.is_some() && producer != self.id {
            self.votes.take(node_of(producer), Some(other), &self.metrics);
        }
    }

    /// Tells the publisher when the votes of the other nodes have changed. Heartbeats change them,
    /// too.
    fn tell_votes(&self) {
        if self.publisher.is_some() && self.votes.lacks_majority() != self.has_told_votes.get() {
            self.tell(Attachment::Attached);
        }
        if self.votes.lacks_majority() && !self.has_mark.replace(true) {
            let mark = outvoted_mark(&self.path);
            if let Err(error) = fs::write(&mark, format!("{DIVERGED}\n")) {
                error!("cannot write {}: {error}", mark.display());
            }
        } else if self.has_mark.get() && self.votes.are_favorable() {
            self.has_mark.set(false);
            let _ = fs::remove_file(outvoted_mark(&self.path));
        }
    }

    /// Applies a record, and tries again while the journal cannot, for example because the disk is
    /// full.
    async fn apply_patiently(
        &self,
        apply: impl Fn() -> Apply,
    ) -> Result<(Option<AppliedRecord>, [u8; 32]), Stop> {
        let mut has_failed = false;
        loop {
            match self.journal.send(apply()).await.map_err(|_| Stop::JournalDied)? {
                Ok(applied) => {
                    if has_failed {
                        self.tell(Attachment::Attached);
                    }
                    return Ok(applied);
                }
                Err(LogError::Died) => return Err(Stop::JournalDied),
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        let reason = format!("the history file cannot be written: {error}");
                        error!("{reason}; trying again");
                        self.tell(Attachment::Detached(Instant::now(), reason.clone()));
                        if self.publisher.is_none() {
                            return Err(Stop::Retry(reason));
                        }
                    }
                    sleep(APPLY_PAUSE).await;
                }
            }
        }
    }

    /// Applies the first record of the log.
    async fn begin(&mut self, placed: Placed, genesis: Genesis) -> Result<(), Stop> {
        let state = self.describe().await?;
        let own = Parent { epoch: state.epoch.as_str().into(), head: state.head };
        let is_empty = state.head == Seq::default();
        if genesis.parent != own && !is_empty {
            return Err(Stop::Refused(self.other_log(genesis.epoch)));
        }
        if genesis.parent != own && genesis.parent.head > Seq::default() {
            return Err(Stop::Refused(Refused::NeedsParent));
        }
        let (base, epoch, settings) = (genesis.base, genesis.epoch(), genesis.settings);
        self.begin_journal(Begin { placed, base, epoch, settings }).await
    }

    /// Has the journal take part in the log from a record on.
    async fn begin_journal(&mut self, begin: Begin) -> Result<(), Stop> {
        let Begin { placed, ref epoch, .. } = begin;
        let epoch = epoch.clone();
        let begun = self.journal.send(begin).await.map_err(|_| Stop::JournalDied)?;
        begun.map_err(|error| Stop::Retry(error.to_string()))?;
        self.epoch = epoch;
        let chain = self.describe().await?.place.map(|place| place.chain).unwrap_or_default();
        self.votes.restart(Chain::new(placed.position, &chain));
        Ok(())
    }
}

/// Returns the id under which the other nodes know the node with this producer id.
pub(super) fn node_of(producer: ProducerId) -> NodeId {
    let mut id = [0; 8];
    id.copy_from_slice(&producer[..8]);
    NodeId(u64::from_be_bytes(id))
}

/// Returns the base of the sequence numbers of a log that begins with this history.
fn base_after(head: Seq) -> Seq {
    Seq::new(head.get().next_multiple_of(BASE_STEP))
}

/// Returns the next record, or `None` after some silence.
async fn next_record(records: &mut Messages) -> Result<Option<NatsMessage>, Stop> {
    match timeout(SILENCE_MAX, next(records)).await {
        Ok(Some(Ok(record))) => Ok(Some(record)),
        Ok(Some(Err(error))) => Err(Stop::Retry(error.to_string())),
        Ok(None) => Err(Stop::Retry("the connection has ended".into())),
        Err(_) => Ok(None),
    }
}
