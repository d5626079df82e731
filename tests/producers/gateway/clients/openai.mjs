// OpenAI's npm client against the gateway at $OPENAI_BASE_URL. $LIMITED_BASE_URL wants keys: $SLOW_KEY is of a tenant
// with 600 tokens a minute, $FULL_KEY of one that may have one job waiting.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const asked = { model: "demo", messages: [{ role: "user", content: "What is a list?" }], seed: 1, ignore_eos: true };
const response = { model: "demo", input: "What is a list?", seed: 1, ignore_eos: true, max_output_tokens: 24 };

async function all(events) {
  const found = [];
  for await (const event of events) found.push(event);
  return found;
}

function textOf(chunks) {
  return chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
}

test("a chat is the same whole, streamed, through the stream's helper and read again", async () => {
  const whole = await client.chat.completions.create({ ...asked, max_tokens: 24 });
  assert.equal(whole.usage.completion_tokens, 24);
  assert.equal(whole.choices[0].finish_reason, "length");
  const { data, request_id } = await client.chat.completions.create({ ...asked, max_tokens: 24 }).withResponse();
  assert.equal(data.choices[0].message.content, whole.choices[0].message.content);
  assert.ok(request_id);
  const streamed = { ...asked, max_tokens: 24, stream: true, stream_options: { include_usage: true } };
  const chunks = await all(await client.chat.completions.create(streamed));
  assert.equal(textOf(chunks), whole.choices[0].message.content);
  assert.deepEqual(chunks.at(-1).usage, whole.usage);
  const helper = client.chat.completions.stream(streamed);
  const last = await helper.finalChatCompletion();
  assert.equal(last.choices[0].message.content, whole.choices[0].message.content);
  assert.deepEqual(await client.chat.completions.retrieve(whole.id), whole);
});

test("completions come whole and streamed, for several prompts", async () => {
  const prompts = { model: "demo", prompt: ["A list is", "A dict is"], seed: 1, max_tokens: 8, ignore_eos: true };
  const whole = await client.completions.create(prompts);
  const texts = ["", ""];
  for await (const part of await client.completions.create({ ...prompts, stream: true })) {
    texts[part.choices[0].index] += part.choices[0].text;
  }
  assert.deepEqual(texts, whole.choices.map((choice) => choice.text));
});

test("an aborted stream throws the client's own error and cancels its job", async () => {
  const aborting = new AbortController();
  const stream = await client.chat.completions.create({ ...asked, stream: true }, { signal: aborting.signal });
  let id;
  for await (const chunk of stream) {
    id ??= chunk.id;
    aborting.abort();
  }
  assert.ok(id);
  await until(async () => (await client.get(`/jobs/${id.replace("chatcmpl-", "")}`)).state === "cancelled");
  await assert.rejects(
    client.chat.completions.create(asked, { signal: AbortSignal.abort() }),
    OpenAI.APIUserAbortError,
  );
});

