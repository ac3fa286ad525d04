// The page: which rooms there are, which is shown, what is said in it, and how the server is doing.

import { Client } from "./client.js";
import { offered, share, takesOver } from "./device.js";
import { colour, Log } from "./log.js";
import { Room } from "./room.js";
import { amend, random, recall, remember, ROOT } from "./store.js";
import { $, arrange, element, mentions, write } from "./text.js";

/** @import { Command, EventHandlers, Ending, ErrorEvent, Message, Read, Said, ServerEvent } from "./protocol.js" */

const text = $("text", HTMLTextAreaElement);
const roomName = $("room-name", HTMLInputElement);
const naming = $("naming", HTMLDialogElement);
const ownName = $("name", HTMLInputElement);
const notifies = $("notify", HTMLInputElement);
const themes = $("theme", HTMLSelectElement);

const TYPING_MS = 3_000;
/** How long an error is shown that concerns one action. */
const PASSING_MS = 10_000;
const INCOMPLETE = "The link that opened this page is incomplete. Copy it again.";
/** Members that the server tells by name. */
const MEMBERS_MAX = 100;
const HELP = `/nick NAME – go by another name
/join ROOM – join a room
/leave – leave this one
Alt+↑ and Alt+↓ change the room, Shift+Enter breaks the line.`;

const offer = offered();
if (offer && offer.key !== recall("key", "")) {
  await takesOver(offer, recall("name", ""));
}

/** The secret that makes this browser's windows one person. */
const key = recall("key", null) ?? random(24);
remember("key", key);

/** The room that is shown. At first it is a room without a name. */
let current = new Room("");
/** The name that the server knows. */
let nick = "";
let messageBytes = 4096;
let lastTyping = 0;
let countdown = 0;
let passing = 0;

const log = new Log({
  me: () => nick,
  older: askForOlder,
  seen,
  retry,
});

const address = new URL(`${ROOT}ws`, location.href);
address.protocol = location.protocol === "https:" ? "wss:" : "ws:";

/** @type {Client<Room>} */
const client = new Client({
  url: address,
  key,
  nick: recall("name", ""),
  opened: () => clearInterval(countdown),
  heard,
  closed,
  changed: (room) => room === current && log.showPending(),
});
const { rooms } = client;

// Rooms

function addressed() {
  const [, name] = location.pathname.match(/\/r\/([^/]+)$/) ?? [];
  try {
    return name === undefined ? "lobby" : decodeURIComponent(name);
  } catch {
    return "lobby";
  }
}

/** @param {string} name */
function pathOf(name) {
  return `${ROOT}r/${encodeURIComponent(name)}`;
}

