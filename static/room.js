// A room as this page knows it: what was said, what is on its way, who is there.

import { Membership } from "./client.js";
import { mentions } from "./text.js";

/**
 * @import { Entry, HistoryEvent, JoinedEvent, Message, PresenceEvent, Read, RenamedEvent }
 *   from "./protocol.js"
 */

/** Entries that a room holds in the page, and a tenth more; while somebody reads further up, all. */
const ENTRIES_MAX = 12_000;
/** How long somebody is typing who has stopped saying so. */
const TYPING_MS = 6_000;

export class Room extends Membership {
  /** @type {Entry[]} Messages, and notes between them, in the order in which they are shown. */
  entries = [];
  /** @type {Set<string>} */
  members = new Set();
  memberCount = 0;
  /** @type {Map<string, number>} */
  typing = new Map();
  /** Whether there may be older messages than the first one here. */
  more = false;
  asking = false;
  unread = 0;
  mentioned = false;
  /** The last place that was read, and the first that was not when the room was last opened. */
  read;
  /** @type {number | null} */
  firstUnread = null;
  draft = "";
  /** What is missing before the first entry, until older messages are loaded. */
  gap = "";

  /** @param {string} name @param {Read} [read] */
  constructor(name, read) {
    super(name);
    this.read = read;
  }

  get oldest() {
    return this.entries.find((entry) => "seq" in entry)?.seq;
  }

  /** Takes what `joined` tells. Gives whether all that was here still is. @param {JoinedEvent} line */
  join({ epoch, seq, recovered, members, member_count, messages }) {
    const whole = recovered || this.epoch === null;
    if (!whole) {
      this.entries = [];
      this.gap = this.epoch === epoch
        ? "You were away for too long: what was said meanwhile is not all here."
        : "The server has begun a new log: what was said before is not in it.";
    }
    if (!recovered) {
      this.more = messages.length > 0;
    }
    if (this.read?.epoch !== epoch) {
      this.read = { epoch, seq: this.epoch === null ? seq : 0 };
    }
    Object.assign(this, { epoch, joined: true });
    this.members = new Set(members);
    this.memberCount = member_count;
    for (const message of messages) {
      this.add(message);
    }
    this.seq = seq;
    return whole;
  }

  /** Adds a message at the end. Gives whether it is new here. @param {Message} message */
  add(message) {
    const last = this.entries.findLast((entry) => "seq" in entry);
    if (last && last.seq >= message.seq) {
      return false;
    }
    this.typing.delete(message.nick);
    this.entries.push(message);
    this.seq = message.seq;
    return true;
  }

  /** Forgets the oldest entries when there are too many. Gives how many. */
  trim() {
    const surplus = this.entries.length - ENTRIES_MAX;
    if (surplus < ENTRIES_MAX / 10) {
      return 0;
    }
    this.entries.splice(0, surplus);
    this.more = true;
    return surplus;
  }

  /** Adds older messages at the beginning. Gives how many. @param {HistoryEvent} line */
  prepend({ messages, more }) {
    this.asking = false;
    this.more = more;
    this.gap = "";
    const oldest = this.oldest ?? Infinity;
    const older = messages.filter((message) => message.seq < oldest);
    this.entries.unshift(...older);
    return older.length;
  }

  /** Notes who came and went: in one note as long as nobody says anything. @param {PresenceEvent} line */
  presence({ joined, left, member_count }) {
    this.memberCount = member_count;
    let last = this.entries.at(-1);
    if (!last || !("came" in last)) {
      last = { came: new Set(), went: new Set() };
      this.entries.push(last);
    }
    for (const name of left) {
      this.members.delete(name);
      this.typing.delete(name);
      last.came.delete(name) || last.went.add(name);
    }
    for (const name of joined) {
      this.members.add(name);
      last.went.delete(name) || last.came.add(name);
    }
    return last;
  }

  /**
   * Notes that somebody has another name, unless it is one's own first. Gives whether it did.
   * @param {RenamedEvent} line @param {boolean} isMine
   */
  renamed({ from, to }, isMine) {
    this.members.delete(from);
    this.members.add(to);
    this.typing.delete(from);
    const noted = !(isMine && from.startsWith("anonymous-"));
    if (noted) {
      this.entries.push({ note: `${from} is now ${to}.` });
    }
    return noted;
  }

  /** Counts a message that was not seen. @param {Message} message @param {string} me */
  count(message, me) {
    this.unread += 1;
    this.mentioned ||= mentions(message.text, me);
  }

  /** Everything here has been seen. */
  readAll() {
    this.unread = 0;
    this.mentioned = false;
    this.read = { epoch: this.epoch, seq: this.seq };
  }

  /** @param {string} name */
  isTyping(name) {
    this.typing.set(name, Date.now() + TYPING_MS);
  }

  get whoIsTyping() {
    const now = Date.now();
    return Array.from(this.typing).flatMap(([name, until]) => (until > now ? [name] : []));
  }
}
