//! The journal of a node as a replica of the shared log. It applies the records of the log, one
//! after another, each in one transaction together with its position. So a journal is always the
//! result of exactly the records up to its position, and every node's journal is the same.

use std::path::Path;
use std::time::Duration;

use actix::prelude::*;
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use super::append::Applied;
use super::rows::{self, integer};
use super::schema::{Source, SourceError};
use super::settings::{self, StoredSettings};
use super::writer::AppendError;
use super::{Writer, schema};
use crate::domain::{Draft, Entry, Epoch, RoomName, Seq, Settings, Timestamp};
use crate::log::rules::Refused;
use crate::log::{LogError, Verdict};

/// The number of sequence numbers of each record. A record has at most this many drafts.
pub(in crate::log) const SEQS_PER_RECORD: u64 = 4096;

/// The maximum time from the making of a record until the log has it. Later it is void.
const DELAY_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// The maximum number of producers whose last record is remembered. Each start of a server makes a
/// new one. A repetition is recognized while its producer is remembered, and is void after
/// [`DELAY_MAX`].
const PRODUCERS_MAX: i64 = if cfg!(test) { 5 } else { 10_000 };

/// The place of a journal in the shared log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::log) struct Place {
    /// The position of the last record that was applied. The first record has position 1.
    pub(in crate::log) position: u64,
    /// The time that the log gave this record, in nanoseconds since 1970.
    pub(in crate::log) time: i64,
    /// The first draft of the record at a position has the sequence number `base + position *
    /// SEQS_PER_RECORD`.
    pub(in crate::log) base: Seq,
    /// A hash of all records up to the position and of what was decided about them.
    pub(in crate::log) chain: [u8; 32],
}

/// Identifies a producer of records: one run of a server.
pub(in crate::log) type ProducerId = [u8; 16];

/// A record as the log hands it out.
#[derive(Clone, Copy, Debug)]
pub(in crate::log) struct Placed {
    /// Its position in the log.
    pub(in crate::log) position: u64,
    /// The time that the log gave it, in nanoseconds since 1970.
    pub(in crate::log) time: i64,
    /// The hash of its bytes.
    pub(in crate::log) hash: [u8; 32],
}

impl Placed {
    fn at(&self) -> Timestamp {
        Timestamp::from_millis(u64::try_from(self.time / 1_000_000).unwrap_or_default())
    }
}

/// The origin of a record.
#[derive(Clone, Copy, Debug)]
pub(in crate::log) struct Origin {
    pub(in crate::log) producer: ProducerId,
    /// The number of the record among those of its producer. It increases.
    pub(in crate::log) n: u64,
    /// When the producer made the record.
    pub(in crate::log) made: Timestamp,
}

/// Applies the next record. The answer is the new chain, and `None` if the record was skipped: it
/// is void, or a repetition. After an error, nothing was applied, or the same record must be
/// applied again.
#[derive(Debug, Message)]
#[rtype(result = "Result<(Option<AppliedRecord>, [u8; 32]), LogError>")]
pub(in crate::log) struct Apply {
    pub(in crate::log) placed: Placed,
    /// `None` for a record that all nodes skip, for example one of a former epoch.
    pub(in crate::log) origin: Option<Origin>,
    pub(in crate::log) drafts: Vec<Draft>,
}

/// What a record has changed.
#[derive(Debug)]
pub(in crate::log) struct AppliedRecord {
    pub(in crate::log) entries: Vec<Entry>,
    pub(in crate::log) head: Seq,
    pub(in crate::log) floors: Vec<(RoomName, Seq)>,
    /// The outcome for each draft.
    pub(in crate::log) verdicts: Vec<Verdict>,
}

impl AppliedRecord {
    pub(super) fn new(applied: Applied) -> Self {
        let Applied { entries, head, floors, verdicts, .. } = applied;
        Self { entries, head, floors, verdicts }
    }
}

/// Begins an epoch of a shared log. A journal that is in no shared log becomes the beginning of
/// one, or joins one whose first record this is. A journal of a shared log continues with a new
/// epoch.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), LogError>")]
pub(in crate::log) struct Begin {
    pub(in crate::log) placed: Placed,
    pub(in crate::log) base: Seq,
    pub(in crate::log) epoch: Epoch,
    pub(in crate::log) settings: Settings,
}

/// Asks for the state of a journal.
#[derive(Debug, Message)]
#[rtype(result = "JournalState")]
pub(in crate::log) struct Describe;

/// The state of a journal.
#[derive(Clone, Debug, MessageResponse)]
pub(in crate::log) struct JournalState {
    pub(in crate::log) epoch: Epoch,
    pub(in crate::log) head: Seq,
    pub(in crate::log) settings: Settings,
    /// `None` if the journal is in no shared log.
    pub(in crate::log) place: Option<Place>,
}

