// The log: the part of a room's entries around what is being read, as elements. It stays where it
// is while somebody reads, and follows at its end.

import { Room } from "./room.js";
import { $, arrange, element, format } from "./text.js";

/** @import { Entry, Message, Said } from "./protocol.js" */

/** Entries that are added at once, and that are there at most, as elements. */
const STEP = 60;
const SHOWN_MAX = 240;
/** How near to an end of what is shown more is added, in pixels. */
const NEAR = 600;
/** Messages of one author so close together are a group. */
const GROUP_MS = 5 * 60 * 1000;
const COLOURS = 12;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const list = new Intl.ListFormat("en", { type: "conjunction" });

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
  return day(at) === day(yesterday) ? "Yesterday" : date.format(at);
}

/** @param {string} nick */
export function colour(nick) {
  let hash = 0;
  for (const char of nick.toLowerCase()) {
    hash = (hash * 31 + (char.codePointAt(0) ?? 0)) >>> 0;
  }
  return `name colour-${hash % COLOURS}`;
}

/** @param {Set<string>} names */
function someNames(names) {
  const all = Array.from(names);
  return all.length > 5 ? `${all.slice(0, 4).join(", ")} and ${all.length - 4} others` : list.format(all);
}

/** @param {Exclude<Entry, Message>} entry */
function noteOf(entry) {
  if ("note" in entry) {
    return entry.note;
  }
  const { came, went } = entry;
  const said = [];
  if (came.size > 0) {
    said.push(`${someNames(came)} joined.`);
  }
  if (went.size > 0) {
    said.push(`${someNames(went)} left.`);
  }
  return said.join(" ");
}

export class Log {
  scroller = $("log");
  entries = $("entries");
  pending = $("pending");
  empty = $("empty");
  button = $("newer");
  #room = new Room("");
  #start = 0;
  #end = 0;
  #newer = 0;
  #following = true;
  /** @type {WeakMap<Said, { state: string, shown: HTMLElement }>} */
  #onTheirWay = new WeakMap();

  /**
   * `older(room)` asks for what was said before; `seen()` is called when the end is in sight.
   * @param {{ older(room: Room): void, seen(): void, retry(said: Said, again: boolean): void, me(): string }} calls
   */
  constructor({ older, seen, retry, me }) {
    this.older = older;
    this.seen = seen;
    this.retry = retry;
    this.me = me;
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    const resized = new ResizeObserver(() => this.#following && this.#toEnd());
    resized.observe(this.scroller);
    this.button.addEventListener("click", () => this.follow());
  }

  get following() {
    return this.#following;
  }

  /** Shows a room from its end, or from its first unread message. @param {Room} room */
  show(room) {
    this.#room = room;
    this.#quietly(() => this.#fromEnd());
    const line = this.entries.querySelector(".unread");
    if (line !== null) {
      line.scrollIntoView({ block: "center" });
      this.#following = this.#isAtEnd();
    }
    this.#scrolled();
  }

  /** The room has new entries at its end, of which so many are messages. */
  grown(count = 1, messages = count) {
    const wasAtEnd = this.#end >= this.#room.entries.length - count;
    if (this.#following) {
      const forgotten = this.#room.trim();
      this.#start -= forgotten;
      this.#end -= forgotten;
      this.#add(this.#end, this.#room.entries.length);
      this.#cutAbove();
      this.#toEnd();
    } else {
      this.#newer += messages;
      this.#button();
      if (wasAtEnd && this.#end - this.#start < SHOWN_MAX) {
        this.#add(this.#end, this.#room.entries.length);
      }
    }
    this.#emptiness();
  }

  /** The last entry has changed. */
  changed() {
    if (this.#end === this.#room.entries.length) {
      this.entries.lastElementChild?.replaceWith(this.#entry(this.#end - 1));
      this.#following && this.#toEnd();
    }
  }

  /** Who reads goes by another name now: other mentions are theirs. */
  refresh() {
    const { scrollTop } = this.scroller;
    this.#quietly(() => {
      this.entries.replaceChildren();
      this.#add(this.#start, this.#end);
      this.scroller.scrollTop = scrollTop;
    });
    this.#following && this.#toEnd();
  }

