//! Compares what clients received with what the journal has in the end. To save memory, a client
//! keeps only the number of messages that it received in a room and a checksum of them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;

/// A range of messages that a client has received in a room.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedRange {
    /// The sequence number before the range.
    after: u64,
    pub(crate) last: u64,
    count: u64,
    checksum: u64,
}

impl ReceivedRange {
    pub(crate) fn after(seq: u64) -> Self {
        Self { after: seq, last: seq, count: 0, checksum: 0 }
    }

    /// Adds the next message. Fails if it is not newer than the last one.
    pub(crate) fn add(&mut self, seq: u64, text: &str) -> Result<(), String> {
        if seq <= self.last {
            return Err(format!("{seq} ({text:.40}) was received after {}", self.last));
        }
        self.last = seq;
        self.count += 1;
        self.checksum = next_checksum(self.checksum, seq, text);
        Ok(())
    }
}

fn next_checksum(checksum: u64, seq: u64, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (checksum, seq, text).hash(&mut hasher);
    hasher.finish()
}

/// A message of an export.
#[derive(Deserialize)]
struct Exported {
    room: String,
    seq: u64,
    text: String,
}

/// The messages of the journal, by room.
pub(crate) struct StoredHistory {
    rooms: HashMap<String, Vec<(u64, String)>>,
}

impl StoredHistory {
    pub(crate) fn parse(export: &str) -> Self {
        let mut rooms: HashMap<String, Vec<(u64, String)>> = HashMap::new();
        for line in export.lines() {
            let Exported { room, seq, text } = serde_json::from_str(line).unwrap();
            rooms.entry(room).or_default().push((seq, text));
        }
        Self { rooms }
    }

    pub(crate) fn message_count(&self) -> usize {
        self.rooms.values().map(Vec::len).sum()
    }

    /// Returns the number of messages of the largest room.
    pub(crate) fn largest_room(&self) -> usize {
        self.rooms.values().map(Vec::len).max().unwrap_or(0)
    }

    /// Checks that a client has received exactly the stored messages of a range, and returns how
    /// many.
    pub(crate) fn check(&self, room: &str, range: &ReceivedRange) -> Result<u64, String> {
        let all = self.rooms.get(room).map_or(&[][..], Vec::as_slice);
        let start = all.partition_point(|(seq, _)| *seq <= range.after);
        let end = all.partition_point(|(seq, _)| *seq <= range.last);
        let stored = (end - start) as u64;
        if stored != range.count {
            let ReceivedRange { after, last, count, .. } = range;
            return Err(format!(
                "{room}: received {count} of {stored} messages after {after} up to {last}"
            ));
        }
        let checksum =
            all[start..end].iter().fold(0, |sum, (seq, text)| next_checksum(sum, *seq, text));
        if checksum == range.checksum {
            Ok(stored)
        } else {
            Err(format!("{room}: the received messages differ from the stored ones"))
        }
    }

    /// Returns how often each text of good clients (`good_client.rs`), except farewells, is stored.
    pub(crate) fn good_texts(&self) -> HashMap<&str, u32> {
        let mut texts = HashMap::new();
        for (_, text) in self.rooms.values().flatten() {
            if text.starts_with(super::good_client::PREFIX) {
                *texts.entry(text.as_str()).or_default() += 1;
            }
        }
        texts
    }
}
