//! Headers of WebSocket frames (RFC 6455 section 5.2). The guard reads and validates those of the
//! peer here, before their payload arrives. Text frames get theirs here.

use bytes::{BufMut, Bytes, BytesMut};

use super::EndReason;

/// Frame types (RFC 6455 section 5.2).
pub(super) mod opcode {
    pub(in super::super) const CONTINUATION: u8 = 0x0;
    pub(in super::super) const TEXT: u8 = 0x1;
    pub(in super::super) const BINARY: u8 = 0x2;
    pub(in super::super) const CLOSE: u8 = 0x8;
    pub(in super::super) const PING: u8 = 0x9;
    pub(in super::super) const PONG: u8 = 0xA;
}

/// The bit in the first byte that marks the last frame of a message.
pub(super) const FIN: u8 = 0x80;

/// The length of the longest header with a masking key, in bytes.
const MAX_HEADER_LEN: usize = 14;

/// The bit in the second byte that announces a masking key.
const MASKED: u8 = 0x80;

/// The length of the longest payload of a control frame, in bytes (RFC 6455 section 5.5).
const MAX_CONTROL_PAYLOAD: u64 = 125;

/// The greatest number of empty fragments in a message. The size of the message limits the others.
const MAX_EMPTY_FRAGMENTS: u32 = 128;

/// The bit in [`Header::reserved`] that marks the first frame of a compressed message (RFC 7692
/// section 6).
pub(super) const COMPRESSED: u8 = 0x40;

/// The header of a frame, which has 2 to 14 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) reserved: u8,
    pub(super) opcode: u8,
    pub(super) masked: bool,
    /// The length of the header with the masking key, in bytes.
    pub(super) header_len: usize,
    pub(super) payload_len: u64,
}

impl Header {
    /// Reads a header. Returns `None` if it is incomplete.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else { return None };
        let masked = second & 0x80 != 0;
        let (length_len, payload_len) = match second & 0x7F {
            126 => (2, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (8, u64::from_be_bytes(*rest.first_chunk()?)),
            short => (0, u64::from(short)),
        };
        let header_len = 2 + length_len + if masked { 4 } else { 0 };
        (bytes.len() >= header_len).then_some(Self {
            fin: first & 0x80 != 0,
            reserved: first & 0x70,
            opcode: first & 0x0F,
            masked,
            header_len,
            payload_len,
        })
    }

    pub(super) fn is_control(&self) -> bool {
        self.opcode & 0x8 != 0
    }
}

/// Writes a header without the masking key. `masked` is [`MASKED`] or 0.
fn put_header(frame: &mut BytesMut, first: u8, masked: u8, payload_len: usize) {
    const LENGTH_IN_16_BITS: u8 = 126;
    const LENGTH_IN_64_BITS: u8 = 127;
    frame.put_u8(first);
    match (u8::try_from(payload_len), u16::try_from(payload_len)) {
        (Ok(short), _) if short < LENGTH_IN_16_BITS => frame.put_u8(masked | short),
        (_, Ok(middle)) => {
            frame.put_u8(masked | LENGTH_IN_16_BITS);
            frame.put_u16(middle);
        }
        (_, Err(_)) => {
            frame.put_u8(masked | LENGTH_IN_64_BITS);
            frame.put_u64(payload_len as u64);
        }
    }
}

/// Creates an unmasked frame: writes the header and reserves space for the payload.
pub(super) fn begin_frame(first: u8, payload_len: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(MAX_HEADER_LEN + payload_len);
    put_header(&mut frame, first, 0, payload_len);
    frame
}

/// Encodes a message in one frame like a client, with a masking key of zeros.
pub(super) fn encode_masked(opcode: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(MAX_HEADER_LEN + payload.len());
    put_header(&mut frame, FIN | opcode, MASKED, payload.len());
    frame.put_u32(0);
    frame.put_slice(payload);
    frame.freeze()
}

/// Validates the frames of a peer by their headers, so that no payload is buffered for a frame that
/// is rejected.
#[derive(Debug)]
pub(super) struct FrameValidator {
    max_message_bytes: usize,
    /// Whether compression was negotiated.
    compression: bool,
    /// The unfinished fragmented message.
    message: Option<Message>,
}

/// The fragments of a message so far.
#[derive(Clone, Copy, Debug, Default)]
struct Message {
    bytes: u64,
    empty_fragments: u32,
    compressed: bool,
}

impl FrameValidator {
    pub(super) fn new(max_message_bytes: usize, compression: bool) -> Self {
        Self { max_message_bytes, compression, message: None }
    }

    pub(super) fn max_message_bytes(&self) -> usize {
        self.max_message_bytes
    }

    /// Checks whether a frame may come next. Changes nothing, so it may be called again until the
    /// payload is complete.
    ///
    /// # Errors
    /// Returns [`EndReason::Protocol`] for a violation of RFC 6455, and [`EndReason::TooBig`] if
    /// the frame exceeds a limit.
    pub(super) fn check(&self, header: &Header) -> Result<(), EndReason> {
        let known = matches!(
            header.opcode,
            opcode::CONTINUATION
                | opcode::TEXT
                | opcode::BINARY
                | opcode::CLOSE
                | opcode::PING
                | opcode::PONG
        );
        let begins_message = matches!(header.opcode, opcode::TEXT | opcode::BINARY);
        let allowed = if self.compression && begins_message { COMPRESSED } else { 0 };
        let reserved = header.reserved & !allowed;
        if !known || reserved != 0 || !header.masked || header.payload_len >> 63 != 0 {
            return Err(EndReason::Protocol);
        }
        if header.is_control() {
            let fits = header.fin && header.payload_len <= MAX_CONTROL_PAYLOAD;
            return if fits { Ok(()) } else { Err(EndReason::Protocol) };
        }
        let continues = header.opcode == opcode::CONTINUATION;
        if continues != self.message.is_some() {
            return Err(EndReason::Protocol);
        }
        let message = self.message_with(header);
        // `inflate` checks the decompressed size. Compressed data may be longer than the text:
        // fixed Huffman codes take up to 9 bits for a byte.
        let max_bytes = self.max_message_bytes as u64;
        let overhead = if message.compressed { max_bytes / 8 + 64 } else { 0 };
        if message.bytes > max_bytes + overhead || message.empty_fragments > MAX_EMPTY_FRAGMENTS {
            return Err(EndReason::TooBig);
        }
        Ok(())
    }

