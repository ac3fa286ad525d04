//! The subcommand `check-config`: prints each setting of the server with its source. Also finds
//! environment variables with our prefix that belong to no flag.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Write};

use chinwag::Config;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

/// The prefix of our environment variables.
const PREFIX: &str = "CHINWAG_";

/// Prints one line for each flag, with its value and its source.
pub(crate) fn show(command: &Command, matches: &ArgMatches, config: &Config) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut lines = Vec::new();
    for arg in flags(command) {
        let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let value = match arg.get_id().as_str() {
            // The URLs may have passwords.
            "nats" if !values.is_empty() => {
                let servers = config.cluster.iter().flat_map(|cluster| &cluster.servers);
                servers.map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
            _ if !values.is_empty() => values.join(","),
            "workers" => config.workers.to_string(),
            "max_frame_bytes" => config.frame_limit().to_string(),
            "static_dir" => "built-in page".into(),
            "acme_dir" => {
                config.acme.as_ref().map_or("-".into(), |acme| acme.dir.display().to_string())
            }
            "acme_url" => config.acme.as_ref().map_or("-".into(), |acme| acme.url.to_string()),
            "keep_for" => "no limit".into(),
            "keep_bytes" => config.keep_bytes_limit().map_or("-".into(), |bytes| bytes.to_string()),
            _ => "-".into(),
        };
        let source = match matches.value_source(arg.get_id().as_str()) {
            Some(ValueSource::CommandLine) => "flag".into(),
            Some(ValueSource::EnvVariable) => {
                arg.get_env().unwrap_or_default().to_string_lossy().into_owned()
            }
            Some(_) | None => "default".into(),
        };
        lines.push((format!("--{}", arg.get_long().unwrap_or_default()), value, source));
    }
    let width = |column: fn(&(String, String, String)) -> &String| {
        lines.iter().map(|line| column(line).chars().count()).max().unwrap_or(0)
    };
    let (flag_width, value_width) = (width(|line| &line.0), width(|line| &line.1));
    for (flag, value, source) in &lines {
        writeln!(out, "{flag:flag_width$}  {value:value_width$}  {source}")?;
    }
    Ok(())
}

/// Returns a warning for each environment variable with our prefix that belongs to no flag.
pub(crate) fn unknown_variables(command: &Command) -> Vec<String> {
    let known: BTreeSet<&str> =
        flags(command).filter_map(|arg| arg.get_env().and_then(OsStr::to_str)).collect();
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut unknown: Vec<_> = names
        .filter(|name| name.starts_with(PREFIX) && !known.contains(name.as_str()))
        .map(|name| match nearest(&name, &known) {
            Some(nearest) => {
                format!("unknown environment variable {name}; did you mean {nearest}?")
            }
            None => format!("unknown environment variable {name}"),
        })
        .collect();
    unknown.sort();
    unknown
}

/// Returns the known name that is most similar to a name, if one is similar enough.
fn nearest<'a>(name: &str, known: &BTreeSet<&'a str>) -> Option<&'a str> {
    /// The similarity that clap requires to suggest a flag.
    const MIN_SIMILARITY: f64 = 0.7;
    let part = |name: &str| name.trim_start_matches(PREFIX).to_owned();
    let similarity = |other: &&str| strsim::jaro(&part(name), &part(other));
    let nearest = known.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(&nearest) > MIN_SIMILARITY).then_some(nearest)
}

/// Returns the flags that set something, without `--help` and `--version`.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| arg.get_env().is_some())
}
