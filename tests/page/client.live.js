// Tests of static/client.js against the server at $CHINWAG_URL, which has the default limits.
// tests/it/js_client.rs starts both.

import assert from "node:assert/strict";
import { once } from "node:events";
import net from "node:net";
import { afterEach, beforeEach, test } from "node:test";
import WebSocket from "ws";
import { Client, Membership } from "../../static/client.js";

const SERVER = new URL(process.env.CHINWAG_URL);
const DEADLINE_MS = 30_000;

/** A TCP proxy between clients and the server that can drop data and connections. */
class FaultyProxy {
  pairs = new Set();
  isFrozen = false;
  /** The number of bytes that the server has sent. */
  bytesReceived = 0;

  static async start() {
    const proxy = new FaultyProxy();
    proxy.listener = net.createServer((client) => proxy.accept(client)).listen(0, "127.0.0.1");
    await once(proxy.listener, "listening");
    proxy.url = `ws://127.0.0.1:${proxy.listener.address().port}/ws`;
    return proxy;
  }

  accept(client) {
    const server = net.connect(Number(SERVER.port), SERVER.hostname);
    const pair = { client, server };
    this.pairs.add(pair);
    server.on("data", (data) => {
      this.bytesReceived += data.length;
    });
    for (const [from, to] of [[client, server], [server, client]]) {
      from.on("data", (data) => this.isFrozen || to.write(data));
      from.on("error", () => {});
      from.on("close", () => {
        to.destroy();
        this.pairs.delete(pair);
      });
    }
  }

  /** Closes all connections. */
  disconnect() {
    this.pairs.forEach(({ client }) => client.destroy());
  }

  stop() {
    this.listener.close();
    this.disconnect();
  }
}

let proxy;
let clients;
// Each test has its own proxy and clients, so that clients of another test do not disturb it.
beforeEach(async () => {
  proxy = await FaultyProxy.start();
  clients = [];
});
afterEach(() => {
  clients.forEach((client) => client.disconnect());
  proxy.stop();
});

let lastName = 0;
function unique(prefix) {
  lastName += 1;
  return `${prefix}-${process.pid}-${lastName}`;
}

/** Connects a client that records its events and the ends of its connections. */
async function connect(options = {}) {
  const client = new Client({
    url: proxy.url,
    WebSocket,
    key: unique("the key of a client"),
    received: (event, command, room) => client.received.push({ event, command, room }),
    closed: (end) => client.ends.push(end),
    ...options,
  });
  Object.assign(client, { received: [], ends: [] });
  clients.push(client);
  client.connect();
  await until("a welcome", () => client.isWelcome);
  return client;
}

async function join(client, name) {
  const room = new Membership(name);
  client.join(room);
  await until(`joining ${name}`, () => room.joined);
  return room;
}

