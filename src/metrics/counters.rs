//! The counters, and their encoding for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use strum::VariantArray;

#[cfg(feature = "cluster")]
use super::LogEvent;
#[cfg(feature = "cluster")]
use super::shared_log::SharedLog;
use super::{Handshake, HubStats, Limit, Outcome, process};
use crate::protocol::{DisconnectReason, ErrorCode};

/// Bounds of the histograms, in seconds.
const SECONDS: [f64; 17] = [
    0.000_01, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];

type Label = [(&'static str, &'static str); 1];

/// A counter for each value of one label.
type LabeledCounter = Family<Label, Counter>;

/// The counters of a server. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Counters>);

struct Counters {
    handshakes: LabeledCounter,
    limit_hits: LabeledCounter,
    errors: LabeledCounter,
    messages: LabeledCounter,
    deliveries: Counter,
    fan_out: Histogram,
    commit: Histogram,
    delivery_lag: Histogram,
    #[cfg(feature = "cluster")]
    shared_log: SharedLog,
}

/// Returns counters that are present with the value 0 before the first event.
fn labeled<T: VariantArray + Into<&'static str> + Copy>(name: &'static str) -> LabeledCounter {
    let family = LabeledCounter::default();
    for &label in T::VARIANTS {
        drop(family.get_or_create(&[(name, label.into())]));
    }
    family
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(SECONDS);
        Self(Arc::new(Counters {
            handshakes: labeled::<Handshake>("outcome"),
            limit_hits: labeled::<Limit>("limit"),
            errors: labeled::<ErrorCode>("code"),
            messages: labeled::<Outcome>("outcome"),
            deliveries: Counter::default(),
            fan_out: seconds(),
            commit: seconds(),
            delivery_lag: seconds(),
            #[cfg(feature = "cluster")]
            shared_log: SharedLog::new(seconds()),
        }))
    }
}

impl Metrics {
    pub(crate) fn count_handshake(&self, outcome: Handshake) {
        self.0.handshakes.get_or_create(&[("outcome", outcome.into())]).inc();
    }

    pub(crate) fn count_limit(&self, limit: Limit) {
        self.0.limit_hits.get_or_create(&[("limit", limit.into())]).inc();
    }

    pub(crate) fn count_error(&self, code: ErrorCode) {
        self.0.errors.get_or_create(&[("code", code.into())]).inc();
    }

    pub(crate) fn count_message(&self, outcome: Outcome) {
        self.0.messages.get_or_create(&[("outcome", outcome.into())]).inc();
    }

    /// Counts the deliveries of one fan-out and records its duration.
    pub(crate) fn observe_fan_out(&self, deliveries: u64, took: Duration) {
        self.0.deliveries.inc_by(deliveries);
        self.0.fan_out.observe(took.as_secs_f64());
    }

    /// Records the duration of an append to the log.
    pub(crate) fn observe_commit(&self, took: Duration) {
        self.0.commit.observe(took.as_secs_f64());
    }

    /// Records the time from the acceptance of a batch's first message until a session took it.
    pub(crate) fn observe_delivery_lag(&self, lag: Duration) {
        self.0.delivery_lag.observe(lag.as_secs_f64());
    }

    /// Records the position of a node in the log that it shares with others, and how many records
    /// the log has after it.
    #[cfg(feature = "cluster")]
    pub(crate) fn observe_log_position(&self, position: u64, lag: u64) {
        self.0.shared_log.observe_position(position, lag);
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn set_log_connected(&self, is_connected: bool) {
        self.0.shared_log.set_connected(is_connected);
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn set_nodes(&self, nodes: usize) {
        self.0.shared_log.set_nodes(nodes);
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn observe_log_round_trip(&self, took: Duration) {
        self.0.shared_log.observe_round_trip(took);
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn count_log(&self, event: LogEvent) {
        self.0.shared_log.count(event);
    }

    /// Encodes all metrics for Prometheus (OpenMetrics). `answered_in` is the time that the hub
    /// took to return `stats`, and `log_bytes` the size of the history file, if there is one.
    #[must_use]
    pub fn encode(
        &self,
        stats: &HubStats,
        answered_in: Duration,
        log_bytes: Option<u64>,
    ) -> String {
        let mut all = Registry::default();
        process::register(&mut all);
        let registry = all.sub_registry_with_prefix("chinwag");
        self.register(registry);
        let build: Family<Label, Gauge> = Family::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("build_info", "Version of the server; always 1", build);
        let durability: Family<Label, Gauge> = Family::default();
        durability.get_or_create(&[("level", stats.durability.level())]).set(1);
        registry.register("durability", "What committed messages survive; always 1", durability);
        if let Some(replicas) = stats.durability.replicas() {
            let help = "NATS servers that are configured to store the log";
            registry.register("log_replicas", help, gauge(replicas));
        }
        let disconnects = LabeledCounter::default();
        for &reason in DisconnectReason::ALL {
            let count = stats.disconnects.get(&reason).copied().unwrap_or_default();
            disconnects.get_or_create(&[("reason", reason.label())]).inc_by(count);
        }
        registry.register("disconnects", "Connections that have ended, by reason", disconnects);
        let gauges = [
            ("clients", "Open connections", stats.clients),
            ("people", "Identities of the open connections", stats.users),
            ("rooms", "Rooms with members or uncommitted messages", stats.rooms),
            ("waiting_rooms", "Rooms that wait for the log", stats.waiting_rooms),
        ];
        for (name, help, value) in gauges {
            registry.register(name, help, gauge(value));
        }
        let bytes = [
            ("pending", "Text accepted and not sent to the log yet", Some(stats.pending_bytes)),
            (
                "send_queue",
                "Delivered to sessions and not written yet",
                Some(stats.send_queue_bytes),
            ),
            (
                "send_queue_fullest",
                "Largest send queue of one client",
                Some(stats.fullest_queue_bytes),
            ),
            ("ring", "Recent messages in memory", Some(stats.ring_bytes)),
            ("journal", "Size of the history file", log_bytes.map(|bytes| bytes as usize)),
        ];
        for (name, help, value) in bytes {
            if let Some(value) = value {
                registry.register_with_unit(name, help, Unit::Bytes, gauge(value));
            }
        }
        let answer = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        answer.set(answered_in.as_secs_f64());
        let help = "Time in which the hub answered this request";
        registry.register_with_unit("hub_answer", help, Unit::Seconds, answer);
        let mut text = String::new();
        encode(&mut text, &all).expect("writing to a string cannot fail");
        text
    }

    fn register(&self, registry: &mut Registry) {
        let counters = &self.0;
        let labeled = [
            ("handshakes", "WebSocket handshakes by outcome", &counters.handshakes),
            ("limit_hits", "Requests that exceeded a limit", &counters.limit_hits),
            ("errors", "Errors sent to clients, by code", &counters.errors),
            ("messages", "Messages accepted, by outcome", &counters.messages),
        ];
        for (name, help, family) in labeled {
            registry.register(name, help, family.clone());
        }
        let help = "Messages delivered, each to each member";
        registry.register("deliveries", help, counters.deliveries.clone());
        let histograms = [
            ("fan_out", "Time to deliver a flush to all members", &counters.fan_out),
            ("commit", "Time to commit a flush", &counters.commit),
            (
                "delivery_lag",
                "Time from acceptance of a message until a session writes it",
                &counters.delivery_lag,
            ),
        ];
        for (name, help, histogram) in histograms {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        #[cfg(feature = "cluster")]
        counters.shared_log.register(registry);
    }
}

fn gauge(value: usize) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}
