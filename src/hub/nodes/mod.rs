//! The users of other nodes. In a cluster, each node tells the others who is in which room. The hub
//! adds these users to its own, so that members, names and limits are those of all nodes.

mod names;

use std::collections::HashMap;

use actix::prelude::*;

use super::Hub;
use super::registry::{User, map_for_one_room};
use crate::domain::{ClientId, Identity, Nick, NodeMark, RoomName, Seq};
use crate::log::nodes::{
    Claim, FollowNodes, FromNodes, NodeId, NodeUser, Nodes, TellNodes, UserChange,
};

/// What the hub knows of the other nodes. Without a cluster there are none.
#[derive(Default)]
pub(super) struct OtherNodes {
    /// The way to the other nodes.
    nodes: Option<Nodes>,
    /// The greatest number of a claim that is known.
    clock: u64,
    /// The users of each other node, with the rooms in which they are there.
    users: HashMap<NodeId, HashMap<Identity, Vec<RoomName>>>,
}

impl OtherNodes {
    pub(super) fn of(nodes: Option<&Nodes>) -> Self {
        Self { nodes: nodes.cloned(), ..Self::default() }
    }

    /// Begins to receive [`FromNodes`].
    pub(super) fn follow(&self, hub: Recipient<FromNodes>) {
        if let Some(nodes) = &self.nodes {
            nodes.follow.do_send(FollowNodes(hub));
        }
    }

    /// Returns a claim that is greater than all known ones.
    pub(super) fn next_claim(&mut self) -> Claim {
        // A broken node may tell the greatest possible number.
        self.clock = self.clock.saturating_add(1);
        Claim { clock: self.clock, node: self.nodes.as_ref().map_or(NodeId(0), |nodes| nodes.id) }
    }

    /// Adds the mark of this node to a generated name.
    pub(super) fn mark_anonymous(&self, client: ClientId, nick: Nick) -> Nick {
        let mark = self.nodes.as_ref().map(|nodes| nodes.mark);
        match mark.filter(|_| nick.is_anonymous()) {
            Some(mark) => Nick::anonymous_on(mark, client),
            None => nick,
        }
    }

    /// Returns a generated name that no user has.
    pub(super) fn generate_name(&self) -> Nick {
        // The name of a client may have become that of an identity with other clients.
        let unused = ClientId::next();
        self.mark_anonymous(unused, Nick::anonymous(unused))
    }

    /// Tells the other nodes something.
    pub(super) fn tell(&self, tell: TellNodes) {
        if let Some(nodes) = &self.nodes {
            nodes.tell.do_send(tell);
        }
    }

    /// Tells the other nodes of a change of this node's users.
    pub(super) fn tell_change(&self, change: impl FnOnce() -> UserChange) {
        if self.nodes.is_some() {
            self.tell(TellNodes::Changed(change()));
        }
    }
}

impl Handler<FromNodes> for Hub {
    type Result = ();

    fn handle(&mut self, from_nodes: FromNodes, ctx: &mut Self::Context) {
        match from_nodes {
            FromNodes::Changed { node, changes } => {
                for change in changes {
                    self.apply_change(node, change);
                }
            }
            FromNodes::State { node, users } => self.replace_users(node, users),
            FromNodes::Gone(node) => self.replace_users(node, Vec::new()),
            FromNodes::Typing { room, who } => {
                self.send_typing(who, &room);
            }
            FromNodes::Mark(mark) => self.change_mark(mark),
        }
        self.let_sessions_run(ctx);
    }
}

impl Hub {
    fn apply_change(&mut self, node: NodeId, change: UserChange) {
        match change {
            UserChange::Entered { who, room, nick, claim } => {
                self.enter_on_node(node, who, &nick, claim, room);
            }
            UserChange::Left { who, room } => self.leave_on_node(node, who, &room),
            UserChange::Named { who, nick, claim } => self.take_claim(who, &nick, claim),
            UserChange::Read { who, room, seq } => self.mark_read_on_node(who, &room, seq),
        }
    }

    /// Replaces the users of a node. What stays the same is not told to anybody.
    fn replace_users(&mut self, node: NodeId, users: Vec<NodeUser>) {
        let mut absent = self.nodes.users.get(&node).cloned().unwrap_or_default();
        for NodeUser { who, rooms, .. } in &users {
            if let Some(absent) = absent.get_mut(who) {
                absent.retain(|room| rooms.iter().all(|(present, _)| present != room));
            }
        }
        // They leave first, since others may have taken their names.
        for (who, rooms) in absent {
            for room in rooms {
                self.leave_on_node(node, who, &room);
            }
        }
        for NodeUser { who, nick, claim, rooms } in users {
            for (room, seq) in rooms {
                self.enter_on_node(node, who, &nick, claim, room.clone());
                if seq > Seq::default() {
                    self.mark_read_on_node(who, &room, seq);
                }
            }
            self.take_claim(who, &nick, claim);
        }
    }

    /// Adds a user of another node to a room.
    fn enter_on_node(
        &mut self,
        node: NodeId,
        who: Identity,
        nick: &Nick,
        claim: Claim,
        room: RoomName,
    ) {
        let rooms = self.nodes.users.entry(node).or_default().entry(who).or_default();
        if rooms.contains(&room) {
            return;
        }
        let is_new_on_node = rooms.is_empty();
        rooms.push(room.clone());
        self.nodes.clock = self.nodes.clock.max(claim.clock);
        let user = self.users.entry(who).or_insert_with(|| User {
            nick: nick.clone(),
            claim,
            clients: Vec::new(),
            nodes: 0,
            rooms: map_for_one_room(),
        });
        user.nodes += u32::from(is_new_on_node);
        let known = user.rooms.entry(room.clone()).or_default();
        let is_new = known.is_empty();
        known.nodes += 1;
        let roster = self.rosters.entry(room.clone()).or_default();
        roster.remote += 1;
        if is_new {
            roster.add_user(who, &user.nick);
            self.schedule_presence(&room);
        }
        self.take_claim(who, nick, claim);
        self.resolve_conflicts(who, &[room]);
    }

    /// Removes a user of another node from a room.
    fn leave_on_node(&mut self, node: NodeId, who: Identity, room: &RoomName) {
        let Some(users) = self.nodes.users.get_mut(&node) else { return };
        let Some(rooms) = users.get_mut(&who) else { return };
        let Some(index) = rooms.iter().position(|known| known == room) else { return };
        rooms.swap_remove(index);
        let is_absent = rooms.is_empty();
        if is_absent {
            users.remove(&who);
            if users.is_empty() {
                self.nodes.users.remove(&node);
            }
        }
        if let Some(roster) = self.rosters.get_mut(room) {
            roster.remote -= 1;
        }
        if let Some(user) = self.users.get_mut(&who) {
            user.nodes -= u32::from(is_absent);
            if let Some(known) = user.rooms.get_mut(room) {
                known.nodes -= 1;
            }
        }
        self.leave_roster_if_absent(who, room);
        self.remove_user_if_absent(who);
    }
}
