// Tests of static/log.js in node, with a minimal document.

import assert from "node:assert/strict";
import { test } from "node:test";
import "./document.js";

const { makeReactions, reactionTitle } = await import("../../static/log.js");

/** Returns the reactions to a message as text, own ones with an asterisk. */
function shown(message) {
  const items = makeReactions(message).flatMap((list) => list.children);
  return items.map(({ children, attributes }) => children.join("") + (attributes.class === "mine" ? "*" : ""));
}

test("the most frequent reactions are first, then the oldest", () => {
  const reactions = { "👍": 1, "🎉": 3, "❤️": 1, "1️⃣": 3 };
  assert.deepEqual(shown({ reactions, mine: ["❤️"] }), ["🎉 3", "1️⃣ 3", "👍 1", "❤️ 1*"]);
  assert.deepEqual(shown({ reactions }), ["🎉 3", "1️⃣ 3", "👍 1", "❤️ 1"]);
});

test("a message without reactions has no list of them", () => {
  assert.deepEqual(makeReactions({}), []);
  assert.deepEqual(makeReactions({ reactions: {}, mine: ["👍"] }), []);
});

test("the title of a reaction says how many people reacted, and whether the user did", () => {
  assert.equal(reactionTitle(1, false), "1 person");
  assert.equal(reactionTitle(1, true), "You");
  assert.equal(reactionTitle(3, false), "3 people");
  assert.equal(reactionTitle(3, true), "3 people, including you");
});
