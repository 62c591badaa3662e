"""A file becomes a network: names, batches, parts that ONNX Runtime runs, and what is said."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from small_files import classifier, model_of, numbers, run, save

import bitwright as bw
from bitwright.graph.capture import capture
from bitwright.graph.interface import interface_of
from bitwright.sources.onnx_in.imported import load_onnx


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return load_onnx(classifier(tmp_path_factory.mktemp("onnx") / "net.onnx"))


@pytest.fixture(scope="module")
def graph(source):
    return capture(source.module, source.example)


def test_units_have_the_names_of_nodes(graph):
    assert [unit.name for unit in graph.units] == ["/stem/Conv", "/head/Gemm"]


def test_ends_have_the_names_of_the_file(graph):
    assert [spec.label for spec in graph.inputs] == ["image:0"]
    assert graph.outputs == ("scores.out",)
    assert str(graph.inputs[0]) == "image:0: float32 [N, 3, 8, 8]"


def test_places_say_where_units_are(source):
    places = source.imported.places
    (conv,), (gemm,) = places["/stem/Conv"], places["/head/Gemm"]
    assert (conv.index, conv.input, conv.weight, conv.bias) == (0, "image:0", "w1", "b1")
    assert (gemm.index, gemm.output, gemm.transposed) == (4, "scores.out", False)


def test_values_are_named_as_in_the_file(graph):
    by_call = {call: unit.name for unit in graph.units for call in unit.calls}
    named = {by_call.get(node, node): names for node, names in graph.values.items()}
    assert named["/stem/Conv"] == ("c",) and named["/head/Gemm"] == ("scores.out",)
    assert "image:0" in {name for names in graph.values.values() for name in names}


def test_nodes_without_names_get_some_that_stay(tmp_path):
    source = load_onnx(classifier(tmp_path / "net.onnx", names=False))
    assert set(source.imported.places) == {"Conv_0", "Gemm_0"}


def test_a_batch_of_one_is_freed(tmp_path):
    source = load_onnx(classifier(tmp_path / "net.onnx", batch=1))
    interface = interface_of(source.module)
    assert interface.batch is None
    assert "batches of any size" in interface.notes[0].text
    x = torch.randn(5, 3, 8, 8)
    model = onnx.load(tmp_path / "net.onnx")
    alone = [run(model, {"image:0": x[i : i + 1].numpy()})[0] for i in range(5)]
    np.testing.assert_allclose(source.module(x).numpy(), np.concatenate(alone), atol=1e-5)


def test_reshapes_for_one_sample_take_many(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "s1"], ["a"], name="split"),
        helper.make_node("Transpose", ["a"], ["b"], name="turn", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["b", "s2"], ["c"], name="join"),
        helper.make_node("Concat", ["token", "c"], ["d"], name="token", axis=1),
        helper.make_node("MatMul", ["d", "w"], ["y"], name="layer"),
    ]
    weights = {
        "s1": np.array([1, 4, 2, 3]), "s2": np.array([1, 4, 6]), "token": numbers(1, 1, 6),
        "w": numbers(6, 5),
    }  # fmt: skip
    model = model_of(nodes, {"x": [1, 4, 6]}, weights=weights)
    source = load_onnx(save(model, tmp_path / "net.onnx"))
    x = torch.randn(3, 4, 6)
    alone = [run(model, {"x": x[i : i + 1].numpy()})[0] for i in range(3)]
    np.testing.assert_allclose(source.module(x).numpy(), np.concatenate(alone), atol=1e-5)


def lstm(batch: int | str = "n") -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        helper.make_node("LSTM", ["a", "w", "r"], ["b", "", ""], name="memory", hidden_size=4),
        helper.make_node("Squeeze", ["b", "one"], ["c"], name="squeeze"),
        helper.make_node("MatMul", ["c", "w1"], ["d"], name="last"),
        helper.make_node("Transpose", ["d"], ["y"], name="turn", perm=[1, 0, 2]),
    ]
    weights = {
        "w0": numbers(6, 3), "w": numbers(1, 16, 3), "r": numbers(1, 16, 4),
        "one": np.array([1]), "w1": numbers(4, 5),
    }  # fmt: skip
    turned = helper.make_node("Transpose", ["input"], ["x"], name="time first", perm=[1, 0, 2])
    return model_of([turned, *nodes], {"input": [batch, 7, 6]}, weights=weights)


@pytest.mark.parametrize("batch", ["n", 1])
def test_an_operator_outside_the_table_is_run_as_it_is(tmp_path, batch):
    model = lstm(batch)
    source = load_onnx(save(model, tmp_path / "net.onnx"))
    assert source.imported.opaque == (("memory", "LSTM"),)
    graph = capture(source.module, source.example)
    assert [unit.name for unit in graph.units] == ["first", "last"]
    assert any("'memory'" in note.text for note in graph.notes)
    x = source.example[0]
    alone = [run(model, {"input": x[i : i + 1].numpy()})[0] for i in range(len(x))]
    np.testing.assert_allclose(graph.module(x).numpy(), np.concatenate(alone), atol=1e-5)


def test_what_follows_a_filter_is_one_part(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Sigmoid", ["a"], ["scores"], name="scores"),
        helper.make_node("Greater", ["scores", "half"], ["m"], name="over"),
        helper.make_node("NonZero", ["m"], ["places"], name="found"),
        helper.make_node("Transpose", ["places"], ["y"], name="rows", perm=[1, 0]),
    ]
    weights = {"w": numbers(2, 3, 1, 1), "half": np.float32(0.5)}
    model = model_of(nodes, {"x": ["n", 3, 4, 4]}, ["scores", "y"], weights)
    source = load_onnx(save(model, tmp_path / "net.onnx"))
    graph = capture(source.module, source.example)
    assert [kind for _, kind in source.imported.opaque] == ["NonZero", "Transpose"]
    x = torch.randn(3, 3, 4, 4)
    want = run(model, {"x": x.numpy()})
    for expected, got in zip(want, graph.module(x), strict=True):
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_short_numbers_are_read_as_float32(tmp_path):
    weight = numbers(4, 3).astype(np.float16)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")]
    model = model_of(
        nodes, {"x": ["n", 3]}, weights={"w": weight}, types={"x": TensorProto.FLOAT16}
    )
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight.T.copy(), "w"))
    source = load_onnx(save(model, tmp_path / "net.onnx"))
    assert source.module(torch.ones(2, 3)).dtype == torch.float32
    assert "float16" in interface_of(source.module).notes[0].text


def test_a_known_branch_is_taken(tmp_path):
    def branch(op: str) -> onnx.GraphProto:
        node = helper.make_node(op, ["x", "w"], ["inner"], name=f"in_{op}")
        return helper.make_graph([node], op, [], [onnx.ValueInfoProto(name="inner")])

    node = helper.make_node(
        "If", ["yes"], ["y"], name="choice", then_branch=branch("MatMul"), else_branch=branch("Add")
    )
    model = model_of([node], {"x": ["n", 3]}, weights={"yes": np.array(True), "w": numbers(3, 3)})
    source = load_onnx(save(model, tmp_path / "net.onnx"))
    assert list(source.imported.places) == ["choice.in_MatMul"]
    x = torch.randn(2, 3)
    np.testing.assert_allclose(source.module(x), run(model, {"x": x.numpy()})[0], atol=1e-6)


def test_shared_weights_are_one_unit(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="act"),
        helper.make_node("MatMul", ["b", "w"], ["y"], name="two"),
    ]
    model = model_of(nodes, {"x": ["n", 3]}, weights={"w": numbers(3, 3)})
    source = load_onnx(save(model, tmp_path / "net.onnx"))
    graph = capture(source.module, source.example)
    assert [(u.name, len(u.calls)) for u in graph.units] == [("one", 2)]
    assert [place.node for place in source.imported.places["one"]] == ["one", "two"]


def test_capture_takes_a_path(tmp_path):
    graph = bw.capture(classifier(tmp_path / "net.onnx"))
    assert len(graph.units) == 2


def test_quantize_takes_a_path_and_the_run_is_read_again(tmp_path):
    path = classifier(tmp_path / "net.onnx")
    data = {"image:0": torch.randn(32, 3, 8, 8)}
    result = bw.quantize(path, [data], recipe="fixed", scheme="w8a8", target="ort-cpu")
    assert result.verify().passed
    result.save(tmp_path / "run")
    again = bw.load(tmp_path / "run")
    x = data["image:0"][:4]
    torch.testing.assert_close(again(x), result.model(x))
    written = onnx.load(tmp_path / "run" / "model.onnx")
    assert [v.name for v in written.graph.input] == ["image:0"]
    assert [v.name for v in written.graph.output] == ["scores.out"]


def test_a_part_is_in_the_quantised_file(tmp_path):
    path = save(lstm(), tmp_path / "net.onnx")
    data = [torch.randn(16, 7, 6) for _ in range(2)]
    result = bw.quantize(path, data, recipe="fixed", scheme="w8a8", target="ort-linear")
    result.export(tmp_path / "out.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert "LSTM" in kinds and "QuantizeLinear" in kinds
    assert result.verify().passed
    reasons = {op.op: op.reason for op in result.census.float_ops}
    assert "run by ONNX Runtime" in reasons["LSTM"]


def test_several_inputs_go_by_name(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["a:0", "w"], ["p"], name="first"),
        helper.make_node("Add", ["p", "b:0"], ["y"], name="sum"),
    ]
    model = model_of(nodes, {"a:0": ["n", 3], "b:0": ["n", 4]}, weights={"w": numbers(3, 4)})
    path = save(model, tmp_path / "net.onnx")
    data = [{"b:0": torch.randn(16, 4), "a:0": torch.randn(16, 3)}]
    result = bw.quantize(path, data, recipe="fixed", scheme="w8a8", target="ort-linear")
    assert [spec.label for spec in result.graph.inputs] == ["a:0", "b:0"]
    assert result.verify().passed
