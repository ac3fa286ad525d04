// A client for the protocol `chinwag.v1` (docs/PROTOCOL.md). It reconnects, resumes each room without
// a gap, and sends messages in order, each exactly once. It needs WebSocket and `crypto`, but no DOM.
//
//     const client = new Client({ url: "wss://chat.example/ws", nick: "Ada", received: console.log });
//     const room = new Membership("lobby");
//     client.join(room);
//     client.connect();
//     client.say(room, "hello");

/** @import { Command, EntryCommand, ErrorEvent, Options, Request, SearchCommand, SearchEvent, ServerEvent, Unconfirmed } from "./protocol.js" */

/** Close codes after which a reconnection would be closed again. */
const TERMINAL = new Set([1002, 1003, 1007, 1008, 1009, 4003]);

const BACKOFF_MS_MIN = 500;
const BACKOFF_MS_MAX = 20_000;
/** Time from the connection attempt to the first event. */
const CONNECT_MS = 15_000;
const ANSWER_MS = 15_000;
/** Silence after which the client sends a command to test the connection, in multiples of `answerMs`. */
const PROBE_AFTER = 3;

/** A room that the client joins. A page may extend it with its own state. */
export class Membership {
  /** @type {string | null} The history that `seq` refers to; null before the first `joined` event. */
  epoch = null;
  /** The last sequence number received. A reconnection resumes after it. */
  seq = 0;
  /** The user's read mark: this or another device has read the room up to this sequence number. */
  readMark = 0;
  /** Whether the server has confirmed the membership on the current connection. */
  joined = false;
  /** @type {Unconfirmed[]} Own messages and changes that the server has not confirmed, oldest first. */
  pending = [];

  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }
}

/** Returns random bytes as hexadecimal digits. @param {number} bytes */
export function randomHex(bytes) {
  const numbers = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(numbers, (number) => number.toString(16).padStart(2, "0")).join("");
}

/**
 * A connection that reconnects until it is ended. It logs errors that callbacks throw.
 * @template {Membership} [Room=Membership]
 */
export class Client {
  /** @type {Map<string, Room>} The rooms by name. Change it with `join` and `leave`. */
  rooms = new Map();
  /** @type {Options<Room>} */
  #options;
  #answerMs;
  /** @type {WebSocket | null} */
  #socket = null;
  #isWelcome = false;
  /** Whether the server keeps read marks of this user. */
  #keepsReadMarks = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #retryTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #connectTimer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #checkTimer;
  #failures = 0;
  /** The name that the server confirmed last. */
  #serverNick = "";
  #lastReceived = 0;
  #lastRef = 0;
  /** @type {Map<number, Request<Room>>} */
  #unanswered = new Map();
  /** When the rate limit allows the next message, in milliseconds since 1970. */
  #pausedUntil = 0;

  /** @param {Options<Room>} options */
  constructor(options) {
    this.#options = options;
    this.#answerMs = options.answerMs ?? ANSWER_MS;
    /** The name to ask for at the next connection; "" lets the server choose. */
    this.nick = options.nick ?? "";
  }

  /** Whether the client is connected and the server has answered `hello`. */
  get isWelcome() {
    return this.#isWelcome;
  }

