// The page: the rooms, the current room, its members, the connection status, and the dialogs.

import { Client, randomHex } from "./client.js";
import { Log, nameClass, nameList } from "./log.js";
import { Room } from "./room.js";
import { load, ROOT, save, update } from "./store.js";
import { $, element, mentions, oncePerFrame, plural, setChildren, setText } from "./text.js";

/**
 * @import { Command, EventHandlers, Ending, ErrorEvent, Limits, Message, MessageChange, ReadPosition, ServerEvent,
 *   UnconfirmedMessage } from "./protocol.js"
 */

// For modules that are loaded later.
export {
  author, client, current, followLink, limits, log, nick, openRoom, request, roomPath, sentence, showStatus, text,
  updateComposer,
};

const text = $("text", HTMLTextAreaElement);
const roomField = $("room-name", HTMLInputElement);
const notifyBox = $("notify", HTMLInputElement);
const themeSelect = $("theme", HTMLSelectElement);

/** Minimum time between two `typing` commands. */
const TYPING_MS = 3_000;
/** Minimum time between two `read` commands for a room. */
const READ_MS = 3_000;
/** How long a temporary status is shown. */
const STATUS_MS = 10_000;
const INVALID_LINK = "This device link is incomplete. Copy the whole link and open it again.";
/** Maximum number of members that the server lists by name. */
const MEMBERS_MAX = 100;
const linked = identityFromLink();
if (linked && linked.key !== load("key", "")) {
  const { confirmIdentity } = await import("./device.js");
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
/** @type {Limits} */
let limits = { message_bytes: 4096, frame_bytes: 0, history: 100, edits: false };
let lastTyping = 0;
let countdownTimer = 0;
let statusTimer = 0;
/** @type {Promise<typeof import("./jump.js")> | undefined} */
let jumpModule;

const log = new Log({
  me: () => nick,
  loadOlder,
  loadNewer: (past) => later(loadJump(), ({ loadNewer }) => loadNewer(past)),
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

/** Returns the address of a room. @param {string} name */
function roomPath(name) {
  return name === "lobby" ? ROOT : `${ROOT}r/${encodeURIComponent(name)}`;
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
  // It would change a message of the other room.
  document.querySelector(/** @type {"dialog"} */ ("dialog.actions"))?.close();
  current.draft = text.value;
  current.firstUnread = null;
  current.past = null;
  sendRead(current, true);
  const isComposing = current.composing || room.composing;
  current = room;
  setFirstUnread(room);
  if (push) {
    history.pushState(null, "", roomPath(name));
  }
  text.value = room.draft;
  updateComposer();
  isComposing && withActions((actions) => actions.showComposing());
  showTitle();
  text.placeholder = `Message #${name}`;
  showLog();
  showRooms();
  showMembers();
  showTyping();
  closeDrawers();
  text.focus();
}

/** Shows the current room, or nothing until its first unread message is loaded. */
function showLog() {
  const { firstUnread, oldest = 0 } = current;
  if (firstUnread !== null && firstUnread < oldest) {
    log.show(new Room(""));
    later(loadJump(), ({ jump }) => jump(firstUnread, false), () => log.show(current));
  } else {
    log.show(current);
  }
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
    room.firstUnread = room.unreadMessages(nick)[0]?.seq ?? null;
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
  const unread = room.unread < (limits.unread ?? Infinity) ? `${room.unread}` : `${limits.unread}+`;
  setText(count, room.mentioned ? `@ ${unread}` : unread);
  setText(description, `${unread} unread${room.mentioned ? ", you are mentioned" : ""}`);
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
  welcome({ nick: name, author: id, limits: others }) {
    author = id;
    limits = others;
    setNick(name);
    $("search").hidden = limits.search === undefined;
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
      history.replaceState(null, "", roomPath(room.name) + location.hash);
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
    if (event.read !== undefined && (read?.epoch !== event.epoch || read.seq <= event.read)) {
      // No window of this browser has read further.
      room.read = { epoch: event.epoch, seq: event.read };
      room.unread = event.unread ?? 0;
      room.mentioned = (event.mentions ?? 0) > 0;
      room.firstUnread = isFirst ? (event.first_unread ?? null) : room.firstUnread;
    } else if (room !== current || document.hidden) {
      missed.forEach((message) => room.countUnread(message, nick));
    }
    if (isFirst) {
      setFirstUnread(room);
    }
    // The client sets `joined` after this handler.
    queueMicrotask(() => sendRead(room));
    if (room === current) {
      showStatus("");
      showTitle();
      isFirst || !isContinuous ? showLog() : log.appended(room.entries.length - before, event.messages.length);
      log.showPending();
      showMembers();
      isFirst && followLink();
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

  history(event, _command, room) {
    room && log.prepended(room, room.prepend(event, author));
  },

  read({ room: name, seq }) {
    const room = rooms.get(name);
    if (room?.read && seq > room.read.seq) {
      room.markRead(seq);
      room.firstUnread = room === current ? room.firstUnread : null;
      room.unreadMessages(nick).forEach((message) => room.countUnread(message, nick));
      showRooms();
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
  room?.composing?.seq === change.target && withActions((actions) => actions.showComposing());
  room === current && log.changed(changed);
}

/** @param {ErrorEvent} error @param {Command} [command] @param {Room} [room] */
function handleError({ code, message, suggested, temporary }, command, room) {
  if (command?.type === "say" || code === "rate_limited") {
    return;
  }
  if (room && command && ["edit", "delete", "react"].includes(command.type)) {
    return withActions((actions) => actions.showFailure(message, command, room));
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
  if (command && waiting.has(command)) {
    waiting.get(command)?.(event);
    waiting.delete(command);
    return;
  }
  if (event.type === "error") {
    return handleError(event, command, room);
  }
  const handle = /** @type {(...args: [ServerEvent, Command?, Room?]) => void} */ (eventHandlers[event.type]);
  handle?.(event, command, room);
}

/** @type {Map<Command, (event?: ServerEvent) => void>} Receivers of the answers to commands. */
const waiting = new Map();

/**
 * Sends a command. Returns its answer, or undefined if there is no connection.
 * @param {Command} command @returns {Promise<ServerEvent | undefined>}
 */
function request(command) {
  return new Promise((resolve) => {
    if (!client.isWelcome) {
      return resolve(undefined);
    }
    waiting.set(command, resolve);
    client.ask(command);
  });
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
    Object.assign(room.past ?? {}, { changesWhileLoading: null });
    room.typing.clear();
  }
  waiting.forEach((answer) => answer());
  waiting.clear();
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
  ["search", search],
  ["nick", (name) => later(import("./name.js"), (module) => (name ? module.rename(name) : module.askForName("")))],
  ["join", (name) => (name ? joinRoom(name) : showNote("Usage: /join ROOM"))],
  ["leave", () => leave(current)],
  ["help", () => withActions(({ HELP }) => showNote(HELP))],
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
  const { composing } = current;
  const [, command, argument] = (!composing?.isEdit && value.match(/^\/(\p{L}+)(?:\s+(.*))?$/su)) || [];
  const run = slashCommands.get(command?.toLowerCase() ?? "");
  if (command !== undefined && run === undefined) {
    return showNote(`Unknown command: /${command}. Enter /help for a list. To send it as a message, start with //.`);
  }
  text.value = composing?.draft ?? "";
  updateComposer();
  if (run !== undefined) {
    return run(argument?.trim() ?? "");
  }
  current.composing = null;
  composing && withActions((actions) => actions.showComposing());
  if (composing?.isEdit) {
    return value === composing.text || client.edit(current, composing.seq, value);
  }
  client.say(current, value.replace(/^\/\//, "/"), composing?.seq);
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
  return messageSize() > limits.message_bytes;
}

/** Fits the height of the text field to its content, and shows when the size limit is near. */
function updateComposer() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
  const left = limits.message_bytes - messageSize();
  const near = left < limits.message_bytes / 5 ? `${plural(left, "byte")} left` : "";
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
  } else if (event.key === "ArrowUp" && text.value === "" && !event.altKey) {
    withActions((actions) => actions.editLast());
  } else if (event.key === "Escape" && current.composing && !event.isComposing) {
    withActions((actions) => actions.stopComposing());
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
  } else if (event.key === "/" && limits.search && !isBusy && !document.activeElement?.matches("input, textarea")) {
    event.preventDefault();
    search("");
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
addEventListener("popstate", () => {
  openRoom(normalizeRoomName(roomFromPath()), { push: false });
  followLink();
});

// Name

/** Opens the name dialog, with an error if there is one. @param {string} problem @param {string} [suggested] */
function askForName(problem, suggested) {
  later(import("./name.js"), (module) => module.askForName(problem, suggested));
}

$("me").addEventListener("click", () => askForName(""));

// Other devices

$("share").addEventListener("click", () => {
  const name = nick.startsWith("anonymous-") ? "" : nick;
  later(import("./device.js"), ({ share }) => share({ key, name }, roomPath(current.name)));
});

/**
 * Takes the identity out of the page's address, since the address bar should not show the key.
 * @returns {{ key: string, name: string } | null | undefined} null if the key is invalid
 */
function identityFromLink() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const found = fragment.get("key");
  if (found === null) {
    return undefined;
  }
  history.replaceState(null, "", location.pathname + location.search);
  return found.length < 16 || found.length > 256 ? null : { key: found, name: fragment.get("name") ?? "" };
}

addEventListener("hashchange", async () => {
  const identity = identityFromLink();
  followLink();
  if (identity && identity.key !== key) {
    const answer = await later(import("./device.js"), ({ confirmIdentity }) => confirmIdentity(identity, load("name", "")));
    answer && location.reload();
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
  if (!document.hidden && log.room === current) {
    const changed = current.unread > 0;
    current.markRead();
    storeRead(current);
    sendRead(current);
    changed && showRooms();
  }
}

/** Sends the server the read position, not too often unless it is the last one. @param {Room} room */
function sendRead(room, isLast = false) {
  const { read, readSent } = room;
  if (read?.epoch !== room.epoch || read.seq <= room.readMark) {
    return;
  }
  const wait = readSent.at + READ_MS - Date.now();
  if (wait > 0 && !isLast) {
    clearTimeout(readSent.timer);
    readSent.timer = setTimeout(() => sendRead(room), wait);
  } else {
    readSent.at = Date.now();
    client.read(room, read.seq);
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
  }
  document.hidden && sendRead(current, true);
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
    later(import("./notify.js"), ({ notify }) => notify(room, message));
  }
}

notifyBox.addEventListener("change", () => later(import("./notify.js"), ({ choose }) => choose(notifyBox)));

/** @param {string} name */
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  themeSelect.value = name;
}

themeSelect.addEventListener("change", () => {
  setTheme(themeSelect.value);
  save("theme", themeSelect.value);
});

// Modules that are loaded when they are first needed

/**
 * Uses a module. After an upgrade of the server, this page cannot load more modules.
 * @template T @template R @param {Promise<T>} module @param {(module: T) => R} use @param {() => void} [otherwise]
 */
function later(module, use, otherwise) {
  return module.then(use, () => {
    showStatus("A part of this page could not be loaded. Reload the page.", { isTemporary: true });
    otherwise?.();
  });
}

/** @param {(actions: typeof import("./actions.js")) => void} use */
function withActions(use) {
  later(import("./actions.js"), use);
}

for (const kind of ["pointerover", "focusin"]) {
  log.scroller.addEventListener(kind, (event) => withActions((actions) => actions.start(event)), { once: true });
}

log.scroller.addEventListener("click", (event) => {
  const control = /** @type {Element} */ (event.target).closest(".reactions button, a[href^='#m']");
  if (control instanceof HTMLButtonElement) {
    withActions((actions) => actions.toggleReaction(control));
  } else if (control instanceof HTMLAnchorElement && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
    event.preventDefault();
    history.replaceState(null, "", control.hash);
    followLink();
  }
});

/** Loads the module once, since two imports may end in any order, and the last jump replaces the others. */
function loadJump() {
  return (jumpModule ??= import("./jump.js"));
}

/** Shows the message in the page's address, if the room is joined. */
function followLink() {
  const [, seq] = location.hash.match(/^#m(\d+)$/) ?? [];
  if (seq !== undefined && current.epoch !== null) {
    later(loadJump(), ({ jump }) => jump(Number(seq)));
  }
}

/** @param {string} words */
function search(words) {
  if (limits.search === undefined) {
    return showStatus("This server cannot search.", { isTemporary: true });
  }
  later(import("./search.js"), ({ open }) => open(words));
}

$("search").addEventListener("click", () => search(""));

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
