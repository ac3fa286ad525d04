//! A room: who is in it, what is about to be flushed.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::history::History;
use super::presence::News;
use super::{Join, Outlet};
use crate::admission::Source;
use crate::domain::{ChatMessage, ClientId, Draft, Identity, Nick};
use crate::wire::Ref;

/// A room where somebody is, or something is under way.
pub(super) struct Room {
    /// The address whose client opened it, unless the server or another crate did.
    pub(super) opener: Option<Source>,
    pub(super) members: HashMap<ClientId, Rc<Outlet>>,
    /// Who is here, each once, in however many windows.
    pub(super) people: HashSet<Identity>,
    /// Who bears each name that was chosen, by each of the forms in which names are compared.
    names: HashMap<String, Identity>,
    pub(super) news: News,
    /// Who joins as soon as the ring has been read.
    pub(super) joining: Vec<Join>,
    /// What has been said since the reading began.
    pub(super) meanwhile: Vec<Arc<ChatMessage>>,
    pub(super) pending: Vec<Pending>,
    pub(super) pending_bytes: usize,
    /// Who has asked what was said after saying something that is pending.
    pub(super) asked: Vec<History>,
    /// Permits of senders that wait for the next flush: those who filled the batch.
    pub(super) unaccepted: Vec<OwnedSemaphorePermit>,
    pub(super) next_flush: Instant,
    /// Whether it is noted somewhere that the room will be flushed.
    pub(super) scheduled: bool,
    /// Whether the log has something of the room that it has not answered yet.
    pub(super) in_flight: bool,
}

/// What somebody has said, before it has its place.
pub(super) struct Pending {
    pub(super) draft: Draft,
    /// The client that said it, unless the server itself did.
    pub(super) sender: Option<Sender>,
    pub(super) accepted: Instant,
}

/// What is pending, and who is to be answered after it.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) pending: Vec<Pending>,
    pub(super) asked: Vec<History>,
}

/// Whom to tell what has become of a message.
pub(super) struct Sender {
    pub(super) client: ClientId,
    pub(super) reference: Option<Ref>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            opener: None,
            members: HashMap::new(),
            people: HashSet::new(),
            names: HashMap::new(),
            news: News::default(),
            joining: Vec::new(),
            meanwhile: Vec::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            asked: Vec::new(),
            unaccepted: Vec::new(),
            next_flush: Instant::now(),
            scheduled: false,
            in_flight: false,
        }
    }
}

impl Room {
    pub(super) fn opened_by(opener: Option<Source>) -> Self {
        Self { opener, ..Self::default() }
    }

    /// Somebody is here who was not.
    pub(super) fn arrive(&mut self, who: Identity, nick: &Nick) {
        self.people.insert(who);
        self.take_name(who, nick);
        self.news.came(who, nick);
    }

    /// Somebody's last window is gone.
    pub(super) fn depart(&mut self, who: Identity, nick: &Nick) {
        self.people.remove(&who);
        self.forget_name(who, nick);
        self.news.went(who, nick);
    }

    /// Somebody goes by another name.
    pub(super) fn rename(&mut self, who: Identity, before: &Nick, after: &Nick) {
        self.forget_name(who, before);
        self.take_name(who, after);
        self.news.renamed(who, before);
    }

    /// Another address that has a client here, unless the one that opened the room still has one.
    pub(super) fn successor(&self, opener: Source) -> Option<Source> {
        let mut successor = None;
        for source in self.members.values().filter_map(|member| member.source()) {
            if source == opener {
                return None;
            }
            successor = Some(source);
        }
        successor
    }

    /// The identities that have this name or one that looks alike, if it was chosen. The two forms
    /// of a name may belong to two identities.
    pub(super) fn bearers<'a>(
        &'a self,
        nick: &'a Nick,
    ) -> impl Iterator<Item = Identity> + use<'a> {
        let forms = Self::chosen(nick).into_iter().flatten();
        forms.filter_map(|form| self.names.get(form)).copied()
    }

    fn take_name(&mut self, who: Identity, nick: &Nick) {
        for form in Self::chosen(nick).into_iter().flatten() {
            self.names.entry(form.to_owned()).or_insert(who);
        }
    }

    /// Removes the entries of a name that belong to this identity.
    fn forget_name(&mut self, who: Identity, nick: &Nick) {
        for form in Self::chosen(nick).into_iter().flatten() {
            if self.names.get(form) == Some(&who) {
                self.names.remove(form);
            }
        }
    }

    /// The forms by which a name that was chosen is known.
    fn chosen(nick: &Nick) -> Option<[&str; 2]> {
        (!nick.is_anonymous()).then(|| nick.forms())
    }

    /// Puts a message by for the next flush, and says how many bytes of text that adds.
    pub(super) fn push(&mut self, pending: Pending) -> usize {
        let bytes = pending.draft.text.as_str().len();
        self.pending_bytes += bytes;
        self.pending.push(pending);
        bytes
    }

    /// Takes what is pending, and lets go of those who wait for that.
    pub(super) fn take_pending(&mut self) -> Taken {
        self.pending_bytes = 0;
        self.scheduled = false;
        self.unaccepted.clear();
        let (pending, asked) = (&mut self.pending, &mut self.asked);
        Taken { pending: std::mem::take(pending), asked: std::mem::take(asked) }
    }

    /// Whether nobody is here and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        let nobody = self.members.is_empty() && self.joining.is_empty();
        nobody && self.pending.is_empty() && !self.in_flight
    }

    /// Whether a line of this text, written without its author's name, would read as if somebody
    /// in the room had said it.
    pub(super) fn reads_as_a_members(&self, text: &str) -> bool {
        Nick::forms_claimed_by(text).iter().any(|forms| {
            Nick::is_reserved(forms) || forms.iter().any(|form| self.names.contains_key(form))
        })
    }
}
