//! The subcommands of a cluster. They talk to NATS, beside the nodes.

use std::io::{self, Write};

use chinwag::config::{ConfigError, NatsArgs};
use chinwag::log::jetstream::{self, PurgeError, Purged};
use clap::Subcommand;
use thiserror::Error;

const SERVER: &str = "URL of a NATS server with JetStream";

/// A subcommand of a cluster.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Delete the records of the stream that all running nodes have in their history files.
    ///
    /// Until then, the stream also has the texts that users have deleted. A node that does not run
    /// now copies the history file of another node when it starts.
    #[command(mut_arg("nats", |arg| arg.required(true).help(SERVER).long_help(None)))]
    Purge {
        #[command(flatten)]
        nats: NatsArgs,
    },
}

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Purge(#[from] PurgeError),
}

impl Command {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let Self::Purge { nats } = self;
        let cluster = nats.into_cluster()?.expect("a server is a required argument");
        let Purged { records, first, nodes, .. } = jetstream::purge(&cluster).await?;
        let mut out = io::stdout().lock();
        // The command has done its work, even if nobody reads this.
        for (name, position) in nodes {
            let _ = writeln!(out, "node {name} has the records up to {position}");
        }
        let _ = writeln!(out, "deleted {records} records; the stream begins with record {first}");
        Ok(())
    }
}
