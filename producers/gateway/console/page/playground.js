// A stream to try to break: it continues from its last token at any gateway and worker that are left.

import { tell } from "./actions.js";
import { post, stream } from "./api.js";
import { $, el, keyed, say } from "./dom.js";
import { plural, span, worker as named } from "./format.js";
import { pause } from "./sse.js";

const form = $("#play");
const output = $("#play-text");
const log = $("#play-log");

let run = null;

function note(text, kind = "") {
  const after = ((performance.now() - run.began) / 1000).toFixed(1);
  log.append(el("li", { class: kind }, el("span", { class: "when" }, `${after} s`), el("span", {}, text)));
}

/** A mark in the text where something happened, with the token it happened at. */
function mark(kind) {
  output.append(el("span", { class: `mark ${kind}` }, `${run.offset}`));
}

function took({ id, event, data }) {
  const offset = Number(id);
  const { text, state, reason } = JSON.parse(data);
  if (run.waits) {
    note(`continued at token ${run.offset}`, "good");
    mark("good");
    run.waits = false;
  }
  if (event === "end") {
    const kind = state === "succeeded" ? "" : "bad";
    note(`${state}${reason ? ` (${reason})` : ""} after ${plural(offset, "token")}`, kind);
    return true;
  }
  if (run.offset === 0) note(`first token after ${span((performance.now() - run.began) / 1000)}`);
  const range = offset > run.offset + 1 ? `tokens ${run.offset + 1} to ${offset}` : `token ${offset}`;
  const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
  output.append(el("span", { class: "chunk", title: range, "data-offset": offset }, text));
  if (atEnd) output.scrollTop = output.scrollHeight;
  run.offset = offset;
  say($("#play-count"), plural(offset, "token"));
  return false;
}

/** Tries until it succeeds, unless what was asked for is wrong. */
async function insisted(ask) {
  const { signal } = run.ended;
  for (let failures = 0; !signal.aborted; ) {
    try {
      return await ask();
    } catch (error) {
      if (signal.aborted) return undefined;
      if (!(error instanceof TypeError) && !(error.status >= 500)) throw error;
    }
    lost();
    await pause((failures += 1), signal);
  }
  return undefined;
}

function lost() {
  if (!run.waits) note(`connection lost at token ${run.offset}`, "bad");
  run.waits = true;
}

/** Reads a job from where the last connection ended until it has ended. */
async function read(id) {
  run.job = id;
  while (!run.ended.signal.aborted) {
    const ended = await insisted(async () => {
      const from = { lastId: run.offset, signal: run.ended.signal };
      for await (const event of stream(`console/api/jobs/${id}/stream`, from)) if (took(event)) return true;
      return false;
    });
    if (ended !== false) return;
    lost();
    await pause(1, run.ended.signal);
  }
}

async function enqueued() {
  const fields = new FormData(form);
  const job = {
    model: fields.get("model"),
    messages: [{ role: "user", content: fields.get("prompt") }],
    max_tokens: Number(fields.get("max_tokens")),
    temperature: Number(fields.get("temperature")),
    job_class: "interactive",
    // Should the answer be lost, the same job is found again.
    idempotency_key: `console-${Date.now()}-${Math.random()}`,
  };
  return (await insisted(() => post("v1/jobs", job)))?.id;
}

/** Shows one stream from its beginning to its end; an earlier one is left alone. */
async function begin(jobId) {
  run?.ended.abort();
  const ended = new AbortController();
  const mine = { began: performance.now(), offset: 0, job: null, worker: null, waits: false, ended };
  run = mine;
  output.replaceChildren();
  log.replaceChildren();
  say($("#play-count"), "");
  form.elements.stop.disabled = false;
  output.classList.add("live");
  try {
    const id = await jobId();
    if (id && run === mine) await read(id);
  } catch (error) {
    if (run === mine) note(error.message, "bad");
    tell(error.message, true);
  }
  if (run !== mine) return;
  output.classList.remove("live");
  form.elements.stop.disabled = true;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  begin(enqueued);
});

form.elements.stop.addEventListener("click", () => {
  run.ended.abort();
  note(`stopped at token ${run.offset}`);
  if (run.job) post("console/api/jobs/cancel", { id: run.job }).catch((error) => tell(error.message, true));
});

form.elements.prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

export const playground = {
  /** The models that can be asked. */
  models(models) {
    keyed(form.elements.model, models, (model) => model.id, (model) => el("option", { value: model.id }, model.id));
  },

  /** Shows a stream that was started elsewhere; stopping it cancels it. */
  follow(id) {
    begin(async () => id);
    $("#playground").scrollIntoView({ block: "nearest" });
    output.focus({ preventScroll: true });
  },

  /** Notices when our job moves from one worker to another. */
  jobs(jobs) {
    const ours = run?.job && jobs.find((job) => job.job_id === run.job);
    if (!ours?.worker || ours.worker === run.worker) return;
    if (run.worker) {
      note(`${named(ours.worker)} took over from ${named(run.worker)}`, "good");
      mark("moved");
    } else {
      note(`runs on ${named(ours.worker)}`);
    }
    run.worker = ours.worker;
  },
};
