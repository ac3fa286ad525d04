//! The records of the shared log, in JSON. A node does not apply a record that it does not know
//! completely, because its result could differ from that of other nodes.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::chain::Chain;
use crate::domain::{
    Action, Draft, Emoji, Epoch, MessageId, MessageText, Nick, Right, RoomName, Seq, Settings,
    Timestamp, Topic,
};
use crate::log::sqlite::{HexIdentity, ProducerId};

/// The version of records that this version of chinwag writes. It reads no other.
pub(super) const VERSION: u32 = 1;

/// A record.
#[derive(Clone, Debug)]
pub(super) enum Record {
    /// The first record of a log.
    Genesis(Genesis),
    /// The start of a new epoch.
    NewEpoch(NewEpoch),
    /// The drafts of one append of a hub. A record without drafts only shows that records pass
    /// through the log, or that an earlier record of its producer will not.
    Append(Produced),
}

/// The start of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Genesis {
    pub(super) epoch: String,
    /// See [`Place::base`](crate::log::sqlite::Place).
    pub(super) base: Seq,
    /// The journal with which the log begins.
    pub(super) parent: Parent,
    pub(super) settings: Settings,
}

/// The last state of a journal before the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parent {
    pub(super) epoch: String,
    pub(super) head: Seq,
}

/// The start of a new epoch. It counts only if the log has the parent epoch before it. So if two
/// nodes begin an epoch at the same time, the first counts.
#[derive(Clone, Debug)]
pub(super) struct NewEpoch {
    pub(super) epoch: Epoch,
    /// The epoch that ends.
    pub(super) parent: Epoch,
    /// The history with which the new epoch begins. `None`: the records before this one.
    pub(super) history: Option<History>,
    pub(super) settings: Settings,
}

/// The history of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct History {
    /// The node's journal.
    pub(super) chain: Chain,
    /// The base of further sequence numbers, see [`Place::base`](crate::log::sqlite::Place).
    pub(super) base: Seq,
}

/// A record of a producer.
#[derive(Clone, Debug)]
pub(super) struct Produced {
    /// The epoch of the producer's journal.
    pub(super) epoch: Epoch,
    pub(super) producer: ProducerId,
    /// The number of the record among those of its producer, from 1.
    pub(super) n: u64,
    /// When the producer made it.
    pub(super) made: Timestamp,
    /// The journal of the producer's node at that time.
    pub(super) chain: Chain,
    pub(super) drafts: Vec<Draft>,
}

/// Why a record cannot be read.
#[derive(Clone, Debug, Error)]
pub(super) enum BadRecord {
    /// It is not a record of chinwag: not an object in JSON with a number `v`.
    #[error("it is not a record of chinwag")]
    NotARecord,
    /// A newer version of chinwag wrote it.
    #[error("a newer version of chinwag wrote it (version {0} of records)")]
    Newer(u32),
    /// It has something that this version does not know.
    #[error("a newer version of chinwag wrote it: {0}")]
    Unknown(String),
}

/// The part of a record that every version can read.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    v: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    genesis: Option<Genesis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new_epoch: Option<NewEpochLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    append: Option<AppendLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEpochLine {
    epoch: String,
    parent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<HistoryLine>,
    settings: Settings,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryLine {
    /// The last record that the journal has.
    after: u64,
    /// Its chain there, in hexadecimal.
    chain: String,
    base: Seq,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendLine {
    epoch: String,
    producer: HexId,
    n: u64,
    /// Milliseconds since 1970.
    made: u64,
    /// The last record that the producer's journal has.
    after: u64,
    /// Its chain there, in hexadecimal.
    chain: String,
    drafts: Vec<DraftLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftLine {
    room: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    author: Option<HexIdentity>,
    nick: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Whether the right is [`Right::Grant`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    grant: bool,
    action: ActionLine,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ActionLine {
    Message {
        text: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        attributed: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<Seq>,
    },
    Edit {
        target: Seq,
        text: String,
    },
    Delete {
        target: Seq,
    },
    React {
        target: Seq,
        emoji: String,
        on: bool,
    },
    Room {
        topic: String,
    },
}

/// 16 bytes as 32 hexadecimal digits.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct HexId(ProducerId);

impl From<HexId> for String {
    fn from(HexId(id): HexId) -> Self {
        format!("{:032x}", u128::from_be_bytes(id))
    }
}

impl TryFrom<String> for HexId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(|number| Self(number.to_be_bytes()))
    }
}

impl Record {
    /// Returns the bytes of the record.
    pub(super) fn encode(self) -> Vec<u8> {
        let line = match self {
            Self::Genesis(genesis) => Line { genesis: Some(genesis), ..Line::new() },
            Self::NewEpoch(new_epoch) => {
                Line { new_epoch: Some(NewEpochLine::new(new_epoch)), ..Line::new() }
            }
            Self::Append(produced) => {
                Line { append: Some(AppendLine::new(produced)), ..Line::new() }
            }
        };
        serde_json::to_vec(&line).expect("all keys are strings and no other error is possible")
    }

    /// Reads a record.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        let unknown = |error: serde_json::Error| BadRecord::Unknown(error.to_string());
        // `serde` also reads an array as a struct.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(BadRecord::NotARecord);
        }
        let version = serde_json::from_slice(bytes);
        let Versioned { v } = version.map_err(|_| BadRecord::NotARecord)?;
        if v != VERSION {
            return Err(BadRecord::Newer(v));
        }
        let line: Line = serde_json::from_slice(bytes).map_err(unknown)?;
        let genesis = line.genesis.map(|genesis| Ok(Self::Genesis(genesis)));
        let new_epoch = line.new_epoch.map(|line| line.into_new_epoch().map(Self::NewEpoch));
        let append = line.append.map(|line| line.into_produced().map(Self::Append));
        let mut parts = [genesis, new_epoch, append].into_iter().flatten();
        match (parts.next(), parts.next()) {
            (Some(record), None) => record,
            (None | Some(_), _) => Err(BadRecord::Unknown("it has not exactly one part".into())),
        }
    }
}

