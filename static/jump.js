// Shows the message that a link, a quote or a search result refers to. Loaded when it is first needed.
//
// If the message is not loaded, the page shows `past` instead of the room: the history around the message,
// which grows in both directions. New messages are added to the room meanwhile. Once `past` reaches the
// messages of the room, both become one list. So a list never has a gap.

import { author, client, current, log, request, showStatus } from "./chat.js";
import { Room } from "./room.js";
import "./dialog.js";

/** @import { HistoryCommand, HistoryEvent } from "./protocol.js" */

const STEP = 50;
const GONE = "This message is no longer available.";

/** The number of jumps. The answer to an earlier one is ignored. */
let jumps = 0;
/** @type {Element | null} */
let target = null;

/**
 * Shows a message of the current room, and moves the focus to it if it is the target of a link.
 * @param {number} seq
 */
export async function jump(seq, isTarget = true) {
  jumps += 1;
  if (show(log.room, seq, isTarget) || show(current, seq, isTarget)) {
    return;
  }
  const [number, room] = [jumps, current];
  // `room.past` may be that of an earlier jump.
  const shown = log.room.live === room ? log.room : null;
  // Changes also apply to what is shown until the answer arrives.
  const past = Object.assign(new Room(room.name), { live: room, past: shown, changesWhileLoading: [] });
  room.past = past;
  const event = await ask({ type: "history", room: room.name, around: seq, limit: STEP });
  if (number !== jumps || room !== current || room.past !== past) {
    room.past = room.past === past ? shown : room.past;
    return;
  }
  if (event?.messages.some((message) => message.seq === seq)) {
    past.past = null;
    past.prepend(event, author);
    past.hasNewer = event.more_newer ?? false;
    past.firstUnread = room.firstUnread;
    // They may overlap with the messages of the room.
    const index = past.entries.findIndex((entry) => "seq" in entry && entry.seq >= (room.oldest ?? Infinity));
    const isJoined = index >= 0 || !past.hasNewer;
    if (isJoined) {
      join(past, index < 0 ? past.entries.length : index);
    }
    show(isJoined ? room : past, seq, isTarget);
  } else if (!isTarget) {
    room.past = null;
    log.show(room);
  } else {
    room.past = shown;
    showStatus(event === undefined ? "This message could not be loaded. Try again once you are connected." : GONE, {
      isTemporary: true,
    });
    if (shown === null && log.room !== room) {
      // It replaced that to the first unread one.
      room.firstUnread === null ? log.show(room) : jump(room.firstUnread, false);
    }
  }
}

/** Adds newer messages to a `past`. @param {Room} past */
export async function loadNewer(past) {
  const room = past.live;
  if (room === null || past.changesWhileLoading !== null || !client.isWelcome) {
    return;
  }
  past.changesWhileLoading = [];
  const event = await ask({ type: "history", room: room.name, after: past.latest, limit: 2 * STEP });
  if (event === undefined || room.past !== past) {
    past.changesWhileLoading = null;
    return;
  }
  const { latest } = past;
  const newer = event.messages.filter((message) => message.seq > latest);
  past.update(newer, event.mine, author);
  const oldest = room.oldest ?? Infinity;
  const between = newer.filter((message) => message.seq < oldest);
  past.entries.push(...between);
  past.hasNewer = event.more_newer ?? false;
  if (between.length < newer.length || !past.hasNewer) {
    join(past, past.entries.length);
  }
  if (log.room === past || log.room === room) {
    log.continueWith(room.past ?? room);
  }
}

/** Moves the first messages of a `past` before those of its room. @param {Room} past @param {number} count */
function join(past, count) {
  const room = /** @type {Room} */ (past.live);
  room.entries.unshift(...past.entries.slice(0, count));
  room.hasOlder = past.hasOlder;
  room.gap = "";
  room.past = null;
  log.prepended(room, count);
}

/** @param {HistoryCommand} command @returns {Promise<HistoryEvent | undefined>} */
async function ask(command) {
  const event = await request(command);
  return event?.type === "history" ? event : undefined;
}

/** Shows a message if it is loaded, and returns whether it is. @param {Room} room @param {number} seq @param {boolean} isTarget */
function show(room, seq, isTarget) {
  const index = room.entries.findIndex((entry) => "seq" in entry && entry.seq === seq);
  if (index < 0) {
    return false;
  }
  if (room === current) {
    room.past = null;
  }
  const article = log.showAround(room, index).querySelector("article");
  if (!isTarget) {
    return true;
  }
  target?.classList.remove("target");
  target = article;
  article?.classList.add("target");
  article?.focus({ preventScroll: true });
  const entry = room.entries[index];
  if ("deleted" in entry && entry.deleted) {
    showStatus("This message was deleted.", { isTemporary: true });
  }
  return true;
}
