//! Whole messages out of fragments (RFC 6455 section 5.4), with text checked as it arrives.
//! The guard has bounded their sizes before.

use actix_http::ws::{self, Item};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::EndReason;

/// What a peer says once fragments are put together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Text(ByteString),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    Close(Option<ws::CloseReason>),
}

/// The message under way, when there is one.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    bytes: BytesMut,
    /// For text: how many of the bytes are known to be whole characters.
    valid: Option<usize>,
}

impl Assembly {
    /// Takes one frame; gives the message that it completes.
    pub(super) fn push(&mut self, frame: ws::Message) -> Result<Option<Whole>, EndReason> {
        match frame {
            ws::Message::Text(text) => Ok(Some(Whole::Text(text))),
            ws::Message::Binary(bytes) => Ok(Some(Whole::Binary(bytes))),
            ws::Message::Ping(bytes) => Ok(Some(Whole::Ping(bytes))),
            ws::Message::Pong(_) => Ok(Some(Whole::Pong)),
            ws::Message::Close(reason) => Ok(Some(Whole::Close(reason))),
            ws::Message::Continuation(item) => self.continued(item),
            ws::Message::Nop => Ok(None),
        }
    }

    fn continued(&mut self, item: ws::Item) -> Result<Option<Whole>, EndReason> {
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
                // A character that goes on in the next fragment is no error yet.
                Err(error) if error.error_len().is_none() => *valid += error.valid_up_to(),
                Err(_) => return Err(EndReason::InvalidText),
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Whole, EndReason> {
        let bytes = self.bytes.freeze();
        if self.valid.is_none() {
            return Ok(Whole::Binary(bytes));
        }
        ByteString::try_from(bytes).map(Whole::Text).map_err(|_| EndReason::InvalidText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ws::Message;

    fn feed(items: Vec<Item>) -> Result<Option<Whole>, EndReason> {
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
    fn fragments_become_one_message_with_pings_in_between() {
        let mut assembly = Assembly::default();
        let first = Message::Continuation(Item::FirstText(bytes(b"he")));
        assert_eq!(assembly.push(first), Ok(None));
        let ping = assembly.push(Message::Ping(bytes(b"p")));
        assert_eq!(ping, Ok(Some(Whole::Ping(bytes(b"p")))));
        let last = Message::Continuation(Item::Last(bytes(b"y")));
        assert_eq!(assembly.push(last), Ok(Some(Whole::Text("hey".into()))));
    }

    #[test]
    fn a_character_may_be_cut_between_fragments() {
        let cut = vec![Item::FirstText(bytes(b"\xe2\x82")), Item::Last(bytes(b"\xac"))];
        assert_eq!(feed(cut), Ok(Some(Whole::Text("€".into()))));
    }

    #[test]
    fn text_that_cannot_become_utf_8_is_refused_at_the_fragment_that_shows_it() {
        let bad = vec![Item::FirstText(bytes(b"ok \xff"))];
        assert_eq!(feed(bad), Err(EndReason::InvalidText));
        let cut_off = vec![Item::FirstText(bytes(b"\xe2\x82")), Item::Last(bytes(b""))];
        assert_eq!(feed(cut_off), Err(EndReason::InvalidText));
    }

    #[test]
    fn binary_is_not_checked_for_text() {
        let binary = vec![Item::FirstBinary(bytes(b"\xff")), Item::Last(bytes(b"\xfe"))];
        assert_eq!(feed(binary), Ok(Some(Whole::Binary(bytes(b"\xff\xfe")))));
    }
}
