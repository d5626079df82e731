// Requests to the gateway with the operator's key, which stays in this tab.

import { $ } from "./dom.js";
import { events } from "./sse.js";

const KEPT = "headrace-key";

/** A request that the gateway refused. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers(more) {
  const key = sessionStorage.getItem(KEPT);
  return { ...(key ? { authorization: `Bearer ${key}` } : {}), ...more };
}

async function refused(response) {
  const body = await response.json().catch(() => null);
  return new Refused(response.status, body?.error?.message ?? `${response.status} ${response.statusText}`);
}

async function ask(path, init) {
  const response = await fetch(new URL(path, document.baseURI), init);
  if (!response.ok) throw await refused(response);
  return response;
}

/** Posts JSON and gives the answer's. */
export async function post(path, body) {
  const init = { method: "POST", headers: headers({ "content-type": "application/json" }) };
  return (await ask(path, { ...init, body: JSON.stringify(body) })).json();
}

/** The server-sent events of an answer; with a body it is asked for by POST. */
export async function* stream(path, { body, lastId, more = {}, signal } = {}) {
  const given = { accept: "text/event-stream", ...more };
  if (body) given["content-type"] = "application/json";
  if (lastId != null) given["last-event-id"] = lastId;
  const init = { method: body ? "POST" : "GET", headers: headers(given), signal };
  yield* events(await ask(path, { ...init, body: body && JSON.stringify(body), cache: "no-store" }));
}

/** Asks for the key; resolves once one was given. */
export function askKey(why) {
  const dialog = $("#ask-key");
  const field = $("input", dialog);
  if (why) $("#key-why").textContent = why;
  return new Promise((resolve) => {
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEPT, field.value.trim());
      field.value = "";
      resolve();
    }, { once: true });
    dialog.showModal();
  });
}
