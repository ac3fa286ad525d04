// What people write, as elements: links, code and names stand out. Nothing of it is ever taken for
// markup, since every piece becomes a text node.

const FENCED = /```(?:[\w+-]*\n)?([\s\S]+?)\n?```/gu;
const CODE = /`([^`\n]+)`/gu;
const LINK = /\bhttps?:\/\/[^\s<>"`]+/gu;
const NAME = /(?<![\p{L}\p{N}_@])@[\p{L}\p{N}_][\p{L}\p{N}\p{M}_.-]*/gu;
/** What ends a sentence rather than an address. */
const TRAILING = /[.,;:!?'…]+$/u;

/** Gives the element with this id. @template {HTMLElement} T @param {string} id @param {new () => T} kind */
export function $(id, kind = /** @type {new () => T} */ (HTMLElement)) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) {
    throw new Error(`There is no ${kind.name} #${id}`);
  }
  return found;
}

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} name @param {Record<string, string | boolean | undefined>} attributes
 * @param {...(Node | string)} children
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) {
      made.setAttribute(key, value === true ? "" : value);
    }
  }
  made.append(...children);
  return made;
}

/**
 * Cuts a text at each match: `make` gives what stands for it, `rest` what stands for the others.
 * @param {string} text @param {RegExp} pattern
 * @param {(match: string[]) => [Node, number]} make @param {(rest: string) => (Node | string)[]} rest
 */
function cut(text, pattern, make, rest) {
  const pieces = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    const [node, length] = make(match);
    pieces.push(...rest(text.slice(end, match.index)), node);
    end = match.index + length;
  }
  pieces.push(...rest(text.slice(end)));
  return pieces;
}

/** @param {string[]} match @returns {[Node, number]} */
function link([found]) {
  let address = found.replace(TRAILING, "");
  // A bracket that was opened before the address closes after it.
  while (address.endsWith(")") && address.split(")").length > address.split("(").length) {
    address = address.slice(0, -1).replace(TRAILING, "");
  }
  const href = URL.canParse(address) ? address : undefined;
  const attributes = { href, target: "_blank", rel: "noopener noreferrer nofollow ugc" };
  return [element("a", attributes, address), address.length];
}

/** @param {string} text @param {string} me */
function names(text, me) {
  return cut(
    text,
    NAME,
    ([found]) => {
      const name = found.replace(/[.-]+$/u, "");
      const mine = isMe(name, me);
      return [element("span", { class: mine ? "mention me" : "mention" }, name), name.length];
    },
    (rest) => (rest ? [rest] : []),
  );
}

/** @param {string} mention @param {string} me */
function isMe(mention, me) {
  // A name with spaces is mentioned by its first word.
  const [first] = me.toLowerCase().split(" ");
  return first !== "" && mention.slice(1).toLowerCase() === first;
}

/**
 * Whether a text mentions somebody who goes by this name, outside of code.
 * @param {string} text @param {string} me
 */
export function mentions(text, me) {
  const plain = text.replace(FENCED, " ").replace(CODE, " ");
  return Array.from(plain.matchAll(NAME)).some(([name]) => isMe(name.replace(/[.-]+$/u, ""), me));
}

/** A text as nodes; `me` is who reads it. @param {string} text @param {string} me */
export function format(text, me) {
  const plain = (/** @type {string} */ part) => cut(part, LINK, link, (rest) => names(rest, me));
  const lines = (/** @type {string} */ part) =>
    cut(part, CODE, ([whole, code]) => [element("code", {}, code), whole.length], plain);
  /** @type {typeof link} */
  const fenced = ([whole, code]) => [element("pre", {}, element("code", {}, code)), whole.length];
  return cut(text, FENCED, fenced, lines);
}
