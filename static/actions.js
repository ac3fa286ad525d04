// Message actions: react, reply, edit, delete, copy the link. The page loads this module when the pointer
// or the focus first enters the list of messages.
//
// Keyboard: the list keeps the role `log`, so that screen readers announce new messages. One message is in
// the tab order (roving tabindex). ↑ and ↓ move the focus between messages, ← and → between the links and
// buttons of a message and its action bar, Escape to the text field. The action bar, a toolbar with one
// tab stop, is at the message that has the focus, or else at the one under the pointer. Enter on a message
// opens a menu with the actions, as a long touch does.

import { author, client, current, limits, log, showStatus, text, updateComposer } from "./chat.js";
import { randomHex } from "./client.js";
import "./dialog.js";
import { $, element, setText } from "./text.js";

/** @import { Command, ShownMessage } from "./protocol.js" */
/** @import { Room } from "./room.js" */

/**
 * @typedef {object} Action
 * @property {string} label
 * @property {string} icon
 * @property {(message: ShownMessage) => boolean} isFor whether it is available
 * @property {(message: ShownMessage, article: HTMLElement) => void} run
 */

const EMOJI = ["👍", "❤️", "😂", "🎉", "😮", "😢", "🙏", "👀", "✅", "🔥"];
/** Time after which a touch opens the menu, and how far the finger may move until then, in pixels. */
const LONG_TOUCH_MS = 500;
const TOUCH_PX = 10;
/** Time after which an unconfirmed change is marked. */
const UNSENT_MS = 1_000;

export const HELP = `/nick NAME – change your name
/join ROOM – join a room
/leave – leave this room
/search WORDS – search messages
/help – show this help
Alt+↑ and Alt+↓ switch rooms. Shift+Enter starts a new line. ↑ in the empty text field edits your last message.
/ opens the search. In the list, ↑ and ↓ move between messages, ← and → between their buttons. Enter shows the actions.`;

/** @param {ShownMessage} message */
function isChangeable({ author: by, at, deleted }) {
  const isOwn = limits.edits && by === author && !deleted;
  return isOwn && Date.now() - at < (limits.edit_window_ms ?? Infinity);
}

/** @type {Action[]} */
const ACTIONS = [
  { label: "React", icon: "☺", isFor: ({ deleted }) => !deleted, run: pickEmoji },
  { label: "Reply", icon: "↩", isFor: ({ deleted }) => !deleted, run: reply },
  { label: "Edit", icon: "✎", isFor: isChangeable, run: edit },
  { label: "Delete", icon: "✕", isFor: isChangeable, run: confirmDeletion },
  { label: "Copy link", icon: "#", isFor: () => true, run: copyLink },
];

// Messages

/** Returns the message that an element, or the bar with it, belongs to. @param {EventTarget | null} target */
function articleAt(target) {
  const entry = target instanceof Element ? target.closest("#entries .entry") : null;
  return /** @type {HTMLElement | null} */ (entry?.querySelector("article") ?? null);
}

/** @param {Element} article */
function messageOf(article) {
  const entry = /** @type {HTMLElement | null} */ (article.closest("[data-seq]"));
  return entry === null ? undefined : findMessage(log.room, Number(entry.dataset.seq));
}

/** @param {Room} room @param {number} seq @returns {ShownMessage | undefined} */
function findMessage(room, seq) {
  const found = room.entries.find((entry) => "seq" in entry && entry.seq === seq);
  return found && "seq" in found ? found : undefined;
}

/** Returns the element of a message, or null if it is not rendered. @param {number} seq */
function articleOf(seq) {
  return /** @type {HTMLElement | null} */ (log.entries.querySelector(`[data-seq="${seq}"] article`));
}

// The action bar

const buttons = ACTIONS.map(({ label, icon }) =>
  element("button", { type: "button", title: label, "aria-label": label, tabindex: "-1" }, icon));
const bar = element("div", { class: "bar", role: "toolbar", "aria-label": "Actions", "aria-live": "off" }, ...buttons);

