//! The session: one actor for each WebSocket. Its inbound half reads what the peer sends and
//! passes it on to the hub, one command after the other; its outbound half collects what the hub
//! delivers and writes it in as few WebSocket messages as it can. It pings, and it unregisters
//! exactly once, however it ends.

mod heartbeat;
mod postpone;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web_actors::ws::{self, WebsocketContext};
use bytestring::ByteString;
use log::debug;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::admission::Place;
use crate::config::Config;
use crate::domain::{ClientId, Identity, Nick, RoomName};
use crate::hub::{
    Broadcast, CatchUp, Deliver, Hello, History, Hub, Join, Leave, Outlet, QueueBudget, Register,
    Typing, Unregister, Who,
};
use crate::socket::{DisconnectReason, Incoming, Socket, TextFrame};
use crate::wire::{Command, ErrorCode, Event, Protocol, Refusal, Reply, Request, json, text};
use heartbeat::first_heartbeat;

/// What the request for a session said of it.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) client: ClientId,
    pub(crate) protocol: Protocol,
    pub(crate) nick: Nick,
    /// Where who speaks plain text is, and how much it wants to be told first.
    pub(crate) room: RoomName,
    pub(crate) history: usize,
}

/// The actor of one connection.
pub(crate) struct Session {
    socket: Socket,
    config: Arc<Config>,
    introduction: Introduction,
    /// Until the end.
    registration: Option<Registration>,
    budget: QueueBudget,
    place: Place,
    /// Whose messages these are, as far as it counts how many.
    speaker: Identity,
    /// Room for what the client has said and the hub has not accepted yet, by [`weight`].
    backlog: Option<Arc<Semaphore>>,
    /// What the peer has sent and is not obeyed yet. It is read no further meanwhile.
    inbox: Option<ByteString>,
    /// Whether the next command has to wait for the hub.
    held: bool,
    /// Whether it has said `hello`, where it must.
    greeted: bool,
    /// The surcharge that was paid for a change of name which the hub has not answered yet.
    renaming: Option<u32>,
    /// When others were last told that it is typing.
    typed: Option<Instant>,
}

/// How often others are told that somebody is typing, at most.
const TYPING_INTERVAL: Duration = Duration::from_secs(3);

/// What a message counts for in its sender's backlog, in bytes: its text, and about what the hub
/// needs to hold it.
fn weight(text_bytes: usize) -> u32 {
    u32::try_from(text_bytes.saturating_add(256)).unwrap_or(u32::MAX)
}

impl Session {
    pub(crate) fn new(
        introduction: Introduction,
        socket: Socket,
        place: Place,
        hub: Arc<Addr<Hub>>,
        config: Arc<Config>,
    ) -> Self {
        let client = introduction.client;
        let budget = QueueBudget::at_most(config.send_queue_bytes, config.send_queue);
        let mut socket = socket;
        socket.set_budget(budget.budget());
        Self {
            socket,
            introduction,
            registration: Some(Registration { client, hub, reason: DisconnectReason::Dropped }),
            budget,
            place,
            speaker: Identity::of_client(client),
            config,
            backlog: None,
            inbox: None,
            held: false,
            greeted: false,
            renaming: None,
            typed: None,
        }
    }

    /// The end, seen or made: the hub is told why.
    fn ended(&mut self, reason: DisconnectReason) {
        if let Some(mut registration) = self.registration.take() {
            registration.reason = reason;
        }
    }

    fn close(&mut self, reason: DisconnectReason, ctx: &mut WebsocketContext<Self>) {
        self.socket.close(reason, ctx);
        self.ended(reason);
    }
}