impl Line {
    /// Returns a line without parts.
    fn new() -> Self {
        Self { v: VERSION, genesis: None, new_epoch: None, append: None }
    }
}

impl NewEpochLine {
    fn new(NewEpoch { epoch, parent, history, settings }: NewEpoch) -> Self {
        let history = history.map(|History { chain, base }| HistoryLine {
            after: chain.position,
            chain: encode_hash(chain),
            base,
        });
        Self { epoch: epoch.as_str().into(), parent: parent.as_str().into(), history, settings }
    }

    fn into_new_epoch(self) -> Result<NewEpoch, BadRecord> {
        let history = self.history.map(|HistoryLine { after, chain, base }| {
            Ok(History { chain: decode_chain(after, &chain)?, base })
        });
        Ok(NewEpoch {
            epoch: Epoch::of(&self.epoch),
            parent: Epoch::of(&self.parent),
            history: history.transpose()?,
            settings: self.settings,
        })
    }
}

fn encode_hash(chain: Chain) -> String {
    format!("{:016x}", chain.hash)
}

fn decode_chain(position: u64, hash: &str) -> Result<Chain, BadRecord> {
    let hash = u64::from_str_radix(hash, 16);
    let hash = hash.map_err(|error| BadRecord::Unknown(error.to_string()))?;
    Ok(Chain { position, hash })
}

impl NewEpoch {
    /// Returns whether the epoch begins with the history of the journal that has this epoch and
    /// chain. Such a journal does not need the records before this one.
    pub(super) fn continues(&self, epoch: &Epoch, chain: Chain) -> bool {
        self.parent == *epoch && self.history.is_some_and(|history| history.chain == chain)
    }
}

impl Record {
    /// Returns the epoch that the log has after the record.
    pub(super) fn epoch(&self) -> Epoch {
        match self {
            Self::Genesis(genesis) => genesis.epoch(),
            Self::NewEpoch(new) => new.epoch.clone(),
            Self::Append(produced) => produced.epoch.clone(),
        }
    }
}

impl Genesis {
    pub(super) fn epoch(&self) -> Epoch {
        Epoch::of(&self.epoch)
    }
}

impl AppendLine {
    fn new(Produced { epoch, producer, n, made, chain, drafts }: Produced) -> Self {
        Self {
            epoch: epoch.as_str().into(),
            producer: HexId(producer),
            n,
            made: made.millis(),
            after: chain.position,
            chain: encode_hash(chain),
            drafts: drafts.into_iter().map(DraftLine::new).collect(),
        }
    }

    fn into_produced(self) -> Result<Produced, BadRecord> {
        Ok(Produced {
            epoch: Epoch::of(&self.epoch),
            producer: self.producer.0,
            n: self.n,
            made: Timestamp::from_millis(self.made),
            chain: decode_chain(self.after, &self.chain)?,
            drafts: self.drafts.into_iter().map(DraftLine::into_draft).collect::<Result<_, _>>()?,
        })
    }
}

impl DraftLine {
    fn new(Draft { room, author, nick, id, right, action }: Draft) -> Self {
        let action = match action {
            Action::Message { text, attributed, reply_to } => {
                ActionLine::Message { text: text.as_str().into(), attributed, reply_to }
            }
            Action::Edit { target, text } => {
                ActionLine::Edit { target, text: text.as_str().into() }
            }
            Action::Delete { target } => ActionLine::Delete { target },
            Action::React { target, emoji, on } => {
                ActionLine::React { target, emoji: emoji.as_str().into(), on }
            }
            Action::Room { topic } => ActionLine::Room { topic: topic.as_str().into() },
        };
        Self {
            room: room.as_str().into(),
            author: author.map(HexIdentity),
            nick: nick.as_str().into(),
            id: id.map(|id| id.as_str().into()),
            grant: right == Right::Grant,
            action,
        }
    }

