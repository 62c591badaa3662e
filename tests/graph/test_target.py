"""Targets: the built-in ones, the user's own from TOML, and every error in one."""

from __future__ import annotations

import pytest

from bitwright.errors import RecipeError
from bitwright.graph.target import BUILT_IN, Target, load_target, parse_target
from bitwright.numerics.grid import Grid


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_targets(name):
    target = load_target(name)
    assert target.name == name and target.description
    assert set(target.weight_bits) <= {2, 3, 4, 5, 6, 7, 8, 16}


def test_what_the_built_in_targets_promise():
    paper, ort, weights = (load_target(n) for n in ("paper", "ort-cpu", "weights-only"))
    assert paper.inputs and not paper.weight_symmetric and not paper.chain and paper.bias_bits == 32
    assert ort.weight_symmetric and ort.weight_signed and ort.outputs and ort.bias_bits == 32
    assert "add" in ort.chain and not ort.input_signed
    assert not weights.inputs
    linear = load_target("ort-linear")
    assert linear.weight_symmetric and linear.weight_signed and linear.inputs
    assert not linear.outputs and not linear.chain and linear.bias_bits == 32
    assert ort.weight_grid(4) == Grid(4, True) and ort.input_grid(8) == Grid(8, False)


WHOLE = """
name = "mine"
description = "all keys"
weight_bits = [4, 8]
input_bits = [8, 16]
weight_symmetric = true
weight_signed = true
weight_per_channel = false
inputs = true
input_symmetric = true
input_signed = true
chain = ["add", "mul"]
outputs = true
bias_bits = 32
"""


def test_a_users_target(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE)
    target = load_target(str(path))
    assert target == Target(
        "mine", "all keys", (4, 8), True, True, False, True, (8, 16), True, True, ("add", "mul"),
        True, 32,
    )  # fmt: skip
    assert parse_target('name = "least"', "here") == Target("least")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "here is not valid TOML"),
        ("name = 'a'\nname = 'b'", "here is not valid TOML"),
        ("description = 'x'", "lacks the key 'name'"),
        ("name = 'x'\nweight_bit = [4]", "unknown key 'weight_bit' in here. Did you mean 'weight"),
        ("name = 3", "key 'name' has the value 3; it must be a str"),
        ("name = 'x'\ninputs = 1", "key 'inputs' has the value 1; it must be a bool"),
        ("name = 'x'\ninputs = 'yes'", "it must be a bool"),
        ("name = 'x'\nweight_bits = 4", "it must be a list"),
        ("name = 'x'\nweight_bits = [4, 9]", "weight_bits holds 9. Bits are 2 to 8, or 16"),
        ("name = 'x'\ninput_bits = ['8']", "input_bits holds '8'"),
        ("name = 'x'\nchain = ['ad']", "unknown operator 'ad' in here. Did you mean 'add'"),
        ("name = 'x'\nchain = 'add'", "it must be a list"),
        ("name = 'x'\nbias_bits = 16", "bias_bits is 16. It is 0 .float. or 32"),
        ("name = 'x'\nbias_bits = true", "it must be a int"),
    ],
)
def test_wrong_targets(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_target(text, "here")


def test_targets_that_are_not_there(tmp_path):
    with pytest.raises(RecipeError, match=r"unknown target 'ort-cp'.*mean 'ort-cpu'.*X.toml"):
        load_target("ort-cp")
    with pytest.raises(RecipeError, match=r"target file .*none.toml' does not exist"):
        load_target(str(tmp_path / "none.toml"))


def test_inputs_in_parts():
    whole = parse_target('name = "x"\ninput_part_bits = 4', "here")
    assert whole.input_bits == (2, 3, 4, 8, 16)
    for text, message in [
        ("input_part_bits = 3", "asks for parts of 3 bits. Parts are of 2, 4 or 8"),
        ("input_part_bits = 4\ninput_signed = true", "asks for parts of signed inputs"),
        ("input_part_bits = 4\ninput_bits = [4, 6]", "inputs of 6 bits do not go into parts of 4"),
        ('points = "series"', "unknown way to write points 'series'"),
    ]:
        with pytest.raises(RecipeError, match=message):
            parse_target('name = "x"\n' + text, "here")
