//! Why a WebSocket ends, and the close frame that says so. The socket ends a connection for an
//! [`EndReason`]; the actor ends it with a [`Close`] of its own.

use actix_web_actors::ws::{CloseCode, CloseReason, ProtocolError};

/// Why a WebSocket ended without a [`Close`] of the actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The peer sent a close frame, and the socket answered it.
    Left,
    /// The peer's side of the connection ended without a close frame.
    Vanished,
    /// Code 1002: the peer violated the WebSocket protocol (RFC 6455).
    Protocol,
    /// Code 1007: the peer sent a text message that is not UTF-8.
    InvalidText,
    /// Code 1009: a frame or message exceeds the limit.
    TooBig,
}

impl EndReason {
    /// Returns the code and the text of the close frame that the socket sends for this reason. None
    /// if the peer closed, or cannot be reached any more.
    pub(crate) fn close_frame(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Left | Self::Vanished => None,
            Self::Protocol => Some((1002, "WebSocket protocol error")),
            Self::InvalidText => Some((1007, "text is not UTF-8")),
            Self::TooBig => Some((1009, "message too big")),
        }
    }

    /// Converts an error of the codec.
    ///
    /// The guard rejects reserved bits and oversize frames itself and hides the end of the payload,
    /// so a remaining [`ProtocolError::Io`] is text that is not UTF-8.
    pub(super) fn of_protocol_error(error: &ProtocolError) -> Self {
        match error {
            ProtocolError::Io(_) => Self::InvalidText,
            ProtocolError::Overflow => Self::TooBig,
            ProtocolError::UnmaskedFrame
            | ProtocolError::MaskedFrame
            | ProtocolError::InvalidOpcode(_)
            | ProtocolError::InvalidLength(_)
            | ProtocolError::BadOpCode
            | ProtocolError::ContinuationNotStarted
            | ProtocolError::ContinuationStarted
            | ProtocolError::ContinuationFragment(_) => Self::Protocol,
        }
    }
}

/// How to close a WebSocket.
#[derive(Clone, Debug)]
pub struct Close {
    pub(super) reason: Option<CloseReason>,
    pub(super) discards: bool,
}

impl From<EndReason> for Close {
    fn from(reason: EndReason) -> Self {
        reason.close_frame().map_or_else(Self::without_code, |(code, text)| Self::new(code, text))
    }
}

impl Close {
    /// Returns a close frame with a code and a text of at most 123 bytes.
    #[must_use]
    pub fn new(code: u16, text: &str) -> Self {
        let reason = CloseReason::from((CloseCode::from(code), text));
        Self { reason: Some(reason), discards: false }
    }

    /// Returns a close frame without code and text.
    #[must_use]
    pub fn without_code() -> Self {
        Self { reason: None, discards: false }
    }

    /// Discards queued output instead of writing it before the close frame. Use it for a peer that
    /// is too slow or silent.
    #[must_use]
    pub fn discarding(self) -> Self {
        Self { discards: true, ..self }
    }
}
