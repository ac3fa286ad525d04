//! What the system says of this process, by the names that Prometheus has for it. Only Linux says
//! it; elsewhere these metrics are absent.

use std::fs;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Adds what is known.
pub(super) fn register(registry: &mut Registry) {
    if let Some(kib) = number_in("/proc/self/status", "VmRSS:") {
        let help = "Memory of the process that is in RAM, in bytes";
        gauge(registry, "process_resident_memory_bytes", help, kib * 1024);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // The one that reads them is among them.
        let open = files.count().saturating_sub(1) as u64;
        gauge(registry, "process_open_fds", "Open file descriptors", open);
    }
    if let Some(most) = number_in("/proc/self/limits", "Max open files") {
        let help = "Most file descriptors that the process may open";
        gauge(registry, "process_max_fds", help, most);
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

/// The first number of the line that begins so.
fn number_in(file: &str, line: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|text| text.strip_prefix(line))?;
    line.split_whitespace().next()?.parse().ok()
}
