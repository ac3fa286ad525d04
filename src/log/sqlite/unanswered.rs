//! Appends whose outcome is unknown. If the commit of a transaction fails with an I/O error, SQLite
//! may or may not have written it. The hub must get a definite answer. So the writer reopens the
//! file until it can read whether the append was committed.

use std::time::Duration;

use actix::prelude::*;
use log::{info, warn};

use super::append::Applied;
use super::writer::{self, Writer};
use super::{rows, schema};
use crate::domain::{Seq, Timestamp};
use crate::log::{FromLog, LogError};

/// The pause before the file is first checked.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The greatest pause between two checks.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// An append that the writer has not answered yet.
pub(super) struct Unanswered {
    ticket: u64,
    /// The state after it, if it was committed.
    applied: Applied,
    /// The pause before the next check.
    pause: Duration,
}

impl Unanswered {
    pub(super) fn new(ticket: u64, applied: Applied) -> Self {
        Self { ticket, applied, pause: FIRST_PAUSE }
    }

    /// Returns the answer for a file with this last sequence number.
    fn answer(self, head: Seq) -> FromLog {
        // If the append assigned no sequence number, the answer is the same in both cases.
        if head == self.applied.head {
            return writer::committed(self.applied, self.ticket);
        }
        let error = LogError::Busy("the history file could not be written".into());
        FromLog::Rejected { ticket: self.ticket, error }
    }
}

impl Writer {
    /// Leaves an append unanswered until its outcome is known.
    pub(super) fn stall(&mut self, unanswered: Unanswered, ctx: &mut Context<Self>) {
        let pause = unanswered.pause;
        self.unanswered = Some(unanswered);
        self.send(FromLog::Stalled(true));
        ctx.run_later(pause, Self::look);
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        self.answer_open_append();
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.pause = (unanswered.pause * 2).min(PAUSE_MAX);
            ctx.run_later(unanswered.pause, Self::look);
        }
    }

    /// Answers the append whose outcome is unknown, if the file can be read now.
    pub(super) fn answer_open_append(&mut self) {
        let Some(unanswered) = self.unanswered.take() else { return };
        match self.settle(unanswered.applied.head) {
            Ok(head) => {
                self.head = head;
                self.needs_reopen = false;
                self.checkpoint.removed_text |= unanswered.applied.removed_text;
                let answer = unanswered.answer(head);
                let is_committed = matches!(answer, FromLog::Committed { .. });
                info!(
                    "history file checked: the append was {}committed",
                    if is_committed { "" } else { "not " }
                );
                self.send(answer);
                self.send(FromLog::Stalled(false));
            }
            Err(error) => {
                warn!("cannot check whether an append was committed: {error}; trying again");
                self.unanswered = Some(unanswered);
            }
        }
    }

    /// Reopens the file and makes its current contents durable. Returns its last sequence number,
    /// which is `after` if the append was committed.
    fn settle(&mut self, after: Seq) -> Result<Seq, LogError> {
        let head = self.reopen()?;
        if head != self.head && head != after {
            return Err(writer::replaced());
        }
        // The write-ahead log may contain the whole failed commit, which SQLite ignores now, but
        // would recover after a crash. Another commit overwrites it. That must change a value,
        // because otherwise SQLite writes nothing.
        let now = rows::millis(Timestamp::now());
        let settled = schema::set_meta(&self.connection, "settled", now).and_then(|()| {
            // After a failed sync, only writing everything again makes it durable.
            schema::truncate_wal(&self.connection)
        });
        match settled {
            Ok(true) => Ok(head),
            Ok(false) => Err(LogError::Busy("another program is reading the history file".into())),
            Err(error) => Err(self.record_error(&error)),
        }
    }
}
