// The state of a room in the page: topic, messages, members, unread count.

import { Membership } from "./client.js";
import { mentions } from "./text.js";

/**
 * @import { Composing, Entry, HistoryEvent, JoinedEvent, Message, MessageChange, OwnReaction, PresenceEvent, Quote,
 *   ReadPosition, RenamedEvent, RoomEvent, ShownMessage, UnconfirmedMessage } from "./protocol.js"
 */

/** Entries that a room keeps. It may exceed this by 10%, and by more while the user reads older ones. */
const ENTRIES_MAX = 12_000;
/** How long a user counts as typing after the last `typing` event. */
const TYPING_MS = 6_000;
/** Characters of a message that a reply to it shows. */
const QUOTE_MAX = 100;

/** @param {Quote} message */
function quoteOf({ nick, text }) {
  return { nick, text: Array.from(text.slice(0, 2 * QUOTE_MAX)).slice(0, QUOTE_MAX).join("") };
}

/** Marks the user's own reactions in messages. @param {ShownMessage[]} messages @param {OwnReaction[]} [own] */
function markOwn(messages, own = []) {
  for (const message of messages) {
    message.mine = own.flatMap(({ seq, emoji }) => (seq === message.seq ? [emoji] : []));
  }
}

/**
 * Applies a change to messages. Returns those that it changes: the message itself, and replies to it.
 * @param {Entry[]} entries @param {MessageChange} change @param {string} me the user's public identity
 */
export function applyChange(entries, change, me) {
  const changed = [];
  for (const entry of entries) {
    if (!("seq" in entry)) {
      continue;
    }
    if (entry.seq === change.target) {
      changeMessage(entry, change, me);
    } else if (entry.reply_to !== change.target || change.type === "reacted") {
      continue;
    } else if (change.type === "edited") {
      // The quote keeps the name under which the author sent the message.
      entry.quote = quoteOf({ nick: entry.quote?.nick ?? change.nick, text: change.text });
    } else {
      delete entry.quote;
    }
    changed.push(entry);
  }
  return changed;
}

/** @param {ShownMessage} message @param {MessageChange} change @param {string} me */
function changeMessage(message, change, me) {
  if (change.type === "edited") {
    message.text = change.text;
    message.edited_at = change.at;
  } else if (change.type === "deleted") {
    Object.assign(message, { deleted: true, text: "", edited_at: undefined, quote: undefined, reactions: {} });
  } else {
    const { emoji, count, on, author } = change;
    message.reactions = { ...message.reactions, [emoji]: count };
    count === 0 && delete message.reactions[emoji];
    if (author === me) {
      const others = message.mine?.filter((other) => other !== emoji) ?? [];
      message.mine = on ? [...others, emoji] : others;
    }
  }
}

export class Room extends Membership {
  topic = "";
  /** @type {Entry[]} Messages and notes, oldest first. */
  entries = [];
  /** @type {Set<string>} */
  members = new Set();
  memberCount = 0;
  /** @type {Map<string, number>} Names, and until when they count as typing, in milliseconds since 1970. */
  typing = new Map();
  /** Whether the server may have older messages. */
  hasOlder = false;
  /** Whether the server has newer messages: true only in a `past`. */
  hasNewer = false;
  /** @type {Room | null} Older history that is shown instead of this room (jump.js). */
  past = null;
  /** @type {Room | null} The room whose `past` this is. */
  live = null;
  /** @type {MessageChange[] | null} Changes since older messages were requested; null if they are not. */
  changesWhileLoading = null;
  unread = 0;
  mentioned = false;
  /** The last position that was read. */
  read;
  /** @type {number | null} The message below the "New" line. */
  firstUnread = null;
  /** Text that was typed and not sent. */
  draft = "";
  /** @type {Composing | null} The message that is edited or replied to. */
  composing = null;
  /** When the read position was last sent, and the timer of the next time. */
  readSent = { at: 0, timer: 0 };
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

  /** The sequence number of the latest message, or 0. */
  get latest() {
    return this.entries.findLast((entry) => "seq" in entry)?.seq ?? 0;
  }

  /** Own messages that the server has not confirmed, oldest first. */
  get pendingMessages() {
    return /** @type {UnconfirmedMessage[]} */ (this.pending.filter(({ command }) => command.type === "say"));
  }

  /** Applies a `joined` event. Returns whether the earlier entries stay valid. @param {JoinedEvent} event */
  applyJoined({ epoch, seq, recovered, topic = "", members, member_count, messages, mine }) {
    const isContinuous = recovered || this.epoch === null;
    if (!isContinuous) {
      this.entries = [];
      this.past = null;
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
    Object.assign(this, { epoch, topic, joined: true });
    markOwn(messages, mine);
    this.members = new Set(members);
    this.memberCount = member_count;
    for (const message of messages) {
      this.add(message);
    }
    this.seq = seq;
    return isContinuous;
  }

  /** Adds a message at the end. Returns whether it is new. @param {ShownMessage} message */
  add(message) {
    if (this.latest >= message.seq) {
      return false;
    }
    this.typing.delete(message.nick);
    const { reply_to, quote, deleted } = message;
    if (reply_to !== undefined && !quote && !deleted) {
      const target = this.entries.find((entry) => "seq" in entry && entry.seq === reply_to && !entry.deleted);
      message.quote = target && "seq" in target ? quoteOf(target) : undefined;
    }
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

  /**
   * Adds older messages at the beginning. Returns how many.
   * @param {HistoryEvent} event @param {string} me the user's public identity
   */
  prepend({ messages, mine, more }, me) {
    this.hasOlder = more;
    this.gap = "";
    const oldest = this.oldest ?? Infinity;
    const older = messages.filter((message) => message.seq < oldest);
    this.update(older, mine, me);
    this.entries.unshift(...older);
    return older.length;
  }

  /** @param {ShownMessage[]} messages from `history` @param {OwnReaction[] | undefined} mine @param {string} me */
  update(messages, mine, me) {
    markOwn(messages, mine);
    // The server may have read the messages before these changes.
    this.changesWhileLoading?.forEach((change) => applyChange(messages, change, me));
    this.changesWhileLoading = null;
  }

  /** Applies a change to the messages. @param {MessageChange} change @param {string} me @returns {ShownMessage[]} */
  applyChange(change, me) {
    this.changesWhileLoading?.push(change);
    return [...applyChange(this.entries, change, me), ...(this.past?.applyChange(change, me) ?? [])];
  }

  /** Sets the topic, and adds a note. @param {RoomEvent} event */
  applyTopic({ nick, topic }) {
    this.topic = topic;
    this.entries.push({ note: topic ? `${nick} changed the topic to: ${topic}` : `${nick} removed the topic.` });
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

  /** Marks all messages as read, or those up to `seq`. */
  markRead(seq = this.seq) {
    this.unread = 0;
    this.mentioned = false;
    this.read = { epoch: this.epoch, seq };
  }

  /** Returns the loaded messages of others that are unread. @param {string} me */
  unreadMessages(me) {
    const { read } = this;
    const messages = this.entries.filter((entry) => "seq" in entry);
    return messages.filter(({ seq, nick, deleted }) => read && seq > read.seq && nick !== me && !deleted);
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
