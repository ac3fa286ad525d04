//! The log commits and stores the entries of all rooms, and assigns their sequence numbers. This
//! module is the contract between the hub and a log. The hub sends drafts with [`Append`]. The log
//! hands out committed entries with [`FromLog`], and the hub delivers only these, in the same
//! order. It reads earlier messages with [`Page`]. A log may also search messages with [`Search`],
//! and keep [`ReadMarks`] of users. `memory` is a log in memory, `sqlite` one in a file, and
//! `jetstream` one that several nodes share. All follow the same [`rules`].

#[cfg(feature = "cluster")]
pub mod jetstream;
mod memory;
pub mod nodes;
mod replica;
mod responder;
pub mod rules;
#[cfg(feature = "journal")]
pub mod sqlite;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use thiserror::Error;

use crate::domain::{
    Change, ChatMessage, Draft, Durability, Entry, Epoch, Identity, Nick, Reaction, ReactionCount,
    RoomName, SearchQuery, SearchResult, Seq, Settings, Topic, Unread,
};
pub(crate) use memory::MemoryLog;
use nodes::Nodes;
pub use responder::{Follower, Responder};
pub use rules::Refused;

/// A log that a hub is started with.
#[derive(Clone, Debug)]
pub struct Log {
    /// Identifies the log.
    pub epoch: Epoch,
    /// The sequence number of the last entry.
    pub head: Seq,
    /// The state at `head`.
    pub state: State,
    /// What its entries survive.
    pub durability: Durability,
    /// Takes the follower. The hub sends it before everything else.
    pub follow: Recipient<Follow>,
    /// Appends drafts.
    pub append: Recipient<Append>,
    /// Reads messages.
    pub page: Recipient<Page>,
    /// Searches messages. `None` if the log cannot search.
    pub search: Option<Recipient<Search>>,
    /// Checks whether the log can append.
    pub probe: Recipient<Probe>,
    /// Keeps read marks. `None` if the log keeps none.
    pub read_marks: Option<ReadMarks>,
    /// The nodes that share the log. `None` if only one server uses it.
    pub nodes: Option<Nodes>,
}

/// The recipients of a log that keeps read marks.
#[derive(Clone, Debug)]
pub struct ReadMarks {
    /// Takes read marks.
    pub mark: Recipient<MarkRead>,
    /// Counts unread messages.
    pub count: Recipient<CountUnread>,
}

/// The part of the log's state that the hub knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// The settings.
    pub settings: Settings,
}

impl State {
    /// Returns a state with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// Advances the state by a committed entry.
    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Settings(change) => self.settings = change.settings.clone(),
            Entry::Message(_) | Entry::Change(_) => {}
        }
    }
}

/// A log as the hub uses it. A log that can answer at once returns the answer. Any other log sends
/// the answer to the follower or the responder.
pub(crate) trait LogBackend {
    /// Takes the follower, to which a log sends its answers.
    fn follow(&mut self, follower: Follower);

    fn append(&mut self, append: Append) -> Option<FromLog>;

    /// Returns what the log's entries survive. [`FromLog::Durability`] changes it.
    fn durability(&self) -> Durability;

    /// Returns the shortest interval between two appends.
    fn append_interval(&self) -> Duration;

    fn page(&mut self, page: Page) -> Option<Paged>;

    /// Returns the recipient that searches messages. A log in memory has none.
    fn search(&self) -> Option<Recipient<Search>>;

    /// Returns the recipient that knows whether the log works. A log that always works has none.
    fn probe(&self) -> Option<Recipient<Probe>>;

    /// Returns the recipients for read marks, if the log keeps them.
    fn read_marks(&self) -> Option<&ReadMarks>;

    /// Returns the nodes that share the log, if there are any.
    fn nodes(&self) -> Option<&Nodes>;
}

/// The shortest interval between two appends to a log that keeps its messages. A commit of one
/// message costs about as much CPU time as one of a hundred, so the messages of small rooms share
/// commits.
const APPEND_INTERVAL: Duration = Duration::from_millis(5);

