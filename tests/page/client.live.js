// Tests of static/client.js against the server at $CHINWAG_URL, which has its default limits.
// The Rust test `client` starts both.

import assert from "node:assert/strict";
import { once } from "node:events";
import net from "node:net";
import { afterEach, beforeEach, test } from "node:test";
import WebSocket from "ws";
import { Client, Membership } from "../../static/client.js";

const SERVER = new URL(process.env.CHINWAG_URL);
const DEADLINE_MS = 30_000;

/** A network between clients and the server that can fail. */
class Network {
  pairs = new Set();
  frozen = false;
  accepted = 0;
  /** What the server has sent, in bytes. */
  received = 0;

  static async start() {
    const network = new Network();
    network.listener = net.createServer((near) => network.accept(near)).listen(0, "127.0.0.1");
    await once(network.listener, "listening");
    network.url = `ws://127.0.0.1:${network.listener.address().port}/ws`;
    return network;
  }

  accept(near) {
    this.accepted += 1;
    const far = net.connect(Number(SERVER.port), SERVER.hostname);
    const pair = { near, far };
    this.pairs.add(pair);
    far.on("data", (data) => {
      this.received += data.length;
    });
    for (const [from, to] of [[near, far], [far, near]]) {
      from.on("data", (data) => this.frozen || to.write(data));
      from.on("error", () => {});
      from.on("close", () => {
        to.destroy();
        this.pairs.delete(pair);
      });
    }
  }

  cut() {
    this.pairs.forEach(({ near }) => near.destroy());
  }

  stop() {
    this.listener.close();
    this.cut();
  }
}

let network;
let clients;
// Clients of another test would be cut off, reconnect and be counted in this one.
beforeEach(async () => {
  network = await Network.start();
  clients = [];
});
afterEach(() => {
  clients.forEach((client) => client.disconnect());
  network.stop();
});

let names = 0;
function unique(prefix) {
  names += 1;
  return `${prefix}-${process.pid}-${names}`;
}

