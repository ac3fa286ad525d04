//! New epochs. An operator makes a node begin one. If the node has the same history as the stream,
//! it adds a record that changes only the settings, and the other nodes apply it. If the stream has
//! lost records, nodes may have different histories, and the history of this node counts: it adds a
//! record with the hash of its history, and deletes the records before it. Nodes with the same
//! history continue after that record. The other nodes copy the history when they are restarted.

use super::*;
use crate::log::jetstream::link::Beginning;
use crate::log::jetstream::publish::EpochBegun;
use crate::log::jetstream::record::History;

/// A request of the operator to begin a new epoch.
#[derive(Clone, Debug)]
pub(super) struct EpochRequest {
    /// The epoch to end.
    parent: Epoch,
    settings: Settings,
}

impl Following {
    /// Makes the node begin a new epoch with these settings, if its journal is in a log that has
    /// the epoch `parent`.
    pub(in crate::log::jetstream) fn replace_epoch(&mut self, parent: &str, settings: Settings) {
        if self.epoch.as_str() != parent {
            let epoch = self.epoch.as_str();
            info!("not beginning a new epoch: the history file has epoch {epoch}, not {parent}");
        } else if self.has_begun() {
            self.epoch_request = Some(EpochRequest { parent: self.epoch.clone(), settings });
        } else {
            info!("not beginning a new epoch: the history file is not part of a log yet");
        }
    }

    /// Returns the request to begin a new epoch, unless it is done.
    fn open_request(&self) -> Option<EpochRequest> {
        self.epoch_request.clone().filter(|request| request.parent == self.epoch)
    }

    /// Returns whether the node still has to begin a new epoch.
    pub(super) fn must_begin_epoch(&self) -> bool {
        self.open_request().is_some()
    }

    /// Reads all that the log has, and begins a new epoch if the node should.
    pub(super) async fn read_to_end(&mut self) -> Result<(), Stop> {
        let read = self.read(true).await;
        let Some(request) = self.open_request() else { return read };
        match read {
            Ok(()) => {
                self.link.append(self.new_epoch(request, None)).await?;
                self.read(true).await
            }
            Err(Stop::Refused(Refused::Forked { .. } | Refused::NoStream { .. })) => {
                self.impose_history(request).await?;
                self.read(true).await
            }
            Err(stop) => Err(stop),
        }
    }

    fn new_epoch(&self, request: EpochRequest, history: Option<History>) -> Vec<u8> {
        let EpochRequest { parent, settings } = request;
        Record::NewEpoch(NewEpoch { epoch: Epoch::random(), parent, history, settings }).encode()
    }

    /// Makes the log begin an epoch with the history of this node. If the stream has a record of an
    /// earlier attempt, that record counts.
    async fn impose_history(&mut self, request: EpochRequest) -> Result<(), Stop> {
        if self.link.state().await?.is_none() {
            self.link.create_stream().await?;
        }
        if self.find_epoch().await?.is_none() {
            let head = self.describe().await?.head;
            let history = History { chain: self.chain(), base: base_after(head) };
            self.link.append(self.new_epoch(request, Some(history))).await?;
        }
        let Some((placed, new)) = self.find_epoch().await? else {
            return Err("the record of the new epoch is gone".to_owned().into());
        };
        if !new.continues(&self.epoch, self.chain()) {
            return Err(other_history(&new.epoch));
        }
        // If NATS 2.9 is told to delete all records before record 1, it deletes all records.
        if placed.position > 1 {
            self.link.delete_before(placed.position).await?;
        }
        warn!("the log continues with the history of this node");
        self.adopt(placed, new).await
    }

    /// Finds the first record of the stream that begins an epoch in place of the journal's epoch.
    async fn find_epoch(&self) -> Result<Option<(Placed, NewEpoch)>, Stop> {
        let Some(StreamState { first, last, .. }) = self.link.state().await? else {
            return Ok(None);
        };
        if first > last || last == 0 {
            return Ok(None);
        }
        let mut records = self.link.records(first).await?;
        loop {
            let Some(record) = next_record(&mut records).await? else {
                return Err("the records were not delivered".to_owned().into());
            };
            let info = record.info().map_err(|error| error.to_string())?;
            let position = info.stream_sequence;
            if let Ok(Record::NewEpoch(new)) = Record::decode(&record.payload)
                && new.parent == self.epoch
            {
                let time = info.published.unix_timestamp_nanos();
                let time = i64::try_from(time).unwrap_or(i64::MAX);
                let hash = Sha256::digest(&record.payload).into();
                return Ok(Some((Placed { position, time, hash }, new)));
            }
            if position >= last {
                return Ok(None);
            }
        }
    }

    /// If the journal differs from the stream, and the stream begins with a record of a new epoch
    /// with the journal's history, continues after that record.
    pub(super) async fn adopt_first_epoch(&mut self, state: StreamState) -> Result<(), Stop> {
        let Some(Applied { position, time }) = self.applied else { return Ok(()) };
        if (state.first..=state.last).contains(&position)
            && self.link.record(position).await?.1 == time
        {
            return Ok(());
        }
        match self.link.beginning(state, &self.epoch, self.chain()).await? {
            Beginning::Continues(placed, new) => self.adopt(placed, new).await,
            Beginning::Other(epoch) => Err(other_history(&epoch)),
            Beginning::Unknown => Ok(()),
        }
    }

    /// Applies a record that begins a new epoch, after the records before it.
    pub(super) async fn continue_with(
        &mut self,
        placed: Placed,
        new: NewEpoch,
    ) -> Result<(), Stop> {
        let own = self.describe().await?;
        if own.place.is_none() {
            let is_empty = own.head == Seq::default();
            let other = || self.other_log(new.epoch.as_str().into());
            return Err(Stop::Refused(if is_empty { Refused::NeedsParent } else { other() }));
        }
        if new.history.is_some() && !new.continues(&self.epoch, self.chain()) {
            return Err(other_history(&new.epoch));
        }
        self.adopt(placed, new).await
    }

    /// Has the journal begin a new epoch.
    async fn adopt(&mut self, placed: Placed, new: NewEpoch) -> Result<(), Stop> {
        let NewEpoch { epoch, history, settings, .. } = new;
        let own = self.describe().await?;
        let Some(place) = own.place else { return Err(Stop::JournalDied) };
        let base = history.map_or(place.base, |history| history.base);
        warn!("the log begins the epoch {}", epoch.as_str());
        let begin = Begin { placed, base, epoch: epoch.clone(), settings: settings.clone() };
        self.begin_journal(begin).await?;
        self.applied = Some(Applied { position: placed.position, time: placed.time });
        if let Some(publisher) = &self.publisher {
            let (head, chain) = (own.head, self.chain());
            publisher.do_send(EpochBegun { epoch, head, settings, chain });
        }
        Ok(())
    }

    pub(super) async fn describe(&self) -> Result<JournalState, Stop> {
        self.journal.send(Describe).await.map_err(|_| Stop::JournalDied)
    }
}

fn other_history(epoch: &Epoch) -> Stop {
    Stop::Refused(Refused::OtherHistory(epoch.as_str().into()))
}
