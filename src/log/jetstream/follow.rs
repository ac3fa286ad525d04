//! Following the log: reads the records of the stream in order, and has the journal apply them. The
//! first record that is read is the last one that the journal has applied. If it is another record
//! now, or missing, the stream has lost records, and the journal must not continue with it. After
//! it, every record must have the next position.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use actix::prelude::*;
use async_nats::jetstream::Message as NatsMessage;
use async_nats::jetstream::consumer::push::Messages;
use futures_core::Stream;
use log::{error, info, warn};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::time::{sleep, timeout};

use super::link::{Link, StreamState};
use super::publish::{Attach, Attachment, End, Publisher, Replicated};
use super::record::{BadRecord, Genesis, Parent, Produced, Record};
use crate::domain::{Seq, Timestamp};
use crate::log::LogError;
use crate::log::sqlite::{AppliedRecord, Apply, Begin, Describe, JournalState, Placed, Writer};

/// After this silence it is checked whether there are records that were not delivered. The server
/// shows every second that it is alive.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// The pause before another attempt to read the log.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// The pause if an operator must do something.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// The pause between two attempts to apply a record, for example while the disk is full.
const APPLY_PAUSE: Duration = Duration::from_secs(1);

/// The base of a new log is a multiple of this, so that its sequence numbers are easy to read.
const BASE_STEP: u64 = 1_000_000;

/// Why a node cannot take part in the log.
#[derive(Clone, Debug, Error)]
pub enum Refused {
    /// The journal has history of its own.
    #[error(
        "the history file {journal} is not a copy of this log (it has the epoch {own}, the log has \
         {other}); start with another file, or with another stream"
    )]
    OtherLog {
        /// The journal.
        journal: String,
        /// The epoch of the journal.
        own: String,
        /// The epoch of the log.
        other: String,
    },
    /// The stream has not all records that the journal needs.
    #[error(
        "the stream begins with record {first}, and the history file ends with record {last}; copy \
         the history file of another node with `chinwag backup`, and start with the copy"
    )]
    TooOld {
        /// The first record of the stream.
        first: u64,
        /// The last record that the journal has applied.
        last: u64,
    },
    /// The log began with the history of a server, which the stream does not contain.
    #[error(
        "the log began with the history file of one server, which is not in the stream; copy the \
         history file of another node with `chinwag backup`, and start with the copy"
    )]
    NeedsParent,
    /// The stream does not exist any more, or the address or the account is wrong.
    #[error(
        "the stream does not exist, but the history file has its records up to {0}; check the \
         address, the account and the name of the stream"
    )]
    NoStream(u64),
    /// The stream has lost records.
    #[error(
        "the stream has lost records: the history file has record {last}, and the stream has \
         another one at this position or ends at {end}"
    )]
    Forked {
        /// The last record that the journal has applied.
        last: u64,
        /// The last record of the stream.
        end: u64,
    },
    /// A record cannot be applied.
    #[error("record {position} cannot be applied: {reason}; upgrade this node")]
    UnknownRecord {
        /// The record.
        position: u64,
        /// Why.
        reason: String,
    },
    /// Messages of the configured size do not fit.
    #[error(
        "NATS accepts messages of {max_payload} bytes, but {needed} are needed for messages of the \
         configured size; increase max_payload of NATS"
    )]
    PayloadTooSmall {
        /// What NATS accepts.
        max_payload: usize,
        /// What is needed.
        needed: usize,
    },
}

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
    /// The path of the journal, for messages.
    journal_name: String,
    applied: Option<Applied>,
    /// The size of messages that NATS must accept.
    payload_needed: usize,
    publisher: Option<Addr<Publisher>>,
    /// The problems that were logged since the log was last read.
    logged: Vec<String>,
}

