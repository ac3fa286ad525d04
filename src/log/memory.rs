//! The log of a hub without a history file: a [`Replica`] with bounds, on the thread of the hub.

use std::time::Duration;

use actix::prelude::*;

use super::nodes::Nodes;
use super::replica::{Bounds, Replica};
use super::{
    Append, Follower, FromLog, LogBackend, Own, Page, Paged, Probe, ReadMarks, Search, State,
};
use crate::config::Config;
use crate::domain::{Durability, Epoch, Seq, Settings, Timestamp};

/// The greatest size of all messages, as [`Settings::keep_bytes`] counts them. A message with a
/// text of 64 bytes counts as 192 bytes, and takes about 500 bytes of memory. So the messages take
/// about as much memory as the hub's rings may take.
const KEEP_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// The maximum number of changes to remember.
const CHANGES_MAX: usize = 65_536;

/// The maximum number of ids to remember, in addition to those of kept messages.
const IDS_MAX: usize = 65_536;

/// The maximum number of rooms without messages to remember, for example for their topics.
const IDLE_ROOMS_MAX: usize = 10_000;

/// A log in memory.
pub(crate) struct MemoryLog {
    epoch: Epoch,
    replica: Replica,
    /// Kept only because dropping it would report that the log has died.
    follower: Option<Follower>,
}

impl MemoryLog {
    /// Returns an empty log.
    pub(crate) fn new(config: &Config) -> Self {
        let settings = settings(config);
        let bounds = Bounds {
            changes_per_room: usize::try_from(settings.keep_messages).unwrap_or(usize::MAX),
            changes: CHANGES_MAX,
            ids: IDS_MAX,
            rooms: IDLE_ROOMS_MAX,
        };
        let replica = Replica::bounded(settings, bounds);
        Self { epoch: Epoch::random(), replica, follower: None }
    }

    /// Returns the epoch of the log.
    pub(crate) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Returns the sequence number of the last entry.
    pub(crate) fn head(&self) -> Seq {
        self.replica.head()
    }

    /// Returns the state at the head.
    pub(crate) fn state(&self) -> State {
        State::new(self.replica.settings().clone())
    }
}

/// Returns the settings of a log in memory: those of the configuration, within its own limits.
fn settings(config: &Config) -> Settings {
    let settings = config.settings();
    let resume_buffer = u64::try_from(config.resume_buffer).unwrap_or(u64::MAX);
    Settings {
        keep_messages: settings.keep_messages.min(resume_buffer),
        keep_bytes: Some(settings.keep_bytes.unwrap_or(u64::MAX).min(KEEP_BYTES_MAX)),
        ..settings
    }
}

impl LogBackend for MemoryLog {
    fn follow(&mut self, follower: Follower) {
        self.follower = Some(follower);
    }

    fn append(&mut self, Append { ticket, drafts }: Append) -> Option<FromLog> {
        let (entries, placed) = self.replica.apply(Timestamp::now(), drafts);
        let (head, floors) = (self.replica.head(), self.replica.take_floors());
        let own = Some(Own { ticket, placed });
        Some(FromLog::Committed { entries, head, floors, own })
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }

    fn append_interval(&self) -> Duration {
        Duration::ZERO
    }

    fn page(&mut self, page: Page) -> Option<Paged> {
        let Page { room, before, range, reader, limit, max_bytes, mut answer } = page;
        let Paged { request, .. } = answer.cancel()?;
        // Without appends nothing expires, so this is one without drafts.
        self.replica.apply(Timestamp::now(), Vec::new());
        let messages = self.replica.page(&room, before, range, reader, limit, max_bytes);
        Some(Paged { request, outcome: Ok(messages) })
    }

    fn search(&self) -> Option<Recipient<Search>> {
        None
    }

    fn probe(&self) -> Option<Recipient<Probe>> {
        None
    }

    fn nodes(&self) -> Option<&Nodes> {
        None
    }

    fn read_marks(&self) -> Option<&ReadMarks> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_in_memory_keeps_no_more_than_the_configuration_and_its_own_limits_permit() {
        let default = settings(&Config::default());
        assert_eq!((default.keep_messages, default.keep_bytes), (1000, Some(KEEP_BYTES_MAX)));
        let low = Config { keep_messages: 10, keep_bytes: Some(20), ..Config::default() };
        assert_eq!(settings(&low).keep_messages, 10);
        assert_eq!(settings(&low).keep_bytes, Some(20));
    }
}