  /** Connects now. Replaces the current connection or attempt, if any. */
  connect() {
    this.#reset();
    const Socket = this.#options.WebSocket ?? WebSocket;
    /** @type {WebSocket} */
    let socket;
    try {
      socket = new Socket(this.#options.url, "chinwag.v1");
    } catch (error) {
      return this.#closed(1006, String(error));
    }
    this.#socket = socket;
    /** @type {<E>(handle: (event: E) => void) => (event: E) => void} */
    const ifCurrent = (handle) => (event) => void (socket === this.#socket && handle(event));
    socket.addEventListener("open", ifCurrent(() => this.#opened()));
    socket.addEventListener("message", ifCurrent(({ data }) => this.#received(String(data))));
    // The `close` event follows and is enough, but the package `ws` throws an error without listeners.
    socket.addEventListener("error", () => {});
    socket.addEventListener("close", ifCurrent(({ code, reason }) => this.#closed(code, reason)));
    this.#connectTimer = setTimeout(() => this.#closed(1006, "no response from the server"), CONNECT_MS);
  }

  /** Disconnects, and does not reconnect until `connect` is called. */
  disconnect() {
    this.#reset();
  }

  /** Reconnects without delay, or tests the connection. Call it after sleep or a network change. */
  checkConnection() {
    if (this.#socket === null) {
      this.#retryTimer !== undefined && this.connect();
    } else if (this.#isWelcome) {
      this.#probe();
    }
  }

  /** Closes the connection and retries later. Call it when the network is lost. */
  offline() {
    this.#socket !== null && this.#closed(1006, "no network");
  }

  /** Joins a room, now and after each reconnection. @param {Room} room */
  join(room) {
    this.rooms.set(room.name, room);
    this.#isWelcome && this.#send(this.#joinCommand(room));
  }

  /** Leaves a room. Its pending messages are not sent. @param {Room} room */
  leave(room) {
    this.rooms.delete(room.name);
    const isJoining = Array.from(this.#unanswered.values()).some(
      (request) => request.command.type === "join" && request.room === room,
    );
    if (room.joined || isJoining) {
      this.ask({ type: "leave", room: room.name });
    }
  }

  /** Asks for another name, now and after each reconnection. @param {string} nick */
  rename(nick) {
    this.nick = nick;
    this.ask({ type: "nick", nick });
  }

  /**
   * Adds a message to the room's `pending`, and sends it after earlier ones, as soon as the connection
   * and the rate limit allow. `changed` is called once the server confirms it.
   * @param {Room} room @param {string} text @param {number} [replyTo] the `seq` of a message
   */
  say(room, text, replyTo) {
    return this.#add(room, { type: "say", room: room.name, text, reply_to: replyTo });
  }

  /**
   * Replaces the text of an own message. Messages and the changes by `edit`, `delete`, `react` and
   * `setRoom` are sent in order. If the server rejects a change, `received` is called with the error.
   * @param {Room} room @param {number} seq the message @param {string} text
   */
  edit(room, seq, text) {
    this.#add(room, { type: "edit", room: room.name, seq, text });
  }

  /** Deletes an own message. @param {Room} room @param {number} seq */
  delete(room, seq) {
    this.#add(room, { type: "delete", room: room.name, seq });
  }

  /** Adds or removes a reaction. @param {Room} room @param {number} seq @param {string} emoji */
  react(room, seq, emoji, on = true) {
    this.#add(room, { type: "react", room: room.name, seq, emoji, on });
  }

  /** Sets the topic of a room; "" removes it. @param {Room} room @param {string} topic */
  setRoom(room, topic) {
    this.#add(room, { type: "set_room", room: room.name, topic });
  }

  /**
   * Tells the server that the user has read a room up to `seq`, unless it knows, or keeps no read marks.
   * If the connection breaks, the mark may be lost. `readMark` has the server's value after each `joined`.
   * @param {Room} room @param {number} seq
   */
  read(room, seq) {
    if (this.#keepsReadMarks && room.joined && seq > room.readMark) {
      room.readMark = seq;
      this.tell({ type: "read", room: room.name, seq });
    }
  }

  /** @template {EntryCommand} C @param {Room} room @param {C} command */
  #add(room, command) {
    /** @type {Unconfirmed<C>} */
    const said = { id: randomHex(12), command, state: "pending" };
    room.pending = [...room.pending, said];
    this.#sendNext(room);
    return said;
  }

  /** Sends a message again that has failed. @param {Room} room @param {Unconfirmed} said */
  sayAgain(room, said) {
    said.state = "pending";
    delete said.problem;
    this.#sendNext(room);
  }

  /** Removes a message or change from `pending` that is confirmed or discarded. @param {Room} room @param {string} [id] */
  settle(room, id) {
    const pending = room.pending.filter((said) => said.id !== id);
    if (pending.length < room.pending.length) {
      room.pending = pending;
      this.#options.changed?.(room);
      this.#sendNext(room);
    }
  }

  /**
   * Sends a command, if connected. `received` is called with the answer, the command and `room`.
   * @param {Command} command @param {Room} [room]
   */
  ask(command, room) {
    this.#isWelcome && this.#send(this.#withRef(command, room));
  }

  /**
   * Searches messages. Returns the answer: a `search` event, an error, or null without a connection.
   * @param {Omit<SearchCommand, "type" | "ref">} query @returns {Promise<SearchEvent | ErrorEvent | null>}
   */
  search(query) {
    return new Promise((resolve) => {
      if (!this.#isWelcome) {
        return resolve(null);
      }
      const command = this.#withRef({ type: "search", ...query });
      const request = this.#unanswered.get(this.#lastRef);
      if (request !== undefined) {
        request.answered = (event) => resolve(event?.type === "search" || event?.type === "error" ? event : null);
      }
      this.#send(command);
    });
  }

  /** Sends a command that needs no answer, if connected. @param {Command} command */
  tell(command) {
    this.#isWelcome && this.#send(command);
  }

  /** @param {Command} command @param {Room} [room] @param {Unconfirmed} [said] @returns {Command} */
  #withRef(command, room, said) {
    this.#lastRef += 1;
    this.#unanswered.set(this.#lastRef, { command, room, said, at: Date.now() });
    return { ...command, ref: this.#lastRef };
  }

  /** @param {Room} room */
  #joinCommand(room) {
    const { name, epoch, seq } = room;
    const after = epoch === null ? undefined : { epoch, seq };
    return this.#withRef({ type: "join", room: name, after }, room);
  }

  /** @param {...Command} commands */
  #send(...commands) {
    if (this.#socket?.readyState === 1 && commands.length > 0) {
      this.#socket.send(commands.map((command) => JSON.stringify(command)).join("\n"));
    }
  }

  #opened() {
    // In a frame of its own: if the key were compressed together with room names, the length of the
    // frame would leak information about it.
    this.#send(this.#helloCommand());
    this.#send(...Array.from(this.rooms.values(), (room) => this.#joinCommand(room)));
    this.#lastReceived = Date.now();
    this.#checkTimer = setInterval(() => this.#checkTimeouts(), this.#answerMs / 3);
    this.#callSafely(() => this.#options.opened?.());
  }

  #helloCommand() {
    // Only the server may assign these names.
    const nick = this.nick.startsWith("anonymous-") ? undefined : this.nick || undefined;
    return this.#withRef({ type: "hello", key: this.#options.key, nick });
  }

  /** @param {string} data */
  #received(data) {
    clearTimeout(this.#connectTimer);
    this.#failures = 0;
    this.#lastReceived = Date.now();
    for (const line of data.split("\n")) {
      // An error in one line must not prevent the processing of the others.
      this.#callSafely(() => this.#handleEvent(JSON.parse(line)));
    }
  }

  /** @param {ServerEvent} event */
  #handleEvent(event) {
    const ref = "ref" in event ? Number(event.ref) : 0;
    const request = this.#unanswered.get(ref);
    if (request !== undefined) {
      this.#unanswered.delete(ref);
    }
    if (event.type === "welcome") {
      this.#isWelcome = true;
      this.#serverNick = event.nick;
      this.#keepsReadMarks = event.limits.unread !== undefined && this.#options.key !== undefined;
    } else if (event.type === "joined" && request?.room !== undefined) {
      this.#renameRoom(request.room, event.room);
      this.#checkEpoch(request.room, event.epoch);
    } else if (event.type === "error" && request !== undefined) {
      this.#failed(event, request);
    }
    this.#callSafely(() => this.#options.received?.(event, request?.command, request?.room));
    request?.answered?.(event);
    const room = "room" in event ? this.rooms.get(event.room) : undefined;
    if (room === undefined) {
      return;
    }
    if (event.type === "joined") {
      room.epoch = event.epoch;
      room.seq = event.seq;
      room.joined = true;
      room.readMark = event.read ?? 0;
      event.messages.forEach(({ id }) => this.settle(room, id));
      event.changes?.forEach((change) => this.#handleEvent(change));
      this.#sendNext(room);
    } else if (event.type === "said") {
      this.settle(room, event.id);
      this.#sendNext(room);
    } else if (event.type === "read") {
      room.readMark = Math.max(room.readMark, event.seq);
    } else if ("seq" in event) {
      room.seq = Math.max(room.seq, event.seq);
      this.settle(room, event.id);
    }
  }

  /** Adopts the server's spelling of a room name. @param {Room} room @param {string} name */
  #renameRoom(room, name) {
    if (room.name !== name && this.rooms.get(room.name) === room) {
      this.rooms.delete(room.name);
      room.name = name;
      this.rooms.has(name) || this.rooms.set(name, room);
    }
  }

  /** Drops references to messages of another history, whose numbers differ. @param {Room} room @param {string} epoch */
  #checkEpoch(room, epoch) {
    if (room.epoch !== null && room.epoch !== epoch) {
      room.pending = room.pending.filter(({ command }) => !("seq" in command));
      room.pending.forEach(({ command }) => "reply_to" in command && delete command.reply_to);
    }
  }

  /** @param {ErrorEvent} error @param {Request<Room>} request */
  #failed({ code, message, retry_after_ms = 1000 }, { command, room, said }) {
    if (room !== undefined && said !== undefined) {
      if (code === "rate_limited") {
        // All messages wait, so that they stay in order.
        this.#pausedUntil = Date.now() + retry_after_ms;
        setTimeout(() => {
          // `Date.now()` may still be slightly before `#pausedUntil`, and no other timer follows.
          this.#pausedUntil = 0;
          this.rooms.forEach((each) => this.#sendNext(each));
        }, retry_after_ms);
      } else if (code === "not_joined") {
        room.joined = false;
        this.#send(this.#joinCommand(room));
      } else if (code !== "shutting_down") {
        this.#fail(room, said, message);
        this.#options.changed?.(room);
        this.#sendNext(room);
      }
    } else if (command.type === "hello" && (code === "nick_taken" || code === "bad_nick")) {
      this.nick = "";
      this.#send(this.#helloCommand());
    } else if (command.type === "nick" && this.nick === command.nick) {
      this.nick = this.#serverNick;
    }
  }

  /**
   * Keeps a failed message, so that it can be sent again, and drops a failed change.
   * @param {Room} room @param {Unconfirmed} said @param {string} problem
   */
  #fail(room, said, problem) {
    said.state = "failed";
    said.problem = problem;
    room.pending = room.pending.filter((other) => other !== said || said.command.type === "say");
  }

