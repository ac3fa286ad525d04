//! The chinwag server: reads its arguments, runs, and tells by its exit code how it went.

use std::io::Write;
use std::process::ExitCode;

use chinwag::config::{Args, Config};
use chinwag::server::{self, ServerError};
use clap::Parser;
use clap::error::ErrorKind;

/// Exit code for arguments that are wrong, as clap and most Unix tools use it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let config = match config() {
        Ok(config) => config,
        Err(line) => return fail(USAGE, &line),
    };
    env_logger::Builder::from_env(
        env_logger::Env::default().default_filter_or("warn,chinwag=info"),
    )
    .init();
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!("the limit of open files stays as it is: {error}");
    }
    match actix_web::rt::System::new().block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error.to_string()),
    }
}

async fn run(config: Config) -> Result<(), ServerError> {
    server::start(config).await?.run().await
}

/// The arguments, checked; or one line that names the flag and what it takes.
fn config() -> Result<Config, String> {
    let args = Args::try_parse().map_err(|error| {
        if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
            // Help, version, and mistakes whose explanation needs more than a line.
            error.exit();
        }
        let text = error.to_string();
        let first = text.split("\n\nFor more").next().unwrap_or(&text);
        first.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ")
    })?;
    Config::try_from(args).map_err(|error| error.to_string())
}

fn fail(code: u8, line: &str) -> ExitCode {
    // Nothing better can be done when even this cannot be said.
    let _ = writeln!(std::io::stderr(), "error: {line}");
    ExitCode::from(code)
}
