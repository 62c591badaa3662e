"""Files that are no networks: one sentence each, nothing run, nothing read outside the folder."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_files import classifier, model_of, numbers, save

from bitwright.errors import BitwrightError, ModelError
from bitwright.sources.models import load_model
from bitwright.sources.onnx_in.imported import load_onnx


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.fixture
def path(tmp_path):
    return classifier(tmp_path / "net.onnx")


def change(path: Path, edit) -> Path:
    model = onnx.load(path)
    edit(model)
    return save(model, path)


def test_an_absent_file(tmp_path):
    assert "no file" in refusal(tmp_path / "absent.onnx")
    (tmp_path / "folder.onnx").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.onnx")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_file(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refusal(path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no", b"\x89PNG\r\n\x1a\n", b"import os\n" * 9])
def test_another_kind_of_file(path, content):
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("opset", [3, 99])
def test_an_opset_that_is_not_known(path, opset):
    change(path, lambda m: setattr(m.opset_import[0], "version", opset))
    assert f"is of opset {opset}; opsets 7 to 26 are read" in refusal(path)


def test_operators_in_a_circle(path):
    change(path, lambda m: m.graph.node[1].input.__setitem__(0, "f"))
    assert "read each other in a circle" in refusal(path)


def test_a_value_that_nobody_makes(path):
    change(path, lambda m: m.graph.node[1].input.__setitem__(0, "nothing"))
    assert "reads 'nothing', which nothing in the file makes" in refusal(path)


def test_a_value_made_twice(path):
    change(path, lambda m: m.graph.node[1].output.__setitem__(0, "c"))
    assert "'c' is made twice" in refusal(path)


def test_an_input_without_a_shape(path):
    change(path, lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"))
    assert "'image:0' has no shape" in refusal(path)


def test_an_input_that_is_one_number(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "rate"], ["y"], name="scale")]
    model = model_of(nodes, {"x": ["n", 3], "rate": []})
    assert "'rate' is a single number" in refusal(save(model, tmp_path / "net.onnx"))


def test_an_operator_that_nobody_knows(path):
    def edit(model):
        model.graph.node[1].op_type, model.graph.node[1].domain = "Secret", "com.example"
        model.opset_import.append(helper.make_opsetid("com.example", 1))

    text = refusal(change(path, edit))
    assert "'/stem/Relu' (Secret of the domain 'com.example')" in text


def test_weights_that_are_no_numbers(path):
    def edit(model):
        bad = numbers(8, 3, 3, 3)
        bad[0, 0, 0, 0] = np.nan
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(bad, "w1"))

    text = refusal(change(path, edit))
    assert "'/stem/Conv.weight'" in text and "NaN" in text


def test_a_weight_whose_shape_is_not_its_own(path):
    change(path, lambda m: m.graph.initializer[0].dims.__setitem__(0, 9))
    assert "weight 'w1'" in refusal(path)


def test_a_network_that_draws_at_random(tmp_path):
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["r"], name="noise"),
        helper.make_node("Add", ["x", "r"], ["y"], name="sum"),
    ]
    text = refusal(save(model_of(nodes, {"x": ["n", 3]}), tmp_path / "net.onnx"))
    assert "'noise'" in text and "draws at random" in text


def test_a_quantised_file(tmp_path):
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], name="q")]
    weights = {"s": np.float32(1), "z": np.uint8(0)}
    model = model_of(nodes, {"x": ["n", 3]}, weights=weights)
    assert "is quantised already" in refusal(save(model, tmp_path / "net.onnx"))


# ---- weights in other files ------------------------------------------------------------------


def outside(path: Path, location: str, offset: str = "0", length: str | None = None) -> Path:
    """The file with its first weight in another file."""

    def edit(model):
        tensor = model.graph.initializer[0]
        content = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": location, "offset": offset, "length": length or str(len(content))}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return change(path, edit)


def test_weights_beside_the_file_are_read(path):
    content = onnx.load(path).graph.initializer[0].raw_data
    (path.parent / "weights.bin").write_bytes(b"1234" + content)
    source = load_onnx(outside(path, "weights.bin", "4"))
    held = source.module.get_parameter("/stem/Conv.weight").numpy()
    np.testing.assert_array_equal(held, numbers(8, 3, 3, 3))


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin", "link.bin", "", "\0"]
)
def test_weights_elsewhere_are_not_read(path, location):
    folder = path.parent / "model"
    folder.mkdir()
    own = folder / "net.onnx"
    path.rename(own)
    (path.parent / "secret.bin").write_bytes(bytes(4096))
    (folder / "link.bin").symlink_to(path.parent / "secret.bin")
    assert "not in the file's own folder" in refusal(outside(own, location))


@pytest.mark.parametrize(
    ("offset", "length"), [("-8", None), ("99999", None), ("x", None), ("0", "8"), ("9" * 40, None)]
)
def test_places_of_weights_that_are_not_there(path, offset, length):
    (path.parent / "weights.bin").write_bytes(bytes(864))
    refusal(outside(path, "weights.bin", offset, length))


def test_weights_that_are_missing(path):
    assert "'weights.bin', which is not there" in refusal(outside(path, "weights.bin"))


# ---- names -----------------------------------------------------------------------------------


def test_names_never_become_code(path):
    evil = '");import os;os.system("echo")#'

    def edit(model):
        model.graph.node[0].name = evil
        model.graph.input[0].name = evil
        model.graph.node[0].input[0] = evil

    source = load_onnx(change(path, edit))
    assert '"' not in "".join(
        source.imported.places
    ) and "os.system" not in source.module.code.replace("_;import os;os.system(_echo_)#", "")


# ---- mutants ---------------------------------------------------------------------------------


def mutate(content: bytes, seed: int) -> bytes:
    """A few bytes of a file changed, cut out, doubled or put elsewhere."""
    rng = random.Random(seed)
    made = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(made))
        kind = rng.randrange(5)
        if kind == 0:
            made[at] = rng.randrange(256)
        elif kind == 1:
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del made[at : at + rng.randint(1, 8)]
        elif kind == 3:
            made[at:at] = made[at : at + rng.randint(1, 16)]
        else:
            made[at:at] = rng.randbytes(rng.randint(1, 4))
    return bytes(made)


def try_mutants(tmp_path: Path, seeds: range) -> tuple[int, int]:
    """How many mutants are refused, and how many are networks still."""
    content = classifier(tmp_path / "net.onnx").read_bytes()
    refused = taken = 0
    path = tmp_path / "mutant.onnx"
    for seed in seeds:
        path.write_bytes(mutate(content, seed))
        try:
            load_model(str(path))
            taken += 1
        except BitwrightError as error:
            assert "\n" not in str(error), seed
            refused += 1
    return refused, taken


def test_mutated_files_end_in_a_sentence(tmp_path):
    refused, taken = try_mutants(tmp_path, range(300))
    assert refused > 20 and taken > 5


@pytest.mark.slow
def test_ten_thousand_mutated_files(tmp_path):
    refused, taken = try_mutants(tmp_path, range(300, 10_300))
    assert refused > 1000 and taken > 300
