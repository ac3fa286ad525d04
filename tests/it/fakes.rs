//! Actors with which a test drives the hub without a server: a log that answers when the test tells
//! it to, and clients that stop receiving when the test tells them to.

use std::sync::Arc;

use actix::prelude::*;
use chinwag::domain::{
    Action, Change, ChangeKind, ChatMessage, Draft, Entry, Nick, RoomName, SearchQuery,
    SearchResult, Seq, Timestamp, Unread,
};
use chinwag::hub::Deliver;
use chinwag::log::{
    Append, CountUnread, Follow, Follower, Found, FromLog, LogError, MarkRead, Messages, Own, Page,
    Paged, Probe, ReadMarks, Refused, Responder, Search, Verdict,
};
use chinwag::protocol::{Event, Reply};
use tokio::sync::oneshot;

/// A log that answers pages immediately, and an append only after an [`AnswerAppend`]. It knows
/// messages and edits of messages of the same author.
#[derive(Default)]
pub struct FakeLog {
    pending: Option<Append>,
    follower: Option<Follower>,
    stored: Vec<Draft>,
    /// Pages that were read, and whose answers the test holds.
    held_pages: Option<Vec<(Responder<Paged>, Messages)>>,
    /// Requests for counts, which the test answers.
    counts: Vec<CountUnread>,
    marks: Vec<MarkRead>,
    /// Searches, which are answered after an [`AnswerSearches`].
    searches: Vec<Search>,
}

impl FakeLog {
    /// Returns the entry with the number of a stored draft, as it was when it was stored.
    fn entry(&self, seq: Seq) -> Entry {
        let at = Timestamp::default();
        let Draft { room, author, nick, id, action, .. } =
            self.stored[seq.get() as usize - 1].clone();
        match action {
            Action::Message { text, .. } => {
                Entry::Message(Arc::new(message(room, seq, nick, text)))
            }
            Action::Edit { target, text } => {
                let kind = ChangeKind::Edit { target, text };
                Entry::Change(Arc::new(Change { room, seq, at, author, nick, id, kind }))
            }
            Action::Delete { .. } | Action::React { .. } | Action::Room { .. } | _ => {
                panic!("the fake log knows only messages and edits")
            }
        }
    }

    /// Returns the messages of a room with their current texts.
    fn messages(&self, room: &RoomName) -> Vec<ChatMessage> {
        let mut messages = self.all_messages();
        messages.retain(|message| message.room == *room);
        messages
    }

    fn all_messages(&self) -> Vec<ChatMessage> {
        let mut messages: Vec<ChatMessage> = Vec::new();
        for entry in (1..=self.stored.len() as u64).map(|seq| self.entry(Seq::new(seq))) {
            match entry {
                Entry::Message(message) => messages.push(ChatMessage::clone(&message)),
                Entry::Change(change) => {
                    let target = change.kind.target();
                    let edited = messages.iter_mut().find(|message| Some(message.seq) == target);
                    if let (Some(message), ChangeKind::Edit { text, .. }) = (edited, &change.kind) {
                        message.text = text.clone();
                    }
                }
                Entry::Settings(_) | _ => {}
            }
        }
        messages
    }

    fn find(&self, query: &SearchQuery) -> Found {
        let mut found = Found::default();
        let older = self.all_messages().into_iter().rev().filter(|it| it.seq < query.before);
        for message in older {
            let Some(snippet) = query.terms.snippet(message.text.as_str()) else { continue };
            if found.results.len() == query.limit {
                found.more = true;
                break;
            }
            let ChatMessage { room, seq, at, nick, .. } = message;
            found.results.push(SearchResult { room, seq, at, author: None, nick, snippet });
        }
        found
    }

    /// Returns the unread messages of a user who has a read mark.
    fn unread(&self, count: &CountUnread) -> Option<Unread> {
        let is_own =
            |mark: &&MarkRead| (mark.identity, &mark.room) == (count.identity, &count.room);
        let marks = self.marks.iter().filter(is_own).map(|mark| mark.seq);
        let mark = marks.chain([count.known]).max().filter(|mark| *mark > Seq::default())?;
        let mut newer = self.messages(&count.room);
        newer.retain(|message| message.seq > mark && message.seq < count.before);
        newer.retain(|it| self.stored[it.seq.get() as usize - 1].author != Some(count.identity));
        let first = newer.first().map(|message| message.seq);
        Some(Unread { mark, count: newer.len(), first, mentions: 0 })
    }

