//! A stub until the replica is there.

use std::sync::Arc;

use actix::prelude::*;

use super::{Append, Follower, FromLog, LogBackend, Messages, Own, Page, Paged, Probe, Verdict};
use crate::domain::{Action, ChatMessage, Entry, Seq, Settings, Timestamp};

pub(crate) struct MemoryLog {
    head: Seq,
    follower: Option<Follower>,
}

impl MemoryLog {
    pub(crate) fn new(_: Settings) -> Self {
        Self { head: Seq::default(), follower: None }
    }
}

impl LogBackend for MemoryLog {
    fn follow(&mut self, follower: Follower) {
        self.follower = Some(follower);
    }

    fn append(&mut self, Append { ticket, drafts }: Append) -> Option<FromLog> {
        let at = Timestamp::now();
        let (mut entries, mut placed) = (Vec::new(), Vec::new());
        for draft in drafts {
            if let Action::Message { text, attributed, reply_to } = draft.action {
                self.head = self.head.next();
                let message = ChatMessage {
                    room: draft.room,
                    seq: self.head,
                    at,
                    author: draft.author,
                    nick: draft.nick,
                    text,
                    id: draft.id,
                    attributed,
                    reply_to,
                    quote: None,
                    edited_at: None,
                    deleted: false,
                    counted: None,
                };
                entries.push(Entry::Message(Arc::new(message)));
            }
            placed.push(Verdict::Kept(self.head));
        }
        Some(FromLog::Committed { entries, head: self.head, own: Some(Own { ticket, placed }) })
    }

    fn page(&mut self, Page { before, mut answer, .. }: Page) -> Option<Paged> {
        let Paged { request, .. } = answer.cancel()?;
        let floor = Seq::new(before.get().saturating_sub(1));
        Some(Paged { request, outcome: Ok(Messages { floor, ..Messages::default() }) })
    }

    fn probe(&self) -> Option<Recipient<Probe>> {
        None
    }
}
