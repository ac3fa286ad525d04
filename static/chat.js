// The page: the rooms, the current room, its members, the connection status, and the dialogs.

import { Client, randomHex } from "./client.js";
import { confirmIdentity, identityFromLink, share } from "./device.js";
import { Log, nameClass, nameList } from "./log.js";
import { Room } from "./room.js";
import { load, ROOT, save, update } from "./store.js";
import { $, element, mentions, oncePerFrame, plural, setChildren, setText } from "./text.js";

/**
 * @import { Command, EventHandlers, Ending, ErrorEvent, Message, MessageChange, ReadPosition, ServerEvent,
 *   UnconfirmedMessage } from "./protocol.js"
 */

const text = $("text", HTMLTextAreaElement);
const roomField = $("room-name", HTMLInputElement);
const nameDialog = $("name-dialog", HTMLDialogElement);
const nameField = $("name", HTMLInputElement);
const notifyBox = $("notify", HTMLInputElement);
const themeSelect = $("theme", HTMLSelectElement);

/** Minimum time between two `typing` commands. */
const TYPING_MS = 3_000;
/** How long a temporary status is shown. */
const STATUS_MS = 10_000;
const INVALID_LINK = "This device link is incomplete. Copy the whole link and open it again.";
/** Maximum number of members that the server lists by name. */
const MEMBERS_MAX = 100;
const HELP = `/nick NAME – change your name
/join ROOM – join a room
/leave – leave this room
/help – show this help
Alt+↑ and Alt+↓ switch rooms. Shift+Enter starts a new line.`;

const linked = identityFromLink();
if (linked && linked.key !== load("key", "")) {
  await confirmIdentity(linked, load("name", ""));
}

/** The secret key of the user, shared by all windows of this browser. */
const key = load("key", null) ?? randomHex(24);
save("key", key);

/** The room that is shown; a placeholder until the first one is opened. */
let current = new Room("");
/** The name that the server has confirmed. */
let nick = "";
/** The public identity of this user. */
let author = "";
let messageBytes = 4096;
let lastTyping = 0;
let countdownTimer = 0;
let statusTimer = 0;

const log = new Log({
  me: () => nick,
  loadOlder,
  endReached: markRead,
  resolveFailed,
});

const address = new URL(`${ROOT}ws`, location.href);
address.protocol = location.protocol === "https:" ? "wss:" : "ws:";

/** @type {Client<Room>} */
const client = new Client({
  url: address,
  key,
  nick: load("name", ""),
  opened: () => clearInterval(countdownTimer),
  received: handleEvent,
  closed: handleClose,
  changed: (room) => room === current && log.showPending(),
});
const { rooms } = client;

// Rooms

function roomFromPath() {
  const [, name] = location.pathname.match(/\/r\/([^/]+)$/) ?? [];
  try {
    return name === undefined ? "lobby" : decodeURIComponent(name);
  } catch {
    return "lobby";
  }
}

/** @param {string} name */
function roomPath(name) {
  return `${ROOT}r/${encodeURIComponent(name)}`;
}