    fn place(&mut self, draft: Draft) -> Verdict {
        let duplicate_of = self.stored.iter().position(|old| {
            let origin = |draft: &Draft| (draft.room.clone(), draft.author, draft.id.clone());
            draft.id.is_some() && origin(old) == origin(&draft)
        });
        if let Some(index) = duplicate_of {
            return Verdict::Duplicate(Seq::new(index as u64 + 1));
        }
        if let Action::Edit { target, .. } = draft.action {
            let edited = self.stored.get(target.get().wrapping_sub(1) as usize);
            let edited = edited.filter(|edited| {
                edited.room == draft.room && matches!(edited.action, Action::Message { .. })
            });
            match edited {
                None => return Verdict::Refused(Refused::NotFound),
                Some(edited) if edited.author != draft.author => {
                    return Verdict::Refused(Refused::OtherAuthor);
                }
                Some(_) => {}
            }
        }
        self.stored.push(draft);
        Verdict::Kept(Seq::new(self.stored.len() as u64))
    }
}

/// Returns a message without an author.
pub fn message(
    room: RoomName,
    seq: Seq,
    nick: Nick,
    text: chinwag::domain::MessageText,
) -> ChatMessage {
    ChatMessage::new(room, seq, Timestamp::default(), nick, text)
}

impl Actor for FakeLog {
    type Context = Context<Self>;
}

impl Handler<Follow> for FakeLog {
    type Result = ();

    fn handle(&mut self, Follow(follower): Follow, _: &mut Self::Context) {
        self.follower = Some(follower);
    }
}

impl Handler<Append> for FakeLog {
    type Result = ();

    fn handle(&mut self, append: Append, _: &mut Self::Context) {
        assert!(self.pending.is_none(), "the hub sends one append at a time");
        self.pending = Some(append);
    }
}

impl Handler<Page> for FakeLog {
    type Result = ();

    fn handle(&mut self, page: Page, _: &mut Self::Context) {
        let mut all = self.messages(&page.room);
        all.retain(|message| message.seq < page.before);
        let start = all.len().saturating_sub(page.limit);
        let floor = if start == 0 { Seq::default() } else { all[start - 1].seq };
        let messages = all.split_off(start).into_iter().map(Arc::new).collect();
        let read = Messages { messages, floor, more: start > 0, ..Messages::default() };
        match &mut self.held_pages {
            Some(held) => held.push((page.answer, read)),
            None => page.answer.give(Ok(read)),
        }
    }
}

impl Handler<Search> for FakeLog {
    type Result = ();

    fn handle(&mut self, search: Search, _: &mut Self::Context) {
        self.searches.push(search);
    }
}

/// Answers all searches. Returns `before` of each.
#[derive(Message)]
#[rtype(result = "Vec<Seq>")]
pub struct AnswerSearches;

impl Handler<AnswerSearches> for FakeLog {
    type Result = Vec<Seq>;

    fn handle(&mut self, _: AnswerSearches, _: &mut Self::Context) -> Vec<Seq> {
        let searches = std::mem::take(&mut self.searches);
        let answer = |Search { query, answer, .. }: Search| {
            answer.give(Ok(self.find(&query)));
            query.before
        };
        searches.into_iter().map(answer).collect()
    }
}

/// Holds the answers to pages, or sends those that are held.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HoldPages(pub bool);

impl Handler<HoldPages> for FakeLog {
    type Result = ();

    fn handle(&mut self, HoldPages(hold): HoldPages, _: &mut Self::Context) {
        let held = std::mem::replace(&mut self.held_pages, hold.then(Vec::new));
        for (answer, read) in held.into_iter().flatten() {
            answer.give(Ok(read));
        }
    }
}

impl Handler<CountUnread> for FakeLog {
    type Result = ();

    fn handle(&mut self, count: CountUnread, _: &mut Self::Context) {
        self.counts.push(count);
    }
}

/// Returns the requests for counts since the last call. A request that is dropped is answered as if
/// the log had died.
#[derive(Message)]
#[rtype(result = "Vec<CountUnread>")]
pub struct TakeCounts;

impl Handler<TakeCounts> for FakeLog {
    type Result = Vec<CountUnread>;

    fn handle(&mut self, _: TakeCounts, _: &mut Self::Context) -> Vec<CountUnread> {
        std::mem::take(&mut self.counts)
    }
}