async function until(what, isMet) {
  const end = Date.now() + DEADLINE_MS;
  while (!isMet()) {
    assert.ok(Date.now() < end, `timed out waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The texts of all messages that a client has received. */
function texts(client) {
  const messages = client.received.flatMap(({ event }) =>
    event.type === "joined" ? event.messages : event.type === "message" ? [event] : []);
  return messages.map(({ text }) => text);
}

test("80 quick messages at the default limits arrive in order, each once", async () => {
  const [ada, ben] = [await connect(), await connect()];
  const name = unique("queue");
  const room = await join(ada, name);
  await join(ben, name);
  const said = Array.from({ length: 80 }, (_, n) => `message ${n}`);
  said.forEach((text) => ada.say(room, text));
  await until("80 messages", () => texts(ben).length >= 80 && room.pending.length === 0);
  assert.deepEqual(texts(ben), said);
});

test("a disconnected client resumes without a gap and sends its pending messages once", async () => {
  const [ada, ben] = [await connect(), await connect()];
  const name = unique("resume");
  const [room, other] = [await join(ada, name), await join(ben, name)];
  ada.say(room, "before");
  await until("a message", () => texts(ben).length === 1);
  proxy.disconnect();
  await until("the end of both", () => ada.ends.length > 0 && ben.ends.length > 0);
  ada.say(room, "while away 1");
  ada.say(room, "while away 2");
  ben.say(other, "by Ben");
  await until("all messages", () => texts(ada).length === 4 && texts(ben).length === 4);
  for (const client of [ada, ben]) {
    assert.deepEqual(texts(client).toSorted(), ["before", "by Ben", "while away 1", "while away 2"]);
  }
  const own = texts(ben).filter((text) => text.startsWith("while"));
  assert.deepEqual(own, ["while away 1", "while away 2"]);
});

/** The changes that a client has received, without `room` and `at`. */
function changes(client) {
  const types = ["edited", "deleted", "reacted", "room"];
  const found = client.received.map(({ event }) => event).filter(({ type }) => types.includes(type));
  return found.map(({ room, at, id, ...change }) => change);
}

/** Sends a message, and returns its sequence number. */
async function say(client, room, text, replyTo) {
  const { id } = client.say(room, text, replyTo);
  const said = () => client.received.find(({ event }) => event.type === "message" && event.id === id);
  await until(text, () => said() !== undefined);
  return said().event.seq;
}

/** The public identity of a client. */
function authorOf(client) {
  return client.received.find(({ event }) => event.type === "welcome").event.author;
}

test("edits, deletions, reactions, replies and topics reach all members", async () => {
  const [ada, ben] = [await connect(), await connect()];
  const name = unique("changes");
  const [room, other] = [await join(ada, name), await join(ben, name)];
  const [first, second] = [await say(ada, room, "helo"), await say(ada, room, "a mistake")];
  const reply = await say(ben, other, "hi", first);
  ada.edit(room, first, "hello");
  ada.delete(room, second);
  await until("the changes", () => changes(ben).length === 2 && room.pending.length === 0);
  ben.react(other, first, "👍");
  await until("a reaction", () => changes(ada).length === 3);
  ada.react(room, first, "👍");
  await until("a reaction", () => changes(ada).length === 4);
  ben.react(other, first, "👍", false);
  ben.setRoom(other, "Green or black?");
  await until("all changes", () => [ada, ben].every((client) => changes(client).length === 6));
  assert.deepEqual(changes(ada), changes(ben));
  const [edited, deleted, ...others] = changes(ada);
  assert.deepEqual([edited.target, edited.text, edited.author], [first, "hello", authorOf(ada)]);
  assert.deepEqual([deleted.type, deleted.target], ["deleted", second]);
  assert.deepEqual(others.map(({ on, count, topic }) => [on, count, topic]), [
    [true, 1, undefined],
    [true, 2, undefined],
    [false, 1, undefined],
    [undefined, undefined, "Green or black?"],
  ]);
  await until("the answers", () => room.pending.length === 0 && other.pending.length === 0);

  const cleo = await connect();
  await join(cleo, name);
  const { event } = cleo.received.find(({ event: { type } }) => type === "joined");
  assert.equal(event.topic, "Green or black?");
  const state = event.messages.map(({ seq, text, deleted, edited_at, reactions, reply_to, quote }) =>
    ({ seq, text, deleted, isEdited: edited_at !== undefined, reactions, reply_to, quote: quote?.text }));
  const none = { deleted: undefined, isEdited: false, reactions: undefined, reply_to: undefined, quote: undefined };
  assert.deepEqual(state, [
    { ...none, seq: first, text: "hello", isEdited: true, reactions: { "👍": 1 } },
    { ...none, seq: second, text: "", deleted: true },
    { ...none, seq: reply, text: "hi", reply_to: first, quote: "hello" },
  ]);
});

test("a disconnected client receives missed changes, and its own take effect once", async () => {
  const [ada, ben] = [await connect(), await connect()];
  const name = unique("missed");
  const [room, other] = [await join(ada, name), await join(ben, name)];
  const first = await say(ada, room, "first");
  await until("the message", () => texts(ben).length === 1);
  ben.react(other, first, "👍");
  await until("a reaction", () => changes(ada).length === 1);
  // Ada resumes after the reaction, and does not receive it again.
  ada.offline();
  ben.react(other, first, "🎉");
  ben.setRoom(other, "While away");
  ada.edit(room, first, "edited while away");
  assert.deepEqual(room.pending.map(({ command }) => command.type), ["edit"]);
  await until("all changes", () => [ada, ben].every((client) => changes(client).length === 4));
  await until("the answers", () => room.pending.length === 0 && other.pending.length === 0);
  const kinds = changes(ada).map(({ type, emoji }) => emoji ?? type);
  assert.deepEqual(kinds.toSorted(), ["edited", "room", "🎉", "👍"].toSorted());
  assert.equal(kinds[0], "👍");
  assert.deepEqual(texts(ada), ["first"]);
  assert.equal(room.seq, changes(ben).at(-1).seq);
});

test("a change that the server rejects is dropped", async () => {
  const [ada, ben] = [await connect(), await connect()];
  const name = unique("forbidden");
  const [room, other] = [await join(ada, name), await join(ben, name)];
  const first = await say(ada, room, "mine");
  ben.edit(other, first, "yours");
  const error = () => ben.received.find(({ event }) => event.type === "error");
  await until("an error", () => error() !== undefined);
  assert.equal(error().event.code, "forbidden");
  assert.equal(error().command.type, "edit");
  assert.deepEqual(other.pending, []);
});

test("long messages and history are received compressed", async () => {
  const [ada, ben] = [await connect(), await connect()];
  const name = unique("compressed");
  const room = await join(ada, name);
  await join(ben, name);
  const before = proxy.bytesReceived;
  const said = Array.from({ length: 8 }, (_, n) => `${n} ${"the same words again ".repeat(80)}`.trim());
  said.forEach((text) => ada.say(room, text));
  await until("8 messages", () => texts(ben).length === 8 && room.pending.length === 0);
  assert.deepEqual(texts(ben), said);
  const carl = await connect();
  await join(carl, name);
  assert.deepEqual(texts(carl), said);
  const bytes = said.join("").length;
  assert.ok(bytes > 10_000);
  const received = proxy.bytesReceived - before;
  assert.ok(received < bytes, `${received} bytes for ${bytes} bytes read by each of three`);
});

test("connecting during a connection attempt leaves one connection", async () => {
  const ada = await connect();
  const before = proxy.pairs.size;
  ada.connect();
  ada.connect();
  ada.connect();
  await until("a welcome", () => ada.isWelcome);
  await until("the others to end", () => proxy.pairs.size === before);
  const room = await join(ada, unique("once"));
  ada.say(room, "still here");
  await until("a message", () => texts(ada).includes("still here"));
  assert.deepEqual(ada.ends, []);
});

test("a message without an answer makes the client reconnect and send it again", async () => {
  const ada = await connect({ answerMs: 600 });
  const room = await join(ada, unique("frozen"));
  proxy.isFrozen = true;
  ada.say(room, "into the void");
  await until("the end of the connection", () => ada.ends.length > 0);
  proxy.isFrozen = false;
  proxy.disconnect();
  await until("the message", () => texts(ada).includes("into the void") && room.pending.length === 0);
});

test("a dead connection is detected while the client is idle", async () => {
  const ada = await connect({ answerMs: 300 });
  await join(ada, unique("silent"));
  proxy.isFrozen = true;
  await until("the end of the connection", () => ada.ends.length > 0);
  proxy.isFrozen = false;
  proxy.disconnect();
  await until("a welcome", () => ada.isWelcome);
});

test("a room with a name of 64 characters can be joined and its history read", async () => {
  const ada = await connect();
  const name = unique("long").padEnd(64, "x");
  const room = await join(ada, name);
  for (const text of ["one", "two"]) {
    ada.say(room, text);
    await until(text, () => texts(ada).includes(text));
  }
  ada.ask({ type: "history", room: name, limit: 1 }, room);
  const history = () => ada.received.find(({ event }) => event.type === "history");
  await until("a page", () => history() !== undefined);
  assert.deepEqual(history().event.messages.map(({ text }) => text), ["two"]);
  assert.equal(history().room, room);
});

test("a room takes the name as the server spells it", async () => {
  const ada = await connect();
  const name = unique("Spelling");
  const room = await join(ada, name);
  assert.equal(room.name, name.toLowerCase());
  assert.equal(ada.rooms.get(name.toLowerCase()), room);
  assert.equal(ada.rooms.has(name), false);
});

test("a room can be left before the server has answered the join command", async () => {
  const [ada, ben] = [await connect(), await connect()];
  const name = unique("left");
  await join(ben, name);
  const room = new Membership(name);
  ada.join(room);
  ada.leave(room);
  await until("an answer", () => ada.received.some(({ event }) => event.type === "left"));
  ben.ask({ type: "who", room: name });
  const members = () => ben.received.find(({ event }) => event.type === "members");
  await until("the members", () => members() !== undefined);
  assert.equal(members().event.member_count, 1);
});

test("a rejected name is not requested again after a reconnection", async () => {
  const [ada, ben] = [await connect({ nick: unique("Ada") }), await connect({ nick: unique("Ben") })];
  const name = unique("names");
  await join(ada, name);
  const room = await join(ben, name);
  const own = ben.nick;
  ben.rename(ada.nick);
  const rejection = () => ben.received.find(({ event }) => event.type === "error");
  await until("a rejection", () => rejection() !== undefined);
  assert.equal(rejection().event.code, "nick_taken");
  ada.disconnect();
  proxy.disconnect();
  await until("Ben to reconnect", () => ben.ends.length > 0 && room.joined);
  const welcomes = ben.received.filter(({ event }) => event.type === "welcome");
  assert.deepEqual(new Set(welcomes.map(({ event }) => event.nick)), new Set([own]));
});

test("an invalid line or a callback that throws does not affect other lines", async () => {
  const consoleError = console.error;
  const logged = [];
  console.error = (error) => logged.push(error);
  class FakeSocket extends EventTarget {
    readyState = 1;
    send() {}
    close() {}
  }
  let socket;
  const types = [];
  const client = new Client({
    url: "ws://unused/",
    WebSocket: class extends FakeSocket {
      constructor() {
        super();
        socket = this;
      }
    },
    received: (event) => {
      types.push(event.type);
      if (event.type === "welcome") {
        throw new Error("a callback failed");
      }
    },
  });
  client.connect();
  socket.dispatchEvent(new Event("open"));
  const lines = ["{", "null", '{"type":"welcome","nick":"ada","limits":{}}', '{"type":"renamed","room":"x"}'];
  const message = Object.assign(new Event("message"), { data: lines.join("\n") });
  socket.dispatchEvent(message);
  client.disconnect();
  console.error = consoleError;
  assert.deepEqual(types, ["welcome", "renamed"]);
  assert.equal(client.isWelcome, false);
  assert.equal(logged.length, 3);
});
