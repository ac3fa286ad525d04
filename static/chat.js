// The page: one WebSocket, one log that keeps your place, one field that never loses what you typed.

const $ = (id) => document.getElementById(id);
const log = $("log");
const text = $("text");
const name = $("name");

/** Close codes after which trying again would only fail again. */
const TERMINAL = new Set([1002, 1003, 1007, 1008, 1009, 4003]);
const BACKOFF_MS_MIN = 500;
const BACKOFF_MS_MAX = 20_000;
/** Lines kept in the page; more while somebody reads further up. */
const LINES_MAX = 2_000;
const LINES_MAX_READING = 10_000;
const HISTORY = 50;

const room = decodeURIComponent(location.pathname.match(/^\/r\/([^/]+)/)?.[1] ?? "lobby");
const stored = {
  get: () => {
    try {
      return localStorage.getItem("name") ?? "";
    } catch {
      return "";
    }
  },
  set: (value) => {
    try {
      localStorage.setItem("name", value);
    } catch {
      // A browser that stores nothing asks for the name again next time.
    }
  },
};

let socket = null;
let failures = 0;
let timer = 0;
let sawHistory = false;
let following = true;
let lastSent = "";

// The log

function isAtBottom() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 4;
}

function follow() {
  following = true;
  $("newer").hidden = true;
  log.scrollTop = log.scrollHeight;
}

function append(lines) {
  const fragment = document.createDocumentFragment();
  for (const line of lines) {
    const p = document.createElement("p");
    p.textContent = line;
    fragment.append(p);
  }
  log.append(fragment);
  const excess = log.childElementCount - (following ? LINES_MAX : LINES_MAX_READING);
  for (let i = 0; i < excess; i++) {
    log.firstElementChild.remove();
  }
  if (following) {
    follow();
  } else {
    $("newer").hidden = false;
  }
}

log.addEventListener("scroll", () => {
  following = isAtBottom();
  if (following) {
    $("newer").hidden = true;
  }
});
new ResizeObserver(() => following && follow()).observe(log);
$("newer").addEventListener("click", () => {
  follow();
  text.focus();
});

// The connection

function address() {
  const url = new URL("/ws", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("room", room);
  if (name.value) {
    url.searchParams.set("nick", name.value);
  }
  // Asked for once: after a reconnect the lines are here already.
  if (!sawHistory) {
    url.searchParams.set("history", String(HISTORY));
  }
  return url;
}

function isOpen() {
  return socket !== null && socket.readyState === WebSocket.OPEN;
}

function say(status) {
  $("status").textContent = status;
  $("banner").hidden = !status;
  $("send").disabled = !isOpen();
}

function connect() {
  clearTimeout(timer);
  const current = new WebSocket(address());
  socket = current;
  $("retry").disabled = true;
  current.addEventListener("open", () => {
    failures = 0;
    sawHistory = true;
    say("");
  });
  current.addEventListener("message", (event) => append(event.data.split("\n")));
  current.addEventListener("close", (event) => {
    // Of a connection that was replaced on purpose nothing needs to be said.
    if (socket === current) {
      closed(event);
    }
  });
}

function closed({ code, reason }) {
  $("retry").disabled = false;
  const why = reason ? `: ${reason}.` : ".";
  if (TERMINAL.has(code)) {
    if (code === 1009 && !text.value) {
      text.value = lastSent;
    }
    say(`Connection closed${why}`);
    return;
  }
  // Full jitter, so that those who were cut together do not come back together.
  const delay = Math.random() * Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** failures);
  failures += 1;
  const seconds = Math.ceil(delay / 1000);
  say(`Connection closed${why} Next try in ${seconds} second${seconds === 1 ? "" : "s"}.`);
  timer = setTimeout(connect, delay);
}

function reconnect() {
  const old = socket;
  connect();
  old?.close();
}

$("retry").addEventListener("click", () => {
  connect();
  text.focus();
});
addEventListener("online", () => isOpen() || connect());

// Saying something, and under which name

$("saying").addEventListener("submit", (event) => {
  event.preventDefault();
  if (isOpen() && text.value.trim()) {
    lastSent = text.value;
    socket.send(text.value);
    text.value = "";
    follow();
  }
  text.focus();
});

function nameProblem(wanted) {
  if (/[:\p{C}\p{Zl}\p{Zp}]/u.test(wanted)) {
    return "A name has no colon and no invisible characters.";
  }
  if (/^anonymous-/i.test(wanted.normalize("NFKC"))) {
    return "A name does not begin with “anonymous-”.";
  }
  return "";
}

name.addEventListener("change", () => {
  name.value = name.value.trim();
  const problem = nameProblem(name.value);
  $("name-problem").textContent = problem;
  name.setAttribute("aria-invalid", String(Boolean(problem)));
  if (!problem) {
    stored.set(name.value);
    reconnect();
  }
});
$("naming").addEventListener("submit", (event) => {
  event.preventDefault();
  text.focus();
});

// Start

document.title = `${room} · chinwag`;
$("room").textContent = `# ${room}`;
name.value = stored.get();
if ("WebSocket" in window) {
  say("");
  connect();
} else {
  $("retry").hidden = true;
  say("Your browser does not support WebSockets, which this chat needs.");
}
