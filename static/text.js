// What people write, as elements: links, code and names stand out. Nothing of it is ever taken for
// markup, since every piece becomes a text node.

// Each pattern is matched in linear time: messages come from strangers.
const CODE = /`([^`\n]+)`/gu;
/** Browsers copy addresses percent-encoded, so CJK text behind an address is not part of it. */
const LINK =
  /\bhttps?:\/\/[^\s<>"`\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u3000-\u303F\uFF00-\uFFEF]+/gu;
const AT = /(?<![\p{L}\p{N}_@])@/gu;
const NAME = /@[\p{L}\p{N}_][\p{L}\p{N}\p{M}_.-]*/uy;
const LETTER = /[\p{L}\p{N}\p{M}_]/uy;
/** Characters that end a sentence rather than an address or a name. */
const TRAILING = ".,;:!?'…";
const NAME_TRAILING = ".-";

const FENCE = "```";

/** @typedef {{ index: number, 0: string, 1?: string }} Match a matched text and where it begins */

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
 * Makes these the children of an element. What is there already stays in place, so that clicks and
 * the focus on it are not lost.
 * @param {Element} parent @param {Element[]} children
 */
export function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of Array.from(parent.children)) {
    wanted.has(child) || child.remove();
  }
  children.forEach((child, n) => {
    if (parent.children[n] !== child) {
      parent.insertBefore(child, parent.children[n] ?? null);
    }
  });
}

/** Changes the text of an element, if it is another. @param {Element} where @param {string} text */
export function write(where, text) {
  if (where.textContent !== text) {
    where.textContent = text;
  }
}

/**
 * Cuts a text at each match: `make` gives what stands for it, `rest` what stands for the others.
 * @template {Match} M
 * @param {string} text @param {Iterable<M>} matches
 * @param {(match: M) => [Node, number]} make @param {(rest: string) => (Node | string)[]} rest
 */
function cut(text, matches, make, rest) {
  const pieces = [];
  let end = 0;
  for (const match of matches) {
    const [node, length] = make(match);
    pieces.push(...rest(text.slice(end, match.index)), node);
    end = match.index + length;
  }
  pieces.push(...rest(text.slice(end)));
  return pieces;
}

/**
 * Finds code blocks between three backticks, with an optional language on the first line.
 * @param {string} text @returns {Iterable<Match>}
 */
function* codeBlocks(text) {
  let index = text.indexOf(FENCE);
  while (index >= 0) {
    const end = text.indexOf(FENCE, index + FENCE.length + 1);
    if (end < 0) {
      return;
    }
    const code = text.slice(index + FENCE.length, end).replace(/^[\w+-]*\n(?=[^])/u, "");
    yield { index, 0: text.slice(index, end + FENCE.length), 1: code.endsWith("\n") ? code.slice(0, -1) : code };
    index = text.indexOf(FENCE, end + FENCE.length);
  }
}

/** Gives the length of a text without these characters at its end. @param {string} text @param {string} characters */
function trimmed(text, characters, length = text.length) {
  while (length > 0 && characters.includes(text[length - 1])) {
    length -= 1;
  }
  return length;
}

/** @param {Match} match @returns {[Node, number]} */
function link({ 0: found }) {
  let length = trimmed(found, TRAILING);
  // A bracket that was opened before the address closes after it.
  let unopened = found.slice(0, length).split(")").length - found.slice(0, length).split("(").length;
  while (unopened > 0 && found[length - 1] === ")") {
    length = trimmed(found, TRAILING, length - 1);
    unopened -= 1;
  }
  const address = found.slice(0, length);
  const href = URL.canParse(address) ? address : undefined;
  const attributes = { href, target: "_blank", rel: "noopener noreferrer nofollow ugc" };
  return [element("a", attributes, address), address.length];
}

/**
 * Finds mentions. The reader's own name is found as a whole, with spaces and all.
 * @param {string} text @param {string} me @returns {Iterable<Match & { mine: boolean }>}
 */
function* mentioned(text, me) {
  for (const { index } of text.matchAll(AT)) {
    const whole = text.slice(index, index + 1 + me.length);
    NAME.lastIndex = index;
    const found = NAME.exec(text)?.[0] ?? "";
    if (me !== "" && whole.slice(1).toLowerCase() === me.toLowerCase() && !isLetter(text, index + whole.length)) {
      yield { index, 0: whole, mine: true };
    } else if (found !== "") {
      const name = found.slice(0, trimmed(found, NAME_TRAILING));
      yield { index, 0: name, mine: isMe(name, me) };
    }
  }
}

/** @param {string} text @param {number} index */
function isLetter(text, index) {
  LETTER.lastIndex = index;
  return LETTER.test(text);
}

/** @param {string} text @param {string} me */
function names(text, me) {
  return cut(
    text,
    mentioned(text, me),
    ({ 0: name, mine }) => [element("span", { class: mine ? "mention me" : "mention" }, name), name.length],
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
  let [plain, end] = ["", 0];
  for (const { index, 0: block } of codeBlocks(text)) {
    plain += `${text.slice(end, index)} `;
    end = index + block.length;
  }
  plain = (plain + text.slice(end)).replace(CODE, " ");
  return Array.from(mentioned(plain, me)).some(({ mine }) => mine);
}

/** A text as nodes; `me` is who reads it. @param {string} text @param {string} me */
export function format(text, me) {
  const plain = (/** @type {string} */ part) => cut(part, part.matchAll(LINK), link, (rest) => names(rest, me));
  const lines = (/** @type {string} */ part) =>
    cut(part, part.matchAll(CODE), ({ 0: whole, 1: code = "" }) => [element("code", {}, code), whole.length], plain);
  /** @type {typeof link} */
  const block = ({ 0: whole, 1: code = "" }) => [element("pre", {}, element("code", {}, code)), whole.length];
  return cut(text, codeBlocks(text), block, lines);
}
