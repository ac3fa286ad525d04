//! The subcommands `backup` and `export`, which read the history file while a server may use it,
//! and `import`, which makes a new one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chinwag::domain::RoomName;
use chinwag::log::sqlite::{self, BackupError, ExportError, ImportError};
use clap::Subcommand;
use thiserror::Error;

/// The minimum interval between two updates of the progress line.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// A subcommand on the history file.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Copy the history file, also while a server uses it.
    Backup {
        /// SQLite file that stores the history.
        #[arg(long, env = "CHINWAG_DB", value_name = "PATH", default_value = "chinwag.db")]
        #[arg(value_parser = file)]
        db: PathBuf,

        /// File for the copy, which must not exist. To restore it, pass it to --db of a server.
        dest: PathBuf,
    },
    /// Write the history to standard output, with one message in JSON on each line.
    Export {
        /// SQLite file that stores the history.
        #[arg(long, env = "CHINWAG_DB", value_name = "PATH", default_value = "chinwag.db")]
        #[arg(value_parser = file)]
        db: PathBuf,

        /// Write only the messages of this room.
        #[arg(long, value_name = "NAME", value_parser = RoomName::parse)]
        room: Option<RoomName>,
    },
    /// Make a new history file of an export.
    Import {
        /// SQLite file to create. It must not exist.
        #[arg(long, env = "CHINWAG_DB", value_name = "PATH", default_value = "chinwag.db")]
        #[arg(value_parser = file)]
        db: PathBuf,

        /// File with the lines of an export. - reads standard input.
        export: PathBuf,
    },
}

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("cannot open {}: {}", .0.display(), .1)]
    Open(PathBuf, io::Error),
}

impl Command {
    pub(crate) fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Backup { db, dest } => {
                let mut progress = Progress::new(io::stderr().is_terminal());
                sqlite::backup(&db, &dest, &mut |done, all| {
                    progress.show(|| format!("{}% copied", done * 100 / all.max(1)));
                })?;
                progress.end(&format!("copied to {}", dest.display()));
                Ok(())
            }
            Self::Export { db, room } => {
                // On the same terminal the progress would be mixed with the exported lines.
                let is_shown = io::stderr().is_terminal() && !io::stdout().is_terminal();
                let mut progress = Progress::new(is_shown);
                let mut out = BufWriter::new(io::stdout().lock());
                let exported = sqlite::export(&db, room.as_ref(), &mut out, &mut |done| {
                    progress.show(|| format!("{done} messages"));
                });
                match exported {
                    // The reader of the pipe has closed it, as `head` does.
                    Err(ExportError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    }
                    exported => progress.end(&format!("{} messages exported", exported?)),
                }
                Ok(())
            }
            Self::Import { db, export } => {
                let mut progress = Progress::new(io::stderr().is_terminal());
                let mut input: Box<dyn BufRead> = if export.as_os_str() == "-" {
                    Box::new(io::stdin().lock())
                } else {
                    let opened = File::open(&export);
                    Box::new(BufReader::new(
                        opened.map_err(|error| CommandError::Open(export, error))?,
                    ))
                };
                let imported = sqlite::import(&db, &mut input, &mut |done| {
                    progress.show(|| format!("{done} messages"));
                })?;
                progress.end(&format!("{imported} messages imported into {}", db.display()));
                Ok(())
            }
        }
    }
}

/// A progress line on the terminal, which is overwritten at each update.
struct Progress {
    is_shown: bool,
    next: Instant,
}

impl Progress {
    fn new(is_shown: bool) -> Self {
        Self { is_shown, next: Instant::now() }
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.is_shown && self.next <= now {
            self.next = now + PROGRESS_INTERVAL;
            self.write(&text(), "");
        }
    }

    fn end(&self, text: &str) {
        if self.is_shown {
            self.write(text, "\n");
        }
    }

    /// Overwrites the line.
    fn write(&self, text: &str, end: &str) {
        // The command must not fail because its progress cannot be shown.
        let _ = write!(io::stderr(), "\r\x1b[K{text}{end}");
    }
}

/// Parses the path of a history file. `none` is valid only for a server.
fn file(text: &str) -> Result<PathBuf, &'static str> {
    match text {
        "" | "none" => Err("must be the path of a file"),
        path => Ok(path.into()),
    }
}
