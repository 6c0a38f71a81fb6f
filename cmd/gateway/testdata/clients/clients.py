"""Clients of other people, unchanged, against a running gateway: python3 clients.py NAME BASE_URL TOKEN MODEL."""
import os, sys

name, base, token, model = sys.argv[1:]
texts = ["삼성전자 3분기 실적", "a second text", "x" * 300]

# Two that know only names of OpenAI's models, and count with them.
os.environ["OPENAI_API_KEY"] = token
os.environ["ANONYMIZED_TELEMETRY"] = "False"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def reference(prompt):
    """The vectors of the texts by the gateway's own interface."""
    import json, urllib.request

    r = urllib.request.Request(
        base + "/v1/embeddings",
        data=json.dumps({"model": model, "input": texts, "input_type": prompt}).encode(),
        headers={"Authorization": "Bearer " + token, "Content-Type": "application/json"},
    )
    return [d["embedding"] for d in json.load(urllib.request.urlopen(r))["data"]]


def same(got, prompt="query"):
    want = reference(prompt)
    assert len(got) == len(want), (len(got), len(want))
    for g, w in zip(got, want):
        assert len(g) == len(w) and max(abs(a - b) for a, b in zip(g, w)) < 1e-6, (list(g)[:5], w[:5])


def langchain_openai():
    from langchain_openai import OpenAIEmbeddings

    e = OpenAIEmbeddings(model=model, base_url=base + "/v1", api_key=token)  # by default it sends token ids
    same(e.embed_documents(texts))
    same([e.embed_query(t) for t in texts])


def huggingface_hub():
    from huggingface_hub import InferenceClient

    c = InferenceClient(base_url=base, token=token)
    same([c.feature_extraction(t).flatten().tolist() for t in texts], "none")
    same([c.feature_extraction(t, prompt_name="query", truncate=True, normalize=True).flatten().tolist() for t in texts], "query")


def haystack_openai():
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    key = Secret.from_token(token)
    e = OpenAITextEmbedder(model=model, api_base_url=base + "/v1", api_key=key)
    same([e.run(text=t)["embedding"] for t in texts])
    d = OpenAIDocumentEmbedder(model=model, api_base_url=base + "/v1", api_key=key, progress_bar=False)
    same([x.embedding for x in d.run(documents=[Document(content=t) for t in texts])["documents"]])


def haystack_tei():
    from haystack import Document
    from haystack_integrations.components.embedders.huggingface_api import HuggingFaceAPIDocumentEmbedder, HuggingFaceAPITextEmbedder
    from haystack.utils import Secret

    key = Secret.from_token(token)
    args = dict(api_type="text_embeddings_inference", api_params={"url": base}, token=key)
    e = HuggingFaceAPITextEmbedder(**args)
    same([e.run(text=t)["embedding"] for t in texts], "none")
    d = HuggingFaceAPIDocumentEmbedder(**args, progress_bar=False)
    same([x.embedding for x in d.run(documents=[Document(content=t) for t in texts])["documents"]], "none")


def chromadb_openai():
    from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction

    same(OpenAIEmbeddingFunction(api_key=token, api_base=base + "/v1", model_name=model)(texts))


def chromadb_tei():
    from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer

    same(HuggingFaceEmbeddingServer(url=base + "/embed", api_key_env_var="OPENAI_API_KEY")(texts), "none")


def litellm():
    import litellm

    r = litellm.embedding(model="openai/" + model, input=texts, api_base=base + "/v1", api_key=token)
    same([d["embedding"] for d in r.data])
    try:
        litellm.embedding(model="openai/gpt", input=texts, api_base=base + "/v1", api_key=token, num_retries=0)
        raise AssertionError("a wrong model passed")
    except litellm.NotFoundError:
        pass


def cohere():
    import cohere

    c = cohere.ClientV2(api_key=token, base_url=base)
    r = c.embed(model=model, texts=texts, input_type="search_query", embedding_types=["float"])
    same(r.embeddings.float)
    r = c.embed(model=model, texts=texts, input_type="search_document", embedding_types=["float"])
    same(r.embeddings.float, "document")
    same(cohere.Client(api_key=token, base_url=base).embed(model=model, texts=texts, input_type="search_query").embeddings)


def llama_index_openai():
    from llama_index.embeddings.openai import OpenAIEmbedding

    e = OpenAIEmbedding(model_name=model, api_base=base + "/v1", api_key=token)
    same(e.get_text_embedding_batch(texts))


def llama_index_like():
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    e = OpenAILikeEmbedding(model_name=model, api_base=base + "/v1", api_key=token)
    same(e.get_text_embedding_batch(texts))
    same([e.get_query_embedding(t) for t in texts])


def llama_index_tei():
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    e = TextEmbeddingsInference(model_name=model, base_url=base, auth_token=token, query_instruction="", text_instruction="")
    same(e.get_text_embedding_batch(texts), "none")


def openai_batch():
    import io, json, time
    import openai

    c = openai.OpenAI(base_url=base + "/v1", api_key=token, max_retries=0)
    lines = [json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/embeddings", "body": {"model": model, "input": t}}) for i, t in enumerate(texts)]
    f = c.files.create(file=io.BytesIO("\n".join(lines).encode()), purpose="batch")
    assert c.files.content(f.id).text == "\n".join(lines) and [x.id for x in c.files.list()] == [f.id]
    b = c.batches.create(input_file_id=f.id, endpoint="/v1/embeddings", completion_window="24h", metadata={"a": "b"})
    while b.status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.2)
        b = c.batches.retrieve(b.id)
    assert b.status == "completed" and b.request_counts.completed == 3 and b.metadata == {"a": "b"}, b
    out = [json.loads(l) for l in c.files.content(b.output_file_id).text.splitlines()]
    same([l["response"]["body"]["data"][0]["embedding"] for l in sorted(out, key=lambda l: l["custom_id"])])
    assert [x.id for x in c.batches.list()] == [b.id]
    c.files.delete(f.id)
    try:
        c.batches.create(input_file_id=f.id, endpoint="/v1/embeddings", completion_window="24h")
        raise AssertionError("a deleted file passed")
    except openai.BadRequestError as e:
        assert e.param == "input_file_id"


globals()[name]()
print("ok")
