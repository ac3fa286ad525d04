//! Why a connection ends: one enum for the close codes, the text of the close frame and the log,
//! and the labels of the metrics.

use std::fmt;

use strum::{IntoStaticStr, VariantArray};

/// Every way in which a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum DisconnectReason {
    /// The client sent a close frame, and the server answered it.
    Left,
    /// The client's side of the connection ended without a close frame.
    Vanished,
    /// Writing to the client failed, or the server's worker ended.
    Dropped,
    /// Code 1001: the server is shutting down.
    ShuttingDown,
    /// Code 1002: the client violated the WebSocket protocol (RFC 6455).
    Protocol,
    /// Code 1003: the client sent a binary message; only text is supported.
    Unsupported,
    /// Code 1007: the client sent a text message that is not UTF-8.
    InvalidText,
    /// Code 1008: another user has the name of a client that speaks plain text.
    NameTaken,
    /// Code 1009: a frame or message exceeds the limit.
    TooBig,
    /// Code 1011: the server failed.
    Internal,
    /// A handler of the session panicked. Nothing can be sent any more.
    Panicked,
    /// Code 1012: the log begins a new epoch.
    NewEpoch,
    /// Code 1013: the server cannot carry out a request of the client now.
    Busy,
    /// Code 4000: the client sent no `hello` in time.
    NoHello,
    /// Code 4001: the client's send queue was full.
    SlowClient,
    /// Code 4002: the client was silent for too long.
    NoPong,
}

impl DisconnectReason {
    /// All reasons in the order of their declaration.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Returns the code of the close frame. Returns none if no close frame can be sent.
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
            Self::NewEpoch => Some(1012),
            Self::Busy => Some(1013),
            Self::NoHello => Some(4000),
            Self::SlowClient => Some(4001),
            Self::NoPong => Some(4002),
        }
    }

    /// Returns the text of the close frame, which is also the text in the log.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Left => "client closed the connection",
            Self::Vanished => "connection lost",
            Self::Dropped => "connection dropped",
            Self::ShuttingDown => "the server is shutting down",
            Self::Protocol => "WebSocket protocol error",
            Self::Unsupported => "binary messages are not supported",
            Self::InvalidText => "text is not UTF-8",
            Self::NameTaken => "another user has this name",
            Self::TooBig => "message too big",
            Self::Internal => "internal server error",
            Self::Panicked => "session failed",
            Self::NewEpoch => "the log began a new epoch; connect again",
            Self::Busy => "server busy; try again later",
            Self::NoHello => "no hello in time",
            Self::SlowClient => "client too slow; send queue full",
            Self::NoPong => "no answer to pings",
        }
    }

    /// Returns the label of the reason in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
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

    #[test]
    fn text_of_every_reason_fits_a_close_frame() {
        for reason in DisconnectReason::ALL {
            // RFC 6455 section 5.5: a control frame carries 125 bytes, 2 of them the code.
            assert!((1..=123).contains(&reason.words().len()), "{reason:?}");
        }
    }
}
