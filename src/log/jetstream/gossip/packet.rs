//! The packets that nodes send each other, in JSON. Every node receives all packets. A packet that
//! a node does not know is ignored, since the next whole state replaces everything.

use serde::{Deserialize, Serialize};

use crate::domain::{Nick, RoomName, Seq};
use crate::log::jetstream::chain::Chain;
use crate::log::nodes::{Claim, NodeId, NodeUser, UserChange};
use crate::log::sqlite::HexIdentity;

/// A packet of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Packet {
    /// The node is alive.
    Heartbeat(Heartbeat),
    /// Its users have changed. The packets with changes are numbered from 1.
    Changes { n: u64, changes: Vec<ChangeLine> },
    /// A part of all its users, as they are after packet `n`.
    State { n: u64, part: usize, parts: usize, users: Vec<UserLine> },
    /// A user is typing.
    Typing { room: String, who: HexIdentity },
    /// It asks another node, or all, for their users.
    Ask { node: Option<HexNode> },
    /// It stops.
    Bye {},
}

/// What a node shows of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Heartbeat {
    /// The number of the last packet with changes.
    pub(super) n: u64,
    /// The number of the node's mark in generated names.
    pub(super) mark: u16,
    /// The last record that its history file has.
    pub(super) after: u64,
    /// Its chain there, in hexadecimal, if the node reads the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chain: Option<String>,
    /// The version of chinwag.
    pub(super) version: String,
    /// The greatest version of records that it can apply.
    pub(super) records: u32,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
}

impl Heartbeat {
    /// Returns the chain of the node's history file, if the node reads the log.
    pub(super) fn chain(&self) -> Option<Chain> {
        let hash = u64::from_str_radix(self.chain.as_deref()?, 16).ok()?;
        Some(Chain { position: self.after, hash })
    }
}

/// An id as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct HexNode(pub(super) NodeId);

impl From<HexNode> for String {
    fn from(HexNode(NodeId(id)): HexNode) -> Self {
        format!("{id:016x}")
    }
}

impl TryFrom<String> for HexNode {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(|id| Self(NodeId(id)))
    }
}

/// The greatest number of a claim. It is never reached, unless a node is broken.
const CLOCK_MAX: u64 = 1 << 53;

/// A name and the claim to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NameLine {
    nick: String,
    clock: u64,
    node: HexNode,
}

impl NameLine {
    fn new(nick: &Nick, claim: Claim) -> Self {
        Self { nick: nick.as_str().into(), clock: claim.clock, node: HexNode(claim.node) }
    }

    fn read(&self) -> Option<(Nick, Claim)> {
        let claim = Claim { clock: self.clock, node: self.node.0 };
        let is_generated = self.nick.starts_with(Nick::ANONYMOUS_PREFIX)
            && self.nick.len() <= Nick::MAX_CHARS
            && self
                .nick
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || b"-0123456789".contains(&byte));
        let nick = if is_generated {
            Some(Nick::from_trusted(self.nick.clone()))
        } else {
            Nick::parse(&self.nick).ok()
        };
        nick.filter(|_| self.clock <= CLOCK_MAX).map(|nick| (nick, claim))
    }
}

/// A change of the users of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChangeLine {
    Entered { who: HexIdentity, room: String, name: NameLine },
    Left { who: HexIdentity, room: String },
    Named { who: HexIdentity, name: NameLine },
    Read { who: HexIdentity, room: String, seq: Seq },
}

impl From<&UserChange> for ChangeLine {
    fn from(change: &UserChange) -> Self {
        let hex = |who: &_| HexIdentity(*who);
        match change {
            UserChange::Entered { who, room, nick, claim } => {
                let name = NameLine::new(nick, *claim);
                Self::Entered { who: hex(who), room: room.as_str().into(), name }
            }
            UserChange::Left { who, room } => {
                Self::Left { who: hex(who), room: room.as_str().into() }
            }
            UserChange::Named { who, nick, claim } => {
                Self::Named { who: hex(who), name: NameLine::new(nick, *claim) }
            }
            UserChange::Read { who, room, seq } => {
                Self::Read { who: hex(who), room: room.as_str().into(), seq: *seq }
            }
        }
    }
}

