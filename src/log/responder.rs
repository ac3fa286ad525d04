//! The ways back from the log to the hub.

use actix::prelude::*;

use super::{Counted, Found, FromLog, LogError, Messages, Paged, Searched};
use crate::domain::Unread;

/// Sends the hub what the log hands out. If it is dropped, for example because the log's thread
/// panics, the hub receives [`FromLog::Died`].
#[derive(Debug)]
pub struct Follower(Recipient<FromLog>);

impl Follower {
    /// Returns the follower that sends to this recipient.
    #[must_use]
    pub fn new(hub: Recipient<FromLog>) -> Self {
        Self(hub)
    }

    /// Sends something to the hub.
    pub fn send(&self, from_log: FromLog) {
        self.0.do_send(from_log);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.do_send(FromLog::Died);
    }
}

/// Answers a request for a page, a count of unread messages, or a search. If it is dropped unused,
/// for example because the log's thread panics, the hub receives [`LogError::Died`].
#[derive(Debug)]
pub struct Responder<M: Message<Result = ()> + Send + 'static> {
    hub: Recipient<M>,
    /// Sent if there is no other answer.
    died: Option<M>,
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

impl Responder<Counted> {
    pub(crate) fn new(hub: Recipient<Counted>, request: u64) -> Self {
        Self { hub, died: Some(Counted { request, outcome: Err(LogError::Died) }) }
    }

    /// Sends the unread messages or the error. `None` if the user has no read mark for the room.
    pub fn give(mut self, outcome: Result<Option<Unread>, LogError>) {
        if let Some(Counted { request, .. }) = self.cancel() {
            self.hub.do_send(Counted { request, outcome });
        }
    }
}

impl Responder<Searched> {
    pub(crate) fn new(hub: Recipient<Searched>, request: u64) -> Self {
        Self { hub, died: Some(Searched { request, outcome: Err(LogError::Died) }) }
    }

    /// Sends the results or the error.
    pub fn give(mut self, outcome: Result<Found, LogError>) {
        if let Some(Searched { request, .. }) = self.cancel() {
            self.hub.do_send(Searched { request, outcome });
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
