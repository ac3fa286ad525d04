//! Part of the history of a room, as the answer to a request.

use std::sync::Arc;

use crate::domain::{Change, ChangeKind, ChatMessage, Identity, MessageText, ReactionCount, Seq};
use crate::log::Messages;

/// Consecutive messages of a room in their current state, for one reader.
#[derive(Debug, Default)]
pub(in crate::hub) struct Excerpt {
    /// The messages, oldest first.
    pub(in crate::hub) messages: Vec<Arc<ChatMessage>>,
    /// The reactions to them, sorted by message and emoji.
    pub(in crate::hub) counts: Vec<ReactionCount>,
    /// Whether there are older messages.
    pub(in crate::hub) more: bool,
    /// Whether there are newer messages.
    pub(in crate::hub) more_newer: bool,
}

impl Excerpt {
    /// Puts a page of the log before this excerpt, within the limits of one answer.
    pub(super) fn prepend(&mut self, older: Messages, limit: usize, max_bytes: usize) {
        let mut bytes: usize = self.messages.iter().map(|it| it.text.as_str().len()).sum();
        let mut start = older.messages.len();
        for message in older.messages.iter().rev() {
            bytes += message.text.as_str().len();
            let count = self.messages.len() + older.messages.len() - start;
            if count > 0 && (count >= limit || bytes > max_bytes) {
                break;
            }
            start -= 1;
        }
        self.more = older.more || start > 0;
        self.more_newer |= older.more_newer;
        self.messages.splice(0..0, older.messages.into_iter().skip(start));
        self.counts.splice(0..0, older.counts);
        let first = self.messages.first().map_or(Seq::MAX, |first| first.seq);
        self.counts.retain(|count| count.target >= first);
    }

    /// Applies a change that was delivered after the request. The messages may already have the
    /// state after it.
    pub(super) fn apply(&mut self, change: &Change, reader: Identity) {
        let Some(target) = change.kind.target() else { return };
        let found = self.messages.binary_search_by_key(&target, |message| message.seq).ok();
        match &change.kind {
            ChangeKind::Edit { text, .. } => {
                if let Some(at) = found.filter(|&at| !self.messages[at].deleted) {
                    Arc::make_mut(&mut self.messages[at]).edit(text.clone(), change.at);
                }
                self.replace_quotes(target, Some(text));
            }
            ChangeKind::Delete { .. } => {
                if let Some(at) = found {
                    Arc::make_mut(&mut self.messages[at]).delete();
                }
                self.counts.retain(|count| count.target != target);
                self.replace_quotes(target, None);
            }
            ChangeKind::React { emoji, on, count, .. } => {
                if found.is_none_or(|at| self.messages[at].deleted) {
                    return;
                }
                let key = |it: &ReactionCount| (it.target, it.emoji.clone());
                let place = self.counts.binary_search_by_key(&(target, emoji.clone()), key);
                let before = place.ok().is_some_and(|at| self.counts[at].mine);
                let mine = if change.author == Some(reader) { *on } else { before };
                let new = ReactionCount { target, emoji: emoji.clone(), count: *count, mine };
                match place {
                    Ok(at) => self.counts[at] = new,
                    Err(at) => self.counts.insert(at, new),
                }
                self.counts.retain(|count| count.count > 0);
            }
            ChangeKind::Room { .. } => {}
        }
    }

    fn replace_quotes(&mut self, target: Seq, text: Option<&MessageText>) {
        for message in &mut self.messages {
            if message.reply_to == Some(target) && message.quote.is_some() {
                Arc::make_mut(message).change_quote(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ClientId, Emoji, Nick, RoomName, Timestamp};

    fn excerpt() -> Excerpt {
        let message = |seq: u64| {
            let (nick, text) = (Nick::parse("ada"), MessageText::parse(format!("t{seq}"), 9));
            let (nick, text) = (nick.expect("a name"), text.expect("a text"));
            let at = Timestamp::from_millis(seq);
            ChatMessage::new(RoomName::default(), Seq::new(seq), at, nick, text)
        };
        let quote = message(1).as_quote();
        let reply = ChatMessage { reply_to: Some(Seq::new(1)), quote, ..message(3) };
        let messages = [message(1), message(2), reply].into_iter().map(Arc::new).collect();
        Excerpt { messages, ..Excerpt::default() }
    }

    fn change(author: Option<Identity>, kind: ChangeKind) -> Change {
        let (room, nick) = (RoomName::default(), Nick::parse("ada").expect("a name"));
        let at = Timestamp::from_millis(9);
        Change { room, seq: Seq::new(9), at, author, nick, id: None, kind }
    }

    fn shown(excerpt: &Excerpt) -> Vec<(&str, Option<&str>)> {
        let quote = |message: &Arc<ChatMessage>| message.quote.is_some();
        assert!(excerpt.messages.iter().all(|message| !quote(message) || !message.deleted));
        let shown = excerpt.messages.iter();
        shown.map(|it| (it.text.as_str(), it.quote.as_deref().map(|quote| &*quote.text))).collect()
    }

    #[test]
    fn change_that_was_delivered_during_the_read_is_applied_to_the_answer() {
        let reader = Identity::of_client(ClientId::next());
        let (target, mut excerpt) = (Seq::new(1), excerpt());
        let text = MessageText::parse("new", 9).expect("a text");
        let emoji = Emoji::parse("👍").expect("an emoji");
        let react = |on, count| ChangeKind::React { target, emoji: emoji.clone(), on, count };
        excerpt.apply(&change(None, ChangeKind::Edit { target, text: text.clone() }), reader);
        assert_eq!(shown(&excerpt), [("new", None), ("t2", None), ("t3", Some("new"))]);
        assert!(excerpt.messages[0].edited_at.is_some());
        excerpt.apply(&change(Some(reader), react(true, 1)), reader);
        excerpt.apply(&change(None, react(true, 2)), reader);
        assert_eq!((excerpt.counts[0].count, excerpt.counts[0].mine), (2, true));
        excerpt.apply(&change(Some(reader), react(false, 1)), reader);
        assert_eq!((excerpt.counts[0].count, excerpt.counts[0].mine), (1, false));
        excerpt.apply(&change(None, ChangeKind::Delete { target }), reader);
        excerpt.apply(&change(None, ChangeKind::Edit { target, text }), reader);
        assert_eq!(shown(&excerpt), [("", None), ("t2", None), ("t3", None)]);
        assert!(excerpt.messages[0].deleted && excerpt.counts.is_empty());
    }
}
