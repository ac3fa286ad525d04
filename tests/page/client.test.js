// Tests of static/client.js in node, with a fake WebSocket. client.live.js has those with a server.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, Membership } from "../../static/client.js";

const AUTHOR = "3f9a1c07d25be8604b17";

/** A WebSocket that records what the client sends. */
class FakeSocket extends EventTarget {
  /** @type {FakeSocket} */
  static last;
  readyState = 1;
  sent = [];

  constructor() {
    super();
    FakeSocket.last = this;
  }

  send(data) {
    this.sent.push(...data.split("\n").map((line) => JSON.parse(line)));
  }

  close() {}

  /** Delivers events to the client. */
  receive(...events) {
    const data = events.map((event) => JSON.stringify(event)).join("\n");
    this.dispatchEvent(Object.assign(new Event("message"), { data }));
  }

  /** Returns the commands of these types that the client has sent, without `hello` and `join`. */
  get commands() {
    return this.sent.filter(({ type }) => type !== "hello" && type !== "join");
  }
}

/** Connects a client that has joined the room `tea`, and records what it receives. */
function connect(t, joined, { limits, ...options } = {}) {
  const received = [];
  const client = new Client({
    ...options,
    url: "ws://unused/",
    WebSocket: FakeSocket,
    received: (event) => received.push(event),
  });
  t.after(() => client.disconnect());
  const room = new Membership("tea");
  client.join(room);
  reconnect(client, joined, limits);
  return { client, room, received };
}

function reconnect(client, joined = {}, limits = {}) {
  client.connect();
  const socket = FakeSocket.last;
  socket.dispatchEvent(new Event("open"));
  const [hello, join] = socket.sent;
  const members = { members: [], member_count: 0 };
  socket.receive(
    { type: "welcome", nick: "Ada", author: AUTHOR, limits, ref: hello.ref },
    { type: "joined", room: "tea", epoch: "e", seq: 10, recovered: false, ...members, messages: [], ref: join.ref, ...joined },
  );
  return join;
}

function change(type, seq, more = {}) {
  return { type, room: "tea", seq, at: 0, author: AUTHOR, nick: "Ada", target: 1, ...more };
}

test("every change advances the position after which the client resumes", (t) => {
  const { client } = connect(t);
  for (const [n, type] of ["message", "edited", "deleted", "reacted", "room"].entries()) {
    FakeSocket.last.receive(change(type, 11 + n));
    assert.deepEqual(reconnect(client, { seq: 11 + n, recovered: true }).after, { epoch: "e", seq: 11 + n });
  }
});

test("the changes of a resumed room follow its messages as events", (t) => {
  const { client, room, received } = connect(t);
  received.length = 0;
  const changes = [change("edited", 12, { text: "new" }), change("room", 14, { topic: "Tea" })];
  reconnect(client, { seq: 14, recovered: true, messages: [{ ...change("", 13), text: "hello" }], changes });
  assert.deepEqual(received.map(({ type }) => type), ["welcome", "joined", "edited", "room"]);
  assert.equal(room.seq, 14);
});

test("changes are sent in order, one at a time, with an id", (t) => {
  const { client, room } = connect(t);
  client.say(room, "hello", 7);
  client.edit(room, 1, "new");
  client.delete(room, 2);
  client.react(room, 3, "👍");
  client.react(room, 3, "👍", false);
  client.setRoom(room, "Tea");
  const socket = FakeSocket.last;
  for (let n = 1; n <= 6; n++) {
    assert.equal(socket.commands.length, n);
    const { id, ref } = socket.commands.at(-1);
    socket.receive({ type: "said", room: "tea", seq: 10 + n, id, duplicate: false, ref });
  }
  const ids = new Set(socket.commands.map(({ id }) => id));
  assert.equal(ids.size, 6);
  assert.deepEqual(socket.commands.map(({ id, ref, ...command }) => command), [
    { type: "say", room: "tea", text: "hello", reply_to: 7 },
    { type: "edit", room: "tea", seq: 1, text: "new" },
    { type: "delete", room: "tea", seq: 2 },
    { type: "react", room: "tea", seq: 3, emoji: "👍", on: true },
    { type: "react", room: "tea", seq: 3, emoji: "👍", on: false },
    { type: "set_room", room: "tea", topic: "Tea" },
  ]);
  assert.deepEqual(room.pending, []);
});

test("a change without an answer is sent again after a reconnection, unless it was committed", (t) => {
  const { client, room } = connect(t);
  client.edit(room, 1, "new");
  const [{ id }] = FakeSocket.last.commands;
  reconnect(client, { recovered: true });
  assert.equal(FakeSocket.last.commands[0].id, id);
  const changes = [change("edited", 11, { text: "new", id })];
  reconnect(client, { seq: 11, recovered: true, changes });
  assert.deepEqual(FakeSocket.last.commands, []);
  assert.deepEqual(room.pending, []);
});

