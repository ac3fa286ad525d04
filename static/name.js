// The dialog that asks for the user's name. The page loads this module when it is first needed.

import { client, current, nick, sentence, showStatus, text } from "./chat.js";
import { makeDialog } from "./dialog.js";
import { load, save } from "./store.js";
import { element, setText } from "./text.js";

const nameField = element("input", {
  id: "name",
  maxlength: "32",
  spellcheck: "false",
  enterkeyhint: "done",
  "aria-describedby": "name-problem",
});
const nameProblem = element("p", { id: "name-problem", role: "alert" });
const title = element("span");
const stay = element("button", { id: "stay-anonymous", type: "button" });
const join = element("button", { id: "save-name" });
const nameDialog = makeDialog("name-dialog", [title],
  element("label", { for: "name" }, "Your name"), nameField, nameProblem, element("menu", {}, stay, " ", join));

/** Returns why a name is invalid, or "". @param {string} name */
function problemWith(name) {
  if (/[:\p{C}\p{Zl}\p{Zp}]/u.test(name)) {
    return "A name cannot contain a colon or invisible characters.";
  }
  return /^anonymous-/i.test(name.normalize("NFKC")) ? "A name cannot start with “anonymous-”." : "";
}

/** @param {string} name */
export function rename(name) {
  const problem = problemWith(name);
  if (problem) {
    return askForName(problem, undefined, name);
  }
  client.rename(name);
  // Retries rooms that are not joined: they may have rejected the previous name.
  for (const room of client.rooms.values()) {
    if (!room.joined) {
      client.join(room);
    }
  }
}

/** Opens the name dialog, with an error if there is one. @param {string} problem @param {string} [suggested] */
export function askForName(problem, suggested, value = suggested ?? load("name", "")) {
  const available = suggested === undefined ? "" : ` “${suggested}” is available.`;
  const hasName = nick !== "" && !nick.startsWith("anonymous-");
  setText(title, hasName ? "Change your name" : "What should we call you?");
  setText(stay, hasName ? "Cancel" : "Stay anonymous");
  setText(join, hasName ? "Save" : "Join");
  nameProblem.textContent = problem ? sentence(problem.replace(/\.$/, "")) + available : "";
  nameField.setAttribute("aria-invalid", String(problem !== ""));
  nameField.value = value;
  if (!nameDialog.open) {
    nameDialog.showModal();
  }
  nameField.select();
}

nameDialog.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = nameField.value.trim();
  const problem = name === "" ? "A name has 1 to 32 characters." : problemWith(name);
  if (problem) {
    return askForName(problem, undefined, name);
  }
  nameDialog.close();
  rename(name);
});
stay.addEventListener("click", () => nameDialog.close());
nameDialog.addEventListener("close", () => {
  save("asked", true);
  if (client.isWelcome && !current.joined) {
    showStatus(`You are not in #${current.name} yet. If somebody there uses your name, choose another name.`);
  }
  text.focus();
});
