//! What a session does with what is one too many: it is put off until it is not, and what the
//! client sends next stays unread. So nothing is lost, and a client that asks for more than it may
//! feels it in its TCP.

use std::num::NonZeroU32;
use std::time::Duration;

use actix::prelude::*;

use super::Session;
use crate::wire::{Command, Event, Protocol, Refusal, Reply, Request};

const ONE: NonZeroU32 = NonZeroU32::MIN;

/// In how many rooms a change of name is as much work as another command.
const ROOMS_AS_ONE_COMMAND: usize = 10;

/// How much of an answer counts as another command, in bytes.
const ANSWER_BYTES_AS_ONE_COMMAND: usize = 16 * 1024;

/// The limiter's clock and the timer's may differ by a moment. A retry must not be too early, or it
/// would wait, and be counted, once more.
const CLOCKS_DIFFER: Duration = Duration::from_millis(1);

/// Converts an amount to the number of commands that it counts as.
fn as_commands(amount: usize, one: usize) -> u32 {
    // No burst is as large.
    u32::try_from(amount / one).unwrap_or(u32::MAX).min(1 << 20)
}

impl Session {
    /// Counts a command, unless it is one too many: then says how long to wait with it.
    pub(super) fn count(&mut self, command: &Command) -> Result<(), Duration> {
        match command {
            Command::Say { text, .. } => self.place.say(self.speaker, text.as_str().len()),
            // The hub looks at each room, and tells its members.
            Command::Hello { .. } | Command::Nick { .. } => {
                let rooms = as_commands(self.budget.rooms(), ROOMS_AS_ONE_COMMAND);
                self.renaming = Some(rooms);
                self.place.command(ONE.saturating_add(rooms))
            }
            Command::Join { .. }
            | Command::Leave { .. }
            | Command::Who { .. }
            | Command::Typing { .. }
            | Command::History { .. } => self.place.command(ONE),
        }
    }

    /// Counts a frame that holds no command as one, be it a ping, and reads the next one later if
    /// that is too many.
    pub(super) fn count_blank(&mut self, ctx: &mut <Self as Actor>::Context) {
        if let Err(wait) = self.place.command(ONE) {
            self.later(wait, ctx, Self::count_blank);
        }
    }

    /// Counts a long answer as several commands, and reads the next command later if that is too
    /// many: a command of some bytes may ask for megabytes.
    pub(super) fn count_answer(&mut self, bytes: usize, ctx: &mut <Self as Actor>::Context) {
        let cost = as_commands(bytes, ANSWER_BYTES_AS_ONE_COMMAND) + self.surcharge_for_renaming();
        if let Some(cost) = NonZeroU32::new(cost) {
            self.pay(cost, ctx);
        }
    }

    fn pay(&mut self, cost: NonZeroU32, ctx: &mut <Self as Actor>::Context) {
        if let Err(wait) = self.place.command(cost) {
            self.later(wait, ctx, move |session, ctx| session.pay(cost, ctx));
        }
    }

    /// What a change of name cost beside what was counted before: only the hub knows in how many
    /// rooms other clients of the same identity are.
    fn surcharge_for_renaming(&mut self) -> u32 {
        let paid = self.renaming.take();
        let cost = as_commands(self.budget.renamed_rooms(), ROOMS_AS_ONE_COMMAND);
        paid.map_or(0, |paid| cost.saturating_sub(paid))
    }

    /// Does not obey what would be too much just now. Who speaks JSON is told when it may say a
    /// message again, as long as it does not go on and on; all else is read later.
    pub(super) fn postpone(
        &mut self,
        request: Request,
        wait: Duration,
        ctx: &mut <Self as Actor>::Context,
    ) {
        let is_json = self.introduction.protocol == Protocol::Json;
        let wait = match request.command {
            Command::Say { .. } if is_json => {
                // To be refused is a command too.
                let Err(wait_to_refuse) = self.place.command(ONE) else {
                    let (event, reference) =
                        (Event::Error(Refusal::too_much_just_now(wait)), request.reference);
                    return self.reply(Reply { event, reference });
                };
                wait_to_refuse
            }
            Command::Say { .. }
            | Command::Hello { .. }
            | Command::Nick { .. }
            | Command::Join { .. }
            | Command::Leave { .. }
            | Command::Who { .. }
            | Command::Typing { .. }
            | Command::History { .. } => wait,
        };
        self.later(wait, ctx, |session, ctx| session.obey(request, ctx));
    }

    /// Tells a client what it has done wrong. That counts as a command: who does nothing else is
    /// read no faster than others.
    pub(super) fn correct(&mut self, mistake: Box<Reply>, ctx: &mut <Self as Actor>::Context) {
        match self.place.command(ONE) {
            Ok(()) => self.reply(*mistake),
            Err(wait) => self.later(wait, ctx, |session, ctx| session.correct(mistake, ctx)),
        }
    }

    /// Does something after a while, and reads nothing in between.
    fn later(
        &mut self,
        wait: Duration,
        ctx: &mut <Self as Actor>::Context,
        act: impl FnOnce(&mut Self, &mut <Self as Actor>::Context) + 'static,
    ) {
        self.hold();
        ctx.run_later(wait + CLOCKS_DIFFER, |session, ctx| {
            session.held = false;
            act(session, ctx);
            if !session.held {
                session.go_on(ctx);
            }
        });
    }
}
