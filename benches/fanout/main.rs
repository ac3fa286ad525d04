//! Measures the cost of delivering messages to many clients: `cargo bench --bench fanout`. Linux
//! only.
//!
//! The release binary runs as a child process on one core, and clients on another core load it over
//! loopback. After most scenarios the benchmark measures the floor, a bare loop that only writes
//! the same bytes, and compares. It compares the others with the same scenario without history,
//! limits or compression. Arguments after `--`:
//!
//! * names of scenarios, or parts of names: runs only these;
//! * `--talk CLIENTS,ROOMS,RATE`: runs this scenario, with RATE messages a second in total;
//! * `--runs N`: shows the median of N runs; defaults to 5;
//! * `--save-baseline NAME`: saves the results in `target/fanout`;
//! * `--baseline NAME`: shows the results as multiples of saved ones.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod floor;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
#[path = "../support/process.rs"]
mod process;
#[cfg(target_os = "linux")]
#[path = "../support/sample_text.rs"]
mod sample_text;
#[cfg(target_os = "linux")]
mod scenarios;
#[cfg(target_os = "linux")]
mod table;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == floor::ARGUMENT).is_some() {
        floor::run(arguments);
    }
    let (mut runs, mut save, mut baseline) = (5, None, None);
    let (mut names, mut custom) = (Vec::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option takes a value");
        match argument.as_str() {
            // Cargo passes this to every benchmark.
            "--bench" => {}
            "--runs" => runs = value().parse().expect("--runs takes a number"),
            "--talk" => custom.push(scenarios::Scenario::parse(&value())),
            "--save-baseline" => save = Some(value()),
            "--baseline" => baseline = Some(table::load(&value())),
            option if option.starts_with("--") => panic!("unknown option {option}"),
            name => names.push(name.to_owned()),
        }
    }
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let wanted = |scenario: &scenarios::Scenario| {
        names.is_empty() && custom.is_empty()
            || names.iter().any(|name| scenario.name.contains(name))
    };
    let mut all: Vec<_> = scenarios::all().into_iter().filter(wanted).collect();
    all.extend(custom);
    table::print_heading();
    let mut medians = table::Table::new();
    for scenario in all {
        let runs: Vec<_> = (0..runs).map(|_| scenario.run()).collect();
        let median = table::median(&runs);
        table::print_row(&scenario.name, &median);
        medians.insert(scenario.name, median);
    }
    if let Some(baseline) = baseline {
        println!("\nas multiples of the baseline");
        for (name, figures) in &medians {
            if let Some(before) = baseline.get(name) {
                table::print_row(name, &table::ratios(figures, before));
            }
        }
    }
    if let Some(name) = save {
        table::save(&name, &medians);
    }
    table::verdict(&medians)
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("this benchmark needs Linux: epoll and /proc");
}