/** Connects a client that keeps everything it hears. */
async function connect(options = {}) {
  const client = new Client({
    url: network.url,
    WebSocket,
    key: unique("the key of a client"),
    heard: (event, command, room) => client.all.push({ event, command, room }),
    closed: (end) => client.ends.push(end),
    ...options,
  });
  Object.assign(client, { all: [], ends: [] });
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

async function until(what, holds) {
  const end = Date.now() + DEADLINE_MS;
  while (!holds()) {
    assert.ok(Date.now() < end, `waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function texts(client) {
  const messages = client.all.flatMap(({ event }) =>
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

test("a client that is cut off resumes without a gap, and sends what it said meanwhile once", async () => {
  const [ada, ben] = [await connect(), await connect()];
  const name = unique("resume");
  const [room, other] = [await join(ada, name), await join(ben, name)];
  ada.say(room, "before");
  await until("a message", () => texts(ben).length === 1);
  network.cut();
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

test("long messages and histories are received compressed", async () => {
  const [ada, ben] = [await connect(), await connect()];
  const name = unique("compressed");
  const room = await join(ada, name);
  await join(ben, name);
  const before = network.received;
  const said = Array.from({ length: 8 }, (_, n) => `${n} ${"the same words again ".repeat(80)}`.trim());
  said.forEach((text) => ada.say(room, text));
  await until("8 messages", () => texts(ben).length === 8 && room.pending.length === 0);
  assert.deepEqual(texts(ben), said);
  const carl = await connect();
  await join(carl, name);
  assert.deepEqual(texts(carl), said);
  const bytes = said.join("").length;
  assert.ok(bytes > 10_000);
  const received = network.received - before;
  assert.ok(received < bytes, `${received} bytes for ${bytes} bytes read by each of three`);
});

test("connecting during an attempt leaves one connection", async () => {
  const ada = await connect();
  const before = network.pairs.size;
  ada.connect();
  ada.connect();
  ada.connect();
  await until("a welcome", () => ada.isWelcome);
  await until("the others to end", () => network.pairs.size === before);
  const room = await join(ada, unique("once"));
  ada.say(room, "still here");
  await until("a message", () => texts(ada).includes("still here"));
  assert.deepEqual(ada.ends, []);
});

test("a network that swallows everything is noticed", async () => {
  const ada = await connect({ answerMs: 600 });
  const room = await join(ada, unique("frozen"));
  network.frozen = true;
  ada.say(room, "into the void");
  await until("the connection to be given up", () => ada.ends.length > 0);
  network.frozen = false;
  network.cut();
  await until("the message", () => texts(ada).includes("into the void") && room.pending.length === 0);
});

test("a network that is silently gone is noticed without saying anything", async () => {
  const ada = await connect({ answerMs: 300 });
  await join(ada, unique("silent"));
  network.frozen = true;
  await until("the connection to be given up", () => ada.ends.length > 0);
  network.frozen = false;
  network.cut();
  await until("a welcome", () => ada.isWelcome);
});

test("rooms with names of 64 characters are joined and paged", async () => {
  const ada = await connect();
  const name = unique("long").padEnd(64, "x");
  const room = await join(ada, name);
  for (const text of ["one", "two"]) {
    ada.say(room, text);
    await until(text, () => texts(ada).includes(text));
  }
  ada.ask({ type: "history", room: name, limit: 1 }, room);
  const history = () => ada.all.find(({ event }) => event.type === "history");
  await until("a page", () => history() !== undefined);
  assert.deepEqual(history().event.messages.map(({ text }) => text), ["two"]);
  assert.equal(history().room, room);
});

test("a room goes by the name that the server gives it", async () => {
  const ada = await connect();
  const name = unique("Spelling");
  const room = await join(ada, name);
  assert.equal(room.name, name.toLowerCase());
  assert.equal(ada.rooms.get(name.toLowerCase()), room);
  assert.equal(ada.rooms.has(name), false);
});

test("a room that is left before the server answers is left", async () => {
  const [ada, ben] = [await connect(), await connect()];
  const name = unique("left");
  await join(ben, name);
  const room = new Membership(name);
  ada.join(room);
  ada.leave(room);
  await until("an answer", () => ada.all.some(({ event }) => event.type === "left"));
  ben.ask({ type: "who", room: name });
  const members = () => ben.all.find(({ event }) => event.type === "members");
  await until("the members", () => members() !== undefined);
  assert.equal(members().event.member_count, 1);
});

test("a name that was refused is not asked for again", async () => {
  const [ada, ben] = [await connect({ nick: unique("Ada") }), await connect({ nick: unique("Ben") })];
  const name = unique("names");
  await join(ada, name);
  const room = await join(ben, name);
  const own = ben.nick;
  ben.rename(ada.nick);
  const refusal = () => ben.all.find(({ event }) => event.type === "error");
  await until("a refusal", () => refusal() !== undefined);
  assert.equal(refusal().event.code, "nick_taken");
  ada.disconnect();
  network.cut();
  await until("Ben to be back", () => ben.ends.length > 0 && room.joined);
  const welcomes = ben.all.filter(({ event }) => event.type === "welcome");
  assert.deepEqual(new Set(welcomes.map(({ event }) => event.nick)), new Set([own]));
});

test("a line that cannot be read costs no other, and neither does a listener that throws", async () => {
  const real = console.error;
  const reported = [];
  console.error = (error) => reported.push(error);
  class Fake extends EventTarget {
    readyState = 1;
    send() {}
    close() {}
  }
  let fake;
  const heard = [];
  const client = new Client({
    url: "ws://unused/",
    WebSocket: class extends Fake {
      constructor() {
        super();
        fake = this;
      }
    },
    heard: (event) => {
      heard.push(event.type);
      if (event.type === "welcome") {
        throw new Error("a listener failed");
      }
    },
  });
  client.connect();
  fake.dispatchEvent(new Event("open"));
  const lines = ["{", "null", '{"type":"welcome","nick":"ada"}', '{"type":"renamed","room":"x"}'];
  const message = Object.assign(new Event("message"), { data: lines.join("\n") });
  fake.dispatchEvent(message);
  client.disconnect();
  console.error = real;
  assert.deepEqual(heard, ["welcome", "renamed"]);
  assert.equal(client.isWelcome, false);
  assert.equal(reported.length, 3);
});
