// The five figures at the top.

import { $, say } from "./dom.js";
import { count, plural, rate } from "./format.js";

const sum = (items, of) => items.reduce((total, item) => total + of(item), 0);

export const figures = {
  queues(queues) {
    say($("#f-running"), count(sum(queues, (queue) => queue.running)));
    say($("#f-waiting"), count(sum(queues, (queue) => queue.depth)));
  },

  workers(workers) {
    const total = sum(workers, (worker) => worker.pages_total);
    const used = total - sum(workers, (worker) => worker.pages_free);
    say($("#f-workers"), count(workers.length));
    say($("#f-pages"), total ? `${Math.round((100 * used) / total)} %` : "–");
    $("#f-pages").title = `${count(used)} of ${plural(total, "page")}`;
  },

  now(point) {
    say($("#f-rate"), rate(point.tokens_s));
  },
};
