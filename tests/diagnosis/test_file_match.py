"""Tensors of two files that are the same one: forms of one network by ONNX Runtime's quantiser."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from bitwright.diagnosis.file_graph import FileGraph, stored_array
from bitwright.diagnosis.file_match import match_files
from bitwright.errors import InputError
from two_files import network, nodes, stored, write_all


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = write_all(tmp_path_factory.mktemp("two"))
    return {path.stem: onnx.load(path) for path in folder.glob("*.onnx")}


def pairs(a: onnx.ModelProto, b: onnx.ModelProto) -> dict[str, str]:
    return {one.name: one.other for one in match_files(FileGraph(a), FileGraph(b)).tensors}


def test_a_file_is_itself(files):
    model = files["float"]
    found = pairs(model, model)
    linear = {"first.out", "left.out"}  # what a batch norm follows counts with it: see below
    assert found == {n: n for n in ("image", *(o for x in nodes() for o in x.output))}
    assert linear <= set(found)


def test_folded_norms_and_dropped_clamps_are_seen_through(files):
    found = pairs(files["float"], files["qdq"])
    assert found["r1"] == "r1_DequantizeLinear_Output" or found["r1"] == "r1"
    assert found["scores"] == "scores_QuantizeLinear_Input"
    assert {"n2.out", "right.out", "sum", "r2", "pool"} <= set(found)
    assert "first.out" not in found and "left.out" not in found  # inside the folded operators


@pytest.mark.parametrize("form", ["qdq", "integers", "dynamic", "prepared"])
@pytest.mark.parametrize("turned", [False, True])
def test_nothing_of_the_other_form_is_left_alone(files, form, turned):
    both = (files["float"], files[form])
    found = match_files(*(FileGraph(m) for m in (both[::-1] if turned else both)))
    assert found.alone == ((), ())
    assert found.outputs == (("scores", "scores"),)


def renamed(model: onnx.ModelProto, order: list[int]) -> onnx.ModelProto:
    """Other names for every inner value and node, and the operators in another order."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = {"image", "scores"}
    nodes = [made.graph.node[i] for i in order]
    for index, node in enumerate(nodes):
        node.name = f"op{index}"
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                if name not in kept:
                    field[i] = f"v.{name[::-1]}"
    for tensor in made.graph.initializer:
        tensor.name = f"v.{tensor.name[::-1]}"
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def test_names_and_order_do_not_matter():
    model = network()
    other = renamed(model, [0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 10])
    found = pairs(model, other)
    # By their weights: "right" now comes first.
    assert found["left.out"] == "v.tuo.tfel" and found["right.out"] == "v.tuo.thgir"
    assert all(other == f"v.{one[::-1]}" for one, other in found.items() if one not in
               ("image", "scores"))  # fmt: skip


def test_equal_names_of_other_values_do_not_mislead():
    """Numbers as names, as old exporters give them, shifted by one."""
    model = network()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    shifted = {"r1": "r2", "r2": "r1", "left.out": "right.out", "right.out": "left.out"}
    for node in other.graph.node:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = shifted.get(name, name)
    found = pairs(model, other)
    assert found["r1"] == "r2" and found["r2"] == "r1"


def test_gemm_is_matmul_and_add():
    model, other = network(), network()
    gemm = other.graph.node[-1]
    apart = [
        helper.make_node("MatMul", ["flat", "wf"], ["product"], name="product"),
        helper.make_node("Add", ["product", "bf"], ["scores"], name="bias"),
    ]
    other.graph.node.remove(gemm)
    other.graph.node.extend(apart)
    found = match_files(FileGraph(model), FileGraph(other))
    assert found.alone == ((), ())
    assert {one.name: one.other for one in found.tensors}["scores"] == "scores"


def test_what_is_of_another_network_is_said(files):
    other = network()
    other.graph.input[0].name = "x"
    other.graph.node[0].input[0] = "x"
    assert match_files(FileGraph(files["float"]), FileGraph(other)).inputs == (("image", "x"),)
    other.graph.input.append(helper.make_tensor_value_info("y", 1, [1]))
    with pytest.raises(InputError, match="no input in common: image and x, y"):
        match_files(FileGraph(files["float"]), FileGraph(other))


def test_stored_weights_are_those_that_onnx_dequantises(files):
    graph = FileGraph(files["qdq"])
    conv = next(step for step in graph.steps if step.node.name == "right")
    found = stored_array(graph, conv.operands[1])
    assert np.abs(found - stored()["w3"]).max() < np.abs(stored()["w3"]).max() / 127
