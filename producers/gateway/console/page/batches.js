// Unfinished batches, and how many of their lines are answered.

import { $, el, keyed, say, show } from "./dom.js";
import { ago, count } from "./format.js";

export function batches(list) {
  const section = $("#batches");
  show(section, list.length > 0);
  keyed($("ul", section), list, (batch) => batch.id, batch, (row, { status, total, completed, failed, created_ms: at }) => {
    const bar = $("progress", row);
    bar.max = Math.max(1, total);
    bar.value = completed + failed;
    const lines = total ? `${count(completed + failed)} of ${count(total)}` : "";
    const parts = [status.replace("_", " "), lines, failed ? `${count(failed)} failed` : ""];
    say($(".answer", row), parts.filter(Boolean).join(", "));
    say($("time", row), ago(at));
  });
}

function batch({ id, tenant }) {
  return el("li", {},
    el("span", { class: "id", title: id }, id.slice(-8)),
    el("span", { class: "what" },
      el("span", { class: "answer" }), el("span", { class: "dim" }, ` · ${tenant} · `, el("time")),
      el("progress", { "aria-label": `Lines of ${id.slice(-8)} answered` })));
}
