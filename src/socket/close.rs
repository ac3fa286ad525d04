//! Why a WebSocket ends: one enum for the close codes on the wire, the words in the log and the
//! labels of the metrics, and the one map from protocol errors to it.

use std::fmt;

use actix_web_actors::ws::{CloseCode, CloseReason, ProtocolError};
use strum::{IntoStaticStr, VariantArray};

/// Every way in which a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum DisconnectReason {
    /// The peer sent a close frame, and we answered it.
    Left,
    /// The peer's half of the connection ended without a close frame.
    Vanished,
    /// The connection's task was dropped: writing to the peer failed, or the server's worker ended.
    Dropped,
    /// Code 1001: the server is going away.
    ShuttingDown,
    /// Code 1002: what the peer sent is not WebSocket (RFC 6455).
    Protocol,
    /// Code 1003: a binary message, where only text is understood.
    Unsupported,
    /// Code 1007: a text message that is not UTF-8.
    InvalidText,
    /// Code 1008: the name that the client goes by is somebody else's.
    NameTaken,
    /// Code 1009: a frame or a message over the limit.
    TooBig,
    /// Code 1011: the server cannot go on.
    Internal,
    /// A handler of the session panicked. Nothing can be sent any more.
    Panicked,
    /// Code 1013: the server cannot do just now what the client has asked.
    Busy,
    /// Code 4000: the client did not say who it is.
    NoHello,
    /// Code 4001: more waited for the client than its queue holds.
    SlowClient,
    /// Code 4002: nothing was heard from the client for too long.
    NoPong,
}

impl DisconnectReason {
    /// Every reason, in the order in which they are declared.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The close code that tells the peer, where there is still a peer to tell.
    #[must_use]
    pub fn code(self) -> Option<u16> {
        match self {
            Self::Left => Some(1000),
            Self::Vanished | Self::Dropped | Self::Panicked => None,
            Self::ShuttingDown => Some(1001),
            Self::Protocol => Some(1002),
            Self::Unsupported => Some(1003),
            Self::InvalidText => Some(1007),
            Self::NameTaken => Some(1008),
            Self::TooBig => Some(1009),
            Self::Internal => Some(1011),
            Self::Busy => Some(1013),
            Self::NoHello => Some(4000),
            Self::SlowClient => Some(4001),
            Self::NoPong => Some(4002),
        }
    }

    /// The reason in words, as the close frame and the log give it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Left => "the client left",
            Self::Vanished => "the client vanished",
            Self::Dropped => "the connection was dropped",
            Self::ShuttingDown => "the server is shutting down",
            Self::Protocol => "not the WebSocket protocol",
            Self::Unsupported => "only text is understood here",
            Self::InvalidText => "text that is not UTF-8",
            Self::NameTaken => "somebody else goes by that name",
            Self::TooBig => "the message is too big",
            Self::Internal => "the server cannot go on",
            Self::Panicked => "the session failed",
            Self::Busy => "the server is too busy for that; try again later",
            Self::NoHello => "no hello in time",
            Self::SlowClient => "too slow to take what is sent",
            Self::NoPong => "no answer to pings",
        }
    }

    /// The reason as the label of a metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
    }

    /// The close frame's content; nothing where no code can be sent.
    pub(super) fn close_reason(self) -> Option<CloseReason> {
        self.code().map(|code| CloseReason::from((CloseCode::from(code), self.words())))
    }

    /// What an error of the codec means, once the guard has let the frame through.
    ///
    /// The guard refuses reserved bits and oversize frames itself and swallows the end of the
    /// payload, so what is left as [`ProtocolError::Io`] is text that is not UTF-8.
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

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_words_that_fit_a_close_frame_and_a_label_of_its_own() {
        let labels: HashSet<_> =
            DisconnectReason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), DisconnectReason::ALL.len());
        for reason in DisconnectReason::ALL {
            // RFC 6455 section 5.5: a control frame carries 125 bytes, 2 of them the code.
            assert!((1..=123).contains(&reason.words().len()), "{reason:?}");
            assert!(reason.label().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
    }
}
