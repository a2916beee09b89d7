// The official Node client, unmodified, against a running server: `node --test client.test.mjs`.
// RESPOOL_URL is the server's origin. The model `echo` is built in; `tiny` is the test's own backend.
import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: `${process.env.RESPOOL_URL}/v1`, apiKey: "test-key", maxRetries: 0, timeout: 20_000 });
const NOTICE = "You talk to Respool's built-in echo model. You said: ";
const RUNNING = ["queued", "in_progress"];

async function ended(id) {
  for (;;) {
    const response = await client.responses.retrieve(id);
    if (!RUNNING.includes(response.status)) return response;
    await new Promise((resolve) => setTimeout(resolve, 20)); // polling is what is tested
  }
}

test("create, retrieve, chain, delete", async () => {
  const first = await client.responses.create({ model: "echo", input: "Hello there" });
  assert.equal(first.status, "completed");
  assert.equal(first.output_text, `${NOTICE}Hello there`);
  assert.match(first._request_id, /^req_/);
  assert.deepEqual((await client.responses.retrieve(first.id)).output, first.output);
  const second = await client.responses.create({ model: "echo", input: "And again", previous_response_id: first.id });
  assert.equal(second.previous_response_id, first.id);
  const roles = [];
  for await (const item of client.responses.inputItems.list(second.id, { order: "asc", limit: 1 })) roles.push(item.role);
  assert.deepEqual(roles, ["user", "assistant", "user"]);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
});

test("stream", async () => {
  const stream = await client.responses.create({ model: "echo", input: "echo:words=5", stream: true });
  const events = [];
  for await (const event of stream) events.push(event);
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
  assert.equal(events[0].type, "response.created");
  assert.equal(events.at(-1).type, "response.completed");
});

test("stream helper, and the same again from the stored response", async () => {
  const stream = client.responses.stream({ model: "echo", input: "echo:think echo:words=4" });
  let text = "";
  stream.on("response.output_text.delta", (event) => { text += event.delta; });
  const response = await stream.finalResponse();
  assert.equal(text, "w0 w1 w2 w3 ");
  assert.equal(response.output_text, text);
  const again = await client.responses.stream({ response_id: response.id }).finalResponse();
  assert.equal(again.output_text, text);
});

test("background: poll", async () => {
  const job = await client.responses.create({ model: "echo", input: "echo:words=3", background: true });
  assert.ok(RUNNING.includes(job.status));
  assert.equal((await ended(job.id)).output_text, "w0 w1 w2 ");
});

test("background: cut and resume", async () => {
  const whole = { model: "echo", input: "echo:words=20 echo:delay_ms=5", background: true, stream: true };
  const seen = [];
  let id;
  const stream = await client.responses.create(whole);
  for await (const event of stream) {
    id ??= event.response.id;
    seen.push(event);
    if (event.type === "response.output_text.delta" && seen.length > 8) break; // hangs up
  }
  const rest = await client.responses.retrieve(id, { stream: true, starting_after: seen.at(-1).sequence_number });
  for await (const event of rest) seen.push(event);
  assert.deepEqual(seen.map((event) => event.sequence_number), [...seen.keys()]);
  assert.equal(seen.at(-1).response.output_text ?? seen.at(-1).response.output[0].content[0].text,
    Array.from({ length: 20 }, (_, i) => `w${i} `).join(""));
});

test("background: cancel", async () => {
  const job = await client.responses.create({ model: "echo", input: "echo:words=1000 echo:delay_ms=50", background: true });
  const cancelled = await client.responses.cancel(job.id);
  assert.equal(cancelled.status, "cancelled");
  assert.equal((await client.responses.cancel(job.id)).status, "cancelled");
});

test("tool call and its output", async () => {
  const tools = [{ type: "function", name: "get_weather", parameters: { type: "object", properties: {} }, strict: false }];
  const asked = await client.responses.create({ model: "echo", input: "echo:call", tools });
  const call = asked.output.at(-1);
  assert.equal(call.type, "function_call");
  const answer = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
  const told = await client.responses.create({ model: "echo", input: [answer], previous_response_id: asked.id, tools });
  assert.equal(told.status, "completed");
});

test("parse", async () => {
  const City = z.object({ name: z.string(), people: z.number() });
  const options = { model: "tiny", input: "Where?", text: { format: zodTextFormat(City, "city") } };
  const response = await client.responses.parse(options);
  assert.deepEqual(response.output_parsed, { name: "Oslo", people: 700000 });
});

test("conversation", async () => {
  const item = { type: "message", role: "user", content: "Remember me" };
  const conversation = await client.conversations.create({ metadata: { topic: "node" }, items: [item] });
  assert.deepEqual(conversation.metadata, { topic: "node" });
  const response = await client.responses.create({ model: "echo", input: "Hello", conversation: conversation.id });
  assert.deepEqual(response.conversation, { id: conversation.id });
  const roles = [];
  for await (const each of client.conversations.items.list(conversation.id, { order: "asc", limit: 1 })) roles.push(each.role);
  assert.deepEqual(roles, ["user", "user", "assistant"]);
  assert.equal((await client.conversations.update(conversation.id, { metadata: { topic: "new" } })).metadata.topic, "new");
  assert.equal((await client.conversations.delete(conversation.id)).deleted, true);
  await assert.rejects(client.conversations.retrieve(conversation.id), OpenAI.NotFoundError);
});

test("compact", async () => {
  const compacted = await client.responses.compact({ model: "tiny", input: [{ role: "user", content: "Remember Oslo" }] });
  assert.equal(compacted.object, "response.compaction");
  assert.deepEqual(compacted.output.map((item) => item.type), ["message", "compaction"]);
  const response = await client.responses.create({ model: "echo", input: [...compacted.output, { role: "user", content: "Hello" }] });
  assert.equal(response.output_text, `${NOTICE}Hello`);
  const items = [];
  for await (const item of client.responses.inputItems.list(response.id, { order: "asc" })) items.push(item);
  assert.deepEqual(items.slice(0, 2), compacted.output);
  await assert.rejects(client.responses.compact({ input: "hi" }), OpenAI.BadRequestError);
});

test("input tokens, models, errors", async () => {
  const counted = await client.responses.inputTokens.count({ model: "echo", input: "How long is this?" });
  assert.equal(counted.object, "response.input_tokens");
  assert.ok(counted.input_tokens > 0);
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.ok(models.includes("echo"));
  await assert.rejects(client.responses.create({ model: "nobody", input: "hi" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.code, error.param, error.type], ["model_not_found", "model", "invalid_request_error"]);
    return true;
  });
});
