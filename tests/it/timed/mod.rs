//! Tests that hold the server or the page to a time. `scripts/test` runs them one after the other,
//! when nothing else uses the machine, and all other tests together.

pub mod heartbeat; // who is pinged, and who is taken for dead
pub mod scroll; // a long history in the page (ignored unless asked for: needs Chromium)
pub mod slow; // clients that read slowly, or no more
pub mod slow_hub; // a hub that takes its time
pub mod stalled_journal; // a journal that stands still
