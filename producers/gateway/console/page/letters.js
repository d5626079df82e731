// Dead letters, to requeue or drop; webhook deliveries, to replay.

import { confirmed, doing } from "./actions.js";
import { post } from "./api.js";
import { $, el, keyed, say, show } from "./dom.js";
import { ago, plural, short } from "./format.js";

const button = (text, label, click) => el("button", { type: "button", "aria-label": label, click }, text);

export function deadLetters(letters) {
  const section = $("#dead");
  show(section, letters.length > 0);
  const key = (letter) => `${letter.model} ${letter.partition} ${letter.entry}`;
  keyed($("ul", section), letters, key, deadLetter, (row, letter) => say($("time", row), ago(letter.at_ms)));
}

function deadLetter(letter) {
  const { entry, model, partition, job_id: job } = letter;
  const name = job ? short(job) : entry;
  const named = { entry, model, partition };
  const requeue = () => doing(post("console/api/dead/requeue", named), `${name} is queued again.`);
  const drop = async () => {
    const why = "The job's record and its output are deleted with it.";
    if (await confirmed(`Drop ${name}?`, why, "Drop it")) {
      await doing(post("console/api/dead/drop", named), `${name} is dropped.`);
    }
  };
  const cause = letter.has_job
    ? `${letter.cause} ${plural(letter.attempts, "time")}, ${plural(letter.offset, "token")}` : letter.cause;
  return el("li", { "data-state": "dead" },
    el("span", { class: "dot", "aria-hidden": "true" }),
    el("span", { class: "id", title: job || entry }, name),
    el("span", { class: "what" }, cause, el("span", { class: "dim" }, ` · ${model} · `, el("time"))),
    el("span", { class: "actions" },
      letter.has_job ? button("Requeue", `Requeue ${name}`, requeue) : null, button("Drop", `Drop ${name}`, drop)));
}

export function deliveries(list) {
  const section = $("#deliveries");
  show(section, list.length > 0);
  keyed($("ul", section), list, ({ id }) => id, delivery, (row, { state, last, attempts, created_ms: at }) => {
    row.dataset.state = state;
    const answer = last ? last.error || `${last.status}` : "not tried yet";
    say($(".answer", row), `${state}: ${answer}${attempts > 1 ? `, ${plural(attempts, "attempt")}` : ""}`);
    say($("time", row), ago(at));
  });
}

function delivery({ id, job_id: job, event, url }) {
  const replay = () => doing(post("console/api/deliveries/replay", { id }), `${event} of ${short(job)} is sent again.`);
  return el("li", {},
    el("span", { class: "dot", "aria-hidden": "true" }),
    el("span", { class: "id", title: id }, event),
    el("span", { class: "what" }, el("span", { class: "answer" }),
      el("span", { class: "dim" }, ` · ${url} · `, el("time"))),
    el("span", { class: "actions" }, button("Replay", `Replay ${event} of ${short(job)}`, replay)));
}
