// Searches while the user types: waits for a pause, sends one command at a time, and ignores the answers
// to earlier queries. It does not use the DOM.

/** @import { SearchCommand, ServerEvent } from "./protocol.js" */

/** @typedef {Omit<SearchCommand, "type" | "ref" | "before" | "limit">} Query */

const PAUSE_MS = 300;
const PAGE = 20;

export class Finder {
  /** @type {Query | null} The query whose results are shown or awaited. */
  #query = null;
  /** @type {SearchCommand | null} The next command, while another one is unanswered. */
  #next = null;
  #isBusy = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {(command: SearchCommand) => Promise<ServerEvent | undefined>} request sends a command
   * @param {(answer: ServerEvent | undefined, isMore: boolean) => void} answered receives the answer to
   *   the latest query; undefined if there is no connection
   */
  constructor(request, answered) {
    this.request = request;
    this.answered = answered;
  }

  /** Searches after a pause, unless another query replaces this one. @param {Query} query */
  search(query, pauseMs = PAUSE_MS) {
    this.cancel();
    this.#query = query;
    this.#timer = setTimeout(() => this.#send({ type: "search", ...query, limit: PAGE }), pauseMs);
  }

  /** Asks for older results, unless an answer is awaited. @param {number} before */
  more(before) {
    this.#query && !this.#isBusy && this.#send({ type: "search", ...this.#query, before, limit: PAGE });
  }

  /** Discards the query. Later answers are ignored. */
  cancel() {
    clearTimeout(this.#timer);
    this.#query = null;
    this.#next = null;
  }

  /** @param {SearchCommand} command */
  async #send(command) {
    if (this.#isBusy) {
      this.#next = command;
      return;
    }
    const query = this.#query;
    this.#isBusy = true;
    const answer = await this.request(command);
    this.#isBusy = false;
    if (this.#query === query && query !== null) {
      this.answered(answer, command.before !== undefined);
    }
    const next = this.#next;
    this.#next = null;
    next && this.#send(next);
  }
}
