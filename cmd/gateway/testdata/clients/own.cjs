// OpenAI's own client for Node against a running gateway: node own.cjs BASE_URL TOKEN MODEL.
const assert = require("node:assert");
const OpenAI = require("openai").default;

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

async function main() {
  const one = await client.embeddings.create({ model, input: "삼성전자 3분기 실적" });
  const floats = await client.embeddings.create({ model, input: ["삼성전자 3분기 실적", "a second text"], encoding_format: "float" });
  assert.deepEqual(floats.data.map((d) => d.index), [0, 1]);
  one.data[0].embedding.forEach((v, i) => assert(Math.abs(v - floats.data[0].embedding[i]) < 1e-6));
  assert(floats.usage.total_tokens > 0);
  const models = [];
  for await (const m of client.models.list()) models.push(m.id);
  assert.deepEqual(models, [model]);
  await assert.rejects(client.embeddings.create({ model: "gpt", input: "a" }), (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
  await assert.rejects(client.embeddings.create({ model, input: [1, "a"] }), (e) => e instanceof OpenAI.BadRequestError && e.param === "input");
  const stranger = new OpenAI({ baseURL, apiKey: "not the token", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), (e) => e instanceof OpenAI.AuthenticationError);
  console.log("ok", one.data[0].embedding.length, "dimensions");
}

main().catch((e) => { console.error(e); process.exit(1); });