impl Following {
    pub(super) async fn new(
        link: Link,
        journal: Addr<Writer>,
        journal_name: String,
        payload_needed: usize,
    ) -> Result<Self, MailboxError> {
        let state = journal.send(Describe).await?;
        let applied =
            state.place.map(|place| Applied { position: place.position, time: place.time });
        let (publisher, logged) = (None, Vec::new());
        Ok(Self { link, journal, journal_name, applied, payload_needed, publisher, logged })
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
            match self.read(true).await {
                Ok(()) => return Ok(true),
                Err(Stop::Refused(refused)) => return Err(refused),
                Err(Stop::JournalDied) => return Ok(false),
                Err(Stop::Retry(_)) if self.has_begun() && began.elapsed() >= patience => {
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
                    if self.is_new(&reason) {
                        warn!("reading the log in NATS again: {reason}");
                    }
                    (Attachment::Detached(Instant::now()), RETRY_PAUSE)
                }
                Err(Stop::Refused(refused)) => {
                    let reason = refused.to_string();
                    if self.is_new(&reason) {
                        error!("not ready: {reason}");
                    }
                    (Attachment::Refused(reason), REFUSED_PAUSE)
                }
            };
            self.tell(attachment);
            sleep(pause).await;
        }
    }

    /// Returns whether a problem was not logged since the log was last read. An outage may last for
    /// hours.
    fn is_new(&mut self, problem: &str) -> bool {
        let is_new = !self.logged.iter().any(|logged| logged == problem);
        if is_new {
            self.logged.push(problem.to_owned());
        }
        is_new
    }

    fn attached(&mut self) {
        self.logged.clear();
        self.tell(Attachment::Attached);
    }

    fn tell(&self, attachment: Attachment) {
        if let Some(publisher) = &self.publisher {
            publisher.do_send(Attach(attachment));
        }
    }

    /// Reads the log, until everything that it has now is applied (`until_end`), or until something
    /// prevents it.
    async fn read(&mut self, until_end: bool) -> Result<(), Stop> {
        let state = self.prepare().await?;
        let before = self.applied;
        if let Some(Applied { position, .. }) = before {
            if state.last < position {
                return Err(Stop::Refused(Refused::Forked { last: position, end: state.last }));
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
            let Some(record) = next(&mut records).await? else {
                self.check_silence(end).await?;
                continue;
            };
            let info = record.info().map_err(|error| error.to_string())?;
            let time = i64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(i64::MAX);
            let (position, pending) = (info.stream_sequence, info.pending);
            if let Some(expected) = overlap.take() {
                if (Applied { position, time }) != expected {
                    let (last, end) = (expected.position, state.last);
                    return Err(Stop::Refused(Refused::Forked { last, end }));
                }
                self.attached();
                continue;
            }
            if position != end + 1 {
                return Err(format!("record {position} was delivered after record {end}").into());
            }
            let hash = Sha256::digest(&record.payload).into();
            self.apply(Placed { position, time, hash }, &record.payload, pending).await?;
            self.applied = Some(Applied { position, time });
            if position == 1 {
                self.attached();
            }
        }
    }

    /// Returns the state of the stream. Creates it, with its first record, if the journal is in no
    /// log yet.
    async fn prepare(&self) -> Result<StreamState, Stop> {
        let max_payload = self.link.client.try_server_info().map(|info| info.max_payload);
        let Some(max_payload) = max_payload.filter(|_| self.link.is_connected()) else {
            return Err("not connected".to_owned().into());
        };
        if max_payload < self.payload_needed {
            let needed = self.payload_needed;
            return Err(Stop::Refused(Refused::PayloadTooSmall { max_payload, needed }));
        }
        match (self.link.state().await?, self.applied) {
            (Some(state), _) if state.last > 0 => Ok(state),
            (Some(_) | None, Some(applied)) => {
                Err(Stop::Refused(Refused::NoStream(applied.position)))
            }
            (None, None) => {
                self.link.create_stream().await?;
                self.begin_log().await
            }
            (Some(_), None) => self.begin_log().await,
        }
    }

    /// Publishes the first record. If another node does the same, the first one in the log counts.
    async fn begin_log(&self) -> Result<StreamState, Stop> {
        let JournalState { epoch, head, settings, .. } =
            self.journal.send(Describe).await.map_err(|_| Stop::JournalDied)?;
        info!("beginning a log in NATS, with the history up to {head}");
        let genesis = Genesis {
            epoch: epoch.as_str().into(),
            base: Seq::new(head.get().next_multiple_of(BASE_STEP)),
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
        match self.link.state().await? {
            Some(state) if state.last > end => {
                Err(format!("record {} was not delivered", end + 1).into())
            }
            Some(state) if state.last < end => {
                Err(Stop::Refused(Refused::Forked { last: end, end: state.last }))
            }
            Some(_) => Ok(()),
            None => Err(Stop::Refused(Refused::NoStream(end))),
        }
    }

    /// Has the journal apply a record, and tells the publisher.
    async fn apply(&self, placed: Placed, payload: &[u8], pending: u64) -> Result<(), Stop> {
        let record = Record::decode(payload).map_err(|error| {
            let (position, reason) = (placed.position, error.to_string());
            Stop::Refused(Refused::UnknownRecord { position, reason })
        })?;
        let produced = match record {
            Record::Genesis(genesis) if placed.position == 1 => {
                return self.begin(placed, genesis).await;
            }
            // Another node has created the log at the same time.
            Record::Genesis(_) => {
                let made = Timestamp::from_millis(placed.time.unsigned_abs() / 1_000_000);
                Produced { producer: [0; 16], n: placed.position, made, drafts: Vec::new() }
            }
            Record::Append(produced) => produced,
        };
        let Produced { producer, n, made, drafts } = produced;
        let applied =
            self.apply_patiently(|| Apply { placed, producer, n, made, drafts: drafts.clone() });
        let applied = applied.await?;
        if let Some(publisher) = &self.publisher {
            let (position, origin) = (placed.position, (producer, n));
            publisher.do_send(Replicated { position, origin, applied, pending });
        }
        Ok(())
    }

    /// Applies a record, and tries again while the journal cannot, for example because the disk is
    /// full.
    async fn apply_patiently(
        &self,
        apply: impl Fn() -> Apply,
    ) -> Result<Option<AppliedRecord>, Stop> {
        let mut has_failed = false;
        loop {
            match self.journal.send(apply()).await.map_err(|_| Stop::JournalDied)? {
                Ok(applied) => {
                    if has_failed {
                        info!("the history file can be written again");
                        self.tell(Attachment::Attached);
                    }
                    return Ok(applied);
                }
                Err(LogError::Died) => return Err(Stop::JournalDied),
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        error!("the history file cannot be written: {error}; trying again");
                        self.tell(Attachment::Detached(Instant::now()));
                    }
                    sleep(APPLY_PAUSE).await;
                }
            }
        }
    }

    /// Applies the first record of the log.
    async fn begin(&self, placed: Placed, genesis: Genesis) -> Result<(), Stop> {
        let state = self.journal.send(Describe).await.map_err(|_| Stop::JournalDied)?;
        let own = Parent { epoch: state.epoch.as_str().into(), head: state.head };
        let is_empty = state.head == Seq::default();
        if genesis.parent != own && !is_empty {
            return Err(Stop::Refused(Refused::OtherLog {
                journal: self.journal_name.clone(),
                own: own.epoch,
                other: genesis.epoch,
            }));
        }
        if genesis.parent != own && genesis.parent.head > Seq::default() {
            return Err(Stop::Refused(Refused::NeedsParent));
        }
        let (base, epoch, settings) = (genesis.base, genesis.epoch(), genesis.settings);
        if settings != state.settings {
            warn!("the settings of the log are used instead of those of the configuration");
        }
        let begin = Begin { placed, base, epoch, settings };
        let begun = self.journal.send(begin).await.map_err(|_| Stop::JournalDied)?;
        begun.map_err(|error| Stop::Retry(error.to_string()))
    }
}

/// Returns the next record, or `None` after some silence.
async fn next(records: &mut Messages) -> Result<Option<NatsMessage>, Stop> {
    let next = poll_fn(|task| Pin::new(&mut *records).poll_next(task));
    match timeout(SILENCE_MAX, next).await {
        Ok(Some(Ok(record))) => Ok(Some(record)),
        Ok(Some(Err(error))) => Err(Stop::Retry(error.to_string())),
        Ok(None) => Err(Stop::Retry("the connection has ended".into())),
        Err(_) => Ok(None),
    }
}

impl From<BadRecord> for Stop {
    fn from(error: BadRecord) -> Self {
        Self::Retry(error.to_string())
    }
}
