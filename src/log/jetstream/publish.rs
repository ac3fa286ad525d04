//! Publishing: an append of the hub becomes records of the log. One record is in flight at a time.
//! It is committed when the log hands it out and the journal has applied it, not when NATS
//! acknowledges it. Until then the same bytes are published again and again: every node applies
//! only the first copy. After [`GIVE_UP_AFTER`], the next record of this producer, without drafts,
//! is published instead. If the log hands out that one first, no node will apply a later copy of
//! the record before it, so the append has failed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::Bytes;
use log::{error, warn};
use tokio::time::timeout;

use super::chain::Chain;
use super::follow::Following;
use super::link::Link;
use super::record::{Produced, Record};
use crate::domain::{
    Action, Draft, Durability, Entry, Epoch, Seq, Settings, SettingsChange, Timestamp,
};
use crate::log::sqlite::{AppliedRecord, Origin, ProducerId, SEQS_PER_RECORD};
use crate::log::{Append, Follow, Follower, FromLog, LogError, Own, Probe, Verdict};
use crate::metrics::{LogEvent, Metrics};

/// The pause before a record is published again. It doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The time after which a record that is not committed is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// The log counts as stalled if it does not answer, or cannot be read, for this time.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// How often timers are checked.
const TICK: Duration = Duration::from_millis(100);

/// A record of this node must have passed through the log in this time before a probe. Otherwise
/// the node publishes one without drafts.
const PROVEN_FOR: Duration = Duration::from_secs(10);

/// The estimated maximum size of a record with more than one draft, in bytes.
const RECORD_BYTES_MAX: usize = 512 * 1024;

/// The maximum size of a draft without its text, in bytes.
const DRAFT_BYTES: usize = 600;

/// The actor that publishes records, and passes what the journal applies on to the hub.
pub(super) struct Publisher {
    link: Link,
    /// Reads the log, from when the hub can take records.
    following: Option<Following>,
    metrics: Metrics,
    /// Identifies this run of the server.
    id: ProducerId,
    /// The number of its last record.
    last: u64,
    hub: Option<Follower>,
    in_flight: Option<InFlight>,
    /// What is left to do for the hub's append, before and after the record in flight.
    append: Option<OpenAppend>,
    attachment: Attachment,
    /// Whether the hub was told that the log is stalled.
    is_stalled: bool,
    /// The epoch of the log.
    epoch: Epoch,
    /// The node's journal, as far as the publisher knows.
    chain: Chain,
    /// When a record of this node last passed through the log.
    proven: Option<Instant>,
    /// Records that the node has not applied.
    backlog: Option<Backlog>,
}

/// Records that the log had at some time, and that the node has not applied since. The log may have
/// newer records, too.
#[derive(Clone, Copy, Debug)]
struct Backlog {
    /// The position of the last one.
    end: u64,
    since: Instant,
}

impl Backlog {
    /// Returns the backlog after a record was applied when the log had some further ones.
    fn after(before: Option<Self>, position: u64, pending: u64, now: Instant) -> Option<Self> {
        let rest = before.filter(|backlog| backlog.end > position);
        let end = position + pending;
        rest.or_else(|| (pending > 0).then_some(Self { end, since: now }))
    }
}

/// A record that is not committed yet.
struct InFlight {
    n: u64,
    /// The number of its drafts.
    drafts: usize,
    payload: Bytes,
    /// The record that replaces it, once it is given up.
    fence: Option<Bytes>,
    began: Instant,
    next_copy: Instant,
    pause: Duration,
}

/// The hub's append. It consists of several records if it is large.
struct OpenAppend {
    ticket: u64,
    /// The drafts of further records.
    rest: VecDeque<Vec<Draft>>,
    /// The outcomes of committed records.
    placed: Vec<Verdict>,
}

/// Whether the node reads the log.
#[derive(Clone, Debug)]
pub(super) enum Attachment {
    Attached,
    /// It does not read the log since this time, for this reason.
    Detached(Instant, String),
    /// It cannot read the log for this reason, which may need an operator.
    Refused(String),
}

/// Tells whether the node reads the log.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Attach(pub(super) Attachment);

/// Tells how many servers are configured to store the stream.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Replicas(pub(super) Option<usize>);

/// Ends the publisher, because the journal has stopped. The hub is told by its follower.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct End;

/// A record that was read, and that the journal has applied or skipped.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Replicated {
    /// The origin of the record, if it has one.
    pub(super) origin: Option<Origin>,
    /// `None` if the journal has skipped it.
    pub(super) applied: Option<AppliedRecord>,
    /// The journal after it.
    pub(super) chain: Chain,
    /// How many further records the log has.
    pub(super) pending: u64,
}

