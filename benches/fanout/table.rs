//! Results: medians, the table, baselines and targets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// The results of a scenario by column.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// The results of all scenarios.
pub(crate) type Table = BTreeMap<String, Figures>;

/// Saved results. They may have other columns.
pub(crate) type Baseline = BTreeMap<String, BTreeMap<String, f64>>;

/// The columns and their numbers of decimal places.
const COLUMNS: [(&str, usize); 23] = [
    ("deliveries/s", 0),
    ("writes/s", 0),
    ("MB/s", 1),
    ("us/delivery", 4),
    ("B/delivery", 1),
    ("x floor", 2),
    ("x in+out", 2),
    ("x none", 2),
    ("x bytes", 2),
    ("msg/frame", 1),
    ("p50 ms", 2),
    ("p99 ms", 2),
    ("max ms", 1),
    ("core %", 2),
    ("load %", 1),
    ("RSS MB", 1),
    ("kB/conn", 1),
    ("grown", 3),
    ("first s", 2),
    ("back s", 2),
    ("lost", 0),
    ("repeated", 0),
    ("closed", 0),
];

enum Bound {
    Max(f64),
    Min(f64),
    /// At most this multiple of the result of another scenario.
    MaxTimes(f64, &'static str),
}
use Bound::{Max, MaxTimes, Min};

/// The targets for the results on a quiet machine with two cores.
const TARGETS: [(&str, &str, Bound); 38] = [
    ("light", "p50 ms", Max(1.0)),
    ("light", "p99 ms", Max(5.0)),
    ("light", "x in+out", Max(1.1)),
    ("town hall", "us/delivery", Max(0.7)),
    ("town hall", "x floor", Max(1.5)),
    ("town hall", "p99 ms", Max(70.0)),
    ("at once", "us/delivery", Max(3.0)),
    ("stadium", "deliveries/s", Min(9_990_000.0)),
    ("stadium", "us/delivery", Max(0.08)),
    ("stadium", "x floor", Max(2.2)),
    ("stadium", "p99 ms", Max(100.0)),
    ("stadium", "lost", Max(0.0)),
    ("arena", "closed", Max(0.0)),
    ("arena", "lost", Max(0.0)),
    ("arena", "grown", Max(1.05)),
    ("rooms", "us/delivery", Max(12.0)),
    ("rooms", "x in+out", Max(1.1)),
    ("rooms", "p50 ms", Max(0.5)),
    ("rooms full", "deliveries/s", Min(130_000.0)),
    ("idle", "kB/conn", Max(4.0)),
    ("idle", "core %", Max(1.0)),
    ("stalled", "us/delivery", MaxTimes(1.2, "town hall")),
    ("stalled", "p99 ms", MaxTimes(1.2, "town hall")),
    ("stalled", "lost", Max(0.0)),
    ("storm", "back s", Max(5.0)),
    ("storm", "grown", Max(1.1)),
    ("storm", "lost", Max(0.0)),
    ("light kept", "p50 ms", Max(1.5)),
    ("light kept", "lost", Max(0.0)),
    ("town kept", "x none", Max(1.15)),
    ("town kept", "lost", Max(0.0)),
    ("stadium kept", "deliveries/s", Min(9_990_000.0)),
    ("stadium kept", "lost", Max(0.0)),
    ("rooms kept", "x none", Max(1.5)),
    ("rooms kept", "lost", Max(0.0)),
    ("town limited", "x none", Max(1.05)),
    ("stadium limited", "x none", Max(1.05)),
    ("stadium limited", "deliveries/s", Min(9_990_000.0)),
];

/// The columns that must be 0 in every run, on any machine.
const FAULTS: [&str; 3] = ["lost", "repeated", "closed"];

/// Returns the median of each column. For faults it is the maximum, because a median would hide
/// faults of single runs.
pub(crate) fn median(runs: &[Figures]) -> Figures {
    let columns = runs.first().into_iter().flat_map(BTreeMap::keys);
    columns
        .map(|&column| {
            let mut values: Vec<f64> = runs.iter().map(|run| run[column]).collect();
            values.sort_by(f64::total_cmp);
            let chosen = if FAULTS.contains(&column) { values.len() - 1 } else { values.len() / 2 };
            (column, values[chosen])
        })
        .collect()
}

/// Returns the results as multiples of saved ones.
pub(crate) fn ratios(figures: &Figures, before: &BTreeMap<String, f64>) -> Figures {
    let known = |(&column, figure): (&&'static str, &f64)| {
        let before = before.get(column).filter(|before| **before != 0.0)?;
        Some((column, figure / before))
    };
    figures.iter().filter_map(known).collect()
}

pub(crate) fn print_heading() {
    let names = COLUMNS.map(|(name, _)| format!("{name:>8}"));
    println!("{:<12} {}", "", names.join(" "));
}

pub(crate) fn print_row(name: &str, figures: &Figures) {
    print!("{name:<12}");
    for (column, places) in COLUMNS {
        let width = column.len().max(8);
        match figures.get(column) {
            Some(figure) => print!(" {figure:>width$.places$}"),
            None => print!(" {:>width$}", "-"),
        }
    }
    println!();
}

/// Prints for each target whether it is met. Fails only if a message was lost or repeated or a
/// client was closed, because the other results depend on the machine.
pub(crate) fn verdict(table: &Table) -> ExitCode {
    println!();
    for (scenario, column, bound) in TARGETS {
        let figure = |scenario: &str| table.get(scenario)?.get(column).copied();
        let Some(measured) = figure(scenario) else { continue };
        let (met, words) = match bound {
            Max(limit) => (measured <= limit, format!("at most {limit}")),
            Min(limit) => (measured >= limit, format!("at least {limit}")),
            MaxTimes(times, other) => {
                let Some(other_measured) = figure(other) else { continue };
                (measured <= times * other_measured, format!("at most {times} times {other}"))
            }
        };
        let verdict = if met { "met" } else { "NOT MET" };
        println!("{scenario:<12} {column:<12} {measured:>12.3}  {words:<28} {verdict}");
    }
    let faults =
        |figures: &Figures| FAULTS.iter().any(|fault| figures.get(fault).is_some_and(|&n| n > 0.0));
    if table.values().any(faults) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("target/fanout")
        .join(name)
        .with_extension("json")
}

pub(crate) fn save(name: &str, table: &Table) {
    let path = path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, serde_json::to_string_pretty(table).unwrap()).unwrap();
}

pub(crate) fn load(name: &str) -> Baseline {
    let text = std::fs::read_to_string(path(name)).expect("a baseline with this name exists");
    serde_json::from_str(&text).unwrap()
}
