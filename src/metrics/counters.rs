//! The counters, and how they are told.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use strum::VariantArray;

use super::{Handshake, Limit, Outcome, process};
use crate::hub::Held;
use crate::socket::DisconnectReason;
use crate::wire::ErrorCode;

/// Bounds of the histograms, in seconds: from less than a flush of a small room takes to more than
/// anybody should wait.
const SECONDS: [f64; 17] = [
    0.000_01, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];

type Label = [(&'static str, &'static str); 1];

/// A counter for each value of one label.
type Labelled = Family<Label, Counter>;

/// Counters that all parts of a server share. A clone counts on the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Counters>);

struct Counters {
    handshakes: Labelled,
    limit_hits: Labelled,
    errors: Labelled,
    disconnects: Labelled,
    messages: Labelled,
    deliveries: Counter,
    fan_out: Histogram,
    commit: Histogram,
    delivery_lag: Histogram,
}

/// A family that tells 0 of what has not happened yet.
fn labelled<T: VariantArray + Into<&'static str> + Copy>(name: &'static str) -> Labelled {
    let family = Labelled::default();
    for &label in T::VARIANTS {
        drop(family.get_or_create(&[(name, label.into())]));
    }
    family
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(SECONDS);
        Self(Arc::new(Counters {
            handshakes: labelled::<Handshake>("outcome"),
            limit_hits: labelled::<Limit>("limit"),
            errors: labelled::<ErrorCode>("code"),
            disconnects: labelled::<DisconnectReason>("reason"),
            messages: labelled::<Outcome>("outcome"),
            deliveries: Counter::default(),
            fan_out: seconds(),
            commit: seconds(),
            delivery_lag: seconds(),
        }))
    }
}

impl Metrics {
    pub(crate) fn shook_hands(&self, outcome: Handshake) {
        self.0.handshakes.get_or_create(&[("outcome", outcome.label())]).inc();
    }

    pub(crate) fn limited(&self, limit: Limit) {
        self.0.limit_hits.get_or_create(&[("limit", limit.label())]).inc();
    }

    pub(crate) fn erred(&self, code: ErrorCode) {
        self.0.errors.get_or_create(&[("code", code.label())]).inc();
    }

    pub(crate) fn disconnected(&self, reason: DisconnectReason) {
        self.0.disconnects.get_or_create(&[("reason", reason.label())]).inc();
    }

    pub(crate) fn settled(&self, outcome: Outcome) {
        self.0.messages.get_or_create(&[("outcome", outcome.label())]).inc();
    }

    /// So many messages to members were handed out, and it took so long.
    pub(crate) fn fanned_out(&self, deliveries: u64, took: Duration) {
        self.0.deliveries.inc_by(deliveries);
        self.0.fan_out.observe(took.as_secs_f64());
    }

    /// The log took so long.
    pub(crate) fn committed(&self, took: Duration) {
        self.0.commit.observe(took.as_secs_f64());
    }

    /// A batch reached a session so long after its first message was accepted.
    pub(crate) fn lagged(&self, lag: Duration) {
        self.0.delivery_lag.observe(lag.as_secs_f64());
    }

    /// Everything, as Prometheus reads it, with what the hub holds just now and how long it took to
    /// say so, and the size of the history file in bytes, if there is one.
    #[must_use]
    pub fn tell(&self, held: &Held, answered_in: Duration, journal_bytes: Option<u64>) -> String {
        let mut all = Registry::default();
        process::register(&mut all);
        let registry = all.sub_registry_with_prefix("chinwag");
        self.register(registry);
        let build: Family<Label, Gauge> = Family::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("build_info", "What is running: always 1", build);
        let gauges = [
            ("clients", "Connections that the hub knows", held.clients),
            ("people", "Identities behind them", held.people),
            ("rooms", "Rooms where somebody is, or something is under way", held.rooms),
            ("waiting_rooms", "Rooms that wait for the log", held.waiting_rooms),
        ];
        for (name, help, value) in gauges {
            registry.register(name, help, gauge(value));
        }
        let bytes = [
            ("pending", "Text accepted and not yet at the log", Some(held.pending_bytes)),
            ("send_queue", "What waits for all clients to take it", Some(held.send_queue_bytes)),
            ("send_queue_fullest", "The most that waits for one", Some(held.fullest_queue_bytes)),
            ("ring", "Recent messages in memory", Some(held.ring_bytes)),
            ("journal", "Size of the history file", journal_bytes.map(|bytes| bytes as usize)),
        ];
        for (name, help, value) in bytes {
            if let Some(value) = value {
                registry.register_with_unit(name, help, Unit::Bytes, gauge(value));
            }
        }
        let answer = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
        answer.set(answered_in.as_secs_f64());
        let help = "How long the hub took to answer just now";
        registry.register_with_unit("hub_answer", help, Unit::Seconds, answer);
        let mut text = String::new();
        encode(&mut text, &all).expect("a string takes everything");
        text
    }

    fn register(&self, registry: &mut Registry) {
        let counters = &self.0;
        let labelled = [
            ("handshakes", "Requests for a WebSocket by how they ended", &counters.handshakes),
            ("limit_hits", "How often somebody reached a limit", &counters.limit_hits),
            ("errors", "Errors that clients were told, by code", &counters.errors),
            ("disconnects", "Connections that have ended, by reason", &counters.disconnects),
            ("messages", "Messages accepted, by what became of them", &counters.messages),
        ];
        for (name, help, family) in labelled {
            registry.register(name, help, family.clone());
        }
        let help = "Messages handed out, each to each member";
        registry.register("deliveries", help, counters.deliveries.clone());
        let histograms = [
            ("fan_out", "Handing a flush to all its members", &counters.fan_out),
            ("commit", "From taking a flush to the log until it is kept", &counters.commit),
            (
                "delivery_lag",
                "From accepting a message until a session writes it",
                &counters.delivery_lag,
            ),
        ];
        for (name, help, histogram) in histograms {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
    }
}

fn gauge(value: usize) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}
