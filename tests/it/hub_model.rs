//! The hub compared with the reference hub after each random step: clients connect, disconnect,
//! change their names, send, edit, find and read messages, and stop receiving, and the log answers
//! late or fails.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::*;
use chinwag::domain::{
    ClientId, Identity, MessageId, MessageText, Nick, RoomName, SearchQuery, SearchTerms, Seq,
};
use chinwag::hub::{
    Broadcast, CatchUp, Edit, Hello, History, Join, Leave, ListRooms, Read, Register, Search,
    Unregister, Who,
};
use chinwag::log::Probe;
use chinwag::protocol::HistoryRange;
use chinwag::{Config, Hub};
use proptest::prelude::*;
use proptest::test_runner::Config as Cases;
use tokio::sync::{Semaphore, oneshot};

use crate::fakes::{
    AnswerAppend, AnswerCounts, AnswerSearches, FakeClient, FakeLog, Received, Stall,
    log_with_read_marks_of,
};
use crate::harness::within;
use crate::reference_hub::{MAILBOX_CAPACITY, PAGE_SIZE, ReferenceClient, ReferenceHub};

const CLIENTS: usize = 4;
const ROOMS: usize = 2;
const NAMES: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    /// Connects a new client in a slot. A client that is still in the slot disconnects first.
    Connect {
        slot: usize,
        key: Option<usize>,
        name: usize,
    },
    Disconnect(usize),
    Rename(usize, usize),
    /// Gives a client another identity, with this name or with the name of the identity.
    ChangeIdentity {
        slot: usize,
        key: usize,
        name: Option<usize>,
    },
    Join(usize, usize),
    Leave(usize, usize),
    Say(usize, usize, Option<u8>),
    /// Edits the entry that is this many entries before the last one.
    Edit(usize, usize, usize),
    /// Reads up to the entry that is this many entries before the last one, or after it.
    Read(usize, usize, isize),
    /// Searches for the text of the message that was sent this many texts ago.
    Search(usize, usize),
    Who(usize, usize),
    History(usize, usize),
    /// A client stops receiving.
    Stall(usize),
    /// A stalled client receives again.
    Resume(usize),
    AnswerAppend {
        success: bool,
    },
}

/// Generates steps that change names and members.
fn membership_step() -> BoxedStrategy<Step> {
    let slot = || 0..CLIENTS;
    let slot_and_room = || (0..CLIENTS, 0..ROOMS);
    prop_oneof![
        3 => (slot(), proptest::option::of(0..KEYS), 0..NAMES)
            .prop_map(|(slot, key, name)| Step::Connect { slot, key, name }),
        1 => slot().prop_map(Step::Disconnect),
        2 => (slot(), 0..NAMES).prop_map(|(slot, name)| Step::Rename(slot, name)),
        2 => (slot(), 0..KEYS, proptest::option::of(0..NAMES))
            .prop_map(|(slot, key, name)| Step::ChangeIdentity { slot, key, name }),
        7 => slot_and_room().prop_map(|(slot, room)| Step::Join(slot, room)),
        1 => slot_and_room().prop_map(|(slot, room)| Step::Leave(slot, room)),
        2 => slot_and_room().prop_map(|(slot, room)| Step::Who(slot, room)),
    ]
    .boxed()
}

/// Generates steps of every kind.
fn any_step() -> BoxedStrategy<Step> {
    let slot = || 0..CLIENTS;
    let slot_and_room = || (0..CLIENTS, 0..ROOMS);
    prop_oneof![
        18 => membership_step(),
        8 => (slot_and_room(), proptest::option::of(0..2u8))
            .prop_map(|((slot, room), id)| Step::Say(slot, room, id)),
        4 => (slot_and_room(), 0..6usize)
            .prop_map(|((slot, room), back)| Step::Edit(slot, room, back)),
        6 => (slot_and_room(), -2..8isize)
            .prop_map(|((slot, room), back)| Step::Read(slot, room, back)),
        3 => (slot(), 0..12usize).prop_map(|(slot, back)| Step::Search(slot, back)),
        2 => slot_and_room().prop_map(|(slot, room)| Step::History(slot, room)),
        2 => slot().prop_map(Step::Stall),
        2 => slot().prop_map(Step::Resume),
        6 => proptest::bool::weighted(0.8).prop_map(|success| Step::AnswerAppend { success }),
    ]
    .boxed()
}

struct TestClient {
    id: ClientId,
    actor: Addr<FakeClient>,
    /// Resumes the client when it is dropped.
    stalled: Option<oneshot::Sender<()>>,
}

