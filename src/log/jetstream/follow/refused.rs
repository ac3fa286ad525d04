//! Why a node cannot take part in a shared log. An operator must do something.

use thiserror::Error;

/// Why a node cannot take part in the log.
#[derive(Clone, Debug, Error)]
pub enum Refused {
    /// The journal has history of its own.
    #[error(
        "the history file {journal} is not a copy of this log (it has the epoch {own}, the log has \
         {other}); start with another file, or with another stream"
    )]
    OtherLog {
        /// The journal.
        journal: String,
        /// The epoch of the journal.
        own: String,
        /// The epoch of the log.
        other: String,
    },
    /// The stream does not have all records that the journal needs.
    #[error(
        "the stream begins with record {first}, the history file ends with record {last}, and no \
         other node sent a copy of its history file; start one, or start this node with a copy \
         made by `chinwag backup`"
    )]
    TooOld {
        /// The first record of the stream.
        first: u64,
        /// The last record that the journal has applied.
        last: u64,
    },
    /// The log began with the history of a node, which the stream does not contain.
    #[error(
        "the log began with the history of one node, which the stream does not contain, and no \
         other node sent a copy of its history file; start another node, or start this node with \
         a copy made by `chinwag backup`"
    )]
    NeedsParent,
    /// The stream does not exist any more, or the address or the account is wrong.
    #[error(
        "the stream does not exist, but the history file has its records up to {last}; check the \
         address, the account and the name of the stream, or begin a new epoch in place of {epoch}"
    )]
    NoStream {
        /// The last record that the journal has applied.
        last: u64,
        /// The epoch of the journal.
        epoch: String,
    },
    /// The stream has lost records.
    #[error(
        "the stream has lost records, or is another one: the history file has record {last}, and \
         the stream has another record at this position or ends at {end}; begin a new epoch in \
         place of {epoch}"
    )]
    Forked {
        /// The epoch of the journal.
        epoch: String,
        /// The last record that the journal has applied.
        last: u64,
        /// The last record of the stream.
        end: u64,
    },
    /// The log has begun a new epoch with another history.
    #[error(
        "the log began the epoch {0} with the history of another node; restart this node while \
         that node runs, so that it copies the history"
    )]
    OtherHistory(String),
    /// A record cannot be applied.
    #[error("record {position} cannot be applied: {reason}; upgrade this node")]
    UnknownRecord {
        /// The record.
        position: u64,
        /// Why.
        reason: String,
    },
    /// Messages of the configured size do not fit.
    #[error(
        "NATS accepts messages of {max_payload} bytes, but {needed} are needed for messages of the \
         configured size; increase max_payload of NATS"
    )]
    PayloadTooSmall {
        /// What NATS accepts.
        max_payload: usize,
        /// What is needed.
        needed: usize,
    },
}
