//! The roster of a room: its users and their names. In a cluster, they are those of all nodes.

use std::collections::{HashMap, HashSet};

use super::presence::PresenceDelta;
use crate::domain::{Identity, Nick};

/// The users of a room.
#[derive(Default)]
pub(in crate::hub) struct Roster {
    pub(super) users: HashSet<Identity>,
    /// The number of users on each other node, added up. A user on two of them counts twice.
    pub(in crate::hub) remote: usize,
    /// The owners of each chosen name, keyed by both comparison forms ([`Nick::forms`]).
    names: HashMap<String, Owners>,
    pub(super) presence: PresenceDelta,
}

/// The users who have a name.
struct Owners {
    first: Identity,
    /// More users have it only until a conflict between nodes is resolved.
    others: Vec<Identity>,
}

impl Roster {
    /// Adds a user who has entered the room.
    pub(in crate::hub) fn add_user(&mut self, who: Identity, nick: &Nick) {
        self.users.insert(who);
        self.take_name(who, nick);
        self.presence.joined(who, nick);
    }

    /// Removes a user who has left the room.
    pub(in crate::hub) fn remove_user(&mut self, who: Identity, nick: &Nick) {
        self.users.remove(&who);
        self.release_name(who, nick);
        self.presence.left(who, nick);
    }

    /// Changes the name of a user.
    pub(in crate::hub) fn rename(&mut self, who: Identity, before: &Nick, after: &Nick) {
        self.release_name(who, before);
        self.take_name(who, after);
        self.presence.renamed(who, before);
    }

    pub(in crate::hub) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Returns the users who have this name or one that looks alike. The two forms of a name may
    /// belong to two users. Names that the server gave have no owner.
    pub(in crate::hub) fn owners_of<'a>(
        &'a self,
        nick: &'a Nick,
    ) -> impl Iterator<Item = Identity> + use<'a> {
        let owners = chosen(nick).into_iter().flatten().filter_map(|form| self.names.get(form));
        owners.flat_map(|owners| [owners.first].into_iter().chain(owners.others.iter().copied()))
    }

    /// Returns whether one of the users has a name with one of these forms.
    pub(in crate::hub) fn has_name(&self, forms: &[String; 2]) -> bool {
        forms.iter().any(|form| self.names.contains_key(form))
    }

    fn take_name(&mut self, who: Identity, nick: &Nick) {
        for form in chosen(nick).into_iter().flatten() {
            if let Some(owners) = self.names.get_mut(form) {
                if owners.first != who && !owners.others.contains(&who) {
                    owners.others.push(who);
                }
            } else {
                let owners = Owners { first: who, others: Vec::new() };
                self.names.insert(form.to_owned(), owners);
            }
        }
    }

    fn release_name(&mut self, who: Identity, nick: &Nick) {
        for form in chosen(nick).into_iter().flatten() {
            let Some(owners) = self.names.get_mut(form) else { continue };
            owners.others.retain(|other| *other != who);
            if owners.first == who {
                if let Some(other) = owners.others.pop() {
                    owners.first = other;
                } else {
                    self.names.remove(form);
                }
            }
        }
    }
}

/// Returns the forms of a name, unless the server gave it.
fn chosen(nick: &Nick) -> Option<[&str; 2]> {
    (!nick.is_anonymous()).then(|| nick.forms())
}
