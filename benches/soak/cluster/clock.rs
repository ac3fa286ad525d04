//! The clock of a node, which can be moved while the node runs: libfaketime reads the offset from a
//! file. It moves only the time of day, not the clock for intervals and timeouts.

use std::path::{Path, PathBuf};

use crate::server::Server;

const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

pub(super) struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Gives a node that does not run yet a clock that can be moved.
    pub(super) fn of(node: &mut Server) -> Self {
        let clock = Self { file: node.folder().join("clock") };
        clock.set(0);
        let file = clock.file.to_str().unwrap();
        let library = find_library().expect("scripts/soak installs libfaketime");
        for (name, value) in [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            // It reads the file at most once a second.
            ("FAKETIME_CACHE_DURATION", "1"),
            // The name of this variable depends on the version.
            ("DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ] {
            node.set_variable(name, value.into());
        }
        clock
    }

    /// Moves the clock to so many seconds after the true time.
    pub(super) fn set(&self, seconds: i64) {
        // Nobody reads half of the offset.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }
}

/// Debian has it in a folder for each architecture.
fn find_library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    folders.map(|folder| folder.path().join(LIBRARY)).find(|library| library.exists())
}

/// libfaketime leaves these files if its process is killed.
pub(super) fn clean_up_after(pid: u32) {
    for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(name));
    }
}