    fn into_draft(self) -> Result<Draft, BadRecord> {
        let id = self.id.map(|id| MessageId::parse(&id)).transpose();
        let id = id.map_err(|error| BadRecord::Unknown(error.to_string()))?;
        let text = MessageText::from_trusted;
        Ok(Draft {
            room: RoomName::from_trusted(self.room),
            author: self.author.map(|HexIdentity(identity)| identity),
            nick: Nick::from_trusted(self.nick),
            id,
            right: if self.grant { Right::Grant } else { Right::Member },
            action: match self.action {
                ActionLine::Message { text: it, attributed, reply_to } => {
                    Action::Message { text: text(it), attributed, reply_to }
                }
                ActionLine::Edit { target, text: it } => Action::Edit { target, text: text(it) },
                ActionLine::Delete { target } => Action::Delete { target },
                ActionLine::React { target, emoji, on } => {
                    Action::React { target, emoji: Emoji::from_trusted(&emoji), on }
                }
                ActionLine::Room { topic } => Action::Room { topic: Topic::from_trusted(topic) },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Identity;

    fn draft(action: Action) -> Draft {
        Draft {
            room: RoomName::parse("tea").expect("a room"),
            author: Identity::of_key("a key of sixteen characters").ok(),
            nick: Nick::parse("Ada").expect("a name"),
            id: MessageId::parse("id-1").ok(),
            right: Right::Member,
            action,
        }
    }

    #[test]
    fn every_action_is_the_same_after_a_round_trip() {
        let text = |text: &str| MessageText::parse(text, 100).expect("a text");
        let target = Seq::new(4096);
        let actions = [
            Action::Message { text: text("hello \"you\""), attributed: true, reply_to: None },
            Action::Message { text: text("yes"), attributed: false, reply_to: Some(target) },
            Action::Edit { target, text: text("new") },
            Action::Delete { target },
            Action::React { target, emoji: Emoji::parse("👍").expect("an emoji"), on: true },
            Action::Room { topic: Topic::parse("a topic").expect("a topic") },
        ];
        let mut drafts: Vec<_> = actions.into_iter().map(draft).collect();
        drafts[3].right = Right::Grant;
        (drafts[4].author, drafts[4].id) = (None, None);
        let made = Timestamp::from_millis(1_700_000_000_000);
        let chain = Chain { position: 9, hash: u64::MAX - 1 };
        let epoch = Epoch::random();
        let produced = Produced { epoch, producer: [7; 16], n: 3, made, chain, drafts };
        let bytes = Record::Append(produced.clone()).encode();
        let Ok(Record::Append(read)) = Record::decode(&bytes) else { panic!("an append") };
        assert_eq!(format!("{read:?}"), format!("{produced:?}"));
        assert_eq!(read.drafts[0].author, produced.drafts[0].author);
    }

    #[test]
    fn new_epoch_is_the_same_after_a_round_trip() {
        let chain = Chain { position: 9, hash: 1 };
        for history in [None, Some(History { chain, base: Seq::new(1_000_000) })] {
            let new_epoch = NewEpoch {
                epoch: Epoch::random(),
                parent: Epoch::random(),
                history,
                settings: Settings::default(),
            };
            let bytes = Record::NewEpoch(new_epoch.clone()).encode();
            let Ok(Record::NewEpoch(read)) = Record::decode(&bytes) else { panic!("a new epoch") };
            assert_eq!(format!("{read:?}"), format!("{new_epoch:?}"));
        }
    }

    #[test]
    fn record_with_anything_unknown_is_not_read() {
        let bytes = Record::Append(Produced {
            epoch: Epoch::random(),
            producer: [1; 16],
            n: 1,
            made: Timestamp::default(),
            chain: Chain::default(),
            drafts: vec![draft(Action::Delete { target: Seq::new(1) })],
        })
        .encode();
        let known = String::from_utf8(bytes).expect("UTF-8");
        assert!(Record::decode(known.as_bytes()).is_ok());
        for (from, to) in [
            ("\"v\":1", "\"v\":2"),
            ("\"v\":1", "\"v\":1,\"x\":1"),
            ("\"append\"", "\"other\""),
            ("\"delete\"", "\"pin\""),
            ("\"target\"", "\"x\":1,\"target\""),
            ("\"nick\"", "\"x\":1,\"nick\""),
        ] {
            let unknown = known.replace(from, to);
            assert_ne!(unknown, known);
            assert!(Record::decode(unknown.as_bytes()).is_err(), "{unknown}");
        }
        assert!(matches!(Record::decode(b"{\"v\":2}"), Err(BadRecord::Newer(2))));
        for text in ["hello", "{}", "{\"v\":\"1\"}", "[1]", "{\"v\":1", ""] {
            assert!(matches!(Record::decode(text.as_bytes()), Err(BadRecord::NotARecord)));
        }
    }
}
