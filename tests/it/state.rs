//! The hub held against plain lists, step by step: clients that come, go, change their names, talk
//! and stop reading, and a log that answers when it likes, or cannot.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::*;
use chinwag::domain::{ClientId, Epoch, Identity, MessageId, MessageText, Nick, RoomName, Seq};
use chinwag::hub::{
    Broadcast, CatchUp, Hello, History, Join, Leave, ListRooms, Register, Unregister, Who,
};
use chinwag::log::{Log, Probe};
use chinwag::{Config, Hub};
use proptest::prelude::*;
use proptest::test_runner::Config as Cases;
use tokio::sync::{Semaphore, oneshot};

use crate::harness::within;
use crate::plain_hub::{MAILBOX, PlainClient, PlainHub, TOLD};
use crate::stand_in::{Ear, Keeper, Land, Stall, Told};

const CLIENTS: usize = 4;
const ROOMS: usize = 2;
const NAMES: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    /// A new client takes the place of another, who goes if it is still there.
    Come {
        client: usize,
        key: Option<usize>,
        name: usize,
    },
    Go(usize),
    Name(usize, usize),
    /// A client becomes one of another identity, wherever it is, under this name or the one that
    /// goes with the identity.
    Become {
        client: usize,
        key: usize,
        name: Option<usize>,
    },
    Join(usize, usize),
    Leave(usize, usize),
    Say(usize, usize, Option<u8>),
    Who(usize, usize),
    History(usize, usize),
    /// A client takes nothing any more, or all that waits for it.
    Stall(usize),
    Wake(usize),
    /// The log answers.
    Land {
        kept: bool,
    },
}

/// What changes who is where, and under which name.
fn people() -> BoxedStrategy<Step> {
    let client = || 0..CLIENTS;
    let place = || (0..CLIENTS, 0..ROOMS);
    prop_oneof![
        3 => (client(), proptest::option::of(0..KEYS), 0..NAMES)
            .prop_map(|(client, key, name)| Step::Come { client, key, name }),
        1 => client().prop_map(Step::Go),
        2 => (client(), 0..NAMES).prop_map(|(client, name)| Step::Name(client, name)),
        2 => (client(), 0..KEYS, proptest::option::of(0..NAMES))
            .prop_map(|(client, key, name)| Step::Become { client, key, name }),
        7 => place().prop_map(|(client, room)| Step::Join(client, room)),
        1 => place().prop_map(|(client, room)| Step::Leave(client, room)),
        2 => place().prop_map(|(client, room)| Step::Who(client, room)),
    ]
    .boxed()
}

/// Everything.
fn step() -> BoxedStrategy<Step> {
    let client = || 0..CLIENTS;
    let place = || (0..CLIENTS, 0..ROOMS);
    prop_oneof![
        18 => people(),
        8 => (place(), proptest::option::of(0..2u8))
            .prop_map(|((client, room), id)| Step::Say(client, room, id)),
        2 => place().prop_map(|(client, room)| Step::History(client, room)),
        2 => client().prop_map(Step::Stall),
        2 => client().prop_map(Step::Wake),
        6 => proptest::bool::weighted(0.8).prop_map(|kept| Step::Land { kept }),
    ]
    .boxed()
}

/// Those who play a client.
struct Player {
    id: ClientId,
    ear: Addr<Ear>,
    stalled: Option<oneshot::Sender<()>>,
}

struct Play {
    hub: Addr<Hub>,
    keeper: Addr<Keeper>,
    /// By numbers that are never used again; of each place the one who has it.
    players: HashMap<usize, Player>,
    places: [Option<usize>; CLIENTS],
    permits: Arc<Semaphore>,
    plain: PlainHub,
    counted: usize,
}

fn room(number: usize) -> RoomName {
    RoomName::parse(&format!("r{number}")).unwrap()
}

fn nick(number: usize) -> Nick {
    Nick::parse(&format!("n{number}")).unwrap()
}

fn identity(key: usize) -> Identity {
    Identity::of_key(&format!("the secret of key {key}")).unwrap()
}

/// The numbers of identities that have a key come before those of single clients.
const KEYS: usize = 2;

impl Play {
    fn next(&mut self) -> usize {
        self.counted += 1;
        self.counted
    }

    /// The one who has a place, by number and id.
    fn at(&self, place: usize) -> Option<(usize, ClientId)> {
        let number = self.places[place]?;
        Some((number, self.players[&number].id))
    }

    fn come(&mut self, place: usize, key: Option<usize>, name: usize) {
        self.go(place);
        let number = self.next();
        // Those who are told of others' coming and going, which may be at any time, never stall.
        let events = place.is_multiple_of(2);
        let mailbox = if events { 1000 } else { MAILBOX };
        let (id, ear) = (ClientId::next(), Ear::new(mailbox).start());
        let to = ear.clone().recipient().into();
        self.hub.do_send(Register { client: id, nick: Nick::anonymous(id), events, to });
        self.plain.come(number, PlainClient::new(KEYS + number, events));
        let (nick, identity) = (Some(nick(name)), key.map(identity));
        self.hub.do_send(Hello { client: id, nick, identity, reference: None });
        self.plain.hello(number, key, Some(name));
        self.players.insert(number, Player { id, ear, stalled: None });
        self.places[place] = Some(number);
    }

    fn go(&mut self, place: usize) {
        if let Some((number, client)) = self.at(place) {
            let reason = chinwag::protocol::DisconnectReason::Left;
            self.hub.do_send(Unregister { client, reason });
            self.plain.go(number);
        }
        self.places[place] = None;
    }

