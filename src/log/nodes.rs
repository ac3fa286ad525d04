//! What the nodes that share a log tell each other about their users: who is in which room and
//! under which name, who is typing, and what users have read. It is not part of the log, because it
//! changes often and need not be kept. It may be lost. Then a node receives the whole state of
//! another one.

use std::collections::HashMap;

use actix::prelude::*;

use crate::domain::{Identity, Nick, NodeMark, RoomName, Seq};

/// Identifies one run of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// A user's claim to a name. Of two users with the same name, the one with the smaller claim keeps
/// it. Of two names of the same user, a chosen one counts more than a generated one, and of two
/// others, the one with the greater claim counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// A number that is greater than those of all claims that the node knew before.
    pub clock: u64,
    /// The node at which the user took the name.
    pub node: NodeId,
}

/// The nodes that share the log of a hub.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// This node.
    pub id: NodeId,
    /// The part of anonymous names that stands for this node.
    pub mark: NodeMark,
    /// Takes the hub. It is sent before everything else.
    pub follow: Recipient<FollowNodes>,
    /// Takes what happens on this node.
    pub tell: Recipient<TellNodes>,
}

/// Tells where to send [`FromNodes`].
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct FollowNodes(pub Recipient<FromNodes>);

/// What the other nodes are told.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum TellNodes {
    /// The users of this node have changed, or the name of a user whom it knows.
    Changed(UserChange),
    /// A user who is in no room of this node is in no room of another node either, and has no
    /// client. It is not sent to the other nodes.
    Forget(Identity),
    /// A user is typing. It may be lost.
    Typing {
        /// The room.
        room: RoomName,
        /// The user.
        who: Identity,
    },
}

/// A change of the users of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserChange {
    /// A user has entered a room with the first of its clients on the node.
    Entered {
        /// The user.
        who: Identity,
        /// The room.
        room: RoomName,
        /// The user's name.
        nick: Nick,
        /// The claim to the name.
        claim: Claim,
    },
    /// The last of the user's clients on the node has left the room.
    Left {
        /// The user.
        who: Identity,
        /// The room.
        room: RoomName,
    },
    /// A user has another name.
    Named {
        /// The user.
        who: Identity,
        /// The new name.
        nick: Nick,
        /// The claim to the name.
        claim: Claim,
    },
    /// A user has read a room.
    Read {
        /// The user.
        who: Identity,
        /// The room.
        room: RoomName,
        /// The user's read mark.
        seq: Seq,
    },
}

/// A user of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeUser {
    /// The user.
    pub who: Identity,
    /// The user's name.
    pub nick: Nick,
    /// The claim to the name.
    pub claim: Claim,
    /// The rooms in which the user has clients on the node, with the user's read marks, or 0.
    pub rooms: Vec<(RoomName, Seq)>,
}

/// What the hub is told of the other nodes.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum FromNodes {
    /// The users of a node have changed.
    Changed {
        /// The node.
        node: NodeId,
        /// The changes, in order.
        changes: Vec<UserChange>,
    },
    /// These are all users of a node.
    State {
        /// The node.
        node: NodeId,
        /// Its users.
        users: Vec<NodeUser>,
    },
    /// The node has stopped, or has not been heard of for some time.
    Gone(NodeId),
    /// A user of another node is typing.
    Typing {
        /// The room.
        room: RoomName,
        /// The user.
        who: Identity,
    },
    /// Another node has the mark of this one. This is the new one.
    Mark(NodeMark),
}

/// The users that one node tells the others about: those in its rooms, and those whose name it may
/// know better than the node on which they are.
#[derive(Debug)]
pub struct LocalUsers {
    node: NodeId,
    users: HashMap<Identity, NodeUser>,
}

impl LocalUsers {
    /// Returns the users of a node that has no users yet.
    #[must_use]
    pub fn of(node: NodeId) -> Self {
        Self { node, users: HashMap::new() }
    }

    /// Returns the state for nodes that have missed changes.
    pub fn state(&self) -> impl Iterator<Item = &NodeUser> {
        let is_told = |user: &&NodeUser| !user.rooms.is_empty() || user.claim.node == self.node;
        self.users.values().filter(is_told)
    }

    /// Returns whether there are no users.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Applies a change.
    pub fn apply(&mut self, change: &UserChange) {
        match change {
            UserChange::Entered { who, room, nick, claim } => {
                self.named(*who, nick, *claim).rooms.push((room.clone(), Seq::default()));
            }
            UserChange::Left { who, room } => {
                if let Some(user) = self.users.get_mut(who) {
                    user.rooms.retain(|(known, _)| known != room);
                }
            }
            UserChange::Named { who, nick, claim } => {
                self.named(*who, nick, *claim);
            }
            UserChange::Read { who, room, seq } => {
                let rooms = self.users.get_mut(who).into_iter().flat_map(|user| &mut user.rooms);
                rooms.filter(|(known, _)| known == room).for_each(|(_, mark)| *mark = *seq);
            }
        }
    }

    /// Returns a user, who now has this name.
    fn named(&mut self, who: Identity, nick: &Nick, claim: Claim) -> &mut NodeUser {
        let nick = nick.clone();
        let user = self.users.entry(who);
        let user =
            user.or_insert_with(|| NodeUser { who, nick: nick.clone(), claim, rooms: vec![] });
        (user.nick, user.claim) = (nick, claim);
        user
    }

    /// Removes a user whom the hub does not know any more: see [`TellNodes::Forget`].
    pub fn forget(&mut self, who: Identity) {
        self.users.remove(&who);
    }
}
