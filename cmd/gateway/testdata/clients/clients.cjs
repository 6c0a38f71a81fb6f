// Clients of other people, unchanged, against a running gateway: node clients.cjs NAME BASE_URL TOKEN MODEL.
const assert = require("node:assert");
const { createRequire } = require("node:module");
const load = createRequire(process.cwd() + "/x.cjs"); // the packages are where the test says

const [name, base, token, model] = process.argv.slice(2);
const texts = ["삼성전자 3분기 실적", "a second text", "x".repeat(300)];

async function same(got, input_type = "query") {
  const r = await fetch(base + "/v1/embeddings", {
    method: "POST", headers: { authorization: "Bearer " + token, "content-type": "application/json" },
    body: JSON.stringify({ model, input: texts, input_type }),
  });
  const want = (await r.json()).data.map((d) => d.embedding);
  assert.equal(got.length, want.length);
  got.forEach((g, i) => g.forEach((v, j) => assert(Math.abs(v - want[i][j]) < 1e-6)));
}

const clients = {
  async langchain_openai() {
    const { OpenAIEmbeddings } = load("@langchain/openai");
    const e = new OpenAIEmbeddings({ model, apiKey: token, configuration: { baseURL: base + "/v1" }, maxRetries: 0 });
    await same(await e.embedDocuments(texts));
    await same(await Promise.all(texts.map((t) => e.embedQuery(t))));
  },
  async huggingface_inference() {
    const { InferenceClient } = load("@huggingface/inference");
    const c = new InferenceClient(token);
    await same(await c.featureExtraction({ endpointUrl: base, inputs: texts }), "none");
  },
  async cohere() {
    const { CohereClientV2 } = load("cohere-ai");
    const c = new CohereClientV2({ token, environment: base });
    const r = await c.embed({ model, texts, inputType: "search_document", embeddingTypes: ["float"] });
    await same(r.embeddings.float, "document");
  },
};

clients[name]().then(() => console.log("ok"), (e) => { console.error(e); process.exit(1); });