impl ChangeLine {
    /// Returns the change, unless a name in it is invalid.
    pub(super) fn read(&self) -> Option<UserChange> {
        Some(match self {
            Self::Entered { who, room, name } => {
                let (nick, claim) = name.read()?;
                UserChange::Entered { who: who.0, room: RoomName::parse(room).ok()?, nick, claim }
            }
            Self::Left { who, room } => {
                UserChange::Left { who: who.0, room: RoomName::parse(room).ok()? }
            }
            Self::Named { who, name } => {
                let (nick, claim) = name.read()?;
                UserChange::Named { who: who.0, nick, claim }
            }
            Self::Read { who, room, seq } => {
                UserChange::Read { who: who.0, room: RoomName::parse(room).ok()?, seq: *seq }
            }
        })
    }
}

/// The greatest number of rooms in a line, so that each line fits into a packet.
const LINE_ROOMS: usize = 100;

/// A user of a node, with some of its rooms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct UserLine {
    who: HexIdentity,
    name: NameLine,
    /// The rooms with the user's read marks, or 0.
    rooms: Vec<(String, Seq)>,
}

impl UserLine {
    /// Returns the lines of a user.
    pub(super) fn of(user: &NodeUser) -> impl Iterator<Item = Self> {
        let NodeUser { who, nick, claim, rooms } = user;
        // A user in no room has one line, too.
        let empty = rooms.is_empty().then_some(&[][..]);
        rooms.chunks(LINE_ROOMS).chain(empty).map(|rooms| Self {
            who: HexIdentity(*who),
            name: NameLine::new(nick, *claim),
            rooms: rooms.iter().map(|(room, seq)| (room.as_str().into(), *seq)).collect(),
        })
    }

    /// Returns the user, unless the name is invalid.
    pub(super) fn read(&self) -> Option<NodeUser> {
        let (nick, claim) = self.name.read()?;
        let room = |(room, seq): &(String, Seq)| Some((RoomName::parse(room).ok()?, *seq));
        let rooms = self.rooms.iter().filter_map(room).collect();
        Some(NodeUser { who: self.who.0, nick, claim, rooms })
    }

    /// Returns about how many bytes the line takes.
    pub(super) fn bytes(&self) -> usize {
        let rooms = self.rooms.iter().map(|(room, _)| room.len() + 24).sum::<usize>();
        // JSON may escape each byte of a name.
        160 + 6 * self.name.nick.len() + rooms
    }
}

impl Packet {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("all keys are strings and no other error is possible")
    }

    /// Reads a packet. Returns `None` if it is not one that this version knows.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Identity;

    #[test]
    fn user_in_many_rooms_is_told_in_lines_that_fit_into_packets() {
        let room = |n: u32| RoomName::parse(&format!("{n:04}{}", "\u{20000}".repeat(60))).ok();
        let rooms: Vec<_> = (0..5000).filter_map(|n| Some((room(n)?, Seq::new(7)))).collect();
        let (who, nick) = (Identity::of_key("the key of a user").ok(), Nick::parse("Ada").ok());
        let (who, nick) = who.zip(nick).expect("both are valid");
        let user = NodeUser { who, nick, claim: Claim::default(), rooms };
        let lines: Vec<_> = UserLine::of(&user).collect();
        let bytes = |line: &UserLine| serde_json::to_vec(line).map_or(0, |json| json.len());
        assert!(lines.iter().all(|line| bytes(line) <= line.bytes() && line.bytes() < 64 * 1024));
        let read = lines.iter().filter_map(UserLine::read).flat_map(|user| user.rooms);
        assert_eq!(read.collect::<Vec<_>>(), user.rooms);
        assert_eq!(user.rooms.len(), 5000);
    }

    #[test]
    fn claim_with_an_impossible_clock_is_ignored() {
        let line = |clock| NameLine { nick: "Ada".into(), clock, node: HexNode(NodeId(1)) };
        assert!(line(CLOCK_MAX).read().is_some());
        assert!(line(CLOCK_MAX + 1).read().is_none());
    }
}
