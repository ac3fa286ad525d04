// Formats messages as elements: links, code and mentions. A message cannot inject markup, since all
// of its text goes into text nodes.

// Each pattern must match in linear time, since messages may be hostile.
const CODE = /`([^`\n]+)`/gu;
/** Excludes CJK text: it often follows a URL without a space, and browsers copy URLs percent-encoded. */
const LINK =
  /\bhttps?:\/\/[^\s<>"`\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u3000-\u303F\uFF00-\uFFEF]+/gu;
const AT = /(?<![\p{L}\p{N}_@])@/gu;
const NAME = /@[\p{L}\p{N}_][\p{L}\p{N}\p{M}_.-]*/uy;
const LETTER = /[\p{L}\p{N}\p{M}_]/uy;
/** Characters that end a sentence rather than a URL. */
const TRAILING = ".,;:!?'…";
/** Characters that a mention may contain, but not end with. */
const NAME_TRAILING = ".-";

const FENCE = "```";

/** @typedef {{ index: number, 0: string, 1?: string }} Match a matched text and its offset */

/** Returns the element with this id. @template {HTMLElement} T @param {string} id @param {new () => T} kind */
export function $(id, kind = /** @type {new () => T} */ (HTMLElement)) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) {
    throw new Error(`There is no ${kind.name} #${id}`);
  }
  return found;
}

/**
 * Creates an element.
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
 * Sets the children of an element. Children that it already has stay in the document, so that they
 * keep the focus and do not lose clicks.
 * @param {Element} parent @param {Element[]} children
 */
export function setChildren(parent, children) {
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

/** Sets the text of an element, if it differs. @param {Element} target @param {string} text */
export function setText(target, text) {
  if (target.textContent !== text) {
    target.textContent = text;
  }
}

/**
 * Returns a function that calls `show` in the next frame, once, even if it is called several times.
 * @param {() => void} show
 */
export function oncePerFrame(show) {
  let request = 0;
  return () => {
    request ||= requestAnimationFrame(() => {
      request = 0;
      show();
    });
  };
}

/** Returns a number with its noun: "1 byte", "2 bytes". @param {number} number @param {string} noun */
export function plural(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/**
 * Replaces each match in a text by the node that `make` returns, with the length of the text that it
 * replaces, and the text between matches by what `rest` returns.
 * @template {Match} M
 * @param {string} text @param {Iterable<M>} matches
 * @param {(match: M) => [Node, number]} make @param {(rest: string) => (Node | string)[]} rest
 */
function replaceMatches(text, matches, make, rest) {
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
 * Finds code blocks: text between three backticks, after an optional language on the first line.
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

/** Returns the length of a text without trailing characters of a set. @param {string} text @param {string} characters */
function trimmedLength(text, characters, length = text.length) {
  while (length > 0 && characters.includes(text[length - 1])) {
    length -= 1;
  }
  return length;
}

/** Makes a link of a URL. @param {Match} match @returns {[Node, number]} */
function link({ 0: found }) {
  let length = trimmedLength(found, TRAILING);
  // A closing bracket without an opening one in the URL belongs to the text around it.
  let unopened = found.slice(0, length).split(")").length - found.slice(0, length).split("(").length;
  while (unopened > 0 && found[length - 1] === ")") {
    length = trimmedLength(found, TRAILING, length - 1);
    unopened -= 1;
  }
  const url = found.slice(0, length);
  const href = URL.canParse(url) ? url : undefined;
  const attributes = { href, target: "_blank", rel: "noopener noreferrer nofollow ugc" };
  return [element("a", attributes, url), url.length];
}

/**
 * Finds mentions. The reader's own name is matched as a whole, including spaces.
 * @param {string} text @param {string} me @returns {Iterable<Match & { mine: boolean }>}
 */
function* findMentions(text, me) {
  for (const { index } of text.matchAll(AT)) {
    const whole = text.slice(index, index + 1 + me.length);
    NAME.lastIndex = index;
    const found = NAME.exec(text)?.[0] ?? "";
    if (me !== "" && whole.slice(1).toLowerCase() === me.toLowerCase() && !isLetter(text, index + whole.length)) {
      yield { index, 0: whole, mine: true };
    } else if (found !== "") {
      const name = found.slice(0, trimmedLength(found, NAME_TRAILING));
      yield { index, 0: name, mine: isMe(name, me) };
    }
  }
}

/** @param {string} text @param {number} index */
function isLetter(text, index) {
  LETTER.lastIndex = index;
  return LETTER.test(text);
}

/** Formats the mentions in a text. @param {string} text @param {string} me */
function formatMentions(text, me) {
  return replaceMatches(
    text,
    findMentions(text, me),
    ({ 0: name, mine }) => [element("span", { class: mine ? "mention me" : "mention" }, name), name.length],
    (rest) => (rest ? [rest] : []),
  );
}

/** @param {string} mention @param {string} me */
function isMe(mention, me) {
  // The first word of a name with spaces also counts.
  const [first] = me.toLowerCase().split(" ");
  return first !== "" && mention.slice(1).toLowerCase() === first;
}

/**
 * Returns whether a text mentions the user `me`, outside code.
 * @param {string} text @param {string} me
 */
export function mentions(text, me) {
  let [plain, end] = ["", 0];
  for (const { index, 0: block } of codeBlocks(text)) {
    plain += `${text.slice(end, index)} `;
    end = index + block.length;
  }
  plain = (plain + text.slice(end)).replace(CODE, " ");
  return Array.from(findMentions(plain, me)).some(({ mine }) => mine);
}

/** Formats a message as nodes for the user `me`. @param {string} text @param {string} me */
export function format(text, me) {
  const plain = (/** @type {string} */ part) =>
    replaceMatches(part, part.matchAll(LINK), link, (rest) => formatMentions(rest, me));
  /** @type {typeof link} */
  const inline = ({ 0: whole, 1: code = "" }) => [element("code", {}, code), whole.length];
  const lines = (/** @type {string} */ part) => replaceMatches(part, part.matchAll(CODE), inline, plain);
  /** @type {typeof link} */
  const block = ({ 0: whole, 1: code = "" }) => [element("pre", {}, element("code", {}, code)), whole.length];
  return replaceMatches(text, codeBlocks(text), block, lines);
}
