"""The verification itself is verified: it must fail, and name the place, when a file is wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bitwright as bw
from bitwright.errors import RunDirectoryError
from networks import pictures, small_network

IMAGES = pictures(32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    result = bw.quantize(small_network(), [IMAGES], recipe="fixed", scheme="w8a8")
    return result, result.export(tmp_path_factory.mktemp("verify") / "m.onnx")


@pytest.fixture
def damaged(made, tmp_path):
    """Changes one initialiser of a copy of the file; gives the new file's verification."""

    def change(name, edit):
        result, path = made
        model = onnx.load(str(path))
        (tensor,) = [t for t in model.graph.initializer if t.name == name]
        array = numpy_helper.to_array(tensor).copy()
        edit(array)
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        onnx.save(model, str(tmp_path / "m.onnx"))
        return result.verify(tmp_path / "m.onnx")

    return change


def test_an_undamaged_file_passes(made, damaged):
    found = damaged("stem.weight.q", lambda array: None)
    assert found["passed"] and found["samples"] == 32 and found["agreement"] == 1.0
    assert {"max_difference", "tolerance", "units", "first_failure", "optimized"} <= set(found)


@pytest.mark.parametrize("unit", ["stem", "depthwise", "project", "grouped", "head"])
def test_one_changed_weight_fails_and_names_the_unit(damaged, unit):
    def edit(array):
        # A weight of the first output moved by eight steps of 255; of an input that is not dead.
        place = (0, 4 % array.shape[1], *(0 for _ in array.shape[2:]))
        array[place] = int(array[place]) + (8 if array[place] < 128 else -8)

    found = damaged(f"{unit}.weight.q", edit)
    assert not found["passed"] and found["first_failure"] == unit
    wrong = {name for name, value in found["units"].items() if value > found["tolerance"]}
    assert wrong == {unit}


def test_one_step_in_one_weight_is_enough(damaged):
    def edit(array):
        array.flat[0] = int(array.flat[0]) + (1 if array.flat[0] < 255 else -1)

    found = damaged("head.weight.q", edit)
    assert not found["passed"] and found["first_failure"] == "head"


def test_a_changed_scale_fails(damaged):
    def edit(array):
        array *= np.float32(1.001)

    found = damaged("grouped.weight.scale", edit)
    assert not found["passed"] and found["first_failure"] == "grouped"


def test_another_networks_file_fails(made, tmp_path):
    result, _ = made
    other = bw.quantize(small_network(1), [IMAGES], recipe="fixed", scheme="w8a8")
    found = result.verify(other.export(tmp_path / "m.onnx"))
    assert not found["passed"] and found["first_failure"] == "stem"
    assert found["agreement"] < 0.9


def test_files_that_cannot_be_read(made, tmp_path):
    result, path = made
    with pytest.raises(RunDirectoryError, match=r"does not exist.*bitwright export"):
        result.verify(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(RunDirectoryError, match=r"is damaged.*bitwright export"):
        result.verify(tmp_path / "text.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RunDirectoryError, match=r"is damaged.*bitwright export"):
        result.verify(tmp_path / "cut.onnx")


def test_verification_alone_makes_its_own_file(made):
    result, _ = made
    assert result.verify()["passed"]
