// One user on several devices: a link that copies the key of this browser to another browser. The page
// loads this module when it is first needed.

import { makeDialog } from "./dialog.js";
import { save } from "./store.js";
import { element } from "./text.js";

/** @typedef {{ key: string, name: string }} Identity the secret of a user, and the name, or "" if none was chosen */
/** @typedef {{ toCanvas(canvas: HTMLCanvasElement, colors: { off: number[] }): void }} QrCode */

/** Host names that other devices cannot reach. */
const LOOPBACK = /^(localhost|127\.[\d.]+|\[::1\])$/;

/** @param {HTMLCanvasElement} canvas @param {string} link */
async function drawCode(canvas, link) {
  try {
    /** @type {{ generate: (text: string) => QrCode }} */
    const { generate } = /** @type {any} */ (await import("./lean-qr.js"));
    generate(link).toCanvas(canvas, { off: [255, 255, 255] });
    canvas.hidden = false;
  } catch {
    // The module did not load, for example without a network. The link is enough.
  }
}

/**
 * Shows the link and its QR code.
 * @param {Identity} identity @param {string} path the path of the page that the link opens
 */
export function share({ key, name }, path) {
  const address = new URL(path, location.href);
  // Browsers send the fragment to no server, and it is not in the Referer header.
  address.hash = String(new URLSearchParams({ key, name }));
  const code = element("canvas", { id: "qr", role: "img", "aria-label": "QR code of the link", hidden: true });
  const link = element("input", { id: "device-link", readonly: true, value: address.href });
  const copied = element("p", { id: "copied", role: "status" });
  const copy = element("button", { id: "copy-link", type: "button" }, "Copy link");
  copy.addEventListener("click", async () => {
    link.select();
    try {
      await navigator.clipboard.writeText(link.value);
      copied.textContent = "Link copied.";
    } catch {
      // Browsers allow it only over HTTPS and on localhost.
      copied.textContent = "Your browser blocked copying. The link is selected, so you can copy it yourself.";
    }
  });
  const local = `This link works only on this computer. For other devices, first open the page at the server’s name
    or network address.`;
  makeDialog("sharing", ["Add another device"],
    element("p", {}, "Scan this code with the other device, or open the link there. You will have the same name on both."),
    code,
    element("label", { for: link.id }, "Link"),
    link,
    element("p", { id: "device-local", hidden: !LOOPBACK.test(location.hostname) }, local),
    element("p", { class: "warning" }, "Anyone with this link can send messages as you. It does not expire."),
    copied,
    element("menu", {}, copy, " ", element("button", {}, "Done")),
  ).showModal();
  return drawCode(code, address.href);
}

/**
 * Asks whether this browser should become another user, and stores the identity if the answer is yes.
 * @param {Identity} identity @param {string} before the current name in this browser, or ""
 * @returns {Promise<boolean>} the answer
 */
export async function confirmIdentity({ key, name }, before) {
  const offered = element("bdi", { id: "offered-name" }, name || "the user of the other device");
  const dialog = makeDialog("takeover", ["Are you ", offered, "?"],
    element("p", {}, "This link makes you the same user in this browser as on the device where the link was created."),
    element("p", { class: "warning" }, "If somebody else sent you this link, choose No: they could send messages as you."),
    element("p", { id: "given-up", hidden: before === "" },
      "You will no longer be ", element("bdi", { id: "name-before" }, before), " in this browser."),
    element("menu", {},
      element("button", { autofocus: true }, "No"), " ", element("button", { value: "yes" }, "Yes, this is me")),
  );
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "yes") {
    return false;
  }
  save("key", key);
  save("name", name);
  save("asked", true);
  return true;
}
