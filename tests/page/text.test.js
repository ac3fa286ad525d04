// Tests of static/text.js in node, with a minimal document.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import "./document.js";

const { format, mentions } = await import("../../static/text.js");

/** Returns nodes as text, with each element in brackets after its name. */
function serialize(nodes) {
  return nodes.map((node) => (typeof node === "string" ? node : `[${node.name} ${serialize(node.children)}]`)).join("");
}

function formatToText(text) {
  return serialize(format(text, "Ada"));
}

test("links end before punctuation and before brackets that were opened earlier", () => {
  const address = "https://example.org/a_(b)";
  assert.equal(formatToText(`see (${address}), or`), `see ([a ${address}]), or`);
  assert.equal(formatToText(`${address}).)?!`), `[a ${address}]).)?!`);
  assert.equal(formatToText("http://x/) y"), "[a http://x/]) y");
  assert.equal(formatToText("https://x/..."), "[a https://x/]...");
});

test("text in code is neither formatted nor a mention", () => {
  assert.equal(formatToText("a ```rust\nlet x;\n``` b"), "a [pre [code let x;]] b");
  assert.equal(formatToText("```x```"), "[pre [code x]]");
  assert.equal(formatToText("``````"), "``````");
  assert.equal(formatToText("``` open"), "``` open");
  assert.equal(formatToText("`a` ```b\n``` `@Ada`"), "[code a] [pre [code b]] [code @Ada]");
  assert.equal(mentions("``` @Ada ``` `@Ada`", "Ada"), false);
  assert.equal(mentions("``` @Ben ``` @Ada...", "Ada"), true);
});

test("the own name is found even with spaces, apostrophes and dots", () => {
  for (const me of ["O'Brien", "J. Doe", "Ada"]) {
    assert.equal(mentions(`hello @${me}, there`, me), true, me);
    assert.equal(mentions(`hello @${me.toLowerCase()}`, me), true, me);
    assert.equal(mentions(`hello @${me}x`, me), false, me);
    assert.equal(mentions(`mail@${me}`, me), false, me);
    assert.equal(serialize(format(`@${me}!`, me)), `[span @${me}]!`);
  }
  assert.equal(mentions("@Ada", "Ada Lovelace"), true);
  assert.equal(mentions("@Ben", ""), false);
});

// The server's tests use the same examples (src/domain/mention.rs).
test("mentions follow the same rules as on the server", () => {
  const examples = JSON.parse(readFileSync(new URL("mentions.json", import.meta.url), "utf8"));
  for (const [text, me, expected] of examples) {
    assert.equal(mentions(text, me), expected, JSON.stringify([text, me]));
  }
});

test("links end at CJK text", () => {
  assert.equal(formatToText("見てhttps://x.example/aをください"), "見て[a https://x.example/a]をください");
  assert.equal(formatToText("https://x.example/a。次"), "[a https://x.example/a]。次");
  assert.equal(formatToText("（https://x.example/a）"), "（[a https://x.example/a]）");
});

test("hostile texts are formatted in linear time", () => {
  const fill = (text) => text.repeat(Math.ceil(65_536 / text.length));
  const hostile = [
    `https://x/${fill(".")}x`,
    `https://x/${fill(".")}x)`,
    `https://x/${fill(".x)")}`,
    `https://x/${fill(")")}`,
    `https://x/${fill(").")}`,
    `https://x/${fill("(")}${fill(")")}`,
    fill("https://x/ "),
    fill("http://"),
    fill("```"),
    fill("```a\n"),
    fill("``` "),
    `\`\`\`${fill("a")}`,
    fill("`"),
    fill("`a"),
    fill("@a"),
    `@a${fill(".-")}x`,
    fill("@a.-"),
    fill("@"),
  ];
  const start = performance.now();
  for (const text of hostile) {
    format(text, "Ada");
    mentions(text, "Ada");
  }
  // Together they take about 50 ms; a single one in quadratic time would exceed this limit.
  assert.ok(performance.now() - start < 3000, `${performance.now() - start} ms`);
});
