//! Metrics of a log that several nodes share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::LogEvent;

/// What a node knows of the log. It is shown only on a node of a cluster.
pub(super) struct SharedLog {
    is_used: AtomicBool,
    position: Gauge,
    lag: Gauge,
    connected: Gauge,
    nodes: Gauge,
    round_trip: Histogram,
    republished: Counter,
    skipped: Counter,
    resets: Counter,
    forks: Counter,
    divergences: Counter,
}

impl SharedLog {
    pub(super) fn new(round_trip: Histogram) -> Self {
        Self {
            is_used: AtomicBool::new(false),
            position: Gauge::default(),
            lag: Gauge::default(),
            connected: Gauge::default(),
            nodes: Gauge::default(),
            round_trip,
            republished: Counter::default(),
            skipped: Counter::default(),
            resets: Counter::default(),
            forks: Counter::default(),
            divergences: Counter::default(),
        }
    }

    pub(super) fn observe_position(&self, position: u64, lag: u64) {
        self.is_used.store(true, Ordering::Relaxed);
        self.position.set(i64::try_from(position).unwrap_or(i64::MAX));
        self.lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
    }

    pub(super) fn set_connected(&self, is_connected: bool) {
        self.is_used.store(true, Ordering::Relaxed);
        self.connected.set(i64::from(is_connected));
    }

    pub(super) fn set_nodes(&self, nodes: usize) {
        self.nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    pub(super) fn observe_round_trip(&self, took: Duration) {
        self.round_trip.observe(took.as_secs_f64());
    }

    pub(super) fn count(&self, event: LogEvent) {
        let counter = match event {
            LogEvent::Republished => &self.republished,
            LogEvent::Skipped => &self.skipped,
            LogEvent::Reset => &self.resets,
            LogEvent::Fork => &self.forks,
            LogEvent::Divergence => &self.divergences,
        };
        counter.inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        if !self.is_used.load(Ordering::Relaxed) {
            return;
        }
        let gauges = [
            ("log_position", "Last record that the history file has", &self.position),
            ("log_lag", "Later records that NATS has not delivered yet", &self.lag),
            ("log_connected", "Whether the node reads the log: 1 or 0", &self.connected),
            ("nodes", "Nodes that run, as far as this one knows, itself included", &self.nodes),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let help = "Time from publishing a record until the history file has it";
        registry.register_with_unit("log_round_trip", help, Unit::Seconds, self.round_trip.clone());
        let counters = [
            ("log_republished", "Records that were published again", &self.republished),
            ("log_skipped", "Records that were repetitions or too late", &self.skipped),
            ("log_resets", "Times that reading the log began again", &self.resets),
            ("log_forks", "Times that the log had lost records", &self.forks),
            (
                "log_divergences",
                "Records and heartbeats of nodes with another history",
                &self.divergences,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
