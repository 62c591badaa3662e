"""The user's own graph, quantised: judged by ONNX Runtime against the simulation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import bitwright as bw
from bitwright.export.own_graph import quantize_own_graph
from bitwright.export.own_values import OwnGraphRefusal
from bitwright.export.runtime import list_optimized_operators
from bitwright.graph.simulate import stitch
from bitwright.sources.onnx_in.imported import load_onnx
from two_files import network, nodes, samples, stored

ADDED = ("QuantizeLinear", "DequantizeLinear", "Clip", "Cast", "Sub", "Mul", "Gather", "Expand")


def quantised(path, **options):
    source = load_onnx(path)
    data = options.pop("data", source.example)
    batch = data if len(data) > 1 else data[0]
    result = bw.quantize(
        source.module, [batch], **{"recipe": "fixed", "scheme": "w8a8", "target": "ort-cpu"}
        | options,
    )  # fmt: skip
    written = path.with_name("own.onnx")
    result.export(written)
    return source, result, written


def named(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "net.onnx"
    model = network()
    helper.set_model_props(model, {"author": "somebody", "bitwright": "no"})
    model.doc_string, model.producer_name = "a network", "by hand"
    model.graph.doc_string = "its graph"
    onnx.save(model, path)
    return quantised(path, data=(torch.from_numpy(samples()),))


def test_all_stays_but_quantisers_and_folded_norms(pictures):
    source, _, path = pictures
    before, after = source.imported.original, onnx.load(path)
    onnx.checker.check_model(after, full_check=True)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert list(after.opset_import) == list(before.opset_import)
    assert after.ir_version == before.ir_version
    assert (after.producer_name, after.doc_string) == ("by hand", "a network")
    assert after.graph.name == "two" and after.graph.doc_string == "its graph"
    kept = {entry.key: entry.value for entry in after.metadata_props}
    assert kept["author"] == "somebody" and kept["bitwright"] == "no"
    own = [name for name in named(after) if name in set(named(before))]
    assert own == [name for name in named(before) if name not in ("n1", "n2")]
    new = [node for node in after.graph.node if node.name not in set(named(before))]
    assert {node.op_type for node in new} == {"QuantizeLinear", "DequantizeLinear"}
    ops = {node.name: node.op_type for node in before.graph.node}
    assert all(node.op_type == ops.get(node.name, node.op_type) for node in after.graph.node)


def test_the_file_is_judged_like_an_export(pictures):
    _, result, path = pictures
    found = result.verify(path)
    assert found.passed and set(found.units) == {"first", "left", "right", "last"}
    assert max(found.units.values()) <= 1e-6 and found.agreement == 1


def test_what_was_done_is_said(pictures):
    _, result, path = pictures
    told = []
    result.progress.listeners.append(lambda event: told.append(event.text))
    result.export(path)
    assert any("folded into first: n1" in text for text in told)


def test_integer_kernels_are_those_of_an_export(pictures, tmp_path):
    from bitwright.export.onnx_file import export_onnx

    _, result, path = pictures
    marked = stitch(result.graph, result.assignment, marks=True)
    images = (torch.from_numpy(samples(2)),)
    export_onnx(result.graph, marked, images, tmp_path / "new.onnx", result.target)
    own, new = (list_optimized_operators(p) for p in (path, tmp_path / "new.onnx"))
    kernels = [k for k in (*own, *new) if k.startswith(("QLinear", "QGemm", "MatMulInteger"))]
    assert {k: own.get(k) for k in kernels} == {k: new.get(k) for k in kernels}


@pytest.mark.parametrize(("scheme", "opset"), [("w4a8", 21), ("w2a8", 25)])
def test_the_opset_rises_only_where_a_type_needs_it(pictures, tmp_path, scheme, opset):
    source, _, _ = pictures
    path = tmp_path / "net.onnx"
    onnx.save(source.imported.original, path)
    _, result, own = quantised(path, scheme=scheme, data=(torch.from_numpy(samples()),))
    after = onnx.load(own)
    assert [entry.version for entry in after.opset_import if not entry.domain] == [opset]
    assert {entry.key for entry in after.metadata_props} >= {"author", "bitwright.units"}
    kinds = Counter(t.data_type for t in after.graph.initializer)
    assert kinds[TensorProto.INT4 if opset == 21 else TensorProto.INT2] == 4
    assert result.verify(own).passed


# ---- units of other kinds --------------------------------------------------------------------


def written(tmp_path, given, made, ends, opset=17, batch="n"):
    """A file of these nodes and stored tensors; ends are (name, shape, type) in and out."""
    graph = helper.make_graph(
        made, "g",
        [helper.make_tensor_value_info(n, t, [batch, *s]) for n, s, t in ends[0]],
        [helper.make_tensor_value_info(n, t, [batch, *s]) for n, s, t in ends[1]],
        [numpy_helper.from_array(v, k) for k, v in given.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def draw(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


FLOAT = TensorProto.FLOAT


def test_products_with_and_without_a_bias(tmp_path):
    node = helper.make_node
    path = written(
        tmp_path,
        {"w": draw(6, 8), "b": draw(8), "v": draw(8, 4)},
        [
            node("MatMul", ["x", "w"], ["p"], name="one"),
            node("Add", ["b", "p"], ["q"], name="plus"),
            node("Relu", ["q"], ["r"], name="clamp"),
            node("MatMul", ["r", "v"], ["y"], name="two"),
        ],
        ([("x", [6], FLOAT)], [("y", [4], FLOAT)]),
    )
    _, result, own = quantised(path, data=(torch.randn(32, 6),))
    after = onnx.load(own)
    assert [n for n in named(after) if n in ("one", "plus", "clamp", "two")] == [
        "one", "plus", "clamp", "two",
    ]  # fmt: skip
    assert result.verify(own).passed and [o.name for o in after.graph.output] == ["y"]
    assert {"w", "v"}.isdisjoint(t.name for t in after.graph.initializer)


def test_a_bias_of_the_runs_own(tmp_path):
    """Batch-norm tuning gives a product without a bias one: an Add that the file has not."""
    node = helper.make_node
    path = written(
        tmp_path,
        {"w": draw(5, 6), "v": draw(6, 3)},
        [
            node("MatMul", ["x", "w"], ["p"], name="one"),
            node("Relu", ["p"], ["r"], name="clamp"),
            node("MatMul", ["r", "v"], ["y"], name="two"),
        ],
        ([("x", [5], FLOAT)], [("y", [3], FLOAT)]),
    )
    _, result, own = quantised(
        path, data=(torch.randn(64, 5),), scheme="w2a8", method="quadratic", mode="sequential",
        tune="bias",
    )  # fmt: skip
    assert result.verify(own).passed
    assert [o.name for o in onnx.load(own).graph.output] == ["y"]


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_a_table_of_embeddings(tmp_path, scheme):
    node = helper.make_node
    path = written(
        tmp_path,
        {"table": draw(40, 8), "w": draw(8, 4), "axis": np.array([1], np.int64)},
        [
            node("Gather", ["table", "ids"], ["rows"], name="look up"),
            node("ReduceSum", ["rows", "axis"], ["sum"], name="sum", keepdims=0),
            node("MatMul", ["sum", "w"], ["y"], name="last"),
        ],
        ([("ids", [7], TensorProto.INT64)], [("y", [4], FLOAT)]),
    )
    _, result, own = quantised(path, data=(torch.randint(0, 40, (16, 7)),), scheme=scheme)
    after = onnx.load(own)
    assert result.verify(own).passed and "table" not in {t.name for t in after.graph.initializer}
    ops = {n.name: n.op_type for n in after.graph.node}
    assert ops["look up"] == "Gather" and ops["last"] == "MatMul"


def test_a_weight_in_a_constant_node_and_a_shared_one(tmp_path):
    node = helper.make_node
    w = numpy_helper.from_array(draw(6, 6), "held")
    path = written(
        tmp_path,
        {},
        [
            node("Constant", [], ["w"], name="stored", value=w),
            node("MatMul", ["x", "w"], ["p"], name="one"),
            node("Relu", ["p"], ["r"], name="clamp"),
            node("MatMul", ["r", "w"], ["y"], name="two"),
        ],
        ([("x", [6], FLOAT)], [("y", [6], FLOAT)]),
    )
    source, result, own = quantised(path, data=(torch.randn(16, 6),))
    assert [len(places) for places in source.imported.places.values()] == [2]
    assert result.verify(own).passed
    floats = [t for t in onnx.load(own).graph.initializer if t.data_type == FLOAT and t.dims]
    assert all(int(np.prod(t.dims)) <= 6 for t in floats)


def test_units_that_stay_float_stay_as_they_are(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(network(), path)
    _, result, own = quantised(path, keep="left,last=float", data=(torch.from_numpy(samples()),))
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(own).graph.initializer}
    assert np.array_equal(held["wf"], stored()["wf"])
    assert np.array_equal(held["bf"], stored()["bf"])
    # Its batch norm is folded all the same: other floats under another name.
    assert "w2" not in held and held["left.weight"].shape == stored()["w2"].shape
    assert result.verify(own).passed


class Mixed(nn.Module):
    """Depthwise, transposed and pointwise convolutions, a concatenation, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.d = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.c, self.t = nn.Conv2d(16, 8, 1), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.h = nn.Linear(4 * 8 * 8, 5)

    def forward(self, x):
        y = nn.functional.hardswish(self.n(self.a(x)))
        y = torch.cat([y, nn.functional.relu6(self.d(y))], 1)
        y = self.t(nn.functional.max_pool2d(self.c(y), 2))
        return self.h(torch.sigmoid(y).flatten(1)), y


