//! Removes deleted texts from the write-ahead log. SQLite overwrites a text in the database file
//! only at a checkpoint, and the write-ahead log has it until it is truncated.
//!
//! This is not quite complete. `secure_delete` overwrites what SQLite deletes, but when SQLite
//! redistributes rows over pages it may leave a second copy of a row in an unused part of a page.
//! About 3 of 1000 texts remained in a test in which a fifth of all messages were removed, and none
//! of 600 where it was every fiftieth. Files of older versions may have more such copies. `VACUUM`
//! removes all of them. A backup has none, since it is vacuumed.

use std::time::{Duration, Instant};

use actix::prelude::*;
use log::warn;

use super::Writer;
use super::schema;
use crate::log::LogError;

/// The time from the removal of a text until the checkpoint. Later removals join it.
const DELAY: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 20_000 });

/// The pause before another attempt, while a reader needs the write-ahead log.
const RETRY_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 3000 });

/// After this time it is logged that a reader prevents the checkpoint.
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

    /// Copies the write-ahead log to the database file and truncates it. Returns whether that was
    /// possible, which it is not while a reader needs it.
    pub(super) fn truncate_wal(&mut self) -> Result<bool, LogError> {
        self.ensure_usable()?;
        schema::truncate_wal(&self.connection).map_err(|error| self.record_error(&error))
    }
}