/** Shows the bar at a message, unless the focus is in the bar. @param {HTMLElement} article */
function showBar(article) {
  const message = messageOf(article);
  const entry = article.parentElement;
  if (entry === null || message === undefined || bar.contains(document.activeElement)) {
    return;
  }
  const shown = buttons.filter((button, n) => {
    button.hidden = !ACTIONS[n].isFor(message);
    return !button.hidden;
  });
  buttons.forEach((button) => (button.tabIndex = button === shown[0] ? 0 : -1));
  bar.parentElement === entry || entry.append(bar);
  // The bar is above the message, or beside its time if there is no space.
  const space = article.getBoundingClientRect().top - log.scroller.getBoundingClientRect().top;
  bar.classList.toggle("inside", space < bar.offsetHeight);
}

/** Moves the bar to the message with the focus, or removes it. */
function restoreBar() {
  const focused = articleAt(document.activeElement);
  focused ? showBar(focused) : bar.remove();
}

bar.addEventListener("click", ({ target }) => {
  const action = ACTIONS[buttons.findIndex((button) => button === target)];
  const article = articleAt(bar);
  const message = article && messageOf(article);
  if (action && article && message && action.isFor(message)) {
    action.run(message, article);
  } else if (action && article) {
    // Meanwhile it was deleted, or the time for edits is over.
    article.focus({ preventScroll: true });
    showBar(article);
  }
});

// The focus stays where it is when the mouse presses a button: usually in the text field.
log.scroller.addEventListener("mousedown", (event) => {
  if (event.target instanceof Element && event.target.closest(".bar, .reactions button")) {
    event.preventDefault();
  }
});

// Pointer and keyboard

// The button disappears. After a tap, the focus in the field would open the keyboard of a phone.
log.button.addEventListener("click", ({ detail }) => detail === 0 && text.focus());

/** @type {HTMLElement | null} The message in the tab order. */
let tabbed = null;

/** @param {HTMLElement} article */
function setTabbed(article) {
  tabbed?.setAttribute("tabindex", "-1");
  tabbed = article;
  tabbed.tabIndex = 0;
  const message = messageOf(article);
  if (message !== undefined) {
    const time = article.querySelector("time")?.textContent;
    article.ariaLabel = `${message.nick}, ${time}: ${message.deleted ? "message deleted" : message.text}`;
  }
}

/** Returns the last message that is visible. */
function lastVisible() {
  const { bottom } = log.scroller.getBoundingClientRect();
  const articles = Array.from(log.entries.querySelectorAll("article"));
  return articles.findLast((article) => article.getBoundingClientRect().top < bottom - 8) ?? articles[0];
}

/** Handles the first event in the list, and all later ones. @param {Event} event */
export function start(event) {
  if (!isStarted) {
    isStarted = true;
    log.scroller.addEventListener("pointerover", onPointerOver);
    log.scroller.addEventListener("pointerleave", restoreBar);
    log.scroller.addEventListener("focusin", onFocus);
    log.scroller.addEventListener("focusout", onBlur);
    log.scroller.addEventListener("keydown", onKey);
    log.scroller.addEventListener("pointerdown", onTouch);
    log.scroller.addEventListener("contextmenu", onContextMenu);
  }
  if (event instanceof PointerEvent) {
    onPointerOver(event);
    onTouch(event);
  } else if (event instanceof FocusEvent) {
    onFocus(event);
  }
}
let isStarted = false;

/** @param {PointerEvent} event */
function onPointerOver({ target, pointerType }) {
  const article = articleAt(target);
  article && pointerType !== "touch" && showBar(article);
}

/** @param {FocusEvent} event */
function onFocus({ target }) {
  const article = articleAt(target) ?? (tabbed?.isConnected ? tabbed : lastVisible());
  article && setTabbed(article);
  article?.contains(document.activeElement) && showBar(article);
}

/** @param {FocusEvent} event */
function onBlur({ relatedTarget }) {
  relatedTarget && articleAt(relatedTarget) === null && bar.remove();
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  const { key, target } = event;
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || !(target instanceof HTMLElement)) {
    return;
  }
  const article = articleAt(target);
  if (key === "ArrowUp" || key === "ArrowDown") {
    const articles = Array.from(log.entries.querySelectorAll("article"));
    const next = article ? articles[articles.indexOf(article) + (key === "ArrowUp" ? -1 : 1)] : lastVisible();
    event.preventDefault();
    focusMessage(next);
  } else if (article && (key === "ArrowLeft" || key === "ArrowRight")) {
    const found = article.parentElement?.querySelectorAll("a[href], button:not([hidden])") ?? [];
    const controls = [article, .../** @type {Iterable<HTMLElement>} */ (found)];
    const isForward = (key === "ArrowRight") !== article.matches(":dir(rtl)");
    const next = controls.indexOf(target) + (isForward ? 1 : -1);
    event.preventDefault();
    controls.at(next % controls.length)?.focus();
  } else if (article === target && key === "Enter") {
    event.preventDefault();
    openMenu(article);
  } else if (key === "Escape") {
    text.focus();
  }
}

