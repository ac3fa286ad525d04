//! Rate limits of a session. What exceeds a rate is delayed, and nothing more is read from the
//! client until it is done. So nothing is lost, and TCP slows the client down.

use std::num::NonZeroU32;
use std::time::Duration;

use actix::prelude::*;

use super::Session;
use crate::protocol::{Command, Event, Protocol, Refusal, Reply, Request};

const ONE: NonZeroU32 = NonZeroU32::MIN;

/// The number of commands that a search counts as. A search takes milliseconds, at most a second.
const SEARCH_COST: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

/// The number of rooms in which a change of name counts as another command.
const ROOMS_PER_COMMAND: usize = 10;

/// The part of an answer that counts as another command, in bytes.
const ANSWER_BYTES_PER_COMMAND: usize = 16 * 1024;

/// The greatest difference between the limiter's clock and the timer's. A retry that comes too
/// early would wait and be counted again.
const CLOCK_DIFFERENCE: Duration = Duration::from_millis(1);

/// Returns how many commands an amount counts as.
fn commands(amount: usize, per_command: usize) -> u32 {
    // No burst is larger than this.
    u32::try_from(amount / per_command).unwrap_or(u32::MAX).min(1 << 20)
}

impl Session {
    /// Counts a command.
    ///
    /// # Errors
    /// Returns how long the command must wait if it exceeds a rate.
    pub(super) fn count(&mut self, command: &Command) -> Result<(), Duration> {
        if let Some(bytes) = command.published_bytes() {
            return self.permit.count_message(self.identity, bytes);
        }
        if matches!(command, Command::Search { .. }) {
            return self.permit.count_command(SEARCH_COST);
        }
        if !matches!(command, Command::Hello { .. } | Command::Nick { .. }) {
            return self.permit.count_command(ONE);
        }
        // The hub checks every room and notifies its members.
        let rooms = commands(self.queue.rooms(), ROOMS_PER_COMMAND);
        self.renaming = Some(rooms);
        self.permit.count_command(ONE.saturating_add(rooms))
    }

    /// Counts a frame without a command, such as a ping, as a command. Reads the next frame later
    /// if that exceeds a rate.
    pub(super) fn count_empty(&mut self, ctx: &mut <Self as Actor>::Context) {
        if let Err(wait) = self.permit.count_command(ONE) {
            self.run_after(wait, ctx, Self::count_empty);
        }
    }

    /// Counts a long answer as several commands, since a short command may ask for megabytes. Reads
    /// the next command later if that exceeds a rate.
    pub(super) fn count_answer(&mut self, bytes: usize, ctx: &mut <Self as Actor>::Context) {
        let cost = commands(bytes, ANSWER_BYTES_PER_COMMAND) + self.rest_of_renaming();
        if let Some(cost) = NonZeroU32::new(cost) {
            self.count_cost(cost, ctx);
        }
    }

    fn count_cost(&mut self, cost: NonZeroU32, ctx: &mut <Self as Actor>::Context) {
        if let Err(wait) = self.permit.count_command(cost) {
            self.run_after(wait, ctx, move |session, ctx| session.count_cost(cost, ctx));
        }
    }

    /// Returns the cost of a change of name that is not counted yet. Only the hub knows the rooms
    /// of the identity's other clients.
    fn rest_of_renaming(&mut self) -> u32 {
        let counted = self.renaming.take();
        let cost = commands(self.queue.renamed_rooms(), ROOMS_PER_COMMAND);
        counted.map_or(0, |counted| cost.saturating_sub(counted))
    }

    /// Handles a command that exceeds a rate. A message or change by a client of the JSON protocol
    /// is rejected with the time after which it may be sent again, unless rejections exceed a rate,
    /// too. Everything else is delayed.
    pub(super) fn throttle(
        &mut self,
        request: Request,
        mut wait: Duration,
        ctx: &mut <Self as Actor>::Context,
    ) {
        let is_json = self.params.protocol == Protocol::Json;
        if is_json && request.command.published_bytes().is_some() {
            // A rejection counts as a command.
            let Err(wait_to_reject) = self.permit.count_command(ONE) else {
                let (event, reference) =
                    (Event::Error(Refusal::rate_limited(wait)), request.reference);
                return self.reply(Reply { event, reference });
            };
            wait = wait_to_reject;
        }
        self.run_after(wait, ctx, |session, ctx| session.handle_command(request, ctx));
    }

    /// Answers an invalid line with an error. The line counts as a command, so that a client that
    /// sends nothing else is not read faster than others.
    pub(super) fn reject(&mut self, error: Box<Reply>, ctx: &mut <Self as Actor>::Context) {
        match self.permit.count_command(ONE) {
            Ok(()) => self.reply(*error),
            Err(wait) => self.run_after(wait, ctx, |session, ctx| session.reject(error, ctx)),
        }
    }

    /// Runs an action after a time, and reads nothing from the client meanwhile.
    fn run_after(
        &mut self,
        wait: Duration,
        ctx: &mut <Self as Actor>::Context,
        action: impl FnOnce(&mut Self, &mut <Self as Actor>::Context) + 'static,
    ) {
        self.hold();
        ctx.run_later(wait + CLOCK_DIFFERENCE, |session, ctx| {
            session.held = false;
            action(session, ctx);
            if !session.held {
                session.go_on(ctx);
            }
        });
    }
}
