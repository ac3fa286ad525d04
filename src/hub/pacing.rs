//! When rooms are flushed. A quiet room is flushed at once. After a flush, the room waits before
//! its next flush; the more members, the longer. So a busy room sends a few large batches instead
//! of many small ones, and a room with very many members is slow but does not overload the workers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::prelude::*;
use tokio::time::{Instant, Sleep, sleep_until};

use super::rooms::WaitingJoinKey;
use super::{ClientHandle, Hub};
use crate::domain::RoomName;

/// The wait between two flushes of a room for each of its members.
const WAIT_PER_MEMBER: Duration = Duration::from_micros(50);

/// The measured time to write to one member on one worker.
const WRITE_PER_MEMBER: Duration = Duration::from_micros(10);

/// The schedule of flushes, presence updates and joins that wait.
pub(super) struct Pacing {
    /// The longest interval between two flushes of a room, unless writing to its members takes
    /// longer. The hub does not wait longer than this between two appends, either.
    pub(super) window: Duration,
    workers: u32,
    /// The number of times that sessions on the hub's thread have had the chance to run. It wraps
    /// around.
    round: u32,
    /// The greatest number of batches for one client in a round: a fraction of the send queue,
    /// since the client may also receive receipts and notices.
    max_batches: u32,
    /// Whether a client has received that many in this round.
    must_pause: bool,
    due: BinaryHeap<Reverse<(Instant, Due)>>,
    /// The pending text of all rooms, in bytes.
    pub(super) pending_bytes: usize,
}

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The flush of a room.
    Flush(RoomName),
    /// The presence update of a room.
    Presence(RoomName),
    /// An append to the log.
    Append,
    /// The answer to a join that waits for an entry.
    Join(WaitingJoinKey),
}

impl Pacing {
    pub(super) fn new(window: Duration, workers: usize, send_queue: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        let max_batches = u32::try_from(send_queue / 4).unwrap_or(u32::MAX);
        let (round, must_pause, due) = (0, false, BinaryHeap::new());
        Self { window, workers, round, max_batches, must_pause, due, pending_bytes: 0 }
    }

    /// Counts a batch for a client.
    pub(super) fn count_batch(&mut self, client: &ClientHandle) {
        self.must_pause |= client.count_batch(self.round) >= self.max_batches;
    }

    /// Schedules the presence update of a room.
    pub(super) fn schedule_presence(&mut self, at: Instant, name: &RoomName) {
        self.due.push(Reverse((at, Due::Presence(name.clone()))));
    }

    /// Schedules the flush of a room.
    pub(super) fn schedule_flush(&mut self, at: Instant, name: &RoomName) {
        self.due.push(Reverse((at, Due::Flush(name.clone()))));
    }

    /// Schedules an append to the log.
    pub(super) fn schedule_append(&mut self, at: Instant) {
        self.due.push(Reverse((at, Due::Append)));
    }

    /// Schedules the answer to a join that waits for an entry.
    pub(super) fn schedule_join(&mut self, at: Instant, key: WaitingJoinKey) {
        self.due.push(Reverse((at, Due::Join(key))));
    }

    /// Returns how long the next flush of a room waits after a flush.
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
    /// Flushes some due rooms. Then flushes this room if it is due. Otherwise schedules its flush.
    pub(super) fn flush_when_due(&mut self, name: &RoomName) {
        let now = Instant::now();
        // Timers run only while the mailbox is empty, which is rare in a busy hub.
        self.flush_due(now);
        let Some(room) = self.rooms.get_mut(name) else { return };
        if room.pending.is_empty() || std::mem::replace(&mut room.scheduled, true) {
            return;
        }
        if room.next_flush <= now {
            self.flush(name);
        } else {
            self.pacing.schedule_flush(room.next_flush, name);
        }
    }

    /// Flushes rooms that are due, until the hub must pause, and sends presence updates that are
    /// due.
    fn flush_due(&mut self, now: Instant) {
        let (mut flushes, mut presence) = (Vec::new(), Vec::new());
        while let Some(Reverse((at, _))) = self.pacing.due.peek()
            && *at <= now
            && let Some(Reverse((_, due))) = self.pacing.due.pop()
        {
            match due {
                Due::Flush(name) => flushes.push(name),
                Due::Presence(name) => presence.push(name),
                Due::Append => self.append_scheduled(),
                Due::Join(key) => self.stop_waiting(key),
            }
        }
        if !presence.is_empty() {
            self.send_presence(&presence);
        }
        for name in &flushes {
            if self.pacing.must_pause {
                self.pacing.schedule_flush(now, name);
            } else {
                self.flush(name);
            }
        }
    }