@pytest.mark.parametrize("scheme", ["w8a8", "w4a4"])
def test_an_export_of_torch(tmp_path, scheme):
    net, images = Mixed().eval(), torch.randn(8, 3, 16, 16)
    free = ({0: torch.export.Dim.AUTO},)
    torch.onnx.export(
        net, (images,), tmp_path / "net.onnx", dynamo=True, verbose=False, dynamic_shapes=free,
        external_data=False, input_names=["image"], output_names=["scores", "map"],
    )  # fmt: skip
    source, result, own = quantised(tmp_path / "net.onnx", scheme=scheme, data=(images,))
    before, after = source.imported.original, onnx.load(own)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert [n for n in named(after) if n in set(named(before))] == [
        n for n in named(before) if n in set(named(after))
    ]
    assert result.verify(own).passed


# ---- what cannot be --------------------------------------------------------------------------


def test_another_graph_than_the_users_is_refused(pictures):
    source, result, _ = pictures
    marked = stitch(result.graph, result.assignment, marks=True)
    original, places = source.imported.original, dict(source.imported.places)
    del places["left"]
    with pytest.raises(OwnGraphRefusal, match="the unit left is not to be found"):
        quantize_own_graph(original, places, result.graph, marked, result.target)
    other = network()
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(draw(7, 3, 3, 3), "w1"))
    with pytest.raises(OwnGraphRefusal, match="changed the shape of first from"):
        quantize_own_graph(other, source.imported.places, result.graph, marked, result.target)


def test_a_run_that_changed_more_is_exported_anew_and_says_so(tmp_path):
    """Weights that the file does not know of: equalised channels stand for themselves."""
    path = tmp_path / "net.onnx"
    model = network()
    onnx.save(model, path)
    source = load_onnx(path)
    images = torch.from_numpy(samples())
    result = bw.quantize(source.module, [images], recipe="fixed", scheme="w8a8", target="ort-cpu")
    told = []
    result.progress.listeners.append(lambda event: told.append(event.text))
    bad = onnx.ModelProto()
    bad.CopyFrom(source.imported.original)
    bad.graph.node[6].op_type = "Sub"  # not what the run computed
    object.__setattr__(result.graph.interface.origin, "original", bad)
    made = result.export(tmp_path / "out.onnx")
    assert any("not net.onnx's own graph but a new one" in text for text in told)
    assert onnx.load(made).producer_name == "bitwright"


def test_nodes_of_the_test_network_have_names():
    assert all(node.name for node in nodes())
