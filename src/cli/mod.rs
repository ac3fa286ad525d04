//! The subcommands and messages of the program.

pub(crate) mod check_config;
#[cfg(feature = "journal")]
pub(crate) mod commands;
pub(crate) mod hints;
pub(crate) mod logging;
