"""Makes the small models below variants/ and foreign/, with the vectors they should give.

    make.py FOLDER      needs numpy, safetensors and onnx

Weights are random with a fixed seed. The vectors come from a plain forward pass in float64, written after
the published equations and transformers' definition of positions; it shares nothing with the Go code.
Each folder has a reference.json: {"rows": [[token id, ...], ...], "vectors": [[...], ...]}.
"""
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

VOCAB, HIDDEN, HEADS, LAYERS, INNER = 64, 16, 2, 2, 24
PAD = {"bert": 0, "roberta": 1, "xlm-roberta": 1}

ACTIVATIONS = {
    "gelu": np.vectorize(lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


def weights(rng, positions, types):
    w = {}

    def add(name, *shape, mean=0.0):
        w[name] = (mean + 0.3 * rng.standard_normal(shape)).astype(np.float32)

    def norm(name):
        add(name + ".weight", HIDDEN, mean=1)
        add(name + ".bias", HIDDEN)

    def linear(name, out, into):
        add(name + ".weight", out, into)
        add(name + ".bias", out)

    add("embeddings.word_embeddings.weight", VOCAB, HIDDEN)
    add("embeddings.position_embeddings.weight", positions, HIDDEN)
    add("embeddings.token_type_embeddings.weight", types, HIDDEN)
    norm("embeddings.LayerNorm")
    for i in range(LAYERS):
        p = f"encoder.layer.{i}."
        for part in ("query", "key", "value"):
            linear(p + "attention.self." + part, HIDDEN, HIDDEN)
        linear(p + "attention.output.dense", HIDDEN, HIDDEN)
        norm(p + "attention.output.LayerNorm")
        linear(p + "intermediate.dense", INNER, HIDDEN)
        linear(p + "output.dense", HIDDEN, INNER)
        norm(p + "output.LayerNorm")
    return w


def rounded(w, dtype):
    """What the file holds, and the same numbers in float64."""
    if dtype == "F16":
        stored = {k: v.astype(np.float16) for k, v in w.items()}
        return stored, {k: v.astype(np.float64) for k, v in stored.items()}
    if dtype == "BF16":  # numpy has no such type: keep the upper half of each float32
        stored = {k: (np.ascontiguousarray(v).view(np.uint32) >> 16).astype(np.uint16) for k, v in w.items()}
        return stored, {k: (v.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for k, v in stored.items()}
    return w, {k: v.astype(np.float64) for k, v in w.items()}


def forward(w, kind, act, eps, ids):
    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def heads(x):
        return x.reshape(len(x), HEADS, -1).transpose(1, 0, 2)

    ids = np.array(ids)
    if kind == "bert":
        positions = np.arange(len(ids))
    else:
        real = ids != PAD[kind]
        positions = np.cumsum(real) * real + PAD[kind]
    x = (w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][positions]
         + w["embeddings.token_type_embeddings.weight"][0])
    x = norm(x, "embeddings.LayerNorm")
    for i in range(LAYERS):
        p = f"encoder.layer.{i}."
        q, k, v = (heads(linear(x, p + "attention.self." + n)) for n in ("query", "key", "value"))
        s = q @ k.transpose(0, 2, 1) / math.sqrt(HIDDEN // HEADS)
        s = np.exp(s - s.max(-1, keepdims=True))
        a = (s / s.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), HIDDEN)
        x = norm(linear(a, p + "attention.output.dense") + x, p + "attention.output.LayerNorm")
        f = linear(ACTIVATIONS[act](linear(x, p + "intermediate.dense")), p + "output.dense")
        x = norm(f + x, p + "output.LayerNorm")
    return x


def pool(x, mode):
    n = np.arange(1, len(x) + 1)[:, None]
    return {"cls": lambda: x[0], "max": lambda: x.max(0), "mean": lambda: x.mean(0), "lasttoken": lambda: x[-1],
            "mean_sqrt_len_tokens": lambda: x.sum(0) / math.sqrt(len(x)),
            "weightedmean": lambda: (x * n).sum(0) / n.sum()}[mode]()


def vector(x, modes, unit):
    v = np.concatenate([pool(x, m) for m in modes])
    return v / np.linalg.norm(v) if unit else v


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n")


def tokenizer(folder, pad):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if pad == 0 else ["[CLS]", "[PAD]", "[UNK]", "[SEP]"]
    vocab = {t: i for i, t in enumerate(special + [chr(ord("a") + i % 26) + str(i) for i in range(VOCAB - 4)])}
    write(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": vocab[t], "content": t, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for t in special],
        "normalizer": None, "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab}})
    write(folder / "tokenizer_config.json", {"pad_token": "[PAD]", "model_max_length": 1e30})


def sentence(folder, pooling, unit):
    module = "sentence_transformers.models."
    entries = [("", "Transformer"), ("1_Pooling", "Pooling")] + ([("2_Normalize", "Normalize")] if unit else [])
    write(folder / "modules.json", [{"idx": i, "name": str(i), "path": p, "type": module + t}
                                    for i, (p, t) in enumerate(entries)])
    write(folder / "1_Pooling" / "config.json", pooling)


OLD = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "lasttoken": "lasttoken",
       "mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "weightedmean": "weightedmean_tokens"}


def variant(root, name, kind, modes, *, unit=False, positions=40, types=2, act="gelu", dtype="F32", prefix="",
            old_norms=False, shards=False, new_pooling=False, long_row=0):
    rng = np.random.default_rng(sum(map(ord, name)))
    folder = root / "variants" / name
    eps = 1e-12 if kind == "bert" else 1e-5
    stored, exact = rounded(weights(rng, positions, types), dtype)
    write(folder / "config.json", {
        "architectures": [{"bert": "BertModel", "roberta": "RobertaForMaskedLM", "xlm-roberta": "XLMRobertaModel"}[kind]],
        "model_type": kind, "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "intermediate_size": INNER, "max_position_embeddings": positions,
        "type_vocab_size": types, "pad_token_id": PAD[kind], "layer_norm_eps": eps, "hidden_act": act})
    tokenizer(folder, PAD[kind])
    sentence(folder, {"embedding_dimension": HIDDEN, "pooling_mode": modes} if new_pooling else
             {"word_embedding_dimension": HIDDEN} | {"pooling_mode_" + v: k in modes for k, v in OLD.items()}, unit)
    tensors = {prefix + k: v for k, v in stored.items()}
    if old_norms:
        tensors = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
                   for k, v in tensors.items()}
    save(folder, tensors, dtype, shards)
    rows = [rng.integers(4, VOCAB, n).tolist() for n in (1, 2, 7, 12, long_row) if n]
    rows.append([5, 6, PAD[kind], 7, 8])  # somebody typed the padding token
    write(folder / "reference.json",
          {"rows": rows, "vectors": [vector(forward(exact, kind, act, eps, r), modes, unit).tolist() for r in rows]})


def save(folder, tensors, dtype, shards):
    if not shards:
        save_file(tensors, folder / "model.safetensors")
        parts = ["model.safetensors"]
    else:
        names = sorted(tensors)
        parts = [f"model-0000{i + 1}-of-00003.safetensors" for i in range(3)]
        for i, part in enumerate(parts):
            save_file({n: tensors[n] for n in names[i::3]}, folder / part)
        write(folder / "model.safetensors.index.json",
              {"metadata": {}, "weight_map": {n: parts[i % 3] for i, n in enumerate(names)}})
    if dtype == "BF16":  # saved as whole numbers of the same width: name them rightly
        for part in parts:
            raw = (folder / part).read_bytes()
            n = int.from_bytes(raw[:8], "little")
            head = json.loads(raw[8:8 + n])
            for k in head:
                head[k]["dtype"] = "BF16"
            head = json.dumps(head).encode()
            (folder / part).write_bytes(len(head).to_bytes(8, "little") + head + raw[8 + n:])


def foreign(root, name, opset, *, modes=("mean",), unit=True, types=False, external=False, sentences=False, graph="onnx/model.onnx"):
    """A network that is one table: a token's vector is its row."""
    rng = np.random.default_rng(sum(map(ord, name)))
    table = rng.standard_normal((VOCAB, HIDDEN)).astype(np.float32)
    folder = root / "foreign" / name
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"])
           for n in ["input_ids", "attention_mask"] + ["token_type_ids"] * types]
    hidden = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", HIDDEN])
    # Every input is used, since a runtime may drop the others.
    nodes = [helper.make_node("Add", ["input_ids", "token_type_ids"] if types else ["input_ids", "zero"], ["index"]),
             helper.make_node("Gather", ["table", "index"], ["last_hidden_state"])]
    outputs = [hidden]
    if sentences:  # the first token's vector, under the name of a pooled output
        nodes.append(helper.make_node("Gather", ["last_hidden_state", "zero"], ["sentence_embedding"], axis=1))
        outputs.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", HIDDEN]))
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array(0, np.int64), "zero")]
    model = helper.make_model(helper.make_graph(nodes, "g", ids, outputs, constants),
                              opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    path = folder / graph
    path.parent.mkdir(parents=True, exist_ok=True)
    if external:
        (path.parent / "weights").mkdir(exist_ok=True)
        onnx.save(model, path, save_as_external_data=True, location="weights/table.bin", size_threshold=1024)
    else:
        onnx.save(model, path)
    write(folder / "config.json", {"model_type": "distilbert", "architectures": ["DistilBertModel"], "dim": HIDDEN,
                                   "n_layers": 1, "n_heads": 1, "vocab_size": VOCAB, "max_position_embeddings": 32})
    tokenizer(folder, 0)
    sentence(folder, {"embedding_dimension": HIDDEN, "pooling_mode": list(modes)}, unit)
    rows = [rng.integers(4, VOCAB, n).tolist() for n in (1, 3, 9)]
    write(folder / "reference.json",
          {"rows": rows, "vectors": [vector(table.astype(np.float64)[r], ["cls"] if sentences else modes, unit).tolist() for r in rows]})


def main(root):
    variant(root, "roberta-514", "roberta", ["mean"], unit=True, positions=514, types=1, prefix="roberta.", long_row=512)
    variant(root, "bert-cls-max-f16", "bert", ["cls", "max"], dtype="F16", unit=True)
    variant(root, "bert-lasttoken-bf16", "bert", ["lasttoken"], dtype="BF16", act="gelu_new", long_row=40)
    variant(root, "xlmr-weighted-sharded", "xlm-roberta", ["weightedmean"], types=1, act="relu", shards=True, prefix="model.")
    variant(root, "bert-meansqrt-old-names", "bert", ["mean_sqrt_len_tokens"], old_norms=True, prefix="bert.", new_pooling=True)
    variant(root, "bert-all", "bert", ["lasttoken", "cls", "mean", "max", "weightedmean"], new_pooling=True)
    foreign(root, "opset11", 11, modes=("mean", "max", "lasttoken"), types=True)
    foreign(root, "opset13-external", 13, modes=("weightedmean",), external=True, unit=False)
    foreign(root, "opset18", 18, modes=("max", "mean_sqrt_len_tokens"), graph="model.onnx")
    foreign(root, "sentence", 17, sentences=True)


main(Path(sys.argv[1]))
