// What waits and runs, by class and tenant; and what tenants may do.

import { $, el, keyed, say, show, svg } from "./dom.js";
import { count, limit, rate } from "./format.js";

const number = (classes = "n") => el("td", { class: classes });

export function lanes(queues) {
  const section = $("#lanes");
  const most = Math.max(1, ...queues.map((queue) => queue.depth + queue.running));
  show(section, queues.length > 0);
  const key = (queue) => `${queue.model} ${queue.job_class} ${queue.tenant}`;
  keyed($("tbody", section), queues, key, lane, (row, queue) => {
    const [, , , bar, running, waiting] = row.children;
    const [ran, waits] = bar.querySelectorAll("rect");
    ran.setAttribute("width", (100 * queue.running) / most);
    waits.setAttribute("x", (100 * queue.running) / most);
    waits.setAttribute("width", (100 * queue.depth) / most);
    say(running, count(queue.running));
    say(waiting, count(queue.depth));
  });
}

/** What an operator has paused. */
export function pauses(list) {
  const names = list.map(({ model, job_class: of, tenant }) => [of, tenant, `on ${model}`].filter(Boolean).join(" "));
  say($("#paused"), `Paused: ${names.join(", ")}`);
  $("#paused").hidden = list.length === 0;
}

function lane(queue) {
  const bar = svg("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "running", y: 0, height: 10 }), svg("rect", { class: "waiting", y: 0, height: 10 }));
  return el("tr", { "data-class": queue.job_class },
    el("th", { scope: "row" }, el("span", { class: "tag" }, queue.job_class)),
    el("td", {}, queue.tenant), el("td", { class: "id roomy" }, queue.model),
    el("td", { class: "bars" }, bar), number(), number());
}

export function tenants(policies) {
  const section = $("#tenants");
  show(section, policies.length > 0);
  keyed($("tbody", section), policies, (policy) => policy.tenant, tenant, (row, policy) => {
    const values = [rate(policy.weight), limit(policy.max_running), limit(policy.requests_per_minute),
      limit(policy.tokens_per_minute), limit(policy.max_queued_jobs)];
    values.forEach((value, at) => say(row.children[at + 1], value));
  });
}

function tenant(policy) {
  const name = policy.tenant === "*" ? "all others" : policy.tenant;
  return el("tr", {}, el("th", { scope: "row" }, name), number(), number(), number(), number(), number());
}