/// A new epoch that the journal has begun.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct EpochBegun {
    pub(super) epoch: Epoch,
    pub(super) head: Seq,
    pub(super) settings: Settings,
    /// The journal after the first record of the epoch.
    pub(super) chain: Chain,
}

impl Publisher {
    pub(super) fn new(
        following: Following,
        link: Link,
        metrics: Metrics,
        attachment: Attachment,
    ) -> Self {
        Self {
            link,
            metrics,
            id: following.id(),
            epoch: following.epoch().clone(),
            chain: following.chain(),
            following: Some(following),
            last: 0,
            hub: None,
            in_flight: None,
            append: None,
            attachment,
            is_stalled: false,
            proven: None,
            backlog: None,
        }
    }

    fn tell_hub(&self, from_log: FromLog) {
        if let Some(hub) = &self.hub {
            hub.send(from_log);
        }
    }

    /// Publishes the next record of the open append, if no record is in flight.
    fn publish_next(&mut self, ctx: &mut Context<Self>) {
        if self.in_flight.is_none()
            && let Some(drafts) = self.append.as_mut().and_then(|append| append.rest.pop_front())
        {
            self.publish(drafts, ctx);
        }
    }

    fn publish(&mut self, drafts: Vec<Draft>, ctx: &mut Context<Self>) {
        let count = drafts.len();
        let payload = self.make_record(drafts);
        let now = Instant::now();
        self.send(payload.clone(), ctx);
        self.in_flight = Some(InFlight {
            n: self.last,
            drafts: count,
            payload,
            fence: None,
            began: now,
            next_copy: now + FIRST_PAUSE,
            pause: FIRST_PAUSE,
        });
    }

    /// Returns the bytes of the next record.
    fn make_record(&mut self, drafts: Vec<Draft>) -> Bytes {
        self.last += 1;
        let (epoch, producer, chain) = (self.epoch.clone(), self.id, self.chain);
        let (n, made) = (self.last, Timestamp::now());
        Record::Append(Produced { epoch, producer, n, made, chain, drafts }).encode().into()
    }

    /// Sends a record to NATS. If the connection is lost meanwhile, the record may be lost, too.
    fn send(&self, payload: Bytes, ctx: &mut Context<Self>) {
        let (client, subject) = (self.link.client.clone(), self.link.subject());
        let publish = async move {
            let published = timeout(STALLED_AFTER, client.publish(subject, payload)).await;
            if let Ok(Err(error)) = published {
                warn!("cannot publish a record: {error}");
            }
        };
        ctx.spawn(publish.into_actor(self));
    }

    /// Publishes the record in flight again if it is time, and tells the hub whether the log is
    /// stalled.
    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let is_due = self.in_flight.as_ref().is_some_and(|record| record.next_copy <= now);
        let is_attached = matches!(self.attachment, Attachment::Attached);
        if is_due && is_attached && self.link.is_connected() {
            self.repeat(now, ctx);
        }
        let is_stalled = self.trouble().is_some();
        if std::mem::replace(&mut self.is_stalled, is_stalled) != is_stalled {
            self.tell_hub(FromLog::Stalled(is_stalled));
        }
    }

    fn repeat(&mut self, now: Instant, ctx: &mut Context<Self>) {
        let gives_up = |record: &InFlight| {
            record.fence.is_none() && now.duration_since(record.began) >= GIVE_UP_AFTER
        };
        let fence = self.in_flight.as_ref().is_some_and(gives_up).then(|| self.make_record(vec![]));
        let Some(record) = &mut self.in_flight else { return };
        if fence.is_some() {
            (record.fence, record.pause) = (fence, FIRST_PAUSE);
        }
        record.next_copy = now + record.pause;
        record.pause = (record.pause * 2).min(PAUSE_MAX);
        let payload = record.fence.as_ref().unwrap_or(&record.payload).clone();
        self.metrics.count_log(LogEvent::Republished);
        self.send(payload, ctx);
    }

    /// Returns why the log is stalled, if it is.
    fn trouble(&self) -> Option<String> {
        match &self.attachment {
            Attachment::Refused(reason) => return Some(reason.clone()),
            Attachment::Detached(since, reason) if since.elapsed() >= STALLED_AFTER => {
                return Some(reason.clone());
            }
            Attachment::Attached | Attachment::Detached(..) => {}
        }
        let is_late = |record: &InFlight| record.began.elapsed() >= STALLED_AFTER;
        let is_late = self.in_flight.as_ref().is_some_and(is_late);
        is_late.then(|| "NATS does not commit records".into())
    }

    /// Ends the record in flight, which was committed, skipped or given up.
    fn settle(&mut self, n: u64, applied: Option<&AppliedRecord>) {
        let Some(record) = self.in_flight.take_if(|record| record.n <= n) else { return };
        if record.n == n {
            self.metrics.observe_log_round_trip(record.began.elapsed());
        }
        if self.append.is_none() {
            return;
        }
        // A record that is skipped has no outcomes.
        let is_whole = |applied: &&AppliedRecord| applied.verdicts.len() == record.drafts;
        match applied.filter(|_| record.n == n).filter(is_whole) {
            Some(applied) => {
                let append = self.append.as_mut();
                append.into_iter().for_each(|append| append.placed.extend(&applied.verdicts));
            }
            None => self.give_up(record.n == n),
        }
    }

    /// Ends the open append, which has failed, or of which only the first records were committed.
    fn give_up(&mut self, is_skipped: bool) {
        let Some(OpenAppend { ticket, placed, .. }) = self.append.take() else { return };
        if is_skipped {
            error!(
                "messages are rejected: the log has begun a new epoch, or the clock of this \
                 machine or of NATS is wrong by hours; check the clocks if there is no new epoch"
            );
        }
        if placed.is_empty() {
            let error = LogError::Busy("NATS did not commit it".into());
            return self.tell_hub(FromLog::Rejected { ticket, error });
        }
        self.append = Some(OpenAppend { ticket, placed, rest: VecDeque::new() });
    }

    /// Returns the outcome of the open append, if all its records are committed.
    fn take_outcome(&mut self) -> Option<Own> {
        let is_done = |append: &mut OpenAppend| append.rest.is_empty();
        let append = self.append.take_if(|append| self.in_flight.is_none() && is_done(append))?;
        Some(Own { ticket: append.ticket, placed: append.placed })
    }
}

