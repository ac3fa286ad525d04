// The message list. It renders only entries near the visible ones, and scrolls to new messages only
// if it is at its end.

import { Room } from "./room.js";
import { $, element, format, oncePerFrame, plural, setChildren } from "./text.js";

/** @import { Entry, LogCallbacks, Quote, ShownMessage, UnconfirmedMessage } from "./protocol.js" */

/** Entries that are rendered at a time. */
const STEP = 60;
/** Maximum number of rendered entries. */
const RENDERED_MAX = 240;
/** Distance to the first or last rendered entry at which more are rendered, in pixels. */
const NEAR_PX = 600;
/** Maximum time between consecutive messages of a group, which shows the author once. */
const GROUP_MS = 5 * 60 * 1000;
const COLORS = 12;

const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const dateFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
const dateTimeFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
/** Joins names: "Ada, Ben, and Cleo". */
export const nameList = new Intl.ListFormat("en", { type: "conjunction" });

/** @param {Date | number} at */
function day(at) {
  return new Date(at).toDateString();
}

/** @param {number} at */
function dayName(at) {
  const today = new Date();
  const yesterday = new Date(today.getFullYear(), today.getMonth(), today.getDate() - 1);
  if (day(at) === day(today)) {
    return "Today";
  }
  return day(at) === day(yesterday) ? "Yesterday" : dateFormat.format(at);
}

/** Returns the CSS classes of a name, among them its color. @param {string} nick */
export function nameClass(nick) {
  let hash = 0;
  for (const char of nick.toLowerCase()) {
    hash = (hash * 31 + (char.codePointAt(0) ?? 0)) >>> 0;
  }
  return `name color-${hash % COLORS}`;
}

/** @param {Set<string>} names */
function summarizeNames(names) {
  const all = Array.from(names);
  return all.length > 5 ? `${all.slice(0, 4).join(", ")} and ${all.length - 4} others` : nameList.format(all);
}

/** @param {Exclude<Entry, ShownMessage>} entry */
function noteText(entry) {
  if ("note" in entry) {
    return entry.note;
  }
  const { joined, left } = entry;
  const sentences = [];
  if (joined.size > 0) {
    sentences.push(`${summarizeNames(joined)} joined.`);
  }
  if (left.size > 0) {
    sentences.push(`${summarizeNames(left)} left.`);
  }
  return sentences.join(" ");
}

/** Makes an element that shows a time, with the date and the seconds in its title. @param {number} at */
function makeTime(at, label = timeFormat.format(at), attributes = {}) {
  const exact = { datetime: new Date(at).toISOString(), title: dateTimeFormat.format(at) };
  return element("time", { ...exact, ...attributes }, label);
}

/** @param {Quote | undefined} quote */
function makeQuote(quote) {
  const content = quote
    ? [element("span", { class: "visually-hidden" }, "Reply to "), element("b", {}, quote.nick), ` ${quote.text}`]
    : ["Reply to an earlier message"];
  return element("p", { class: "quote", dir: "auto" }, ...content);
}

/** Returns how many people reacted, and whether the user did. @param {number} count @param {boolean} isMine */
export function reactionTitle(count, isMine) {
  if (count === 1) {
    return isMine ? "You" : "1 person";
  }
  return `${count} people${isMine ? ", including you" : ""}`;
}

/**
 * Makes the list of reactions to a message: the most frequent first, then the oldest.
 * @param {ShownMessage} message
 */
export function makeReactions({ reactions = {}, mine = [] }) {
  const sorted = Object.entries(reactions).sort(([, a], [, b]) => b - a);
  const items = sorted.map(([emoji, count]) => {
    const isMine = mine.includes(emoji);
    return element("li", { class: isMine && "mine", title: reactionTitle(count, isMine) }, `${emoji} ${count}`);
  });
  return items.length > 0 ? [element("ul", { class: "reactions", "aria-label": "Reactions" }, ...items)] : [];
}

