//! `chinwag check-config`: what a server would be started with, and where each part of it comes
//! from.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};

use chinwag::Config;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

/// How the names of our environment variables begin.
const PREFIX: &str = "CHINWAG_";

/// Writes each flag with its value and its source, a flag to a line.
pub(crate) fn show(command: &Command, matches: &ArgMatches, config: &Config) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut lines = Vec::new();
    for arg in flags(command) {
        let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        let value = match arg.get_id().as_str() {
            _ if !values.is_empty() => values.join(","),
            "workers" => config.workers.to_string(),
            "max_frame_bytes" => config.frame_limit().to_string(),
            "static_dir" => "built in".into(),
            "acme_dir" => {
                config.acme.as_ref().map_or("-".into(), |acme| acme.dir.display().to_string())
            }
            "acme_url" => config.acme.as_ref().map_or("-".into(), |acme| acme.url.to_string()),
            "keep_for" => "for ever".into(),
            "keep_bytes" => config.kept_bytes().map_or("-".into(), |bytes| bytes.to_string()),
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

/// The variables of our environment that set nothing, since there is no such flag.
pub(crate) fn unknown_variables(command: &Command) -> Vec<String> {
    let known: BTreeSet<OsString> =
        flags(command).filter_map(|arg| arg.get_env().map(OsString::from)).collect();
    let ours = std::env::vars_os().map(|(name, _)| name);
    let unknown = ours.filter(|name| !known.contains(name));
    let mut unknown: Vec<_> = unknown
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        .collect();
    unknown.sort();
    unknown
}

/// What sets something: neither help nor version.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| arg.get_env().is_some())
}