/** @param {string} name */
function normalizeRoomName(name) {
  return name.trim().replace(/^#/, "").normalize("NFKC").toLowerCase();
}

/** Joins the room if necessary. @param {string} name */
function getRoom(name) {
  let room = rooms.get(name);
  if (room === undefined) {
    room = new Room(name, /** @type {Record<string, ReadPosition>} */ (load("read", {}))[name]);
    client.join(room);
    storeRoom(name, true);
  }
  return room;
}

/** Adds or removes a room in the list that all windows share. @param {string} name @param {boolean} isJoined */
function storeRoom(name, isJoined) {
  update("rooms", /** @type {string[]} */ ([]), (names) => {
    const others = names.filter((other) => other !== name);
    return isJoined ? (names.includes(name) ? names : [...names, name]) : others;
  });
}

/** @param {string} name */
function openRoom(name, { push = true } = {}) {
  const room = getRoom(name);
  if (current === room) {
    return closeDrawers();
  }
  current.draft = text.value;
  current.firstUnread = null;
  current = room;
  setFirstUnread(room);
  if (push) {
    history.pushState(null, "", name === "lobby" ? ROOT : roomPath(name));
  }
  text.value = room.draft;
  updateComposer();
  showTitle();
  text.placeholder = `Message #${name}`;
  log.show(room);
  showRooms();
  showMembers();
  showTyping();
  closeDrawers();
  text.focus();
}

/** Shows the name and the topic of the current room. */
function showTitle() {
  setText($("room"), `# ${current.name}`);
  Object.assign($("topic"), { title: current.topic, textContent: current.topic });
}

/** Sets where the "New" line is: above the first unread message. @param {Room} room */
function setFirstUnread(room) {
  const { read } = room;
  if (room.firstUnread === null && read?.epoch === room.epoch && room.epoch !== null) {
    const messages = room.entries.filter((entry) => "seq" in entry);
    const unread = messages.find(({ seq, nick: by, deleted }) => seq > read.seq && by !== nick && !deleted);
    room.firstUnread = unread?.seq ?? null;
  }
}

/** @param {Room} room */
function leave(room) {
  client.leave(room);
  storeRoom(room.name, false);
  if (current === room) {
    openRoom(rooms.keys().next().value ?? "lobby");
  }
  showRooms();
}

/** @type {WeakMap<Room, HTMLElement>} The list item of each room. */
const roomItems = new WeakMap();

/** @param {Room} room */
function roomItem(room) {
  const item = roomItems.get(room) ?? element("li", {},
    element("a", {},
      element("span", { class: "room-name", dir: "auto" }),
      element("span", {}, element("span", { "aria-hidden": "true" }), element("span", { class: "visually-hidden" }))));
  roomItems.set(room, item);
  const [link] = item.getElementsByTagName("a");
  const [name, badge] = link.children;
  const [count, description] = badge.children;
  link.href = roomPath(room.name);
  link.ariaCurrent = room === current ? "page" : null;
  setText(name, `# ${room.name}`);
  badge.className = room.mentioned ? "badge mention" : "badge";
  badge.toggleAttribute("hidden", room.unread === 0);
  setText(count, room.mentioned ? `@ ${room.unread}` : `${room.unread}`);
  setText(description, `${room.unread} unread${room.mentioned ? ", you are mentioned" : ""}`);
  return item;
}

const showRoomList = oncePerFrame(() => setChildren($("room-list"), Array.from(rooms.values(), roomItem)));

function showRooms() {
  showRoomList();
  // Updates the title at once: background tabs get no animation frames.
  const unread = Array.from(rooms.values()).reduce((sum, room) => sum + room.unread, 0);
  const elsewhere = unread - current.unread;
  setText($("show-rooms"), elsewhere > 0 ? `☰ ${elsewhere}` : "☰");
  $("show-rooms").ariaLabel = elsewhere > 0 ? `Rooms, ${elsewhere} unread` : "Rooms";
  document.title = `${unread > 0 ? `(${unread}) ` : ""}#${current.name} · chinwag`;
}

$("room-list").addEventListener("click", (event) => {
  const item = event.target instanceof Element ? event.target.closest("li") : null;
  const room = Array.from(rooms.values()).find((each) => roomItems.get(each) === item);
  if (item !== null && room !== undefined && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
    event.preventDefault();
    openRoom(room.name);
  }
});

const showMembers = oncePerFrame(() => {
  const { members, memberCount } = current;
  const list = $("member-list");
  const shown = new Map(Array.from(list.children, (item) => [item.textContent, item]));
  const names = Array.from(members).sort((a, b) => a.localeCompare(b));
  const lines = names.map((name) => [name === nick ? `${name} (you)` : name, nameClass(name)]);
  if (memberCount > names.length) {
    lines.push([`and ${memberCount - names.length} more`, ""]);
  }
  setChildren(list, lines.map(([label, kind]) => shown.get(label) ?? element("li", { class: kind, dir: "auto" }, label)));
  setText($("member-count"), `${memberCount} online`);
  setText($("show-members"), `${memberCount} online`);
});

function showTyping() {
  const names = current.typingNames.filter((name) => name !== nick);
  const verb = names.length === 1 ? "is" : "are";
  const who = names.length > 3 ? "Several people" : nameList.format(names);
  $("typing").textContent = names.length === 0 ? "" : `${who} ${verb} typing…`;
}
setInterval(showTyping, 1000);

// Events

/** @param {string} name */
function setNick(name) {
  const changed = nick !== name;
  nick = name;
  client.nick = name;
  if (!nick.startsWith("anonymous-")) {
    save("name", nick);
  }
  $("me").textContent = name;
  changed && current.joined && log.refresh();
}

/** @type {EventHandlers} */
const eventHandlers = {
  welcome({ nick: name, author: id, limits }) {
    author = id;
    setNick(name);
    messageBytes = limits.message_bytes;
    showStatus("");
    if (current.joined) {
      showMembers();
    }
  },

  joined(event, command) {
    const room = rooms.get(event.room);
    if (room === undefined) {
      return;
    }
    if (room === current && roomFromPath() !== room.name) {
      // The server spells the room's name differently.
      history.replaceState(null, "", room.name === "lobby" ? ROOT : roomPath(room.name));
    }
    if (command?.type === "join" && command.room !== room.name) {
      storeRoom(command.room, false);
    }
    storeRoom(room.name, true);
    const isFirst = room.epoch === null;
    const before = room.entries.length;
    const { read } = room;
    const isContinuous = room.applyJoined(event);
    const missed = event.messages.filter(
      ({ seq, nick: by, deleted }) => by !== nick && !deleted && read?.epoch === event.epoch && seq > read.seq,
    );
    if (!event.recovered) {
      room.unread = 0;
      room.mentioned = false;
    }
    if (room !== current || document.hidden) {
      missed.forEach((message) => room.countUnread(message, nick));
    }
    if (isFirst) {
      setFirstUnread(room);
    }
    if (room === current) {
      showStatus("");
      showTitle();
      isFirst || !isContinuous ? log.show(room) : log.appended(room.entries.length - before, event.messages.length);
      log.showPending();
      showMembers();
    }
    showRooms();
  },

  message(message) {
    const room = rooms.get(message.room);
    if (!room?.add(message)) {
      return;
    }
    const isMine = message.nick === nick;
    const isSeen = room === current && !document.hidden && (log.isFollowing || isMine);
    if (!isSeen && !isMine) {
      room.countUnread(message, nick);
      notifyMention(room, message);
    }
    if (room === current) {
      if (document.hidden && room.firstUnread === null && !isMine) {
        room.firstUnread = message.seq;
      }
      log.showPending();
      log.appended();
      showTyping();
    } else {
      room.trim();
    }
    showRooms();
  },

  history(event) {
    const room = rooms.get(event.room);
    const count = room?.prepend(event, author) ?? 0;
    if (room === current) {
      log.prepended(count);
    }
  },

  edited: applyChange,
  deleted: applyChange,
  reacted: applyChange,

  room(event) {
    const room = rooms.get(event.room);
    room?.applyTopic(event);
    if (room === current) {
      showTitle();
      log.appended(1, 0);
    }
  },

  presence(event) {
    const room = rooms.get(event.room);
    if (room === undefined) {
      return;
    }
    const before = room.entries.at(-1);
    const note = room.applyPresence(event);
    refreshMembers(room);
    if (room === current) {
      note === before ? log.lastChanged() : log.appended(1, 0);
      showMembers();
      showTyping();
    }
  },

  renamed(event) {
    const room = rooms.get(event.room);
    if (room === undefined) {
      return;
    }
    if (event.from === nick) {
      // Either another window renamed this user, or the event is an old one about another user who
      // had this name before. The answer to `hello` contains the current name.
      client.ask({ type: "hello" });
    }
    const hasNote = room.applyRenamed(event, event.to === nick);
    refreshMembers(room);
    if (room === current) {
      hasNote && log.appended(1, 0);
      showMembers();
    }
  },

  typing({ room: name, nick: by }) {
    rooms.get(name)?.setTyping(by);
    showTyping();
  },

  members({ room: name, members, member_count }) {
    const room = rooms.get(name);
    if (room !== undefined) {
      room.members = new Set(members);
      room.memberCount = member_count;
      room === current && showMembers();
    }
  },
};

/** @param {MessageChange} change */
function applyChange(change) {
  const room = rooms.get(change.room);
  const changed = room?.applyChange(change, author) ?? [];
  room === current && log.changed(changed);
}

/** @param {ErrorEvent} error @param {Command} [command] @param {Room} [room] */
function handleError({ code, message, suggested, temporary }, command, room) {
  if (command?.type === "say" || code === "rate_limited") {
    return;
  }
  if (code === "nick_taken" || code === "bad_nick") {
    askForName(message, suggested);
  } else if (command?.type === "join" && room !== undefined) {
    showStatus(`Cannot join #${command.room}: ${message}.`, { isTemporary: !temporary });
    temporary || leave(room);
  } else if (command?.type === "history" && room !== undefined) {
    room.changesWhileLoading = null;
  } else {
    showStatus(sentence(message), { isTemporary: true });
  }
}

/** @param {string} message */
function sentence(message) {
  return `${message.charAt(0).toUpperCase()}${message.slice(1)}.`;
}

/** @param {ServerEvent} event @param {Command} [command] @param {Room} [room] */
function handleEvent(event, command, room) {
  if (event.type === "error") {
    return handleError(event, command, room);
  }
  /** @type {(event: ServerEvent, command?: Command) => void} */ (eventHandlers[event.type])?.(event, command);
}

/** Requests the member list if the known one is incomplete. @param {Room} room */
function refreshMembers({ name, members, memberCount }) {
  if (memberCount <= MEMBERS_MAX && members.size !== memberCount) {
    client.ask({ type: "who", room: name });
  }
}

/** @param {Room} room */
function loadOlder(room) {
  if (room.changesWhileLoading === null && client.isWelcome) {
    room.changesWhileLoading = [];
    client.ask({ type: "history", room: room.name, before: room.oldest, limit: 100 }, room);
  }
}

// Connection status

/** Shows a status, for a while or until the next one. @param {string} message */
function showStatus(message, { retry: canRetry = false, isTemporary = false } = {}) {
  clearTimeout(statusTimer);
  statusTimer = isTemporary ? setTimeout(() => showStatus(""), STATUS_MS) : 0;
  setText($("status"), message);
  $("retry").hidden = !canRetry;
  $("banner").hidden = message === "";
}

/** @param {Ending} end */
function handleClose({ reason, next }) {
  for (const room of rooms.values()) {
    room.changesWhileLoading = null;
    room.typing.clear();
  }
  const why = reason ? `: ${reason}.` : ".";
  clearInterval(countdownTimer);
  if (next === null) {
    return showStatus(`Connection closed${why}`, { retry: true });
  }
  const showCountdown = () => {
    const seconds = Math.max(1, Math.ceil((next - Date.now()) / 1000));
    showStatus(`Connection lost${why} Reconnecting in ${plural(seconds, "second")}.`, { retry: true });
  };
  showCountdown();
  countdownTimer = setInterval(showCountdown, 1000);
}

$("retry").addEventListener("click", () => {
  clearInterval(countdownTimer);
  showStatus("Connecting…");
  client.connect();
  text.focus();
});

// Sending messages

const slashCommands = new Map(/** @type {[string, (argument: string) => void][]} */ ([
  ["nick", (name) => (name ? rename(name) : askForName(""))],
  ["join", (name) => (name ? joinRoom(name) : showNote("Usage: /join ROOM"))],
  ["leave", () => leave(current)],
  ["help", () => showNote(HELP)],
]));

/** @param {string} note */
function showNote(note) {
  current.entries.push({ note });
  log.appended(1, 0);
  log.follow();
}

$("message-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = text.value.trim();
  if (value === "" || isTooLong()) {
    return;
  }
  const [, command, argument] = value.match(/^\/(\p{L}+)(?:\s+(.*))?$/su) ?? [];
  const run = slashCommands.get(command?.toLowerCase() ?? "");
  if (command !== undefined && run === undefined) {
    return showNote(`Unknown command: /${command}. Enter /help for a list. To send it as a message, start with //.`);
  }
  text.value = "";
  updateComposer();
  if (run !== undefined) {
    return run(argument?.trim() ?? "");
  }
  client.say(current, value.replace(/^\/\//, "/"));
  current.firstUnread = null;
  log.showPending();
  log.follow();
  lastTyping = 0;
});

/** @param {UnconfirmedMessage} said @param {boolean} isRetry */
function resolveFailed(said, isRetry) {
  if (isRetry) {
    client.sayAgain(current, said);
  } else {
    client.settle(current, said.id);
  }
  log.showPending();
  text.focus();
}

function messageSize() {
  return new TextEncoder().encode(text.value.trim()).length;
}

function isTooLong() {
  return messageSize() > messageBytes;
}

/** Fits the height of the text field to its content, and shows when the size limit is near. */
function updateComposer() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
  const left = messageBytes - messageSize();
  const near = left < messageBytes / 5 ? `${plural(left, "byte")} left` : "";
  $("bytes-left").textContent = left < 0 ? `${plural(-left, "byte")} too long` : near;
  $("send", HTMLButtonElement).disabled = left < 0;
}

text.addEventListener("input", () => {
  updateComposer();
  const now = Date.now();
  if (now - lastTyping > TYPING_MS && text.value.trim() !== "" && !text.value.startsWith("/")) {
    lastTyping = now;
    client.tell({ type: "typing", room: current.name });
  }
});

text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("message-form", HTMLFormElement).requestSubmit();
  }
});

