// A client of the protocol `chinwag.v1`. It connects and connects again, resumes rooms where it left
// off, and sends messages in order, each exactly once. It needs a WebSocket and nothing of a page.

/** @import { Command, Ending, ErrorEvent, Said, ServerEvent } from "./protocol.js" */

/** Close codes after which another connection would be closed again. */
const TERMINAL = new Set([1002, 1003, 1007, 1008, 1009, 4003]);

const BACKOFF_MS_MIN = 500;
const BACKOFF_MS_MAX = 20_000;
/** How long a connection may take to be established. */
const CONNECT_MS = 15_000;
/** How long the server may be silent while it has something to answer. */
const ANSWER_MS = 15_000;
/** After how much silence the client asks for a sign of life, as a multiple of that. */
const SILENCE = 3;

/** A room that the client is in, or will be in once it is connected. */
export class Membership {
  /** @type {string | null} The log that `seq` refers to. */
  epoch = null;
  /** The last sequence number that was received. */
  seq = 0;
  joined = false;
  /** @type {Said[]} Own messages that are not in the log yet, in the order in which they are sent. */
  pending = [];

  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }
}

/**
 * @template {Membership} Room
 * @typedef {object} Options
 * @property {string | URL} url the address of the WebSocket
 * @property {string} [key] a secret of 16 to 256 characters: clients with the same key are one user
 * @property {string} [nick] the name to ask for
 * @property {typeof WebSocket} [WebSocket] defaults to the global one
 * @property {number} [answerMs] how long the server may be silent while it has something to answer,
 *   in milliseconds; defaults to 15,000
 * @property {() => void} [opened] called for each new connection, after `hello` and `join` are sent
 * @property {(event: ServerEvent, command?: Command, room?: Room) => void} [heard] called for each
 *   event, with the command that it answers and the room of that command
 * @property {(room: Room) => void} [changed] called when `pending` of a room has changed
 * @property {(end: Ending) => void} [closed] called when a connection has ended or failed
 */

/** @template {Membership} [Room=Membership] */
export class Client {
  /** @type {Map<string, Room>} The rooms by their names. */
  rooms = new Map();
  /** @type {Options<Room>} */
  #options;
  #answerMs;
  /** @type {WebSocket | null} */
  #socket = null;
  #welcome = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #retry;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #deadline;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #check;
  #failures = 0;
  /** The name by which the server knows this client. */
  #known = "";
  #lastHeard = 0;
  #refs = 0;
  /** @type {Map<number, { command: Command, room?: Room, said?: Said, at: number }>} */
  #unanswered = new Map();
  /** Until when no message is sent, since the server has refused one. */
  #heldUntil = 0;

  /** @param {Options<Room>} options */
  constructor(options) {
    this.#options = options;
    this.#answerMs = options.answerMs ?? ANSWER_MS;
    this.nick = options.nick ?? "";
  }

  /** Whether the server has welcomed this client on the present connection. */
  get isWelcome() {
    return this.#welcome;
  }