test("what refers to a message of another history is not sent", (t) => {
  const { client, room } = connect(t);
  client.delete(room, 1);
  client.edit(room, 2, "new");
  client.react(room, 3, "👍");
  client.say(room, "hello", 7);
  client.setRoom(room, "Tea");
  reconnect(client, { epoch: "another" });
  const socket = FakeSocket.last;
  for (let n = 1; n <= 2; n++) {
    const { id, ref } = socket.commands.at(-1);
    socket.receive({ type: "said", room: "tea", seq: 10 + n, id, duplicate: false, ref });
  }
  assert.deepEqual(socket.commands.map(({ id, ref, ...command }) => command), [
    { type: "say", room: "tea", text: "hello" },
    { type: "set_room", room: "tea", topic: "Tea" },
  ]);
  assert.deepEqual(room.pending, []);
});

test("a rejected change is dropped, a rejected message is kept", (t) => {
  const { client, room, received } = connect(t);
  client.edit(room, 1, "new");
  client.say(room, "hello");
  const socket = FakeSocket.last;
  const reject = (code) => {
    const { ref } = socket.commands.at(-1);
    socket.receive({ type: "error", code, message: "no", temporary: false, ref });
  };
  reject("forbidden");
  assert.deepEqual(received.at(-1).code, "forbidden");
  reject("too_long");
  assert.deepEqual(room.pending.map(({ command, state }) => [command.type, state]), [["say", "failed"]]);
});

test("a change that exceeds the rate limit is sent again", async (t) => {
  const { client, room } = connect(t);
  client.react(room, 1, "👍");
  const socket = FakeSocket.last;
  const [{ id, ref }] = socket.commands;
  socket.receive({ type: "error", code: "rate_limited", message: "slow", temporary: true, retry_after_ms: 5, ref });
  assert.equal(socket.commands.length, 1);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(socket.commands.map((command) => command.id), [id, id]);
});

test("the client sends each read mark once, and receives those of other devices", (t) => {
  const limits = { unread: 1000 };
  const { client, room } = connect(t, { read: 4 }, { limits, key: "a secret of Ada's own" });
  assert.equal(room.readMark, 4);
  for (const seq of [4, 7, 7, 6, 8]) {
    client.read(room, seq);
  }
  FakeSocket.last.receive({ type: "read", room: "tea", seq: 9 });
  FakeSocket.last.receive({ type: "read", room: "tea", seq: 5 });
  assert.equal(room.readMark, 9);
  client.read(room, 9);
  client.read(room, 10);
  const seqs = [7, 8, 10];
  assert.deepEqual(FakeSocket.last.commands, seqs.map((seq) => ({ type: "read", room: "tea", seq })));
  // The position after which the client resumes does not change.
  assert.equal(room.seq, 10);
  FakeSocket.last.receive({ type: "read", room: "tea", seq: 99 });
  assert.equal(room.seq, 10);
  reconnect(client, { epoch: "another" }, limits);
  assert.equal(room.readMark, 0);
});

test("the client sends no read mark to a server without read marks, without a key, or before it has joined", (t) => {
  const key = "a secret of Ada's own";
  for (const options of [{ key }, { limits: { unread: 1000 } }]) {
    const { client, room } = connect(t, {}, options);
    client.read(room, 7);
    assert.deepEqual(FakeSocket.last.commands, []);
  }
  const { client } = connect(t, {}, { key, limits: { unread: 1000 } });
  const other = new Membership("other");
  client.join(other);
  client.read(other, 7);
  assert.deepEqual(FakeSocket.last.commands, []);
});

test("a search returns its answer, and null if the connection ends", async (t) => {
  const { client } = connect(t);
  const found = client.search({ text: "tea", room: "tea", limit: 5 });
  const socket = FakeSocket.last;
  const [{ ref, ...command }] = socket.commands;
  assert.deepEqual(command, { type: "search", text: "tea", room: "tea", limit: 5 });
  const answer = { type: "search", results: [], more: false, ref };
  socket.receive(answer);
  assert.deepEqual(await found, answer);

  const failed = client.search({ text: "" });
  const error = { type: "error", code: "empty", message: "no", temporary: false, ref: socket.commands[1].ref };
  socket.receive(error);
  assert.deepEqual(await failed, error);

  const lost = client.search({ text: "tea" });
  client.disconnect();
  assert.equal(await lost, null);
  assert.equal(await client.search({ text: "tea" }), null);
});
