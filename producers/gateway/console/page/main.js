// Reads what the gateway shows for as long as the page is open, and hands each section to what draws it.

import { askKey, stream } from "./api.js";
import { batches } from "./batches.js";
import { deadLetters, deliveries } from "./letters.js";
import { $, say } from "./dom.js";
import { figures } from "./figures.js";
import { lanes, pauses, tenants } from "./lanes.js";
import { playground } from "./playground.js";
import { plots } from "./plots.js";
import { pause } from "./sse.js";
import { streams } from "./streams.js";
import { workers } from "./workers.js";

const parts = {
  models: [playground.models],
  pauses: [pauses],
  queues: [lanes, figures.queues],
  workers: [workers, figures.workers],
  jobs: [streams, playground.jobs],
  history: [plots.history],
  now: [plots.now, figures.now],
  batches: [batches],
  tenants: [tenants],
  dead: [deadLetters],
  deliveries: [deliveries],
  errors: [trouble],
};

function trouble(errors) {
  const lines = Object.entries(errors).map(([what, why]) => `${what}: ${why}`);
  say($("#trouble"), lines.length > 2 && new Set(Object.values(errors)).size === 1
    ? Object.values(errors)[0] : lines.join("  "));
  $("#trouble").hidden = lines.length === 0;
}

function link(state, text) {
  $("#link").dataset.state = state;
  say($("#link"), text);
}

async function follow() {
  for (let failures = 0; ; failures += 1) {
    try {
      for await (const { event, data } of stream("console/api/overview")) {
        failures = 0;
        link("live", "live");
        const value = JSON.parse(data);
        for (const draw of parts[event] ?? []) draw(value);
      }
      link("wait", "reconnecting");
    } catch (error) {
      link("lost", error.status ? error.message : "no answer from the gateway; trying again");
      if (error.status === 401 || error.status === 403) {
        await askKey(error.message);
        failures = -1;
        continue;
      }
      if (!error.status && !(error instanceof TypeError) && error.name !== "AbortError") console.error(error);
    }
    await pause(failures);
  }
}

follow();