    /// If the hub must pause, lets the sessions on its thread run before it handles its next
    /// message. Without this, a burst of messages would fill the send queues of clients that read
    /// at full speed.
    pub(super) fn let_sessions_run(&mut self, ctx: &mut Context<Self>) {
        if self.pacing.must_pause {
            let mut is_second_poll = false;
            let pause = poll_fn(move |task| {
                if std::mem::replace(&mut is_second_poll, true) {
                    return Poll::Ready(());
                }
                task.waker().wake_by_ref();
                Poll::Pending
            });
            ctx.wait(pause.into_actor(self));
        }
    }
}

/// The hub's only timer, for the whole schedule. The hub's context polls it whenever the mailbox is
/// empty or the hub pauses, so it sees what was scheduled since.
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
            let now = Instant::now();
            hub.flush_due(now);
            if hub.pacing.must_pause {
                task.waker().wake_by_ref();
                break;
            }
            let Some(Reverse((at, _))) = hub.pacing.due.peek() else { break };
            if self.0.deadline() != *at {
                self.0.as_mut().reset(*at);
            }
            if self.0.as_mut().poll(task).is_pending() {
                break;
            }
        }
        // Other tasks of the thread run now.
        hub.pacing.round = hub.pacing.round.wrapping_add(1);
        hub.pacing.must_pause = false;
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::domain::{ClientId, MessageText, Nick};
    use crate::hub::publish::ROOM_PENDING_BYTES_MAX;
    use crate::hub::rooms::Room;
    use crate::hub::{Broadcast, CatchUp, Deliver, Drain, Join, Register};
    use std::sync::Arc;
    use tokio::sync::{Semaphore, mpsc};
    use tokio::time::timeout;

    #[test]
    fn wait_grows_with_the_members_up_to_the_window_or_the_time_to_write() {
        let pacing = Pacing::new(Duration::from_millis(50), 2, 256);
        let waits = [(0, 0), (1, 50), (100, 5_000), (1_000, 50_000), (5_000, 50_000)];
        for (members, micros) in waits {
            assert_eq!(pacing.wait(members), Duration::from_micros(micros), "{members} members");
        }
        assert_eq!(pacing.wait(100_000), Duration::from_millis(500), "writing takes longer");
        assert_eq!(Pacing::new(Duration::ZERO, 2, 256).wait(100_000), Duration::ZERO);
    }

    /// Publishes without a pause, as a busy hub does, so that no timer can run. Returns whether a
    /// room was flushed before it was due, and whether it was once it was due.
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
            self.rooms.get_mut(&other).expect("it was inserted").next_flush =
                Instant::now() + Duration::from_secs(3600);
            let is_flushed =
                |hub: &Self| hub.rooms.get(&other).is_none_or(|room| room.pending.is_empty());
            self.broadcast(&other, &nick, text());
            self.broadcast(&busy, &nick, text());
            let early = is_flushed(self);
            // All flushes become due, as after an hour.
            let due = self.pacing.due.drain();
            let due = due.map(|Reverse((_, due))| Reverse((Instant::now(), due)));
            self.pacing.due = due.collect();
            self.broadcast(&busy, &nick, text());
            MessageResult([early, is_flushed(self)])
        }
    }

    #[actix_web::test]
    async fn due_room_is_flushed_by_messages_to_other_rooms_while_no_timer_runs() {
        let hub = Hub::start_in(&Arbiter::new(), &Config::default());
        assert_eq!(hub.send(PublishWithoutPause).await, Ok([false, true]));
    }

    /// Publishes a message in each of these rooms, all of which are due after this time.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct PublishLater(Vec<RoomName>, Duration);

    impl Handler<PublishLater> for Hub {
        type Result = ();

        fn handle(&mut self, PublishLater(rooms, after): PublishLater, _: &mut Self::Context) {
            let nick = Nick::parse("ada").expect("a name");
            let due = Instant::now() + after;
            for room in &rooms {
                self.rooms.get_mut(room).expect("it has a member").next_flush = due;
                self.broadcast(room, &nick, MessageText::parse("hello", 100).expect("a text"));
            }
        }
    }

    /// Publishes a message in each of 64 rooms, does something with the hub, and waits until a
    /// member of all rooms has received the messages. Its mailbox holds 16 deliveries, and it is on
    /// the hub's thread.
    async fn publish_in_many_rooms(after: Duration, action: impl FnOnce(&Addr<Hub>)) {
        let arbiter = Arbiter::new();
        let config = Config { send_queue: 16, ..Config::default() };
        let hub = Hub::start_in(&arbiter, &config);
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut delivered = async || {
            let next = timeout(Duration::from_secs(20), receiver.recv());
            next.await.expect("within 20 seconds").expect("the member is not evicted");
        };
        let member = CountingClient::start_in_arbiter(&arbiter.handle(), |ctx| {
            ctx.set_mailbox_capacity(16);
            CountingClient(sender)
        });
        let client = ClientId::next();
        let (nick, to) = (Nick::anonymous(client), member.recipient().into());
        let register = Register { client, nick, events: false, to };
        hub.send(register).await.expect("the hub is running");
        let rooms: Vec<_> =
            (0..64).map(|n| RoomName::parse(&format!("room{n}")).expect("a name")).collect();
        for room in rooms.iter().cloned() {
            let (catch_up, reference) = (CatchUp::Latest(0), None);
            let join = Join { client, room, catch_up, reference };
            hub.send(join).await.expect("the hub is running");
            // The hub handles messages of another thread until there are none. It would not let the
            // member run.
            delivered().await;
        }
        hub.send(PublishLater(rooms, after)).await.expect("the hub is running");
        action(&hub);
        for _ in 0..64 {
            delivered().await;
        }
    }

    #[actix_web::test]
    async fn many_due_rooms_do_not_fill_the_mailbox_of_a_member_on_the_hubs_thread() {
        publish_in_many_rooms(Duration::from_millis(20), |_| {}).await;
    }

    #[actix_web::test]
    async fn drain_delivers_the_messages_of_many_rooms_without_filling_the_mailbox_of_a_member() {
        let drain = |hub: &Addr<Hub>| hub.do_send(Drain { wait: true });
        publish_in_many_rooms(Duration::from_secs(3600), drain).await;
    }

    /// A client that reports each batch and each answer.
    struct CountingClient(mpsc::UnboundedSender<()>);

    impl Actor for CountingClient {
        type Context = Context<Self>;
    }

    impl Handler<Deliver> for CountingClient {
        type Result = ();

        fn handle(&mut self, deliver: Deliver, ctx: &mut Self::Context) {
            let answers = usize::from(matches!(deliver, Deliver::Answer(_)));
            for _ in 0..deliver.batches().len() + answers {
                let _ = self.0.send(());
            }
            if matches!(deliver, Deliver::Close(_)) {
                ctx.stop();
            }
        }
    }

    /// Fills a room that is not due for an hour. Returns the number of messages until the hub kept
    /// the permit.
    #[derive(Message)]
    #[rtype(result = "usize")]
    struct Fill(Arc<Semaphore>);

    impl Handler<Fill> for Hub {
        type Result = usize;

        fn handle(&mut self, Fill(permits): Fill, _: &mut Self::Context) -> usize {
            let name = RoomName::default();
            let nick = Nick::parse("ada").expect("a name");
            self.rooms.insert(name.clone(), Room::default());
            let room = self.rooms.get_mut(&name).expect("it was inserted");
            room.next_flush = Instant::now() + Duration::from_secs(3600);
            let mut sent = 0;
            while let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
                let text = MessageText::parse("x".repeat(4096), 4096).expect("a text");
                self.broadcast(&name, &nick, text);
                self.release_permit(&name, permit);
                sent += 1;
            }
            sent
        }
    }

    /// Flushes the default room.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct FlushNow;

    impl Handler<FlushNow> for Hub {
        type Result = ();

        fn handle(&mut self, _: FlushNow, _: &mut Self::Context) {
            self.flush(&RoomName::default());
        }
    }

    /// A client that ignores what the hub delivers.
    struct IgnoringClient;

    impl Actor for IgnoringClient {
        type Context = Context<Self>;
    }

    impl Handler<Deliver> for IgnoringClient {
        type Result = ();

        fn handle(&mut self, _: Deliver, _: &mut Self::Context) {}
    }

    #[actix_web::test]
    async fn permits_of_a_full_room_are_released_by_its_flush() {
        let hub = Hub::start_in(&Arbiter::new(), &Config::default());
        let client = ClientId::next();
        let (room, nick) = (RoomName::default(), Nick::anonymous(client));
        let to = IgnoringClient.start().recipient().into();
        let register = Register { client, nick, events: false, to };
        hub.send(register).await.expect("the hub is running");
        let permits = Arc::new(Semaphore::new(1));
        let filled = hub.send(Fill(Arc::clone(&permits))).await;
        assert_eq!(filled, Ok(ROOM_PENDING_BYTES_MAX / 4096));
        assert_eq!(permits.available_permits(), 0);
        // The permit of a message from a client is kept and released, too.
        let catch_up = CatchUp::Latest(0);
        let join = Join { client, room: room.clone(), catch_up, reference: None };
        hub.send(join).await.expect("the hub is running");
        permits.add_permits(1);
        let permit = Arc::clone(&permits).try_acquire_owned().expect("it was just added");
        let text = MessageText::parse("one more", 100).expect("a text");
        let (reply_to, id, reference) = (None, None, None);
        let broadcast = Broadcast { client, room, text, reply_to, id, reference, permit };
        assert_eq!(hub.send(broadcast).await, Ok(Ok(())));
        assert_eq!(permits.available_permits(), 0, "the hub keeps it until the flush");
        hub.send(FlushNow).await.expect("the hub is running");
        assert_eq!(permits.available_permits(), 2);
    }
}