/** @param {HTMLElement} [article] */
function focusMessage(article) {
  if (article) {
    article.focus({ preventScroll: true });
    article.scrollIntoView({ block: "nearest" });
  }
}

// Touch

let touchTimer = 0;

/** Opens the menu when a finger rests on a message. @param {PointerEvent} event */
function onTouch({ pointerType, pointerId, target, clientX, clientY }) {
  const article = articleAt(target);
  const isLink = target instanceof Element && target.closest(".text a, button") !== null;
  if (pointerType !== "touch" || article === null || isLink) {
    return;
  }
  const end = () => {
    clearTimeout(touchTimer);
    log.scroller.removeEventListener("pointermove", moved);
  };
  /** @param {PointerEvent} event */
  const moved = (event) => Math.hypot(event.clientX - clientX, event.clientY - clientY) > TOUCH_PX && end();
  clearTimeout(touchTimer);
  touchTimer = setTimeout(() => {
    end();
    // The finger may have left before this module was loaded.
    target instanceof Element && target.hasPointerCapture(pointerId) && openMenu(article);
  }, LONG_TOUCH_MS);
  log.scroller.addEventListener("pointermove", moved);
  for (const kind of ["pointerup", "pointercancel"]) {
    log.scroller.addEventListener(kind, end, { once: true });
  }
}

/** Prevents the browser's own menu, which a long touch opens in some browsers. @param {MouseEvent} event */
function onContextMenu(event) {
  const isTouch = "pointerType" in event && event.pointerType === "touch";
  const isLink = event.target instanceof Element && event.target.closest(".text a") !== null;
  const article = articleAt(event.target);
  if (isTouch && article && !isLink) {
    event.preventDefault();
    openMenu(article);
  }
}

// Dialogs

/** @type {HTMLDialogElement | null} */
let dialog = null;

/**
 * Opens a dialog at a message. Browsers return the focus to where it was; if that is not possible, it
 * goes to the message.
 * @param {string} label @param {HTMLElement} article @param {...Element} content
 */
function openDialog(label, article, ...content) {
  clearTimeout(touchTimer);
  dialog?.close();
  const { right, bottom } = (bar.parentElement === article.parentElement ? bar : article).getBoundingClientRect();
  const seq = messageOf(article)?.seq ?? 0;
  const made = element("dialog", { class: "actions", "aria-label": label }, element("div", {}, ...content));
  made.addEventListener("close", () => {
    made.remove();
    dialog = dialog === made ? null : dialog;
    const focused = document.activeElement;
    if (focused === null || focused === document.body || bar.contains(focused)) {
      (articleOf(seq) ?? text).focus({ preventScroll: true });
    }
  });
  let isPressed = false;
  made.addEventListener("pointerdown", ({ target }) => {
    isPressed = true;
    target === made && made.close();
  });
  // The end of the touch that opened the dialog is a click on what is now under the finger.
  made.addEventListener("click", (event) => isPressed || event.detail === 0 || event.stopPropagation(), true);
  made.addEventListener("keydown", moveInDialog);
  dialog = made;
  document.body.append(made);
  made.showModal();
  // Style sheets place it at the bottom of small screens.
  const { offsetWidth, offsetHeight } = made;
  made.style.setProperty("--left", `${Math.max(8, Math.min(right, innerWidth - 8) - offsetWidth)}px`);
  made.style.setProperty("--top", `${Math.max(8, Math.min(bottom, innerHeight - 8 - offsetHeight))}px`);
  return made;
}

/** Moves the focus between the buttons of a dialog. @param {KeyboardEvent} event */
function moveInDialog(event) {
  const step = new Map([["ArrowUp", -1], ["ArrowLeft", -1], ["ArrowDown", 1], ["ArrowRight", 1]]).get(event.key);
  const found = Array.from(dialog?.querySelectorAll("button") ?? []);
  const at = found.indexOf(/** @type {HTMLButtonElement} */ (event.target));
  if (step !== undefined && at >= 0) {
    event.preventDefault();
    found.at((at + step) % found.length)?.focus();
  }
}

