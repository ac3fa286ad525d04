//! What a session does with a message that is one too many.

use std::time::Duration;

use actix::prelude::*;

use super::Session;
use crate::wire::{Event, Protocol, Refusal, Reply, Request};

impl Session {
    /// Does not obey what would be too much just now. Who speaks JSON is told when it may come
    /// again; plain text has no way to say so, and is read no further until then.
    pub(super) fn postpone(
        &mut self,
        request: Request,
        wait: Duration,
        ctx: &mut <Self as Actor>::Context,
    ) {
        match self.introduction.protocol {
            Protocol::Json => {
                let refusal = Refusal::too_much_just_now(wait);
                let reference = request.reference;
                self.reply(&Reply { event: Event::Error(refusal), reference });
            }
            Protocol::Text => {
                self.hold();
                ctx.run_later(wait, |session, ctx| {
                    session.held = false;
                    session.obey(request, ctx);
                    if !session.held {
                        session.go_on(ctx);
                    }
                });
            }
        }
    }
}
