//! The session: one actor for each WebSocket. [`inbound`] reads what the client sends and passes it
//! on to the hub. [`outbound`] writes what the hub delivers. [`heartbeat`] pings, and [`throttle`]
//! delays or rejects what exceeds a rate. A session unregisters exactly once, however it ends.

mod heartbeat;
mod inbound;
mod outbound;
mod throttle;

use std::sync::Arc;

use actix::prelude::*;
use actix_web_actors::ws::WebsocketContext;
use bytestring::ByteString;
use log::debug;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::Config;
use crate::domain::{ClientId, Identity, Nick, RoomName};
use crate::hub::{CatchUp, ClientHandle, Hub, Join, QueueBudget, Register, Unregister};
use crate::limits::ConnectionPermit;
use crate::protocol::{DisconnectReason, Protocol};
use crate::websocket::{Close, EndReason, Socket};

/// The parameters of a connection, from its HTTP request.
#[derive(Clone, Debug)]
pub(crate) struct ConnectParams {
    pub(crate) client: ClientId,
    pub(crate) protocol: Protocol,
    pub(crate) nick: Nick,
    /// The room of a client of the text protocol.
    pub(crate) room: RoomName,
    /// The number of earlier messages that a client of the text protocol receives.
    pub(crate) history: usize,
}

/// The actor of one connection.
pub(crate) struct Session {
    socket: Socket,
    config: Arc<Config>,
    params: ConnectParams,
    /// None when the connection has ended.
    registration: Option<Registration>,
    queue: QueueBudget,
    permit: ConnectionPermit,
    /// The identity to which the publish rate applies.
    identity: Identity,
    /// Bounds the messages that the hub has not accepted yet, in bytes of memory.
    backlog: Option<Arc<Semaphore>>,
    /// Received input that is not handled yet. Nothing more is read meanwhile.
    inbox: Option<ByteString>,
    /// Whether input is paused: for the hub, for a rate limit or because the client does not read.
    held: bool,
    /// Whether a client of the JSON protocol has sent `hello`.
    greeted: bool,
    /// The rate-limit cost already counted for a pending change of name.
    renaming: Option<u32>,
    /// The last time at which others were told that the user is typing.
    typed: Option<Instant>,
}

impl Session {
    pub(crate) fn new(
        params: ConnectParams,
        mut socket: Socket,
        permit: ConnectionPermit,
        hub: Arc<Addr<Hub>>,
        config: Arc<Config>,
    ) -> Self {
        let client = params.client;
        let queue = QueueBudget::new(config.send_queue_bytes, config.send_queue);
        socket.set_budget(queue.budget());
        Self {
            socket,
            params,
            registration: Some(Registration { client, hub, reason: DisconnectReason::Dropped }),
            queue,
            permit,
            identity: Identity::of_client(client),
            config,
            backlog: None,
            inbox: None,
            held: false,
            greeted: false,
            renaming: None,
            typed: None,
        }
    }

    /// Unregisters with this reason.
    fn ended(&mut self, reason: DisconnectReason) {
        if let Some(mut registration) = self.registration.take() {
            registration.reason = reason;
        }
    }

    /// Closes the connection and unregisters.
    fn close(&mut self, reason: DisconnectReason, ctx: &mut WebsocketContext<Self>) {
        let close =
            reason.code().map_or_else(Close::without_code, |code| Close::new(code, reason.words()));
        let has_stalled = matches!(reason, DisconnectReason::SlowClient | DisconnectReason::NoPong);
        self.socket.close(if has_stalled { close.discarding() } else { close }, ctx);
        self.ended(reason);
    }

    /// Sends a message to the hub.
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

    /// Reads nothing more from the client until [`Session::go_on`].
    fn hold(&mut self) {
        self.held = true;
        self.socket.pause();
    }

    fn go_on(&mut self, ctx: &mut WebsocketContext<Self>) {
        self.held = false;
        self.handle_inbox(ctx);
        if !self.held {
            self.socket.resume();
        }
    }
}

