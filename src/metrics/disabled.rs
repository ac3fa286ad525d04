//! Replaces the counters if the feature `metrics` is off.

use std::time::Duration;

use super::{Handshake, Limit, Outcome};
use crate::protocol::ErrorCode;

/// Counts nothing.
#[derive(Clone, Default)]
pub struct Metrics(());

impl Metrics {
    pub(crate) fn count_handshake(&self, _: Handshake) {}
    pub(crate) fn count_limit(&self, _: Limit) {}
    pub(crate) fn count_error(&self, _: ErrorCode) {}
    pub(crate) fn count_message(&self, _: Outcome) {}
    pub(crate) fn observe_fan_out(&self, _: u64, _: Duration) {}
    pub(crate) fn observe_commit(&self, _: Duration) {}
    pub(crate) fn observe_delivery_lag(&self, _: Duration) {}
    #[cfg(feature = "cluster")]
    pub(crate) fn observe_log_position(&self, _: u64, _: u64) {}
    #[cfg(feature = "cluster")]
    pub(crate) fn set_log_connected(&self, _: bool) {}
    #[cfg(feature = "cluster")]
    pub(crate) fn set_nodes(&self, _: usize) {}
    #[cfg(feature = "cluster")]
    pub(crate) fn observe_log_round_trip(&self, _: Duration) {}
    #[cfg(feature = "cluster")]
    pub(crate) fn count_log(&self, _: super::LogEvent) {}
}
