//! What was said and what was read, and whether that agrees. The truth is what the journal holds in
//! the end; what a client has read of a room is kept as stretches, of which the last place, the
//! number of messages and a sum in their order are known.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;

/// Messages that a client has read without a gap: all of a room from one place to another.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    /// The place after which it begins.
    after: u64,
    pub(crate) last: u64,
    count: u64,
    sum: u64,
}

impl Stretch {
    pub(crate) fn after(seq: u64) -> Self {
        Self { after: seq, last: seq, count: 0, sum: 0 }
    }

    /// Adds the next message, or says why it cannot be that.
    pub(crate) fn read(&mut self, seq: u64, text: &str) -> Result<(), String> {
        if seq <= self.last {
            return Err(format!("{seq} ({text:.40}) is told after {}", self.last));
        }
        self.last = seq;
        self.count += 1;
        self.sum = next_sum(self.sum, seq, text);
        Ok(())
    }
}

fn next_sum(sum: u64, seq: u64, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (sum, seq, text).hash(&mut hasher);
    hasher.finish()
}

/// A message as an export has it.
#[derive(Deserialize)]
struct Exported {
    room: String,
    seq: u64,
    text: String,
}

/// What the journal holds.
pub(crate) struct Truth {
    rooms: HashMap<String, Vec<(u64, String)>>,
}

impl Truth {
    pub(crate) fn of(export: &str) -> Self {
        let mut rooms: HashMap<String, Vec<(u64, String)>> = HashMap::new();
        for line in export.lines() {
            let Exported { room, seq, text } = serde_json::from_str(line).unwrap();
            rooms.entry(room).or_default().push((seq, text));
        }
        Self { rooms }
    }

    pub(crate) fn messages(&self) -> usize {
        self.rooms.values().map(Vec::len).sum()
    }

    /// The most of any room: the server keeps no more than so many.
    pub(crate) fn longest(&self) -> usize {
        self.rooms.values().map(Vec::len).max().unwrap_or(0)
    }

    /// Says what is wrong with what a client has read, if anything is.
    pub(crate) fn check(&self, room: &str, stretch: &Stretch) -> Result<u64, String> {
        let all = self.rooms.get(room).map_or(&[][..], Vec::as_slice);
        let start = all.partition_point(|(seq, _)| *seq <= stretch.after);
        let end = all.partition_point(|(seq, _)| *seq <= stretch.last);
        let there = (end - start) as u64;
        if there != stretch.count {
            let Stretch { after, last, count, .. } = stretch;
            return Err(format!("{room}: {count} of {there} read after {after} up to {last}"));
        }
        let sum = all[start..end].iter().fold(0, |sum, (seq, text)| next_sum(sum, *seq, text));
        if sum == stretch.sum { Ok(there) } else { Err(format!("{room}: something else was read")) }
    }

    /// How often each text of the good is there.
    pub(crate) fn good_texts(&self) -> HashMap<&str, u32> {
        let mut texts = HashMap::new();
        for (_, text) in self.rooms.values().flatten() {
            if text.starts_with(super::good::PREFIX) {
                *texts.entry(text.as_str()).or_default() += 1;
            }
        }
        texts
    }
}
