"""Small ONNX files made for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str | None]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    types: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of these nodes; inputs are float unless `types` says otherwise."""
    kinds = types or {}
    ir = {v: helper.make_opsetid("", opset) for v in ("",)}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(n, kinds.get(n, FLOAT), None if s is None else list(s))
            for n, s in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=list(ir.values()), ir_version=10)


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model as it is."""
    path.write_bytes(model.SerializeToString())
    return path


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[Any]:
    """The outputs of a model in ONNX Runtime without its optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(feeds))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """The same random float numbers each time."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def classifier(path: Path, batch: int | str = "n", names: bool = True) -> Path:
    """A convolution, an activation, pooling and a linear layer; `names` of nodes are kept."""
    nodes = [
        helper.make_node("Conv", ["image:0", "w1", "b1"], ["c"], name="/stem/Conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="/stem/Relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="/pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="/flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["scores.out"], name="/head/Gemm", transB=1),
    ]
    if not names:
        for node in nodes:
            node.name = ""
    weights = {
        "w1": numbers(8, 3, 3, 3), "b1": numbers(8, seed=1),
        "w2": numbers(5, 8, seed=2), "b2": numbers(5, seed=3),
    }  # fmt: skip
    model = model_of(nodes, {"image:0": [batch, 3, 8, 8]}, ["scores.out"], weights)
    return save(model, path)