/** @param {string} name */
function normal(name) {
  return name.trim().replace(/^#/, "").normalize("NFKC").toLowerCase();
}

/** @param {string} name */
function roomOf(name) {
  let room = rooms.get(name);
  if (room === undefined) {
    room = new Room(name, /** @type {Record<string, Read>} */ (recall("read", {}))[name]);
    client.join(room);
    rememberRoom(name, true);
  }
  return room;
}

/** Other windows have rooms of their own in the same list. @param {string} name @param {boolean} isJoined */
function rememberRoom(name, isJoined) {
  amend("rooms", /** @type {string[]} */ ([]), (names) => {
    const others = names.filter((other) => other !== name);
    return isJoined ? (names.includes(name) ? names : [...names, name]) : others;
  });
}

/** @param {string} name */
function open(name, { push = true } = {}) {
  const room = roomOf(name);
  if (current === room) {
    return closeDrawers();
  }
  current.draft = text.value;
  current.firstUnread = null;
  current = room;
  markUnread(room);
  if (push) {
    history.pushState(null, "", name === "lobby" ? ROOT : pathOf(name));
  }
  text.value = room.draft;
  grow();
  $("room").textContent = `# ${name}`;
  text.placeholder = `Message #${name}`;
  log.show(room);
  showRooms();
  showMembers();
  showTyping();
  closeDrawers();
  text.focus();
}

/** Where the line is drawn: before the first message that was not read. @param {Room} room */
function markUnread(room) {
  const { read } = room;
  if (room.firstUnread === null && read?.epoch === room.epoch && room.epoch !== null) {
    const messages = room.entries.filter((entry) => "seq" in entry);
    room.firstUnread = messages.find(({ seq, nick: by }) => seq > read.seq && by !== nick)?.seq ?? null;
  }
}

/** @param {Room} room */
function leave(room) {
  client.leave(room);
  rememberRoom(room.name, false);
  if (current === room) {
    open(rooms.keys().next().value ?? "lobby");
  }
  showRooms();
}

/**
 * Gives a function that calls `show` in the next frame, however often it is called until then.
 * @param {() => void} show
 */
function onceAFrame(show) {
  let isDue = false;
  return () => {
    if (!isDue) {
      isDue = true;
      requestAnimationFrame(() => {
        isDue = false;
        show();
      });
    }
  };
}

/** @type {WeakMap<Room, HTMLElement>} The item of each room in the list. It is kept as long as the room. */
const roomItems = new WeakMap();

/** @param {Room} room */
function roomItem(room) {
  const item = roomItems.get(room) ?? element("li", {},
    element("a", {},
      element("span", { class: "room-name", dir: "auto" }),
      element("span", {}, element("span", { "aria-hidden": "true" }), element("span", { class: "unseen" }))));
  roomItems.set(room, item);
  const [link] = item.getElementsByTagName("a");
  const [name, badge] = link.children;
  const [count, words] = badge.children;
  link.href = pathOf(room.name);
  link.ariaCurrent = room === current ? "page" : null;
  write(name, `# ${room.name}`);
  badge.className = room.mentioned ? "badge mention" : "badge";
  badge.toggleAttribute("hidden", room.unread === 0);
  write(count, room.mentioned ? `@ ${room.unread}` : `${room.unread}`);
  write(words, `${room.unread} unread${room.mentioned ? ", you are mentioned" : ""}`);
  return item;
}

const showRoomList = onceAFrame(() => arrange($("room-list"), Array.from(rooms.values(), roomItem)));

function showRooms() {
  showRoomList();
  // A page in the background draws no frames, but shows its title.
  const unread = Array.from(rooms.values()).reduce((sum, room) => sum + room.unread, 0);
  const elsewhere = unread - current.unread;
  write($("show-rooms"), elsewhere > 0 ? `☰ ${elsewhere}` : "☰");
  $("show-rooms").ariaLabel = elsewhere > 0 ? `Rooms, ${elsewhere} unread` : "Rooms";
  document.title = `${unread > 0 ? `(${unread}) ` : ""}#${current.name} · chinwag`;
}

$("room-list").addEventListener("click", (event) => {
  const item = event.target instanceof Element ? event.target.closest("li") : null;
  const room = Array.from(rooms.values()).find((each) => roomItems.get(each) === item);
  if (item !== null && room !== undefined && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
    event.preventDefault();
    open(room.name);
  }
});

const showMembers = onceAFrame(() => {
  const { members, memberCount } = current;
  const list = $("member-list");
  const shown = new Map(Array.from(list.children, (item) => [item.textContent, item]));
  const names = Array.from(members).sort((a, b) => a.localeCompare(b));
  const lines = names.map((name) => [name === nick ? `${name} (you)` : name, colour(name)]);
  if (memberCount > names.length) {
    lines.push([`and ${memberCount - names.length} more`, ""]);
  }
  arrange(list, lines.map(([words, kind]) => shown.get(words) ?? element("li", { class: kind, dir: "auto" }, words)));
  write($("member-count"), memberCount === 1 ? "1 here" : `${memberCount} here`);
  write($("show-members"), `${memberCount} here`);
});

function showTyping() {
  const who = current.whoIsTyping.filter((name) => name !== nick);
  const verb = who.length === 1 ? "is" : "are";
  const names = who.length > 3 ? "Several people" : who.join(" and ");
  $("typing").textContent = who.length === 0 ? "" : `${names} ${verb} typing…`;
}
setInterval(showTyping, 1000);

// What comes from the server

/** @param {string} name */
function called(name) {
  const changed = nick !== name;
  nick = name;
  client.nick = name;
  if (!nick.startsWith("anonymous-")) {
    remember("name", nick);
  }
  $("me").textContent = name;
  changed && current.joined && log.refresh();
}

/** @type {EventHandlers} */
const hearing = {
  welcome({ nick: name, limits }) {
    called(name);
    messageBytes = limits.message_bytes;
    status("");
    if (current.joined) {
      showMembers();
    }
  },

  joined(line, command) {
    const room = rooms.get(line.room);
    if (room === undefined) {
      return;
    }
    if (room === current && addressed() !== room.name) {
      // The server knows the room by another spelling.
      history.replaceState(null, "", room.name === "lobby" ? ROOT : pathOf(room.name));
      $("room").textContent = `# ${room.name}`;
    }
    if (command !== undefined && "room" in command && command.room !== room.name) {
      rememberRoom(command.room, false);
    }
    rememberRoom(room.name, true);
    const before = room.epoch === null ? 0 : room.entries.length;
    const first = room.epoch === null;
    const { read } = room;
    const whole = room.join(line);
    const missed = line.messages.filter(({ seq, nick: by }) => by !== nick && read?.epoch === line.epoch && seq > read.seq);
    if (!line.recovered) {
      room.unread = 0;
      room.mentioned = false;
    }
    if (room !== current || document.hidden) {
      missed.forEach((message) => room.count(message, nick));
    }
    if (first) {
      markUnread(room);
    }
    if (room === current) {
      status("");
      first || !whole ? log.show(room) : log.grown(room.entries.length - before, line.messages.length);
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
    const mine = message.nick === nick;
    const isSeen = room === current && !document.hidden && (log.following || mine);
    if (!isSeen && !mine) {
      room.count(message, nick);
      notify(room, message);
    }
    if (room === current) {
      if (document.hidden && room.firstUnread === null && !mine) {
        room.firstUnread = message.seq;
      }
      log.showPending();
      log.grown();
      showTyping();
    } else {
      room.trim();
    }
    showRooms();
  },

  history(line) {
    const room = rooms.get(line.room);
    const count = room?.prepend(line) ?? 0;
    if (room === current) {
      log.grownAbove(count);
    }
  },

  presence(line) {
    const room = rooms.get(line.room);
    if (room === undefined) {
      return;
    }
    const before = room.entries.at(-1);
    const note = room.presence(line);
    askWhoIsThere(room);
    if (room === current) {
      note === before ? log.changed() : log.grown(1, 0);
      showMembers();
      showTyping();
    }
  },

  renamed(line) {
    const room = rooms.get(line.room);
    if (room === undefined) {
      return;
    }
    if (line.from === nick) {
      // Another window may have renamed this one, or it is news of somebody else from before this
      // one came. Only the answer to `hello` tells.
      client.ask({ type: "hello" });
    }
    const noted = room.renamed(line, line.to === nick);
    askWhoIsThere(room);
    if (room === current) {
      noted && log.grown(1, 0);
      showMembers();
    }
  },

  typing({ room: name, nick: who }) {
    rooms.get(name)?.isTyping(who);
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

/**
 * A command was refused. @param {ErrorEvent} error @param {Command} [command] @param {Room} [room]
 */
function refused({ code, message, suggested, temporary }, command, room) {
  if (command?.type === "say") {
    return;
  }
  if (code === "nick_taken" || code === "bad_nick") {
    askForName(message, suggested);
  } else if (command?.type === "join" && room !== undefined) {
    status(`Cannot join #${command.room}: ${message}.`, { passes: !temporary });
    temporary || leave(room);
  } else if (command?.type === "history" && room !== undefined) {
    room.asking = false;
  } else {
    status(`${message}.`, { passes: true });
  }
}

/** @param {ServerEvent} line @param {Command} [command] @param {Room} [room] */
function heard(line, command, room) {
  if (line.type === "error") {
    return refused(line, command, room);
  }
  /** @type {(line: ServerEvent, command?: Command) => void} */ (hearing[line.type])?.(line, command);
}

/** Asks for the names where those that were told do not add up. @param {Room} room */
function askWhoIsThere({ name, members, memberCount }) {
  if (memberCount <= MEMBERS_MAX && members.size !== memberCount) {
    client.ask({ type: "who", room: name });
  }
}

/** @param {Room} room */
function askForOlder(room) {
  if (!room.asking && client.isWelcome) {
    room.asking = true;
    client.ask({ type: "history", room: room.name, before: room.oldest, limit: 100 }, room);
  }
}

// How the connection is doing

/** Shows a line above the log, for a while or until there is another. @param {string} words */
function status(words, { retry: canRetry = false, passes = false } = {}) {
  clearTimeout(passing);
  passing = passes ? setTimeout(() => status(""), PASSING_MS) : 0;
  write($("status"), words);
  $("retry").hidden = !canRetry;
  $("banner").hidden = words === "";
}

/** @param {Ending} end */
function closed({ reason, next }) {
  for (const room of rooms.values()) {
    room.asking = false;
    room.typing.clear();
  }
  const why = reason ? `: ${reason}.` : ".";
  clearInterval(countdown);
  if (next === null) {
    return status(`Connection closed${why}`, { retry: true });
  }
  const tell = () => {
    const seconds = Math.max(1, Math.ceil((next - Date.now()) / 1000));
    status(`Connection lost${why} Next try in ${seconds} second${seconds === 1 ? "" : "s"}.`, { retry: true });
  };
  tell();
  countdown = setInterval(tell, 1000);
}

$("retry").addEventListener("click", () => {
  clearInterval(countdown);
  status("Connecting…");
  client.connect();
  text.focus();
});

// Saying something

const commands = new Map(/** @type {[string, (argument: string) => void][]} */ ([
  ["nick", (name) => (name ? rename(name) : askForName(""))],
  ["join", (name) => (name ? enter(name) : note("Say which room: /join ROOM"))],
  ["leave", () => leave(current)],
  ["help", () => note(HELP)],
]));

/** @param {string} words */
function note(words) {
  current.entries.push({ note: words });
  log.grown(1, 0);
  log.follow();
}

$("saying").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = text.value.trim();
  if (value === "" || isTooLong()) {
    return;
  }
  const [, command, argument] = value.match(/^\/(\p{L}+)(?:\s+(.*))?$/su) ?? [];
  const obey = commands.get(command?.toLowerCase() ?? "");
  if (command !== undefined && obey === undefined) {
    return note(`There is no command /${command}; /help tells which there are, and // begins a message with /.`);
  }
  text.value = "";
  grow();
  if (obey !== undefined) {
    return obey(argument?.trim() ?? "");
  }
  client.say(current, value.replace(/^\/\//, "/"));
  current.firstUnread = null;
  log.showPending();
  log.follow();
  lastTyping = 0;
});

/** @param {Said} said @param {boolean} again */
function retry(said, again) {
  if (again) {
    client.sayAgain(current, said);
  } else {
    client.settle(current, said.id);
  }
  log.showPending();
  text.focus();
}

function bytes() {
  return new TextEncoder().encode(text.value.trim()).length;
}

function isTooLong() {
  return bytes() > messageBytes;
}

/** The field is as high as what is in it, and tells when there is not much room left. */
function grow() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
  const left = messageBytes - bytes();
  const near = left < messageBytes / 5 ? `${left} bytes left` : "";
  $("room-left").textContent = left < 0 ? `${-left} bytes too long` : near;
  $("send", HTMLButtonElement).disabled = left < 0;
}

text.addEventListener("input", () => {
  grow();
  const now = Date.now();
  if (now - lastTyping > TYPING_MS && text.value.trim() !== "" && !text.value.startsWith("/")) {
    lastTyping = now;
    client.tell({ type: "typing", room: current.name });
  }
});

text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("saying", HTMLFormElement).requestSubmit();
  }
});

