"""Inputs whose scale is taken as the network runs: the file, the runtime's kernels, the answers."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import bitwright as bw
from bitwright.export.packed import load_packed, save_packed
from bitwright.numerics.affine import QParams, fake_quantize, range_at_hand
from bitwright.numerics.grid import Grid

ROWS = torch.randn(24, 6, 32, generator=torch.Generator().manual_seed(0))


class Layers(torch.nn.Module):
    """Three layers that share an input, one without a bias, and a convolution."""

    def __init__(self):
        super().__init__()
        self.wide = torch.nn.Linear(32, 48)
        self.query = torch.nn.Linear(48, 48)
        self.key = torch.nn.Linear(48, 48, bias=False)
        self.mix = torch.nn.Conv1d(6, 6, 3, padding=1)
        self.out = torch.nn.Linear(48, 8)

    def forward(self, x):
        hidden = torch.nn.functional.gelu(self.wide(x))
        hidden = self.mix(torch.tanh(self.query(hidden)) * self.key(hidden))
        return self.out(hidden.mean(1))


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    net = Layers().eval()
    return {
        scheme: bw.quantize(
            net, [ROWS], recipe="fixed", scheme=scheme, target="ort-dynamic", method="nearest"
        )
        for scheme in ("w8a8", "w4a8", "w4a8g8")
    }


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8", "w4a8g8"])
def test_every_unit_is_as_simulated(made, scheme, tmp_path):
    path = made[scheme].export(tmp_path / "net.onnx")
    found = made[scheme].verify(path)
    assert found["passed"] and found["agreement"] == 1.0
    assert set(found["units"]) == {"wide", "query", "key", "mix", "out"}
    names = [node.op_type for node in onnx.load(str(path)).graph.node]
    # The shared input is quantised once; nothing is quantised by a range of calibration.
    assert names.count("DynamicQuantizeLinear") == 4 and "QuantizeLinear" not in names
    fused = found["optimized"]["operators"]
    products = fused.get("DynamicQuantizeMatMul", 0) + fused.get("MatMulIntegerToFloat", 0)
    assert products == (0 if "g" in scheme else 4), fused


def test_narrow_weights_are_stored_packed(made, tmp_path):
    sizes = {}
    for scheme in ("w8a8", "w4a8"):
        path = made[scheme].export(tmp_path / f"{scheme}.onnx")
        stored = onnx.load(str(path)).graph.initializer
        kinds = {t.data_type for t in stored if t.name.endswith(".weight.q")}
        assert kinds == {TensorProto.INT8 if scheme == "w8a8" else TensorProto.INT4}
        sizes[scheme] = sum(len(t.raw_data) for t in stored)
    layers = 32 * 48 + 2 * 48 * 48 + 48 * 8 + 6 * 6 * 3
    assert sizes["w8a8"] - sizes["w4a8"] == pytest.approx(layers / 2, rel=0.01)


def test_no_range_of_calibration_clips(made):
    """Values far beyond what was seen are quantised as finely as their own range asks."""
    net, far = made["w8a8"].model, 100.0 * ROWS[:4]
    torch.manual_seed(0)
    expected = Layers().eval()(far)
    assert (net(far) - expected).norm() <= 0.05 * expected.norm()
    torch.manual_seed(0)
    static = bw.quantize(
        Layers().eval(),
        [ROWS],
        recipe="fixed",
        scheme="w8a8",
        target="ort-linear",
        method="nearest",
    )
    clipped = static.model(far)
    assert clipped.abs().max() < 0.5 * expected.abs().max()


def test_what_is_saved_is_dynamic_again(made, tmp_path):
    result = made["w8a8"]
    save_packed(tmp_path / "model.safetensors", result.graph, result.assignment)
    loaded = load_packed(tmp_path / "model.safetensors").assignment
    assert loaded.edges and all(grid.dynamic for grid in loaded.edges.values())


VALUES = st.lists(
    st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=40
).map(lambda values: np.array(values, np.float32))


def dynamic_quantizer():
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    outputs = [("q", TensorProto.UINT8), ("s", TensorProto.FLOAT), ("z", TensorProto.UINT8)]
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info(n, kind, None) for n, kind in outputs],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


SESSION = dynamic_quantizer()


@given(VALUES)
def test_the_range_at_hand_is_onnx_runtimes(x):
    q, scale, zero = SESSION.run(None, {"x": x})
    own = range_at_hand(torch.from_numpy(x), Grid(8))
    assert float(own.scale) == float(scale) and int(own.zero_point) == int(zero)
    calibrated = QParams(Grid(8), torch.tensor(123.0), torch.tensor(7, dtype=torch.int32), True)
    got = fake_quantize(torch.from_numpy(x), calibrated).numpy()
    expected = (q.astype(np.int32) - int(zero)).astype(np.float32) * scale
    assert np.array_equal(got, expected)
