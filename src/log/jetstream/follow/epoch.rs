//! New epochs. An operator lets a node begin one. If the node agrees with the stream, all others
//! that do continue with it, and only settings change. If the stream has lost records, nodes may
//! have different histories, and that of this node counts: it adds a record that names its history,
//! and deletes the records before it. Others with the same history continue with it. The rest copy
//! it when they are restarted.

use super::*;
use crate::log::jetstream::link::Beginning;
use crate::log::jetstream::publish::Replaced;
use crate::log::jetstream::record::History;

/// A new epoch that a node should begin.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    parent: Epoch,
    settings: Settings,
}

impl Following {
    /// Makes the node begin a new epoch with these settings, if its journal is in a log that has
    /// the epoch `parent`.
    pub(in crate::log::jetstream) fn replace_epoch(&mut self, parent: &str, settings: Settings) {
        if self.epoch.as_str() != parent {
            let epoch = self.epoch.as_str();
            info!("no new epoch: the history has the epoch {epoch}, not {parent}");
        } else if self.has_begun() {
            self.wanted = Some(Wanted { parent: self.epoch.clone(), settings });
        }
    }

    /// Returns the epoch that the node should begin, if it has not begun yet.
    fn wanted(&self) -> Option<Wanted> {
        self.wanted.clone().filter(|wanted| wanted.parent == self.epoch)
    }

    /// Returns whether the node should begin a new epoch.
    pub(super) fn wants_epoch(&self) -> bool {
        self.wanted().is_some()
    }

    /// Reads all that the log has, and begins a new epoch if the node should.
    pub(super) async fn read_to_end(&mut self) -> Result<(), Stop> {
        let read = self.read(true).await;
        let Some(wanted) = self.wanted() else { return read };
        match read {
            Ok(()) => {
                self.link.append(self.new_epoch(wanted, None)).await?;
                self.read(true).await
            }
            Err(Stop::Refused(Refused::Forked { .. } | Refused::NoStream { .. })) => {
                self.impose_history(wanted).await?;
                self.read(true).await
            }
            Err(stop) => Err(stop),
        }
    }

    fn new_epoch(&self, wanted: Wanted, history: Option<History>) -> Vec<u8> {
        let Wanted { parent, settings } = wanted;
        Record::NewEpoch(NewEpoch { epoch: Epoch::random(), parent, history, settings }).encode()
    }

    /// Makes the history of this node that of the log. An earlier attempt counts, if there was one.
    async fn impose_history(&mut self, wanted: Wanted) -> Result<(), Stop> {
        if self.link.state().await?.is_none() {
            self.link.create_stream().await?;
        }
        if self.find_epoch().await?.is_none() {
            let head = self.describe().await?.head;
            let history = History { chain: self.chain(), base: base_after(head) };
            self.link.append(self.new_epoch(wanted, Some(history))).await?;
        }
        let Some((placed, new)) = self.find_epoch().await? else {
            return Err("the record of the new epoch is gone".to_owned().into());
        };
        if !new.continues(&self.epoch, self.chain()) {
            return Err(other_history(&new.epoch));
        }
        // NATS 2.9 takes "before record 1" as "all".
        if placed.position > 1 {
            self.link.delete_before(placed.position).await?;
        }
        warn!("the log continues with the history of this node");
        self.adopt(placed, new).await
    }

    /// Finds the first record of the stream that begins an epoch after that of the journal.
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

    /// Continues with a new epoch if the journal differs from the stream, and the stream begins
    /// with an epoch that has the journal's history.
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

    /// Continues with a new epoch that begins with the records before it.
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
            publisher.do_send(Replaced { epoch, head, settings, chain });
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
