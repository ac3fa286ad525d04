// Tests of static/room.js in node.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Room } from "../../static/room.js";

const ME = "the author of own changes";
const OTHER = "another author";

function message(seq, text, more = {}) {
  return { room: "tea", seq, at: 1000 + seq, author: OTHER, nick: "Ben", text, ...more };
}

function change(type, seq, target, more = {}) {
  return { type, room: "tea", seq, at: 1000 + seq, author: OTHER, nick: "Ben", target, ...more };
}

function joined(messages, more = {}) {
  const seq = messages.at(-1)?.seq ?? 0;
  return { type: "joined", room: "tea", epoch: "e", seq, recovered: false, members: [], member_count: 0, messages, ...more };
}

/** Returns a room that has joined with these messages. */
function room(messages, more) {
  const made = new Room("tea");
  made.applyJoined(joined(messages, more));
  return made;
}

test("an edit changes the text of the message and its quotes", () => {
  const tea = room([message(1, "helo"), message(2, "yes", { reply_to: 1, quote: { nick: "Ben", text: "helo" } })]);
  const changed = tea.applyChange(change("edited", 3, 1, { nick: "Benjamin", text: "x".repeat(150) }), ME);
  assert.deepEqual(changed, tea.entries);
  assert.equal(tea.entries[0].text.length, 150);
  assert.equal(tea.entries[0].edited_at, 1003);
  assert.deepEqual(tea.entries[1].quote, { nick: "Ben", text: "x".repeat(100) });
  assert.equal(tea.entries[1].edited_at, undefined);
});

test("a deletion removes the text, the reactions and the quotes", () => {
  const tea = room([
    message(1, "secret", { reactions: { "👍": 1 } }),
    message(2, "yes", { reply_to: 1, quote: { nick: "Ben", text: "secret" } }),
  ]);
  tea.applyChange(change("deleted", 3, 1), ME);
  assert.equal(tea.entries[0].deleted, true);
  assert.deepEqual(tea.entries[0].reactions, {});
  assert.ok(!JSON.stringify(tea.entries).includes("secret"));
  tea.add(message(4, "me, too", { reply_to: 1 }));
  assert.equal(tea.entries[2].quote, undefined);
});

test("a reaction sets the count, and only own ones are the user's", () => {
  const tea = room([message(1, "hello")]);
  const react = (emoji, count, author, on = true) =>
    tea.applyChange(change("reacted", 9, 1, { emoji, count, on, author }), ME);
  react("👍", 1, OTHER);
  react("🎉", 1, ME);
  react("👍", 2, ME);
  react("👍", 2, ME);
  assert.deepEqual(tea.entries[0].reactions, { "👍": 2, "🎉": 1 });
  assert.deepEqual(tea.entries[0].mine, ["🎉", "👍"]);
  react("👍", 1, OTHER, false);
  react("🎉", 0, ME, false);
  assert.deepEqual(tea.entries[0].reactions, { "👍": 1 });
  assert.deepEqual(tea.entries[0].mine, ["👍"]);
});

test("changes of messages that are not loaded are ignored", () => {
  const tea = room([message(5, "hello")]);
  for (const type of ["edited", "deleted", "reacted"]) {
    assert.deepEqual(tea.applyChange(change(type, 9, 4, { text: "x", emoji: "👍", count: 1, on: true }), ME), []);
  }
});

test("a new reply quotes the loaded message", () => {
  const tea = room([message(1, "🫖".repeat(120))]);
  tea.add(message(2, "yes", { reply_to: 1 }));
  assert.deepEqual(tea.entries[1].quote, { nick: "Ben", text: "🫖".repeat(100) });
  tea.add(message(3, "what?", { reply_to: 100 }));
  assert.equal(tea.entries[2].quote, undefined);
});

test("own reactions and the topic are taken from the joined event", () => {
  const reactions = { "👍": 2, "🎉": 1 };
  const tea = room([message(1, "a", { reactions }), message(2, "b")], { topic: "Green?", mine: [{ seq: 1, emoji: "🎉" }] });
  assert.deepEqual(tea.entries.map(({ mine }) => mine), [["🎉"], []]);
  assert.equal(tea.topic, "Green?");
  tea.applyTopic({ nick: "Ben", topic: "" });
  assert.equal(tea.topic, "");
  assert.equal(tea.entries.at(-1).note, "Ben removed the topic.");
  tea.applyJoined(joined([], { epoch: "another" }));
  assert.equal(tea.topic, "");
});

test("changes also apply to an earlier part of the history that is shown", () => {
  const tea = room([message(50, "fifty")]);
  tea.past = new Room("tea");
  tea.past.prepend({ messages: [message(1, "one"), message(2, "two", { reply_to: 1 })], more: false }, ME);
  const changed = tea.applyChange(change("edited", 51, 1, { text: "ONE" }), ME);
  assert.deepEqual(changed, tea.past.entries);
  assert.equal(tea.past.entries[0].text, "ONE");
  tea.applyJoined(joined([message(60, "sixty")]));
  assert.equal(tea.past, null);
});

test("messages after the read position of another device stay unread", () => {
  const tea = room([message(1, "one"), message(2, "two", { nick: "Ada" }), message(3, "three"), message(4, "")]);
  tea.entries[3].deleted = true;
  tea.markRead(1);
  assert.deepEqual(tea.unreadMessages("Ada"), [tea.entries[2]]);
  tea.markRead(3);
  assert.deepEqual(tea.unreadMessages("Ada"), []);
});

test("changes that arrive before older messages apply to them, too", () => {
  const tea = room([message(5, "five", { reply_to: 2, quote: { nick: "Ben", text: "two" } })]);
  tea.changesWhileLoading = [];
  tea.applyChange(change("edited", 6, 2, { text: "too" }), ME);
  tea.applyChange(change("deleted", 7, 1), ME);
  const older = [message(1, "one"), message(2, "two"), message(3, "three", { reply_to: 2 })];
  const count = tea.prepend({ messages: older, more: false, mine: [{ seq: 3, emoji: "👍" }] }, ME);
  assert.equal(count, 3);
  assert.deepEqual(tea.entries.map(({ text }) => text), ["", "too", "three", "five"]);
  assert.deepEqual(tea.entries.map(({ quote }) => quote?.text), [undefined, undefined, "too", "too"]);
  assert.deepEqual(tea.entries[2].mine, ["👍"]);
  assert.equal(tea.changesWhileLoading, null);
});
