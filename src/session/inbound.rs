//! From the client to the hub: decodes what the client sends, and passes it on, one command after
//! the other.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web_actors::ws::{self, WebsocketContext};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Session;
use crate::domain::memory_bytes;
use crate::hub::{
    Broadcast, CatchUp, Delete, Edit, Hello, History, Hub, Join, Leave, React, Read, Search,
    SetRoom, Typing, Who,
};
use crate::protocol::{
    Command, DisconnectReason, ErrorCode, Event, Protocol, Refusal, Reply, Request, json, text,
};
use crate::websocket::Incoming;

/// The shortest time between two notices that the user is typing.
const TYPING_INTERVAL: Duration = Duration::from_secs(3);

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Session {
    fn handle(&mut self, item: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        match self.socket.receive(item, ctx) {
            Incoming::Text(frame) => {
                self.inbox = Some(frame);
                self.handle_inbox(ctx);
            }
            Incoming::Binary(_) => self.close(DisconnectReason::Unsupported, ctx),
            Incoming::Nothing if self.socket.is_ending() => {}
            Incoming::Nothing => self.count_empty(ctx),
            Incoming::Ended(reason) => self.ended(reason.into()),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        if let Incoming::Ended(reason) = self.socket.finished(ctx) {
            self.ended(reason.into());
        }
    }
}

impl Session {
    /// Handles what the client has sent, as far as possible without waiting for the hub.
    pub(super) fn handle_inbox(&mut self, ctx: &mut WebsocketContext<Self>) {
        while !self.held
            && !self.socket.is_ending()
            && let Some(frame) = self.inbox.take()
        {
            if self.socket.is_full() {
                // A client that does not read answers must not cause more of them.
                self.inbox = Some(frame);
                self.hold();
                ctx.spawn(self.socket.writable().into_actor(self).map(|(), session, ctx| {
                    session.go_on(ctx);
                }));
                return;
            }
            let max_bytes = self.config.max_message_bytes;
            match self.params.protocol {
                Protocol::Text => match text::decode(&frame, &self.params.room, max_bytes) {
                    Ok(Some(command)) => {
                        self.handle_command(Request { command, reference: None }, ctx);
                    }
                    Ok(None) => self.count_empty(ctx),
                    Err(_) => self.close(DisconnectReason::TooBig, ctx),
                },
                Protocol::Json => {
                    // Skipped at once, since there may be thousands of blank lines.
                    let lines = frame.trim_ascii_start();
                    let (line, rest) = lines.split_once('\n').unwrap_or((lines, ""));
                    let line = json::decode(line, max_bytes);
                    let rest = rest.trim_ascii_start();
                    self.inbox = (!rest.is_empty()).then(|| frame.slice_ref(rest));
                    match line {
                        Ok(Some(request)) => self.handle_command(request, ctx),
                        Ok(None) => self.count_empty(ctx),
                        Err(error) => self.reject(error, ctx),
                    }
                }
            }
        }
    }

    pub(super) fn handle_command(&mut self, request: Request, ctx: &mut WebsocketContext<Self>) {
        if let Err(wait) = self.count(&request.command) {
            return self.throttle(request, wait, ctx);
        }
        let Request { command, reference } = request;
        let client = self.params.client;
        let is_hello = matches!(command, Command::Hello { .. });
        if self.params.protocol == Protocol::Json && !self.greeted && !is_hello {
            let refusal = Refusal::new(ErrorCode::HelloFirst, "the first command must be hello");
            return self.reply(Reply { event: Event::Error(refusal), reference });
        }
        let bytes = command.published_bytes().unwrap_or_default();
        match command {
            Command::Hello { nick, identity } => {
                self.greeted = true;
                self.identity = identity.unwrap_or(self.identity);
                self.ask(Hello { client, nick, identity, reference }, ctx);
            }
            Command::Nick { nick } => {
                self.ask(Hello { client, nick: Some(nick), identity: None, reference }, ctx);
            }
            Command::Join { room, after } => {
                let catch_up =
                    after.map_or(CatchUp::Latest(CatchUp::DEFAULT_COUNT), CatchUp::After);
                self.ask(Join { client, room, catch_up, reference }, ctx);
            }
            Command::Leave { room } => self.ask(Leave { client, room, reference }, ctx),
            Command::Who { room } => self.ask(Who { client, room, reference }, ctx),
            Command::Typing { room } => {
                let now = Instant::now();
                if self.typed.is_none_or(|typed| now - typed >= TYPING_INTERVAL) {
                    self.typed = Some(now);
                    self.tell(Typing { client, room }, ctx);
                }
            }
            Command::Read { room, seq } => {
                self.publish(bytes, ctx, move |permit| Read {
                    client,
                    room,
                    seq,
                    reference,
                    permit,
                });
            }
            Command::History { room, range, limit } => {
                self.ask(History { client, room, range, limit, reference }, ctx);
            }
            Command::Search { query } => self.ask(Search { client, query, reference }, ctx),
            Command::Say { room, text, id, reply_to } => {
                self.publish(bytes, ctx, move |permit| Broadcast {
                    client,
                    room,
                    text,
                    id,
                    reply_to,
                    reference,
                    permit,
                });
            }
            Command::Edit { room, target, text, id } => {
                self.publish(bytes, ctx, move |permit| Edit {
                    client,
                    room,
                    target,
                    text,
                    id,
                    reference,
                    permit,
                });
            }
            Command::Delete { room, target, id } => {
                self.publish(bytes, ctx, move |permit| Delete {
                    client,
                    room,
                    target,
                    id,
                    reference,
                    permit,
                });
            }
            Command::React { room, target, emoji, on, id } => {
                self.publish(bytes, ctx, move |permit| React {
                    client,
                    room,
                    target,
                    emoji,
                    on,
                    id,
                    reference,
                    permit,
                });
            }
            Command::SetRoom { room, topic, id } => {
                self.publish(bytes, ctx, move |permit| SetRoom {
                    client,
                    room,
                    topic,
                    id,
                    reference,
                    permit,
                });
            }
        }
    }

    /// Sends a message, a change or a read mark that counts this many bytes to the hub. If the
    /// backlog is full, waits and reads nothing more, so a client that sends faster than the hub
    /// accepts is slowed down by TCP. Deliveries and timers go on meanwhile, which `ctx.wait` would
    /// prevent.
    fn publish<M>(
        &mut self,
        bytes: usize,
        ctx: &mut WebsocketContext<Self>,
        with_permit: impl FnOnce(OwnedSemaphorePermit) -> M + 'static,
    ) where
        M: Message<Result: Send> + Send + 'static,
        Hub: Handler<M>,
    {
        // The backlog holds one message of any length or several short ones.
        let capacity = memory_bytes(self.config.max_message_bytes);
        let backlog = self.backlog.get_or_insert_with(|| Arc::new(Semaphore::new(capacity)));
        // A topic may need more permits than exist, and would then wait forever.
        let permits = memory_bytes(bytes).min(capacity);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        match Arc::clone(backlog).try_acquire_many_owned(permits) {
            Ok(permit) => self.tell(with_permit(permit), ctx),
            Err(_) => {
                let permit = Arc::clone(backlog).acquire_many_owned(permits);
                self.hold();
                ctx.spawn(permit.into_actor(self).map(|permit, session, ctx| {
                    session.tell(with_permit(permit.expect("it is never closed")), ctx);
                    session.go_on(ctx);
                }));
            }
        }
    }

    /// Sends the hub a request, and reads nothing more until the answer is there.
    pub(super) fn ask<M>(&mut self, request: M, ctx: &mut WebsocketContext<Self>)
    where
        M: Message<Result: Send> + Send + 'static,
        Hub: Handler<M>,
    {
        self.hold();
        self.tell(request, ctx);
    }
}
