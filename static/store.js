// What the browser remembers. One that stores nothing forgets it with the page.

/** @type {Map<string, unknown>} */
const memory = new Map();

/** The path below which the chat is: not "/" behind a proxy that puts it elsewhere. */
export const ROOT = location.pathname.replace(/r\/[^/]+$/, "");

/** @template T @param {string} name @param {T} otherwise @returns {T} */
export function recall(name, otherwise) {
  try {
    const text = localStorage.getItem(`chinwag.${name}`);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return /** @type {T} */ (memory.get(name) ?? otherwise);
  }
}

/** @param {string} name @param {unknown} value */
export function remember(name, value) {
  memory.set(name, value);
  try {
    localStorage.setItem(`chinwag.${name}`, JSON.stringify(value));
  } catch {
    // It is in memory at least.
  }
}

/**
 * Changes what is stored, which another window may have changed since this one read it.
 * @template T @param {string} name @param {T} otherwise @param {(value: T) => T} change
 */
export function amend(name, otherwise, change) {
  remember(name, change(recall(name, otherwise)));
}

/** So many random bytes, as hexadecimal digits. @param {number} bytes */
export function random(bytes) {
  const numbers = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(numbers, (number) => number.toString(16).padStart(2, "0")).join("");
}
