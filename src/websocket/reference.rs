//! A plain WebSocket parser that is given everything at once, to hold guard and assembly against:
//! by random input in the tests, by the fuzzer in `fuzz/`.

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
use super::assembly::{Assembly, Whole};
use super::guard::{Gate, Guard};

/// The longest message, in bytes, small enough for random input to cross.
pub(super) const LIMIT: usize = 200;

type Outcome = (Vec<Whole>, Option<EndReason>);

/// Panics unless guard and assembly, given the input in chunks of these lengths in turn, make of
/// it what the plain parser does.
#[allow(unreachable_pub, reason = "the fuzzer reaches it")]
pub fn check(input: &[u8], chunks: &[u8], compression: bool) {
    assert_eq!(guarded(input, chunks, compression), plain(input, compression));
}

/// What guard, codec and assembly make of the input.
fn guarded(input: &[u8], chunks: &[u8], compression: bool) -> Outcome {
    let mut rest = input;
    let mut lengths = chunks.iter().copied().cycle().map(|length| usize::from(length).max(1));
    let mut payload = Vec::new();
    while !rest.is_empty() {
        let (chunk, others) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
        payload.push(Bytes::copy_from_slice(chunk));
        rest = others;
    }
    payload.reverse();
    let gate = Gate::default();
    let mut guard = Guard::new(Chunks(payload), gate.clone(), LIMIT, compression);
    let mut codec = Codec::new().max_size(LIMIT);
    let mut assembly = Assembly::default();
    let mut wholes = Vec::new();
    let mut pending = 0;
    loop {
        let frame = match Pin::new(&mut guard).poll_next(&mut Context::from_waker(Waker::noop())) {
            // After each frame it is pending once; twice, and there is nothing more.
            Poll::Pending if pending == 1 => return (wholes, None),
            Poll::Pending => {
                pending += 1;
                continue;
            }
            Poll::Ready(None) => return (wholes, None),
            Poll::Ready(Some(Err(_))) => return (wholes, gate.verdict()),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        pending = 0;
        let whole = decode(&mut codec, frame)
            .map_err(|error| EndReason::of_protocol_error(&error))
            .and_then(|message| assembly.push(message));
        match whole {
            Ok(Some(Whole::Close(reason))) => {
                wholes.push(Whole::Close(reason));
                return (wholes, None);
            }
            Ok(whole) => wholes.extend(whole),
            Err(reason) => return (wholes, Some(reason)),
        }
    }
}

/// As the stream decoder of actix-web-actors does it.
fn decode(codec: &mut Codec, frame: Bytes) -> Result<Message, ProtocolError> {
    let mut buffer = BytesMut::from(frame);
    let frame = codec.decode(&mut buffer)?.expect("the guard hands on whole frames");
    assert!(buffer.is_empty(), "and one at a time");
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

/// A payload whose chunks are all there, last first; then it is pending for ever.
struct Chunks(Vec<Bytes>);

impl Stream for Chunks {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.pop().map_or(Poll::Pending, |chunk| Poll::Ready(Some(Ok(chunk))))
    }
}

/// What the plain parser makes of the input.
fn plain(mut input: &[u8], compression: bool) -> Outcome {
    let mut wholes = Vec::new();
    let mut message: Option<Unfinished> = None;
    loop {
        let Some((first, length, mask, after)) = header(input) else { return (wholes, None) };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0F);
        let lawful = match opcode {
            0x0 => message.is_some(),
            0x1 | 0x2 => message.is_none(),
            0x8..=0xA => fin && length <= 125,
            _ => false,
        };
        let starts_compressed = compression && first & 0x70 == 0x40 && matches!(opcode, 0x1 | 0x2);
        let reserved = !starts_compressed && first & 0x70 != 0;
        if !lawful || reserved || mask.is_none() || length > i64::MAX as u64 {
            return (wholes, Some(EndReason::Protocol));
        }
        let control = opcode >= 0x8;
        let so_far = message.as_ref().map_or((0, 0), |m| (m.bytes.len() as u64, m.empty));
        let empty = so_far.1 + u32::from(length == 0 && !fin);
        let compressed = message.as_ref().map_or(starts_compressed, |m| m.compressed);
        let limit = if compressed { LIMIT + LIMIT / 8 + 64 } else { LIMIT };
        if !control && (so_far.0 + length > limit as u64 || empty > 128) {
            return (wholes, Some(EndReason::TooBig));
        }
        let length = length as usize;
        if after.len() < length {
            return (wholes, None);
        }
        let mask = mask.expect("checked above");
        let payload: Vec<u8> =
            after[..length].iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        input = &after[length..];
        match opcode {
            0x8 => {
                let Some(reason) = close_reason(&payload) else {
                    return (wholes, Some(EndReason::Protocol));
                };
                wholes.push(Whole::Close(reason));
                return (wholes, None);
            }
            0x9 => wholes.push(Whole::Ping(payload.into())),
            0xA => wholes.push(Whole::Pong),
            _ => {
                let mut unfinished = message.take().unwrap_or_else(|| Unfinished {
                    text: opcode == 0x1,
                    compressed,
                    bytes: Vec::new(),
                    empty: 0,
                });
                unfinished.bytes.extend(payload);
                unfinished.empty = empty;
                if compressed && !fin {
                    message = Some(unfinished);
                    // What the guard yields in place of a fragment.
                    wholes.push(Whole::Pong);
                    continue;
                }
                if compressed {
                    unfinished.bytes = match inflate(&unfinished.bytes) {
                        Ok(bytes) => bytes,
                        Err(reason) => return (wholes, Some(reason)),
                    };
                }
                if unfinished.text && !unfinished.is_text(fin) {
                    return (wholes, Some(EndReason::InvalidText));
                }
                if fin {
                    wholes.push(unfinished.finish());
                } else {
                    message = Some(unfinished);
                }
            }
        }
    }
}

