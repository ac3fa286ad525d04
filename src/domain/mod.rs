//! The value types of the chat: clients, identities, rooms, names, texts, messages. Every value is
//! parsed once, where it enters the program. The rest of the program does not check it again.

mod characters;
mod client;
mod durability;
mod emoji;
mod entry;
mod identity;
mod mention;
mod message;
mod nick;
mod room_name;
mod search;
mod sequence;
mod settings;
mod text;
mod time;
mod topic;
mod unread;
mod words;

pub use client::ClientId;
pub use durability::Durability;
pub use emoji::{BadEmoji, Emoji};
pub use entry::{
    Action, Audience, Change, ChangeKind, Draft, Entry, Reaction, ReactionCount, Right,
    SettingsChange,
};
pub use identity::{Author, BadKey, Identity};
pub(crate) use mention::mentions;
pub(crate) use message::CountedBytes;
pub use message::{BadMessageId, ChatMessage, MessageId, Quote};
pub use nick::{BadNick, Nick, NodeMark};
pub use room_name::{BadRoomName, RoomName};
pub use search::{BadSearch, SearchQuery, SearchResult, SearchTerms};
pub use sequence::{Epoch, Position, Seq};
pub use settings::Settings;
pub(crate) use text::memory_bytes;
pub use text::{BadText, MessageText};
pub use time::Timestamp;
pub use topic::{BadTopic, Topic};
pub use unread::Unread;
#[cfg(feature = "journal")]
pub(crate) use words::{WORDS_VERSION, joined_keys};

pub(crate) fn random() -> u64 {
    getrandom::u64().expect("the system provides random numbers")
}

#[cfg(test)]
mod tests;
