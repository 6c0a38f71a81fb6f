"""OpenAI's own client for Python against a running gateway: python3 own.py BASE_URL TOKEN MODEL."""
import base64, struct, sys
import openai

base, token, model = sys.argv[1:]
client = openai.OpenAI(base_url=base, api_key=token, max_retries=0)

one = client.embeddings.create(model=model, input="삼성전자 3분기 실적")  # the client asks for base64 by itself
assert len(one.data) == 1 and one.data[0].index == 0, one
floats = client.embeddings.create(model=model, input=["삼성전자 3분기 실적", "a second text"], encoding_format="float")
assert [d.index for d in floats.data] == [0, 1]
assert max(abs(a - b) for a, b in zip(one.data[0].embedding, floats.data[0].embedding)) < 1e-6
raw = client.embeddings.create(model=model, input="삼성전자 3분기 실적", encoding_format="base64").data[0].embedding
decoded = struct.unpack("<%df" % len(one.data[0].embedding), base64.b64decode(raw))
assert max(abs(a - b) for a, b in zip(decoded, floats.data[0].embedding)) < 1e-6
assert floats.usage.total_tokens > 0 and floats.model == model
assert [m.id for m in client.models.list()] == [model]


def refused(kind, code, **request):
    try:
        client.embeddings.create(**request)
    except kind as e:
        assert e.code == code, (e.code, e.body)
        return
    raise AssertionError(f"{request} was answered")


refused(openai.NotFoundError, "model_not_found", model="gpt", input="a")
assert client.embeddings.create(model=model, input=[9906, 1917]).usage.total_tokens > 0  # token ids of cl100k_base
refused(openai.BadRequestError, "dimensions_not_supported", model=model, input="a", dimensions=3)
refused(openai.BadRequestError, "invalid_empty", model=model, input="")
try:
    openai.OpenAI(base_url=base, api_key="not the token", max_retries=0).models.list()
    raise AssertionError("a wrong token passed")
except openai.AuthenticationError as e:
    assert e.code == "invalid_api_key"
print("ok", len(one.data[0].embedding), "dimensions")
