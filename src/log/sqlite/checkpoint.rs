//! Removes deleted texts from the file. SQLite overwrites a text in the database file only at a
//! checkpoint, and the write-ahead log may contain the text until it is truncated.

use std::time::{Duration, Instant};

use actix::prelude::*;
use log::warn;

use super::Writer;
use super::schema;
use crate::log::LogError;

/// The time from the removal of a text until the checkpoint. The checkpoint also covers texts that
/// are removed meanwhile.
const DELAY: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 20_000 });

/// The pause before another attempt, if a reader needs the write-ahead log.
const RETRY_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 3000 });

/// A checkpoint that has failed for this time is logged.
const LATE: Duration = Duration::from_secs(60);

/// The checkpoint that removes deleted texts.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    /// Whether a text was removed since the last checkpoint.
    pub(super) removed_text: bool,
    /// The time since which a checkpoint has been scheduled.
    scheduled: Option<Instant>,
    /// Whether a failure was logged.
    has_warned: bool,
}

impl Writer {
    /// Schedules a checkpoint if a text was removed.
    pub(super) fn schedule_checkpoint(&mut self, ctx: &mut Context<Self>) {
        if self.checkpoint.removed_text && self.checkpoint.scheduled.is_none() {
            self.checkpoint.scheduled = Some(Instant::now());
            ctx.run_later(DELAY, Self::run_checkpoint);
        }
    }

    fn run_checkpoint(&mut self, ctx: &mut Context<Self>) {
        let is_late = self.checkpoint.scheduled.is_some_and(|at| at.elapsed() > LATE);
        let problem = match self.truncate_wal() {
            Ok(true) => {
                self.checkpoint = Checkpoint::default();
                return;
            }
            Ok(false) => "another program, for example a backup, is reading the file".into(),
            Err(error) => error.to_string(),
        };
        if is_late && !std::mem::replace(&mut self.checkpoint.has_warned, true) {
            warn!("deleted texts are still in the write-ahead log of the history file: {problem}");
        }
        ctx.run_later(RETRY_PAUSE, Self::run_checkpoint);
    }

    /// Copies the write-ahead log to the database file and truncates it. Returns false if a reader
    /// still needs the write-ahead log.
    pub(super) fn truncate_wal(&mut self) -> Result<bool, LogError> {
        self.ensure_usable()?;
        schema::truncate_wal(&self.connection).map_err(|error| self.record_error(&error))
    }
}
