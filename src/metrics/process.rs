//! Metrics of the process under the standard names of Prometheus. They are present on Linux only.

use std::fs;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Registers the metrics that the system provides.
pub(super) fn register(registry: &mut Registry) {
    if let Some(kib) = number_in("/proc/self/status", "VmRSS:") {
        let help = "Resident memory of the process, in bytes";
        gauge(registry, "process_resident_memory_bytes", help, kib * 1024);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // Reading the folder opens a descriptor itself.
        let open = files.count().saturating_sub(1) as u64;
        gauge(registry, "process_open_fds", "Open file descriptors", open);
    }
    if let Some(most) = number_in("/proc/self/limits", "Max open files") {
        let help = "Maximum number of open file descriptors";
        gauge(registry, "process_max_fds", help, most);
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

/// Returns the first number of the line with this prefix.
fn number_in(file: &str, line: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|text| text.strip_prefix(line))?;
    line.split_whitespace().next()?.parse().ok()
}
