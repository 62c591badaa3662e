"""Weights that are sums of several low-bit tensors, in the files and in ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from functools import cache

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

import bitwright as bw
from bitwright.export.packed import load_packed, save_packed
from bitwright.export.verify import session
from networks import Chain, Tied, normal, pictures, seeded, small_network

IMAGES = pictures(48)
GOLDEN = [("w4a8x2", "paper"), ("w2a8x3", "weights-only"), ("w4a8x3", "ort-cpu")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One export for each scheme and target, made when first asked for."""
    folder = tmp_path_factory.mktemp("points")
    net = small_network()

    @cache
    def make(scheme: str, target: str):
        result = bw.quantize(net, [IMAGES], recipe="fixed", scheme=scheme, target=target)
        path = result.export(folder / f"{scheme}-{target}.onnx")
        return result, path, onnx.load(str(path))

    return make


def ran(path, x) -> torch.Tensor:
    runtime = session(path, False, threads=1)
    return torch.from_numpy(runtime.run(None, {runtime.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize(("scheme", "target"), GOLDEN)
def test_units_and_network_agree_with_the_runtime(exported, scheme, target):
    result, path, _ = exported(scheme, target)
    found = result.verify(path)
    assert found["passed"] and found["agreement"] >= 0.995
    assert set(found["units"]) == {u.name for u in result.graph.units}
    assert max(found["units"].values()) < 1e-5
    with torch.no_grad():
        want = result.model(IMAGES)
    relative = (ran(path, IMAGES) - want).abs() / want.abs().max()
    assert float((relative < 2e-6).double().mean()) > 0.9


@pytest.mark.parametrize(("scheme", "target"), GOLDEN)
def test_low_bit_tensors_in_parallel_on_one_quantised_input(exported, scheme, target):
    _, path, model = exported(scheme, target)
    onnx.checker.check_model(str(path), full_check=True)
    assert {n.domain for n in model.graph.node} == {""}
    points, bits = int(scheme[-1]), int(scheme[1])
    stored = [t for t in model.graph.initializer if ".weight" in t.name and t.name.endswith(".q")]
    width = 2 if bits == 2 else 4
    kinds = Counter(TensorProto.DataType.Name(t.data_type) for t in stored)
    # Two's complement: of a signed sum the first point alone is signed.
    signed = {f"INT{width}": 5, f"UINT{width}": 5 * (points - 1)}
    assert kinds == (signed if target == "ort-cpu" else {f"UINT{width}": 5 * points})
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert len(convolutions) == 4 * points
    read = Counter(n.input[0] for n in convolutions)
    assert set(read.values()) == {points}
    assert len([n for n in convolutions if len(n.input) > 2 and n.input[2]]) == 4


def test_points_added_before_the_operator(exported, tmp_path):
    result, _, _ = exported("w4a8x2", "paper")
    own = tmp_path / "target.toml"
    own.write_text('name = "adds weights"\npoints = "sum"\n')
    other = bw.quantize(small_network(), [IMAGES], recipe="fixed", scheme="w4a8x2", target=str(own))
    path = other.export(tmp_path / "sum.onnx")
    model = onnx.load(str(path))
    assert len([n for n in model.graph.node if n.op_type == "Conv"]) == 4
    assert other.verify(path)["passed"]
    with torch.no_grad():
        assert torch.equal(other.model(IMAGES), result.model(IMAGES))


@pytest.mark.parametrize(("scheme", "bits", "parts"), [("w4a8x2", 4, 2), ("w4a16", 8, 2)])
def test_inputs_in_parts(scheme, bits, parts, tmp_path):
    """High and low parts of every input meet every point of the weight."""
    own = tmp_path / "target.toml"
    own.write_text(f'name = "small words"\ninput_part_bits = {bits}\n')
    result = bw.quantize(small_network(), [IMAGES], recipe="fixed", scheme=scheme, target=str(own))
    path = result.export(tmp_path / "parts.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path))
    points = 2 if scheme.endswith("x2") else 1
    assert len([n for n in model.graph.node if n.op_type == "Conv"]) == 4 * points * parts
    found = result.verify(path)
    assert found["passed"] and max(found["units"].values()) < 1e-5
    masks = [t for t in model.graph.initializer if t.name.endswith(".mask")]
    assert {int(onnx.numpy_helper.to_array(t)) for t in masks} == {2**bits - 1}


class Odd(nn.Module):
    """What is not a plain layer: a table, a product with a turned weight, a transposed kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.up = nn.ConvTranspose1d(8, 4, 2, stride=2)

    def forward(self, x):
        return self.up((self.table(x) @ self.weight).transpose(1, 2)).mean(2)


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (Odd, torch.arange(40).reshape(4, 10) % 20),
        (Tied, normal(9, 6)),
        (lambda: Chain(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)), normal(9, 6)),
    ],
)
def test_every_kind_of_unit_is_taken_apart(make, inputs, tmp_path):
    result = bw.quantize(seeded(make).eval(), [inputs], recipe="fixed", scheme="w4a8x2")
    path = result.export(tmp_path / "m.onnx")
    found = result.verify(path)
    assert found["passed"] and max(found["units"].values()) < 1e-5
    adds = [n for n in onnx.load(str(path)).graph.node if n.op_type == "Add"]
    # The weights themselves are added nowhere.
    assert not any(n.output[0].endswith(".weight.float") for n in adds)


@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
@pytest.mark.parametrize("scheme", ["w3a8x2", "w4a8x4"])
def test_the_packed_file_holds_them_exactly(scheme, target, tmp_path):
    result = bw.quantize(small_network(), [IMAGES], recipe="fixed", scheme=scheme, target=target)
    save_packed(tmp_path / "m", result.graph, result.assignment)
    found = load_packed(tmp_path / "m").assignment
    for name, solved in result.assignment.weights.items():
        got = found.weights[name]
        assert got.points == solved.points and got.qparams.grid == solved.qparams.grid
        assert got.q.dtype == solved.q.dtype and torch.equal(got.q.int(), solved.q.int())
        assert torch.equal(got.qparams.scale, solved.qparams.scale)
        assert torch.equal(got.qparams.zero_point, solved.qparams.zero_point)


def test_the_file_has_the_size_that_is_paid_for(tmp_path):
    net = seeded(lambda: Chain(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 128))).eval()
    result = bw.quantize(net, [normal(32, 512)], recipe="fixed", scheme="w3a8x2")
    size = save_packed(tmp_path / "m", result.graph, result.assignment)
    weights = (512 * 256 + 256 * 128) * 2 * 3 / 8
    others = (256 + 128) * (4 + 4 + 2 * 3 / 8)
    assert weights + others <= size <= weights + others + 2500
    # A unit's price counts its share of the rest of the file.
    stated = sum(row.weight_bits for row in result.table.rows) / 8
    assert weights + others - 4 * (256 + 128) <= stated <= size


def test_channels_with_points_of_their_own(tmp_path):
    """Packed at the points of each channel, and verified."""
    net = small_network()
    with torch.no_grad():
        net.stem.weight *= torch.logspace(-2, 1, len(net.stem.weight))[:, None, None, None]
    result = bw.quantize(net, [IMAGES], recipe="fixed", scheme="w2a8x2", method="aciq")
    stem = result.assignment.weights["stem"]
    assert stem.channel_bits and stem.points > 2
    save_packed(tmp_path / "m", result.graph, result.assignment)
    got = load_packed(tmp_path / "m").assignment.weights["stem"]
    assert got.points == stem.points and got.channel_bits == stem.channel_bits
    assert torch.equal(got.q.int(), stem.q.int())
    found = result.verify(result.export(tmp_path / "m.onnx"))
    assert found["passed"] and max(found["units"].values()) < 1e-5