/// Answers the requests for counts.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AnswerCounts;

impl Handler<AnswerCounts> for FakeLog {
    type Result = ();

    fn handle(&mut self, _: AnswerCounts, _: &mut Self::Context) {
        for count in std::mem::take(&mut self.counts) {
            let unread = self.unread(&count);
            count.answer.give(Ok(unread));
        }
    }
}

impl Handler<MarkRead> for FakeLog {
    type Result = ();

    fn handle(&mut self, mark: MarkRead, _: &mut Self::Context) {
        self.marks.push(mark);
    }
}

/// Returns the sequence numbers of all read marks that the log has received.
#[derive(Message)]
#[rtype(result = "Vec<u64>")]
pub struct Marks;

impl Handler<Marks> for FakeLog {
    type Result = Vec<u64>;

    fn handle(&mut self, _: Marks, _: &mut Self::Context) -> Vec<u64> {
        self.marks.iter().map(|mark| mark.seq.get()).collect()
    }
}

impl Handler<Probe> for FakeLog {
    type Result = Result<(), LogError>;

    fn handle(&mut self, _: Probe, _: &mut Self::Context) -> Self::Result {
        Ok(())
    }
}

/// Answers the pending append, if any: stores the drafts, or fails.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AnswerAppend {
    pub success: bool,
}

impl Handler<AnswerAppend> for FakeLog {
    type Result = ();

    fn handle(&mut self, AnswerAppend { success }: AnswerAppend, ctx: &mut Self::Context) {
        let Some(Append { ticket, drafts }) = self.pending.take() else { return };
        if !success {
            let error = LogError::Busy("the test makes it fail".into());
            return self.handle(HandOut(FromLog::Rejected { ticket, error }), ctx);
        }
        let placed: Vec<_> = drafts.into_iter().map(|draft| self.place(draft)).collect();
        let kept = placed.iter().filter_map(|verdict| match verdict {
            Verdict::Kept(seq) => Some(self.entry(*seq)),
            Verdict::Duplicate(_) | Verdict::Refused(_) => None,
        });
        let (entries, head) = (kept.collect(), Seq::new(self.stored.len() as u64));
        let own = Some(Own { ticket, placed });
        self.handle(HandOut(FromLog::Committed { entries, head, floors: Vec::new(), own }), ctx);
    }
}

/// Sends a message of the log to the hub.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HandOut(pub FromLog);

impl Handler<HandOut> for FakeLog {
    type Result = ();

    fn handle(&mut self, HandOut(from_log): HandOut, _: &mut Self::Context) {
        self.follower.as_ref().expect("the hub follows the log").send(from_log);
    }
}

/// Returns the ticket of the pending append, if any.
#[derive(Message)]
#[rtype(result = "Option<u64>")]
pub struct PendingTicket;

impl Handler<PendingTicket> for FakeLog {
    type Result = Option<u64>;

    fn handle(&mut self, _: PendingTicket, _: &mut Self::Context) -> Option<u64> {
        self.pending.as_ref().map(|append| append.ticket)
    }
}

/// Drops the follower, like a log whose thread panics.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Die;

impl Handler<Die> for FakeLog {
    type Result = ();

    fn handle(&mut self, _: Die, _: &mut Self::Context) {
        self.follower = None;
    }
}

/// Returns a [`Log`] that is a fake.
pub fn log_of(fake: &Addr<FakeLog>) -> chinwag::log::Log {
    chinwag::log::Log {
        epoch: chinwag::domain::Epoch::random(),
        head: Seq::default(),
        state: chinwag::log::State::default(),
        durability: chinwag::domain::Durability::default(),
        follow: fake.clone().recipient(),
        append: fake.clone().recipient(),
        page: fake.clone().recipient(),
        search: Some(fake.clone().recipient()),
        probe: fake.clone().recipient(),
        read_marks: None,
        nodes: None,
    }
}

/// Returns a [`Log`] that is a fake and keeps read marks.
pub fn log_with_read_marks_of(fake: &Addr<FakeLog>) -> chinwag::log::Log {
    let (mark, count) = (fake.clone().recipient(), fake.clone().recipient());
    chinwag::log::Log { read_marks: Some(ReadMarks { mark, count }), ..log_of(fake) }
}

/// A client that records, as text, everything that it receives.
pub struct FakeClient {
    received: Vec<String>,
    mailbox_capacity: usize,
}

