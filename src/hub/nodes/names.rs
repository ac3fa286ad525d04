//! Names in a cluster. A name is checked against the users of all nodes when a user takes it. Two
//! users may still take one name, on two nodes at the same time or while these are disconnected.
//! Then the smaller claim keeps the name, and the node of the other user renames that user.

use super::*;
use crate::domain::random;
use crate::hub::Deliver;
use crate::protocol::Reply;

/// How many numbers are tried for a free name.
const TRIES: u32 = 16;

/// Returns a number with three or four digits.
fn random_number() -> u32 {
    100 + (random() % 9900) as u32
}

impl Hub {
    /// Tells the other nodes the name of a user.
    pub(in crate::hub) fn tell_name(&self, who: Identity) {
        if let Some(user) = self.users.get(&who) {
            let (nick, claim) = (user.nick.clone(), user.claim);
            self.nodes.tell_change(|| UserChange::Named { who, nick, claim });
        }
    }

    /// Gives a user the name that another node knows, if it counts more. If it counts less, tells
    /// that node the other one.
    pub(super) fn take_claim(&mut self, who: Identity, nick: &Nick, claim: Claim) {
        self.nodes.clock = self.nodes.clock.max(claim.clock);
        let Some(user) = self.users.get(&who).filter(|user| user.claim != claim) else { return };
        // A node generates a name for a client without one, if it does not know the user yet.
        if (!user.nick.is_anonymous(), user.claim) > (!nick.is_anonymous(), claim) {
            return self.tell_name(who);
        }
        let (is_here, before) = (!user.clients.is_empty(), user.nick.clone());
        let rooms: Vec<_> = user.rooms.keys().cloned().collect();
        self.set_name(who, nick, claim);
        if is_here {
            self.tell_name(who);
            if before.as_str() != nick.as_str() {
                self.welcome_again(who);
            }
        }
        self.resolve_conflicts(who, &rooms);
    }

    /// Resolves the conflicts of a user's name with others in these rooms: renames the users of
    /// this node who have the greater claim.
    pub(super) fn resolve_conflicts(&mut self, who: Identity, rooms: &[RoomName]) {
        for room in rooms {
            let Some(user) = self.users.get(&who) else { return };
            let Some(roster) = self.rosters.get(room) else { continue };
            let others = roster.owners_of(&user.nick).filter(|owner| *owner != who);
            let others = others.filter_map(|other| Some((self.users.get(&other)?.claim, other)));
            let mut others: Vec<_> = others.collect();
            others.sort_unstable();
            others.dedup();
            for (claim, other) in others {
                let own = self.users.get(&who).map(|user| user.claim);
                if own > Some(claim) {
                    return self.give_free_name(who);
                }
                self.give_free_name(other);
            }
        }
    }

    /// Renames a user of this node, whose name belongs to another user. The node of a user of
    /// another node does so itself.
    fn give_free_name(&mut self, who: Identity) {
        let Some(user) = self.users.get(&who) else { return };
        if user.clients.is_empty() {
            return;
        }
        let (nick, rooms) = (&user.nick, user.rooms.keys());
        let free = self.free_name(nick, rooms.clone());
        // Many users may have had the name. A generated name would count less than this one.
        let free = free.or_else(|| {
            let mut others = (0..TRIES).filter_map(|_| nick.numbered(random_number()));
            others.find(|other| self.is_free_in(other, rooms.clone()))
        });
        if let Some(free) = free {
            self.rename(who, &free);
            self.welcome_again(who);
        }
    }

    /// Gives this node another mark, and its users without a chosen name other names.
    pub(super) fn change_mark(&mut self, mark: NodeMark) {
        let Some(nodes) = self.nodes.nodes.as_mut().filter(|nodes| nodes.mark != mark) else {
            return;
        };
        nodes.mark = mark;
        let users = self.users.iter().filter(|(_, user)| user.nick.is_anonymous());
        let users = users.filter_map(|(who, user)| Some((*who, *user.clients.first()?)));
        for (who, client) in users.collect::<Vec<_>>() {
            self.rename(who, &Nick::anonymous_on(mark, client));
            self.welcome_again(who);
        }
    }

    /// Tells the clients of a user the user's new name.
    fn welcome_again(&mut self, who: Identity) {
        let Some(user) = self.users.get(&who) else { return };
        let event = self.welcome(who, user.nick.clone());
        for client in user.clients.clone() {
            if self.clients.get(&client).is_some_and(|client| client.events) {
                let reply = Reply { event: event.clone(), reference: None };
                self.send_to(client, Deliver::Direct(vec![reply]));
            }
        }
    }
}
