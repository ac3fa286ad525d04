// One user on several devices: a link that takes the key of this browser to another one.

import { remember } from "./store.js";
import { $ } from "./text.js";

/** @typedef {{ key: string, name: string }} Identity the secret of a user and the name that was chosen, or "" */
/** @typedef {{ toCanvas(canvas: HTMLCanvasElement, colours: { off: number[] }): void }} QrCode */

const sharing = $("sharing", HTMLDialogElement);
const link = $("device-link", HTMLInputElement);
const takeover = $("takeover", HTMLDialogElement);

/** Addresses that no other device can open. */
const LOOPBACK = /^(localhost|127\.[\d.]+|\[::1\])$/;

/**
 * Shows the link, and its QR code.
 * @param {Identity} identity @param {string} path the page that the link opens
 */
export async function share({ key, name }, path) {
  const address = new URL(path, location.href);
  // A fragment is for the page alone: it is sent to no server and named to no other site.
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
    // There is no network just now. The link will do.
    canvas.hidden = true;
  }
}

$("copy-link").addEventListener("click", async () => {
  link.select();
  try {
    await navigator.clipboard.writeText(link.value);
    $("copied").textContent = "Copied.";
  } catch {
    // Only a page under https or on localhost may copy.
    $("copied").textContent = "The browser does not let this page copy. The link is selected.";
  }
});

/**
 * Takes the identity out of the page's address, which somebody may see or store.
 * @returns {Identity | null | undefined} null if the link is incomplete, undefined if it is another
 */
export function offered() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const key = fragment.get("key");
  if (key === null) {
    return undefined;
  }
  history.replaceState(null, "", location.pathname + location.search);
  return key.length < 16 || key.length > 256 ? null : { key, name: fragment.get("name") ?? "" };
}

/**
 * Asks whether this browser shall be that user. If so it is from now on.
 * @param {Identity} identity @param {string} before the name that goes with its present key
 */
export async function takesOver({ key, name }, before) {
  $("offered-name").textContent = name || "the user of that device";
  $("given-up").hidden = before === "";
  $("name-before").textContent = before;
  takeover.returnValue = "";
  takeover.showModal();
  await new Promise((resolve) => takeover.addEventListener("close", resolve, { once: true }));
  if (takeover.returnValue !== "yes") {
    return false;
  }
  remember("key", key);
  remember("name", name);
  remember("asked", true);
  return true;
}
