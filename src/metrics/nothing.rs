//! In place of the counters, where nobody wants them.

use std::time::Duration;

use super::{Handshake, Limit, Outcome};
use crate::socket::DisconnectReason;
use crate::wire::ErrorCode;

/// Counts nothing.
#[derive(Clone, Default)]
pub struct Metrics(());

impl Metrics {
    pub(crate) fn shook_hands(&self, _: Handshake) {}
    pub(crate) fn limited(&self, _: Limit) {}
    pub(crate) fn erred(&self, _: ErrorCode) {}
    pub(crate) fn disconnected(&self, _: DisconnectReason) {}
    pub(crate) fn settled(&self, _: Outcome) {}
    pub(crate) fn fanned_out(&self, _: u64, _: Duration) {}
    pub(crate) fn committed(&self, _: Duration) {}
    pub(crate) fn lagged(&self, _: Duration) {}
}
