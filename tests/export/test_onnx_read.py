"""A file that somebody changed: data outside its folder are not read, and a sentence says so."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bitwright as bw
from bitwright.errors import FileError, RunDirectoryError
from bitwright.export.onnx_read import read_onnx
from networks import pictures, small_network

IMAGES = pictures(8, size=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    result = bw.quantize(small_network(width=8), [IMAGES], recipe="fixed")
    return result, result.export(tmp_path_factory.mktemp("read") / "m.onnx")


def moved(path, folder, location):
    """A copy of the file whose first unit's weights lie at a place beside it."""
    model = onnx.load(str(path))
    tensor = next(t for t in model.graph.initializer if t.name == "stem.weight.q")
    content = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(location))
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="length", value=str(len(content)))
    folder.mkdir(exist_ok=True)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx", content


@pytest.mark.parametrize("place", ["../secret", "absolute", "link", "", "a/../../secret"])
def test_data_outside_the_folder_are_not_read(made, tmp_path, place):
    result, path = made
    secret = tmp_path / "secret"
    location = {"absolute": str(secret), "link": "inside"}.get(place, place)
    file, content = moved(path, tmp_path / "run", location)
    secret.write_bytes(content)
    if place == "link":
        (tmp_path / "run" / "inside").symlink_to(secret)
    with pytest.raises(RunDirectoryError, match=r"'stem.weight.q' in .*not in its own folder.*not"):
        result.verify(file)


def test_data_that_are_not_there(made, tmp_path):
    result, path = made
    file, content = moved(path, tmp_path / "run", "weights.bin")
    with pytest.raises(RunDirectoryError, match=r"another file that cannot be read.*bitwright exp"):
        result.verify(file)
    (file.parent / "weights.bin").write_bytes(content)
    assert result.verify(file)["passed"]


def test_a_tensor_inside_an_operator_is_seen_too(tmp_path):
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "held")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../passwords")
    node = onnx.helper.make_node("Constant", [], ["y"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=tensor)
    graph = onnx.helper.make_graph(
        [node], "g", [], [onnx.helper.make_tensor_value_info("y", 1, [4])]
    )
    (tmp_path / "m.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(RunDirectoryError, match="passwords"):
        read_onnx(tmp_path / "m.onnx")


def test_a_file_that_cannot_be_forced_to_the_disk_is_not_put_in_place(made, tmp_path, monkeypatch):
    """Renamed only after fsync: a crash of the machine never leaves an empty model.onnx."""
    result, _ = made
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FileError, match="No space"):
            result.export(path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
