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
/** For links and buttons in messages: the arrow keys reach them (actions.js). */
const UNTABBED = { tabindex: "-1" };

const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const dateFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
const dateTimeFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
/** Joins names: "Ada, Ben, and Cleo". */
export const nameList = new Intl.ListFormat("en", { type: "conjunction" });

/** Returns the day in the time zone of the reader. @param {Date | number} at */
export function day(at) {
  return new Date(at).toDateString();
}

/** @param {number} at */
export function dayName(at, today = new Date()) {
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

/** @param {number} seq @param {Record<string, string>} attributes @param {...(Node | string)} content */
function messageLink(seq, attributes, ...content) {
  return element("a", { href: `#m${seq}`, ...UNTABBED, ...attributes }, ...content);
}

/** @param {number} seq @param {Quote} [quote] */
function makeQuote(seq, quote) {
  const content = quote
    ? [element("span", { class: "visually-hidden" }, "Reply to "), element("b", {}, quote.nick), ` ${quote.text}`]
    : ["Reply to an earlier message"];
  return messageLink(seq, { class: "quote", dir: "auto" }, ...content);
}

/** Returns how many people reacted, and whether the user did. @param {number} count @param {boolean} isMine */
export function reactionTitle(count, isMine) {
  if (count === 1) {
    return isMine ? "You" : "1 person";
  }
  return `${count} people${isMine ? ", including you" : ""}`;
}

/**
 * Makes the list of reactions to a message. Their order does not depend on the counts, so that a change
 * does not put another button under the pointer.
 * @param {ShownMessage} message
 */
export function makeReactions({ reactions = {}, mine = [] }) {
  const items = Object.entries(reactions).sort().map(([emoji, count]) => {
    const isMine = mine.includes(emoji);
    const state = { "aria-pressed": `${isMine}`, title: reactionTitle(count, isMine) };
    return element("li", {}, element("button", { type: "button", value: emoji, ...UNTABBED, ...state }, `${emoji} ${count}`));
  });
  return items.length > 0 ? [element("ul", { class: "reactions", "aria-label": "Reactions" }, ...items)] : [];
}

/**
 * Replaces the children of an element. Equal ones and reactions stay, and keep the focus.
 * @param {Element} target @param {Element} made
 */
function merge(target, made) {
  const old = Array.from(target.children);
  setChildren(target, Array.from(made.children, (part) => {
    const list = part.matches(".reactions") ? old.find((each) => each.matches(".reactions")) : undefined;
    list && mergeReactions(list, part);
    return list ?? old.find((each) => each.isEqualNode(part)) ?? part;
  }));
}

/** @param {Element} list @param {Element} made */
function mergeReactions(list, made) {
  const buttons = Array.from(list.querySelectorAll("button"));
  setChildren(list, Array.from(made.querySelectorAll("button"), (button) => {
    const old = buttons.find(({ value }) => value === button.value);
    const { title, ariaPressed, textContent } = button;
    old && Object.assign(old, { title, ariaPressed, textContent });
    return /** @type {Element} */ ((old ?? button).parentElement);
  }));
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
  constructor({ loadOlder, loadNewer, endReached, resolveFailed, me }) {
    this.loadOlder = loadOlder;
    this.loadNewer = loadNewer;
    this.endReached = endReached;
    this.resolveFailed = resolveFailed;
    this.me = me;
    this.scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    const resized = new ResizeObserver(() => this.#isFollowing && this.#scrollToEnd());
    resized.observe(this.scroller);
    this.button.addEventListener("click", () => this.follow());
  }

  /** The room that is shown, or the `past` of one. */
  get room() {
    return this.#room;
  }

  /** Whether the list is scrolled to its end. */
  get isFollowing() {
    return this.#isFollowing;
  }

  /** Shows a room, scrolled to its first unread message or else to its end. @param {Room} room */
  show(room) {
    this.#room = room;
    // After the scrolling, the end counts as reached only if it is visible.
    this.#isFollowing = false;
    this.#newCount = 0;
    this.#withoutAnnouncing(() => this.#renderEnd());
    this.entries.querySelector(".unread")?.scrollIntoView({ block: "center" });
    this.#onScroll();
  }

  /** Shows entries around one, and returns its element. @param {Room} room @param {number} n */
  showAround(room, n) {
    const isShown = room === this.#room && n >= this.#start && n < this.#end;
    this.#room = room;
    this.#isFollowing = false;
    isShown || this.#withoutAnnouncing(() => {
      this.entries.replaceChildren();
      this.#start = Math.max(0, n - STEP / 2);
      this.#renderBelow(this.#start, Math.min(room.entries.length, n + STEP / 2));
      this.showPending();
    });
    const item = this.entries.children[n - this.#start];
    item.scrollIntoView({ block: "center" });
    this.#onScroll();
    return item;
  }

  /** Shows `live`, whose entries now begin with those that are shown. @param {Room} live */
  continueWith(live) {
    this.#room = live;
    this.showPending();
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
    const article = item?.querySelector("article");
    if (item && article) {
      // Screen readers announced the message when it arrived.
      article.setAttribute("aria-live", "off");
      // The label that actions.js set contains the old text.
      article.removeAttribute("aria-label");
      const hadFocus = article.contains(document.activeElement);
      merge(article, this.#makeMessage(message, !item.classList.contains("first")));
      hadFocus && !article.contains(document.activeElement) && article.focus({ preventScroll: true });
    }
  }

  /** Renders all entries again, since a new name changes which mentions are highlighted. */
  refresh() {
    this.#withoutAnnouncing(() => {
      for (let n = this.#start; n < this.#end; n++) {
        this.#renewEntry(n);
      }
    });
    this.#isFollowing && this.#scrollToEnd();
  }

  /** Shows older entries at the beginning of a room, if it is shown. @param {Room} room @param {number} count */
  prepended(room, count) {
    if (room !== this.#room) {
      return;
    }
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
    const { live } = this.#room;
    if (live !== null) {
      live.past = null;
      this.#room = live;
      this.#end = -1;
    }
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
    this.scroller.scrollTop = this.scroller.scrollHeight;
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
    const isLast = this.#end === this.#room.entries.length && !this.#room.hasNewer;
    return isLast && scrollHeight - scrollTop - clientHeight < 4;
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
    }
    if (scrollHeight - scrollTop - clientHeight < NEAR_PX) {
      const end = Math.min(this.#room.entries.length, this.#end + STEP);
      if (end > this.#end) {
        this.#withoutAnnouncing(() => this.#keepPosition(() => (this.#renderBelow(this.#end, end), this.#trimAbove())));
      } else if (this.#room.hasNewer) {
        this.loadNewer(this.#room);
      }
    }
    this.#updateButton();
  }

  #updateButton() {
    const isLast = this.#end === this.#room.entries.length && !this.#room.hasNewer;
    this.button.hidden = this.#isFollowing || (this.#newCount === 0 && isLast);
    const label = this.#newCount === 0 ? "Jump to latest" : plural(this.#newCount, "new message");
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
    // The message that was first may no longer be the first of its group or day. Notes may precede it.
    for (let n = previousStart, isDone = items.length === 0; n < this.#end && !isDone; n++) {
      this.#renewEntry(n);
      isDone = "seq" in this.#room.entries[n];
    }
    while (this.#end - this.#start > RENDERED_MAX) {
      this.entries.lastElementChild?.remove();
      this.#end -= 1;
    }
  }

  /** Renders an entry again, and keeps the focus in it. @param {number} n */
  #renewEntry(n) {
    const item = this.entries.children[n - this.#start];
    const made = this.#makeEntry(n);
    const [article, madeArticle] = [item, made].map((each) => each.querySelector("article"));
    item.className = made.className;
    if (article && madeArticle) {
      merge(article, madeArticle);
      madeArticle.remove();
      item.querySelectorAll(":scope > p").forEach((line) => line.remove());
      article.before(...made.children);
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
    const head = element("p", { class: "head" }, author, " ", messageLink(message.seq, {}, makeTime(at)));
    if (deleted) {
      return element("article", UNTABBED, head, element("p", { class: "deleted" }, "message deleted"));
    }
    const quoted = reply_to === undefined ? [] : [makeQuote(reply_to, quote)];
    const edited = edited_at === undefined ? [] : [" ", makeTime(edited_at, "(edited)", { dir: "ltr" })];
    const body = element("div", { class: "text", dir: "auto" }, ...format(text, this.me()), ...edited);
    return element("article", UNTABBED, head, ...quoted, body, ...makeReactions(message));
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
      const again = element("button", { type: "button" }, said.isEdit ? "Send as a new message" : "Try again");
      again.addEventListener("click", () => this.resolveFailed(said, true));
      const discard = element("button", { type: "button" }, "Discard");
      discard.addEventListener("click", () => this.resolveFailed(said, false));
      const problem = `${said.isEdit ? "Edit not saved" : "Not sent"}: ${said.problem}. `;
      article.append(element("p", { class: "problem", role: "alert" }, problem, again, " ", discard));
    } else {
      article.append(element("p", { class: "visually-hidden" }, "Sending…"));
    }
    return element("div", { class: "entry first" }, article);
  }
}
