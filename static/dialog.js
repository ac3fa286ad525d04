// Dialogs, and the styles of everything that the page loads later.

import { element } from "./text.js";

const sheet = element("link", { rel: "stylesheet", href: new URL("controls.css", import.meta.url).href });

// Without the styles, what is loaded is usable but ugly.
await new Promise((resolve) => {
  sheet.addEventListener("load", resolve);
  sheet.addEventListener("error", resolve);
  document.head.append(sheet);
});

// When a dialog is closed, Chromium returns the focus to a field, but not the caret: keys have no effect.
document.addEventListener("close", () => {
  const field = document.activeElement;
  if (field instanceof HTMLTextAreaElement) {
    field.setSelectionRange(field.selectionStart, field.selectionEnd);
  }
}, true);

/**
 * Makes a dialog with a form, in place of an earlier one.
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
