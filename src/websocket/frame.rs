//! The header of a WebSocket frame (RFC 6455 section 5.2), read without its payload.

use bytes::{BufMut, Bytes, BytesMut};

use super::EndReason;

/// Frame types, as RFC 6455 section 5.2 numbers them.
pub(super) mod opcode {
    pub(in super::super) const CONTINUATION: u8 = 0x0;
    pub(in super::super) const TEXT: u8 = 0x1;
    pub(in super::super) const BINARY: u8 = 0x2;
    pub(in super::super) const CLOSE: u8 = 0x8;
    pub(in super::super) const PING: u8 = 0x9;
    pub(in super::super) const PONG: u8 = 0xA;
}

/// The bit in a frame's first byte that says that its message ends with it.
pub(super) const FINAL: u8 = 0x80;

/// The longest header, in bytes, with a masking key.
const HEADER_LEN_MAX: usize = 14;

const MASKED: u8 = 0x80;

/// The longest payload of a control frame, in bytes (RFC 6455 section 5.5).
const MAX_CONTROL_PAYLOAD: u64 = 125;

/// Fragments of one message that may be empty. Those that are not are bounded by the size of the
/// message.
const MAX_EMPTY_FRAGMENTS: u32 = 128;

/// The bit in [`Header::reserved`] that marks the first frame of a compressed message (RFC 7692
/// section 6).
pub(super) const COMPRESSED: u8 = 0x40;

/// What the first 2 to 14 bytes of a frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) reserved: u8,
    pub(super) opcode: u8,
    pub(super) masked: bool,
    /// Bytes of the header itself, the masking key included.
    pub(super) header_len: usize,
    pub(super) payload_len: u64,
}

impl Header {
    /// Reads a header, or nothing while it is not whole.
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

/// Writes a header without a masking key. `masked` is the bit that announces one, or 0.
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
    let mut frame = BytesMut::with_capacity(HEADER_LEN_MAX + payload_len);
    put_header(&mut frame, first, 0, payload_len);
    frame
}

/// Encodes a whole message as a client does, with a masking key of zeros.
pub(super) fn encode_masked(opcode: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER_LEN_MAX + payload.len());
    put_header(&mut frame, FINAL | opcode, MASKED, payload.len());
    frame.put_u32(0);
    frame.put_slice(payload);
    frame.freeze()
}

/// What a client's frames must keep to, judged by their headers alone, so that no byte of a
/// payload is held for a frame that will be refused.
#[derive(Debug)]
pub(super) struct Rules {
    max_message_bytes: usize,
    /// Whether compression was negotiated.
    compression: bool,
    /// The fragmented message under way.
    message: Option<Message>,
}

/// A message so far.
#[derive(Clone, Copy, Debug, Default)]
struct Message {
    bytes: u64,
    empty_fragments: u32,
    compressed: bool,
}

impl Rules {
    pub(super) fn new(max_message_bytes: usize, compression: bool) -> Self {
        Self { max_message_bytes, compression, message: None }
    }

    pub(super) fn max_message_bytes(&self) -> usize {
        self.max_message_bytes
    }

    /// Whether a frame may come next. Changes nothing, so it may be asked while its payload is
    /// still arriving.
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
        // fixed Huffman codes take up to 9 bits a byte.
        let max_bytes = self.max_message_bytes as u64;
        let longer = if message.compressed { max_bytes / 8 + 64 } else { 0 };
        if message.bytes > max_bytes + longer || message.empty_fragments > MAX_EMPTY_FRAGMENTS {
            return Err(EndReason::TooBig);
        }
        Ok(())
    }

    /// Takes note of a frame that has passed [`Rules::check`] and arrived whole.
    pub(super) fn passed(&mut self, header: &Header) {
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
        Header::parse(&bytes).expect("14 bytes are a whole header")
    }

    #[test]
    fn a_header_is_read_only_when_it_is_whole() {
        let headers: [(&[u8], u64); 3] = [
            (&[0x81, MASKED | 5, 1, 2, 3, 4], 5),
            (&[0x82, MASKED | 126, 1, 0, 1, 2, 3, 4], 256),
            (&[0x00, MASKED | 127, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4], 1 << 40),
        ];
        for (bytes, payload_len) in headers {
            for part in 0..bytes.len() {
                assert_eq!(Header::parse(&bytes[..part]), None, "{part} bytes of {bytes:?}");
            }
            let header = Header::parse(bytes).expect("it is whole");
            assert_eq!((header.header_len, header.payload_len), (bytes.len(), payload_len));
            assert!(header.masked);
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_at_the_header_also_in_fragments() {
        let mut rules = Rules::new(100, false);
        assert_eq!(rules.check(&header(0x81, 100)), Ok(()));
        assert_eq!(rules.check(&header(0x81, 101)), Err(EndReason::TooBig));
        rules.passed(&header(0x01, 60));
        assert_eq!(rules.check(&header(0x80, 40)), Ok(()));
        assert_eq!(rules.check(&header(0x80, 41)), Err(EndReason::TooBig));
        rules.passed(&header(0x80, 40));
        assert_eq!(rules.check(&header(0x81, 100)), Ok(()), "the next message starts at 0");
    }

    #[test]
    fn compressed_message_may_exceed_the_limit_by_an_eighth_and_64_bytes() {
        let mut rules = Rules::new(800, true);
        assert_eq!(rules.check(&header(0xC1, 964)), Ok(()));
        assert_eq!(rules.check(&header(0xC1, 965)), Err(EndReason::TooBig));
        assert_eq!(rules.check(&header(0x81, 801)), Err(EndReason::TooBig));
        rules.passed(&header(0x41, 960));
        assert_eq!(rules.check(&header(0x80, 4)), Ok(()));
        assert_eq!(rules.check(&header(0x80, 5)), Err(EndReason::TooBig));
        assert_eq!(rules.check(&header(0xC0, 1)), Err(EndReason::Protocol));
        rules.passed(&header(0x80, 4));
        assert_eq!(rules.check(&header(0x81, 801)), Err(EndReason::TooBig));
    }

    #[test]
    fn empty_fragments_are_counted() {
        let mut rules = Rules::new(100, false);
        rules.passed(&header(0x01, 0));
        for _ in 1..MAX_EMPTY_FRAGMENTS {
            assert_eq!(rules.check(&header(0x00, 0)), Ok(()));
            rules.passed(&header(0x00, 0));
        }
        assert_eq!(rules.check(&header(0x00, 0)), Err(EndReason::TooBig));
        assert_eq!(rules.check(&header(0x80, 0)), Ok(()), "the last one ends the message");
    }

    #[test]
    fn what_rfc_6455_forbids_is_a_protocol_error() {
        let rules = Rules::new(100, false);
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
            assert_eq!(rules.check(&header), Err(EndReason::Protocol), "{header:?}");
        }
        let mut rules = Rules::new(100, false);
        rules.passed(&header(opcode::TEXT, 1));
        assert_eq!(rules.check(&header(0x81, 1)), Err(EndReason::Protocol));
        assert_eq!(rules.check(&header(0x80 | opcode::PING, 1)), Ok(()));
    }
}
