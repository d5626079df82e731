// Workers, each with its KV pages as a picture, and a way to drain it.

import { confirmed, doing } from "./actions.js";
import { post } from "./api.js";
import { $, el, keyed, say, show, svg } from "./dom.js";
import { count, plural, span, worker as named } from "./format.js";

const CELLS = 160;
const ACROSS = 40;
const SILENT_S = 5;

export function workers(list) {
  const section = $("#workers");
  show(section, list.length > 0);
  keyed($("ul", section), list, (worker) => worker.id, card, (node, worker) => {
    const used = worker.pages_total - worker.pages_free;
    const silent = worker.silent_s >= SILENT_S;
    node.dataset.state = silent ? "silent" : "live";
    say($(".state", node), silent ? `silent for ${span(worker.silent_s)}` : worker.running ? "running" : "idle");
    say($(".load", node), `${count(worker.running)} of ${plural(worker.max_batch_size, "job")}`
      + (worker.waiting ? `, ${count(worker.waiting)} claimed` : ""));
    say($(".pages", node), `${count(used)} of ${count(worker.pages_total)} pages`);
    draw($("svg", node), used, worker.pages_total);
  });
}

function card(worker) {
  const grid = svg("svg", { class: "pages-grid", "aria-hidden": "true" },
    svg("path", { class: "free" }), svg("path", { class: "used" }));
  const label = `Drain worker ${worker.id}`;
  const drain = el("button", { type: "button", "aria-label": label, click: () => drained(worker.id) }, "Drain");
  return el("li", {},
    el("div", { class: "line" },
      el("span", { class: "dot", "aria-hidden": "true" }),
      el("span", { class: "id", title: worker.id }, named(worker.id)),
      el("span", { class: "state dim" }), drain),
    grid,
    el("div", { class: "line dim" }, el("span", { class: "model" }, worker.model),
      el("span", { class: "load" }), el("span", { class: "pages" })));
}

/** Squares for pages, filled for those in use; a square stands for several where there are many. */
function draw(grid, used, total) {
  const cells = Math.max(1, Math.min(CELLS, total));
  const filled = used === 0 ? 0 : Math.max(1, Math.round((cells * used) / Math.max(1, total)));
  if (grid.dataset.drawn === `${filled}/${cells}`) return;
  grid.dataset.drawn = `${filled}/${cells}`;
  const squares = Array.from({ length: cells }, (_, at) =>
    `M${(at % ACROSS) * 10 + 1} ${Math.floor(at / ACROSS) * 10 + 1}h8v8h-8z`);
  grid.setAttribute("viewBox", `0 0 ${ACROSS * 10} ${Math.ceil(cells / ACROSS) * 10}`);
  $(".used", grid).setAttribute("d", squares.slice(0, filled).join(""));
  $(".free", grid).setAttribute("d", squares.slice(filled).join(""));
}

async function drained(id) {
  const why = "It hands over its jobs with their tokens and exits; other workers of its model continue them.";
  if (await confirmed(`Drain ${named(id)}?`, why, "Drain it")) {
    await doing(post("console/api/workers/drain", { id }), `${named(id)} is being drained.`);
  }
}