impl Actor for Session {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.send_queue);
        let Introduction { client, protocol, nick, room, history } = self.introduction.clone();
        let to = ctx.address().recipient();
        let to = Outlet::new(to, self.budget.clone(), self.socket.cutoff(), self.place.source());
        let events = protocol == Protocol::Json;
        debug!("client {client} has come as {nick}");
        self.tell(Register { client, nick, events, to }, ctx);
        match protocol {
            Protocol::Text => {
                let catch_up = CatchUp::Latest(history);
                self.ask(Join { client, room, catch_up, reference: None }, ctx);
            }
            Protocol::Json => {
                ctx.run_later(self.config.hello_timeout, |session, ctx| {
                    if !session.greeted {
                        session.close(DisconnectReason::NoHello, ctx);
                    }
                });
            }
        }
        let interval = self.config.ping_interval;
        ctx.run_interval_at(first_heartbeat(client, interval), interval, Self::heartbeat);
    }
}

/// Inbound: from the peer to the hub.
impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Session {
    fn handle(&mut self, item: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        match self.socket.receive(item, ctx) {
            Incoming::Text(frame) => {
                self.inbox = Some(frame);
                self.proceed(ctx);
            }
            Incoming::Binary(_) => self.close(DisconnectReason::Unsupported, ctx),
            Incoming::Nothing if self.socket.is_ending() => {}
            Incoming::Nothing => self.count_blank(ctx),
            Incoming::Ended(reason) => self.ended(reason),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        if let Incoming::Ended(reason) = self.socket.finished(ctx) {
            self.ended(reason);
        }
    }
}

impl Session {
    /// Obeys what has come, as far as it can without waiting for the hub.
    fn proceed(&mut self, ctx: &mut WebsocketContext<Self>) {
        while !self.held
            && !self.socket.is_ending()
            && let Some(frame) = self.inbox.take()
        {
            if self.socket.is_full() {
                // Who does not take answers must not cause more of them.
                self.inbox = Some(frame);
                self.hold();
                ctx.spawn(self.socket.room().into_actor(self).map(|(), session, ctx| {
                    session.go_on(ctx);
                }));
                return;
            }
            let max_bytes = self.config.max_message_bytes;
            match self.introduction.protocol {
                Protocol::Text => match text::decode(&frame, &self.introduction.room, max_bytes) {
                    Ok(Some(command)) => self.obey(Request { command, reference: None }, ctx),
                    Ok(None) => self.count_blank(ctx),
                    Err(_) => self.close(DisconnectReason::TooBig, ctx),
                },
                Protocol::Json => {
                    // Blank lines are no commands, and there may be thousands of them.
                    let lines = frame.trim_ascii_start();
                    let (line, rest) = lines.split_once('\n').unwrap_or((lines, ""));
                    let line = json::decode(line, max_bytes);
                    let rest = rest.trim_ascii_start();
                    self.inbox = (!rest.is_empty()).then(|| frame.slice_ref(rest));
                    match line {
                        Ok(Some(request)) => self.obey(request, ctx),
                        Ok(None) => self.count_blank(ctx),
                        Err(mistake) => self.correct(mistake, ctx),
                    }
                }
            }
        }
    }

    fn obey(&mut self, request: Request, ctx: &mut WebsocketContext<Self>) {
        if let Err(wait) = self.count(&request.command) {
            return self.postpone(request, wait, ctx);
        }
        let Request { command, reference } = request;
        let client = self.introduction.client;
        let is_hello = matches!(command, Command::Hello { .. });
        if self.introduction.protocol == Protocol::Json && !self.greeted && !is_hello {
            let refusal = Refusal::new(ErrorCode::HelloFirst, "say hello first");
            return self.reply(Reply { event: Event::Error(refusal), reference });
        }
        match command {
            Command::Hello { nick, identity } => {
                self.greeted = true;
                self.speaker = identity.unwrap_or(self.speaker);
                self.ask(Hello { client, nick, identity, reference }, ctx);
            }
            Command::Nick { nick } => {
                self.ask(Hello { client, nick: Some(nick), identity: None, reference }, ctx);
            }
            Command::Join { room, after } => {
                let catch_up = after.map_or(CatchUp::Latest(CatchUp::LATEST), CatchUp::After);
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
            Command::History { room, before, limit } => {
                self.ask(History { client, room, before, limit, reference }, ctx);
            }
            Command::Say { room, text, id } => {
                let weight = weight(text.as_str().len());
                self.say(weight, ctx, move |permit| Broadcast {
                    client,
                    room,
                    text,
                    id,
                    reference,
                    permit,
                });
            }
        }
    }

    /// Broadcasts, once the backlog has room for it, and reads no further until it has: so a client
    /// that says more than the hub accepts feels it in its TCP. Deliveries and timers go on
    /// meanwhile, which they would not under `ctx.wait`.
    fn say(
        &mut self,
        weight: u32,
        ctx: &mut WebsocketContext<Self>,
        broadcast: impl FnOnce(OwnedSemaphorePermit) -> Broadcast + 'static,
    ) {
        // It holds one message of any length, or several short ones.
        let whole = self::weight(self.config.max_message_bytes) as usize;
        let backlog = self.backlog.get_or_insert_with(|| Arc::new(Semaphore::new(whole)));
        match Arc::clone(backlog).try_acquire_many_owned(weight) {
            Ok(permit) => self.tell(broadcast(permit), ctx),
            Err(_) => {
                let permit = Arc::clone(backlog).acquire_many_owned(weight);
                self.hold();
                ctx.spawn(permit.into_actor(self).map(|permit, session, ctx| {
                    session.tell(broadcast(permit.expect("it is never closed")), ctx);
                    session.go_on(ctx);
                }));
            }
        }
    }

    /// Sends the hub what it answers, and reads no further until it has.
    fn ask<M>(&mut self, question: M, ctx: &mut WebsocketContext<Self>)
    where
        M: Message<Result: Send> + Send + 'static,
        Hub: Handler<M>,
    {
        self.hold();
        self.tell(question, ctx);
    }

    fn tell<M>(&mut self, message: M, ctx: &mut WebsocketContext<Self>)
    where
        M: Message<Result: Send> + Send + 'static,
        Hub: Handler<M>,
    {
        let Some(Registration { hub, .. }) = &self.registration else { return };
        hub.do_send(message);
        if !hub.connected() {
            self.close(DisconnectReason::Internal, ctx);
        }
    }

    fn hold(&mut self) {
        self.held = true;
        self.socket.pause();
    }

    fn go_on(&mut self, ctx: &mut WebsocketContext<Self>) {
        self.held = false;
        self.proceed(ctx);
        if !self.held {
            self.socket.resume();
        }
    }

    fn heartbeat(&mut self, ctx: &mut WebsocketContext<Self>) {
        if self.socket.is_ending() {
            return;
        }
        if self.socket.is_silent(self.config.pong_timeout) {
            self.close(DisconnectReason::NoPong, ctx);
        } else {
            self.socket.ping();
        }
    }
}

/// Outbound: from the hub to the peer.
impl Handler<Deliver> for Session {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, ctx: &mut Self::Context) {
        let amount = QueueBudget::amount(&deliver);
        if matches!(deliver, Deliver::Answer(_)) {
            // The client has asked for it, and is answered nothing else before it has gone. What
            // others say meanwhile must have its place in the queue.
            self.budget.release(amount);
            self.take(deliver, ctx);
        } else {
            self.take(deliver, ctx);
            self.socket.release(amount);
        }
    }
}

impl Session {
    fn take(&mut self, deliver: Deliver, ctx: &mut WebsocketContext<Self>) {
        if self.socket.is_ending() {
            return;
        }
        match deliver {
            // What is written while the mailbox drains goes out together.
            Deliver::Batch(_) | Deliver::Batches(_) => {
                let protocol = self.introduction.protocol;
                for batch in deliver.batches() {
                    self.config.metrics.lagged(batch.accepted().elapsed());
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
                self.told(*reply, ctx);
                self.count_answer(bytes, ctx);
                if !self.held {
                    self.go_on(ctx);
                }
            }
            Deliver::Direct(replies) => {
                replies.into_iter().for_each(|reply| self.told(reply, ctx));
            }
            Deliver::Close(reason) => self.close(reason, ctx),
        }
    }

    fn told(&mut self, reply: Reply, ctx: &mut WebsocketContext<Self>) {
        match (self.introduction.protocol, reply.event) {
            (Protocol::Json, event) => self.reply(Reply { event, ..reply }),
            (Protocol::Text, Event::Joined { messages, .. }) => {
                let lines = messages.into_iter().enumerate();
                self.socket.write_parts(lines.map(|(n, message)| {
                    let line = text::line(&message);
                    if n == 0 { line } else { format!("\n{line}") }
                }));
            }
            // Plain text has no other way to say so.
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
                | Event::Members { .. }
                | Event::Left { .. }
                | Event::History { .. }
                | Event::Said { .. },
            ) => {}
        }
    }

    fn reply(&mut self, reply: Reply) {
        if let Event::Error(refusal) = &reply.event {
            self.config.metrics.erred(refusal.code);
        }
        if matches!(reply.event, Event::Joined { .. } | Event::History { .. }) {
            self.socket.write_parts(json::reply_parts(reply));
        } else {
            self.socket.write(TextFrame::new(&json::reply(&reply)));
        }
    }
}

/// The session's entry in the hub's registry. It is given back when this is dropped, and so also
/// when the connection's task is, or when a handler panics.
struct Registration {
    client: ClientId,
    /// Shared by all sessions: each `Addr` allocates 100 bytes of its own.
    hub: Arc<Addr<Hub>>,
    reason: DisconnectReason,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        let reason = if panicked { DisconnectReason::Panicked } else { self.reason };
        self.hub.do_send(Unregister { client: self.client, reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Places;
    use crate::socket::Options;
    use std::net::Ipv4Addr;
    use std::sync::mpsc;

    use actix_web::{App, HttpRequest, web};
    use futures_util::{SinkExt, StreamExt};

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Stumble;

    impl Handler<Stumble> for Session {
        type Result = ();

        fn handle(&mut self, _: Stumble, _: &mut Self::Context) {
            panic!("the test makes the session panic");
        }
    }

    #[derive(Message)]
    #[rtype(result = "u64")]
    struct Panicked;

    impl Handler<Panicked> for Hub {
        type Result = u64;

        fn handle(&mut self, _: Panicked, _: &mut Self::Context) -> u64 {
            self.disconnects(DisconnectReason::Panicked)
        }
    }

    #[actix_web::test]
    async fn a_session_that_panics_is_unregistered_and_others_go_on() {
        let config = Arc::new(Config::default());
        let hub = Arc::new(Hub::start_in(&Arbiter::new(), &config));
        let (starts, started) = mpsc::channel();
        let session_hub = Arc::clone(&hub);
        let websocket = move |req: HttpRequest, payload: web::Payload| {
            let client = ClientId::next();
            let nick = Nick::anonymous(client);
            let (protocol, room) = (Protocol::Text, RoomName::default());
            let options = Options::new(100);
            let introduction = Introduction { client, protocol, nick, room, history: 0 };
            let upgraded = crate::socket::upgrade(&req, payload, options, |socket| {
                let place = Places::of(&config).take(Ipv4Addr::LOCALHOST.into());
                let place = place.expect("there is no limit");
                Session::new(
                    introduction,
                    socket,
                    place,
                    Arc::clone(&session_hub),
                    Arc::clone(&config),
                )
            });
            let response = upgraded.map(|(session, response)| {
                starts.send(session).expect("the test waits for it");
                response
            });
            async { response }
        };
        let mut server =
            actix_test::start(move || App::new().route("/", web::get().to(websocket.clone())));
        let mut client = server.ws().await.expect("a first client");
        let mut other = server.ws().await.expect("a second client");
        let session = started.recv().expect("the first session");
        session.do_send(Stumble);

        let watch = tokio::time::timeout(Duration::from_secs(20), async {
            while let Some(Ok(_)) = client.next().await {}
            while hub.send(Panicked).await != Ok(1) {
                tokio::task::yield_now().await;
            }
            other.send(awc::ws::Message::Text("on".into())).await.expect("it is connected");
            while !matches!(other.next().await, Some(Ok(awc::ws::Frame::Text(_)))) {}
        });
        watch.await.expect("within 20 seconds");
    }
}
