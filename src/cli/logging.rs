//! The log, on standard error: `RUST_LOG` says how much of it, `--log-format` how it is written.

use std::io::Write;

use clap::ValueEnum;
use env_logger::{Builder, Env};
use serde_json::json;

/// How each line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// As a JSON object, for programs.
    Json,
}

/// `actix_http::h1` logs an error for each malformed request, so anyone could flood the log.
const DEFAULT: &str = "warn,actix_http::h1=off,chinwag=info";

/// Starts the log.
pub(crate) fn start(format: LogFormat) {
    let mut log = Builder::from_env(Env::default().default_filter_or(DEFAULT));
    if format == LogFormat::Json {
        log.format(|out, record| {
            let line = json!({
                "at": out.timestamp_millis().to_string(),
                "level": record.level().as_str(),
                "target": record.target(),
                "message": record.args().to_string(),
            });
            writeln!(out, "{line}")
        });
        // Who reads the log by a program misses what is not in its format.
        std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    }
    log.init();
}
