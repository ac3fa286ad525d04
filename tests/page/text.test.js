// Tests of static/text.js in node, with as much of a document as it needs.

import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.document = {
  createElement: (name) => ({
    name,
    attributes: {},
    children: [],
    setAttribute(key, value) {
      this.attributes[key] = value;
    },
    append(...children) {
      this.children.push(...children);
    },
  }),
};

const { format, mentions } = await import("../../static/text.js");

/** Writes nodes as text: elements in brackets with their names. */
function written(nodes) {
  return nodes.map((node) => (typeof node === "string" ? node : `[${node.name} ${written(node.children)}]`)).join("");
}

function formatted(text) {
  return written(format(text, "Ada"));
}

test("links end before punctuation and before brackets that were opened earlier", () => {
  const address = "https://example.org/a_(b)";
  assert.equal(formatted(`see (${address}), or`), `see ([a ${address}]), or`);
  assert.equal(formatted(`${address}).)?!`), `[a ${address}]).)?!`);
  assert.equal(formatted("http://x/) y"), "[a http://x/]) y");
  assert.equal(formatted("https://x/..."), "[a https://x/]...");
});

test("code blocks hide what is in them", () => {
  assert.equal(formatted("a ```rust\nlet x;\n``` b"), "a [pre [code let x;]] b");
  assert.equal(formatted("```x```"), "[pre [code x]]");
  assert.equal(formatted("``````"), "``````");
  assert.equal(formatted("``` open"), "``` open");
  assert.equal(formatted("`a` ```b\n``` `@Ada`"), "[code a] [pre [code b]] [code @Ada]");
  assert.equal(mentions("``` @Ada ``` `@Ada`", "Ada"), false);
  assert.equal(mentions("``` @Ben ``` @Ada...", "Ada"), true);
});

test("own names are found with spaces, apostrophes and dots", () => {
  for (const me of ["O'Brien", "J. Doe", "Ada"]) {
    assert.equal(mentions(`hello @${me}, there`, me), true, me);
    assert.equal(mentions(`hello @${me.toLowerCase()}`, me), true, me);
    assert.equal(mentions(`hello @${me}x`, me), false, me);
    assert.equal(mentions(`mail@${me}`, me), false, me);
    assert.equal(written(format(`@${me}!`, me)), `[span @${me}]!`);
  }
  assert.equal(mentions("@Ada", "Ada Lovelace"), true);
  assert.equal(mentions("@Ben", ""), false);
});

test("links end at CJK text", () => {
  assert.equal(formatted("見てhttps://x.example/aをください"), "見て[a https://x.example/a]をください");
  assert.equal(formatted("https://x.example/a。次"), "[a https://x.example/a]。次");
  assert.equal(formatted("（https://x.example/a）"), "（[a https://x.example/a]）");
});

test("hostile texts are formatted in linear time", () => {
  const times = (text) => text.repeat(Math.ceil(65_536 / text.length));
  const hostile = [
    `https://x/${times(".")}x`,
    `https://x/${times(".")}x)`,
    `https://x/${times(".x)")}`,
    `https://x/${times(")")}`,
    `https://x/${times(").")}`,
    `https://x/${times("(")}${times(")")}`,
    times("https://x/ "),
    times("http://"),
    times("```"),
    times("```a\n"),
    times("``` "),
    `\`\`\`${times("a")}`,
    times("`"),
    times("`a"),
    times("@a"),
    `@a${times(".-")}x`,
    times("@a.-"),
    times("@"),
  ];
  const began = performance.now();
  for (const text of hostile) {
    format(text, "Ada");
    mentions(text, "Ada");
  }
  // All of them take some 50 ms. A single quadratic one takes longer than this.
  assert.ok(performance.now() - began < 3000, `${performance.now() - began} ms`);
});
