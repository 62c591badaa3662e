"""Linear layers in blocks (MatMulNBits): the simulation, the file, the runtime's kernels."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.export.float_twin import float_twin
from bitwright.export.onnx_nbits import floats_of, pack_bits, unpack_bits
from bitwright.export.packed import load_packed, save_packed
from bitwright.graph.simulate import stitch
from bitwright.graph.target import load_target, parse_target
from bitwright.numerics.affine import QParams, fake_quantize, in_blocks, quantize
from bitwright.numerics.grid import Grid
from bitwright.tuning.straight import differentiable, run_with

ROWS = torch.randn(12, 6, 32, generator=torch.Generator().manual_seed(0))
BLOCKS = {"wide": 16, "query": 64, "key": 64, "odd": 32}


class Turned(torch.nn.Module):
    """A layer whose weight is laid out [inputs, outputs]."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(0.1 * torch.randn(inputs, outputs))
        self.bias = torch.nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Layers(torch.nn.Module):
    """Layers that share an input, one without a bias, one turned, a convolution, one too narrow."""

    def __init__(self):
        super().__init__()
        self.wide = torch.nn.Linear(32, 128)
        self.query = torch.nn.Linear(128, 96)
        self.key = torch.nn.Linear(128, 96, bias=False)
        self.mix = torch.nn.Conv1d(6, 6, 3, padding=1)
        self.odd = Turned(96, 20)
        self.out = torch.nn.Linear(20, 8)

    def forward(self, x):
        hidden = torch.nn.functional.gelu(self.wide(x))
        hidden = self.mix(torch.tanh(self.query(hidden)) * self.key(hidden))
        return self.out(torch.relu(self.odd(hidden.mean(1))))