  /** Connects now, in place of any connection or attempt that there is. */
  connect() {
    this.#drop();
    const Socket = this.#options.WebSocket ?? WebSocket;
    /** @type {WebSocket} */
    let socket;
    try {
      socket = new Socket(this.#options.url, "chinwag.v1");
    } catch (error) {
      return this.#lost(1006, String(error));
    }
    this.#socket = socket;
    /** @type {<E>(act: (event: E) => void) => (event: E) => void} */
    const ifCurrent = (act) => (event) => void (socket === this.#socket && act(event));
    socket.addEventListener("open", ifCurrent(() => this.#opened()));
    socket.addEventListener("message", ifCurrent(({ data }) => this.#received(String(data))));
    // `close` says the same, but some libraries throw an error that nobody listens to.
    socket.addEventListener("error", () => {});
    socket.addEventListener("close", ifCurrent(({ code, reason }) => this.#lost(code, reason)));
    this.#deadline = setTimeout(() => this.#lost(1006, "no answer"), CONNECT_MS);
  }

  /** Ends the connection, and makes no other. */
  disconnect() {
    this.#drop();
  }

  /** Makes sure that the connection works, as after sleep or a change of network. */
  hurry() {
    if (this.#socket === null) {
      this.#retry !== undefined && this.connect();
    } else if (this.#welcome) {
      this.#probe();
    }
  }

  /** The network is gone: the connection is given up at once and tried again later. */
  offline() {
    this.#socket !== null && this.#lost(1006, "no network");
  }

  /** Joins a room now and after each reconnection. @param {Room} room */
  join(room) {
    this.rooms.set(room.name, room);
    this.#welcome && this.#send(this.#joining(room));
  }

  /** Leaves a room, and forgets what was not sent to it. @param {Room} room */
  leave(room) {
    this.rooms.delete(room.name);
    const isJoining = Array.from(this.#unanswered.values()).some(
      (asked) => asked.command.type === "join" && asked.room === room,
    );
    if (room.joined || isJoining) {
      this.ask({ type: "leave", room: room.name });
    }
  }

  /** Goes by another name from now on. @param {string} nick */
  rename(nick) {
    this.nick = nick;
    this.ask({ type: "nick", nick });
  }

  /**
   * Says something, in its turn: after a reconnection, or when the server takes more.
   * @param {Room} room @param {string} text
   */
  say(room, text) {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    /** @type {Said} */
    const said = { id, text, state: "pending" };
    room.pending = [...room.pending, said];
    this.#pump(room);
    return said;
  }

  /** Tries a message again that was refused. @param {Room} room @param {Said} said */
  sayAgain(room, said) {
    said.state = "pending";
    delete said.problem;
    this.#pump(room);
  }

  /** Gives a message up. @param {Room} room @param {string} [id] */
  settle(room, id) {
    const pending = room.pending.filter((said) => said.id !== id);
    if (pending.length < room.pending.length) {
      room.pending = pending;
      this.#options.changed?.(room);
      this.#pump(room);
    }
  }

  /** Sends a command, if the client is connected. @param {Command} command @param {Room} [room] */
  ask(command, room) {
    this.#welcome && this.#send(this.#refer(command, room));
  }

  /** Sends a command that nobody answers. @param {Command} command */
  tell(command) {
    this.#welcome && this.#send(command);
  }

  /** @param {Command} command @param {Room} [room] @param {Said} [said] @returns {Command} */
  #refer(command, room, said) {
    this.#refs += 1;
    this.#unanswered.set(this.#refs, { command, room, said, at: Date.now() });
    return { ...command, ref: this.#refs };
  }

  /** @param {Room} room */
  #joining(room) {
    const { name, epoch, seq } = room;
    const after = epoch === null ? undefined : { epoch, seq };
    return this.#refer({ type: "join", room: name, after }, room);
  }

  /** @param {...Command} commands */
  #send(...commands) {
    if (this.#socket?.readyState === 1 && commands.length > 0) {
      this.#socket.send(commands.map((command) => JSON.stringify(command)).join("\n"));
    }
  }

  #opened() {
    // Alone in its message: compressed together with names of rooms, the key could be guessed from
    // the message's length.
    this.#send(this.#hello());
    this.#send(...Array.from(this.rooms.values(), (room) => this.#joining(room)));
    this.#lastHeard = Date.now();
    this.#check = setInterval(() => this.#checkLife(), this.#answerMs / 3);
    this.#call(() => this.#options.opened?.());
  }

  #hello() {
    // The server gives these names itself, and nobody may ask for one.
    const nick = this.nick.startsWith("anonymous-") ? undefined : this.nick || undefined;
    return this.#refer({ type: "hello", key: this.#options.key, nick });
  }

  /** @param {string} data */
  #received(data) {
    clearTimeout(this.#deadline);
    this.#failures = 0;
    this.#lastHeard = Date.now();
    for (const line of data.split("\n")) {
      // One line that cannot be read, or is not understood, costs no other.
      this.#call(() => this.#heard(JSON.parse(line)));
    }
  }

  /** @param {ServerEvent} event */
  #heard(event) {
    const ref = "ref" in event ? Number(event.ref) : 0;
    const asked = this.#unanswered.get(ref);
    if (asked !== undefined) {
      this.#unanswered.delete(ref);
    }
    if (event.type === "welcome") {
      this.#welcome = true;
      this.#known = event.nick;
    } else if (event.type === "joined" && asked?.room !== undefined) {
      this.#named(asked.room, event.room);
    } else if (event.type === "error" && asked !== undefined) {
      this.#refused(event, asked);
    }
    this.#call(() => this.#options.heard?.(event, asked?.command, asked?.room));
    const room = "room" in event ? this.rooms.get(event.room) : undefined;
    if (room === undefined) {
      return;
    }
    if (event.type === "joined") {
      room.epoch = event.epoch;
      room.seq = event.seq;
      room.joined = true;
      event.messages.forEach(({ id }) => this.settle(room, id));
      this.#pump(room);
    } else if (event.type === "message") {
      room.seq = Math.max(room.seq, event.seq);
      this.settle(room, event.id);
    } else if (event.type === "said") {
      this.settle(room, event.id);
      this.#pump(room);
    }
  }

  /** The server has another spelling of a room's name. @param {Room} room @param {string} name */
  #named(room, name) {
    if (room.name !== name && this.rooms.get(room.name) === room) {
      this.rooms.delete(room.name);
      room.name = name;
      this.rooms.has(name) || this.rooms.set(name, room);
    }
  }

  /** @param {ErrorEvent} error @param {{ command: Command, room?: Room, said?: Said }} asked */
  #refused({ code, message, retry_after_ms = 1000 }, { command, room, said }) {
    if (room !== undefined && said !== undefined) {
      if (code === "rate_limited") {
        // Whatever is to be said waits, so that the order stays.
        this.#heldUntil = Date.now() + retry_after_ms;
        setTimeout(() => {
          // The clock may say that it is a moment too early, and nothing else would try again.
          this.#heldUntil = 0;
          this.rooms.forEach((each) => this.#pump(each));
        }, retry_after_ms);
      } else if (code === "not_joined") {
        room.joined = false;
        this.#send(this.#joining(room));
      } else if (code !== "shutting_down") {
        said.state = "failed";
        said.problem = message;
        this.#options.changed?.(room);
        this.#pump(room);
      }
    } else if (command.type === "hello" && (code === "nick_taken" || code === "bad_nick")) {
      this.nick = "";
      this.#send(this.#hello());
    } else if (command.type === "nick" && this.nick === command.nick) {
      this.nick = this.#known;
    }
  }

  /**
   * Sends the next message of a room. One at a time: a message that is refused is sent again before
   * any that was said after it.
   * @param {Room} room
   */
  #pump(room) {
    const isBusy = Array.from(this.#unanswered.values()).some((asked) => asked.said && asked.room === room);
    const next = room.pending.find(({ state }) => state === "pending");
    if (this.#welcome && room.joined && !isBusy && next !== undefined && Date.now() >= this.#heldUntil) {
      const { id, text } = next;
      this.#send(this.#refer({ type: "say", room: room.name, text, id }, room, next));
    }
  }

  #checkLife() {
    const now = Date.now();
    const silence = now - this.#lastHeard;
    const waits = Array.from(this.#unanswered.values()).some(({ at }) => now - at > this.#answerMs);
    if (silence > this.#answerMs && waits) {
      this.#lost(1006, "no answer");
    } else if (silence > SILENCE * this.#answerMs) {
      this.#probe();
    }
  }

  /** Asks something that is answered at once. */
  #probe() {
    const room = Array.from(this.rooms.values()).find(({ joined }) => joined);
    room !== undefined && this.ask({ type: "who", room: room.name });
  }

  /** @param {number} code @param {string} reason */
  #lost(code, reason) {
    this.#drop();
    if (TERMINAL.has(code)) {
      // What was being sent may be the cause, and would be again.
      for (const room of this.rooms.values()) {
        for (const said of room.pending) {
          said.state = "failed";
          said.problem = reason;
        }
        this.#options.changed?.(room);
      }
      return this.#call(() => this.#options.closed?.({ reason, next: null }));
    }
    // Full jitter: clients that were cut off together do not come back together.
    const delay = Math.random() * Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** this.#failures);
    this.#failures += 1;
    this.#retry = setTimeout(() => this.connect(), delay);
    this.#call(() => this.#options.closed?.({ reason, next: Date.now() + delay }));
  }

  /** Forgets the connection or the attempt that there is. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    clearTimeout(this.#retry);
    clearTimeout(this.#deadline);
    clearInterval(this.#check);
    this.#retry = undefined;
    this.#welcome = false;
    this.#unanswered.clear();
    for (const room of this.rooms.values()) {
      room.joined = false;
    }
  }

  /** Calls what may throw, and reports that. @param {() => void} act */
  #call(act) {
    try {
      act();
    } catch (error) {
      console.error(error);
    }
  }
}
