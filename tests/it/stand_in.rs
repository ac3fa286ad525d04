//! Those with whom a test talks to the hub without a server: a log that answers when it is told to,
//! and clients that stop taking anything when they are.

use std::sync::Arc;

use actix::prelude::*;
use chinwag::domain::{ChatMessage, Draft, Nick, Seq, Timestamp};
use chinwag::hub::Deliver;
use chinwag::log::{Append, Appended, LogError, Messages, Page, Placed, Probe, Responder};
use chinwag::protocol::{Event, Reply};
use tokio::sync::oneshot;

/// A log that answers an append only when it is told to, and a page at once.
#[derive(Default)]
pub struct Keeper {
    asked: Option<(Vec<Draft>, Responder<Appended>)>,
    kept: Vec<Draft>,
}

impl Actor for Keeper {
    type Context = Context<Self>;
}

impl Handler<Append> for Keeper {
    type Result = ();

    fn handle(&mut self, Append { drafts, answer }: Append, _: &mut Self::Context) {
        assert!(self.asked.is_none(), "one append at a time");
        self.asked = Some((drafts, answer));
    }
}

impl Handler<Page> for Keeper {
    type Result = ();

    fn handle(&mut self, page: Page, _: &mut Self::Context) {
        let places = (1..).map(Seq::new).zip(&self.kept);
        let of_room = places.filter(|(seq, draft)| draft.room == page.room && *seq < page.before);
        let all: Vec<_> =
            of_room.map(|(seq, draft)| draft.clone().placed(seq, Timestamp::default())).collect();
        let start = all.len().saturating_sub(page.limit);
        let floor = if start == 0 { Seq::default() } else { all[start - 1].seq };
        let messages = all[start..].to_vec();
        page.answer.give(Ok(Messages { messages, floor, more: start > 0 }));
    }
}

impl Handler<Probe> for Keeper {
    type Result = Result<(), LogError>;

    fn handle(&mut self, _: Probe, _: &mut Self::Context) -> Self::Result {
        Ok(())
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct Land(pub bool);

impl Handler<Land> for Keeper {
    type Result = ();

    fn handle(&mut self, Land(keeps): Land, _: &mut Self::Context) {
        let Some((drafts, answer)) = self.asked.take() else { return };
        if !keeps {
            return answer.give(drafts, Err(LogError::Busy("the test says so".into())));
        }
        let mut placed = Vec::new();
        for draft in &drafts {
            let known = self.kept.iter().position(|old| {
                draft.origin.is_some() && (&old.room, &old.origin) == (&draft.room, &draft.origin)
            });
            let seq = |place: usize| Seq::new(place as u64);
            placed.push(match known {
                Some(place) => Placed::Duplicate(seq(place + 1)),
                None => {
                    self.kept.push(draft.clone());
                    Placed::New(seq(self.kept.len()), Timestamp::default())
                }
            });
        }
        answer.give(drafts, Ok(placed));
    }
}

/// A client, with all that it was told, and how many deliveries its mailbox holds.
pub struct Ear {
    told: Vec<String>,
    mailbox: usize,
}

impl Ear {
    pub fn new(mailbox: usize) -> Self {
        Self { told: Vec::new(), mailbox }
    }
}

impl Actor for Ear {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox);
    }
}

impl Handler<Deliver> for Ear {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        for message in deliver.batches().iter().flat_map(|batch| batch.messages()) {
            self.told.push(format!(
                "{} {} {}",
                message.room,
                message.seq.get(),
                message.text.as_str()
            ));
        }
        match deliver {
            Deliver::Answer(reply) => self.told.extend(told(&reply)),
            Deliver::Direct(replies) => self.told.extend(replies.iter().filter_map(told)),
            Deliver::Close(reason) => self.told.push(format!("close {}", reason.label())),
            Deliver::Batch(_) | Deliver::Batches(_) | Deliver::Notices(_) => {}
        }
    }
}

fn told(reply: &Reply) -> Option<String> {
    let texts = |messages: &[Arc<ChatMessage>]| {
        messages.iter().map(|message| message.text.as_str().to_owned()).collect::<Vec<_>>()
    };
    let chosen = |members: &[Nick]| {
        let chosen = members.iter().filter(|nick| !nick.is_anonymous());
        chosen.map(Nick::to_string).collect::<Vec<_>>()
    };
    Some(match &reply.event {
        Event::Welcome { nick, .. } if nick.is_anonymous() => "welcome anonymous".to_owned(),
        Event::Welcome { nick, .. } => format!("welcome {nick}"),
        Event::Joined { room, messages, members, member_count, .. } => {
            format!("joined {room} {:?} {:?} {member_count}", texts(messages), chosen(members))
        }
        Event::Left { room } => format!("left {room}"),
        Event::Members { room, members, member_count } => {
            format!("members {room} {:?} {member_count}", chosen(members))
        }
        Event::History { room, messages, more } => {
            format!("history {room} {:?} {more}", texts(messages))
        }
        Event::Said { room, seq, duplicate, .. } => {
            let known = if *duplicate { "duplicate" } else { "new" };
            format!("said {room} {} {known}", seq.get())
        }
        Event::Error(refusal) => format!("error {}", refusal.code.label()),
        Event::Presence { .. } | Event::Renamed { .. } | Event::Typing { .. } => return None,
    })
}

/// Takes nothing more until the other end is dropped.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stall(pub oneshot::Receiver<()>);

impl Handler<Stall> for Ear {
    type Result = ();

    fn handle(&mut self, Stall(woken): Stall, ctx: &mut Self::Context) {
        ctx.wait(async { drop(woken.await) }.into_actor(self));
    }
}

#[derive(Message)]
#[rtype(result = "Vec<String>")]
pub struct Told;

impl Handler<Told> for Ear {
    type Result = Vec<String>;

    fn handle(&mut self, _: Told, _: &mut Self::Context) -> Vec<String> {
        self.told.clone()
    }
}
