//! The way back from the log to the hub.

use actix::prelude::*;

use super::{Appended, LogError, Messages, Paged, Placed};
use crate::domain::Draft;

/// Answers a request of the hub. If it is dropped unused, for example because the log's thread
/// panics, the hub receives [`LogError::Died`].
#[derive(Debug)]
pub struct Responder<M: Message<Result = ()> + Send + 'static> {
    hub: Recipient<M>,
    /// Sent if there is no other answer.
    died: Option<M>,
}

impl Responder<Appended> {
    pub(crate) fn new(hub: Recipient<Appended>) -> Self {
        let died = Appended { drafts: Vec::new(), outcome: Err(LogError::Died) };
        Self { hub, died: Some(died) }
    }

    /// Sends the outcome, and returns the messages to the hub.
    pub fn give(mut self, drafts: Vec<Draft>, outcome: Result<Vec<Placed>, LogError>) {
        self.cancel();
        self.hub.do_send(Appended { drafts, outcome });
    }
}

impl Responder<Paged> {
    pub(crate) fn new(hub: Recipient<Paged>, request: u64) -> Self {
        Self { hub, died: Some(Paged { request, outcome: Err(LogError::Died) }) }
    }

    /// Sends the messages or the error.
    pub fn give(mut self, outcome: Result<Messages, LogError>) {
        if let Some(Paged { request, .. }) = self.cancel() {
            self.hub.do_send(Paged { request, outcome });
        }
    }
}

impl<M: Message<Result = ()> + Send + 'static> Responder<M> {
    /// Prevents the automatic answer on drop, and returns it.
    pub(super) fn cancel(&mut self) -> Option<M> {
        self.died.take()
    }
}

impl<M: Message<Result = ()> + Send + 'static> Drop for Responder<M> {
    fn drop(&mut self) {
        if let Some(died) = self.died.take() {
            self.hub.do_send(died);
        }
    }
}