/// Decompresses byte by byte.
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

struct Unfinished {
    text: bool,
    compressed: bool,
    bytes: Vec<u8>,
    empty: u32,
}

impl Unfinished {
    fn is_text(&self, whole: bool) -> bool {
        match std::str::from_utf8(&self.bytes) {
            Ok(_) => true,
            Err(error) => !whole && error.error_len().is_none(),
        }
    }

    fn finish(self) -> Whole {
        if self.text {
            let text = String::from_utf8(self.bytes).expect("checked before");
            Whole::Text(text.into())
        } else {
            Whole::Binary(self.bytes.into())
        }
    }
}

/// First byte, payload length, mask and what follows.
type Head<'a> = (u8, u64, Option<[u8; 4]>, &'a [u8]);

/// Nothing while the header is not whole.
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

/// RFC 6455 sections 5.5.1 and 7.4; nothing for a payload that is not allowed.
fn close_reason(payload: &[u8]) -> Option<Option<CloseReason>> {
    let Some((code, words)) = payload.split_at_checked(2) else {
        return payload.is_empty().then_some(None);
    };
    let code = u16::from(code[0]) << 8 | u16::from(code[1]);
    let words = std::str::from_utf8(words).ok()?;
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999).then(|| {
        let description = (!words.is_empty()).then(|| words.to_owned());
        Some(CloseReason { code: CloseCode::from(code), description })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::deflate::deflate;
    use proptest::prelude::*;

    /// Frames that are mostly right, since wholly random bytes hardly ever are.
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
        (first, payload, any::<[u8; 4]>(), 0..40u8).prop_map(|(first, payload, mask, odd)| {
            let mut bytes = vec![first];
            match (payload.len(), odd) {
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
        fn guard_and_assembly_read_frames_as_the_plain_parser_does(
            frames in prop::collection::vec(frame(), 0..12),
            cut in 0..30usize,
            chunks in prop::collection::vec(1..=255u8, 0..4),
            compression: bool,
        ) {
            let mut input = frames.concat();
            input.truncate(input.len().saturating_sub(cut.saturating_sub(20)));
            check(&input, &chunks, compression);
        }

        #[test]
        fn guard_and_assembly_read_noise_as_the_plain_parser_does(
            input in prop::collection::vec(any::<u8>(), 0..400),
            chunks in prop::collection::vec(1..=255u8, 0..4),
            compression: bool,
        ) {
            check(&input, &chunks, compression);
        }
    }

    #[test]
    fn many_empty_fragments_are_refused_by_both() {
        let mut input = vec![0x01, 0x80, 0, 0, 0, 0];
        for _ in 0..200 {
            input.extend([0x00, 0x80, 0, 0, 0, 0]);
        }
        check(&input, &[7], false);
        assert_eq!(plain(&input, false).1, Some(EndReason::TooBig));
    }
}
