//! The hub held against plain lists, step by step: clients that come, go, change their names, talk
//! and stop reading, and a log that answers when it likes, or cannot.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::*;
use chinwag::domain::{
    ClientId, Draft, Epoch, Identity, MessageId, MessageText, Nick, RoomName, Seq, Timestamp,
};
use chinwag::hub::{
    Answer, Append, Appended, Broadcast, CatchUp, Deliver, Hello, History, Join, Leave, ListRooms,
    Log, LogError, Messages, Page, Placed, Probe, Register, Unregister, Who,
};
use chinwag::wire::{Event, Reply};
use chinwag::{Config, Hub};
use proptest::prelude::*;
use proptest::test_runner::Config as Cases;
use tokio::sync::{Semaphore, oneshot};

use crate::harness::within;
use crate::plain_hub::{MAILBOX, PlainClient, PlainHub, TOLD};

const CLIENTS: usize = 4;
const ROOMS: usize = 2;

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

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS;
    let place = || (0..CLIENTS, 0..ROOMS);
    prop_oneof![
        3 => (client(), proptest::option::of(0..2usize), 0..3usize)
            .prop_map(|(client, key, name)| Step::Come { client, key, name }),
        1 => client().prop_map(Step::Go),
        2 => (client(), 0..3usize).prop_map(|(client, name)| Step::Name(client, name)),
        5 => place().prop_map(|(client, room)| Step::Join(client, room)),
        1 => place().prop_map(|(client, room)| Step::Leave(client, room)),
        8 => (place(), proptest::option::of(0..2u8))
            .prop_map(|((client, room), id)| Step::Say(client, room, id)),
        2 => place().prop_map(|(client, room)| Step::Who(client, room)),
        2 => place().prop_map(|(client, room)| Step::History(client, room)),
        2 => client().prop_map(Step::Stall),
        2 => client().prop_map(Step::Wake),
        6 => proptest::bool::weighted(0.8).prop_map(|kept| Step::Land { kept }),
    ]
}

/// A log that answers an append only when it is told to, and a page at once.
#[derive(Default)]
struct Keeper {
    asked: Option<(Vec<Draft>, Answer<Appended>)>,
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
struct Land(bool);

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

/// A client, and all that it was told.
#[derive(Default)]
struct Ear(Vec<String>);

impl Actor for Ear {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Deliver> for Ear {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        for message in deliver.batches().iter().flat_map(|batch| batch.messages()) {
            self.0.push(format!(
                "{} {} {}",
                message.room,
                message.seq.get(),
                message.text.as_str()
            ));
        }
        match deliver {
            Deliver::Answer(reply) => self.0.extend(told(&reply)),
            Deliver::Direct(replies) => self.0.extend(replies.iter().filter_map(told)),
            Deliver::Close(reason) => self.0.push(format!("close {}", reason.label())),
            Deliver::Batch(_) | Deliver::Batches(_) | Deliver::Notice(_) => {}
        }
    }
}

fn told(reply: &Reply) -> Option<String> {
    let texts = |messages: &[Arc<chinwag::domain::ChatMessage>]| {
        messages.iter().map(|message| message.text.as_str().to_owned()).collect::<Vec<_>>()
    };
    let chosen = |members: &[Nick]| {
        let chosen = members.iter().filter(|nick| !nick.is_anonymous());
        chosen.map(Nick::to_string).collect::<Vec<_>>()
    };
    Some(match &reply.event {
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
struct Stall(oneshot::Receiver<()>);

impl Handler<Stall> for Ear {
    type Result = ();

    fn handle(&mut self, Stall(woken): Stall, ctx: &mut Self::Context) {
        ctx.wait(async { drop(woken.await) }.into_actor(self));
    }
}

#[derive(Message)]
#[rtype(result = "Vec<String>")]
struct Told;

impl Handler<Told> for Ear {
    type Result = Vec<String>;

    fn handle(&mut self, _: Told, _: &mut Self::Context) -> Vec<String> {
        self.0.clone()
    }
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
        let (id, ear) = (ClientId::next(), Ear::default().start());
        // Those who are told of others' coming and going, which may be at any time, never stall.
        let events = place % 2 == 0;
        let to = ear.clone().recipient().into();
        self.hub.do_send(Register { client: id, nick: Nick::anonymous(id), events, to });
        self.plain.come(number, PlainClient::new(KEYS + number, events));
        let identity =
            key.map(|key| Identity::of_key(&format!("the secret of key {key}")).unwrap());
        let nick = Some(nick(name));
        self.hub.do_send(Hello { client: id, nick, identity, reference: None });
        self.plain.hello(number, key, name);
        self.players.insert(number, Player { id, ear, stalled: None });
        self.places[place] = Some(number);
    }

    fn go(&mut self, place: usize) {
        if let Some((number, client)) = self.at(place) {
            let reason = chinwag::socket::DisconnectReason::Left;
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
                self.plain.hello(number, None, name);
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
        hub: Hub::start_with_log(&thread, &config, Some(log)),
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

#[test]
fn whatever_clients_do_and_however_slow_the_log_is_all_are_told_what_plain_lists_would_tell() {
    let cases = Cases { cases: 400, failure_persistence: None, ..Cases::default() };
    let steps = proptest::collection::vec(step(), 1..80);
    proptest!(cases, |(steps in steps)| {
        actix_web::rt::System::new().block_on(play(steps));
    });
}