addEventListener("keydown", (event) => {
  const step = new Map([["ArrowUp", -1], ["ArrowDown", 1]]).get(event.key);
  const isBusy = document.querySelector("dialog[open]") !== null || event.target instanceof HTMLSelectElement;
  if (event.altKey && step !== undefined && !isBusy) {
    event.preventDefault();
    const names = Array.from(rooms.keys());
    openRoom(names.at((names.indexOf(current.name) + step) % names.length) ?? current.name);
  } else if (event.key === "Escape") {
    closeDrawers();
  }
});

// Joining and leaving rooms

/** @param {string} name */
function joinRoom(name) {
  const room = normalizeRoomName(name);
  if (/^[\p{L}\p{N}_-][\p{L}\p{N}\p{M}_-]{0,63}$/u.test(room)) {
    openRoom(room);
  } else {
    showStatus("A room name has 1 to 64 characters: letters, digits, - and _.", { isTemporary: true });
  }
}

$("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (roomField.value.trim() !== "") {
    joinRoom(roomField.value);
    roomField.value = "";
  }
});
$("leave").addEventListener("click", () => leave(current));
addEventListener("popstate", () => openRoom(normalizeRoomName(roomFromPath()), { push: false }));

// Name

/** Returns why a name is invalid, or "". @param {string} name */
function nameProblem(name) {
  if (/[:\p{C}\p{Zl}\p{Zp}]/u.test(name)) {
    return "A name cannot contain a colon or invisible characters.";
  }
  return /^anonymous-/i.test(name.normalize("NFKC")) ? "A name cannot start with “anonymous-”." : "";
}

