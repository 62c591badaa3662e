"""An allocation is taken back: from the command and from Python, without solving again."""

from __future__ import annotations

import json

import pytest
import torch

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.graph.choice import Choice
from networks import TESTS, pictures, small_network

MENU = "w8a8,w4a8"


def batches():
    return [pictures(16, seed=1)[i : i + 8] for i in range(0, 16, 8)]


def made(store=None, **options):
    options = {"mode": "parallel", "method": "quadratic", "batch": 8, **options}
    return bw.quantize(
        small_network(width=64), batches(), store=store, **{"recipe": "fixed", **options}
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return made(store, menu=MENU, budget="size<=0.2"), store


def entries(store):
    return {path.relative_to(store) for path in store.rglob("*") if path.is_file()}


def weights(result):
    return {name: found.q for name, found in result.assignment.weights.items()}


def test_other_bits_come_from_the_store(searched):
    result, store = searched
    before = entries(store)
    flipped = {
        unit: Choice(12 - bits["w_bits"], 8) for unit, bits in result.allocation["choices"].items()
    }
    other = result.with_bits(flipped)
    assert {u: Choice(**b) for u, b in other.allocation["choices"].items()} == flipped
    assert entries(store) == before
    same = other.with_bits(result.allocation["choices"])
    assert all(torch.equal(q, weights(same)[name]) for name, q in weights(result).items())
    assert entries(store) == before


def test_one_unit_by_hand_leaves_the_others(searched):
    result, store = searched
    bits = result.allocation["choices"]
    other = result.with_bits({"head": "w3a8"})
    assert other.allocation["choices"] == {**bits, "head": Choice(3, 8).to_json()}
    assert len(other.recipe.menu) == 0 and entries(store)
    alone = made(allocation=bits, keep="head=w3a8")
    assert all(torch.equal(q, weights(alone)[name]) for name, q in weights(other).items())


def test_what_the_network_or_the_target_has_not_is_told(searched):
    result, _ = searched
    with pytest.raises(RecipeError, match=r"unknown unit 'hed'.*Did you mean 'head'"):
        result.with_bits({"hed": "w4a8"})
    with pytest.raises(RecipeError, match="says nothing of unit 'depthwise'"):
        made(allocation={"stem": "w4a8"})
    with pytest.raises(RecipeError, match=r"gives unit 'stem' w.a8, which target 'weights-only'"):
        made(allocation=result.allocation["choices"], target="weights-only")


SOURCE = """
import sys
sys.path.insert(0, {tests!r})
from networks import pictures, small_network

def network():
    return small_network(width=64)

def data():
    return [pictures(16, seed=1)[i : i + 8] for i in range(0, 16, 8)]
"""


def test_the_command_takes_back_what_allocate_wrote(bitwright, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE.format(tests=str(TESTS)))
    words = ("--mode", "parallel", "--method", "quadratic", "--store", "store", "--quiet")
    first = bitwright(
        "quantize", "mine.py:network", "--data", "mine.py:data", "--menu", MENU, "--budget",
        "size<=0.28", "--out", "run", *words,
    )  # fmt: skip
    assert first.code == 0, first.err
    assert bitwright("allocate", "run", "--budget", "size<=0.2", "--out", "other.json").code == 0
    chosen = json.loads((tmp_path / "other.json").read_text())["choices"]
    assert chosen != json.loads((tmp_path / "run/allocation.json").read_text())["choices"]
    before = entries(tmp_path / "store")
    again = ("--recipe", "run/recipe.toml", "--allocation", "other.json", "--store", "store")
    done = bitwright("quantize", *again, "--out", "second", "--quiet")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "second/allocation.json").read_text())["choices"] == chosen
    assert entries(tmp_path / "store") == before
    (tmp_path / "other.json").write_text('{"stem": "w4a8", "hed": "w4a8"}')
    wrong = bitwright("quantize", *again, "--out", "third", "--quiet")
    assert wrong.code == 2 and "unknown unit 'hed'" in wrong.err
