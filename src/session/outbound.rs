//! From the hub to the client: writes what the hub delivers. What is written while the mailbox
//! drains leaves as few WebSocket messages as possible.

use actix::prelude::*;
use actix_web_actors::ws::WebsocketContext;

use super::Session;
use crate::hub::{Deliver, QueueBudget};
use crate::protocol::{DisconnectReason, ErrorCode, Event, Protocol, Refusal, Reply, json, text};
use crate::websocket::{MAX_COALESCED_BYTES, TextFrame};

impl Handler<Deliver> for Session {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, ctx: &mut Self::Context) {
        let amount = QueueBudget::amount(&deliver);
        if matches!(deliver, Deliver::Answer(_)) {
            // Released at once: the client gets no other answer before this one is written, and
            // messages of others must have space in the queue meanwhile.
            self.queue.release(amount);
            self.write(deliver, ctx);
        } else {
            self.write(deliver, ctx);
            self.socket.release(amount);
        }
    }
}

impl Session {
    fn write(&mut self, deliver: Deliver, ctx: &mut WebsocketContext<Self>) {
        if self.socket.is_ending() {
            return;
        }
        match deliver {
            Deliver::Batch(_) | Deliver::Batches(_) => {
                let protocol = self.params.protocol;
                for batch in deliver.batches() {
                    self.config.metrics.observe_delivery_lag(batch.accepted().elapsed());
                    let frames = if self.socket.compresses() {
                        batch.compressed_frames(protocol)
                    } else {
                        batch.frames(protocol)
                    };
                    frames.iter().for_each(|frame| self.socket.write(frame.clone()));
                }
            }
            Deliver::Notices(notices) => {
                notices.iter().for_each(|notice| self.socket.write(notice.frame().clone()));
            }
            Deliver::Answer(reply) => {
                self.held = false;
                let bytes = reply.bytes();
                self.write_reply(*reply, ctx);
                self.count_answer(bytes, ctx);
                if !self.held {
                    self.go_on(ctx);
                }
            }
            Deliver::Direct(replies) => {
                replies.into_iter().for_each(|reply| self.write_reply(reply, ctx));
            }
            Deliver::Close(reason) => self.close(reason, ctx),
        }
    }

    fn write_reply(&mut self, reply: Reply, ctx: &mut WebsocketContext<Self>) {
        match (self.params.protocol, reply.event) {
            (Protocol::Json, event) => self.reply(Reply { event, ..reply }),
            (Protocol::Text, Event::Joined { messages, .. }) => {
                // The text protocol has no changes, and a deleted message has no text to send.
                let lines = messages.into_iter().filter(|message| !message.deleted).enumerate();
                self.socket.write_parts(lines.map(|(n, message)| {
                    let line = text::line(&message);
                    if n == 0 { line } else { format!("\n{line}") }
                }));
            }
            // The text protocol can report errors only by closing.
            (Protocol::Text, Event::Error(Refusal { code: ErrorCode::NickTaken, .. })) => {
                self.close(DisconnectReason::NameTaken, ctx);
            }
            (Protocol::Text, Event::Error(_)) => self.close(DisconnectReason::Busy, ctx),
            (
                Protocol::Text,
                Event::Welcome { .. }
                | Event::Presence { .. }
                | Event::Renamed { .. }
                | Event::Typing { .. }
                | Event::Read { .. }
                | Event::Members { .. }
                | Event::Left { .. }
                | Event::History { .. }
                | Event::Search { .. }
                | Event::Said { .. },
            ) => {}
        }
    }

    /// Writes a reply to a client of the JSON protocol.
    pub(super) fn reply(&mut self, reply: Reply) {
        if let Event::Error(refusal) = &reply.event {
            self.config.metrics.count_error(refusal.code);
        }
        if matches!(reply.event, Event::Joined { .. } | Event::History { .. }) {
            self.socket.write_parts(json::reply_parts(reply));
            return;
        }
        // Not compressed: results contain text of other users.
        let line = json::reply(&reply);
        if line.len() > MAX_COALESCED_BYTES {
            self.socket.write_parts(pieces(line));
        } else {
            self.socket.write(TextFrame::new(&line));
        }
    }
}

/// Splits a long line into pieces, which are sent as fragments of one WebSocket message.
fn pieces(mut rest: String) -> impl Iterator<Item = String> {
    std::iter::from_fn(move || {
        let longest = rest.len().min(MAX_COALESCED_BYTES);
        let end = (0..=longest).rev().find(|end| rest.is_char_boundary(*end))?;
        let next = rest.split_off(end);
        let piece = std::mem::replace(&mut rest, next);
        (!piece.is_empty()).then_some(piece)
    })
}
