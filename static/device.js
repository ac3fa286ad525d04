// One user on several devices: a link that copies the key of this browser to another browser.

import { save } from "./store.js";
import { $ } from "./text.js";

/** @typedef {{ key: string, name: string }} Identity the secret of a user, and the name, or "" if none was chosen */
/** @typedef {{ toCanvas(canvas: HTMLCanvasElement, colors: { off: number[] }): void }} QrCode */

const sharing = $("sharing", HTMLDialogElement);
const link = $("device-link", HTMLInputElement);
const takeover = $("takeover", HTMLDialogElement);

/** Host names that other devices cannot reach. */
const LOOPBACK = /^(localhost|127\.[\d.]+|\[::1\])$/;

/**
 * Shows the link and its QR code.
 * @param {Identity} identity @param {string} path the path of the page that the link opens
 */
export async function share({ key, name }, path) {
  const address = new URL(path, location.href);
  // Browsers send the fragment to no server, and it is not in the Referer header.
  address.hash = String(new URLSearchParams({ key, name }));
  link.value = address.href;
  $("device-local").hidden = !LOOPBACK.test(location.hostname);
  $("copied").textContent = "";
  sharing.showModal();
  const canvas = $("qr", HTMLCanvasElement);
  try {
    /** @type {{ generate: (text: string) => QrCode }} */
    const { generate } = /** @type {any} */ (await import("./lean-qr.js"));
    generate(link.value).toCanvas(canvas, { off: [255, 255, 255] });
    canvas.hidden = false;
  } catch {
    // The module did not load, for example without a network. The link is enough.
    canvas.hidden = true;
  }
}

$("copy-link").addEventListener("click", async () => {
  link.select();
  try {
    await navigator.clipboard.writeText(link.value);
    $("copied").textContent = "Link copied.";
  } catch {
    // Browsers allow it only over HTTPS and on localhost.
    $("copied").textContent = "Your browser blocked copying. The link is selected, so you can copy it yourself.";
  }
});

/**
 * Returns the identity in the page's address, and removes it there: the address bar and the browser
 * history should not show the key.
 * @returns {Identity | null | undefined} null if the key is invalid, undefined if there is none
 */
export function identityFromLink() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const key = fragment.get("key");
  if (key === null) {
    return undefined;
  }
  history.replaceState(null, "", location.pathname + location.search);
  return key.length < 16 || key.length > 256 ? null : { key, name: fragment.get("name") ?? "" };
}

/**
 * Asks whether this browser should become another user, and stores the identity if the answer is yes.
 * @param {Identity} identity @param {string} before the current name in this browser, or ""
 * @returns {Promise<boolean>} the answer
 */
export async function confirmIdentity({ key, name }, before) {
  $("offered-name").textContent = name || "the user of the other device";
  $("given-up").hidden = before === "";
  $("name-before").textContent = before;
  takeover.returnValue = "";
  takeover.showModal();
  await new Promise((resolve) => takeover.addEventListener("close", resolve, { once: true }));
  if (takeover.returnValue !== "yes") {
    return false;
  }
  save("key", key);
  save("name", name);
  save("asked", true);
  return true;
}
