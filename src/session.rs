//! The session: one actor for each WebSocket. Its inbound half reads what the peer sends and
//! broadcasts it through the hub; its outbound half collects what the hub delivers and writes it
//! in as few WebSocket messages as it can. It pings, and it unregisters exactly once, however it
//! ends.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use actix::prelude::*;
use actix_web_actors::ws::{self, WebsocketContext};
use log::debug;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::Config;
use crate::domain::{ClientId, MessageText, Nick, RoomName};
use crate::hub::{Broadcast, Deliver, Hub, Outlet, Register, Unregister, Waiting};
use crate::socket::{DisconnectReason, Incoming, Socket, TextFrame};
use crate::wire::{Command, Protocol, text};

/// What the request for a session said of it.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) client: ClientId,
    pub(crate) nick: Nick,
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
    waiting: Waiting,
    /// Room for what the client has said and the hub has not accepted yet, by [`weight`].
    backlog: Option<Arc<Semaphore>>,
}

/// What a message counts for in its sender's backlog, in bytes: its text, and about what the hub
/// needs to hold it.
fn weight(text_bytes: usize) -> u32 {
    u32::try_from(text_bytes.saturating_add(256)).unwrap_or(u32::MAX)
}

/// When a client is pinged first. Those who come together are not pinged together, since that
/// would keep the worker from all else, but in groups, since waking it for each costs more than
/// the ping does: 100 groups to an interval, by a clock that all sessions share.
fn first_heartbeat(client: ClientId, interval: Duration) -> Instant {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    let due = EPOCH.elapsed() + client.part_of(interval);
    let group_nanos = (interval / 100).as_nanos().max(1);
    let late = group_nanos - due.as_nanos() % group_nanos;
    *EPOCH + due + Duration::from_nanos(u64::try_from(late).unwrap_or_default())
}

impl Session {
    pub(crate) fn new(
        introduction: Introduction,
        socket: Socket,
        hub: Addr<Hub>,
        config: Arc<Config>,
    ) -> Self {
        let waiting = Waiting::at_most(config.send_queue_bytes);
        let client = introduction.client;
        let registration = Some(Registration { client, hub, reason: DisconnectReason::Dropped });
        Self { socket, config, introduction, registration, waiting, backlog: None }
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
        let Some(Registration { hub, .. }) = &self.registration else { return };
        let Introduction { client, nick, room, history } = self.introduction.clone();
        debug!("client {client} has come to {room} as {nick}");
        let to = ctx.address().recipient();
        let to = Outlet::new(to, self.waiting.clone(), self.socket.cutoff());
        hub.do_send(Register { client, nick, room, history, to });
        if !hub.connected() {
            return self.close(DisconnectReason::Internal, ctx);
        }
        let interval = self.config.ping_interval;
        ctx.run_interval_at(first_heartbeat(client, interval), interval, Self::heartbeat);
    }
}

/// Inbound: from the peer to the hub.
impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Session {
    fn handle(&mut self, item: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        match self.socket.receive(item, ctx) {
            Incoming::Text(frame) => match text::decode(&frame, self.config.max_message_bytes) {
                Ok(Some(command)) => self.obey(command, ctx),
                Ok(None) => {}
                Err(_) => self.close(DisconnectReason::TooBig, ctx),
            },
            Incoming::Binary(_) => self.close(DisconnectReason::Unsupported, ctx),
            Incoming::Nothing => {}
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
    fn obey(&mut self, command: Command, ctx: &mut WebsocketContext<Self>) {
        match command {
            Command::Say(text) => self.say(text, ctx),
        }
    }

    /// Broadcasts a text, once the backlog has room for it, and reads no further until it has: so a
    /// client that says more than the hub accepts feels it in its TCP. Deliveries and timers go on
    /// meanwhile, which they would not under `ctx.wait`.
    fn say(&mut self, text: MessageText, ctx: &mut WebsocketContext<Self>) {
        // It holds one message of any length, or several short ones.
        let whole = weight(self.config.max_message_bytes) as usize;
        let backlog = self.backlog.get_or_insert_with(|| Arc::new(Semaphore::new(whole)));
        let weight = weight(text.as_str().len());
        match Arc::clone(backlog).try_acquire_many_owned(weight) {
            Ok(permit) => self.broadcast(text, permit, ctx),
            Err(_) => {
                self.socket.pause();
                let permit = Arc::clone(backlog).acquire_many_owned(weight);
                ctx.spawn(permit.into_actor(self).map(|permit, session, ctx| {
                    session.socket.resume();
                    session.broadcast(text, permit.expect("it is never closed"), ctx);
                }));
            }
        }
    }

    fn broadcast(
        &mut self,
        text: MessageText,
        permit: OwnedSemaphorePermit,
        ctx: &mut WebsocketContext<Self>,
    ) {
        let Some(Registration { client, hub, .. }) = &self.registration else { return };
        hub.do_send(Broadcast { client: *client, text, permit });
        if !hub.connected() {
            self.close(DisconnectReason::Internal, ctx);
        }
    }

    fn heartbeat(&mut self, ctx: &mut WebsocketContext<Self>) {
        if self.socket.is_ending() {
            return;
        }
        if self.socket.is_silent(self.config.pong_timeout) {
            self.close(DisconnectReason::NoPong, ctx);
        } else {
            ctx.ping(b"");
        }
    }
}

/// Outbound: from the hub to the peer.
impl Handler<Deliver> for Session {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, ctx: &mut Self::Context) {
        self.waiting.taken(&deliver);
        if self.socket.is_ending() {
            return;
        }
        match deliver {
            // What is written while the mailbox drains goes out together.
            Deliver::Batch(batch) => {
                for frame in batch.frames(Protocol::Text) {
                    self.socket.write(frame.clone());
                }
            }
            Deliver::Direct(message) => self.socket.write(TextFrame::new(&text::line(&message))),
            Deliver::Close(reason) => self.close(reason, ctx),
        }
    }
}

/// The session's entry in the hub's registry. It is given back when this is dropped, and so also
/// when the connection's task is, or when a handler panics.
struct Registration {
    client: ClientId,
    hub: Addr<Hub>,
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
        let hub = Hub::start_in(&Arbiter::new(), &config);
        let (starts, started) = mpsc::channel();
        let session_hub = hub.clone();
        let websocket = move |req: HttpRequest, payload: web::Payload| {
            let client = ClientId::next();
            let nick = Nick::anonymous(client);
            let introduction = Introduction { client, nick, room: RoomName::default(), history: 0 };
            let upgraded = crate::socket::upgrade(&req, payload, 100, |socket| {
                Session::new(introduction, socket, session_hub.clone(), Arc::clone(&config))
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
