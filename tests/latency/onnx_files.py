"""Small ONNX files written by hand, so that no test of timing has to export a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 32


def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)


def write(path: Path, nodes, stored, batch="batch", opset=21) -> Path:
    shape = [batch, WIDTH]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


def float_file(path: Path, batch="batch") -> Path:
    return write(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight()}, batch)


def integer_file(path: Path, batch="batch") -> Path:
    """The same with its input and weight quantised to 8 bits, as any producer writes it."""
    scale = np.float32(np.abs(weight()).max() / 127)
    stored = {
        "s": np.float32(0.05), "z": np.uint8(128), "ws": scale, "wz": np.int8(0),
        "w": np.rint(weight() / scale).astype(np.int8), "t": np.float32(0.3), "u": np.uint8(128),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "t", "u"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "t", "u"], ["y"]),
    ]
    return write(path, nodes, stored, batch)


def foreign_file(path: Path) -> Path:
    """A file of an operator that no runtime knows."""
    return write(path, [helper.make_node("Nobody", ["x"], ["y"], domain="nowhere")], {})
