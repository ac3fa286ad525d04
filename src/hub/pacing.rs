//! When a room is flushed: at once if it has been idle, else no sooner than its size allows, so
//! that a busy room sends its members few large batches in place of many small ones, and a huge
//! room slows down in place of drowning. And when a sender's message counts as accepted: at once,
//! unless the room already holds as much as one flush should carry.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Hub;
use super::room::{Pending, Sender, Taken};
use crate::domain::{Draft, MessageText, Nick, Origin, RoomName};

/// The wait between two flushes of a room, for each member.
const WAIT_PER_MEMBER: Duration = Duration::from_micros(50);

/// What writing to one member is known to take on one worker.
const WRITE_PER_MEMBER: Duration = Duration::from_micros(10);

/// What a room may hold before its senders wait for the flush, in bytes of text and in messages.
const MAX_PENDING_BYTES: usize = 64 * 1024;
const MAX_PENDING_MESSAGES: usize = 4096;

/// What goes to the log together, in bytes of text: somebody may be in all those rooms, and has
/// to take it in one go.
const MAX_APPEND_BYTES: usize = 256 * 1024;

/// What all rooms together may hold before all senders wait, in bytes of text: rooms wait for
/// each other when the log is slow.
const MAX_PENDING_BYTES_IN_ALL: usize = 8 * 1024 * 1024;

/// The rooms that wait to be flushed, and for how long rooms do.
pub(super) struct Pacing {
    window: Duration,
    workers: u32,
    due: BinaryHeap<Reverse<(Instant, Due, RoomName)>>,
    /// What all rooms hold, in bytes of text.
    pub(super) pending_bytes: usize,
}

/// What is due in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Flush,
    News,
}

impl Pacing {
    pub(super) fn new(window: Duration, workers: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        Self { window, workers, due: BinaryHeap::new(), pending_bytes: 0 }
    }

    /// Notes when a room is to be told who has come and gone.
    pub(super) fn tell_news_at(&mut self, at: Instant, name: &RoomName) {
        self.due.push(Reverse((at, Due::News, name.clone())));
    }

    /// How long after a flush the next one of a room with so many members waits.
    pub(super) fn wait(&self, members: usize) -> Duration {
        if self.window.is_zero() {
            return Duration::ZERO;
        }
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        let fitting = WAIT_PER_MEMBER.saturating_mul(members).min(self.window);
        fitting.max(WRITE_PER_MEMBER.saturating_mul(members) / self.workers)
    }
}

impl Hub {
    /// Puts what somebody says by for the room's next flush.
    pub(super) fn say(
        &mut self,
        name: &RoomName,
        nick: Nick,
        text: MessageText,
        origin: Option<Origin>,
        sender: Option<Sender>,
    ) {
        let room = self.rooms.entry(name.clone()).or_default();
        let attributed = !nick.is_anonymous() || room.reads_as_a_members(text.as_str());
        let draft = Draft { room: name.clone(), nick, text, attributed, origin };
        self.pacing.pending_bytes += room.push(Pending { draft, sender, accepted: Instant::now() });
        self.flush_when_due(name);
    }

    /// Flushes a room now, if that is due, and else notes when it will be.
    pub(super) fn flush_when_due(&mut self, name: &RoomName) {
        let now = Instant::now();
        // Timers run only when the mailbox is empty, which that of a busy hub hardly ever is.
        self.flush_due(now);
        let Some(room) = self.rooms.get_mut(name) else { return };
        if room.pending.is_empty() || std::mem::replace(&mut room.scheduled, true) {
            return;
        }
        if room.next_flush <= now {
            self.flush(name);
        } else {
            self.pacing.due.push(Reverse((room.next_flush, Due::Flush, name.clone())));
        }
    }

    /// Takes what is pending in the rooms that wait for the log: as much as goes together.
    pub(super) fn take_waiting(&mut self) -> Taken {
        let mut all = Taken::default();
        let before = self.pacing.pending_bytes;
        while all.pending.len() < MAX_PENDING_MESSAGES
            && before - self.pacing.pending_bytes < MAX_APPEND_BYTES
            && let Some(name) = self.log.waiting.pop_front()
        {
            let taken = self.take_pending(&name);
            all.pending.extend(taken.pending);
            all.asked.extend(taken.asked);
        }
        all
    }

