// The state of a room in the page: messages, members, unread count.

import { Membership } from "./client.js";
import { mentions } from "./text.js";

/**
 * @import { Entry, HistoryEvent, JoinedEvent, Message, PresenceEvent, ReadPosition, RenamedEvent }
 *   from "./protocol.js"
 */

/** Entries that a room keeps. It may exceed this by 10%, and by more while the user reads older ones. */
const ENTRIES_MAX = 12_000;
/** How long a user counts as typing after the last `typing` event. */
const TYPING_MS = 6_000;

export class Room extends Membership {
  /** @type {Entry[]} Messages and notes, oldest first. */
  entries = [];
  /** @type {Set<string>} */
  members = new Set();
  memberCount = 0;
  /** @type {Map<string, number>} Names, and until when they count as typing, in milliseconds since 1970. */
  typing = new Map();
  /** Whether the server may have older messages. */
  hasOlder = false;
  isLoadingOlder = false;
  unread = 0;
  mentioned = false;
  /** The last position that was read. */
  read;
  /** @type {number | null} The message below the "New" line. */
  firstUnread = null;
  /** Text that was typed and not sent. */
  draft = "";
  /** A note above the first entry about missing messages, or "". */
  gap = "";

  /** @param {string} name @param {ReadPosition} [read] */
  constructor(name, read) {
    super(name);
    this.read = read;
  }

  /** The sequence number of the oldest loaded message. */
  get oldest() {
    return this.entries.find((entry) => "seq" in entry)?.seq;
  }

  /** Applies a `joined` event. Returns whether the earlier entries stay valid. @param {JoinedEvent} event */
  applyJoined({ epoch, seq, recovered, members, member_count, messages }) {
    const isContinuous = recovered || this.epoch === null;
    if (!isContinuous) {
      this.entries = [];
      this.gap = this.epoch === epoch
        ? "Some messages sent while you were disconnected are not shown here."
        : "The server’s history was reset. Earlier messages are no longer available.";
    }
    if (!recovered) {
      this.hasOlder = messages.length > 0;
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
    return isContinuous;
  }

  /** Adds a message at the end. Returns whether it is new. @param {Message} message */
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

  /** Removes the oldest entries if there are too many. Returns how many. */
  trim() {
    const surplus = this.entries.length - ENTRIES_MAX;
    if (surplus < ENTRIES_MAX / 10) {
      return 0;
    }
    this.entries.splice(0, surplus);
    this.hasOlder = true;
    return surplus;
  }

  /** Adds older messages at the beginning. Returns how many. @param {HistoryEvent} event */
  prepend({ messages, more }) {
    this.isLoadingOlder = false;
    this.hasOlder = more;
    this.gap = "";
    const oldest = this.oldest ?? Infinity;
    const older = messages.filter((message) => message.seq < oldest);
    this.entries.unshift(...older);
    return older.length;
  }

  /** Applies a `presence` event. One note lists all changes between two messages. @param {PresenceEvent} event */
  applyPresence({ joined, left, member_count }) {
    this.memberCount = member_count;
    let last = this.entries.at(-1);
    if (!last || !("joined" in last)) {
      last = { joined: new Set(), left: new Set() };
      this.entries.push(last);
    }
    for (const name of left) {
      this.members.delete(name);
      this.typing.delete(name);
      last.joined.delete(name) || last.left.add(name);
    }
    for (const name of joined) {
      this.members.add(name);
      last.left.delete(name) || last.joined.add(name);
    }
    return last;
  }

  /**
   * Applies a `renamed` event. Returns whether it added a note: the user's own first name needs none.
   * @param {RenamedEvent} event @param {boolean} isMine
   */
  applyRenamed({ from, to }, isMine) {
    this.members.delete(from);
    this.members.add(to);
    this.typing.delete(from);
    const hasNote = !(isMine && from.startsWith("anonymous-"));
    if (hasNote) {
      this.entries.push({ note: `${from} is now known as ${to}.` });
    }
    return hasNote;
  }

  /** Counts an unread message. @param {Message} message @param {string} me */
  countUnread(message, me) {
    this.unread += 1;
    this.mentioned ||= mentions(message.text, me);
  }

  /** Marks all messages as read. */
  markRead() {
    this.unread = 0;
    this.mentioned = false;
    this.read = { epoch: this.epoch, seq: this.seq };
  }

  /** Counts a user as typing for some seconds. @param {string} name */
  setTyping(name) {
    this.typing.set(name, Date.now() + TYPING_MS);
  }

  get typingNames() {
    const now = Date.now();
    return Array.from(this.typing).flatMap(([name, until]) => (until > now ? [name] : []));
  }
}
