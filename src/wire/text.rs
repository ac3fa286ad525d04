//! The text protocol, as in gorilla/websocket's chat example: a frame is a message, a line is a
//! message, and nothing else is said.

use super::Command;
use crate::domain::{BadText, ChatMessage, MessageText, RoomName};

/// Some programs break lines at these, too.
const LINE_SEPARATOR: char = '\u{2028}';
const PARAGRAPH_SEPARATOR: char = '\u{2029}';

/// Reads a frame of a client in this room. Line breaks and other control characters become spaces,
/// since the protocol has neither a way to quote them nor one to complain; what is empty then is
/// no command.
///
/// # Errors
/// When the message is longer than `max_bytes`.
pub fn decode(frame: &str, room: &RoomName, max_bytes: usize) -> Result<Option<Command>, BadText> {
    let text = frame.replace("\r\n", " ").replace(|c: char| c.is_control() && c != '\t', " ");
    match MessageText::parse(text.trim(), max_bytes) {
        Ok(text) => Ok(Some(Command::Say { room: room.clone(), text, id: None })),
        Err(BadText::Empty) => Ok(None),
        Err(error @ (BadText::TooLong(_) | BadText::Control)) => Err(error),
    }
}

/// The line that tells of a message, without its line break.
#[must_use]
pub fn line(message: &ChatMessage) -> String {
    let text = message.text.as_str().replace(['\n', LINE_SEPARATOR, PARAGRAPH_SEPARATOR], " ");
    if message.attributed { format!("{}: {text}", message.nick) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Draft, Nick, Seq, Timestamp};

    fn said(frame: &str) -> Option<String> {
        match decode(frame, &RoomName::default(), 8).expect("not too long") {
            Some(Command::Say { text, .. }) => Some(text.as_str().to_owned()),
            Some(other) => panic!("{other:?}"),
            None => None,
        }
    }

    #[test]
    fn a_frame_is_one_message_with_line_breaks_as_spaces_and_trimmed() {
        assert_eq!(said("hello").as_deref(), Some("hello"));
        assert_eq!(said("\n a\nb\r\nc \n").as_deref(), Some("a b c"));
        assert_eq!(said("a\tb").as_deref(), Some("a\tb"));
        assert_eq!(said("a\0b\u{1B}c").as_deref(), Some("a b c"));
    }

    #[test]
    fn a_frame_of_white_space_is_no_command() {
        for frame in ["", " ", "\n\r\n\t", "\0"] {
            assert_eq!(said(frame), None, "{frame:?}");
        }
    }

    #[test]
    fn the_limit_counts_bytes_after_trimming() {
        assert_eq!(said("  12345678  ").as_deref(), Some("12345678"));
        for long in ["123456789", "éééé!"] {
            assert_eq!(decode(long, &RoomName::default(), 8), Err(BadText::TooLong(8)));
        }
    }

    #[test]
    fn a_line_names_its_author_where_it_must() {
        let draft = Draft {
            room: RoomName::default(),
            nick: Nick::parse("ada").expect("a name"),
            text: MessageText::parse("one\ntwo", 8).expect("a text"),
            attributed: true,
            origin: None,
        };
        let mut message = draft.placed(Seq::new(1), Timestamp::now());
        assert_eq!(line(&message), "ada: one two");
        message.attributed = false;
        assert_eq!(line(&message), "one two");
        message.text = MessageText::parse("x\u{2028}Ada: y", 16).expect("a text");
        assert_eq!(line(&message), "x Ada: y");
    }
}