def quantised(scheme, **more):
    torch.manual_seed(0)
    options = {"recipe": "fixed", "method": "nearest", "target": "ort-blocks", **more}
    return bw.quantize(Layers().eval(), [ROWS], scheme=scheme, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    found = {}
    for scheme in ("w4a8", "w8a8", "w4afloat", "w3a8g16"):
        result = quantised(scheme)
        found[scheme] = result, result.export(folder / f"{scheme}.onnx")
    return found


@pytest.mark.parametrize("scheme", ["w4a8", "w8a8", "w4afloat", "w3a8g16"])
def test_every_unit_is_as_simulated(made, scheme):
    result, path = made[scheme]
    found = result.verify(path)
    assert found["passed"] and found["agreement"] == 1.0
    assert set(found["units"]) == {*BLOCKS, "mix", "out"}
    assert max(found["units"].values()) < 1e-5
    file = onnx.load(str(path))
    layers = [node for node in file.graph.node if node.op_type == "MatMulNBits"]
    own = [{a.name: a.i for a in node.attribute} for node in layers]
    blocks = [16] * 4 if scheme.endswith("g16") else list(BLOCKS.values())
    assert [a["block_size"] for a in own] == blocks
    assert {a["bits"] for a in own} == {8 if scheme == "w8a8" else 4}
    assert {a["accuracy_level"] for a in own} == {1 if scheme == "w4afloat" else 4}
    assert found["optimized"]["operators"]["MatMulNBits"] == 4
    # Nothing else is quantised, and no float weight of a layer is left beside its packed one.
    assert not any(node.op_type == "QuantizeLinear" for node in file.graph.node)
    stored = {t.name: t.data_type for t in file.graph.initializer}
    assert all(stored[f"{name}.weight.q"] == TensorProto.UINT8 for name in BLOCKS)


def test_what_has_no_kernel_in_blocks_is_float_at_run(made):
    choices = made["w4a8"][0].allocation["choices"]
    assert {n: c.get("group") for n, c in choices.items() if c["a_bits"]} == BLOCKS
    assert {n for n, c in choices.items() if not c["a_bits"]} == {"mix", "out"}


def test_a_block_has_a_range_of_its_own(made):
    """One value far out costs the precision of its block, and of no other row."""
    net = made["w8a8"][0].model
    far = ROWS.clone()
    far[0, 0, 0] = 1e4
    assert torch.equal(net(far)[1:], net(ROWS)[1:])


def test_the_float_twin_multiplies_the_same_weights(made):
    result, path = made["w4afloat"]
    twin = float_twin(onnx.load(str(path)))
    assert "MatMulNBits" not in {node.op_type for node in twin.graph.node}
    session = load(twin)
    (got,) = session.run(None, {session.get_inputs()[0].name: ROWS.numpy()})
    want = result.model(ROWS).detach().numpy()
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def test_what_is_saved_is_in_blocks_again(made, tmp_path):
    result, _ = made["w4a8"]
    save_packed(tmp_path / "model.safetensors", result.graph, result.assignment)
    loaded = load_packed(tmp_path / "model.safetensors").assignment
    assert {grid.block for grid in loaded.edges.values()} == set(BLOCKS.values())
    assert all(grid.dynamic for grid in loaded.edges.values())


def test_gradients_pass_whole(made):
    result, _ = made["w8a8"]
    copy = differentiable(stitch(result.graph, result.assignment))
    x = ROWS.clone().requires_grad_()
    (got,) = run_with(copy, (x,), {})
    assert torch.equal(got.detach(), result.model(ROWS))
    got.sum().backward()
    assert float(x.grad.abs().min()) > 0


@pytest.mark.parametrize("method", ["quadratic", "adaquant"])
def test_methods_that_learn_from_data(method, tmp_path):
    if method == "adaquant":  # it solves no groups, and the target has nothing else
        with pytest.raises(RecipeError, match="solves no groups"):
            quantised("w4a8", method=method)
        return
    plain, better = quantised("w4a8"), quantised("w4a8", method=method, mode="sequential")
    assert better.metrics["relative_noise"] < plain.metrics["relative_noise"]
    assert better.verify(better.export(tmp_path / "net.onnx"))["passed"]


def test_a_menu_is_refused():
    with pytest.raises(RecipeError, match=r"whose weights are in\s+groups"):
        quantised("w4a8", menu="w4a8,w8a8", budget="size<=0.2")


def test_the_length_of_blocks():
    target = load_target("ort-blocks")
    assert [target.block_of(n) for n in (384, 128, 96, 20, 16)] == [128, 64, 32, 0, 0]
    assert target.block_of(384, 32) == 32 and target.block_of(384, 48) == 32
    with pytest.raises(RecipeError, match=r"blocks is 48\. It is 0"):
        parse_target('name = "x"\nblocks = 48', "x.toml")


@given(st.integers(1, 9), st.sampled_from((2, 4, 8)), st.integers(0, 2**32 - 1))
def test_packed_bits_come_back(count, bits, seed):
    values = np.random.default_rng(seed).integers(0, 1 << bits, (3, count))
    packed = pack_bits(values, bits)
    assert packed.shape[-1] == -(-count * bits // 8)
    assert np.array_equal(unpack_bits(packed, bits, count), values)


def product(q, scale, zero, bits, block, level):
    """A file of one MatMulNBits."""
    outputs, width = len(q), q.shape[1] * block
    stored = {"B": pack_bits(q, bits), "S": scale, "Z": pack_bits(zero, bits)}
    node = helper.make_node(
        "MatMulNBits", ["x", *stored], ["y"], domain="com.microsoft", K=width, N=outputs,
        bits=bits, block_size=block, accuracy_level=level,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, outputs])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )  # fmt: skip
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def load(model):
    """A session of one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    content = model.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(model, x):
    return load(model).run(None, {"x": x})[0]


def identity(block):
    """A product that gives its input back, as it was quantised."""
    q = (128 + np.eye(2 * block, dtype=np.int64)).reshape(2 * block, 2, block)
    ones = np.ones((2 * block, 2), np.float32)
    return product(q, ones, np.full((2 * block, 2), 128), 8, block, 4)


SESSIONS = {}
NUMBERS = st.floats(-1e6, 1e6, width=32).map(lambda x: x if abs(x) > 1e-6 else 0.0)


@settings(max_examples=60)
@given(st.lists(NUMBERS, min_size=1, max_size=12), st.sampled_from((16, 32)))
def test_an_input_gets_the_integers_of_the_kernel(values, block):
    x = np.resize(np.array(values, np.float32), 2 * block)
    qparams = QParams.of(
        Grid(8, True), torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), block
    )
    want = fake_quantize(torch.from_numpy(x)[None], qparams)
    if block not in SESSIONS:
        SESSIONS[block] = load(identity(block))
    (got,) = SESSIONS[block].run(None, {"x": x[None]})
    steps, scales = in_blocks(torch.from_numpy(x)[None], qparams.grid, block)
    assert float(steps.abs().max()) <= 127
    # The kernel takes zero points off by a sum of floats, 128 for each weight here.
    own = got.reshape(steps.shape) / np.where(scales > 0, scales, 1)
    assert np.abs(own - steps.numpy()).max() < 0.25
    assert torch.equal(
        quantize(torch.from_numpy(x)[None], qparams), steps.flatten(-2).to(torch.int8)
    )
    assert torch.equal((steps * scales).flatten(-2), want)


@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 5])
def test_products_are_those_of_the_formula(bits, block, rows):
    """Against float64, at every length of blocks, with zero points."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 2 * block)).astype(np.float32)
    q, zero = (rng.integers(0, 1 << bits, size) for size in ((12, 2, block), (12, 2)))
    scale = rng.uniform(0.01, 0.02, (12, 2)).astype(np.float32)
    weight = ((q - zero[..., None]) * scale[..., None].astype(np.float64)).reshape(12, -1)
    qparams = QParams.of(
        Grid(8, True), torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), block
    )
    given = {1: x, 4: fake_quantize(torch.from_numpy(x), qparams).numpy()}
    for level, seen in given.items():
        model = product(q, scale, zero, bits, block, level)
        want = seen.astype(np.float64) @ weight.T
        assert np.abs(run(model, x) - want).max() < 2e-6 * np.abs(want).max()
        node = next(iter(ir.from_proto(model).graph))
        assert np.allclose(floats_of(node), weight.T, rtol=1e-6)