    fn say(&mut self, place: usize, to: usize, name: Option<u8>) {
        let Some((number, client)) = self.at(place) else { return };
        let text = self.next();
        let id = name.map(|name| MessageId::parse(&name.to_string()).unwrap());
        self.hub.do_send(Broadcast {
            client,
            room: room(to),
            text: MessageText::parse(format!("t{text}"), 100).unwrap(),
            id,
            reference: None,
            permit: Arc::clone(&self.permits).try_acquire_owned().unwrap(),
        });
        self.plain.say(number, to, text, name);
    }

    async fn stall(&mut self, place: usize) {
        let Some((number, _)) = self.at(place).filter(|_| place % 2 == 1) else { return };
        let player = self.players.get_mut(&number).unwrap();
        if player.stalled.is_none() {
            let (waker, woken) = oneshot::channel();
            player.stalled = Some(waker);
            player.ear.send(Stall(woken)).await.unwrap();
            self.plain.clients.get_mut(&number).unwrap().stalled = true;
        }
    }

    fn wake(&mut self, number: usize) {
        self.players.get_mut(&number).unwrap().stalled = None;
        self.plain.wake(number);
    }

    async fn act(&mut self, step: Step) {
        let who = |play: &Self, place| play.at(place);
        let reference = None;
        match step {
            Step::Come { client, key, name } => self.come(client, key, name),
            Step::Go(client) => self.go(client),
            Step::Say(client, to, name) => self.say(client, to, name),
            Step::Stall(client) => self.stall(client).await,
            Step::Wake(client) => {
                if let Some((number, _)) = who(self, client) {
                    self.wake(number);
                }
            }
            Step::Land { kept } => {
                self.keeper.do_send(Land(kept));
                self.plain.land(kept);
            }
            Step::Name(client, name) => {
                let Some((number, client)) = who(self, client) else { return };
                self.hub.do_send(Hello {
                    client,
                    nick: Some(nick(name)),
                    identity: None,
                    reference,
                });
                self.plain.hello(number, None, Some(name));
            }
            Step::Become { client, key, name } => {
                let Some((number, client)) = who(self, client) else { return };
                let (nick, identity) = (name.map(nick), Some(identity(key)));
                self.hub.do_send(Hello { client, nick, identity, reference });
                self.plain.hello(number, Some(key), name);
            }
            Step::Join(client, to) => {
                let Some((number, client)) = who(self, client) else { return };
                let catch_up = CatchUp::Latest(TOLD);
                self.hub.do_send(Join { client, room: room(to), catch_up, reference });
                self.plain.join(number, to);
            }
            Step::Leave(client, to) => {
                let Some((number, client)) = who(self, client) else { return };
                self.hub.do_send(Leave { client, room: room(to), reference });
                self.plain.leave(number, to);
            }
            Step::Who(client, to) => {
                let Some((number, client)) = who(self, client) else { return };
                self.hub.do_send(Who { client, room: room(to), reference });
                self.plain.who(number, to);
            }
            Step::History(client, to) => {
                let Some((number, client)) = who(self, client) else { return };
                let (before, limit) = (None, TOLD);
                let asked = History { client, room: room(to), before, limit, reference };
                self.hub.do_send(asked);
                self.plain.history(number, to);
            }
        }
    }

    /// Waits until all is quiet, and holds what each client was told against the model.
    async fn check(&self) {
        // From the hub to the log and back, and once more for what that leads to.
        for _ in 0..2 {
            within("the hub", self.hub.send(ListRooms)).await.unwrap();
            within("the log", self.keeper.send(Probe)).await.unwrap().unwrap();
        }
        within("the hub", self.hub.send(ListRooms)).await.unwrap();
        for (number, player) in self.players.iter().filter(|(_, player)| player.stalled.is_none()) {
            let told = within("a client", player.ear.send(Told)).await.unwrap();
            assert_eq!(told, self.plain.clients[number].told, "client {number}");
        }
    }
}

async fn play(steps: Vec<Step>) {
    let (thread, keeper) = (Arbiter::new(), Keeper::default().start());
    let log = Log {
        epoch: Epoch::random(),
        head: Seq::default(),
        append: keeper.clone().recipient(),
        page: keeper.clone().recipient(),
        probe: keeper.clone().recipient(),
    };
    // Everything is due at once.
    let config = Config { batch_window: std::time::Duration::ZERO, ..Config::default() };
    let mut play = Play {
        hub: Hub::start_with_log(&thread, &config, log),
        keeper,
        players: HashMap::new(),
        places: [None; CLIENTS],
        permits: Arc::new(Semaphore::new(1000)),
        plain: PlainHub::default(),
        counted: 0,
    };
    for step in steps {
        play.act(step).await;
        play.check().await;
    }
    // What was under way lands, and who took nothing takes all.
    for _ in 0..2 {
        play.act(Step::Land { kept: true }).await;
        play.check().await;
    }
    let stalled: Vec<_> = play.players.keys().copied().collect();
    stalled.into_iter().for_each(|number| play.wake(number));
    play.check().await;
    thread.stop();
}

fn hold(step: BoxedStrategy<Step>, cases: u32) {
    let cases = Cases { cases, failure_persistence: None, ..Cases::default() };
    let steps = proptest::collection::vec(step, 1..80);
    proptest!(cases, |(steps in steps)| {
        actix_web::rt::System::new().block_on(play(steps));
    });
}

#[test]
fn whatever_clients_do_and_however_slow_the_log_is_all_are_told_what_plain_lists_would_tell() {
    hold(step(), 400);
}

#[test]
fn identities_and_names_that_change_inside_rooms_are_told_as_plain_lists_would_tell() {
    hold(people(), 1500);
}
