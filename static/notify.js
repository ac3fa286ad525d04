// Notifications of mentions. The page loads this module when it is first needed.

import { openRoom, showStatus } from "./chat.js";
import { save } from "./store.js";

/** @import { Message } from "./protocol.js" */
/** @import { Room } from "./room.js" */

/** @param {Room} room @param {Message} message */
export function notify(room, message) {
  const tag = `${room.name} ${message.seq}`;
  try {
    const notification = new Notification(`${message.nick} in #${room.name}`, { body: message.text, tag });
    notification.addEventListener("click", () => {
      window.focus();
      openRoom(room.name);
    });
  } catch {
    // On Android, Chromium has the constructor, but it throws.
  }
}

/** Stores the choice of the user, who may have to allow notifications first. @param {HTMLInputElement} box */
export async function choose(box) {
  if (box.checked && (await Notification.requestPermission()) !== "granted") {
    box.checked = false;
    showStatus("Notifications are not allowed. Allow them in your browser’s settings for this site.");
  }
  save("notify", box.checked);
}
