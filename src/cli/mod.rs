//! The parts of the program that the library does not have: subcommands, hints in errors, and the
//! format of the program's log output.

pub(crate) mod check_config;
#[cfg(feature = "cluster")]
pub(crate) mod cluster;
#[cfg(feature = "journal")]
pub(crate) mod commands;
pub(crate) mod hints;
pub(crate) mod logging;
