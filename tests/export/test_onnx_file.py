"""The ONNX file: standard operators, packed integers, and the numbers of the simulation."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from torch import nn

import bitwright as bw
from bitwright.export.onnx_file import unit_values
from bitwright.export.verify import session
from networks import Chain, Tied, TwoTowers, normal, pictures, seeded, small_network

IMAGES = pictures(48)
SCHEMES = ("w8a8", "w4a8", "w4a4", "w2a8", "w3a5", "w8a16")
GOLDEN = [(scheme, target) for target in ("paper", "ort-cpu") for scheme in SCHEMES]
GOLDEN += [(scheme, "weights-only") for scheme in ("w8a8", "w4a8", "w2a8", "w3a8")]


@cache
def small() -> nn.Module:
    return small_network()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One export for each scheme and target, made when first asked for."""
    folder = tmp_path_factory.mktemp("onnx")

    @cache
    def make(scheme: str, target: str):
        result = bw.quantize(small(), [IMAGES], recipe="fixed", scheme=scheme, target=target)
        path = result.export(folder / f"{scheme}-{target}.onnx")
        return result, path, onnx.load(str(path))

    return make


def ran(path, x, optimized: bool = False) -> torch.Tensor:
    runtime = session(path, optimized, threads=1)
    return torch.from_numpy(runtime.run(None, {runtime.get_inputs()[0].name: x.numpy()})[0])


def kinds(model) -> Counter:
    return Counter(TensorProto.DataType.Name(t.data_type) for t in model.graph.initializer)


def weights(model) -> list:
    return [t for t in model.graph.initializer if t.name.endswith(".weight.q")]


@pytest.mark.parametrize(("scheme", "target"), GOLDEN)
def test_the_runtime_computes_what_the_simulation_does(exported, scheme, target):
    """Optimisations off. A tie may round the other way in one of them: few, and by one step."""
    result, path, _ = exported(scheme, target)
    with torch.no_grad():
        want = result.model(IMAGES)
    got = ran(path, IMAGES)
    relative = (got - want).abs() / want.abs().max()
    assert float((relative < 2e-6).double().mean()) > 0.9
    assert float(relative.max()) < 0.02
    assert torch.equal(got.argmax(1), want.argmax(1))


@pytest.mark.parametrize(("scheme", "target"), GOLDEN)
def test_the_verification_passes(exported, scheme, target):
    result, path, _ = exported(scheme, target)
    found = result.verify(path)
    assert found["passed"] and found["first_failure"] is None
    assert set(found["units"]) == {u.name for u in result.graph.units}
    assert max(found["units"].values()) < 1e-6