/** @param {string} label @param {() => void} run @param {Record<string, string | boolean>} attributes */
function makeButton(label, run, attributes = {}) {
  const button = element("button", { type: "button", ...attributes }, label);
  button.addEventListener("click", run);
  return button;
}

/** Makes the buttons of common emoji. @param {ShownMessage} message */
function emojiButtons(message) {
  const found = EMOJI.map((emoji) => {
    const isMine = hasReacted(message.seq, emoji);
    return makeButton(emoji, () => {
      dialog?.close();
      react(message.seq, emoji, !isMine);
    }, { "aria-pressed": `${isMine}` });
  });
  return element("div", { class: "emoji", role: "group", "aria-label": "Reactions" }, ...found);
}

/** @param {HTMLElement} article */
function openMenu(article) {
  const message = messageOf(article);
  if (message === undefined || dialog !== null) {
    return;
  }
  const items = ACTIONS.filter(({ isFor }) => isFor(message)).map(({ label, icon, isFor, run }) => {
    const button = makeButton(label, () => {
      dialog?.close();
      // It may be deleted.
      isFor(message) && run(message, article);
    });
    button.prepend(element("span", { class: "icon", "aria-hidden": "true" }, icon));
    return button;
  });
  if (!message.deleted) {
    items.push(makeButton("Copy text", () => {
      dialog?.close();
      copy(message.text, "text", article);
    }));
    items.at(-1)?.prepend(element("span", { class: "icon", "aria-hidden": "true" }, "❐"));
  }
  const quick = message.deleted ? [] : [emojiButtons(message)];
  openDialog(`Message by ${message.nick}`, article, ...quick, ...items);
}

// Reactions

/** Returns whether the user has reacted, including unconfirmed changes. @param {number} seq @param {string} emoji */
function hasReacted(seq, emoji) {
  const pending = current.pending.findLast(
    ({ command }) => command.type === "react" && command.seq === seq && command.emoji === emoji,
  );
  if (pending && "on" in pending.command) {
    return pending.command.on ?? true;
  }
  return findMessage(log.room, seq)?.mine?.includes(emoji) ?? false;
}

/** @param {number} seq @param {string} emoji @param {boolean} on */
function react(seq, emoji, on) {
  client.react(current, seq, emoji, on);
  showUnsent();
}

/** Adds or removes the user's reaction. @param {HTMLButtonElement} button a reaction of a message */
export function toggleReaction(button) {
  const message = messageOf(button);
  message && react(message.seq, button.value, !hasReacted(message.seq, button.value));
}

/** @param {ShownMessage} message @param {HTMLElement} article */
function pickEmoji(message, article) {
  const field = element("input", { id: "emoji", size: "6", autocomplete: "off", "aria-describedby": "emoji-problem" });
  const problem = element("p", { id: "emoji-problem", class: "problem", role: "alert" });
  const label = element("label", { for: field.id }, "Another emoji");
  const form = element("form", {}, label, field, element("button", {}, "Add"), problem);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const emoji = field.value.trim();
    if (isEmoji(emoji)) {
      dialog?.close();
      react(message.seq, emoji, true);
    } else {
      field.ariaInvalid = "true";
      problem.textContent = "Enter one emoji.";
    }
  });
  openDialog("Add a reaction", article, emojiButtons(message), form);
}

/** A rough check: the server is exact. @param {string} text */
function isEmoji(text) {
  const { length } = Array.from(new Intl.Segmenter().segment(text));
  return length === 1 && /\p{Extended_Pictographic}|\p{Emoji_Presentation}|\p{Regional_Indicator}|\u20E3/u.test(text);
}

// Editing and replying, in the text field

const about = element("p", { id: "composing-about", role: "status" });
const cancel = makeButton("✕", stopComposing, { "aria-label": "Cancel" });
const line = element("div", { id: "composing", hidden: true }, about, cancel);
$("message-form").prepend(line);

/** Shows what the text field is for. */
export function showComposing() {
  const { composing } = current;
  line.hidden = composing === null;
  setText($("send"), composing?.isEdit ? "Save" : "Send");
  cancel.ariaLabel = composing?.isEdit ? "Cancel editing" : "Cancel the reply";
  about.replaceChildren();
  if (composing !== null) {
    const heading = composing.isEdit ? ["Editing"] : ["Reply to ", element("bdi", {}, composing.nick)];
    // It may have been changed or deleted meanwhile.
    const shown = findMessage(current, composing.seq)?.text ?? composing.text;
    about.append(element("b", {}, ...heading), " ", element("span", { dir: "auto" }, shown));
  }
  showUnsent();
}

