"""Makes the small graphs of this package's tests. usage: python gen.py   (needs numpy and onnx)

The embedding table is the identity, so a row's vector counts its ids: [1, 1, 2] gives (0, 2, 1, 0, ...)
scaled to length 1. Padding shows at once if the mask is not heeded.
"""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCAB = 8


def graph(path, ids=TensorProto.INT64, extra=(), dim=None, pooled=True, layers=0, width=VOCAB):
    nodes, weights = [], []

    def const(name, value):
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(op, *inputs, **attributes):
        name = f"{op}_{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    table = np.zeros((VOCAB, width), np.float32)
    table[:, :VOCAB] = np.eye(VOCAB)
    tokens = "input_ids"
    if ids != TensorProto.INT64:
        tokens = node("Cast", tokens, to=TensorProto.INT64)
    for name in extra:
        tokens = node("Add", tokens, name)  # zeros change nothing
    x = node("Gather", const("table", table), tokens)
    if layers:  # work for the cancelling test, from a weight that takes no room in the file
        size = const("size", np.array([width, width], np.int64))
        weight = node("Expand", const("value", np.float32(1 / width)), size)
        for _ in range(layers):
            x = node("Tanh", node("MatMul", x, weight))
    if pooled:
        mask = node("Unsqueeze", node("Cast", "attention_mask", to=TensorProto.FLOAT), const("last", np.array([2], np.int64)))
        one = const("one", np.array([1], np.int64))
        x = node("ReduceSum", node("Mul", x, mask), one, keepdims=0)
        x = node("LpNormalization", x, axis=1, p=2)
    nodes.append(helper.make_node("Identity", [x], ["embedding"]))
    inputs = [helper.make_tensor_value_info("input_ids", ids, ["batch", "tokens"])]
    for name in ("attention_mask", *extra):
        inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]))
    shape = ["batch", dim or "dim"] if pooled else ["batch", "tokens", width]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, shape)]
    g = helper.make_graph(nodes, "test", inputs, outputs, weights)
    model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


graph("counts.onnx", dim=VOCAB)
graph("open.onnx")
graph("types.onnx", extra=["token_type_ids"], dim=VOCAB)
graph("positions.onnx", extra=["position_ids"], dim=VOCAB)
graph("floats.onnx", ids=TensorProto.FLOAT, dim=VOCAB)
graph("unpooled.onnx", pooled=False)
graph("slow.onnx", dim=256, layers=400, width=256)
