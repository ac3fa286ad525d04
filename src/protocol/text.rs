//! The text protocol, as in gorilla/websocket's chat example: a client sends one message per
//! WebSocket message, and the server sends one message per line.

use super::Command;
use crate::domain::{BadText, ChatMessage, Entry, MessageText, RoomName};

/// Some programs treat these as line breaks.
const LINE_SEPARATOR: char = '\u{2028}';
const PARAGRAPH_SEPARATOR: char = '\u{2029}';

/// Decodes a WebSocket message of a client in this room. Line breaks and other control characters
/// become spaces, since the protocol can neither quote nor reject them. Returns none if nothing
/// else is left.
///
/// # Errors
/// Returns an error if the message has more than `max_bytes` bytes.
pub fn decode(frame: &str, room: &RoomName, max_bytes: usize) -> Result<Option<Command>, BadText> {
    let text = frame.replace("\r\n", " ").replace(|c: char| c.is_control() && c != '\t', " ");
    match MessageText::parse(text.trim(), max_bytes) {
        Ok(text) => Ok(Some(Command::Say { room: room.clone(), text, id: None, reply_to: None })),
        Err(BadText::Empty) => Ok(None),
        Err(error @ (BadText::TooLong(_) | BadText::Control)) => Err(error),
    }
}

/// Encodes an entry as a line. Returns `None` for a change, because the protocol has only messages.
#[must_use]
pub fn entry_line(entry: &Entry) -> Option<String> {
    match entry {
        Entry::Message(message) => Some(line(message)),
        Entry::Change(_) | Entry::Settings(_) => None,
    }
}

/// Encodes a message that is not deleted as a line, without the line break.
#[must_use]
pub fn line(message: &ChatMessage) -> String {
    let text = message.text.as_str().replace(['\n', LINE_SEPARATOR, PARAGRAPH_SEPARATOR], " ");
    if message.attributed { format!("{}: {text}", message.nick) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::domain::{Change, ChangeKind, Emoji, Nick, Seq, Timestamp, Topic};

    fn said(frame: &str) -> Option<String> {
        match decode(frame, &RoomName::default(), 8).expect("not too long") {
            Some(Command::Say { text, .. }) => Some(text.as_str().to_owned()),
            Some(other) => panic!("{other:?}"),
            None => None,
        }
    }

    #[test]
    fn frame_is_trimmed_and_its_line_breaks_become_spaces() {
        assert_eq!(said("hello").as_deref(), Some("hello"));
        assert_eq!(said("\n a\nb\r\nc \n").as_deref(), Some("a b c"));
        assert_eq!(said("a\tb").as_deref(), Some("a\tb"));
        assert_eq!(said("a\0b\u{1B}c").as_deref(), Some("a b c"));
    }

    #[test]
    fn frame_of_white_space_is_not_a_command() {
        for frame in ["", " ", "\n\r\n\t", "\0"] {
            assert_eq!(said(frame), None, "{frame:?}");
        }
    }

    #[test]
    fn limit_applies_to_the_bytes_after_trimming() {
        assert_eq!(said("  12345678  ").as_deref(), Some("12345678"));
        for long in ["123456789", "éééé!"] {
            assert_eq!(decode(long, &RoomName::default(), 8), Err(BadText::TooLong(8)));
        }
    }

    fn message(text: &str, attributed: bool) -> ChatMessage {
        ChatMessage {
            room: RoomName::default(),
            seq: Seq::new(1),
            at: Timestamp::now(),
            author: None,
            nick: Nick::parse("ada").expect("a name"),
            text: MessageText::parse(text, 100).expect("a text"),
            id: None,
            attributed,
            reply_to: None,
            quote: None,
            edited_at: None,
            deleted: false,
            counted: None,
        }
    }

    #[test]
    fn line_begins_with_the_name_of_its_author_if_it_is_attributed() {
        assert_eq!(line(&message("one\ntwo", true)), "ada: one two");
        assert_eq!(line(&message("one\ntwo", false)), "one two");
        assert_eq!(line(&message("x\u{2028}Ada: y", false)), "x Ada: y");
    }

    #[test]
    fn changes_have_no_line() {
        let message = message("hello", true);
        let change = |kind| {
            let ChatMessage { room, seq, at, author, nick, id, .. } = message.clone();
            Entry::Change(Arc::new(Change { room, seq, at, author, nick, id, kind }))
        };
        let (target, emoji) = (message.seq, Emoji::parse("👍").expect("an emoji"));
        let topic = Topic::parse("Tea").expect("a topic");
        for kind in [
            ChangeKind::Edit { target, text: message.text.clone() },
            ChangeKind::Delete { target },
            ChangeKind::React { target, emoji, on: true, count: 1 },
            ChangeKind::Room { topic },
        ] {
            assert_eq!(entry_line(&change(kind.clone())), None, "{kind:?}");
        }
        let entry = Entry::Message(Arc::new(message));
        assert_eq!(entry_line(&entry).as_deref(), Some("ada: hello"));
    }
}
