// Vercel's AI SDK against the gateway at $OPENAI_BASE_URL; $LIMITED_BASE_URL and the keys are as in openai.mjs.
import assert from "node:assert/strict";
import test from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, streamText } from "ai";

const OPTIONS = { name: "headrace", includeUsage: true };
const headrace = createOpenAICompatible({ ...OPTIONS, baseURL: process.env.OPENAI_BASE_URL });
const chat = { model: headrace("demo"), prompt: "What is a list?", seed: 1, maxOutputTokens: 24, maxRetries: 0 };

test("a text is the same whole and streamed", async () => {
  const whole = await generateText(chat);
  assert.ok(whole.text);
  assert.ok(["stop", "length"].includes(whole.finishReason), whole.finishReason);
  const stream = streamText(chat);
  let text = "";
  for await (const part of stream.textStream) text += part;
  assert.equal(text, whole.text);
  assert.equal(await stream.finishReason, whole.finishReason);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
  assert.equal((await stream.usage).inputTokens, whole.usage.inputTokens);
  assert.ok(whole.usage.inputTokens > 0);
});

test("a conversation with a system prompt and a completion are answered", async () => {
  const { prompt, ...settings } = chat;
  const messages = [
    { role: "user", content: prompt },
    { role: "assistant", content: "A mutable sequence." },
    { role: "user", content: [{ type: "text", text: "And a dict?" }] },
  ];
  assert.ok((await generateText({ ...settings, instructions: "Be brief.", messages })).text);
  const completed = await generateText({ ...chat, model: headrace.completionModel("demo"), stopSequences: ["\n\n"] });
  assert.ok(completed.text);
});

test("the gateway's own fields are passed on by the provider's name", async () => {
  const kept = { headrace: { ignore_eos: true } };
  const { usage, finishReason } = await generateText({ ...chat, providerOptions: kept });
  assert.deepEqual([usage.outputTokens, finishReason], [24, "length"]);
});

test("an aborted stream ends as aborted", async () => {
  const aborting = new AbortController();
  const endless = { headrace: { ignore_eos: true } };
  const { maxOutputTokens, ...unbounded } = chat;
  const stream = streamText({ ...unbounded, providerOptions: endless, abortSignal: aborting.signal });
  const kinds = [];
  for await (const part of stream.fullStream) {
    kinds.push(part.type);
    if (part.type === "text-delta") aborting.abort();
  }
  assert.equal(kinds.at(-1), "abort");
});

test("what is wrong is the SDK's own error with the gateway's message", async () => {
  for (const [fields, status, says] of [
    [{ model: headrace("none-such") }, 404, /none-such/],
    [{ temperature: 101 }, 400, /temperature/],
    [{ providerOptions: { headrace: { no_such_field: 1 } } }, 400, /no_such_field/],
  ]) {
    const check = (error) => {
      assert.ok(APICallError.isInstance(error), String(error));
      assert.equal(error.statusCode, status);
      assert.equal(error.isRetryable, false);
      assert.match(error.message, says);
      return true;
    };
    await assert.rejects(generateText({ ...chat, ...fields }), check);
    const errors = [];
    const stream = streamText({ ...chat, ...fields, onError: ({ error }) => errors.push(error) });
    await stream.consumeStream();
    assert.equal(errors.length, 1);
    check(errors[0]);
  }
});

for (const [status, key, max_tokens] of [
  [429, process.env.SLOW_KEY, 635],
  [503, process.env.FULL_KEY, 1],
]) {
  test(`a ${status} may be retried, and is after as many seconds as it says`, async () => {
    const answers = [];
    const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
    const post = (path, body) =>
      fetch(`${process.env.LIMITED_BASE_URL}${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    const held = await post("/jobs", { model: "demo", prompt: "x", delay_s: 3600, max_tokens });
    const { id } = await held.json();
    const limited = createOpenAICompatible({
      ...OPTIONS,
      baseURL: process.env.LIMITED_BASE_URL,
      apiKey: key,
      fetch: async (url, options) => {
        const answer = await fetch(url, options);
        answers.push({ status: answer.status, after: answer.headers.get("retry-after"), at: performance.now() });
        if (answers.length === 2) await post(`/jobs/${id}/cancel`, {});
        return answer;
      },
    });
    const asked = { ...chat, model: limited("demo"), maxOutputTokens: 1 };
    await assert.rejects(generateText(asked), (error) => APICallError.isInstance(error) && error.isRetryable);
    await generateText({ ...asked, maxRetries: 5 });
    const [, refused, retried] = answers;
    assert.equal(refused.status, status);
    assert.ok(retried.at - refused.at >= 1000 * Number(refused.after) - 20, "it came back too early");
    assert.equal(answers.at(-1).status, 200);
  });
}