/// What the writer of a replica knows.
#[derive(Debug, Default)]
pub(super) struct Replica {
    place: Option<Place>,
    /// A commit that failed with an I/O error, so that its outcome is unknown.
    unknown: Option<Unknown>,
}

/// A commit with an unknown outcome.
#[derive(Debug)]
struct Unknown {
    position: u64,
    applied: Box<Applied>,
    is_skipped: bool,
}

impl Replica {
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        Ok(Self { place: Place::load(connection)?, unknown: None })
    }

    #[cfg(test)]
    pub(super) fn clone_place(&self) -> Option<Place> {
        self.place.clone()
    }
}

/// Returns the state of a journal that no server uses now, or `None` if the file does not exist or
/// is empty.
pub(in crate::log) fn read_state(path: &Path) -> Result<Option<JournalState>, SourceError> {
    if path.metadata().is_ok_and(|file| file.len() == 0) || !path.exists() {
        return Ok(None);
    }
    let Source { connection, path, version } = schema::open_source(path)?;
    let read = || {
        // Older files have no table for the place.
        let place = if version >= 5 { Place::load(&connection)? } else { None };
        let epoch = schema::meta::<String>(&connection, "epoch")?.unwrap_or_default();
        let (head, settings) = (schema::head(&connection)?, Settings::default());
        Ok(JournalState { epoch: Epoch::of(&epoch), head, settings, place })
    };
    read().map(Some).map_err(|error| SourceError::from_sqlite(&path, error))
}

impl Handler<Describe> for Writer {
    type Result = JournalState;

    fn handle(&mut self, _: Describe, _: &mut Self::Context) -> JournalState {
        JournalState {
            epoch: self.epoch.clone(),
            head: self.head,
            settings: self.settings.clone(),
            place: self.replica.place.clone(),
        }
    }
}

impl Handler<Begin> for Writer {
    type Result = Result<(), LogError>;

    fn handle(&mut self, begin: Begin, _: &mut Self::Context) -> Self::Result {
        self.ensure_usable()?;
        self.begin(begin).map_err(|error| self.record_error(&error))
    }
}

impl Handler<Apply> for Writer {
    type Result = Result<(Option<AppliedRecord>, [u8; 32]), LogError>;

    fn handle(&mut self, apply: Apply, ctx: &mut Self::Context) -> Self::Result {
        let applied = self.apply(apply);
        self.schedule_checkpoint(ctx);
        let applied = applied?;
        let chain = self.replica.place.as_ref().map(|place| place.chain).unwrap_or_default();
        let Some(applied) = applied else { return Ok((None, chain)) };
        if applied.has_pruned {
            self.prune_soon(ctx);
        }
        let is_message = |entry: &&Entry| matches!(entry, Entry::Message(_));
        self.messages_appended(applied.entries.iter().filter(is_message).count(), ctx);
        Ok((Some(AppliedRecord::new(*applied)), chain))
    }
}

impl Writer {
    /// Reads the place again after the file was reopened.
    pub(super) fn reload_place(&mut self) -> Result<(), LogError> {
        let place = Place::load(&self.connection);
        self.replica.place = place.map_err(|error| self.record_error(&error))?;
        Ok(())
    }

    pub(super) fn begin(&mut self, begin: Begin) -> rusqlite::Result<()> {
        let Begin { placed, base, epoch, settings } = begin;
        settings::warn_if_other(&settings, &self.options.settings);
        let chain = match &self.replica.place {
            Some(before) => {
                settings::warn_of_change(&self.settings, &settings);
                Sha256::new().chain_update(before.chain).chain_update(placed.hash).finalize().into()
            }
            None => placed.hash,
        };
        let place = Place { position: placed.position, time: placed.time, base, chain };
        let transaction = self.connection.transaction()?;
        place.store(&transaction)?;
        // The stream may have been created again, and then positions begin at 1.
        transaction.execute("UPDATE producers SET position = 0", [])?;
        schema::set_meta(&transaction, "epoch", epoch.as_str())?;
        StoredSettings { seq: Seq::default(), settings: settings.clone() }.store(&transaction)?;
        transaction.commit()?;
        (self.replica.place, self.epoch, self.settings) = (Some(place), epoch, settings);
        self.replica.unknown = None;
        Ok(())
    }

