//! Actors with which a test drives the hub without a server: a log that answers when the test tells
//! it to, and clients that stop receiving when the test tells them to.

use std::sync::Arc;

use actix::prelude::*;
use chinwag::domain::{ChatMessage, Draft, Nick, Seq, Timestamp};
use chinwag::hub::Deliver;
use chinwag::log::{Append, Appended, LogError, Messages, Page, Placed, Probe, Responder};
use chinwag::protocol::{Event, Reply};
use tokio::sync::oneshot;

/// A log that answers pages immediately, and an append only after an [`AnswerAppend`].
#[derive(Default)]
pub struct FakeLog {
    pending: Option<(Vec<Draft>, Responder<Appended>)>,
    stored: Vec<Draft>,
}

impl Actor for FakeLog {
    type Context = Context<Self>;
}

impl Handler<Append> for FakeLog {
    type Result = ();

    fn handle(&mut self, Append { drafts, answer }: Append, _: &mut Self::Context) {
        assert!(self.pending.is_none(), "the hub sends one append at a time");
        self.pending = Some((drafts, answer));
    }
}

impl Handler<Page> for FakeLog {
    type Result = ();

    fn handle(&mut self, page: Page, _: &mut Self::Context) {
        let numbered = (1..).map(Seq::new).zip(&self.stored);
        let of_room = numbered.filter(|(seq, draft)| draft.room == page.room && *seq < page.before);
        let all: Vec<_> =
            of_room.map(|(seq, draft)| draft.clone().placed(seq, Timestamp::default())).collect();
        let start = all.len().saturating_sub(page.limit);
        let floor = if start == 0 { Seq::default() } else { all[start - 1].seq };
        let messages = all[start..].to_vec();
        page.answer.give(Ok(Messages { messages, floor, more: start > 0 }));
    }
}

impl Handler<Probe> for FakeLog {
    type Result = Result<(), LogError>;

    fn handle(&mut self, _: Probe, _: &mut Self::Context) -> Self::Result {
        Ok(())
    }
}

/// Answers the pending append, if any: stores the drafts, or fails.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AnswerAppend {
    pub success: bool,
}

impl Handler<AnswerAppend> for FakeLog {
    type Result = ();

    fn handle(&mut self, AnswerAppend { success }: AnswerAppend, _: &mut Self::Context) {
        let Some((drafts, answer)) = self.pending.take() else { return };
        if !success {
            return answer.give(drafts, Err(LogError::Busy("the test makes it fail".into())));
        }
        let mut placed = Vec::new();
        for draft in &drafts {
            let duplicate_of = self.stored.iter().position(|old| {
                draft.origin.is_some() && (&old.room, &old.origin) == (&draft.room, &draft.origin)
            });
            let seq = |number: usize| Seq::new(number as u64);
            placed.push(match duplicate_of {
                Some(index) => Placed::Duplicate(seq(index + 1)),
                None => {
                    self.stored.push(draft.clone());
                    Placed::New(seq(self.stored.len()), Timestamp::default())
                }
            });
        }
        answer.give(drafts, Ok(placed));
    }
}

/// A client that records, as text, everything that it receives.
pub struct FakeClient {
    received: Vec<String>,
    mailbox_capacity: usize,
}

impl FakeClient {
    pub fn new(mailbox_capacity: usize) -> Self {
        Self { received: Vec::new(), mailbox_capacity }
    }
}

impl Actor for FakeClient {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox_capacity);
    }
}

impl Handler<Deliver> for FakeClient {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        for message in deliver.batches().iter().flat_map(|batch| batch.messages()) {
            self.received.push(format!(
                "{} {} {}",
                message.room,
                message.seq.get(),
                message.text.as_str()
            ));
        }
        match deliver {
            Deliver::Answer(reply) => self.received.extend(describe(&reply)),
            Deliver::Direct(replies) => self.received.extend(replies.iter().filter_map(describe)),
            Deliver::Close(reason) => self.received.push(format!("close {}", reason.label())),
            Deliver::Batch(_) | Deliver::Batches(_) | Deliver::Notices(_) => {}
        }
    }
}

/// Describes a reply as a line of text. Returns `None` for events whose time is not predictable.
fn describe(reply: &Reply) -> Option<String> {
    let texts = |messages: &[Arc<ChatMessage>]| {
        messages.iter().map(|message| message.text.as_str().to_owned()).collect::<Vec<_>>()
    };
    let named = |members: &[Nick]| {
        let named = members.iter().filter(|nick| !nick.is_anonymous());
        named.map(Nick::to_string).collect::<Vec<_>>()
    };
    Some(match &reply.event {
        Event::Welcome { nick, .. } if nick.is_anonymous() => "welcome anonymous".to_owned(),
        Event::Welcome { nick, .. } => format!("welcome {nick}"),
        Event::Joined { room, messages, members, member_count, .. } => {
            format!("joined {room} {:?} {:?} {member_count}", texts(messages), named(members))
        }
        Event::Left { room } => format!("left {room}"),
        Event::Members { room, members, member_count } => {
            format!("members {room} {:?} {member_count}", named(members))
        }
        Event::History { room, messages, more } => {
            format!("history {room} {:?} {more}", texts(messages))
        }
        Event::Said { room, seq, duplicate, .. } => {
            let kind = if *duplicate { "duplicate" } else { "new" };
            format!("said {room} {} {kind}", seq.get())
        }
        Event::Error(refusal) => format!("error {}", refusal.code.label()),
        Event::Presence { .. } | Event::Renamed { .. } | Event::Typing { .. } => return None,
    })
}

/// Stops a client from receiving until the sender of this channel is dropped.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stall(pub oneshot::Receiver<()>);

impl Handler<Stall> for FakeClient {
    type Result = ();

    fn handle(&mut self, Stall(resumed): Stall, ctx: &mut Self::Context) {
        ctx.wait(async { drop(resumed.await) }.into_actor(self));
    }
}

/// Returns everything that a client has received.
#[derive(Message)]
#[rtype(result = "Vec<String>")]
pub struct Received;

impl Handler<Received> for FakeClient {
    type Result = Vec<String>;

    fn handle(&mut self, _: Received, _: &mut Self::Context) -> Vec<String> {
        self.received.clone()
    }
}
