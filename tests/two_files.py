"""A small network as ONNX: as exported, prepared, and quantised by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

SIZE, CHANNELS, CLASSES = 8, 6, 5


def samples(count: int = 12) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


def stored() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[-1] * 3))

    found = {
        "w1": draw(CHANNELS, 3, 3, 3), "b1": draw(CHANNELS),
        "w2": draw(CHANNELS, CHANNELS, 3, 3), "w3": draw(CHANNELS, CHANNELS, 3, 3),
        "wf": draw(CHANNELS, CLASSES), "bf": draw(CLASSES),
    }  # fmt: skip
    for name in ("n1", "n2"):
        found |= {
            f"{name}.scale": rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32),
            f"{name}.bias": draw(CHANNELS), f"{name}.mean": draw(CHANNELS),
            f"{name}.var": rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32),
        }  # fmt: skip
    return found


def nodes() -> list[onnx.NodeProto]:
    def norm(name: str, value: str) -> onnx.NodeProto:
        own = [f"{name}.{part}" for part in ("scale", "bias", "mean", "var")]
        return helper.make_node("BatchNormalization", [value, *own], [f"{name}.out"], name=name)

    def conv(name: str, *inputs: str) -> onnx.NodeProto:
        return helper.make_node("Conv", list(inputs), [f"{name}.out"], name=name, pads=[1] * 4)

    return [
        conv("first", "image", "w1", "b1"),
        norm("n1", "first.out"),
        helper.make_node("Relu", ["n1.out"], ["r1"], name="relu1"),
        # Two operators of one kind and shape on the same value: their weights tell them apart.
        conv("left", "r1", "w2"),
        conv("right", "r1", "w3"),
        norm("n2", "left.out"),
        helper.make_node("Add", ["n2.out", "right.out"], ["sum"], name="join"),
        helper.make_node("Relu", ["sum"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "wf", "bf"], ["scores"], name="last"),
    ]


def network(batch: int | str = "batch", given: dict[str, np.ndarray] | None = None):
    graph = helper.make_graph(
        nodes(),
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(v, k) for k, v in (given or stored()).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


class Reader(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter(samples())

    def get_next(self):
        one = next(self.left, None)
        return None if one is None else {"image": one[None]}


def write_all(folder: Path) -> Path:
    """float.onnx, prepared.onnx, qdq.onnx, integers.onnx, dynamic.onnx and data.npz."""
    onnx.save(network(), folder / "float.onnx")
    prepared = str(folder / "prepared.onnx")
    quant_pre_process(str(folder / "float.onnx"), prepared, skip_symbolic_shape=True)
    kinds = quantization.QuantType
    for name, form in (("qdq", "QDQ"), ("integers", "QOperator")):
        quantization.quantize_static(
            prepared, str(folder / f"{name}.onnx"), Reader(), per_channel=True,
            quant_format=quantization.QuantFormat[form],
            activation_type=kinds.QUInt8, weight_type=kinds.QInt8,
        )  # fmt: skip
    quantization.quantize_dynamic(prepared, str(folder / "dynamic.onnx"))
    np.savez(folder / "data.npz", image=samples())
    return folder
