//! A message, before and after it has its place in the log, and what tells one from another.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{ClientId, MessageText, Nick, RoomName, Timestamp};

/// A message's place in the log. One sequence serves all rooms, so it grows within a room but not
/// by one. Whoever keeps the log assigns it; 0 is before the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize,
)]
#[serde(transparent)]
pub struct Seq(u64);

impl Seq {
    /// The greatest that every client can read: JavaScript knows whole numbers up to 2^53 - 1.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// The place of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place right behind.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which log a [`Seq`] belongs to: another epoch, another log, however alike the numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// The epoch of a log that begins now: 16 random hexadecimal digits.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:016x}", random()).into())
    }

    /// An epoch as a log or a client has it: any text, since it is only ever compared.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A place in a certain log, which a client has seen everything up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which log.
    pub epoch: Epoch,
    /// The last place that the client has seen.
    pub seq: Seq,
}

/// Who stands behind one or more clients: those who know the same key, or one connection alone.
/// Only a hash of the key is held.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity([u8; 16]);

/// Why a text is not the key of an [`Identity`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("a key is 16 to 256 characters")]
pub struct BadKey;

impl Identity {
    /// The identity of all who know this key: 16 to 256 characters that its owner keeps secret.
    ///
    /// # Errors
    /// When it is shorter, and so too easily guessed, or longer.
    pub fn of_key(key: &str) -> Result<Self, BadKey> {
        if !(16..=256).contains(&key.chars().take(257).count()) {
            return Err(BadKey);
        }
        let hash = Sha256::new().chain_update("chinwag key\0").chain_update(key).finalize();
        let mut identity = [0; 16];
        identity.copy_from_slice(&hash[..16]);
        Ok(Self(identity))
    }

    /// The identity of a connection that gave no key. No other connection has or had it, in this
    /// process or another.
    #[must_use]
    pub fn of_client(client: ClientId) -> Self {
        static PROCESS: LazyLock<u64> = LazyLock::new(random);
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&PROCESS.to_be_bytes());
        identity[8..].copy_from_slice(&client.0.to_be_bytes());
        Self(identity)
    }

    /// The hash, as the journal keeps it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// What an author calls a message, so that one sent twice is told from two: 1 to 64 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct MessageId(Box<str>);

/// Why a text is not a [`MessageId`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("an id is 1 to 64 characters")]
pub struct BadMessageId;

impl MessageId {
    /// The most characters an id has.
    pub const MAX_CHARS: usize = 64;

    /// Parses what a client sent.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn parse(text: &str) -> Result<Self, BadMessageId> {
        if (1..=Self::MAX_CHARS).contains(&text.chars().take(Self::MAX_CHARS + 1).count()) {
            Ok(Self(text.into()))
        } else {
            Err(BadMessageId)
        }
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// By what a message is known again: the same origin in the same room is the same message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Who said it.
    pub author: Identity,
    /// What its author calls it.
    pub id: MessageId,
}

/// A message as the hub has accepted it, before it has its place in the log.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The room it was said in.
    pub room: RoomName,
    /// Who said it.
    pub nick: Nick,
    /// What was said.
    pub text: MessageText,
    /// Whether a line of plain text must begin with the author's name. So it is for every named
    /// author, and for an unnamed one whose text would else read as if a member had said it.
    pub attributed: bool,
    /// By what it is known again, if its author has called it something.
    pub origin: Option<Origin>,
}

impl Draft {
    /// The message that this is in its place.
    #[must_use]
    pub fn placed(self, seq: Seq, at: Timestamp) -> ChatMessage {
        let Self { room, nick, text, attributed, origin } = self;
        let id = origin.map(|origin| origin.id);
        ChatMessage { room, seq, at, nick, text, id, attributed, counted: None }
    }
}

/// A message in its place in the log: what everyone in the room is told, whatever protocol they
/// speak.
#[derive(Clone, Debug, Serialize)]
pub struct ChatMessage {
    /// The room it was said in.
    pub room: RoomName,
    /// Its place in the log.
    pub seq: Seq,
    /// When it was put there.
    pub at: Timestamp,
    /// Who said it.
    pub nick: Nick,
    /// What was said.
    pub text: MessageText,
    /// What its author calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
    /// See [`Draft::attributed`].
    #[serde(skip)]
    pub attributed: bool,
    /// Counts the message as held in memory, if it was read from the log.
    #[serde(skip)]
    pub(crate) counted: Option<CountedBytes>,
}

/// Adds its bytes to a shared count while it lives.
#[derive(Debug)]
pub(crate) struct CountedBytes {
    bytes: usize,
    count: Arc<AtomicUsize>,
}

impl CountedBytes {
    pub(crate) fn new(bytes: usize, count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, count: Arc::clone(count) }
    }
}

impl Clone for CountedBytes {
    fn clone(&self) -> Self {
        Self::new(self.bytes, &self.count)
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.count.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn random() -> u64 {
    getrandom::u64().expect("the system has random numbers")
}
