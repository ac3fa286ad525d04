// One connection, made again and again until that has no sense any more.

import { ROOT } from "./store.js";

/** @import { Command, Ending, ServerEvent } from "./protocol.js" */

/** Close codes after which trying again would only fail again. */
const TERMINAL = new Set([1002, 1003, 1007, 1008, 1009, 4003]);
const BACKOFF_MS_MIN = 500;
const BACKOFF_MS_MAX = 20_000;

export class Connection {
  /** @type {WebSocket | null} */
  #socket = null;
  #timer = 0;
  #failures = 0;
  #ended = false;

  /**
   * `opened()` is called with each new connection, `heard(line)` with each line, and
   * `closed({reason, next})` when one has ended: `next` is when the next is tried, if it is.
   * @param {{ opened(): void, heard(line: ServerEvent): void, closed(end: Ending): void }} calls
   */
  constructor({ opened, heard, closed }) {
    this.opened = opened;
    this.heard = heard;
    this.closed = closed;
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#ended = false;
    const address = new URL(`${ROOT}ws`, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(address, "chinwag.v1");
    this.#socket = socket;
    socket.addEventListener("open", () => this.opened());
    socket.addEventListener("message", ({ data }) => {
      this.#failures = 0;
      for (const line of data.split("\n")) {
        this.heard(JSON.parse(line));
      }
    });
    socket.addEventListener("close", (event) => this.#lost(event));
  }

  /** Sends lines in one frame, if anybody is there to take them. @param {...Command} lines */
  send(...lines) {
    if (this.isOpen && lines.length > 0) {
      this.#socket?.send(lines.map((line) => JSON.stringify(line)).join("\n"));
    }
  }

  /** @param {CloseEvent} event */
  #lost({ code, reason }) {
    this.#socket = null;
    if (TERMINAL.has(code)) {
      this.#ended = true;
      return this.closed({ reason, next: null });
    }
    // Full jitter, so that those who were cut together do not come back together.
    const delay = Math.random() * Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** this.#failures);
    this.#failures += 1;
    this.#timer = setTimeout(() => this.connect(), delay);
    this.closed({ reason, next: Date.now() + delay });
  }

  /** Something has changed: there is no sense in waiting on. */
  #hurry() {
    if (this.#timer !== 0 && !this.#ended) {
      this.connect();
    }
  }
}