/** @param {string} name */
function rename(name) {
  const problem = nameProblem(name);
  if (problem) {
    return askForName(problem, undefined, name);
  }
  client.rename(name);
  // Retries rooms that are not joined: they may have rejected the previous name.
  for (const room of rooms.values()) {
    if (!room.joined) {
      client.join(room);
    }
  }
}

/** Opens the name dialog, with an error if there is one. @param {string} problem @param {string} [suggested] */
function askForName(problem, suggested, value = suggested ?? load("name", "")) {
  const available = suggested === undefined ? "" : ` “${suggested}” is available.`;
  const hasName = nick !== "" && !nick.startsWith("anonymous-");
  setText($("name-title"), hasName ? "Change your name" : "What should we call you?");
  setText($("stay-anonymous"), hasName ? "Cancel" : "Stay anonymous");
  setText($("save-name"), hasName ? "Save" : "Join");
  $("name-problem").textContent = problem ? sentence(problem.replace(/\.$/, "")) + available : "";
  nameField.setAttribute("aria-invalid", String(problem !== ""));
  nameField.value = value;
  if (!nameDialog.open) {
    nameDialog.showModal();
  }
  nameField.select();
}

nameDialog.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = nameField.value.trim();
  const problem = name === "" ? "A name has 1 to 32 characters." : nameProblem(name);
  if (problem) {
    return askForName(problem, undefined, name);
  }
  nameDialog.close();
  rename(name);
});
$("stay-anonymous").addEventListener("click", () => nameDialog.close());
nameDialog.addEventListener("close", () => {
  save("asked", true);
  if (client.isWelcome && !current.joined) {
    showStatus(`You are not in #${current.name} yet. If somebody there uses your name, choose another name.`);
  }
  text.focus();
});
$("me").addEventListener("click", () => askForName(""));

