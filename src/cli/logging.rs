//! The log of the program, on standard error. `RUST_LOG` sets its level, `--log-format` its format.

use std::io::Write;

use clap::ValueEnum;
use env_logger::{Builder, Env};
use serde_json::json;

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Each line is text for people.
    Text,
    /// Each line is a JSON object.
    Json,
}

/// The default of `RUST_LOG`. `actix_http::h1` is off: it logs an error for each malformed request,
/// so anyone could flood the log.
const DEFAULT_FILTER: &str = "warn,actix_http::h1=off,chinwag=info";

/// Starts the log. With the JSON format, panics are also logged as JSON.
pub(crate) fn start(format: LogFormat) {
    let mut log = Builder::from_env(Env::default().default_filter_or(DEFAULT_FILTER));
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
        // A program that parses the log would miss a panic message in another format.
        std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    }
    log.init();
}
