//! A simple WebSocket parser that gets all input at once. Tests with random input and the fuzzer in
//! `fuzz/` compare guard and assembly with it.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use actix_http::ws::{Codec, Frame};
use actix_web::error::PayloadError;
use actix_web_actors::ws::{CloseCode, CloseReason, Message, ProtocolError};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use flate2::{Decompress, FlushDecompress, Status};
use futures_core::Stream;
use tokio_util::codec::Decoder;

use super::EndReason;
use super::assembly::{Assembly, Received};
use super::guard::{FlowControl, Guard};

/// The limit of a message, in bytes. It is small enough for random input to exceed it.
pub(super) const LIMIT: usize = 200;

type Outcome = (Vec<Received>, Option<EndReason>);

/// Panics unless guard and assembly parse the input like the reference parser. They get the input
/// in chunks whose lengths cycle through `chunks`.
#[allow(unreachable_pub, reason = "the fuzzer uses it")]
pub fn check(input: &[u8], chunks: &[u8], compression: bool) {
    assert_eq!(parse_with_guard(input, chunks, compression), parse(input, compression));
}

/// Parses the input with guard, codec and assembly.
fn parse_with_guard(input: &[u8], chunks: &[u8], compression: bool) -> Outcome {
    let mut rest = input;
    let mut lengths = chunks.iter().copied().cycle().map(|length| usize::from(length).max(1));
    let mut payload = Vec::new();
    while !rest.is_empty() {
        let (chunk, others) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
        payload.push(Bytes::copy_from_slice(chunk));
        rest = others;
    }
    payload.reverse();
    let flow = FlowControl::default();
    let mut guard = Guard::new(Chunks(payload), flow.clone(), LIMIT, compression);
    let mut codec = Codec::new().max_size(LIMIT);
    let mut assembly = Assembly::default();
    let mut received = Vec::new();
    let mut pending = 0;
    loop {
        let frame = match Pin::new(&mut guard).poll_next(&mut Context::from_waker(Waker::noop())) {
            // The guard is pending once after each frame, and twice at the end of the input.
            Poll::Pending if pending == 1 => return (received, None),
            Poll::Pending => {
                pending += 1;
                continue;
            }
            Poll::Ready(None) => return (received, None),
            Poll::Ready(Some(Err(_))) => return (received, flow.rejection()),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        pending = 0;
        let message = decode(&mut codec, frame)
            .map_err(|error| EndReason::of_protocol_error(&error))
            .and_then(|message| assembly.push(message));
        match message {
            Ok(Some(Received::Close(reason))) => {
                received.push(Received::Close(reason));
                return (received, None);
            }
            Ok(message) => received.extend(message),
            Err(reason) => return (received, Some(reason)),
        }
    }
}

/// Decodes a frame like the stream decoder of actix-web-actors.
fn decode(codec: &mut Codec, frame: Bytes) -> Result<Message, ProtocolError> {
    let mut buffer = BytesMut::from(frame);
    let frame = codec.decode(&mut buffer)?.expect("the guard yields complete frames");
    assert!(buffer.is_empty(), "the guard yields one frame at a time");
    let not_text = |_| ProtocolError::Io(std::io::ErrorKind::InvalidData.into());
    Ok(match frame {
        Frame::Text(bytes) => Message::Text(ByteString::try_from(bytes).map_err(not_text)?),
        Frame::Binary(bytes) => Message::Binary(bytes),
        Frame::Continuation(item) => Message::Continuation(item),
        Frame::Ping(bytes) => Message::Ping(bytes),
        Frame::Pong(bytes) => Message::Pong(bytes),
        Frame::Close(reason) => Message::Close(reason),
    })
}

/// A payload with these chunks, last chunk first. After them it is pending forever.
struct Chunks(Vec<Bytes>);

impl Stream for Chunks {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.pop().map_or(Poll::Pending, |chunk| Poll::Ready(Some(Ok(chunk))))
    }
}