impl LogBackend for Log {
    fn follow(&mut self, follower: Follower) {
        self.follow.do_send(Follow(follower));
    }

    fn append(&mut self, append: Append) -> Option<FromLog> {
        self.append.do_send(append);
        None
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn append_interval(&self) -> Duration {
        APPEND_INTERVAL
    }

    fn page(&mut self, page: Page) -> Option<Paged> {
        self.page.do_send(page);
        None
    }

    fn search(&self) -> Option<Recipient<Search>> {
        self.search.clone()
    }

    fn probe(&self) -> Option<Recipient<Probe>> {
        Some(self.probe.clone())
    }

    fn read_marks(&self) -> Option<&ReadMarks> {
        self.read_marks.as_ref()
    }

    fn nodes(&self) -> Option<&Nodes> {
        self.nodes.as_ref()
    }
}

/// Tells a log where to send [`FromLog`]. A log has one follower.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Follow(pub Follower);

/// Asks the log to append drafts in this order, in one commit. A log that several nodes share may
/// commit a large append in several steps, and may then commit only the first drafts.
///
/// The answer is [`FromLog::Committed`] with [`Own`], or [`FromLog::Rejected`] if nothing was
/// committed. The log does not answer while it does not know the outcome. The hub has one append in
/// flight at a time.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Append {
    /// The number by which the hub recognizes the answer.
    pub ticket: u64,
    /// The drafts. Those of one room are adjacent.
    pub drafts: Vec<Draft>,
}

/// What a log sends to its follower, in the order of the log.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum FromLog {
    /// Entries were committed.
    Committed {
        /// The entries. Those of one room are adjacent. The hub delivers them.
        entries: Vec<Entry>,
        /// The sequence number of the log's last entry.
        head: Seq,
        /// For each room whose messages were pruned, the sequence number of the last pruned one.
        /// The hub removes the messages up to it from its ring.
        floors: Vec<(RoomName, Seq)>,
        /// The outcome of this hub's append, if this is the answer to one.
        own: Option<Own>,
    },
    /// An append failed: nothing of it was committed, and nothing of it will be.
    Rejected {
        /// The append.
        ticket: u64,
        /// The reason.
        error: LogError,
    },
    /// Whether the log is stalled: it cannot answer now, for example because it does not know the
    /// outcome of a commit. It answers the append in flight later. Meanwhile the hub rejects new
    /// drafts.
    Stalled(bool),
    /// What the log's entries survive now.
    Durability(Durability),
    /// The log begins a new epoch. The same sequence numbers may now stand for other entries.
    NewEpoch {
        /// The new epoch.
        epoch: Epoch,
        /// The sequence number of the last entry.
        head: Seq,
    },
    /// The log has stopped. This is the last message.
    Died,
}

/// The outcome of the hub's own append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The append.
    pub ticket: u64,
    /// The outcome for each draft, in the order of the drafts. The last ones are missing if they
    /// were not committed, and will not be.
    pub placed: Vec<Verdict>,
}

/// The outcome for one draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is committed with this sequence number.
    Kept(Seq),
    /// The same draft was committed before with this sequence number.
    Duplicate(Seq),
    /// The rules do not permit it. Nothing was changed.
    Refused(Refused),
}

/// Asks whether the log can commit now. The log tests a commit, unless it has committed recently.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<(), LogError>")]
pub struct Probe;

/// Asks for messages of a room, in their current state.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Page {
    /// The room.
    pub room: RoomName,
    /// Only messages and changes before this sequence number are returned.
    pub before: Seq,
    /// Which messages.
    pub range: Range,
    /// The reader, which determines how reactions are returned.
    pub reader: Reader,
    /// The greatest number of messages.
    pub limit: usize,
    /// The greatest size of all texts, in bytes. One message is returned in any case.
    pub max_bytes: usize,
    /// Takes the messages.
    pub answer: Responder<Paged>,
}