impl Actor for Publisher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, Self::tick);
    }
}

impl Handler<Follow> for Publisher {
    type Result = ();

    fn handle(&mut self, Follow(hub): Follow, ctx: &mut Self::Context) {
        self.hub = Some(hub);
        if let Some(following) = self.following.take() {
            actix::spawn(following.run(ctx.address()));
        }
    }
}

impl Handler<Append> for Publisher {
    type Result = ();

    fn handle(&mut self, Append { ticket, drafts }: Append, ctx: &mut Self::Context) {
        if let Some(reason) = self.trouble() {
            let error = LogError::Busy(reason);
            return self.tell_hub(FromLog::Rejected { ticket, error });
        }
        self.append = Some(OpenAppend { ticket, rest: split(drafts), placed: Vec::new() });
        self.publish_next(ctx);
    }
}

impl Handler<Replicated> for Publisher {
    type Result = ();

    fn handle(&mut self, replicated: Replicated, ctx: &mut Self::Context) {
        let Replicated { origin, applied, chain, pending } = replicated;
        self.chain = chain;
        self.backlog = Backlog::after(self.backlog, chain.position, pending, Instant::now());
        let own = origin.filter(|origin| origin.producer == self.id).and_then(|origin| {
            self.proven = Some(Instant::now());
            self.settle(origin.n, applied.as_ref());
            self.take_outcome()
        });
        let (entries, head, floors) = applied
            .map(|applied| (applied.entries, applied.head, applied.floors))
            .unwrap_or_default();
        if own.is_some() || !entries.is_empty() || !floors.is_empty() {
            self.tell_hub(FromLog::Committed { entries, head, floors, own });
        }
        self.publish_next(ctx);
    }
}

impl Handler<EpochBegun> for Publisher {
    type Result = ();

    fn handle(&mut self, begun: EpochBegun, _: &mut Self::Context) {
        let EpochBegun { epoch, head, settings, chain } = begun;
        (self.epoch, self.chain, self.backlog) = (epoch.clone(), chain, None);
        self.tell_hub(FromLog::NewEpoch { epoch, head });
        let change = SettingsChange { seq: head, at: Timestamp::now(), settings };
        let entries = vec![Entry::Settings(Arc::new(change))];
        self.tell_hub(FromLog::Committed { entries, head, floors: Vec::new(), own: None });
    }
}

impl Handler<Attach> for Publisher {
    type Result = ();

    fn handle(&mut self, Attach(attachment): Attach, ctx: &mut Self::Context) {
        let stays = match (&self.attachment, &attachment) {
            // A node that must not take part does not do so because NATS is away.
            (Attachment::Refused(_) | Attachment::Detached(..), Attachment::Detached(..)) => true,
            (Attachment::Attached, _) | (_, Attachment::Attached | Attachment::Refused(_)) => false,
        };
        if !stays {
            self.attachment = attachment;
        }
        if let (Attachment::Attached, Some(record)) = (&self.attachment, &mut self.in_flight) {
            record.next_copy = record.next_copy.min(Instant::now());
        }
        self.tick(ctx);
    }
}