/// Parses the input with the reference parser.
fn parse(mut input: &[u8], compression: bool) -> Outcome {
    let mut received = Vec::new();
    let mut message: Option<Unfinished> = None;
    loop {
        let Some((first, length, mask, after)) = header(input) else { return (received, None) };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0F);
        let is_allowed = match opcode {
            0x0 => message.is_some(),
            0x1 | 0x2 => message.is_none(),
            0x8..=0xA => fin && length <= 125,
            _ => false,
        };
        let starts_compressed = compression && first & 0x70 == 0x40 && matches!(opcode, 0x1 | 0x2);
        let reserved = !starts_compressed && first & 0x70 != 0;
        if !is_allowed || reserved || mask.is_none() || length > i64::MAX as u64 {
            return (received, Some(EndReason::Protocol));
        }
        let control = opcode >= 0x8;
        let (bytes, empty) =
            message.as_ref().map_or((0, 0), |m| (m.bytes.len() as u64, m.empty_fragments));
        let empty_fragments = empty + u32::from(length == 0 && !fin);
        let compressed = message.as_ref().map_or(starts_compressed, |m| m.compressed);
        let limit = if compressed { LIMIT + LIMIT / 8 + 64 } else { LIMIT };
        if !control && (bytes + length > limit as u64 || empty_fragments > 128) {
            return (received, Some(EndReason::TooBig));
        }
        let length = length as usize;
        if after.len() < length {
            return (received, None);
        }
        let mask = mask.expect("checked above");
        let payload: Vec<u8> =
            after[..length].iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        input = &after[length..];
        match opcode {
            0x8 => {
                let Some(reason) = close_reason(&payload) else {
                    return (received, Some(EndReason::Protocol));
                };
                received.push(Received::Close(reason));
                return (received, None);
            }
            0x9 => received.push(Received::Ping(payload.into())),
            0xA => received.push(Received::Pong),
            _ => {
                let mut unfinished = message.take().unwrap_or_else(|| Unfinished {
                    text: opcode == 0x1,
                    compressed,
                    bytes: Vec::new(),
                    empty_fragments: 0,
                });
                unfinished.bytes.extend(payload);
                unfinished.empty_fragments = empty_fragments;
                if compressed && !fin {
                    message = Some(unfinished);
                    // The guard yields a pong instead of a fragment.
                    received.push(Received::Pong);
                    continue;
                }
                if compressed {
                    unfinished.bytes = match inflate(&unfinished.bytes) {
                        Ok(bytes) => bytes,
                        Err(reason) => return (received, Some(reason)),
                    };
                }
                if unfinished.text && !unfinished.is_text(fin) {
                    return (received, Some(EndReason::InvalidText));
                }
                if fin {
                    received.push(unfinished.finish());
                } else {
                    message = Some(unfinished);
                }
            }
        }
    }
}

/// Decompresses a message byte by byte.
fn inflate(payload: &[u8]) -> Result<Vec<u8>, EndReason> {
    let mut inflate = Decompress::new(false);
    let mut output = [0; LIMIT + 1];
    let (mut length, mut ends) = (0, 0);
    let input = [payload, &[0x00, 0x00, 0xFF, 0xFF, 0x03, 0x00]].concat();
    for (n, byte) in input.iter().enumerate() {
        let before = inflate.total_out();
        let flush = FlushDecompress::None;
        let status = inflate.decompress(&[*byte], &mut output[length..], flush);
        length += (inflate.total_out() - before) as usize;
        if length > LIMIT {
            return Err(EndReason::TooBig);
        }
        match status {
            Err(_) => return Err(EndReason::Protocol),
            Ok(Status::StreamEnd) if n + 1 == input.len() => return Ok(output[..length].to_vec()),
            Ok(Status::StreamEnd) if ends == 1 => return Err(EndReason::Protocol),
            Ok(Status::StreamEnd) => {
                ends += 1;
                inflate.reset(false);
            }
            Ok(Status::Ok | Status::BufError) => {}
        }
    }
    Err(EndReason::Protocol)
}

/// An unfinished message.
struct Unfinished {
    text: bool,
    compressed: bool,
    bytes: Vec<u8>,
    empty_fragments: u32,
}

impl Unfinished {
    fn is_text(&self, is_complete: bool) -> bool {
        match std::str::from_utf8(&self.bytes) {
            Ok(_) => true,
            Err(error) => !is_complete && error.error_len().is_none(),
        }
    }

    fn finish(self) -> Received {
        if self.text {
            let text = String::from_utf8(self.bytes).expect("checked before");
            Received::Text(text.into())
        } else {
            Received::Binary(self.bytes.into())
        }
    }
}