    /// Takes what is pending in a room, and what is to be answered after it.
    pub(super) fn take_pending(&mut self, name: &RoomName) -> Taken {
        let Some(room) = self.rooms.get_mut(name) else { return Taken::default() };
        room.next_flush = Instant::now() + self.pacing.wait(room.members.len());
        room.in_flight |= !room.pending.is_empty();
        self.pacing.pending_bytes -= room.pending_bytes;
        room.take_pending()
    }

    /// Flushes the rooms whose time has come, and tells others who has come and gone.
    fn flush_due(&mut self, now: Instant) {
        let (mut flushes, mut news) = (Vec::new(), Vec::new());
        while let Some(Reverse((at, ..))) = self.pacing.due.peek()
            && *at <= now
            && let Some(Reverse((_, due, name))) = self.pacing.due.pop()
        {
            match due {
                Due::Flush => flushes.push(name),
                Due::News => news.push(name),
            }
        }
        if !news.is_empty() {
            self.tell_news(&news);
        }
        for name in &flushes {
            self.flush(name);
        }
    }

    /// Accepts what somebody has just said in a room: now, or if the room holds as much as one
    /// flush should carry, when it is flushed or forgotten.
    pub(super) fn accept(&mut self, name: &RoomName, permit: OwnedSemaphorePermit) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let is_full = room.pending_bytes >= MAX_PENDING_BYTES
            || room.pending.len() >= MAX_PENDING_MESSAGES
            || self.pacing.pending_bytes >= MAX_PENDING_BYTES_IN_ALL;
        if is_full && !room.pending.is_empty() {
            room.unaccepted.push(permit);
        }
    }
}

/// The hub's one timer, over all rooms that wait. The hub's context polls it whenever its mailbox
/// is empty, so it sees what has been scheduled since.
pub(super) struct FlushTimer(Pin<Box<Sleep>>);

impl FlushTimer {
    pub(super) fn new() -> Self {
        Self(Box::pin(sleep_until(Instant::now())))
    }
}