/** @param {ShownMessage} message @param {boolean} isEdit */
function compose({ seq, nick, text: before }, isEdit) {
  const typed = current.composing?.isEdit ? current.composing.draft : text.value;
  current.composing = { isEdit, seq, nick, text: before, draft: isEdit ? typed : "" };
  text.value = isEdit ? before : typed;
  updateComposer();
  showComposing();
  text.focus();
  text.setSelectionRange(text.value.length, text.value.length);
}

/** @param {ShownMessage} message */
function reply(message) {
  compose(message, false);
}

/** @param {ShownMessage} message */
function edit(message) {
  compose(message, true);
}

/** Edits the last own message. */
export function editLast() {
  const last = current.entries.findLast((entry) => "seq" in entry && isChangeable(entry));
  last && "seq" in last && text.value === "" && edit(last);
}

/** Ends an edit or a reply without sending it. */
export function stopComposing() {
  if (current.composing?.isEdit) {
    text.value = current.composing.draft;
  }
  current.composing = null;
  updateComposer();
  showComposing();
  text.focus();
}

// Deletion

/** @param {ShownMessage} message @param {HTMLElement} article */
function confirmDeletion(message, article) {
  const id = "deletion-text";
  const made = openDialog("Delete this message?", article,
    element("p", {}, element("b", {}, "Delete this message for everyone?")),
    element("p", { id, class: "quote", dir: "auto" }, message.text),
    element("menu", {},
      makeButton("Cancel", () => dialog?.close(), { autofocus: true }),
      makeButton("Delete", () => {
        dialog?.close();
        client.delete(current, message.seq);
        showUnsent();
      }, { class: "danger" })),
  );
  made.setAttribute("role", "alertdialog");
  made.setAttribute("aria-describedby", id);
}

// Links

/** @param {ShownMessage} message @param {HTMLElement} article */
function copyLink({ seq }, article) {
  copy(new URL(`#m${seq}`, location.href).href, "link", article);
}

/** @param {string} value @param {string} what @param {HTMLElement} article */
async function copy(value, what, article) {
  try {
    await navigator.clipboard.writeText(value);
    showStatus(`The ${what} was copied.`, { isTemporary: true });
  } catch {
    // Browsers allow it only over HTTPS and on localhost.
    const field = element("textarea", { id: "copied-text", readonly: true, rows: "2" }, value);
    openDialog(`Copy the ${what}`, article,
      element("label", { for: field.id }, `Your browser blocked copying. Copy the ${what} yourself:`),
      field,
      element("menu", {}, makeButton("Close", () => dialog?.close())));
    field.select();
  }
}

// Unconfirmed changes

let unsentTimer = 0;

/** Marks messages with changes that the server has not confirmed for a while. */
function showUnsent() {
  clearTimeout(unsentTimer);
  if (Array.from(client.rooms.values()).some(({ pending }) => pending.length > 0)) {
    unsentTimer = setTimeout(() => {
      markUnsent();
      showUnsent();
    }, UNSENT_MS);
  } else {
    markUnsent();
  }
}

function markUnsent() {
  const seqs = new Set(current.pending.map(({ command }) => ("seq" in command ? command.seq : 0)));
  for (const entry of /** @type {NodeListOf<HTMLElement>} */ (log.entries.querySelectorAll("[data-seq]"))) {
    entry.classList.toggle("unsent", seqs.has(Number(entry.dataset.seq)));
  }
}

/**
 * Shows that the server rejected a change, and keeps the text of an edit.
 * @param {string} problem @param {Command} command @param {Room} room
 */
export function showFailure(problem, command, room) {
  const failures = new Map([["edit", "The edit was not saved"], ["delete", "The message was not deleted"]]);
  if (command.type === "edit") {
    const kept = { type: /** @type {const} */ ("say"), room: room.name, text: command.text };
    room.pending = [...room.pending, { id: randomHex(12), command: kept, state: "failed", problem, isEdit: true }];
    room === current && log.showPending();
    room === current && log.follow();
  }
  const failure = failures.get(command.type) ?? "The reaction was not changed";
  showStatus(`${failure}: ${problem}.`, { isTemporary: true });
  markUnsent();
}
