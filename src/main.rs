//! The program `chinwag`: parses the command line, and runs the server or a subcommand. The exit
//! code is 0 for success, 1 for a failure and 2 for invalid arguments.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use chinwag::config::{Args, Config};
use chinwag::server::{self, ServerError};
use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use clap_complete::Shell;

use cli::check_config::{self, unknown_variables};
#[cfg(feature = "cluster")]
use cli::cluster;
#[cfg(feature = "journal")]
use cli::commands;
use cli::hints;
use cli::logging::{self, LogFormat};

/// The exit code for invalid arguments, as in clap and most Unix tools.
const USAGE: u8 = 2;

/// The number of open files that the program needs in addition to one for each WebSocket: for the
/// journal, for connections that load the page, and for itself.
const OTHER_OPEN_FILES: u64 = 500;

/// A web chat server: start it, open the page, talk.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(flatten)]
    serving: Serving,

    #[command(subcommand)]
    command: Option<Command>,
}

/// The flags of the server.
#[derive(Debug, clap::Args)]
struct Serving {
    #[command(flatten)]
    args: Args,

    /// Format of the log.
    #[arg(long, env = "CHINWAG_LOG_FORMAT", value_name = "text|json", default_value = "text")]
    #[arg(hide_possible_values = true)]
    log_format: LogFormat,
}

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check the configuration, and print each setting with its source.
    #[command(name = CHECK_CONFIG)]
    CheckConfig(Box<Serving>),

    /// Print a script that completes commands and flags in a shell.
    Completions {
        /// Shell to write the script for.
        shell: Shell,
    },

    #[cfg(feature = "journal")]
    #[command(flatten)]
    Journal(commands::Command),

    /// Commands for a cluster.
    #[cfg(feature = "cluster")]
    #[command(subcommand)]
    Cluster(cluster::Command),
}

const CHECK_CONFIG: &str = "check-config";

/// The flags that `-h` shows.
const COMMON_FLAGS: [&str; 14] = [
    "listen",
    "public_host",
    "redirect_from",
    "metrics_listen",
    "acme",
    "acme_contact",
    "tls_cert",
    "tls_key",
    "trusted_proxy",
    "db",
    "keep_for",
    "max_connections",
    "log_format",
    "version",
];

/// Returns the command line for clap. `-h` shows only the common flags.
fn command_line() -> clap::Command {
    CommandLine::command().mut_args(|arg| {
        let is_common = COMMON_FLAGS.contains(&arg.get_id().as_str());
        if is_common { arg } else { arg.hide_short_help(true) }
    })
}

fn main() -> ExitCode {
    let (parsed, matches) = match parse_arguments() {
        Ok(parsed) => parsed,
        Err(line) => return fail(USAGE, &line),
    };
    match parsed.command {
        None => match Config::try_from(parsed.serving.args) {
            Ok(config) => serve(config, parsed.serving.log_format),
            Err(error) => fail(USAGE, &hints::with_flag(&error)),
        },
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "chinwag", &mut script);
            match std::io::stdout().write_all(&script) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(1, &error.to_string()),
            }
        }
        Some(Command::CheckConfig(serving)) => match Config::try_from(serving.args) {
            Ok(config) => check_config(&matches, &config),
            Err(error) => fail(USAGE, &hints::with_flag(&error)),
        },
        #[cfg(feature = "journal")]
        Some(Command::Journal(command)) => match command.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error.to_string()),
        },
        #[cfg(feature = "cluster")]
        Some(Command::Cluster(command)) => {
            match actix_web::rt::System::new().block_on(command.run()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(cluster::CommandError::Config(error)) => fail(USAGE, &hints::with_flag(&error)),
                Err(error) => fail(1, &error.to_string()),
            }
        }
    }
}

fn check_config(matches: &ArgMatches, config: &Config) -> ExitCode {
    let command = command_line();
    let checked =
        command.find_subcommand(CHECK_CONFIG).zip(matches.subcommand_matches(CHECK_CONFIG));
    let Some((command, matches)) = checked else { return ExitCode::SUCCESS };
    for warning in unknown_variables(command) {
        // If standard error is closed, there is no place to report that.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    match check_config::show(command, matches, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error.to_string()),
    }
}

fn serve(config: Config, log_format: LogFormat) -> ExitCode {
    logging::start(log_format);
    for warning in unknown_variables(&CommandLine::command()) {
        log::warn!("{warning}");
    }
    allow_open_files(&config);
    match actix_web::rt::System::new().block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &hints::with_hint(&error)),
    }
}

/// Raises the limit of open files as far as the system allows. Warns if that is not enough for the
/// configured connections.
fn allow_open_files(config: &Config) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(allowed) => {
            let most = config.max_connections.map_or(0, |most| most as u64);
            let needed = most.saturating_add(OTHER_OPEN_FILES);
            if allowed < needed {
                log::warn!(
                    "the system allows {allowed} open files; --max-connections {most} needs \
                     {needed}. Raise the limit (ulimit -n, LimitNOFILE), or lower \
                     --max-connections"
                );
            }
        }
        Err(error) => log::warn!("cannot raise the limit of open files: {error}"),
    }
}

async fn run(config: Config) -> Result<(), ServerError> {
    server::start(config).await?.run().await
}

/// Parses the arguments. Returns an error for an invalid value, in one line that names the flag.
/// Exits for all other errors.
fn parse_arguments() -> Result<(CommandLine, ArgMatches), String> {
    let matches = command_line().try_get_matches();
    let parsed = matches.and_then(|matches| {
        CommandLine::from_arg_matches(&matches).map(|parsed| (parsed, matches))
    });
    parsed.map_err(|error| {
        if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
            // The help, the version, and errors that clap explains in several lines.
            error.exit();
        }
        let text = error.to_string();
        let first = text.split("\n\nFor more").next().unwrap_or(&text);
        first.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

/// Prints an error and returns the exit code.
fn fail(code: u8, line: &str) -> ExitCode {
    // If standard error is closed, there is no place to report that.
    let _ = writeln!(std::io::stderr(), "error: {line}");
    ExitCode::from(code)
}