  /** The room has older entries at its beginning. @param {number} count */
  grownAbove(count) {
    this.#start += count;
    this.#end += count;
    this.#quietly(() => this.#keepPlace(() => this.#addAbove()));
  }

  /** What is on its way has changed. */
  showPending() {
    arrange(this.pending, this.#room.pending.map((said) => this.#pendingItem(said)));
    this.#emptiness();
    this.#following && this.#toEnd();
  }

  /** Goes to the end, and stays there. */
  follow() {
    if (this.#end < this.#room.entries.length) {
      this.#quietly(() => this.#fromEnd());
    }
    this.#toEnd();
  }

  #fromEnd() {
    const { entries } = this.#room;
    this.#end = entries.length;
    this.#start = this.#end;
    this.entries.replaceChildren();
    const unread = this.#room.firstUnread;
    const first = unread === null ? -1 : entries.findIndex((entry) => "seq" in entry && entry.seq >= unread);
    const wanted = first < 0 ? this.#end - STEP : Math.min(first - 10, this.#end - STEP);
    this.#start = Math.max(0, wanted, this.#end - SHOWN_MAX);
    this.#add(this.#start, this.#end);
    this.showPending();
    this.#toEnd();
  }

  #toEnd() {
    this.#following = true;
    this.#newer = 0;
    this.button.hidden = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.seen();
  }

  #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return this.#end === this.#room.entries.length && scrollHeight - scrollTop - clientHeight < 4;
  }

  #scrolled() {
    this.#following = this.#isAtEnd();
    if (this.#following) {
      this.#newer = 0;
      this.seen();
    }
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    if (scrollTop < NEAR) {
      if (this.#start > 0) {
        this.#quietly(() => this.#keepPlace(() => this.#addAbove()));
      } else if (this.#room.more) {
        this.older(this.#room);
      }
    } else if (scrollHeight - scrollTop - clientHeight < NEAR) {
      const end = Math.min(this.#room.entries.length, this.#end + STEP);
      if (end > this.#end) {
        this.#quietly(() => this.#keepPlace(() => (this.#add(this.#end, end), this.#cutAbove())));
      }
    }
    this.#button();
  }

  #button() {
    this.button.hidden = this.#following || (this.#newer === 0 && this.#end === this.#room.entries.length);
    const count = this.#newer === 0 ? "Latest messages" : `${this.#newer} new message${this.#newer === 1 ? "" : "s"}`;
    this.button.textContent = `${count} ↓`;
  }

  #emptiness() {
    const { entries, pending, gap } = this.#room;
    this.empty.textContent = gap || "Nothing has been said here yet.";
    this.empty.hidden = entries.some((entry) => "seq" in entry) || pending.length > 0;
  }

  /** Changes what is above or below, without what is being read moving by a pixel. @param {() => void} change */
  #keepPlace(change) {
    const top = this.scroller.getBoundingClientRect().top;
    const anchor = Array.from(this.entries.children).find(
      (entry) => entry.getBoundingClientRect().bottom > top,
    );
    // By its end, since what stands above its text may go.
    const before = anchor?.getBoundingClientRect().bottom ?? 0;
    change();
    if (anchor?.isConnected) {
      this.scroller.scrollTop += anchor.getBoundingClientRect().bottom - before;
    }
  }

  /** Changes the log without a screen reader reading it all again. @param {() => void} change */
  #quietly(change) {
    this.scroller.setAttribute("aria-live", "off");
    change();
    requestAnimationFrame(() => this.scroller.setAttribute("aria-live", "polite"));
  }

  /** @param {number} start @param {number} end */
  #add(start, end) {
    const made = [];
    for (let n = start; n < end; n++) {
      made.push(this.#entry(n));
    }
    this.entries.append(...made);
    this.#end = end;
  }

  #addAbove() {
    const start = Math.max(0, this.#start - STEP);
    const made = [];
    for (let n = start; n < this.#start; n++) {
      made.push(this.#entry(n));
    }
    const seam = this.#start;
    this.entries.prepend(...made);
    this.#start = start;
    // It may have been the first of its group or its day, and is not any more.
    if (seam < this.#end && made.length > 0) {
      const first = this.entries.children[made.length];
      const again = this.#entry(seam);
      first.className = again.className;
      first.replaceChildren(...again.childNodes);
    }
    while (this.#end - this.#start > SHOWN_MAX) {
      this.entries.lastElementChild?.remove();
      this.#end -= 1;
    }
  }

  #cutAbove() {
    while (this.#end - this.#start > SHOWN_MAX) {
      this.entries.firstElementChild?.remove();
      this.#start += 1;
    }
  }

  /** Names the days anew, as after midnight. */
  renameDays() {
    for (const label of /** @type {NodeListOf<HTMLElement>} */ (this.entries.querySelectorAll(".day"))) {
      label.children[0].textContent = dayName(Number(label.dataset.at));
    }
  }

  /** @param {number} n @returns {Message | undefined} */
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
  #entry(n) {
    const entry = this.#room.entries[n];
    if (!("seq" in entry)) {
      return element("div", { class: "entry" }, element("p", { class: "note" }, noteOf(entry)));
    }
    const before = this.#messageBefore(n);
    const isUnread = entry.seq === this.#room.firstUnread;
    const isNewDay = before === undefined || day(before.at) !== day(entry.at);
    const follows =
      n > 0 &&
      this.#room.entries[n - 1] === before &&
      before.nick === entry.nick &&
      entry.at - before.at < GROUP_MS &&
      !isNewDay &&
      !isUnread;
    const made = element("div", { class: follows ? "entry" : "entry first", "data-seq": `${entry.seq}` });
    if (n === 0 && this.#room.gap !== "") {
      made.append(element("p", { class: "note" }, this.#room.gap));
    }
    if (isNewDay) {
      made.append(element("p", { class: "day", "data-at": `${entry.at}` }, element("span", {}, dayName(entry.at))));
    }
    if (isUnread) {
      made.append(element("p", { class: "unread" }, element("span", {}, "New")));
    }
    made.append(this.#message(entry, follows));
    return made;
  }

  /** @param {Message} message @param {boolean} follows */
  #message({ nick, text, at }, follows) {
    const time = element(
      "time",
      { datetime: new Date(at).toISOString(), title: moment.format(at) },
      clock.format(at),
    );
    const author = element("b", { class: follows ? "unseen" : colour(nick), dir: "auto" }, nick);
    const head = element("p", { class: "head" }, author, " ", time);
    const body = element("div", { class: "text", dir: "auto" }, ...format(text, this.me()));
    return element("article", {}, head, body);
  }

  /** Gives the element of a message that is not in the log. It is made anew only if its state changes. @param {Said} said */
  #pendingItem(said) {
    const known = this.#onTheirWay.get(said);
    if (known?.state === said.state) {
      return known.shown;
    }
    const shown = this.#onItsWay(said);
    this.#onTheirWay.set(said, { state: said.state, shown });
    return shown;
  }

  /** @param {Said} said */
  #onItsWay(said) {
    const text = element("div", { class: "text", dir: "auto" }, ...format(said.text, this.me()));
    const made = element("article", { class: said.state }, text);
    if (said.state === "failed") {
      const again = element("button", { type: "button" }, "Try again");
      again.addEventListener("click", () => this.retry(said, true));
      const discard = element("button", { type: "button" }, "Discard");
      discard.addEventListener("click", () => this.retry(said, false));
      made.append(element("p", { class: "problem", role: "alert" }, `Not sent: ${said.problem}. `, again, " ", discard));
    } else {
      made.append(element("p", { class: "unseen" }, "on its way"));
    }
    return element("div", { class: "entry first" }, made);
  }
}
