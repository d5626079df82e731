// The jobs that are being generated, with the tokens they have.

import { $, el, keyed, say, show } from "./dom.js";
import { count, rate, short, span, worker } from "./format.js";
import { playground } from "./playground.js";

export function streams(jobs) {
  const section = $("#streams");
  show(section, jobs.length > 0);
  keyed($("tbody", section), jobs, (job) => job.job_id, stream, (row, job) => {
    const [, , , by, tokens, speed, since] = row.children;
    say(by, worker(job.worker));
    by.title = job.worker ?? "";
    say(tokens, count(job.offset));
    say(speed, rate(job.tokens_s));
    say(since, job.started_ms ? span(Math.max(0, Date.now() - job.started_ms) / 1000) : "–");
    row.classList.toggle("stalled", job.stalled_s >= 2);
  });
}

function stream(job) {
  const label = `Follow ${short(job.job_id)}`;
  const click = () => playground.follow(job.job_id);
  const follow = el("button", { type: "button", class: "inline", "aria-label": label, click }, short(job.job_id));
  return el("tr", { "data-class": job.job_class },
    el("th", { scope: "row", class: "id", title: job.job_id }, follow),
    el("td", {}, el("span", { class: "tag" }, job.job_class)), el("td", {}, job.tenant),
    el("td", { class: "id roomy" }), el("td", { class: "n" }), el("td", { class: "n" }),
    el("td", { class: "n roomy" }));
}
