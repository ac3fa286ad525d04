//! Assembles messages from fragments (RFC 6455 section 5.4). Checks the UTF-8 of each fragment when
//! it arrives. The guard has limited the size of the message before.

use actix_http::ws::{self, Item};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::EndReason;

/// A complete message or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Text(ByteString),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    Close(Option<ws::CloseReason>),
}

/// Holds the unfinished message, if there is one.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    bytes: BytesMut,
    /// The length of the prefix that is known to be UTF-8, in bytes. None for a binary message.
    valid: Option<usize>,
}

impl Assembly {
    /// Adds a frame. Returns the message that it completes, if any.
    ///
    /// # Errors
    /// Returns [`EndReason::InvalidText`] for text that is not UTF-8, and [`EndReason::Protocol`]
    /// for a continuation without a first frame.
    pub(super) fn push(&mut self, frame: ws::Message) -> Result<Option<Received>, EndReason> {
        match frame {
            ws::Message::Text(text) => Ok(Some(Received::Text(text))),
            ws::Message::Binary(bytes) => Ok(Some(Received::Binary(bytes))),
            ws::Message::Ping(bytes) => Ok(Some(Received::Ping(bytes))),
            ws::Message::Pong(_) => Ok(Some(Received::Pong)),
            ws::Message::Close(reason) => Ok(Some(Received::Close(reason))),
            ws::Message::Continuation(item) => self.push_fragment(item),
            ws::Message::Nop => Ok(None),
        }
    }

    fn push_fragment(&mut self, item: ws::Item) -> Result<Option<Received>, EndReason> {
        let (fragment, last) = match item {
            Item::FirstText(fragment) => {
                self.partial = Some(Partial { bytes: BytesMut::new(), valid: Some(0) });
                (fragment, false)
            }
            Item::FirstBinary(fragment) => {
                self.partial = Some(Partial { bytes: BytesMut::new(), valid: None });
                (fragment, false)
            }
            Item::Continue(fragment) => (fragment, false),
            Item::Last(fragment) => (fragment, true),
        };
        let mut partial = self.partial.take().ok_or(EndReason::Protocol)?;
        partial.push(&fragment)?;
        if last {
            partial.finish().map(Some)
        } else {
            self.partial = Some(partial);
            Ok(None)
        }
    }
}

impl Partial {
    fn push(&mut self, fragment: &[u8]) -> Result<(), EndReason> {
        self.bytes.extend_from_slice(fragment);
        if let Some(valid) = &mut self.valid {
            match std::str::from_utf8(&self.bytes[*valid..]) {
                Ok(_) => *valid = self.bytes.len(),
                // The next fragment may complete the character.
                Err(error) if error.error_len().is_none() => *valid += error.valid_up_to(),
                Err(_) => return Err(EndReason::InvalidText),
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Received, EndReason> {
        let bytes = self.bytes.freeze();
        if self.valid.is_none() {
            return Ok(Received::Binary(bytes));
        }
        ByteString::try_from(bytes).map(Received::Text).map_err(|_| EndReason::InvalidText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ws::Message;

    fn assemble(items: Vec<Item>) -> Result<Option<Received>, EndReason> {
        let mut assembly = Assembly::default();
        let mut last = Ok(None);
        for item in items {
            last = assembly.push(Message::Continuation(item));
            if last.is_err() {
                break;
            }
        }
        last
    }

    fn bytes(bytes: &'static [u8]) -> Bytes {
        Bytes::from_static(bytes)
    }

    #[test]
    fn fragments_with_a_ping_between_them_become_one_message() {
        let mut assembly = Assembly::default();
        let first = Message::Continuation(Item::FirstText(bytes(b"he")));
        assert_eq!(assembly.push(first), Ok(None));
        let ping = assembly.push(Message::Ping(bytes(b"p")));
        assert_eq!(ping, Ok(Some(Received::Ping(bytes(b"p")))));
        let last = Message::Continuation(Item::Last(bytes(b"y")));
        assert_eq!(assembly.push(last), Ok(Some(Received::Text("hey".into()))));
    }

    #[test]
    fn character_may_be_split_between_fragments() {
        let split = vec![Item::FirstText(bytes(b"\xe2\x82")), Item::Last(bytes(b"\xac"))];
        assert_eq!(assemble(split), Ok(Some(Received::Text("€".into()))));
    }

    #[test]
    fn invalid_text_is_rejected_at_the_first_invalid_fragment() {
        let invalid = vec![Item::FirstText(bytes(b"ok \xff"))];
        assert_eq!(assemble(invalid), Err(EndReason::InvalidText));
        let truncated = vec![Item::FirstText(bytes(b"\xe2\x82")), Item::Last(bytes(b""))];
        assert_eq!(assemble(truncated), Err(EndReason::InvalidText));
    }

    #[test]
    fn binary_message_need_not_be_utf_8() {
        let binary = vec![Item::FirstBinary(bytes(b"\xff")), Item::Last(bytes(b"\xfe"))];
        assert_eq!(assemble(binary), Ok(Some(Received::Binary(bytes(b"\xff\xfe")))));
    }
}