impl Actor for Session {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.send_queue);
        let ConnectParams { client, protocol, nick, room, history } = self.params.clone();
        let recipient = ctx.address().recipient();
        let force_close = self.socket.force_close();
        let address = self.permit.address();
        let to = ClientHandle::new(recipient, self.queue.clone(), force_close, address);
        let events = protocol == Protocol::Json;
        debug!("client {client} connected as {nick}");
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
        self.start_heartbeat(ctx);
    }
}

impl From<EndReason> for DisconnectReason {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::Left => Self::Left,
            EndReason::Vanished => Self::Vanished,
            EndReason::Protocol => Self::Protocol,
            EndReason::InvalidText => Self::InvalidText,
            EndReason::TooBig => Self::TooBig,
        }
    }
}

/// The session's entry in the hub's registry. Dropping it unregisters the client, even if the
/// connection's task is dropped or a handler panics.
struct Registration {
    client: ClientId,
    /// Shared by all sessions, since each `Addr` allocates 100 bytes.
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
    use crate::limits::ConnectionLimiter;
    use crate::websocket::{self, Options};
    use std::net::Ipv4Addr;
    use std::sync::mpsc;
    use std::time::Duration;

    use actix_web::{App, HttpRequest, web};
    use futures_util::{SinkExt, StreamExt};

    #[derive(Message)]
    #[rtype(result = "()")]
    struct PanicNow;

    impl Handler<PanicNow> for Session {
        type Result = ();

        fn handle(&mut self, _: PanicNow, _: &mut Self::Context) {
            panic!("the test makes the session panic");
        }
    }

    #[derive(Message)]
    #[rtype(result = "u64")]
    struct CountPanicked;

    impl Handler<CountPanicked> for Hub {
        type Result = u64;

        fn handle(&mut self, _: CountPanicked, _: &mut Self::Context) -> u64 {
            self.disconnects(DisconnectReason::Panicked)
        }
    }

    #[test]
    fn close_frame_of_the_websocket_agrees_with_the_reason_of_the_disconnect() {
        for end in [EndReason::Protocol, EndReason::InvalidText, EndReason::TooBig] {
            let reason = DisconnectReason::from(end);
            let (code, text) = end.close_frame().expect("the WebSocket sends a close frame");
            assert_eq!((reason.code(), reason.words()), (Some(code), text));
        }
    }

    #[actix_web::test]
    async fn panicking_session_is_unregistered_and_other_sessions_continue() {
        let config = Arc::new(Config::default());
        let hub = Arc::new(Hub::start_in(&Arbiter::new(), &config));
        let (starts, started) = mpsc::channel();
        let session_hub = Arc::clone(&hub);
        let websocket = move |req: HttpRequest, payload: web::Payload| {
            let client = ClientId::next();
            let nick = Nick::anonymous(client);
            let (protocol, room) = (Protocol::Text, RoomName::default());
            let options = Options::new(100);
            let params = ConnectParams { client, protocol, nick, room, history: 0 };
            let upgraded = websocket::upgrade(&req, payload, options, |socket| {
                let permit = ConnectionLimiter::of(&config).acquire(Ipv4Addr::LOCALHOST.into());
                let permit = permit.expect("there is no limit");
                Session::new(params, socket, permit, Arc::clone(&session_hub), Arc::clone(&config))
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
        session.do_send(PanicNow);

        let unregistered = tokio::time::timeout(Duration::from_secs(20), async {
            while let Some(Ok(_)) = client.next().await {}
            while hub.send(CountPanicked).await != Ok(1) {
                tokio::task::yield_now().await;
            }
            other.send(awc::ws::Message::Text("on".into())).await.expect("it is connected");
            while !matches!(other.next().await, Some(Ok(awc::ws::Frame::Text(_)))) {}
        });
        unregistered.await.expect("within 20 seconds");
    }
}