/// The hub and the reference hub, which process the same steps.
struct Run {
    hub: Addr<Hub>,
    log: Addr<FakeLog>,
    /// All clients so far, by a number that is never reused.
    clients: HashMap<usize, TestClient>,
    /// The number of the client in each slot.
    slots: [Option<usize>; CLIENTS],
    permits: Arc<Semaphore>,
    reference: ReferenceHub,
    last_number: usize,
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

/// How many keys there are. In the reference hub, identities with a key have numbers below this,
/// and identities of single clients have higher numbers.
const KEYS: usize = 2;

impl Run {
    fn next_number(&mut self) -> usize {
        self.last_number += 1;
        self.last_number
    }

    /// Returns the number and the id of the client in a slot.
    fn client(&self, slot: usize) -> Option<(usize, ClientId)> {
        let number = self.slots[slot]?;
        Some((number, self.clients[&number].id))
    }

    fn connect(&mut self, slot: usize, key: Option<usize>, name: usize) {
        self.disconnect(slot);
        let number = self.next_number();
        // Clients with events receive presence at unpredictable times, so they never stall.
        let events = slot.is_multiple_of(2);
        let capacity = if events { 1000 } else { MAILBOX_CAPACITY };
        let (id, actor) = (ClientId::next(), FakeClient::new(capacity).start());
        let to = actor.clone().recipient().into();
        self.hub.do_send(Register { client: id, nick: Nick::anonymous(id), events, to });
        self.reference.connect(number, ReferenceClient::new(KEYS + number, events));
        let (nick, identity) = (Some(nick(name)), key.map(identity));
        self.hub.do_send(Hello { client: id, nick, identity, reference: None });
        self.reference.hello(number, key, Some(name));
        self.clients.insert(number, TestClient { id, actor, stalled: None });
        self.slots[slot] = Some(number);
    }

    fn disconnect(&mut self, slot: usize) {
        if let Some((number, client)) = self.client(slot) {
            let reason = chinwag::protocol::DisconnectReason::Left;
            self.hub.do_send(Unregister { client, reason });
            self.reference.disconnect(number);
        }
        self.slots[slot] = None;
    }

    fn say(&mut self, slot: usize, to: usize, message_id: Option<u8>) {
        let Some((number, client)) = self.client(slot) else { return };
        let text = self.next_number();
        let id = message_id.map(|id| MessageId::parse(&id.to_string()).unwrap());
        self.hub.do_send(Broadcast {
            client,
            room: room(to),
            text: MessageText::parse(format!("t{text}"), 100).unwrap(),
            reply_to: None,
            id,
            reference: None,
            permit: Arc::clone(&self.permits).try_acquire_owned().unwrap(),
        });
        self.reference.say(number, to, text, message_id);
    }

    fn edit(&mut self, slot: usize, to: usize, back: usize) {
        let Some((number, client)) = self.client(slot) else { return };
        let (text, target) = (self.next_number(), self.reference.stored().saturating_sub(back));
        self.hub.do_send(Edit {
            client,
            room: room(to),
            target: Seq::new(target as u64),
            text: MessageText::parse(format!("t{text}"), 100).unwrap(),
            id: None,
            reference: None,
            permit: Arc::clone(&self.permits).try_acquire_owned().unwrap(),
        });
        self.reference.edit(number, to, target, text);
    }

    async fn stall(&mut self, slot: usize) {
        let Some((number, _)) = self.client(slot).filter(|_| slot % 2 == 1) else { return };
        let client = self.clients.get_mut(&number).unwrap();
        if client.stalled.is_none() {
            let (resume, resumed) = oneshot::channel();
            client.stalled = Some(resume);
            client.actor.send(Stall(resumed)).await.unwrap();
            self.reference.clients.get_mut(&number).unwrap().stalled = true;
        }
    }

    fn resume(&mut self, number: usize) {
        self.clients.get_mut(&number).unwrap().stalled = None;
        self.reference.resume(number);
    }

