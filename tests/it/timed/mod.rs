//! Tests that assert how long something takes. `scripts/test` runs them after all others, one for
//! each core, while nothing else uses the machine.

pub mod heartbeat; // pings and pongs
pub mod scroll; // a long history in the page (ignored by default: needs Chromium)
pub mod slow; // clients that read slowly or not at all
pub mod slow_hub; // a hub that is slow
pub mod stalled_journal; // a journal that does not commit
