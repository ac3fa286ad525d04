//! The log's way back to the hub.

use actix::prelude::*;

use super::{Appended, LogError, Messages, Paged, Placed, Wanted};
use crate::domain::Draft;

/// The way back to the hub. If it is dropped unused, as when the log's thread panics, the hub
/// hears of that.
#[derive(Debug)]
pub struct Answer<M: Message<Result = ()> + Send + 'static> {
    hub: Recipient<M>,
    /// What the hub is told unless there is something better.
    died: Option<M>,
}

impl Answer<Appended> {
    pub(super) fn new(hub: Recipient<Appended>) -> Self {
        let died = Appended { drafts: Vec::new(), outcome: Err(LogError::Died) };
        Self { hub, died: Some(died) }
    }

    /// Tells what has become of the messages, and gives them back.
    pub fn give(mut self, drafts: Vec<Draft>, outcome: Result<Vec<Placed>, LogError>) {
        self.died = None;
        self.hub.do_send(Appended { drafts, outcome });
    }
}

impl Answer<Paged> {
    pub(super) fn new(hub: Recipient<Paged>, wanted: Wanted) -> Self {
        Self { hub, died: Some(Paged { wanted, outcome: Err(LogError::Died) }) }
    }

    /// Gives the messages, or says why not.
    pub fn give(mut self, outcome: Result<Messages, LogError>) {
        if let Some(Paged { wanted, .. }) = self.died.take() {
            self.hub.do_send(Paged { wanted, outcome });
        }
    }
}

impl<M: Message<Result = ()> + Send + 'static> Drop for Answer<M> {
    fn drop(&mut self) {
        if let Some(died) = self.died.take() {
            self.hub.do_send(died);
        }
    }
}