    /// Applies a step to the hub and to the reference hub.
    async fn apply(&mut self, step: Step) {
        let reference = None;
        match step {
            Step::Connect { slot, key, name } => self.connect(slot, key, name),
            Step::Disconnect(slot) => self.disconnect(slot),
            Step::Say(slot, room, message_id) => self.say(slot, room, message_id),
            Step::Edit(slot, room, back) => self.edit(slot, room, back),
            Step::Stall(slot) => self.stall(slot).await,
            Step::Resume(slot) => {
                if let Some((number, _)) = self.client(slot) {
                    self.resume(number);
                }
            }
            Step::AnswerAppend { success } => {
                self.log.do_send(AnswerAppend { success });
                self.reference.answer_append(success);
            }
            Step::Rename(slot, name) => {
                let Some((number, client)) = self.client(slot) else { return };
                self.hub.do_send(Hello {
                    client,
                    nick: Some(nick(name)),
                    identity: None,
                    reference,
                });
                self.reference.hello(number, None, Some(name));
            }
            Step::ChangeIdentity { slot, key, name } => {
                let Some((number, client)) = self.client(slot) else { return };
                let (nick, identity) = (name.map(nick), Some(identity(key)));
                self.hub.do_send(Hello { client, nick, identity, reference });
                self.reference.hello(number, Some(key), name);
            }
            Step::Join(slot, to) => {
                let Some((number, client)) = self.client(slot) else { return };
                let catch_up = CatchUp::Latest(PAGE_SIZE);
                self.hub.do_send(Join { client, room: room(to), catch_up, reference });
                self.reach_log().await;
                within("the counts", self.log.send(AnswerCounts)).await.unwrap();
                self.reference.join(number, to);
            }
            Step::Leave(slot, to) => {
                let Some((number, client)) = self.client(slot) else { return };
                self.hub.do_send(Leave { client, room: room(to), reference });
                self.reference.leave(number, to);
            }
            Step::Read(slot, to, back) => {
                let Some((number, client)) = self.client(slot) else { return };
                let seq = self.reference.stored().saturating_add_signed(-back);
                let permit = Arc::clone(&self.permits).try_acquire_owned().unwrap();
                let room = room(to);
                self.hub.do_send(Read {
                    client,
                    room,
                    seq: Seq::new(seq as u64),
                    reference,
                    permit,
                });
                self.reference.read(number, to, seq);
            }
            Step::Search(slot, back) => {
                let Some((number, client)) = self.client(slot) else { return };
                let text = self.last_number.saturating_sub(back);
                let terms = SearchTerms::parse(&format!("t{text}")).unwrap();
                let query =
                    SearchQuery { terms, room: None, from: None, before: Seq::MAX, limit: 9 };
                self.hub.do_send(Search { client, query, reference });
                self.reach_log().await;
                within("the searches", self.log.send(AnswerSearches)).await.unwrap();
                self.reference.search(number, text);
            }
            Step::Who(slot, to) => {
                let Some((number, client)) = self.client(slot) else { return };
                self.hub.do_send(Who { client, room: room(to), reference });
                self.reference.who(number, to);
            }
            Step::History(slot, to) => {
                let Some((number, client)) = self.client(slot) else { return };
                let (range, limit) = (HistoryRange::Latest, PAGE_SIZE);
                let history = History { client, room: room(to), range, limit, reference };
                self.hub.do_send(history);
                self.reference.history(number, to);
            }
        }
    }

    /// Waits until the hub has sent its requests to the log.
    async fn reach_log(&self) {
        within("the hub", self.hub.send(ListRooms)).await.unwrap();
    }

    /// Waits until the hub has processed everything, and compares what each client has received
    /// with the reference hub.
    async fn check(&self) {
        // A step may lead from the hub to the log and back, and then to another append.
        for _ in 0..2 {
            within("the hub", self.hub.send(ListRooms)).await.unwrap();
            within("the log", self.log.send(Probe)).await.unwrap().unwrap();
        }
        within("the hub", self.hub.send(ListRooms)).await.unwrap();
        for (number, client) in self.clients.iter().filter(|(_, client)| client.stalled.is_none()) {
            let received = within("a client", client.actor.send(Received)).await.unwrap();
            assert_eq!(received, self.reference.clients[number].received, "client {number}");
        }
    }
}

async fn run(steps: Vec<Step>) {
    let (thread, fake_log) = (Arbiter::new(), FakeLog::default().start());
    let log = log_with_read_marks_of(&fake_log);
    // Without a batch window, the hub flushes each message immediately.
    let config = Config { batch_window: std::time::Duration::ZERO, ..Config::default() };
    let mut run = Run {
        hub: Hub::start_with_log(&thread, &config, log),
        log: fake_log,
        clients: HashMap::new(),
        slots: [None; CLIENTS],
        permits: Arc::new(Semaphore::new(1000)),
        reference: ReferenceHub::new(KEYS),
        last_number: 0,
    };
    for step in steps {
        run.apply(step).await;
        run.check().await;
    }
    // In the end the log answers all appends, and all stalled clients resume.
    for _ in 0..2 {
        run.apply(Step::AnswerAppend { success: true }).await;
        run.check().await;
    }
    let numbers: Vec<_> = run.clients.keys().copied().collect();
    numbers.into_iter().for_each(|number| run.resume(number));
    run.check().await;
    thread.stop();
}

/// Runs random sequences of steps.
fn check_steps(step: BoxedStrategy<Step>, cases: u32) {
    let cases = Cases { cases, failure_persistence: None, ..Cases::default() };
    let steps = proptest::collection::vec(step, 1..80);
    proptest!(cases, |(steps in steps)| {
        actix_web::rt::System::new().block_on(run(steps));
    });
}

#[test]
fn clients_receive_what_the_reference_hub_predicts() {
    check_steps(any_step(), 300);
}

#[test]
fn name_and_identity_changes_match_the_reference_hub() {
    check_steps(membership_step(), 500);
}