  /**
   * Sends the next message or change of a room, unless one is unanswered: a rejected one must be sent
   * again before later ones.
   * @param {Room} room
   */
  #sendNext(room) {
    const isBusy = Array.from(this.#unanswered.values()).some((request) => request.said && request.room === room);
    const next = room.pending.find(({ state }) => state === "pending");
    if (this.#isWelcome && room.joined && !isBusy && next !== undefined && Date.now() >= this.#pausedUntil) {
      const { id, command } = next;
      // The server may spell the name of the room differently.
      this.#send(this.#withRef({ ...command, room: room.name, id }, room, next));
    }
  }

  #checkTimeouts() {
    const now = Date.now();
    const silence = now - this.#lastReceived;
    const isWaiting = Array.from(this.#unanswered.values()).some(({ at }) => now - at > this.#answerMs);
    if (silence > this.#answerMs && isWaiting) {
      this.#closed(1006, "no response from the server");
    } else if (silence > PROBE_AFTER * this.#answerMs) {
      this.#probe();
    }
  }

  /** Sends a command that the server answers immediately. */
  #probe() {
    const room = Array.from(this.rooms.values()).find(({ joined }) => joined);
    room !== undefined && this.ask({ type: "who", room: room.name });
  }

  /** @param {number} code @param {string} reason */
  #closed(code, reason) {
    this.#reset();
    if (TERMINAL.has(code)) {
      // A pending message may be the cause, so none is sent again without the user's decision.
      for (const room of this.rooms.values()) {
        room.pending.forEach((said) => this.#fail(room, said, reason));
        this.#options.changed?.(room);
      }
      return this.#callSafely(() => this.#options.closed?.({ reason, next: null }));
    }
    // Full jitter: clients that were disconnected together must not reconnect together.
    const delay = Math.random() * Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** this.#failures);
    this.#failures += 1;
    this.#retryTimer = setTimeout(() => this.connect(), delay);
    this.#callSafely(() => this.#options.closed?.({ reason, next: Date.now() + delay }));
  }

  /** Closes the connection or attempt, and resets its state. */
  #reset() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#connectTimer);
    clearInterval(this.#checkTimer);
    this.#retryTimer = undefined;
    this.#isWelcome = false;
    this.#unanswered.forEach(({ answered }) => answered?.(null));
    this.#unanswered.clear();
    for (const room of this.rooms.values()) {
      room.joined = false;
    }
  }

  /** @param {() => void} call */
  #callSafely(call) {
    try {
      call();
    } catch (error) {
      console.error(error);
    }
  }
}