addEventListener("keydown", (event) => {
  const step = new Map([["ArrowUp", -1], ["ArrowDown", 1]]).get(event.key);
  const isBusy = document.querySelector("dialog[open]") !== null || event.target instanceof HTMLSelectElement;
  if (event.altKey && step !== undefined && !isBusy) {
    event.preventDefault();
    const names = Array.from(rooms.keys());
    open(names.at((names.indexOf(current.name) + step) % names.length) ?? current.name);
  } else if (event.key === "Escape") {
    closeDrawers();
  }
});

// Joining by hand

/** @param {string} name */
function enter(name) {
  const wantedRoom = normal(name);
  if (/^[\p{L}\p{N}_-][\p{L}\p{N}\p{M}_-]{0,63}$/u.test(wantedRoom)) {
    open(wantedRoom);
  } else {
    status("A room name is 1 to 64 letters, digits, - or _.", { passes: true });
  }
}

$("joining").addEventListener("submit", (event) => {
  event.preventDefault();
  if (roomName.value.trim() !== "") {
    enter(roomName.value);
    roomName.value = "";
  }
});
$("leave").addEventListener("click", () => leave(current));
addEventListener("popstate", () => open(normal(addressed()), { push: false }));

// Under which name

/** @param {string} name */
function nameProblem(name) {
  if (/[:\p{C}\p{Zl}\p{Zp}]/u.test(name)) {
    return "A name has no colon and no invisible characters.";
  }
  return /^anonymous-/i.test(name.normalize("NFKC")) ? "A name does not begin with “anonymous-”." : "";
}

