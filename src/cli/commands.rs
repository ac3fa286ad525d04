//! What the program does beside serving: `backup` and `export`, also of a journal that a server is
//! writing.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chinwag::domain::RoomName;
use chinwag::log::sqlite::{self, BackupError, ExportError};
use clap::Subcommand;
use thiserror::Error;

/// How often progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// A command beside serving.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Copy the history to another file, also while a server is writing it.
    Backup {
        /// File that keeps the history.
        #[arg(long, env = "CHINWAG_DB", value_name = "PATH", default_value = "chinwag.db")]
        #[arg(value_parser = file)]
        db: PathBuf,

        /// The copy; a file that is not there yet. Start a server on it by --db.
        dest: PathBuf,
    },
    /// Write the history to standard output, one message to a line, as JSON.
    Export {
        /// File that keeps the history.
        #[arg(long, env = "CHINWAG_DB", value_name = "PATH", default_value = "chinwag.db")]
        #[arg(value_parser = file)]
        db: PathBuf,

        /// Only what was said in this room.
        #[arg(long, value_name = "NAME", value_parser = RoomName::parse)]
        room: Option<RoomName>,
    },
}

/// Why a command has failed.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Export(#[from] ExportError),
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
                // Between the lines of an export on the same terminal it would only disturb.
                let shown = io::stderr().is_terminal() && !io::stdout().is_terminal();
                let mut progress = Progress::new(shown);
                let mut out = BufWriter::new(io::stdout().lock());
                let exported = sqlite::export(&db, room.as_ref(), &mut out, &mut |done| {
                    progress.show(|| format!("{done} messages"));
                });
                match exported {
                    // Who reads has seen enough.
                    Err(ExportError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    }
                    exported => progress.end(&format!("{} messages exported", exported?)),
                }
                Ok(())
            }
        }
    }
}

/// One line on a terminal that changes as the work goes on.
struct Progress {
    shown: bool,
    next: Instant,
}

impl Progress {
    fn new(shown: bool) -> Self {
        Self { shown, next: Instant::now() }
    }

    fn show(&mut self, words: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.shown && self.next <= now {
            self.next = now + PROGRESS_INTERVAL;
            self.write(&words(), "");
        }
    }

    fn end(&self, words: &str) {
        if self.shown {
            self.write(words, "\n");
        }
    }

    /// Writes over what was there.
    fn write(&self, words: &str, end: &str) {
        // It is for show; the work goes on also when nobody can be shown.
        let _ = write!(io::stderr(), "\r\x1b[K{words}{end}");
    }
}

fn file(text: &str) -> Result<PathBuf, &'static str> {
    match text {
        "" | "none" => Err("must be the path of a file"),
        path => Ok(path.into()),
    }
}