@pytest.mark.parametrize(("scheme", "target"), GOLDEN)
def test_the_file_is_valid_standard_onnx(exported, scheme, target):
    _, path, model = exported(scheme, target)
    onnx.checker.check_model(str(path), full_check=True)
    assert {o.domain for o in model.opset_import} == {""}
    assert {n.domain for n in model.graph.node} == {""}
    assert model.opset_import[0].version == (25 if scheme == "w2a8" else 21)
    bits = int(scheme[1])
    width = next(w for w in (2, 4, 8) if bits <= w)
    kind = f"{'INT' if target == 'ort-cpu' else 'UINT'}{width}"
    assert len(weights(model)) == 5
    assert all(TensorProto.DataType.Name(t.data_type) == kind for t in weights(model))
    assert all(len(t.raw_data) == -(-int(np.prod(t.dims)) * width // 8) for t in weights(model))


@pytest.mark.parametrize(("scheme", "target"), GOLDEN)
@pytest.mark.parametrize("batch", [1, 5])
def test_the_batch_is_dynamic(exported, scheme, target, batch):
    result, path, model = exported(scheme, target)
    x = IMAGES[:batch]
    with torch.no_grad():
        want = result.model(x)
    got = ran(path, x)
    assert got.shape == (batch, 10) and float((got - want).abs().max()) < 0.02 * want.abs().max()
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param and [d.dim_value for d in shape[1:]] == [3, 16, 16]


@pytest.mark.parametrize(
    ("scheme", "clips", "kind"),
    [("w8a8", 0, "UINT8"), ("w4a4", 5, "UINT8"), ("w3a5", 5, "UINT8"), ("w8a16", 0, "UINT16")],
)
def test_inputs_of_odd_widths_are_clipped(exported, scheme, clips, kind):
    _, _, model = exported(scheme, "paper")
    nodes = {n.name: n for n in model.graph.node}
    own = [n for n in nodes.values() if n.op_type == "Clip" and n.name.endswith(".clip")]
    assert len(own) == clips
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in own:
        assert [int(constants[name]) for name in node.input[1:]] in ([0, 31], [0, 15])
    zeros = [t for t in model.graph.initializer if t.name.endswith(".zero")]
    quantizers = [n for n in nodes.values() if n.op_type == "QuantizeLinear"]
    used = {n.input[2] for n in quantizers}
    assert len(quantizers) == 5
    assert {TensorProto.DataType.Name(t.data_type) for t in zeros if t.name in used} == {kind}


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_the_other_odd_widths_agree_too(tmp_path, bits):
    scheme = f"w{bits}a{bits}"
    result = bw.quantize(small(), [IMAGES], recipe="fixed", scheme=scheme)
    path = result.export(tmp_path / "m.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    assert result.verify(path)["passed"]


def test_units_are_found_in_the_file(exported):
    result, _, model = exported("w8a8", "ort-cpu")
    values = {name for node in model.graph.node for name in (*node.input, *node.output)}
    places = unit_values(model)
    assert list(places) == [u.name for u in result.graph.units]
    assert all(start in values and end in values for start, end in places.values())


def test_integer_kernels_really_run(exported):
    result, path, _ = exported("w8a8", "ort-cpu")
    operators = result.verify(path)["optimized"]["operators"]
    assert operators["QLinearConv"] == 4 and operators["QLinearAdd"] == 1
    assert not {"Conv", "Add", "Relu", "Clip"} & set(operators)
    with torch.no_grad():
        same = ran(path, IMAGES, optimized=True).argmax(1) == result.model(IMAGES).argmax(1)
    assert float(same.double().mean()) >= 0.95


def test_paper_keeps_float_kernels(exported):
    result, path, _ = exported("w8a8", "weights-only")
    operators = result.verify(path)["optimized"]["operators"]
    assert not any(name.startswith("QLinear") for name in operators)


def test_no_weight_is_stored_in_float(exported):
    _, path, model = exported("w4a8", "paper")
    large = [t for t in model.graph.initializer if np.prod(t.dims) >= 64]
    assert {TensorProto.DataType.Name(t.data_type) for t in large} == {"UINT4"}
    result, other, wide = exported("w8a8", "paper")
    count = sum(u.params for u in result.graph.units)
    stored = [sum(len(t.raw_data) for t in m.graph.initializer) for m in (wide, model)]
    assert stored[0] - stored[1] == pytest.approx(count / 2, rel=0.05)
    # What widens a weight and takes its zero points off at load is four nodes, of 150 bytes each.
    nodes = 600 * len(result.graph.units)
    assert count / 2 - nodes <= other.stat().st_size - path.stat().st_size <= count / 2 * 1.05


@pytest.mark.parametrize("scheme", ["w4a8", "w2a8"])
def test_narrow_weights_run_on_the_kernels_of_eight_bits(exported, scheme):
    """Beside quantised inputs they are widened at load; beside floats they become floats then."""
    result, path, model = exported(scheme, "ort-cpu")
    cast = {node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    narrow = {t.name for t in model.graph.initializer if "INT4" in kind(t) or "INT2" in kind(t)}
    assert narrow and narrow <= cast
    operators = result.verify(path)["optimized"]["operators"]
    assert any(name.startswith("QLinearConv") for name in operators), operators
    _, _, alone = exported("w4a8", "weights-only")
    assert not any(node.op_type == "DequantizeLinear" for node in alone.graph.node)


def kind(tensor: TensorProto) -> str:
    return TensorProto.DataType.Name(tensor.data_type)


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(3, 6, 3), (3, 9)),
    "conv3d": (lambda: nn.Conv3d(3, 6, 2), (3, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 6, 3, stride=2), (3, 5, 5)),
    "transposed grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5)),
    "same padding": (lambda: nn.Conv2d(3, 6, 4, padding="same"), (3, 7, 7)),
    "dilated": (lambda: nn.Conv2d(3, 6, 3, dilation=2), (3, 9, 9)),
    "linear on a sequence": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear without bias": (lambda: nn.Linear(6, 4, bias=False), (6,)),
}


@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_layer_is_exported(tmp_path, kind, target):
    make, shape = LAYERS[kind]
    net, x = seeded(lambda: Chain(make(), nn.ReLU())).eval(), normal(16, *shape)
    result = bw.quantize(net, [x], recipe="fixed", scheme="w8a8", target=target)
    path = result.export(tmp_path / "m.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    found = result.verify(path)
    assert found["passed"] and found["max_relative_difference"] < 1e-2, found


def test_shared_weights_are_stored_once(tmp_path):
    result = bw.quantize(seeded(Tied).eval(), [normal(32, 6)], recipe="fixed", scheme="w4a8")
    path = result.export(tmp_path / "m.onnx")
    assert len(weights(onnx.load(str(path)))) == 2
    found = result.verify(path)
    assert found["passed"] and set(found["units"]) == {"twice", "twice#2", "head"}


class Logits(TwoTowers):
    def forward(self, first, second):
        return {"logits": super().forward(first, second)["logits"]}


@pytest.mark.parametrize(
    "make",
    [
        Logits,
        TwoTowers,
    ],
)
def test_keyword_inputs_keep_their_names(tmp_path, make):
    batch = {"first": normal(32, 4), "second": normal(32, 6, seed=1)}
    result = bw.quantize(seeded(make).eval(), [batch], recipe="fixed", scheme="w8a8")
    path = result.export(tmp_path / "m.onnx")
    runtime = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {i.name for i in runtime.get_inputs()} == {"first", "second"}
    assert result.verify(path)["passed"]


def test_an_embedding_is_exported(tmp_path):
    class Embeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(30, 8), nn.Linear(8, 3)

        def forward(self, tokens):
            return self.head(self.words(tokens).mean(1))

    tokens = torch.randint(0, 30, (32, 7), generator=torch.Generator().manual_seed(0))
    result = bw.quantize(seeded(Embeds).eval(), [tokens], recipe="fixed", scheme="w4a8")
    path = result.export(tmp_path / "m.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    assert result.verify(path)["passed"]
    assert kinds(onnx.load(str(path)))["UINT4"] >= 2


@pytest.mark.parametrize("target", ["paper", "ort-cpu", "weights-only"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_mean_over_the_image_may_be_the_result(tmp_path, target, keep):
    class Scores(nn.Module):
        """As SqueezeNet ends."""

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.last(self.first(x).relu()).relu().mean((2, 3), keepdim=keep)

    result = bw.quantize(
        seeded(Scores).eval(), [IMAGES], recipe="fixed", scheme="w4a8", target=target
    )
    path = result.export(tmp_path / "m.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    made = onnx.load(str(path)).graph
    assert "GlobalAveragePool" in {node.op_type for node in made.node}
    assert made.output[0].name in {name for node in made.node for name in node.output}
    assert result.verify(path)["passed"]


def test_rows_of_a_table_may_be_the_result(tmp_path):
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(30, 8)

        def forward(self, tokens):
            return self.words(tokens)

    tokens = torch.randint(0, 30, (32, 7), generator=torch.Generator().manual_seed(0))
    result = bw.quantize(seeded(Rows).eval(), [tokens], recipe="fixed", scheme="w4a8", keep="")
    path = result.export(tmp_path / "m.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    want = result.model(tokens).detach()
    runtime = session(path, False, threads=1)
    got = runtime.run(None, {runtime.get_inputs()[0].name: tokens.numpy()})[0]
    assert np.array_equal(got, want.numpy())


class Padded(nn.Module):
    """Zeros around an image as an operator of their own, other numbers, and zeros read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 2, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = torch.relu(self.first(nn.functional.pad(x, (0, 1, 0, 1))))
        x = nn.functional.pad(self.second(nn.functional.pad(x, (1, 1, 1, 1), value=1.0)), (1,) * 4)
        return (self.left(x) + self.right(x)).mean((2, 3))


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8x2"])
def test_the_exporters_own_rule_puts_zeros_into_the_convolution(tmp_path, scheme):
    """Nothing of ours does; and no operator ends in an empty name for a bias that it lacks."""
    result = bw.quantize(
        seeded(Padded).eval(), [IMAGES], recipe="fixed", scheme=scheme, target="ort-cpu"
    )
    path = result.export(tmp_path / "m.onnx")
    nodes = onnx.load(str(path)).graph.node
    assert len([n for n in nodes if n.op_type == "Pad"]) == 2
    assert all(n.input[-1] for n in nodes if n.op_type == "Conv")
    found = result.verify(path)
    assert found["passed"] and max(found["units"].values()) < 1e-5


def test_a_unit_that_the_file_lacks_is_a_difference(tmp_path):
    """Its values are not there, or lead on to an input that is not its own."""
    result = bw.quantize(
        seeded(TwoTowers).eval(), [{"first": normal(9, 4), "second": normal(9, 6)}], recipe="fixed"
    )
    path = result.export(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    (entry,) = [e for e in model.metadata_props if e.key == "bitwright.units"]
    places = json.loads(entry.value)
    names = sorted(places)
    places[names[0]], places[names[1]] = ["nowhere", "none"], ["first", places[names[-1]][1]]
    entry.value = json.dumps(places)
    onnx.save(model, str(path))
    units = result.verify(path)["units"]
    assert units[names[0]] == units[names[1]] == float("inf")
    assert all(units[name] < 1e-6 for name in names[2:])
