// Dialogs, and the styles of all that the page loads later.

import { element } from "./text.js";

const sheet = element("link", { rel: "stylesheet", href: new URL("controls.css", import.meta.url).href });

// If the style sheet does not load, everything still works.
await new Promise((resolve) => {
  sheet.addEventListener("load", resolve);
  sheet.addEventListener("error", resolve);
  document.head.append(sheet);
});

// When a dialog closes, Chromium restores the focus of a field, but not its caret: keys have no effect.
document.addEventListener("close", () => {
  const field = document.activeElement;
  if (field instanceof HTMLTextAreaElement) {
    field.setSelectionRange(field.selectionStart, field.selectionEnd);
  }
}, true);

/**
 * Makes a dialog with a form. It replaces an earlier one with this id.
 * @param {string} id @param {(Node | string)[]} title @param {...(Node | string)} content
 */
export function makeDialog(id, title, ...content) {
  const heading = element("h2", { id: `${id}-title` }, ...title);
  const form = element("form", { method: "dialog", autocomplete: "off" }, heading, ...content);
  const dialog = element("dialog", { id, "aria-labelledby": heading.id }, form);
  document.getElementById(id)?.remove();
  document.body.append(dialog);
  return dialog;
}