    /// Applies a record.
    pub(super) fn apply(&mut self, apply: Apply) -> Result<Option<Box<Applied>>, LogError> {
        self.ensure_usable()?;
        let Some(place) = self.replica.place.clone() else {
            return Err(LogError::Failed("the journal is in no shared log".into()));
        };
        let position = apply.placed.position;
        let unknown = self.replica.unknown.take_if(|unknown| unknown.position == position);
        if position <= place.position {
            let Some(Unknown { applied, is_skipped, .. }) = unknown else { return Ok(None) };
            // The commit with the unknown outcome has succeeded.
            self.adopt(&applied);
            return Ok(to_hand_out(applied, is_skipped));
        }
        if position != place.position + 1 {
            let words = format!("record {position} does not follow record {}", place.position);
            return Err(LogError::Failed(words));
        }
        let Apply { placed, origin, drafts } = apply;
        // The log's times increase, but those of its servers may not.
        let at = placed.at().max(self.clock.latest());
        let first = Seq::new(place.base.get() + position * SEQS_PER_RECORD);
        let mut next = place;
        let mut is_skipped = false;
        let applied = self.run(at, |append| {
            is_skipped = match origin {
                Some(Origin { producer, n, made }) => {
                    // A void record uses its number, too: its sender is told that it failed.
                    let is_new = advance_producer(append.connection, producer, n, position)?;
                    // A wrong clock of NATS must not make later records void.
                    !is_new || placed.at().since(made) > DELAY_MAX
                }
                None => true,
            };
            let drafts = if is_skipped { Vec::new() } else { drafts };
            let verdicts = append.apply_from(Some(first), drafts)?;
            next.advance(placed, is_skipped, &verdicts, append.raised_floors());
            next.store(append.connection)?;
            Ok(verdicts)
        });
        match applied {
            Ok(applied) => {
                self.replica.place = Some(next);
                Ok(to_hand_out(applied, is_skipped))
            }
            Err(AppendError::Failed(error)) => Err(error),
            Err(AppendError::Unknown(applied, error)) => {
                self.replica.unknown = Some(Unknown { position, applied, is_skipped });
                Err(error)
            }
        }
    }
}

/// Returns what the hub must know of a record.
fn to_hand_out(applied: Box<Applied>, is_skipped: bool) -> Option<Box<Applied>> {
    (!is_skipped || !applied.floors.is_empty()).then_some(applied)
}

impl Place {
    /// Reads the place of a journal, if it is in a shared log.
    fn load(connection: &Connection) -> rusqlite::Result<Option<Self>> {
        let select = "SELECT position, time, base, chain FROM shared_log";
        let mut select = connection.prepare_cached(select)?;
        let place = select.query_row([], |row| {
            Ok(Self {
                position: row.get::<_, i64>(0)?.unsigned_abs(),
                time: row.get(1)?,
                base: rows::seq(row.get(2)?),
                chain: row.get(3)?,
            })
        });
        place.optional()
    }

    fn store(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO shared_log (id, position, time, base, chain)
                 VALUES (1, ?1, ?2, ?3, ?4)",
            )?
            .execute((rows::count(self.position), self.time, integer(self.base), self.chain))
            .map(|_| ())
    }

    /// Advances over a record.
    fn advance(
        &mut self,
        placed: Placed,
        is_skipped: bool,
        verdicts: &[Verdict],
        mut floors: Vec<(RoomName, Seq)>,
    ) {
        let mut hash = Sha256::new()
            .chain_update(self.chain)
            .chain_update(placed.position.to_be_bytes())
            .chain_update(placed.time.to_be_bytes())
            .chain_update(placed.hash)
            .chain_update([u8::from(is_skipped)]);
        for verdict in verdicts {
            let (kind, number) = match verdict {
                Verdict::Kept(seq) => (0, seq.get()),
                Verdict::Duplicate(seq) => (1, seq.get()),
                Verdict::Refused(refused) => (2, code(*refused)),
            };
            hash.update([kind]);
            hash.update(number.to_be_bytes());
        }
        floors.sort_unstable();
        for (room, floor) in floors {
            hash.update([3]);
            hash.update(room.as_str());
            hash.update(floor.get().to_be_bytes());
        }
        (self.position, self.time) = (placed.position, placed.time);
        self.chain = hash.finalize().into();
    }
}

/// Returns a number for the chain, which must never change.
fn code(refused: Refused) -> u64 {
    match refused {
        Refused::NotFound => 1,
        Refused::OtherAuthor => 2,
        Refused::EditsDisabled => 3,
        Refused::TooLate => 4,
        Refused::TooManyReactions => 5,
    }
}

/// Notes a record of a producer. Returns false if it is a repetition.
fn advance_producer(
    connection: &Connection,
    producer: ProducerId,
    n: u64,
    position: u64,
) -> rusqlite::Result<bool> {
    let select = "SELECT n FROM producers WHERE id = ?1";
    let last: Option<i64> =
        connection.prepare_cached(select)?.query_row([producer], |row| row.get(0)).optional()?;
    let n = rows::count(n);
    if last.is_some_and(|last| n <= last) {
        return Ok(false);
    }
    connection
        .prepare_cached("INSERT OR REPLACE INTO producers (id, n, position) VALUES (?1, ?2, ?3)")?
        .execute((producer, n, rows::count(position)))?;
    if last.is_none() {
        connection
            .prepare_cached(
                "DELETE FROM producers WHERE id IN (
                     SELECT id FROM producers ORDER BY position DESC, id LIMIT -1 OFFSET ?1)",
            )?
            .execute([PRODUCERS_MAX])?;
    }
    Ok(true)
}
