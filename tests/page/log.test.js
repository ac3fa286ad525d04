// Tests of static/log.js in node, with a minimal document.

import assert from "node:assert/strict";
import { test } from "node:test";
import "./document.js";

const { day, dayName, makeReactions, reactionTitle } = await import("../../static/log.js");

/** Returns the reactions to a message as text, own ones with an asterisk. */
function shown(message) {
  const buttons = makeReactions(message).flatMap((list) => list.children).flatMap(({ children }) => children);
  return buttons.map(({ children, attributes }) => children.join("") + (attributes["aria-pressed"] === "true" ? "*" : ""));
}

test("the order of reactions does not depend on their counts", () => {
  const reactions = { "👍": 1, "🎉": 3, "❤️": 1, "1️⃣": 3 };
  assert.deepEqual(shown({ reactions, mine: ["❤️"] }), ["1️⃣ 3", "❤️ 1*", "🎉 3", "👍 1"]);
  assert.deepEqual(shown({ reactions }), ["1️⃣ 3", "❤️ 1", "🎉 3", "👍 1"]);
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

/** Runs a test in a time zone. */
function inZone(zone, run) {
  const before = process.env.TZ;
  process.env.TZ = zone;
  run();
  if (before === undefined) {
    delete process.env.TZ;
  } else {
    process.env.TZ = before;
  }
}

test("a day ends at midnight in the time zone of the reader", () => {
  const before = Date.UTC(2026, 10, 26, 22, 59, 59);
  const after = before + 1000;
  inZone("Europe/Berlin", () => assert.notEqual(day(before), day(after)));
  inZone("UTC", () => assert.equal(day(before), day(after)));
  inZone("Asia/Kathmandu", () => assert.notEqual(day(before - 4.75 * 3600_000), day(after - 4.75 * 3600_000)));
});

test("yesterday is the day before, also if it had 23 or 25 hours or no midnight", () => {
  const zones = [
    ["Europe/Berlin", 2026, 2, 29], // 23 hours
    ["Europe/Berlin", 2026, 9, 25], // 25 hours
    ["America/Sao_Paulo", 2018, 10, 4], // without the hour after midnight
  ];
  for (const [zone, year, month, date] of zones) {
    inZone(zone, () => {
      for (const step of [0, 1]) {
        const today = new Date(year, month, date + step, 12);
        for (const hour of [0, 1, 2, 3, 12, 23]) {
          const at = (days) => new Date(year, month, date + step - days, hour, 30).getTime();
          assert.equal(dayName(at(0), today), "Today", zone);
          assert.equal(dayName(at(1), today), "Yesterday", zone);
          assert.ok(!["Today", "Yesterday"].includes(dayName(at(2), today)), zone);
        }
      }
    });
  }
});