/** @param {string} name */
function rename(name) {
  const problem = nameProblem(name);
  if (problem) {
    return askForName(problem, undefined, name);
  }
  client.rename(name);
  // Rooms that would not have us under the other name.
  for (const room of rooms.values()) {
    if (!room.joined) {
      client.join(room);
    }
  }
}

/** @param {string} problem @param {string} [suggested] */
function askForName(problem, suggested, value = suggested ?? recall("name", "")) {
  const free = suggested === undefined ? "" : ` “${suggested}” is free.`;
  $("name-problem").textContent = problem ? `${problem.replace(/\.$/, "")}.${free}` : "";
  ownName.setAttribute("aria-invalid", String(problem !== ""));
  ownName.value = value;
  if (!naming.open) {
    naming.showModal();
  }
  ownName.select();
}

naming.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = ownName.value.trim();
  const problem = name === "" ? "A name is 1 to 32 characters." : nameProblem(name);
  if (problem) {
    return askForName(problem, undefined, name);
  }
  naming.close();
  rename(name);
});
$("nameless").addEventListener("click", () => naming.close());
naming.addEventListener("close", () => {
  remember("asked", true);
  if (client.isWelcome && !current.joined) {
    status(`You are not in #${current.name}: somebody there goes by your name. Choose another.`);
  }
  text.focus();
});
$("me").addEventListener("click", () => askForName(""));

