//! Reads pages from a replica.

use std::sync::Arc;

use super::Replica;
use super::room::{Room, StoredMessage};
use crate::domain::{ChatMessage, Reaction, ReactionCount, RoomName, Seq};
use crate::log::{Messages, Range, Reader};

impl Replica {
    /// Returns messages of a room in their current state, as [`Page`](crate::log::Page) describes.
    pub(crate) fn page(
        &self,
        room: &RoomName,
        before: Seq,
        range: Range,
        reader: Reader,
        limit: usize,
        max_bytes: usize,
    ) -> Messages {
        let Some(room) = self.rooms.get(room) else {
            return Messages { floor: self.dropped, ..Messages::default() };
        };
        let end = room.count_before(before);
        let selected = select(room, end, range, limit, max_bytes);
        let left_out = selected.start.checked_sub(1).and_then(|last| room.messages().get(last));
        let mut page = Messages {
            topic: room.topic().clone(),
            floor: left_out.map_or(room.floor(), |left_out| left_out.message.seq),
            more: selected.start > 0,
            more_newer: selected.end < end,
            ..Messages::default()
        };
        for stored in room.messages().range(selected) {
            page.messages.push(with_quote(room, stored));
            add_reactions(&mut page, stored, reader);
        }
        match reader {
            Reader::Hub => add_changes(&mut page, room, before, limit),
            Reader::Client(_) => {}
        }
        page
    }
}

/// Returns the indexes of the messages that a page has, among the first `end` of the room.
fn select(
    room: &Room,
    end: usize,
    range: Range,
    limit: usize,
    max_bytes: usize,
) -> std::ops::Range<usize> {
    let text_bytes = |index: usize| room.messages()[index].text_bytes();
    // One message is returned in any case.
    let limit = limit.max(1);
    match range {
        Range::Latest => {
            let (count, _) = fit((0..end).rev().map(text_bytes), limit, max_bytes, true);
            end - count..end
        }
        Range::After(seq) => {
            let start = room.count_before(seq.next()).min(end);
            let (count, _) = fit((start..end).map(text_bytes), limit, max_bytes, true);
            start..start + count
        }
        Range::Around(seq) => {
            let middle = room.count_before(seq.next()).min(end);
            let half = limit.div_ceil(2);
            let older = (0..middle).rev().map(text_bytes);
            let (older, bytes) = fit(older, half, max_bytes.div_ceil(2), true);
            let newer_limit = (limit / 2).max(usize::from(older == 0));
            let newer = (middle..end).map(text_bytes);
            let (newer, _) = fit(newer, newer_limit, max_bytes.saturating_sub(bytes), older == 0);
            middle - older..middle + newer
        }
    }
}

/// Returns how many texts of these lengths fit into the limits, and their total length. With
/// `one_in_any_case`, the first text fits even if it is too long.
fn fit(
    lengths: impl Iterator<Item = usize>,
    limit: usize,
    max_bytes: usize,
    one_in_any_case: bool,
) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0_usize);
    for length in lengths.take(limit) {
        let total = bytes.saturating_add(length);
        if total > max_bytes && !(one_in_any_case && count == 0) {
            break;
        }
        (count, bytes) = (count + 1, total);
    }
    (count, bytes)
}

/// Returns a message with a quote of the current text of its target. A deleted message has no
/// quote.
fn with_quote(room: &Room, stored: &StoredMessage) -> Arc<ChatMessage> {
    let message = &stored.message;
    let target = message.reply_to.filter(|_| !message.deleted);
    let target = target.and_then(|target| room.find(target));
    let quote = target.and_then(|target| target.message.as_quote());
    if quote == message.quote {
        return Arc::clone(message);
    }
    Arc::new(ChatMessage { quote, ..ChatMessage::clone(message) })
}

fn add_reactions(page: &mut Messages, stored: &StoredMessage, reader: Reader) {
    let target = stored.message.seq;
    for (emoji, authors) in stored.reactions.iter() {
        match reader {
            Reader::Hub => page.reactions.extend(authors.iter().map(|author| Reaction {
                target,
                emoji: emoji.clone(),
                author: *author,
            })),
            Reader::Client(identity) => page.counts.push(ReactionCount {
                target,
                emoji: emoji.clone(),
                count: u32::try_from(authors.len()).unwrap_or(u32::MAX),
                mine: authors.contains(&Some(identity)),
            }),
        }
    }
}

/// Adds the last changes to a page, and raises its floor to the last change that is left out.
fn add_changes(page: &mut Messages, room: &Room, before: Seq, limit: usize) {
    let mut newest_first = room.changes().range(..before).rev().map(|(_, change)| change);
    page.changes.extend(newest_first.by_ref().take(limit).cloned());
    page.changes.reverse();
    let left_out = newest_first.next().map_or(room.forgotten(), |change| change.seq);
    page.floor = page.floor.max(left_out);
}
