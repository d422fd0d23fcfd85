// What a user of the openai package does, against the server at the address that is the argument.
"use strict";

const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const OpenAI = require("openai");

async function main() {
  const baseURL = `${process.argv[2]}/v1`;
  const client = new OpenAI({ baseURL, apiKey: process.env.OSPREY_API_KEY, maxRetries: 0 });
  const model = (await client.models.list()).data[0].id;
  assert.equal((await client.models.retrieve(model)).id, model);

  const url = `data:image/png;base64,${readFileSync("examples/shapes.png").toString("base64")}`;
  const content = [{ type: "image_url", image_url: { url } }, { type: "text", text: "What color is the star?" }];
  const body = { model, messages: [{ role: "user", content }] };
  const whole = await client.chat.completions.create(body);
  assert.equal(whole.choices[0].message.content, "yellow");
  assert.equal(whole.choices[0].finish_reason, "stop");

  const chunks = [];
  const stream = await client.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) chunks.push(chunk);
  assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), "yellow");
  assert.deepEqual(chunks.at(-1).usage, whole.usage);
  // The package's own reader of streams puts the answer together.
  const final = await client.chat.completions.stream(body).finalChatCompletion();
  assert.equal(final.choices[0].message.content, "yellow");

  const plain = await client.completions.create({ model, prompt: "the the the the", max_tokens: 4 });
  assert(plain.usage.completion_tokens <= 4);

  const long = await client.completions.create({ model, prompt: "the the the the", max_tokens: 400, stream: true });
  for await (const _ of long) break; // leaves the stream

  const parts = [
    { type: "input_image", image_url: url, detail: "auto" },
    { type: "input_text", text: "What color is the star?" },
  ];
  const asked = { model, input: [{ role: "user", content: parts }] };
  const response = await client.responses.create(asked);
  assert.deepEqual([response.output_text, response.status], ["yellow", "completed"]);
  assert.equal(response.usage.input_tokens, whole.usage.prompt_tokens);
  const told = [];
  for await (const event of await client.responses.create({ ...asked, stream: true })) told.push(event);
  assert.deepEqual(told.map((event) => event.sequence_number), told.map((_, i) => i));
  assert.equal(told.at(-1).type, "response.completed");
  const schema = { type: "object", required: ["n"], additionalProperties: false, properties: { n: { enum: [4, 5] } } };
  const text = { format: { type: "json_schema", name: "points", strict: true, schema } };
  assert([4, 5].includes((await client.responses.parse({ ...asked, text })).output_parsed.n));
  const tools = [{ type: "function", name: "report", parameters: schema, strict: true }];
  const calling = { ...asked, tools, tool_choice: "required", parallel_tool_calls: false };
  const [call] = (await client.responses.stream(calling).finalResponse()).output;
  assert([4, 5].includes(JSON.parse(call.arguments).n));
  const result = { type: "function_call_output", call_id: call.call_id, output: "thanks" };
  await client.responses.create({ model, input: [...asked.input, call, result], max_output_tokens: 2 });

  const status = (promise) => promise.then(() => 200, (error) => [error.status, error.param]);
  assert.deepEqual(await status(client.chat.completions.create({ ...body, temperature: -1 })), [400, "temperature"]);
  assert.deepEqual(await status(client.chat.completions.create({ ...body, model: "gpt-4o" })), [404, "model"]);
  assert.deepEqual(await status(client.responses.create({ ...asked, store: true })), [400, "store"]);
  const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
  assert.equal((await status(stranger.models.list()))[0], 401);
  console.log(`openai ${require("openai/version").VERSION} for JavaScript: all right`);
}

main();
