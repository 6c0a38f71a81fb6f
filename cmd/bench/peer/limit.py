"""The machine's fp32 matrix limit, as a graph: the two products of a feed-forward block of all-MiniLM-L6-v2 at
1,024 tokens, one after the other.

usage: limit.py OUT.onnx    prints one JSON line: the products' floating-point operations a run

The graph has the inputs and the output of an embedding model, so that it runs through the same session code; what
they add to the products is under a thousandth of the time.
"""

import json
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TOKENS, HIDDEN, INNER, PAIRS = 1024, 384, 1536, 20


def main(out):
    random = np.random.default_rng(1)
    nodes, weights = [], []

    def const(value, name):
        weights.append(numpy_helper.from_array(value, name))
        return name

    def op(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    start = const(random.standard_normal((TOKENS, HIDDEN)).astype(np.float32), "start")
    zero = const(np.zeros((), np.float32), "zero")
    both = op("Add", [op("Cast", ["input_ids"], "ids", to=TensorProto.FLOAT), op("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT)], "both")
    largest = op("ReduceMax", [both], "largest", keepdims=0)
    x = op("Add", [start, op("Mul", [largest, zero], "nothing")], "x0")
    for i in range(PAIRS):
        # Scaled so that the values neither vanish nor overflow on their way.
        up = const((random.standard_normal((HIDDEN, INNER)) / HIDDEN**0.5).astype(np.float32), f"up{i}")
        down = const((random.standard_normal((INNER, HIDDEN)) / INNER**0.5).astype(np.float32), f"down{i}")
        x = op("MatMul", [op("MatMul", [x, up], f"y{i}"), down], f"x{i + 1}")
    op("ReduceMean", [x], "embedding", axes=[0], keepdims=1)
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "s"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, HIDDEN])
    graph = helper.make_graph(nodes, "limit", inputs, [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), out)
    print(json.dumps({"flop": 2 * 2 * PAIRS * TOKENS * HIDDEN * INNER, "hidden": HIDDEN}))


if __name__ == "__main__":
    main(*sys.argv[1:])