/// The first byte, the payload's length, the mask, and the rest of the input.
type Head<'a> = (u8, u64, Option<[u8; 4]>, &'a [u8]);

/// Reads a header. Returns `None` if it is incomplete.
fn header(input: &[u8]) -> Option<Head<'_>> {
    let (&first, input) = input.split_first()?;
    let (&second, input) = input.split_first()?;
    let (length, input) = match second & 0x7F {
        126 => {
            let (bytes, input) = input.split_at_checked(2)?;
            (bytes.iter().fold(0, |length, &byte| length << 8 | u64::from(byte)), input)
        }
        127 => {
            let (bytes, input) = input.split_at_checked(8)?;
            (bytes.iter().fold(0, |length, &byte| length << 8 | u64::from(byte)), input)
        }
        length => (u64::from(length), input),
    };
    if second & 0x80 == 0 {
        return Some((first, length, None, input));
    }
    let (mask, input) = input.split_at_checked(4)?;
    Some((first, length, mask.try_into().ok(), input))
}

/// Parses the payload of a close frame (RFC 6455 sections 5.5.1 and 7.4). Returns `None` if it is
/// invalid.
fn close_reason(payload: &[u8]) -> Option<Option<CloseReason>> {
    let Some((code, text)) = payload.split_at_checked(2) else {
        return payload.is_empty().then_some(None);
    };
    let code = u16::from(code[0]) << 8 | u16::from(code[1]);
    let text = std::str::from_utf8(text).ok()?;
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999).then(|| {
        let description = (!text.is_empty()).then(|| text.to_owned());
        Some(CloseReason { code: CloseCode::from(code), description })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::deflate::deflate;
    use proptest::prelude::*;

    /// Generates frames that are mostly valid, since random bytes hardly ever are.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            8 => prop::sample::select(vec![0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A]),
            4 => prop::sample::select(vec![0xC1, 0xC2, 0x41, 0x42]),
            1 => Just(0x88),
            1 => any::<u8>(),
        ];
        let payload = prop_oneof![
            4 => "\\PC{0,40}".prop_map(String::into_bytes),
            2 => prop::collection::vec(any::<u8>(), 0..210),
            4 => "\\PC{0,40}".prop_map(|text| deflate(text.as_bytes())),
            1 => (190..210usize).prop_map(|length| deflate(&vec![b'x'; length])),
            1 => Just(b"\x03\xE8bye".to_vec()),
            1 => Just(b"\xE2\x82".to_vec()),
            1 => Just(b"\xAC".to_vec()),
            1 => Just(Vec::new()),
        ];
        (first, payload, any::<[u8; 4]>(), 0..40u8).prop_map(|(first, payload, mask, form)| {
            let mut bytes = vec![first];
            match (payload.len(), form) {
                (0..126, 2..) => bytes.push(0x80 | payload.len() as u8),
                (length, 1..) => {
                    bytes.push(0x80 | 126);
                    bytes.extend((length as u16).to_be_bytes());
                }
                (length, 0) => {
                    bytes.push(0x80 | 127);
                    bytes.extend((length as u64).to_be_bytes());
                }
            }
            bytes.extend(mask);
            bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn guard_and_assembly_parse_frames_like_the_reference(
            frames in prop::collection::vec(frame(), 0..12),
            cut in 0..30usize,
            chunks in prop::collection::vec(1..=255u8, 0..4),
            compression: bool,
        ) {
            let mut input = frames.concat();
            // A third of the inputs are truncated.
            input.truncate(input.len().saturating_sub(cut.saturating_sub(20)));
            check(&input, &chunks, compression);
        }

        #[test]
        fn guard_and_assembly_parse_random_bytes_like_the_reference(
            input in prop::collection::vec(any::<u8>(), 0..400),
            chunks in prop::collection::vec(1..=255u8, 0..4),
            compression: bool,
        ) {
            check(&input, &chunks, compression);
        }
    }

    #[test]
    fn guard_and_reference_reject_many_empty_fragments() {
        let mut input = vec![0x01, 0x80, 0, 0, 0, 0];
        for _ in 0..200 {
            input.extend([0x00, 0x80, 0, 0, 0, 0]);
        }
        check(&input, &[7], false);
        assert_eq!(parse(&input, false).1, Some(EndReason::TooBig));
    }
}