// On several devices

$("share").addEventListener("click", () => {
  const name = nick.startsWith("anonymous-") ? "" : nick;
  share({ key, name }, current.name === "lobby" ? ROOT : pathOf(current.name));
});

addEventListener("hashchange", async () => {
  const another = offered();
  if (another && another.key !== key && (await takesOver(another, recall("name", "")))) {
    location.reload();
  } else if (another === null) {
    status(INCOMPLETE, { passes: true });
  }
});

addEventListener("storage", ({ key: changed }) => {
  if (changed === "chinwag.key" && recall("key", key) !== key) {
    // As somebody else it would say things in a name that the user does not expect.
    client.disconnect();
    status("You have another name in this browser now. Reload this page to go on.");
  }
});

// Attention

function seen() {
  if (!document.hidden) {
    const changed = current.unread > 0;
    current.readAll();
    rememberRead(current);
    changed && showRooms();
  }
}

/** Of two windows the one that has read further counts. @param {Room} room */
function rememberRead({ name, read }) {
  amend("read", /** @type {Record<string, Read>} */ ({}), (reads) => {
    const known = reads[name];
    const isBehind = read === undefined || (known?.epoch === read.epoch && known.seq >= read.seq);
    return isBehind ? reads : { ...reads, [name]: read };
  });
}

addEventListener("storage", ({ key: changed }) => {
  if (changed === "chinwag.read") {
    const reads = recall("read", /** @type {Record<string, Read>} */ ({}));
    for (const room of rooms.values()) {
      const read = reads[room.name];
      if (read?.epoch === room.epoch && read.seq >= room.seq && room.unread > 0) {
        room.readAll();
      }
    }
    showRooms();
  }
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && log.following) {
    log.show(current);
    seen();
  }
  nameDays();
});

let today = new Date().toDateString();

/** Today is yesterday after midnight. */
function nameDays() {
  const now = new Date().toDateString();
  if (now !== today) {
    today = now;
    log.renameDays();
  }
}
setInterval(nameDays, 60_000);

/** @param {Room} room @param {Message} message */
function notify(room, message) {
  if (notifies.checked && (document.hidden || room !== current) && mentions(message.text, nick)) {
    try {
      const shown = new Notification(`${message.nick} in #${room.name}`, { body: message.text, tag: `${room.name} ${message.seq}` });
      shown.addEventListener("click", () => {
        window.focus();
        open(room.name);
      });
    } catch {
      // Chromium on Android has the constructor, but throws.
    }
  }
}

notifies.addEventListener("change", async () => {
  if (notifies.checked && (await Notification.requestPermission()) !== "granted") {
    notifies.checked = false;
    status("The browser does not let this page notify you.");
  }
  remember("notify", notifies.checked);
});

/** @param {string} name */
function theme(name) {
  document.documentElement.dataset.theme = name;
  themes.value = name;
}

themes.addEventListener("change", () => {
  theme(themes.value);
  remember("theme", themes.value);
});

// Drawers, where the screen is small

/** @param {HTMLElement} button @param {HTMLElement} panel */
function drawer(button, panel) {
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

drawer($("show-rooms"), $("rooms"));
drawer($("show-members"), $("members"));
$("backdrop").addEventListener("click", closeDrawers);

// Start

theme(recall("theme", ""));
notifies.checked = recall("notify", false) && globalThis.Notification?.permission === "granted";
notifies.disabled = !("Notification" in window);
for (const name of /** @type {string[]} */ (recall("rooms", []))) {
  roomOf(name);
}
open(normal(addressed()), { push: false });
if ("WebSocket" in window) {
  status("Connecting…");
  client.connect();
  addEventListener("online", () => client.hurry());
  addEventListener("offline", () => client.offline());
  document.addEventListener("visibilitychange", () => document.hidden || client.hurry());
  if (offer === null) {
    status(INCOMPLETE, { passes: true });
  }
  if (!client.nick && !recall("asked", false)) {
    askForName("");
  }
} else {
  status("Your browser does not support WebSockets, which this chat needs.");
}