    /// Records a complete frame that [`FrameValidator::check`] has accepted.
    pub(super) fn accept(&mut self, header: &Header) {
        if !header.is_control() {
            self.message = (!header.fin).then(|| self.message_with(header));
        }
    }

    fn message_with(&self, header: &Header) -> Message {
        let Message { bytes, empty_fragments, compressed } = self.message.unwrap_or_default();
        Message {
            bytes: bytes.saturating_add(header.payload_len),
            empty_fragments: empty_fragments + u32::from(header.payload_len == 0 && !header.fin),
            compressed: compressed || header.reserved == COMPRESSED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(first: u8, payload_len: u64) -> Header {
        let mut bytes = vec![first, MASKED | 127];
        bytes.extend(payload_len.to_be_bytes());
        bytes.extend([0; 4]);
        Header::parse(&bytes).expect("14 bytes are a complete header")
    }

    #[test]
    fn header_is_read_only_when_it_is_complete() {
        let headers: [(&[u8], u64); 3] = [
            (&[0x81, MASKED | 5, 1, 2, 3, 4], 5),
            (&[0x82, MASKED | 126, 1, 0, 1, 2, 3, 4], 256),
            (&[0x00, MASKED | 127, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4], 1 << 40),
        ];
        for (bytes, payload_len) in headers {
            for part in 0..bytes.len() {
                assert_eq!(Header::parse(&bytes[..part]), None, "{part} bytes of {bytes:?}");
            }
            let header = Header::parse(bytes).expect("it is complete");
            assert_eq!((header.header_len, header.payload_len), (bytes.len(), payload_len));
            assert!(header.masked);
        }
    }

    #[test]
    fn message_that_exceeds_the_limit_is_rejected_at_the_header_also_in_fragments() {
        let mut validator = FrameValidator::new(100, false);
        assert_eq!(validator.check(&header(0x81, 100)), Ok(()));
        assert_eq!(validator.check(&header(0x81, 101)), Err(EndReason::TooBig));
        validator.accept(&header(0x01, 60));
        assert_eq!(validator.check(&header(0x80, 40)), Ok(()));
        assert_eq!(validator.check(&header(0x80, 41)), Err(EndReason::TooBig));
        validator.accept(&header(0x80, 40));
        assert_eq!(validator.check(&header(0x81, 100)), Ok(()), "the next message starts at 0");
    }

    #[test]
    fn compressed_message_may_exceed_the_limit_by_an_eighth_and_64_bytes() {
        let mut validator = FrameValidator::new(800, true);
        assert_eq!(validator.check(&header(0xC1, 964)), Ok(()));
        assert_eq!(validator.check(&header(0xC1, 965)), Err(EndReason::TooBig));
        assert_eq!(validator.check(&header(0x81, 801)), Err(EndReason::TooBig));
        validator.accept(&header(0x41, 960));
        assert_eq!(validator.check(&header(0x80, 4)), Ok(()));
        assert_eq!(validator.check(&header(0x80, 5)), Err(EndReason::TooBig));
        assert_eq!(validator.check(&header(0xC0, 1)), Err(EndReason::Protocol));
        validator.accept(&header(0x80, 4));
        assert_eq!(validator.check(&header(0x81, 801)), Err(EndReason::TooBig));
    }

    #[test]
    fn message_with_too_many_empty_fragments_is_rejected() {
        let mut validator = FrameValidator::new(100, false);
        validator.accept(&header(0x01, 0));
        for _ in 1..MAX_EMPTY_FRAGMENTS {
            assert_eq!(validator.check(&header(0x00, 0)), Ok(()));
            validator.accept(&header(0x00, 0));
        }
        assert_eq!(validator.check(&header(0x00, 0)), Err(EndReason::TooBig));
        assert_eq!(validator.check(&header(0x80, 0)), Ok(()), "the last one ends the message");
    }

    #[test]
    fn violations_of_rfc_6455_are_protocol_errors() {
        let validator = FrameValidator::new(100, false);
        let forbidden = [
            header(0x80 | 0x40 | opcode::TEXT, 1),
            header(0x80 | 0x3, 1),
            header(0x80 | 0xB, 1),
            header(0x80 | opcode::PING, 126),
            header(opcode::PING, 1),
            header(0x80 | opcode::CONTINUATION, 1),
            header(0x80 | opcode::TEXT, 1 << 63),
            Header { masked: false, ..header(0x81, 1) },
        ];
        for header in forbidden {
            assert_eq!(validator.check(&header), Err(EndReason::Protocol), "{header:?}");
        }
        let mut validator = FrameValidator::new(100, false);
        validator.accept(&header(opcode::TEXT, 1));
        assert_eq!(validator.check(&header(0x81, 1)), Err(EndReason::Protocol));
        assert_eq!(validator.check(&header(0x80 | opcode::PING, 1)), Ok(()));
    }
}
