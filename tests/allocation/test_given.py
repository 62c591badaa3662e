"""Bits that somebody gives: read exactly, told exactly where they cannot be."""

from __future__ import annotations

import json

import pytest
from allocation_cases import row

from bitwright.allocation.allocate import allocate
from bitwright.allocation.given import of_units, parse_given, write_given
from bitwright.allocation.record import write_allocation
from bitwright.allocation.table import make_table
from bitwright.errors import RecipeError
from bitwright.graph.choice import FLOAT, Choice
from bitwright.pipeline.check import make_recipe
from bitwright.recipe.values import Recipe, to_toml

BITS = {"a": Choice(4, 8), "b": Choice(4, 8, 2), "c": Choice(4, 8, 1, 64), "d": FLOAT}


def test_all_ways_of_giving_are_one(tmp_path):
    table = make_table(row(unit, choice, None, 6400, 10) for unit, choice in BITS.items())
    write_allocation(tmp_path / "a.json", allocate(table, "size<=1"))
    (tmp_path / "hand.json").write_text(json.dumps({u: str(c) for u, c in BITS.items()}))
    ways = (
        tmp_path / "a.json", str(tmp_path / "hand.json"), BITS,
        {u: c.to_json() for u, c in BITS.items()}, write_given(BITS),
    )  # fmt: skip
    assert {write_given(way) for way in ways} == {write_given(BITS)}
    assert parse_given(write_given(BITS)) == BITS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is damaged: Expecting"),
        ("[1]", "holds no object"),
        ('{"choices": {}}', "nothing held its budgets"),
        ('{"a": "w9a8"}', r"unit 'a' asks for 9 weight bits"),
        ('{"a": 3}', "'3' are no bits"),
        ('{"a": {"w_bits": 3.5, "a_bits": 8}}', r"w_bits is 3\.5; it must be"),
        ('{"a": {"w_bits": 4}}', "a_bits is None"),
        ('{"a": {"w_bits": 9, "a_bits": 8}}', "w_bits is 9"),
    ],
)
def test_files_that_cannot_be(tmp_path, text, told):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RecipeError, match=told):
        write_given(tmp_path / "a.json")


def test_files_that_are_not_there_or_no_text(tmp_path):
    with pytest.raises(RecipeError, match=r"cannot be read.*bitwright allocate"):
        write_given(str(tmp_path / "none.json"))
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="is not UTF-8"):
        write_given(tmp_path / "a.json")
    for odd in ("a\0b", "a" * 9999):
        with pytest.raises(RecipeError, match=r"cannot be read.*bitwright allocate"):
            write_given(odd)


def test_units_are_exactly_those_of_the_network():
    assert list(of_units(["b", "a"], {"a": FLOAT, "b": FLOAT})) == ["b", "a"]
    with pytest.raises(RecipeError, match=r"unknown unit 'layer1\.con'.*Did you mean 'layer1"):
        of_units(["layer1.conv"], {"layer1.con": FLOAT})
    with pytest.raises(RecipeError, match="says nothing of unit 'b'"):
        of_units(["a", "b"], {"a": FLOAT})


def test_a_recipe_holds_the_bits_themselves(tmp_path):
    (tmp_path / "a.json").write_text('{"a": "w4a8"}')
    (tmp_path / "r.toml").write_text('menu = "w8a8,w4a8"\nbudget = "size<=0.5"\nkeep = "a=w8a8"\n')
    made = make_recipe(str(tmp_path / "r.toml"), {"allocation": str(tmp_path / "a.json")})
    assert (made.allocation, made.menu, made.budget, made.keep) == ('{"a": "w4a8"}', "", "", "")
    (tmp_path / "a.json").unlink()
    (tmp_path / "again.toml").write_text(to_toml(made))
    assert make_recipe(str(tmp_path / "again.toml"), {}) == made
    kept = make_recipe(str(tmp_path / "again.toml"), {"keep": "a=w8a8"})
    assert (kept.keep, kept.allocation) == ("a=w8a8", made.allocation)
    with pytest.raises(RecipeError, match="Leave out the one or the others"):
        make_recipe("fixed", {"allocation": BITS, "menu": "w8a8", "budget": "size<=1"})
    assert Recipe().allocation == ""