impl FakeClient {
    pub fn new(mailbox_capacity: usize) -> Self {
        Self { received: Vec::new(), mailbox_capacity }
    }
}

impl Actor for FakeClient {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox_capacity);
    }
}

impl Handler<Deliver> for FakeClient {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Self::Context) {
        for entry in deliver.batches().iter().flat_map(|batch| batch.entries()) {
            self.received.extend(describe_entry(entry));
        }
        match deliver {
            Deliver::Answer(reply) => self.received.extend(describe(&reply)),
            Deliver::Direct(replies) => self.received.extend(replies.iter().filter_map(describe)),
            Deliver::Close(reason) => self.received.push(format!("close {}", reason.label())),
            Deliver::Notices(notices) => {
                for event in notices.iter().flat_map(|notice| notice.events()) {
                    if let Event::Read { room, seq } = event {
                        self.received.push(format!("read {room} {seq}"));
                    }
                }
            }
            Deliver::Batch(_) | Deliver::Batches(_) => {}
        }
    }
}

/// Describes a message or an edit as a line of text.
fn describe_entry(entry: &Entry) -> Option<String> {
    match entry {
        Entry::Message(message) => {
            Some(format!("{} {} {}", message.room, message.seq, message.text.as_str()))
        }
        Entry::Change(change) => match &change.kind {
            ChangeKind::Edit { target, text } => {
                Some(format!("{} {} edits {target} {}", change.room, change.seq, text.as_str()))
            }
            ChangeKind::Delete { .. } | ChangeKind::React { .. } | ChangeKind::Room { .. } | _ => {
                None
            }
        },
        Entry::Settings(_) | _ => None,
    }
}

/// Describes a reply as a line of text. Returns `None` for events whose time is not predictable.
fn describe(reply: &Reply) -> Option<String> {
    let texts = |messages: &[Arc<ChatMessage>]| {
        messages.iter().map(|message| message.text.as_str().to_owned()).collect::<Vec<_>>()
    };
    let named = |members: &[Nick]| {
        let named = members.iter().filter(|nick| !nick.is_anonymous());
        named.map(Nick::to_string).collect::<Vec<_>>()
    };
    Some(match &reply.event {
        Event::Welcome { nick, .. } if nick.is_anonymous() => "welcome anonymous".to_owned(),
        Event::Welcome { nick, .. } => format!("welcome {nick}"),
        Event::Joined { room, messages, members, member_count, unread, .. } => {
            let unread = unread.map(|unread| {
                format!(
                    " unread {} from {:?}, {} mentions",
                    unread.count, unread.first, unread.mentions
                )
            });
            let (unread, texts) = (unread.unwrap_or_default(), texts(messages));
            format!("joined {room} {texts:?} {:?} {member_count}{unread}", named(members))
        }
        Event::Left { room } => format!("left {room}"),
        Event::Members { room, members, member_count } => {
            format!("members {room} {:?} {member_count}", named(members))
        }
        Event::History { room, messages, more, .. } => {
            format!("history {room} {:?} {more}", texts(messages))
        }
        Event::Search { results, more, .. } => {
            let snippets = results.iter().map(|result| result.snippet.concat());
            format!("search {:?} {more}", snippets.collect::<Vec<_>>())
        }
        Event::Said { room, seq, duplicate, .. } => {
            let kind = if *duplicate { "duplicate" } else { "new" };
            format!("said {room} {} {kind}", seq.get())
        }
        Event::Error(refusal) => format!("error {}", refusal.code.label()),
        Event::Presence { .. }
        | Event::Renamed { .. }
        | Event::Typing { .. }
        | Event::Read { .. } => return None,
    })
}

/// Stops a client from receiving until the sender of this channel is dropped.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stall(pub oneshot::Receiver<()>);

impl Handler<Stall> for FakeClient {
    type Result = ();

    fn handle(&mut self, Stall(resumed): Stall, ctx: &mut Self::Context) {
        ctx.wait(async { drop(resumed.await) }.into_actor(self));
    }
}

/// Returns everything that a client has received.
#[derive(Message)]
#[rtype(result = "Vec<String>")]
pub struct Received;

impl Handler<Received> for FakeClient {
    type Result = Vec<String>;

    fn handle(&mut self, _: Received, _: &mut Self::Context) -> Vec<String> {
        self.received.clone()
    }
}
