//! What was said before: told from the room's ring where that reaches back far enough, else by
//! the log.

use std::sync::Arc;

use actix::prelude::*;

use super::log::Wanted;
use super::{Deliver, Hub, LogError, Messages};
use crate::domain::{ChatMessage, ClientId, RoomName, Seq};
use crate::wire::{Event, Ref, Reply};

/// The most that one answer holds, in bytes of text; one message is told in any case.
const HISTORY_BYTES_MAX: usize = 256 * 1024;

/// Asks what was said in a room that the client is in. It is answered by
/// [`Event::History`], after all that it has said there itself.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct History {
    /// Who asks.
    pub client: ClientId,
    /// About which room.
    pub room: RoomName,
    /// Only messages before this place; without one, of late.
    pub before: Option<Seq>,
    /// The last so many of them.
    pub limit: usize,
    /// What the answer echoes.
    pub reference: Option<Ref>,
}

impl Handler<History> for Hub {
    type Result = ();

    fn handle(&mut self, history: History, _: &mut Self::Context) {
        if self.is_member(history.client, &history.room) {
            self.ask_after_flight(history);
        } else {
            self.refuse_stranger(history.client, history.reference);
        }
    }
}

impl Hub {
    pub(super) fn tell_history(&mut self, history: History) {
        // What is at the log and not yet told to everyone is no history.
        let now = self.log.head.next();
        let before = history.before.map_or(now, |before| before.min(now));
        let limit = history.limit;
        let (messages, more) = match self.rings.get(&history.room) {
            Some(ring) => ring.page(before, limit, HISTORY_BYTES_MAX),
            None => (Vec::new(), false),
        };
        if more || self.log.is_memory() {
            self.answer_history(history, messages, more);
        } else {
            self.page(Wanted::History(history), before, limit, HISTORY_BYTES_MAX);
        }
    }

    pub(super) fn history_read(&mut self, asked: History, read: Result<Messages, LogError>) {
        match read {
            Ok(Messages { messages, more, .. }) => {
                self.answer_history(asked, messages.into_iter().map(Arc::new).collect(), more);
            }
            Err(error) => {
                let event = Event::Error((&error).into());
                self.answer(asked.client, event, asked.reference);
            }
        }
    }

    fn answer_history(&mut self, asked: History, messages: Vec<Arc<ChatMessage>>, more: bool) {
        let History { client, room, reference, .. } = asked;
        self.answer(client, Event::History { room, messages, more }, reference);
    }

    /// Answers a client's command.
    pub(super) fn answer(&mut self, client: ClientId, event: Event, reference: Option<Ref>) {
        self.send_to(client, Deliver::Answer(Box::new(Reply { event, reference })));
    }
}