test("what is wrong is the client's own error with its field", async () => {
  const wrong = [
    [{ model: "none-such" }, OpenAI.NotFoundError, "model", "model_not_found"],
    [{ temperature: 101 }, OpenAI.BadRequestError, "temperature"],
    [{ no_such_field: 1 }, OpenAI.BadRequestError, "no_such_field"],
    [{ messages: [] }, OpenAI.BadRequestError, "messages"],
  ];
  for (const [fields, kind, param, code] of wrong) {
    for (const stream of [false, true]) {
      await assert.rejects(client.chat.completions.create({ ...asked, ...fields, stream }), (error) => {
        assert.ok(error instanceof kind, String(error));
        assert.equal(error.param, param);
        assert.equal(error.code, code ?? error.code);
        assert.ok(error.requestID);
        return true;
      });
    }
  }
  const stranger = new OpenAI({ baseURL: process.env.LIMITED_BASE_URL, apiKey: "hr-wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("models are listed and found", async () => {
  const names = (await all(client.models.list())).map((model) => model.id);
  assert.ok(names.includes("demo"));
  assert.equal((await client.models.retrieve("demo")).id, "demo");
});

// A job that waits an hour, so that its tenant has neither room nor tokens left.
async function holding(limited, fields) {
  const body = { model: "demo", prompt: "x", delay_s: 3600, ...fields };
  const { id } = await limited.post("/jobs", { body });
  return () => limited.post(`/jobs/${id}/cancel`);
}

for (const [status, kind, key, fields] of [
  [429, OpenAI.RateLimitError, process.env.SLOW_KEY, { max_tokens: 635 }],
  [503, OpenAI.InternalServerError, process.env.FULL_KEY, { max_tokens: 1 }],
]) {
  test(`a ${status} is the client's own error, and retried after as many seconds as it says`, async () => {
    const answers = [];
    let release;
    const limited = new OpenAI({
      baseURL: process.env.LIMITED_BASE_URL,
      apiKey: key,
      fetch: async (url, options) => {
        const answer = await fetch(url, options);
        if (!url.endsWith("/chat/completions")) return answer;
        answers.push({ status: answer.status, after: answer.headers.get("retry-after"), at: performance.now() });
        if (answers.length === 2) await release();
        return answer;
      },
    });
    release = await holding(limited, fields);
    const short = { ...asked, max_tokens: 1 };
    await assert.rejects(limited.chat.completions.create(short, { maxRetries: 0 }), kind);
    await limited.chat.completions.create(short, { maxRetries: 5 });
    const [, refused, retried] = answers;
    assert.equal(refused.status, status);
    assert.ok(Number(refused.after) >= 1, refused.after);
    assert.ok(retried.at - refused.at >= 1000 * Number(refused.after) - 20, "it came back too early");
    assert.equal(answers.at(-1).status, 200);
  });
}

test("a response is the same whole, streamed, and streamed again after any event", async () => {
  const whole = await client.responses.create(response);
  assert.equal(whole.usage.output_tokens, 24);
  const events = await all(await client.responses.create({ ...response, stream: true }));
  const { id, output_text } = events.at(-1).response;
  assert.equal(output_text ?? textIn(events), whole.output_text);
  for (const [seen, { sequence_number }] of events.entries()) {
    const rest = await client.responses.retrieve(id, { stream: true, starting_after: sequence_number });
    assert.deepEqual(await all(rest), events.slice(seen + 1));
  }
  const helper = client.responses.stream({ response_id: id, starting_after: events[8].sequence_number });
  const again = await all(helper);
  assert.deepEqual(again.map((event) => event.sequence_number), events.slice(9).map((event) => event.sequence_number));
  assert.equal((await helper.finalResponse()).output_text, whole.output_text);
  const made = await client.responses.stream(response).finalResponse();
  assert.equal(made.output_text, whole.output_text);
});

function textIn(events) {
  return events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
}

test("a response in the background is read later, continued, cancelled and deleted", async () => {
  const begun = await client.responses.create({ ...response, background: true });
  assert.ok(["queued", "in_progress"].includes(begun.status), begun.status);
  const events = await all(await client.responses.retrieve(begun.id, { stream: true }));
  const read = await client.responses.retrieve(begun.id);
  assert.equal(read.output_text, textIn(events));
  const next = await client.responses.create({ ...response, input: "And a dict?", previous_response_id: begun.id });
  assert.equal((await all(client.responses.inputItems.list(next.id))).length, 3);
  const endless = await client.responses.create({ model: "demo", input: "x", ignore_eos: true, background: true });
  assert.equal((await client.responses.cancel(endless.id)).status, "cancelled");
  await client.responses.delete(begun.id);
  await assert.rejects(client.responses.retrieve(begun.id), OpenAI.NotFoundError);
});

test("a file goes up and comes back, and a batch of it is answered", async () => {
  const lines = ["a", "b"].map((custom_id) => {
    const body = { ...asked, max_tokens: 4 };
    return JSON.stringify({ custom_id, method: "POST", url: "/v1/chat/completions", body });
  });
  const sent = `${lines.join("\n")}\n`;
  const file = await client.files.create({
    file: await OpenAI.toFile(Buffer.from(sent), "asked.jsonl"),
    purpose: "batch",
  });
  assert.equal(file.bytes, sent.length);
  assert.equal(await (await client.files.content(file.id)).text(), sent);
  assert.ok((await all(client.files.list())).some((each) => each.id === file.id));
  const { id } = await client.batches.create({
    input_file_id: file.id,
    endpoint: "/v1/chat/completions",
    completion_window: "24h",
  });
  const done = await until(async () => {
    const batch = await client.batches.retrieve(id);
    return batch.status === "completed" ? batch : null;
  });
  assert.deepEqual(done.request_counts, { total: 2, completed: 2, failed: 0 });
  const answers = (await (await client.files.content(done.output_file_id)).text()).trim().split("\n").map(JSON.parse);
  assert.deepEqual(answers.map((answer) => answer.custom_id).sort(), ["a", "b"]);
  for (const each of [file.id, done.output_file_id]) assert.ok((await client.files.delete(each)).deleted);
});

async function until(holds) {
  for (;;) {
    const found = await holds();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