/// Which messages of a room a [`Page`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// The last ones.
    Latest,
    /// The first ones after this sequence number.
    After(Seq),
    /// Those around this sequence number: half of the limit is for the message itself and older
    /// ones, half for newer ones.
    Around(Seq),
}

/// For whom a [`Page`] is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The hub, which keeps the page in memory and applies later entries to it. The answer has
    /// [`Messages::changes`] and [`Messages::reactions`].
    Hub,
    /// A client with this identity. The answer has [`Messages::counts`].
    Client(Identity),
}

/// The messages that answer a [`Page`].
#[derive(Clone, Debug, Default)]
pub struct Messages {
    /// The messages, oldest first.
    pub messages: Vec<Arc<ChatMessage>>,
    /// The last changes of the room, oldest first, at most [`Page::limit`]. Only for
    /// [`Reader::Hub`].
    pub changes: Vec<Arc<Change>>,
    /// All reactions to these messages. Only for [`Reader::Hub`].
    pub reactions: Vec<Reaction>,
    /// The reactions to these messages, sorted by message and emoji. Only for [`Reader::Client`].
    pub counts: Vec<ReactionCount>,
    /// The room's topic.
    pub topic: Topic,
    /// The answer has all messages, and for [`Reader::Hub`] all changes, between this sequence
    /// number and [`Page::before`]. Meaningful only for [`Range::Latest`].
    pub floor: Seq,
    /// Whether the log has older messages of the room.
    pub more: bool,
    /// Whether the log has newer messages of the room before [`Page::before`].
    pub more_newer: bool,
}

/// The outcome of a [`Page`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Paged {
    /// The number by which the hub recognizes its request.
    pub(crate) request: u64,
    pub(crate) outcome: Result<Messages, LogError>,
}

/// Tells the log that a user has read the messages of a room up to a sequence number. There is no
/// answer. The user's read mark is the highest number that the log has received. Read marks are not
/// entries. The log may store them some seconds later, and may lose those that are not stored yet.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct MarkRead {
    /// The user.
    pub identity: Identity,
    /// The room.
    pub room: RoomName,
    /// The last message that the user has read, or a later entry of any room.
    pub seq: Seq,
}

/// Asks for the unread messages of a user in a room.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CountUnread {
    /// The user.
    pub identity: Identity,
    /// The user's name, to find mentions.
    pub nick: Nick,
    /// The room.
    pub room: RoomName,
    /// The latest mark that the hub has sent or received, or 0. The log may not have it yet.
    pub known: Seq,
    /// Only messages before this sequence number are counted.
    pub before: Seq,
    /// Takes the answer.
    pub answer: Responder<Counted>,
}

/// The outcome of a [`CountUnread`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Counted {
    /// The number by which the hub recognizes its request.
    pub(crate) request: u64,
    /// The unread messages. `None` if the user has no read mark for the room.
    pub(crate) outcome: Result<Option<Unread>, LogError>,
}

/// Asks for messages that match a query, newest first, in their current state.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Search {
    /// What to find.
    pub query: SearchQuery,
    /// When the hub sent the search. A log may reject one that has waited too long.
    pub asked: Instant,
    /// Takes the results.
    pub answer: Responder<Searched>,
}

/// The results of a [`Search`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The results, newest first.
    pub results: Vec<SearchResult>,
    /// Whether there may be older results.
    pub more: bool,
    /// Whether some messages were not searched, because they are not indexed yet or the time ran
    /// out.
    pub incomplete: bool,
}

/// The outcome of a [`Search`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Searched {
    /// The number by which the hub recognizes its request.
    pub(crate) request: u64,
    pub(crate) outcome: Result<Found, LogError>,
}

/// Why the log could not do what it was asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LogError {
    /// The log cannot do it now, for example because the disk is full.
    #[error("{0}")]
    Busy(String),
    /// The log cannot do it.
    #[error("{0}")]
    Failed(String),
    /// The log has stopped.
    #[error("the log has stopped")]
    Died,
}
