// The search panel. Loaded when it is first needed.

import { current, followLink, openRoom, request, roomPath, sentence } from "./chat.js";
import { Finder } from "./finder.js";
import "./dialog.js";
import { element, plural, setText } from "./text.js";

/** @import { SearchResult, ServerEvent } from "./protocol.js" */

const timeFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

const field = element("input", { id: "search-text", maxlength: "200", enterkeyhint: "search", autocomplete: "off" });
const scope = element("select", { id: "search-scope" });
const from = element("input", { id: "search-from", maxlength: "32", spellcheck: "false", autocomplete: "off" });
const status = element("p", { id: "search-status", role: "status" });
const list = element("ol", { id: "search-results", "aria-label": "Results" });
const moreButton = element("button", { id: "search-more", type: "button", hidden: true }, "More results");
const submit = element("button", { "aria-label": "Search" }, "⌕");
const close = element("button", { type: "button", "aria-label": "Close" }, "✕");
const form = element("form", { role: "search" },
  element("label", { for: field.id }, "Search messages"),
  element("div", {}, field, submit, close),
  element("div", {}, element("label", {}, "In ", scope), element("label", {}, "From ", from)),
);
const panel = element("dialog", { id: "search-panel", "aria-label": "Search" }, form, status, list, moreButton);

/** @type {SearchResult[]} */
let results = [];
/** Whether some messages were not searched. */
let isIncomplete = false;

const finder = new Finder(request, showAnswer);

document.body.append(panel);

/** Opens the panel. @param {string} words */
export function open(words) {
  const room = `# ${current.name}`;
  const isEverywhere = scope.selectedIndex === 1;
  if (scope.options[0]?.label !== room) {
    const all = element("option", { value: "" }, "All rooms");
    scope.replaceChildren(element("option", { value: current.name }, room), all);
    scope.selectedIndex = isEverywhere ? 1 : 0;
    isEverywhere || clear();
  }
  if (!panel.open) {
    panel.showModal();
  }
  if (words !== "") {
    field.value = words;
    search(0);
  } else if (results.length === 0 && field.value !== "") {
    search(0);
  }
  field.focus();
  field.select();
}

function clear() {
  results = [];
  isIncomplete = false;
  list.replaceChildren();
  moreButton.hidden = true;
}

/** @param {number} [pauseMs] */
function search(pauseMs) {
  const words = field.value.trim();
  if (words === "") {
    finder.cancel();
    clear();
    return setText(status, "");
  }
  setText(status, "Searching…");
  finder.search({ text: words, room: scope.value || undefined, from: from.value.trim() || undefined }, pauseMs);
}

/** @param {ServerEvent | undefined} answer @param {boolean} isMore */
function showAnswer(answer, isMore) {
  if (answer?.type !== "search") {
    isMore || clear();
    const problem = answer?.type === "error" ? sentence(answer.message) : "Not connected. Try again later.";
    return setText(status, problem);
  }
  isMore || clear();
  results.push(...answer.results);
  isIncomplete ||= answer.incomplete ?? false;
  const first = list.children.length;
  list.append(...answer.results.map(makeResult));
  const hadFocus = document.activeElement === moreButton;
  moreButton.hidden = !answer.more || results.length === 0;
  hadFocus && /** @type {HTMLElement | null} */ (list.children[first]?.querySelector("a"))?.focus();
  const count = `${plural(results.length, "result")}${answer.more ? " so far" : ""}.`;
  const found = results.length === 0 ? "No results." : count;
  setText(status, isIncomplete ? `${found} Not all messages were searched: there may be more.` : found);
}

/** @param {SearchResult} result */
function makeResult({ room, seq, at, nick: by, snippet }) {
  const pieces = snippet.map((piece, n) => (n % 2 === 1 ? element("mark", {}, piece) : piece));
  const link = element("a", { href: `${roomPath(room)}#m${seq}` },
    element("span", { class: "search-head" },
      element("b", { dir: "auto" }, by), " ",
      element("span", { dir: "auto" }, `# ${room}`), " ",
      element("time", { datetime: new Date(at).toISOString() }, timeFormat.format(at))),
    element("span", { class: "snippet", dir: "auto" }, ...pieces));
  link.addEventListener("click", (event) => {
    if (!(event.ctrlKey || event.metaKey || event.shiftKey)) {
      event.preventDefault();
      show(room, seq);
    }
  });
  return element("li", {}, link);
}

/** @param {string} room @param {number} seq */
function show(room, seq) {
  panel.close();
  openRoom(room);
  history.replaceState(null, "", `#m${seq}`);
  followLink();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  search(0);
});
form.addEventListener("input", () => search());
moreButton.addEventListener("click", () => {
  const last = results.at(-1);
  if (last !== undefined) {
    setText(status, "Searching…");
    finder.more(last.seq);
  }
});
close.addEventListener("click", () => panel.close());

// ↓ moves the focus from the field to the results, and ↑ back.
panel.addEventListener("keydown", (event) => {
  const step = new Map([["ArrowUp", -1], ["ArrowDown", 1]]).get(event.key);
  const links = Array.from(list.querySelectorAll("a"));
  const at = links.indexOf(/** @type {HTMLAnchorElement} */ (event.target));
  if (step !== undefined && (at >= 0 || event.target === field) && !event.altKey) {
    event.preventDefault();
    (at + step < 0 ? field : links[at + step])?.focus();
  }
});
