// Asking before something is done, and saying what came of it.

import { $, say } from "./dom.js";

let hiding;

/** Shows a sentence for a while, and has a screen reader read it. */
export function tell(text, bad = false) {
  const said = $("#said");
  said.classList.toggle("bad", bad);
  said.classList.add("shown");
  say(said, text);
  clearTimeout(hiding);
  hiding = setTimeout(() => said.classList.remove("shown"), 6000);
}

/** Waits for a request and says how it went; gives whether it went well. */
export async function doing(request, done) {
  try {
    await request;
    tell(done);
    return true;
  } catch (error) {
    tell(error.message, true);
    return false;
  }
}

/** Whether the operator means it. */
export function confirmed(what, why, yes) {
  const dialog = $("#confirm");
  say($("#confirm-what"), what);
  say($("#confirm-why"), why);
  say($("button[value=yes]", dialog), yes);
  dialog.returnValue = "no";
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
    $("button[value=no]", dialog).focus();
  });
}
