// What the browser remembers. One that stores nothing forgets it with the page.

const memory = new Map();

/** The path below which the chat is: not "/" behind a proxy that puts it elsewhere. */
export const ROOT = location.pathname.replace(/r\/[^/]+$/, "");

export function recall(name, otherwise) {
  try {
    const text = localStorage.getItem(`chinwag.${name}`);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return memory.get(name) ?? otherwise;
  }
}

export function remember(name, value) {
  memory.set(name, value);
  try {
    localStorage.setItem(`chinwag.${name}`, JSON.stringify(value));
  } catch {
    // It is in memory at least.
  }
}

/** So many random bytes, as hexadecimal digits. */
export function random(bytes) {
  const numbers = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(numbers, (number) => number.toString(16).padStart(2, "0")).join("");
}
