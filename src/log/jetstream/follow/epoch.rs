//! New epochs. After the stream has lost records, nodes may have different histories. An operator
//! chooses the node whose history counts. It adds a record to the stream that names its history,
//! and deletes the records before it. Nodes with the same history continue with it. Others copy it
//! when they are restarted.

use super::*;
use crate::log::jetstream::publish::Replaced;

impl Following {
    /// Makes the node begin a new epoch with its history and these settings, before it reads the
    /// log.
    pub(in crate::log::jetstream) fn replace_epoch(&mut self, settings: Settings) {
        self.new_epoch = self.has_begun().then_some(settings);
    }

    /// Begins a new epoch, if the node should. It may have been begun by an earlier attempt.
    pub(super) async fn begin_epoch(&mut self) -> Result<(), Stop> {
        let Some(settings) = self.new_epoch.clone() else { return Ok(()) };
        self.check_connection()?;
        let JournalState { head, .. } =
            self.journal.send(Describe).await.map_err(|_| Stop::JournalDied)?;
        let new_epoch = NewEpoch {
            epoch: self.next_epoch(),
            base: base_after(head),
            parent: self.epoch.clone(),
            chain: self.chain(),
            settings,
        };
        if self.link.state().await?.is_none() {
            self.link.create_stream().await?;
        }
        let end = self.link.append(Record::NewEpoch(new_epoch.clone()).encode()).await?;
        let (placed, first) = self.find_epoch(&new_epoch.epoch, end).await?;
        // NATS 2.9 takes "before record 1" as "all".
        if placed.position > 1 {
            self.link.delete_before(placed.position).await?;
        }
        self.adopt(placed, first).await?;
        info!("the log continues with the history of this node, up to {head}");
        self.new_epoch = None;
        Ok(())
    }

    /// Returns the epoch that follows the history of the journal. It is the same at each attempt.
    fn next_epoch(&self) -> Epoch {
        let Chain { position, hash } = self.chain();
        let next = Sha256::new()
            .chain_update(self.epoch.as_str())
            .chain_update(position.to_be_bytes())
            .chain_update(hash.to_be_bytes())
            .finalize();
        Epoch::of(&next[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// Finds the first record of an epoch, up to a position.
    async fn find_epoch(&self, epoch: &Epoch, end: u64) -> Result<(Placed, NewEpoch), Stop> {
        let first = self.link.state().await?.map_or(1, |state| state.first);
        let mut records = self.link.records(first).await?;
        loop {
            let Some(record) = next_record(&mut records).await? else {
                return Err("the record of the new epoch was not delivered".to_owned().into());
            };
            let info = record.info().map_err(|error| error.to_string())?;
            let position = info.stream_sequence;
            match Record::decode(&record.payload) {
                Ok(Record::NewEpoch(found)) if found.epoch == *epoch => {
                    let time = info.published.unix_timestamp_nanos();
                    let time = i64::try_from(time).unwrap_or(i64::MAX);
                    let hash = Sha256::digest(&record.payload).into();
                    return Ok((Placed { position, time, hash }, found));
                }
                Ok(_) | Err(_) if position >= end => {
                    return Err("the record of the new epoch is gone".to_owned().into());
                }
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Continues with a new epoch if the stream begins with one, so that it is found even if the
    /// stream and the journal differ.
    pub(super) async fn adopt_first_epoch(&mut self, state: StreamState) -> Result<(), Stop> {
        if !self.has_begun() {
            return Ok(());
        }
        let (payload, time) = self.link.record(state.first).await?;
        match Record::decode(&payload) {
            Ok(Record::NewEpoch(new_epoch)) if new_epoch.epoch != self.epoch => {
                let hash = Sha256::digest(&payload).into();
                self.adopt(Placed { position: state.first, time, hash }, new_epoch).await
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Continues with a new epoch, if it begins with the history of the journal.
    pub(super) async fn adopt(&mut self, placed: Placed, new: NewEpoch) -> Result<(), Stop> {
        let JournalState { head, .. } =
            self.journal.send(Describe).await.map_err(|_| Stop::JournalDied)?;
        if !self.has_begun() {
            let is_empty = head == Seq::default();
            let other = || self.other_log(new.epoch.as_str().into());
            return Err(Stop::Refused(if is_empty { Refused::NeedsParent } else { other() }));
        }
        if !new.continues(&self.epoch, self.chain()) {
            return Err(Stop::Refused(Refused::OtherHistory));
        }
        let NewEpoch { epoch, base, settings, .. } = new;
        warn!("the log begins the epoch {}", epoch.as_str());
        let replaced = Replaced {
            epoch: epoch.clone(),
            head,
            settings: settings.clone(),
            chain: Chain::new(placed.position, &placed.hash),
        };
        self.begin_journal(Begin { placed, base, epoch, settings }).await?;
        self.applied = Some(Applied { position: placed.position, time: placed.time });
        if let Some(publisher) = &self.publisher {
            publisher.do_send(replaced);
        }
        Ok(())
    }
}