export class Log {
  scroller = $("log");
  entries = $("entries");
  pending = $("pending");
  empty = $("empty");
  button = $("newer");
  #room = new Room("");
  /** The rendered entries are those from index `#start`, and before index `#end`, of `room.entries`. */
  #start = 0;
  #end = 0;
  /** New messages that arrived while the user read older ones. */
  #newCount = 0;
  #isFollowing = true;
  /** @type {WeakMap<UnconfirmedMessage, { state: string, item: HTMLElement }>} */
  #pendingItems = new WeakMap();
  /** @type {Set<ShownMessage>} Messages that have changed since they were rendered. */
  #changed = new Set();

  /** @param {LogCallbacks} callbacks */
  constructor({ loadOlder, endReached, resolveFailed, me }) {
    this.loadOlder = loadOlder;
    this.endReached = endReached;
    this.resolveFailed = resolveFailed;
    this.me = me;
    this.scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    const resized = new ResizeObserver(() => this.#isFollowing && this.#scrollToEnd());
    resized.observe(this.scroller);
    this.button.addEventListener("click", () => this.follow());
  }

  /** Whether the list is scrolled to its end. */
  get isFollowing() {
    return this.#isFollowing;
  }

  /** Shows a room, scrolled to its first unread message or else to its end. @param {Room} room */
  show(room) {
    this.#room = room;
    this.#withoutAnnouncing(() => this.#renderEnd());
    const line = this.entries.querySelector(".unread");
    if (line !== null) {
      line.scrollIntoView({ block: "center" });
      this.#isFollowing = this.#isAtEnd();
    }
    this.#onScroll();
  }

  /** Shows new entries at the end of the room. `messages` of them are messages. */
  appended(count = 1, messages = count) {
    const wasAtEnd = this.#end >= this.#room.entries.length - count;
    if (this.#isFollowing) {
      const removed = this.#room.trim();
      this.#start -= removed;
      this.#end -= removed;
      this.#renderBelow(this.#end, this.#room.entries.length);
      this.#trimAbove();
      this.#scrollToEnd();
    } else {
      this.#newCount += messages;
      this.#updateButton();
      if (wasAtEnd && this.#end - this.#start < RENDERED_MAX) {
        this.#renderBelow(this.#end, this.#room.entries.length);
      }
    }
    this.#updateEmpty();
  }

  /** Renders the last entry again. */
  lastChanged() {
    if (this.#end === this.#room.entries.length) {
      this.entries.lastElementChild?.replaceWith(this.#makeEntry(this.#end - 1));
      this.#isFollowing && this.#scrollToEnd();
    }
  }

  /** Shows changes of messages in the next frame. @param {ShownMessage[]} messages */
  changed(messages) {
    messages.forEach((message) => this.#changed.add(message));
    this.#showChanges();
  }

  #showChanges = oncePerFrame(() => {
    this.#keepPosition(() => this.#changed.forEach((message) => this.#updateMessage(message)));
    this.#changed.clear();
    this.#isFollowing && this.#scrollToEnd();
  });

  /** Replaces the parts of a rendered message that differ. @param {ShownMessage} message */
  #updateMessage(message) {
    const item = this.entries.querySelector(`[data-seq="${message.seq}"]`);
    const article = item?.lastElementChild;
    if (item && article) {
      // Screen readers announced the message when it arrived.
      article.setAttribute("aria-live", "off");
      const parts = Array.from(article.children);
      const made = this.#makeMessage(message, !item.classList.contains("first"));
      setChildren(article, Array.from(made.children, (part) => parts.find((old) => old.isEqualNode(part)) ?? part));
    }
  }