impl ActorFuture<Hub> for FlushTimer {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        hub: &mut Hub,
        _: &mut Context<Hub>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        loop {
            hub.flush_due(Instant::now());
            let Some(Reverse((at, ..))) = hub.pacing.due.peek() else { return Poll::Pending };
            if self.0.deadline() != *at {
                self.0.as_mut().reset(*at);
            }
            if self.0.as_mut().poll(task).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::domain::{ClientId, MessageText, Nick};
    use crate::hub::room::Room;
    use crate::hub::{Broadcast, CatchUp, Deliver, Join, Register};
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[test]
    fn a_room_waits_by_its_size_up_to_the_window_and_down_to_what_writing_takes() {
        let pacing = Pacing::new(Duration::from_millis(50), 2);
        let waits = [(0, 0), (1, 50), (100, 5_000), (1_000, 50_000), (5_000, 50_000)];
        for (members, micros) in waits {
            assert_eq!(pacing.wait(members), Duration::from_micros(micros), "{members} members");
        }
        assert_eq!(pacing.wait(100_000), Duration::from_millis(500), "writing takes longer");
        assert_eq!(Pacing::new(Duration::ZERO, 2).wait(100_000), Duration::ZERO);
    }

    /// Publishes without a pause, as a busy hub does: no timer can run in between. Says whether a
    /// room is flushed before it is due, and when it is due.
    #[derive(Message)]
    #[rtype(result = "[bool; 2]")]
    struct PublishWithoutPause;

    impl Handler<PublishWithoutPause> for Hub {
        type Result = MessageResult<PublishWithoutPause>;

        fn handle(&mut self, _: PublishWithoutPause, _: &mut Self::Context) -> Self::Result {
            let [busy, other] =
                ["busy", "other"].map(|name| RoomName::parse(name).expect("a room"));
            let nick = Nick::parse("ada").expect("a name");
            let text = || MessageText::parse("hello", 100).expect("a text");
            for room in [&busy, &other] {
                self.rooms.insert(room.clone(), Room::default());
            }
            self.rooms.get_mut(&other).expect("it is there").next_flush =
                Instant::now() + Duration::from_secs(3600);
            let is_flushed =
                |hub: &Self| hub.rooms.get(&other).is_none_or(|room| room.pending.is_empty());
            self.broadcast(&other, &nick, text());
            self.broadcast(&busy, &nick, text());
            let early = is_flushed(self);
            // The hour passes.
            let due = self.pacing.due.drain();
            let due = due.map(|Reverse((_, due, name))| Reverse((Instant::now(), due, name)));
            self.pacing.due = due.collect();
            self.broadcast(&busy, &nick, text());
            MessageResult([early, is_flushed(self)])
        }
    }

    #[actix_web::test]
    async fn a_room_that_is_due_is_flushed_by_what_others_say_when_no_timer_can_run() {
        let hub = Hub::start_in(&Arbiter::new(), &Config::default());
        assert_eq!(hub.send(PublishWithoutPause).await, Ok([false, true]));
    }

    /// Fills a room that is not due for an hour, and says after how many messages a permit of
    /// this semaphore was kept.
    #[derive(Message)]
    #[rtype(result = "usize")]
    struct Fill(Arc<Semaphore>);

    impl Handler<Fill> for Hub {
        type Result = usize;

        fn handle(&mut self, Fill(permits): Fill, _: &mut Self::Context) -> usize {
            let name = RoomName::default();
            let nick = Nick::parse("ada").expect("a name");
            self.rooms.insert(name.clone(), Room::default());
            let room = self.rooms.get_mut(&name).expect("it is there");
            room.next_flush = Instant::now() + Duration::from_secs(3600);
            let mut said = 0;
            while let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
                let text = MessageText::parse("x".repeat(4096), 4096).expect("a text");
                self.broadcast(&name, &nick, text);
                self.accept(&name, permit);
                said += 1;
            }
            said
        }
    }

    /// Makes an end of the waiting.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Relieve;

    impl Handler<Relieve> for Hub {
        type Result = ();

        fn handle(&mut self, _: Relieve, _: &mut Self::Context) {
            self.flush(&RoomName::default());
        }
    }

    struct Deaf;

    impl Actor for Deaf {
        type Context = Context<Self>;
    }

    impl Handler<Deliver> for Deaf {
        type Result = ();

        fn handle(&mut self, _: Deliver, _: &mut Self::Context) {}
    }

    #[actix_web::test]
    async fn permits_of_a_full_room_come_back_when_it_is_flushed() {
        let hub = Hub::start_in(&Arbiter::new(), &Config::default());
        let client = ClientId::next();
        let (room, nick) = (RoomName::default(), Nick::anonymous(client));
        let to = Deaf.start().recipient().into();
        let register = Register { client, nick, events: false, to };
        hub.send(register).await.expect("the hub is there");
        let permits = Arc::new(Semaphore::new(1));
        let filled = hub.send(Fill(Arc::clone(&permits))).await;
        assert_eq!(filled, Ok(MAX_PENDING_BYTES / 4096));
        assert_eq!(permits.available_permits(), 0);
        // The same for what a client says.
        let catch_up = CatchUp::Latest(0);
        let join = Join { client, room: room.clone(), catch_up, reference: None };
        hub.send(join).await.expect("the hub is there");
        permits.add_permits(1);
        let permit = Arc::clone(&permits).try_acquire_owned().expect("it was just added");
        let text = MessageText::parse("one more", 100).expect("a text");
        let said = Broadcast { client, room, text, id: None, reference: None, permit };
        assert_eq!(hub.send(said).await, Ok(Ok(())));
        assert_eq!(permits.available_permits(), 0, "it is not accepted yet");
        hub.send(Relieve).await.expect("the hub is there");
        assert_eq!(permits.available_permits(), 2);
    }
}
