//! The WebSocket extension permessage-deflate (RFC 7692): negotiates it, compresses and
//! decompresses messages. Neither side keeps a context between messages, so a message is compressed
//! once for all its receivers, and a connection has no state for it.

use std::cell::RefCell;

use actix_web::http::header::{self, HeaderMap};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::EndReason;

/// The shortest text that is compressed, in bytes.
pub(super) const MIN_BYTES: usize = 200;

/// The response to an accepted offer.
const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The response to an offer that names the window size that is used anyway.
const ACCEPTED_WITH_WINDOW: &str = "permessage-deflate; server_no_context_takeover; \
    client_no_context_takeover; server_max_window_bits=15";

/// The last bytes of a sync flush. The sender removes them from the end of a message, and the
/// receiver adds them again (RFC 7692 section 7.2.1).
const FLUSHED: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// An empty final block. It is appended to detect truncated messages: the stream ends with it only
/// if the message ended at the end of a block.
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

thread_local! {
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(LEVEL), false));
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// The compression level.
const LEVEL: u32 = 6;

/// Accepts the first acceptable offer among the request's `Sec-WebSocket-Extensions` headers.
/// Returns the value of the response's header, or `None` if no offer is acceptable.
pub(super) fn accept(headers: &HeaderMap) -> Option<&'static str> {
    headers
        .get_all(header::SEC_WEBSOCKET_EXTENSIONS)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(accept_offer)
}

/// Declines an offer with an unknown, repeated or invalid parameter (RFC 7692 section 7.1). An
/// offer that demands a smaller server window is declined, too, because all clients receive the
/// same compressed bytes.
fn accept_offer(offer: &str) -> Option<&'static str> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut accepted = ACCEPTED;
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start()))),
            None => (part, None),
        };
        match (name, value) {
            ("server_no_context_takeover" | "client_no_context_takeover", None)
            | ("client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(bits)) if is_window(bits) => {}
            ("server_max_window_bits", Some("15")) => accepted = ACCEPTED_WITH_WINDOW,
            _ => return None,
        }
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
    }
    Some(accepted)
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

fn is_window(bits: &str) -> bool {
    matches!(bits, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")
}

/// Compresses a message.
pub(super) fn deflate(text: &[u8]) -> Vec<u8> {
    DEFLATE.with_borrow_mut(|deflate| {
        deflate.reset();
        let mut compressed = Vec::with_capacity(text.len() / 2 + 64);
        loop {
            let rest = &text[usize::try_from(deflate.total_in()).expect("at most its length")..];
            deflate
                .compress_vec(rest, &mut compressed, FlushCompress::Sync)
                .expect("an unfinished stream accepts input");
            if compressed.len() < compressed.capacity() {
                break;
            }
            compressed.reserve(text.len() / 2 + 64);
        }
        if compressed.ends_with(&FLUSHED) {
            compressed.truncate(compressed.len() - FLUSHED.len());
        }
        compressed
    })
}

/// A text, plain or compressed, to join with others.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    Plain(&'a [u8]),
    Compressed(&'a [u8]),
}

/// Joins texts with `\n` into one compressed message, without compressing any of them again. Each
/// text keeps its own blocks, which refer to no other text. A plain text has less than 64 KiB.
pub(super) fn join<'a>(parts: impl Iterator<Item = Part<'a>>) -> Vec<u8> {
    let mut message = Vec::new();
    let mut separator: &[u8] = b"";
    for part in parts {
        match part {
            Part::Plain(text) => put_stored(&mut message, &[separator, text]),
            Part::Compressed(payload) => {
                if !separator.is_empty() {
                    put_stored(&mut message, &[separator]);
                }
                message.extend(payload);
                message.extend(FLUSHED);
            }
        }
        separator = b"\n";
    }
    if message.ends_with(&FLUSHED) {
        message.truncate(message.len() - FLUSHED.len());
    } else {
        // With the bytes that the receiver adds, this is an empty stored block.
        message.push(0x00);
    }
    message
}

/// Writes a stored block (RFC 1951 section 3.2.4) at the start of a byte.
fn put_stored(message: &mut Vec<u8>, texts: &[&[u8]]) {
    let length = texts.iter().map(|text| text.len()).sum::<usize>();
    let length = u16::try_from(length).expect("less than 64 KiB");
    message.push(0x00);
    message.extend(length.to_le_bytes());
    message.extend((!length).to_le_bytes());
    texts.iter().for_each(|text| message.extend(*text));
}

/// Decompresses a whole message into at most `max_bytes`.
///
/// # Errors
/// Returns [`EndReason::TooBig`] if the message is longer, and [`EndReason::Protocol`] if it is
/// invalid or truncated, or refers to an earlier message.
pub(super) fn inflate(mut compressed: Vec<u8>, max_bytes: usize) -> Result<Vec<u8>, EndReason> {
    compressed.extend(FLUSHED);
    compressed.extend(LAST_BLOCK);
    INFLATE.with_borrow_mut(|inflate| {
        inflate.reset(false);
        let mut rest = &compressed[..];
        let mut text = Vec::with_capacity((4 * rest.len()).min(max_bytes) + 1);
        let mut is_finished = false;
        loop {
            let before = inflate.total_in();
            let status = inflate.decompress_vec(rest, &mut text, FlushDecompress::None);
            let taken = inflate.total_in() - before;
            rest = &rest[usize::try_from(taken).expect("at most its length")..];
            if text.len() > max_bytes {
                return Err(EndReason::TooBig);
            }
            match status.map_err(|_| EndReason::Protocol)? {
                Status::StreamEnd if rest.is_empty() => return Ok(text),
                // A message may contain a final block (RFC 7692 section 7.2.3.4). Several are
                // rejected, because a reset costs as much as decompressing some kilobytes.
                Status::StreamEnd if !is_finished => {
                    is_finished = true;
                    inflate.reset(false);
                }
                Status::Ok | Status::BufError if text.len() == text.capacity() => {
                    let more = text.len().min(max_bytes + 1 - text.len());
                    text.reserve_exact(more);
                }
                Status::StreamEnd | Status::Ok | Status::BufError => {
                    return Err(EndReason::Protocol);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

        /// Random bytes include texts that compression makes longer.
        #[test]
        fn compressed_text_decompresses_to_itself(
            text in prop::collection::vec(any::<u8>(), 1..40_000),
        ) {
            let compressed = deflate(&text);
            prop_assert_eq!(inflate(compressed.clone(), text.len()), Ok(text.clone()));
            let too_short = inflate(compressed, text.len() - 1);
            prop_assert_eq!(too_short, Err(EndReason::TooBig));
        }

        #[test]
        fn joined_texts_decompress_to_all_of_them_with_newlines_between(
            texts in prop::collection::vec((any::<bool>(), ".{0,300}"), 1..8),
        ) {
            let parts: Vec<_> = texts
                .iter()
                .map(|(is_plain, text)| {
                    let bytes = text.as_bytes().to_vec();
                    (*is_plain, if *is_plain { bytes } else { deflate(&bytes) })
                })
                .collect();
            let message = join(parts.iter().map(|(is_plain, bytes)| {
                if *is_plain { Part::Plain(bytes) } else { Part::Compressed(bytes) }
            }));
            let texts: Vec<_> = texts.into_iter().map(|(_, text)| text).collect();
            prop_assert_eq!(inflate(message, 10_000), Ok(texts.join("\n").into_bytes()));
        }
    }
}