impl Handler<Replicas> for Publisher {
    type Result = ();

    fn handle(&mut self, Replicas(replicas): Replicas, _: &mut Self::Context) {
        self.tell_hub(FromLog::Durability(Durability::Stream { replicas }));
    }
}

impl Handler<End> for Publisher {
    type Result = ();

    fn handle(&mut self, _: End, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Probe> for Publisher {
    type Result = Result<(), LogError>;

    fn handle(&mut self, _: Probe, ctx: &mut Self::Context) -> Self::Result {
        let is_old = |backlog: Backlog| backlog.since.elapsed() >= STALLED_AFTER;
        let is_behind = self.backlog.is_some_and(is_old);
        let trouble = self.trouble().or(is_behind.then(|| "the node is behind the log".into()));
        if let Some(trouble) = trouble {
            return Err(LogError::Busy(trouble));
        }
        let is_proven = self.proven.is_some_and(|at| at.elapsed() < PROVEN_FOR);
        if !is_proven && self.in_flight.is_none() {
            self.publish(Vec::new(), ctx);
        }
        Ok(())
    }
}

/// Splits the drafts of an append into those of several records, if they are large.
fn split(drafts: Vec<Draft>) -> VecDeque<Vec<Draft>> {
    let most = usize::try_from(SEQS_PER_RECORD).unwrap_or(usize::MAX);
    let mut records = VecDeque::from([Vec::new()]);
    let mut bytes = 0;
    for draft in drafts {
        let size = json_bytes(&draft.action) + DRAFT_BYTES;
        bytes += size;
        let last = records.back().map_or(0, Vec::len);
        if last > 0 && (bytes > RECORD_BYTES_MAX || last == most) {
            records.push_back(Vec::new());
            bytes = size;
        }
        if let Some(record) = records.back_mut() {
            record.push(draft);
        }
    }
    records
}

/// Returns the size of an action's text in JSON, in bytes.
fn json_bytes(action: &Action) -> usize {
    let text = match action {
        Action::Message { text, .. } | Action::Edit { text, .. } => text.as_str(),
        Action::Room { topic } => topic.as_str(),
        Action::Delete { .. } | Action::React { .. } => "",
    };
    let escaped = |byte| match byte {
        b'\n' | b'\t' | b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{MessageText, Nick, Right, RoomName};

    fn message(text: &str) -> Draft {
        Draft {
            room: RoomName::default(),
            author: None,
            nick: Nick::parse("Ada").expect("a name"),
            id: None,
            right: Right::Member,
            action: Action::message(MessageText::parse(text, 1 << 20).expect("a text"), None),
        }
    }

    #[test]
    fn record_is_limited_in_drafts_and_in_encoded_bytes() {
        for (text, count) in [("x", 10_000), (&*"\"\t\\".repeat(1000), 300), ("ü", 1)] {
            let records = split((0..count).map(|_| message(text)).collect());
            assert_eq!(records.iter().map(Vec::len).sum::<usize>(), count);
            for drafts in records {
                assert!(drafts.len() <= 4096);
                let record = Record::Append(Produced {
                    epoch: Epoch::random(),
                    producer: [255; 16],
                    n: u64::MAX,
                    made: Timestamp::now(),
                    chain: Chain::default(),
                    drafts,
                });
                assert!(record.encode().len() <= RECORD_BYTES_MAX + 250);
            }
        }
        // A large message has a record of its own.
        let records = split(vec![message("a"), message(&"x".repeat(600_000)), message("b")]);
        assert_eq!(records.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(split(Vec::new()).len(), 1);
    }

    #[test]
    fn backlog_ends_when_its_records_are_applied_even_if_there_are_newer_ones() {
        let now = Instant::now();
        // Each record comes with another one behind it.
        let mut backlog = None;
        for position in 1..100 {
            backlog = Backlog::after(backlog, position, 1, now + TICK);
            let since = backlog.map(|backlog| (backlog.end, backlog.since));
            assert_eq!(since, Some((position + 1, now + TICK)));
        }
        assert!(Backlog::after(backlog, 100, 0, now).is_none());
        // A thousand records take some time.
        let mut backlog = Backlog::after(None, 100, 1000, now);
        for position in 101..1100 {
            backlog = Backlog::after(backlog, position, 5000, now + TICK);
            assert_eq!(backlog.map(|backlog| backlog.since), Some(now));
        }
        assert!(Backlog::after(backlog, 1100, 0, now).is_none());
    }
}
