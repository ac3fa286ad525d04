// Values that the browser stores. Without local storage they last as long as the page.

/** @type {Map<string, unknown>} */
const memory = new Map();

/** The path of the chat: not "/" if a proxy serves it below another path. */
export const ROOT = location.pathname.replace(/r\/[^/]+$/, "");

/** Returns a stored value, or a default. @template T @param {string} name @param {T} fallback @returns {T} */
export function load(name, fallback) {
  try {
    const text = localStorage.getItem(`chinwag.${name}`);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return /** @type {T} */ (memory.get(name) ?? fallback);
  }
}

/** Stores a value. @param {string} name @param {unknown} value */
export function save(name, value) {
  memory.set(name, value);
  try {
    localStorage.setItem(`chinwag.${name}`, JSON.stringify(value));
  } catch {
    // Local storage is full or blocked; the value is in memory.
  }
}

/**
 * Changes a stored value. It is read again first, since another window may have changed it.
 * @template T @param {string} name @param {T} fallback @param {(value: T) => T} change
 */
export function update(name, fallback, change) {
  save(name, change(load(name, fallback)));
}