// Other devices

$("share").addEventListener("click", () => {
  const name = nick.startsWith("anonymous-") ? "" : nick;
  share({ key, name }, current.name === "lobby" ? ROOT : roomPath(current.name));
});

addEventListener("hashchange", async () => {
  const identity = identityFromLink();
  if (identity && identity.key !== key && (await confirmIdentity(identity, load("name", "")))) {
    location.reload();
  } else if (identity === null) {
    showStatus(INVALID_LINK, { isTemporary: true });
  }
});

addEventListener("storage", ({ key: changed }) => {
  if (changed === "chinwag.key" && load("key", key) !== key) {
    // This window would otherwise go on sending messages as the previous user.
    client.disconnect();
    showStatus("Another window changed the identity of this browser. Reload this page to continue.");
  }
});

// Read positions and notifications

function markRead() {
  if (!document.hidden) {
    const changed = current.unread > 0;
    current.markRead();
    storeRead(current);
    changed && showRooms();
  }
}

/** Stores the read position, unless another window has read further. @param {Room} room */
function storeRead({ name, read }) {
  update("read", /** @type {Record<string, ReadPosition>} */ ({}), (reads) => {
    const known = reads[name];
    const isBehind = read === undefined || (known?.epoch === read.epoch && known.seq >= read.seq);
    return isBehind ? reads : { ...reads, [name]: read };
  });
}