  /** Renders all entries again, since a new name changes which mentions are highlighted. */
  refresh() {
    const { scrollTop } = this.scroller;
    this.#withoutAnnouncing(() => {
      this.entries.replaceChildren();
      this.#renderBelow(this.#start, this.#end);
      this.scroller.scrollTop = scrollTop;
    });
    this.#isFollowing && this.#scrollToEnd();
  }

  /** Shows older entries at the beginning of the room. @param {number} count */
  prepended(count) {
    this.#start += count;
    this.#end += count;
    this.#withoutAnnouncing(() => this.#keepPosition(() => this.#renderAbove()));
  }

  showPending() {
    setChildren(this.pending, this.#room.pendingMessages.map((said) => this.#pendingItem(said)));
    this.#updateEmpty();
    this.#isFollowing && this.#scrollToEnd();
  }

  /** Scrolls to the end, and follows new messages. */
  follow() {
    if (this.#end < this.#room.entries.length) {
      this.#withoutAnnouncing(() => this.#renderEnd());
    }
    this.#scrollToEnd();
  }

  #renderEnd() {
    const { entries } = this.#room;
    this.#end = entries.length;
    this.#start = this.#end;
    this.entries.replaceChildren();
    const unread = this.#room.firstUnread;
    const first = unread === null ? -1 : entries.findIndex((entry) => "seq" in entry && entry.seq >= unread);
    const wanted = first < 0 ? this.#end - STEP : Math.min(first - 10, this.#end - STEP);
    this.#start = Math.max(0, wanted, this.#end - RENDERED_MAX);
    this.#renderBelow(this.#start, this.#end);
    this.showPending();
    this.#scrollToEnd();
  }

  #scrollToEnd() {
    this.#isFollowing = true;
    this.#newCount = 0;
    this.button.hidden = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.endReached();
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return this.#end === this.#room.entries.length && scrollHeight - scrollTop - clientHeight < 4;
  }

  #onScroll() {
    this.#isFollowing = this.#isAtEnd();
    if (this.#isFollowing) {
      this.#newCount = 0;
      this.endReached();
    }
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    if (scrollTop < NEAR_PX) {
      if (this.#start > 0) {
        this.#withoutAnnouncing(() => this.#keepPosition(() => this.#renderAbove()));
      } else if (this.#room.hasOlder) {
        this.loadOlder(this.#room);
      }
    } else if (scrollHeight - scrollTop - clientHeight < NEAR_PX) {
      const end = Math.min(this.#room.entries.length, this.#end + STEP);
      if (end > this.#end) {
        this.#withoutAnnouncing(() => this.#keepPosition(() => (this.#renderBelow(this.#end, end), this.#trimAbove())));
      }
    }
    this.#updateButton();
  }

  #updateButton() {
    this.button.hidden = this.#isFollowing || (this.#newCount === 0 && this.#end === this.#room.entries.length);
    const label = this.#newCount === 0 ? "Latest messages" : plural(this.#newCount, "new message");
    this.button.textContent = `${label} ↓`;
  }

  #updateEmpty() {
    const { entries, pendingMessages, gap } = this.#room;
    this.empty.textContent = gap || "No messages yet.";
    this.empty.hidden = entries.some((entry) => "seq" in entry) || pendingMessages.length > 0;
  }

  /** Changes the list without moving the visible entries. @param {() => void} change */
  #keepPosition(change) {
    const top = this.scroller.getBoundingClientRect().top;
    const anchor = Array.from(this.entries.children).find(
      (entry) => entry.getBoundingClientRect().bottom > top,
    );
    // Measured at the bottom, since a day line above its text may disappear.
    const before = anchor?.getBoundingClientRect().bottom ?? 0;
    change();
    if (anchor?.isConnected) {
      this.scroller.scrollTop += anchor.getBoundingClientRect().bottom - before;
    }
  }

  /** Changes the list without screen readers announcing it. @param {() => void} change */
  #withoutAnnouncing(change) {
    this.scroller.setAttribute("aria-live", "off");
    change();
    requestAnimationFrame(() => this.scroller.setAttribute("aria-live", "polite"));
  }

  /** @param {number} start @param {number} end */
  #renderBelow(start, end) {
    const items = [];
    for (let n = start; n < end; n++) {
      items.push(this.#makeEntry(n));
    }
    this.entries.append(...items);
    this.#end = end;
  }

  #renderAbove() {
    const start = Math.max(0, this.#start - STEP);
    const items = [];
    for (let n = start; n < this.#start; n++) {
      items.push(this.#makeEntry(n));
    }
    const previousStart = this.#start;
    this.entries.prepend(...items);
    this.#start = start;
    // The entry that was first may no longer be the first of its group or day.
    if (previousStart < this.#end && items.length > 0) {
      const item = this.entries.children[items.length];
      const updated = this.#makeEntry(previousStart);
      item.className = updated.className;
      item.replaceChildren(...updated.childNodes);
    }
    while (this.#end - this.#start > RENDERED_MAX) {
      this.entries.lastElementChild?.remove();
      this.#end -= 1;
    }
  }

  #trimAbove() {
    while (this.#end - this.#start > RENDERED_MAX) {
      this.entries.firstElementChild?.remove();
      this.#start += 1;
    }
  }

  /** Updates "Today" and "Yesterday" after midnight. */
  updateDays() {
    for (const label of /** @type {NodeListOf<HTMLElement>} */ (this.entries.querySelectorAll(".day"))) {
      label.children[0].textContent = dayName(Number(label.dataset.at));
    }
  }

  /** @param {number} n @returns {ShownMessage | undefined} */
  #messageBefore(n) {
    for (let index = n - 1; index >= 0; index--) {
      const entry = this.#room.entries[index];
      if ("seq" in entry) {
        return entry;
      }
    }
    return undefined;
  }

  /** @param {number} n */
  #makeEntry(n) {
    const entry = this.#room.entries[n];
    if (!("seq" in entry)) {
      return element("div", { class: "entry" }, element("p", { class: "note" }, noteText(entry)));
    }
    const before = this.#messageBefore(n);
    const isUnread = entry.seq === this.#room.firstUnread;
    const isNewDay = before === undefined || day(before.at) !== day(entry.at);
    const isGrouped =
      n > 0 &&
      this.#room.entries[n - 1] === before &&
      before.nick === entry.nick &&
      entry.reply_to === undefined &&
      entry.at - before.at < GROUP_MS &&
      !isNewDay &&
      !isUnread;
    const item = element("div", { class: isGrouped ? "entry" : "entry first", "data-seq": `${entry.seq}` });
    if (n === 0 && this.#room.gap !== "") {
      item.append(element("p", { class: "note" }, this.#room.gap));
    }
    if (isNewDay) {
      item.append(element("p", { class: "day", "data-at": `${entry.at}` }, element("span", {}, dayName(entry.at))));
    }
    if (isUnread) {
      item.append(element("p", { class: "unread" }, element("span", {}, "New")));
    }
    item.append(this.#makeMessage(entry, isGrouped));
    return item;
  }

  /** @param {ShownMessage} message @param {boolean} isGrouped */
  #makeMessage(message, isGrouped) {
    const { nick, text, at, reply_to, quote, edited_at, deleted } = message;
    const author = element("b", { class: isGrouped ? "visually-hidden" : nameClass(nick), dir: "auto" }, nick);
    const head = element("p", { class: "head" }, author, " ", makeTime(at));
    if (deleted) {
      return element("article", {}, head, element("p", { class: "deleted" }, "message deleted"));
    }
    const quoted = reply_to === undefined ? [] : [makeQuote(quote)];
    const edited = edited_at === undefined ? [] : [" ", makeTime(edited_at, "(edited)", { dir: "ltr" })];
    const body = element("div", { class: "text", dir: "auto" }, ...format(text, this.me()), ...edited);
    return element("article", {}, head, ...quoted, body, ...makeReactions(message));
  }

  /**
   * Returns the element of a pending message, which is replaced only if its state changes.
   * @param {UnconfirmedMessage} said
   */
  #pendingItem(said) {
    const known = this.#pendingItems.get(said);
    if (known?.state === said.state) {
      return known.item;
    }
    const item = this.#makePending(said);
    this.#pendingItems.set(said, { state: said.state, item });
    return item;
  }

  /** @param {UnconfirmedMessage} said */
  #makePending(said) {
    const text = element("div", { class: "text", dir: "auto" }, ...format(said.command.text, this.me()));
    const article = element("article", { class: said.state }, text);
    if (said.state === "failed") {
      const again = element("button", { type: "button" }, "Try again");
      again.addEventListener("click", () => this.resolveFailed(said, true));
      const discard = element("button", { type: "button" }, "Discard");
      discard.addEventListener("click", () => this.resolveFailed(said, false));
      article.append(element("p", { class: "problem", role: "alert" }, `Not sent: ${said.problem}. `, again, " ", discard));
    } else {
      article.append(element("p", { class: "visually-hidden" }, "Sending…"));
    }
    return element("div", { class: "entry first" }, article);
  }
}
