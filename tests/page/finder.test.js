// Tests of static/finder.js in node.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Finder } from "../../static/finder.js";

/** Returns a finder, the commands that it sends, functions that answer them, and what it shows. */
function make(t) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const [sent, answers, shown] = [[], [], []];
  const request = (command) => {
    sent.push(command);
    return new Promise((resolve) => answers.push(resolve));
  };
  const finder = new Finder(request, (answer, isMore) => shown.push([answer, isMore]));
  return { finder, sent, answers, shown, tick: (ms) => t.mock.timers.tick(ms) };
}

async function answer({ answers }, n, event) {
  answers[n](event);
  await new Promise(setImmediate);
}

test("a search starts when the typing pauses", (t) => {
  const made = make(t);
  for (const text of ["t", "te", "tea"]) {
    made.finder.search({ text });
    made.tick(200);
  }
  assert.deepEqual(made.sent, []);
  made.tick(200);
  assert.deepEqual(made.sent, [{ type: "search", text: "tea", limit: 20 }]);
});

test("only one command is unanswered, and only the latest query is sent after it", async (t) => {
  const made = make(t);
  for (const text of ["a", "b", "c"]) {
    made.finder.search({ text }, 0);
    made.tick(0);
  }
  assert.deepEqual(made.sent.map(({ text }) => text), ["a"]);
  await answer(made, 0, "for a");
  assert.deepEqual(made.shown, []);
  assert.deepEqual(made.sent.map(({ text }) => text), ["a", "c"]);
  await answer(made, 1, "for c");
  assert.deepEqual(made.shown, [["for c", false]]);
});

test("more results are those before the last one", async (t) => {
  const made = make(t);
  made.finder.search({ text: "tea", room: "tea" }, 0);
  made.tick(0);
  await answer(made, 0, "first");
  made.finder.more(17);
  assert.deepEqual(made.sent[1], { type: "search", text: "tea", room: "tea", before: 17, limit: 20 });
  await answer(made, 1, "second");
  assert.deepEqual(made.shown, [["first", false], ["second", true]]);
});

test("more results are asked for once, however often the button is pressed", async (t) => {
  const made = make(t);
  made.finder.search({ text: "tea" }, 0);
  made.tick(0);
  await answer(made, 0, "first");
  made.finder.more(17);
  made.finder.more(17);
  await answer(made, 1, "second");
  assert.equal(made.sent.length, 2);
  assert.deepEqual(made.shown, [["first", false], ["second", true]]);
  made.finder.more(5);
  assert.equal(made.sent[2].before, 5);
});

test("answers after the end of a search are ignored", async (t) => {
  const made = make(t);
  made.finder.search({ text: "tea" }, 0);
  made.tick(0);
  made.finder.cancel();
  await answer(made, 0, "late");
  made.finder.more(3);
  assert.deepEqual(made.shown, []);
  assert.equal(made.sent.length, 1);
});