addEventListener("storage", ({ key: changed }) => {
  if (changed === "chinwag.read") {
    const reads = load("read", /** @type {Record<string, ReadPosition>} */ ({}));
    for (const room of rooms.values()) {
      const read = reads[room.name];
      if (read?.epoch === room.epoch && read.seq >= room.latest && room.unread > 0) {
        room.markRead();
      }
    }
    showRooms();
  }
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && log.isFollowing) {
    log.show(current);
    markRead();
  }
  updateDays();
});

let today = new Date().toDateString();

function updateDays() {
  const now = new Date().toDateString();
  if (now !== today) {
    today = now;
    log.updateDays();
  }
}
setInterval(updateDays, 60_000);

/** @param {Room} room @param {Message} message */
function notifyMention(room, message) {
  if (notifyBox.checked && (document.hidden || room !== current) && mentions(message.text, nick)) {
    try {
      const notification = new Notification(`${message.nick} in #${room.name}`, { body: message.text, tag: `${room.name} ${message.seq}` });
      notification.addEventListener("click", () => {
        window.focus();
        openRoom(room.name);
      });
    } catch {
      // On Android, Chromium has the constructor, but it throws.
    }
  }
}

notifyBox.addEventListener("change", async () => {
  if (notifyBox.checked && (await Notification.requestPermission()) !== "granted") {
    notifyBox.checked = false;
    showStatus("Notifications are not allowed. Allow them in your browser’s settings for this site.");
  }
  save("notify", notifyBox.checked);
});

/** @param {string} name */
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  themeSelect.value = name;
}

themeSelect.addEventListener("change", () => {
  setTheme(themeSelect.value);
  save("theme", themeSelect.value);
});

// Drawers on small screens

/** @param {HTMLElement} button @param {HTMLElement} panel */
function setUpDrawer(button, panel) {
  button.addEventListener("click", () => {
    const isOpen = panel.classList.toggle("open");
    $("backdrop").hidden = !isOpen;
    button.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) {
      /** @type {HTMLElement | null} */ (panel.querySelector("a, [tabindex]"))?.focus();
    }
  });
}

function closeDrawers() {
  for (const [button, panel] of [["show-rooms", "rooms"], ["show-members", "members"]]) {
    if ($(panel).classList.contains("open") && $(panel).contains(document.activeElement)) {
      $(button).focus();
    }
    $(panel).classList.remove("open");
    $("backdrop").hidden = true;
    $(button).setAttribute("aria-expanded", "false");
  }
}

setUpDrawer($("show-rooms"), $("rooms"));
setUpDrawer($("show-members"), $("members"));
$("backdrop").addEventListener("click", closeDrawers);

// Start

setTheme(load("theme", ""));
notifyBox.checked = load("notify", false) && globalThis.Notification?.permission === "granted";
notifyBox.disabled = !("Notification" in window);
for (const name of /** @type {string[]} */ (load("rooms", []))) {
  getRoom(name);
}
openRoom(normalizeRoomName(roomFromPath()), { push: false });
if ("WebSocket" in window) {
  showStatus("Connecting…");
  client.connect();
  addEventListener("online", () => client.checkConnection());
  addEventListener("offline", () => client.offline());
  document.addEventListener("visibilitychange", () => document.hidden || client.checkConnection());
  if (linked === null) {
    showStatus(INVALID_LINK, { isTemporary: true });
  }
  if (!client.nick && !load("asked", false)) {
    askForName("");
  }
} else {
  showStatus("Your browser does not support WebSockets, which this chat needs.");
}
