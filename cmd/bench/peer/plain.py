"""Plain ONNX Runtime, as most people run it: an exported graph, one session over all cores, batches of 32
sorted by length, pooling in numpy.

usage: plain.py MODEL_FOLDER TEXTS.jsonl    prints one JSON line: seconds, texts, tokens, padding, peak memory

The graph is written the way an exporter writes it (separate projections, decomposed attention and GELU), and
left to the runtime's own optimiser at its highest level, which is what an exported file gets too.
"""

import json
import os
import resource
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

MAX_TOKENS = 256
BATCH = 32


class Graph:
    """Collects nodes and weights of an ONNX graph."""

    def __init__(self):
        self.nodes, self.weights, self.count = [], [], 0

    def const(self, value, dtype=np.float32):
        self.count += 1
        name = f"w{self.count}"
        array = np.asarray(value, dtype, order="C")  # ascontiguousarray would make a scalar a row
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        out = f"t{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"n{self.count}", **attributes))
        return out


def export(folder, path):
    """Writes the encoder of a BERT folder as a graph: input_ids, attention_mask, token_type_ids -> last_hidden_state."""
    config = json.load(open(os.path.join(folder, "config.json")))
    tensors = load_file(os.path.join(folder, "model.safetensors"))
    g = Graph()
    heads, hidden, eps = config["num_attention_heads"], config["hidden_size"], config["layer_norm_eps"]
    size = hidden // heads

    def linear(x, name):
        return g.op("Add", g.op("MatMul", x, g.const(tensors[name + ".weight"].T)), g.const(tensors[name + ".bias"]))

    def norm(x, name):
        weight, bias = g.const(tensors[name + ".weight"]), g.const(tensors[name + ".bias"])
        return g.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)

    def split(x, perm):
        return g.op("Transpose", g.op("Reshape", x, g.const([0, 0, heads, size], np.int64)), perm=perm)

    def embed(table, ids):
        return g.op("Gather", g.const(tensors[f"embeddings.{table}_embeddings.weight"]), ids)

    length = g.op("Squeeze", g.op("Slice", g.op("Shape", "input_ids"), g.const([1], np.int64), g.const([2], np.int64)))
    positions = g.op("Range", g.const(0, np.int64), length, g.const(1, np.int64))
    x = g.op("Add", g.op("Add", embed("word", "input_ids"), embed("token_type", "token_type_ids")), embed("position", positions))
    x = norm(x, "embeddings.LayerNorm")
    mask = g.op("Unsqueeze", g.op("Cast", "attention_mask", to=TensorProto.FLOAT), g.const([1, 2], np.int64))
    bias = g.op("Mul", g.op("Sub", g.const(1.0), mask), g.const(np.finfo(np.float32).min))
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        q = split(linear(x, at + "attention.self.query"), [0, 2, 1, 3])
        k = split(linear(x, at + "attention.self.key"), [0, 2, 3, 1])
        v = split(linear(x, at + "attention.self.value"), [0, 2, 1, 3])
        scores = g.op("Add", g.op("Div", g.op("MatMul", q, k), g.const(np.sqrt(size))), bias)
        y = g.op("Transpose", g.op("MatMul", g.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        y = g.op("Reshape", y, g.const([0, 0, hidden], np.int64))
        x = norm(g.op("Add", linear(y, at + "attention.output.dense"), x), at + "attention.output.LayerNorm")
        y = linear(x, at + "intermediate.dense")
        half = g.op("Mul", y, g.op("Add", g.op("Erf", g.op("Div", y, g.const(np.sqrt(2.0)))), g.const(1.0)))
        y = linear(g.op("Mul", half, g.const(0.5)), at + "output.dense")
        x = norm(g.op("Add", y, x), at + "output.LayerNorm")
    g.nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"]))

    def ids(name):
        return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])

    inputs = [ids("input_ids"), ids("attention_mask"), ids("token_type_ids")]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", hidden])
    graph = helper.make_graph(g.nodes, "encoder", inputs, [output], g.weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def run(session, encoded):
    """Embeds all rows in length-sorted batches; returns the vectors in the given order and the padded tokens run."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    vectors, padded = [None] * len(encoded), 0
    for at in range(0, len(order), BATCH):
        rows = order[at : at + BATCH]
        width = max(len(encoded[i]) for i in rows)
        ids = np.zeros((len(rows), width), np.int64)
        mask = np.zeros_like(ids)
        for k, i in enumerate(rows):
            ids[k, : len(encoded[i])] = encoded[i]
            mask[k, : len(encoded[i])] = 1
        padded += ids.size
        states = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})[0]
        weight = mask[:, :, None].astype(np.float32)
        mean = (states * weight).sum(1) / weight.sum(1)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        for k, i in enumerate(rows):
            vectors[i] = mean[k]
    return vectors, padded


def main(folder, texts_path):
    texts = [json.loads(line)["text"] for line in open(texts_path, encoding="utf-8")]
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "model.onnx")
        export(folder, path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    run(session, [tokenizer.encode(t).ids for t in texts[:64]])  # warm
    begin = time.perf_counter()
    encoded = [e.ids for e in tokenizer.encode_batch(texts)]
    vectors, padded = run(session, encoded)
    seconds = time.perf_counter() - begin
    tokens = sum(map(len, encoded))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "seconds": seconds, "texts": len(texts), "tokens": tokens, "padded_tokens": padded,
        "peak_kb": peak, "runtime": ort.__version__, "first": [float(x) for x in vectors[0][:4]],
    }))


if __name__ == "__main__":
    main(*sys.argv[1:])
